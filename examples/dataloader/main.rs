//! Turns text into token ids, windows and batches, in the order of PyTorch's DataLoader.
//!
//! cargo run --release --example dataloader
//! cargo run --release --example dataloader -- --text-file the-verdict.txt --shuffle --seed 123 --drop-last
//! cargo run --release --example dataloader -- --shuffle --epochs 3 --stop-after 100 --state-file state.json; repeat it
//!
//! Prints the first batch as chapter 2 of "Build a Large Language Model (From Scratch)" does, and the number of
//! batches.

#[path = "../cli/mod.rs"]
mod cli;
#[path = "../corpora/mod.rs"]
mod corpora;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use candle_gpt_input::checkpoint::{save_tensors, write_file};
use candle_gpt_input::data::corpus::{Corpus, CorpusFormat, CorpusOptions, IdBits};
use candle_gpt_input::data::{Batch, Boundaries, Coverage, Loader, LoaderConfig, LoaderState, Seeding, Tokens};
use candle_gpt_input::error::Shown;
use candle_gpt_input::rng::Generator;
use candle_gpt_input::tokenizer::Tokenizer;
use clap::Parser;

/// Cuts a text, or files of token ids, into windows and their targets, in batches.
#[derive(Parser)]
struct Args {
    /// The text to read
    #[arg(long, value_name = "F", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/genesis.txt"))]
    text_file: PathBuf,
    /// Files of token ids instead: .bin files of nanoGPT or llm.c, a Megatron prefix, a folder, or a pattern
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "text_file")]
    corpus: Vec<PathBuf>,
    /// Width of the ids in files without a header, such as nanoGPT's: 16 or 32
    #[arg(long, value_name = "N", requires = "corpus")]
    id_bits: Option<IdBits>,
    /// Check all ids and checksums before the first batch
    #[arg(long, requires = "corpus")]
    verify: bool,
    /// What happens between the documents of a corpus: no window crosses (keep), windows cross and batches say where
    /// (mark), or nothing (ignore)
    #[arg(long, value_name = "B", default_value = "keep", requires = "corpus")]
    boundaries: Boundaries,
    /// The token by which documents are found where no index and no corpus.json says it: it begins one in llm.c's
    /// files, and ends one in bare ids; it is put after each text [default for texts: <|endoftext|>]
    #[arg(long, value_name = "TOKEN", requires = "corpus")]
    end_of_text: Option<String>,
    /// A tokenizer.json, or a folder with one, instead of GPT-2's or the corpus's own
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// Windows in a batch
    #[arg(long, default_value_t = 8, value_parser = cli::count::<usize>)]
    batch_size: usize,
    /// Tokens in a window
    #[arg(long, default_value_t = 4, value_parser = cli::count::<usize>)]
    max_length: usize,
    /// Tokens from the start of one window to the start of the next
    #[arg(long, default_value_t = 4, value_parser = cli::count::<usize>)]
    stride: usize,
    /// Drop the last batch if the remaining windows do not fill it
    #[arg(long)]
    drop_last: bool,
    /// Shuffle the windows anew in every epoch
    #[arg(long)]
    shuffle: bool,
    /// Seed the shuffling as torch.manual_seed(S) does [default: 123]
    #[arg(long, value_name = "S", conflicts_with = "generator_seed", value_parser = cli::seed)]
    seed: Option<u64>,
    /// Seed the shuffling as generator=torch.Generator().manual_seed(S) does
    #[arg(long, value_name = "S", value_parser = cli::seed)]
    generator_seed: Option<u64>,
    /// Number of epochs in all, including those before a resumed run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = cli::count::<u64>)]
    epochs: u64,
    /// Take the batches of process R of W (0/2 and 1/2 together are all of them)
    #[arg(long, value_name = "R/W", default_value = "0/1", value_parser = parse_shard)]
    shard: (usize, usize),
    /// Resume from this file if it exists; the loader's state is written to it at the end
    #[arg(long, value_name = "F")]
    state_file: Option<PathBuf>,
    /// Stop after this many batches
    #[arg(long, value_name = "K", value_parser = cli::count::<usize>)]
    stop_after: Option<usize>,
    /// Write all batches of this run to this file, as i64: input_ids.N and target_ids.N, numbered from 0 through all
    /// epochs; with `--boundaries mark` also position_ids.N and loss_mask.N
    #[arg(long, value_name = "F.safetensors")]
    output: Option<PathBuf>,
}

fn parse_shard(text: &str) -> Result<(usize, usize), String> {
    let parts =
        text.split_once('/').and_then(|(rank, world_size)| Some((rank.parse().ok()?, world_size.parse().ok()?)));
    parts.ok_or_else(|| "use R/W, such as 0/2".to_string())
}

fn main() -> ExitCode {
    cli::exit(run(cli::args(), &mut cli::Output::default()))
}

