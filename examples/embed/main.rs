//! Turns a sentence into hidden states: text → byte-pair ids → wte[ids] + wpe[positions].
//!
//! cargo run --release --example embed
//! cargo run --release --example embed -- "Hello, do you like tea?" --weights path/to/gpt2 --dtype bf16
//! cargo run --release --example embed -- --quantized q8_0
//! cargo run --release --features hub --example embed -- --hub openai-community/gpt2
//! cargo run --release --features hub --example embed -- --hub openai-community/gpt2 --remote
//!
//! Prints the tokens, their ids and positions, the first elements of each vector, the shape, the device and the times.

#[path = "../cli/mod.rs"]
mod cli;
#[path = "../hub/mod.rs"]
mod hub;
#[path = "../input/mod.rs"]
mod input;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use candle_gpt_input::checkpoint::{Checkpoint, LoadReport, save_tensors};
use candle_gpt_input::error::Shown;
use candle_gpt_input::input_layer::{OpenOptions, TableStorage};
use candle_gpt_input::tokenizer::Tokenizer;
use candle_gpt_input::{DeviceSpec, Error, GptInputLayer, Positions};
use clap::Parser;
use input::Batch;

/// The weights when none are given.
const DEFAULT_WEIGHTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/tiny-gpt2");

/// Embedded when no text is given.
const DEFAULT_TEXT: &str = "Every effort moves you, one token at a time.";

/// Turns text, or token ids, into the tensor that enters a GPT's first block.
#[derive(Parser)]
struct Args {
    /// What to embed; several texts make a batch, padded on the left
    #[arg(value_name = "TEXT", conflicts_with = "ids")]
    texts: Vec<String>,
    /// A file to embed as one text
    #[arg(long = "text-file", value_name = "F", conflicts_with = "ids")]
    text_files: Vec<PathBuf>,
    /// Token ids instead of text, such as 15496,11,995
    #[arg(long, value_name = "IDS", value_delimiter = ',', allow_hyphen_values = true)]
    ids: Vec<i64>,
    /// A GPT-2 checkpoint of any format: a file, a folder, or an index of shards
    #[arg(long, value_name = "PATH", group = "model", default_value = DEFAULT_WEIGHTS)]
    weights: PathBuf,
    #[command(flatten)]
    source: hub::Source,
    #[command(flatten)]
    choose: cli::Choose,
    /// Leave the tables in their file: only the rows needed are read
    #[arg(long)]
    mapped: bool,
    /// Keep the token table in quantized blocks, the file's own if it has them: q8_0, q5_1, q5_0, q4_1, q4_0, or q6k to
    /// q2k if 256 divides the width
    #[arg(long, value_name = "TYPE", value_parser = parse_block_type, conflicts_with_all = ["mapped", "remote"])]
    quantized: Option<GgmlDType>,
    /// Leave the tables on the hub: only the rows needed are fetched, and cached
    #[arg(long, requires = "hub", conflicts_with = "mapped")]
    remote: bool,
    /// A byte-level BPE tokenizer.json, or a folder of tokenizer files [default: the model's own, else GPT-2's]
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// auto, cpu, cuda, cuda:N, metal or metal:N
    #[arg(long, default_value = "auto")]
    device: DeviceSpec,
    /// The dtype to compute in: f32, f16 or bf16
    #[arg(long, default_value = "f32", value_parser = cli::parse_dtype)]
    dtype: DType,
    /// Position of the first token, as with a key/value cache
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = cli::count::<usize>)]
    start_pos: usize,
    /// Write input_ids, attention_mask (if padded) and hidden_states to this file
    #[arg(long, value_name = "F.safetensors")]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    cli::exit(run(cli::args(), &mut cli::Output::default()))
}

