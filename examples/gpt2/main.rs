//! Runs GPT-2 on the input layer of this crate: logits of prompts, and text that continues them.
//!
//! cargo run --release --example gpt2
//! cargo run --release --example gpt2 -- --weights path/to/gpt2 --prompt "Every effort moves you"
//! cargo run --release --example gpt2 -- --weights path/to/gpt2 --prompt "Hello, I" --prompt "A cat" --temperature 0.8
//! cargo run --release --example gpt2 -- --perplexity path/to/text.txt --stride 64
//! cargo run --release --features hub --example gpt2 -- --hub openai-community/gpt2 --device auto
//!
//! The default weights are small: `pretrain` trained them on the King James Bible (weights/README.md).
//!
//! Prints the text as it grows (a batch row by row at the end; ids if ids were given) and the tokens per second.

#[path = "../cli/mod.rs"]
mod cli;
mod generate;
#[path = "../hub/mod.rs"]
mod hub;
#[path = "../input/mod.rs"]
mod input;
#[allow(dead_code)] // it can also forget tokens
mod model;
mod perplexity;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
use candle_gpt_input::checkpoint::{Checkpoint, CheckpointOptions, save_tensors};
use candle_gpt_input::error::Shown;
use candle_gpt_input::rng::Generator;
use candle_gpt_input::tokenizer::Tokenizer;
use candle_gpt_input::{DeviceSpec, Error, GptInputConfig};
use clap::Parser;
use generate::{Sampling, check_logits, generate, likeliest};
use input::Batch;
use model::Gpt2;
use perplexity::perplexity;

/// The options that say nothing about the perplexity of a text.
const OF_PROMPTS: [&str; 7] = ["prompts", "ids", "logits_output", "max_new_tokens", "temperature", "top_k", "seed"];

/// The weights when none are given.
const DEFAULT_WEIGHTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/tiny-gpt2");

/// The prompt when none is given.
const DEFAULT_PROMPT: &str = "In the beginning";

/// Runs a GPT-2: prints the logits of prompts, or the text that continues them.
#[derive(Parser)]
struct Args {
    /// A complete GPT-2 checkpoint of any format, GGUF too: a file, a folder, or an index of shards
    #[arg(long, value_name = "PATH", group = "model", default_value = DEFAULT_WEIGHTS)]
    weights: PathBuf,
    #[command(flatten)]
    source: hub::Source,
    /// A byte-level BPE tokenizer.json, or a folder of tokenizer files [default: the model's own, else GPT-2's]
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// A text to continue; several make a batch, padded on the left
    #[arg(long = "prompt", value_name = "TEXT", conflicts_with = "ids")]
    prompts: Vec<String>,
    /// Token ids instead of text, such as 15496,11,995
    #[arg(long, value_name = "IDS", value_delimiter = ',', allow_hyphen_values = true)]
    ids: Vec<i64>,
    /// Print the perplexity of this text instead of continuing one
    #[arg(long, value_name = "F", conflicts_with_all = OF_PROMPTS)]
    perplexity: Option<PathBuf>,
    /// How many tokens lie between the windows of --perplexity [default: half of the model's positions]
    #[arg(long, value_name = "N", requires = "perplexity", value_parser = cli::at_least_1::<usize>)]
    stride: Option<usize>,
    /// Number of tokens to add; 0 computes only the logits of the prompt
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = cli::count::<usize>)]
    max_new_tokens: usize,
    /// 0 takes the likeliest token; larger values draw more surprising ones
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = parse_temperature)]
    temperature: f64,
    /// Draw among the K likeliest tokens only
    #[arg(long, value_name = "K", value_parser = cli::at_least_1::<usize>)]
    top_k: Option<usize>,
    /// The seed of the draws, as torch.manual_seed takes it: from -2^63 to 2^64 - 1
    #[arg(long, value_name = "S", default_value_t = 123, value_parser = cli::seed)]
    seed: u64,
    /// auto, cpu, cuda, cuda:N, metal or metal:N
    #[arg(long, default_value = "auto")]
    device: DeviceSpec,
    /// The dtype to compute in: f32, f16 or bf16
    #[arg(long, default_value = "f32", value_parser = cli::parse_dtype)]
    dtype: DType,
    /// Keep the quantized weights of a GGUF file in their blocks instead of dequantizing them to --dtype
    #[arg(long)]
    quantized: bool,
    /// Write the logits of the prompt [B, T, V] as f32, the input_ids and (if padded) the attention_mask to this file
    #[arg(long, value_name = "F.safetensors")]
    logits_output: Option<PathBuf>,
}

fn parse_temperature(text: &str) -> Result<f64, String> {
    let temperature = text.parse().ok().filter(|t: &f64| t.is_finite() && *t >= 0.0);
    temperature.ok_or("use a finite number of at least 0".to_string())
}

fn main() -> ExitCode {
    cli::settle_threads();
    let args: Args = cli::args();
    cli::exit(match args.logits_output {
        Some(_) => run(args, &mut cli::Output::default()),
        None => run(args, &mut std::io::stdout().lock()), // text for a reader that went away is not made
    })
}