fn run(args: Args, out: &mut impl Write) -> Result<()> {
    let (tokens, tokenizer) = match args.corpus.is_empty() {
        true => {
            let tokenizer = given(&args)?.unwrap_or_else(|| Tokenizer::gpt2().clone());
            (Tokens::new(tokenizer.encode(&cli::read_text(&args.text_file)?)?), Ok(Some(tokenizer)))
        }
        false => open_corpus(&args, out)?,
    };
    let (rank, world_size) = args.shard;
    let mut loader = Loader::new(&tokens, config(&args), seeding(&args), &Device::Cpu)?.shard(rank, world_size)?;
    writeln!(
        out,
        "{} tokens, {} windows, {} batches an epoch",
        tokens.n_tokens(),
        loader.windows().n_windows(),
        loader.n_batches()
    )?;
    if args.drop_last {
        writeln!(out, "drop_last leaves out {} windows", loader.n_dropped())?;
    }
    if let Some(path) = args.state_file.as_deref().filter(|path| path.exists()) {
        let in_file = || Shown::path(path).to_string();
        let state: LoaderState =
            serde_json::from_slice(&fs::read(path).with_context(in_file)?).with_context(in_file)?;
        writeln!(out, "resumed in epoch {} after {} windows", state.epoch(), state.n_samples())?;
        loader = loader.resume(&state).with_context(in_file)?;
    }

    let n_wanted = args.stop_after.unwrap_or(usize::MAX);
    let mut n_batches = 0;
    let mut tensors = Vec::new();
    let mut times = vec![0u64; if args.corpus.is_empty() { 0 } else { loader.windows().n_windows() }];
    let mut printing = Duration::ZERO;
    let start = Instant::now();
    while n_batches < n_wanted && loader.state().epoch() < args.epochs {
        let mut epoch = loader.epoch();
        while n_batches < n_wanted
            && let Some(batch) = epoch.next()
        {
            let batch = batch?;
            if n_batches == 0 {
                let start = Instant::now();
                print_batch(out, &batch, &tokenizer)?;
                printing = start.elapsed();
            }
            if !times.is_empty() {
                epoch.window_numbers().for_each(|window| times[window] += 1);
            }
            if args.output.is_some() {
                let ids = [("input_ids", Some(batch.input_ids)), ("target_ids", Some(batch.target_ids))];
                let of_documents = [("position_ids", batch.position_ids), ("loss_mask", batch.loss_mask)];
                for (name, tensor) in ids.into_iter().chain(of_documents) {
                    let tensor = tensor.map(|tensor| tensor.to_dtype(DType::I64)).transpose()?;
                    tensors.extend(tensor.map(|tensor| (format!("{name}.{n_batches}"), tensor)));
                }
            }
            n_batches += 1;
        }
    }
    let milliseconds = (start.elapsed() - printing).as_secs_f64() * 1e3;
    writeln!(out, "{n_batches} batches in this run, in {milliseconds:.2} ms")?;
    if !times.is_empty() {
        let coverage = Coverage::new(loader.windows(), loader.config().boundaries, |window| times[window]);
        writeln!(out, "coverage of this run: {coverage}")?;
    }

    if let Some(path) = &args.output {
        save_tensors(path, tensors.iter().map(|(name, tensor)| (name, tensor)), [])?;
        writeln!(out, "wrote {}", Shown::path(path))?;
    }
    if let Some(path) = &args.state_file {
        let state = serde_json::to_vec(&loader.state())?;
        write_file(path, |out| out.write_all(&state))?;
        writeln!(out, "wrote {}", Shown::path(path))?;
    }
    Ok(())
}

/// Returns the tokenizer of `--tokenizer`.
fn given(args: &Args) -> Result<Option<Tokenizer>> {
    Ok(args.tokenizer.as_ref().map(Tokenizer::open).transpose()?)
}

/// Opens `--corpus`, and looks for its tokenizer, without which its ids are not decoded.
fn open_corpus(args: &Args, out: &mut impl Write) -> Result<(Tokens, Result<Option<Tokenizer>>)> {
    let options = CorpusOptions::default().with_verify(args.verify);
    let options = args.id_bits.into_iter().fold(options, CorpusOptions::with_id_bits);
    let given = given(args)?;
    let options = match &given {
        Some(given) => options.with_vocab_size(corpora::n_ids(given)?).with_tokenizer(given.clone()),
        None => options,
    };
    let start = Instant::now();
    let mut corpus = Corpus::open(&args.corpus, &options)?;
    if let Some(given) = &given {
        corpora::check_fits(&corpus, given, usize::MAX)?;
    }
    if args.verify && corpus.about().is_none() && corpus.vocab_size().is_none() {
        cli::note("note: nothing states checksums or a vocabulary of this corpus: --verify needs --tokenizer here");
    }
    let tokenizer = match given {
        Some(given) => Ok(Some(given)),
        None => corpora::tokenizer_of(&corpus).map(|found| found.map(|(tokenizer, _)| tokenizer)),
    };
    if args.boundaries != Boundaries::Ignore || corpus.format() == CorpusFormat::Text {
        let end_of_text = match (&args.end_of_text, &tokenizer) {
            (None, _) => None,
            (Some(token), Ok(found)) => {
                Some(corpora::end_of_text(found.as_ref().unwrap_or_else(|| Tokenizer::gpt2()), token)?)
            }
            (Some(_), Err(error)) => bail!("--end-of-text: {}", cli::first_line(error)),
        };
        corpus = corpora::with_documents(corpus, &args.corpus, options.with_verify(false), end_of_text)?;
    }
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    writeln!(
        out,
        "corpus of {} files, format {}, {} bits an id, {} documents, opened in {milliseconds:.2} ms",
        corpus.files().len(),
        corpus.format(),
        corpus.id_bits(),
        corpus.n_documents()
    )?;
    Ok((corpus.tokens().clone(), tokenizer))
}