fn run(args: Args, out: &mut impl Write) -> Result<()> {
    let (device, chosen) = args.device.resolve_with_report()?;
    let options = args.choose.options();
    // The names of tables under other names are not those that the index is searched for.
    let only_input_tables = options.wte.is_none() && options.wpe.is_none() && options.prefix.is_none();
    let remote = args.remote.then(|| hub::open(&args.source, only_input_tables, options.clone())).transpose()?;
    let weights = match &remote {
        Some(_) => args.weights.clone(),
        None => args.source.folder(&args.weights, only_input_tables, args.ids.is_empty())?,
    };
    let start = Instant::now();
    let own_before = own_memory();
    let opened;
    let checkpoint = match &remote {
        Some(remote) => &remote.checkpoint,
        None => {
            opened = Checkpoint::open_with(&weights, &options)?;
            &opened
        }
    };
    let opening = start.elapsed();
    let (rows, tokenizer, tokenizing) = token_ids(&args, &weights, checkpoint)?;
    let start = Instant::now();
    let (layer, report) = match args.quantized {
        Some(block_type) => quantized(checkpoint, block_type, args.dtype, &device, out)?,
        None => {
            let storage = if args.mapped || args.remote { TableStorage::Mapped } else { TableStorage::Dense };
            GptInputLayer::open(checkpoint, &OpenOptions::new(args.dtype, &device).with_storage(storage))?
        }
    };
    let loading = opening + start.elapsed();
    writeln!(out, "{report}\ndevice {chosen}")?;

    let batch = Batch::left_padded(&rows, layer.config().vocab_size)?;
    let (_, n_tokens) = batch.input_ids.dims2()?;
    let (end, n_positions) = (args.start_pos.saturating_add(n_tokens), layer.config().n_positions);
    if end > n_positions {
        return Err(Error::SequenceTooLong { end, n_positions }.into());
    }
    let start = Instant::now();
    let positions =
        if batch.is_padded() { left_padded(&batch.attention_mask, args.start_pos)? } else { args.start_pos.into() };
    let hidden_states = layer.forward_at(&batch.input_ids, positions)?;
    device.synchronize()?;
    let forward = start.elapsed();

    print_vectors(out, args.start_pos, &rows, &batch.n_padding, tokenizer.as_ref(), &hidden_states)?;
    writeln!(out, "hidden_states {:?} {:?}", hidden_states.dims(), hidden_states.dtype())?;
    writeln!(out, "times: ids {}, weights {}, forward {}", ms(tokenizing), ms(loading), ms(forward))?;
    if let (true, Some(before), Some(after)) = (args.mapped, own_before, own_memory()) {
        writeln!(
            out,
            "memory of its own (RssAnon): {before} kB before the weights, {after} kB after the forward pass"
        )?;
    }
    if let Some(remote) = &remote {
        writeln!(out, "{}", (remote.fetched)())?;
    }
    if let Some(path) = &args.output {
        let input_ids = batch.input_ids.to_dtype(DType::U32)?;
        let mut tensors = vec![("input_ids", &input_ids), ("hidden_states", &hidden_states)];
        if batch.is_padded() {
            tensors.push(("attention_mask", &batch.attention_mask));
        }
        save_tensors(path, tensors, [])?;
        writeln!(out, "wrote {}", Shown::path(path))?;
    }
    Ok(())
}

/// Opens the layer with a quantized token table: the file's own blocks, or ones made from its elements.
fn quantized(
    checkpoint: &Checkpoint,
    block_type: GgmlDType,
    dtype: DType,
    device: &Device,
    out: &mut impl Write,
) -> Result<(GptInputLayer, LoadReport)> {
    let options = OpenOptions::new(dtype, device);
    let as_stored = options.clone().with_storage(TableStorage::Quantized);
    if let Ok((layer, report)) = GptInputLayer::open(checkpoint, &as_stored)
        && layer.wte().block_type() == Some(block_type)
    {
        return Ok((layer, report));
    }
    let (layer, report) = GptInputLayer::open(checkpoint, &options)?;
    let (layer, lost) = layer.quantize(block_type)?;
    writeln!(out, "{lost}")?;
    Ok((layer, report))
}