fn run(args: Args, out: &mut impl Write) -> Result<()> {
    let (device, chosen) = args.device.resolve_with_report()?;
    let weights = args.source.folder(&args.weights, false, args.ids.is_empty())?;
    let origin = || args.source.hub.clone().unwrap_or_else(|| Shown::path(&args.weights).to_string());
    let mut checkpoint = Checkpoint::open(&weights)?;
    Gpt2::check(&checkpoint).with_context(origin)?;
    let (rows, tokenizer) = prompts(&args, &weights, &checkpoint)?;
    if let Some(tokenizer) = &tokenizer {
        checkpoint = without_padding(checkpoint, &weights, tokenizer)?;
    }
    let config = checkpoint.config()?;
    if args.perplexity.is_none() {
        check_length(&rows, args.max_new_tokens, &config)?;
    }

    let start = Instant::now();
    let open = if args.quantized { Gpt2::quantized } else { Gpt2::from_checkpoint };
    let model = open(&checkpoint, args.dtype, &device).with_context(origin)?;
    cli::note_heads(&checkpoint)?;
    let GptInputConfig { n_layer, n_head, n_embd, .. } = config;
    let loading = start.elapsed().as_secs_f64();
    let dtype = format!("{:?}{}", args.dtype, if args.quantized { " on quantized weights" } else { "" });
    writeln!(out, "{n_layer} blocks, {n_head} heads, {n_embd} dimensions, {dtype}, read in {loading:.2} s")?;
    writeln!(out, "device {chosen}")?;

    if let ([ids], true) = (&rows[..], args.perplexity.is_some()) {
        return perplexity(&model, ids, args.stride, out);
    }
    let batch = Batch::left_padded(&rows, config.vocab_size)?;
    if args.logits_output.is_some() || args.max_new_tokens == 0 {
        prompt_logits(&model, &batch, tokenizer.as_ref(), args.logits_output.as_deref(), out)?;
    }
    if args.max_new_tokens == 0 {
        return Ok(());
    }
    let generator = Generator::manual_seed(args.seed);
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, generator };
    generate(&model, &batch, args.max_new_tokens, &sampling, tokenizer.as_ref(), out)
}

/// Returns a row of ids for each prompt, and the tokenizer that made them, if any.
fn prompts(args: &Args, weights: &Path, checkpoint: &Checkpoint) -> Result<(Vec<Vec<i64>>, Option<Tokenizer>)> {
    if !args.ids.is_empty() {
        return Ok((vec![args.ids.clone()], None));
    }
    let own = || input::own(weights, checkpoint);
    let tokenizer = input::tokenizer(args.tokenizer.as_deref(), own, checkpoint)?;
    if let Some(path) = &args.perplexity {
        let ids = tokenizer.encode(&cli::read_text(path)?)?;
        return Ok((vec![ids.into_iter().map(i64::from).collect()], Some(tokenizer)));
    }
    let default = [DEFAULT_PROMPT.to_string()];
    let texts = if args.prompts.is_empty() { &default[..] } else { &args.prompts };
    let encode = |text: &String| {
        ensure!(!text.is_empty(), "an empty prompt has nothing to continue: begin with \"<|endoftext|>\"");
        Ok(tokenizer.encode(text)?.into_iter().map(i64::from).collect())
    };
    let rows = texts.iter().map(encode).collect::<Result<_>>()?;
    Ok((rows, Some(tokenizer)))
}

/// Leaves the rows of padding without logits: those behind the tokenizer's ids, up to a multiple of 64 or 128.
fn without_padding(checkpoint: Checkpoint, weights: &Path, tokenizer: &Tokenizer) -> Result<Checkpoint> {
    let n_rows = checkpoint.config()?.vocab_size;
    let n_tokens = n_rows - tokenizer.unused_rows(n_rows)?;
    let is_padded = n_tokens < n_rows && [64, 128].iter().any(|&n| n_tokens.next_multiple_of(n) == n_rows);
    if !is_padded {
        return Ok(checkpoint);
    }
    Ok(Checkpoint::open_with(weights, &CheckpointOptions::default().with_vocab_size(n_tokens))?)
}

/// Checks that prompt and new tokens fit. The last new token is not embedded again and needs no position.
fn check_length(rows: &[Vec<i64>], max_new_tokens: usize, config: &GptInputConfig) -> Result<()> {
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    let (end, n_positions) = (longest.saturating_add(max_new_tokens.saturating_sub(1)), config.n_positions);
    if end > n_positions {
        let asked = format!("{longest} tokens of prompt and {max_new_tokens} new ones");
        return Err(Error::SequenceTooLong { end, n_positions }).context(asked);
    }
    Ok(())
}

/// How many candidates for the next token are printed.
const SHOWN: usize = 5;

/// Writes the logits of the whole prompt to a file, if one is given, and prints the likeliest next tokens of each row.
fn prompt_logits(
    model: &Gpt2,
    batch: &Batch,
    tokenizer: Option<&Tokenizer>,
    path: Option<&Path>,
    out: &mut impl Write,
) -> Result<()> {
    let mask = batch.is_padded().then_some(&batch.attention_mask);
    let logits = model.forward(&batch.input_ids, mask)?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
    writeln!(out, "logits {:?}", logits.dims())?;
    let (_, t, _) = logits.dims3()?;
    let last = logits.narrow(1, t - 1, 1)?.squeeze(1)?.to_vec2::<f32>()?;
    for (row, logits) in last.iter().enumerate() {
        check_logits(logits, model.input().dtype())?;
        let likeliest = likeliest(logits, SHOWN);
        let shown = |&id: &usize| match tokenizer.and_then(|tokenizer| tokenizer.token_bytes(id as u32)) {
            Some(bytes) => format!("{:?} {:.3}", String::from_utf8_lossy(bytes), logits[id]),
            None => format!("{id} {:.3}", logits[id]),
        };
        writeln!(out, "next[{row}] {}", likeliest.iter().map(shown).collect::<Vec<_>>().join(", "))?;
    }
    let Some(path) = path else { return Ok(()) };
    let input_ids = batch.input_ids.to_dtype(DType::U32)?;
    let mut tensors = vec![("input_ids", &input_ids), ("logits", &logits)];
    tensors.extend(mask.map(|mask| ("attention_mask", mask)));
    save_tensors(path, tensors, [])?;
    Ok(writeln!(out, "wrote {}", Shown::path(path))?)
}