fn config(args: &Args) -> LoaderConfig {
    LoaderConfig::default()
        .with_batch_size(args.batch_size)
        .with_max_length(args.max_length)
        .with_stride(args.stride)
        .with_shuffle(args.shuffle)
        .with_drop_last(args.drop_last)
        .with_boundaries(args.boundaries)
}

fn seeding(args: &Args) -> Seeding {
    match args.generator_seed {
        Some(seed) => Seeding::Explicit(Generator::manual_seed(seed)),
        None => Seeding::Global(Generator::manual_seed(args.seed.unwrap_or(123))),
    }
}

/// At most this many lines of text → next token are printed.
const N_SHOWN: usize = 8;

fn print_batch(out: &mut impl Write, batch: &Batch, tokenizer: &Result<Option<Tokenizer>>) -> Result<()> {
    writeln!(out, "Inputs:\n {}", torch_style(&batch.input_ids)?)?;
    writeln!(out, "\nTargets:\n {}\n", torch_style(&batch.target_ids)?)?;
    let tokenizer = match tokenizer {
        Ok(Some(tokenizer)) => tokenizer,
        Ok(None) => {
            return Ok(writeln!(out, "not decoded: the corpus has no tokenizer; --tokenizer PATH gives one\n")?);
        }
        Err(error) => return Ok(writeln!(out, "not decoded: {}\n", cli::first_line(error))?),
    };
    let (input_ids, target_ids) = (batch.input_ids.get(0)?.to_vec1()?, batch.target_ids.get(0)?.to_vec1()?);
    let decode = |ids: &[u32]| Ok::<_, anyhow::Error>(tokenizer.decode(ids)?.replace('\n', "\\n"));
    for n_tokens in 1..=input_ids.len().min(N_SHOWN) {
        let (context, next) = (decode(&input_ids[..n_tokens])?, decode(&target_ids[n_tokens - 1..n_tokens])?);
        writeln!(out, "{context} ----> {next}")?;
    }
    Ok(writeln!(out)?)
}

/// PyTorch's defaults: characters in a line, elements printed in full, rows or columns shown at each end of more.
const PRINT: (usize, usize, usize) = (80, 1000, 3);

/// Formats a matrix of ids as PyTorch's `print(tensor)` does.
fn torch_style(ids: &Tensor) -> Result<String> {
    let (line_width, n_full, n_edge) = PRINT;
    let rows = ids.to_vec2::<u32>()?;
    let cut = ids.elem_count() > n_full;
    let ends = |n: usize| -> Vec<Option<usize>> {
        if !cut || n <= 2 * n_edge {
            return (0..n).map(Some).collect();
        }
        (0..n_edge).map(Some).chain([None]).chain((n - n_edge..n).map(Some)).collect()
    };
    let columns = ends(ids.dim(1)?);
    let shown = |row: &Vec<u32>| columns.iter().flatten().map(|&t| row[t].to_string().len()).max().unwrap_or(0);
    let width = ends(rows.len()).iter().flatten().map(|&row| shown(&rows[row])).max().unwrap_or(0);
    let indent = "tensor([".len();
    let per_line = ((line_width - indent) / (width + 2)).max(1);
    let row_text = |row: Option<usize>| {
        let Some(row) = row else { return "...".to_string() };
        let cells: Vec<String> =
            columns.iter().map(|t| t.map_or(" ...".to_string(), |t| format!("{:>width$}", rows[row][t]))).collect();
        let lines: Vec<String> = cells.chunks(per_line).map(|line| line.join(", ")).collect();
        format!("[{}]", lines.join(&format!(",\n{}", " ".repeat(indent + 1))))
    };
    let rows: Vec<String> = ends(rows.len()).into_iter().map(row_text).collect();
    Ok(format!("tensor([{}])", rows.join(&format!(",\n{}", " ".repeat(indent)))))
}