fn parse_block_type(text: &str) -> Result<GgmlDType, String> {
    use GgmlDType::*;
    let known = [Q8_0, Q5_1, Q5_0, Q4_1, Q4_0, Q6K, Q5K, Q4K, Q3K, Q2K];
    let found = known.into_iter().find(|block_type| format!("{block_type:?}").eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("use one of {known:?}").to_lowercase())
}

/// Returns the positions of left-padded rows whose first token stands at `start_pos`. The mask grows by that many
/// tokens.
fn left_padded(attention_mask: &Tensor, start_pos: usize) -> Result<Positions> {
    let (n_rows, _) = attention_mask.dims2()?;
    let cached = Tensor::ones((n_rows, start_pos), DType::U8, &Device::Cpu)?;
    Ok(Positions::from_mask(&Tensor::cat(&[&cached, attention_mask], 1)?)?)
}

/// Returns the process's anonymous memory (RssAnon) in kB, which only Linux reports.
fn own_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Returns a row of ids for each text, and the tokenizer that made them, if any.
fn token_ids(
    args: &Args,
    weights: &Path,
    checkpoint: &Checkpoint,
) -> Result<(Vec<Vec<i64>>, Option<Tokenizer>, Duration)> {
    let start = Instant::now();
    if !args.ids.is_empty() {
        return Ok((vec![args.ids.clone()], None, start.elapsed()));
    }
    let own = || match args.remote {
        true => input::own(&hub::tokenizer_folder(&args.source)?, checkpoint),
        false => input::own(weights, checkpoint),
    };
    let tokenizer = input::tokenizer(args.tokenizer.as_deref(), own, checkpoint)?;
    let mut texts = args.texts.clone();
    for file in &args.text_files {
        texts.push(cli::read_text(file)?);
    }
    if texts.is_empty() {
        texts.push(DEFAULT_TEXT.to_string());
    }
    let encode = |text: &String| Ok(tokenizer.encode(text)?.into_iter().map(i64::from).collect());
    let rows = texts.iter().map(encode).collect::<Result<_>>()?;
    Ok((rows, Some(tokenizer), start.elapsed()))
}

/// At most this many tokens of a row are printed, and this many elements of a vector.
const SHOWN: (usize, usize) = (16, 4);

fn print_vectors(
    out: &mut impl Write,
    start_pos: usize,
    rows: &[Vec<i64>],
    n_padding: &[usize],
    tokenizer: Option<&Tokenizer>,
    hidden_states: &Tensor,
) -> Result<()> {
    for (row, (ids, &n)) in rows.iter().zip(n_padding).enumerate() {
        writeln!(out, "ids[{row}] {ids:?}")?;
        writeln!(out, "{:>8} {:>7}  {:<16} hidden_states[{row}, t, ..{}]", "position", "id", "token", SHOWN.1)?;
        let vectors = hidden_states.get(row)?.narrow(0, n, ids.len().min(SHOWN.0))?;
        let vectors = vectors.narrow(1, 0, SHOWN.1.min(vectors.dim(1)?))?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        for (t, (id, vector)) in ids.iter().zip(vectors).enumerate() {
            let bytes = u32::try_from(*id).ok().and_then(|id| tokenizer?.token_bytes(id));
            let token = bytes.map_or("-".to_string(), |bytes| format!("{:?}", String::from_utf8_lossy(bytes)));
            let numbers: Vec<String> = vector.iter().map(|x| format!("{x:>8.4}")).collect();
            writeln!(out, "{:>8} {id:>7}  {token:<16} {}", start_pos + t, numbers.join(" "))?;
        }
        if ids.len() > SHOWN.0 {
            writeln!(out, "     ... {} more", ids.len() - SHOWN.0)?;
        }
    }
    Ok(())
}

fn ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}
