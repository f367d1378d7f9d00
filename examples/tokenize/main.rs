//! Turns texts into shards of token ids, on all cores.
//!
//! cargo run --release --example tokenize
//! cargo run --release --example tokenize -- corpus.jsonl.zst --out shards --format llmc --shard-tokens 100000000
//!
//! A run that was killed goes on when it is started again, and writes the same bytes.

#[path = "../cli/mod.rs"]
mod cli;
#[path = "../corpora/mod.rs"]
mod corpora;
mod field;
mod packed;
mod read;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use candle_gpt_input::data::corpus::{About, CorpusFormat, CorpusWriter};
use candle_gpt_input::error::Shown;
use candle_gpt_input::tokenizer::{END_OF_TEXT, SpecialTokens, Tokenizer};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use read::{Input, Piece};

/// How often a plain line is written where there is no terminal.
const INTERVAL: Duration = Duration::from_secs(10);
/// Batches of texts, or of ids, that wait for the next stage.
const N_WAITING: usize = 2;

/// Writes texts as a corpus of GPT-2's ids, in shards, for `dataloader --corpus`, nanoGPT, llm.c or Megatron.
#[derive(Parser)]
struct Args {
    /// Texts (one document each) and JSON lines (.jsonl, .ndjson, .json; one document a line), also as .gz and .zst
    #[arg(value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/genesis.txt"))]
    files: Vec<PathBuf>,
    /// The folder of the corpus [default: shards in the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// llmc, megatron, or nanogpt: one train.bin
    #[arg(long, default_value = "llmc", value_parser = written)]
    format: CorpusFormat,
    /// Tokens in a shard [default: 100000000]; nanogpt has one
    #[arg(long, value_name = "N", value_parser = cli::at_least_1::<u64>)]
    shard_tokens: Option<u64>,
    /// The field of JSON lines that has the text
    #[arg(long, default_value = "text")]
    key: String,
    /// A tokenizer.json, or a folder with one, instead of GPT-2's; if it changes texts or puts tokens around them, each
    /// document is in memory as a whole
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// The token that begins (llmc) or ends each document
    #[arg(long, value_name = "TOKEN", default_value = END_OF_TEXT)]
    end_of_text: String,
}

/// Parses a format that is written.
fn written(text: &str) -> Result<CorpusFormat, String> {
    let format = text.parse().ok().filter(|format| *format != CorpusFormat::Text);
    format.ok_or_else(|| "use llmc, megatron or nanogpt".to_string())
}

fn main() -> ExitCode {
    cli::exit(run(cli::args(), &mut cli::Output::default()))
}

fn run(args: Args, out: &mut impl Write) -> Result<()> {
    let tokenizer = match &args.tokenizer {
        Some(path) => Tokenizer::open(path)?,
        None => Tokenizer::gpt2().clone(),
    };
    // A text that spells the end of text does not end a document.
    let tokenizer = tokenizer.with_special_tokens(SpecialTokens::AsText);
    let end_of_text = corpora::end_of_text(&tokenizer, &args.end_of_text)?;
    if args.format == CorpusFormat::NanoGpt && args.shard_tokens.is_some() {
        return Err(anyhow!("nanoGPT's train.bin is one file: leave --shard-tokens out, or choose another --format"));
    }
    let default = if args.format == CorpusFormat::NanoGpt { u64::MAX } else { 100_000_000 };
    let inputs = args.files.iter().map(|path| Input::open(path, &args.key)).collect::<Result<Vec<_>>>()?;
    let n_bytes = inputs.iter().map(|input| input.n_bytes).sum();
    let folder = args.out.unwrap_or_else(|| std::env::temp_dir().join("shards"));
    let about = About::new(
        args.format,
        corpora::n_ids(&tokenizer)?,
        corpora::hash_of(&tokenizer)?,
        Some(end_of_text),
        args.shard_tokens.unwrap_or(default),
    );
    let mut writer = CorpusWriter::create(&folder, about.with_origin(origin(&inputs, &args.key)))?;
    let own = args.tokenizer.as_deref().map(corpora::files_of).transpose()?.unwrap_or_default();
    corpora::keep_beside(&folder, &own)?;
    if writer.is_complete() {
        let about = writer.finish()?;
        writeln!(out, "{} is complete: {} tokens", Shown::path(&folder), about.n_tokens)?;
        return Ok(());
    }
    if writer.n_done() > 0 {
        writeln!(out, "goes on after {} documents", writer.n_done())?;
    }
    let (start, n_done) = (Instant::now(), writer.n_done());
    let progress = Progress::new(n_bytes);
    std::thread::scope(|scope| -> Result<()> {
        let (texts, to_encode) = sync_channel(N_WAITING);
        let (ids, to_write) = sync_channel::<Result<Vec<(Vec<u32>, bool)>>>(N_WAITING);
        let (tokenizer, inputs, progress) = (&tokenizer, &inputs, &progress);
        // A stage ends when the next one has.
        scope.spawn(move || read::read(inputs, tokenizer, n_done, &texts));
        scope.spawn(move || {
            for batch in to_encode {
                if ids.send(batch.and_then(|batch: Vec<Piece>| encode(tokenizer, inputs, &batch))).is_err() {
                    break;
                }
            }
        });
        for batch in to_write {
            for (ids, ends) in batch? {
                writer.push_part(&ids, ends)?;
            }
            progress.show(inputs.iter().map(Input::n_read).sum());
        }
        Ok(())
    })?;
    progress.bar.finish_and_clear();
    let about = writer.finish()?;
    let seconds = start.elapsed().as_secs_f64();
    writeln!(
        out,
        "{} documents, {} tokens in {} shards of {}: {:.1} MB in {seconds:.2} s, {:.1} MB/s",
        about.n_documents,
        about.n_tokens,
        about.files.len(),
        Shown::path(&folder),
        n_bytes as f64 / 1e6,
        n_bytes as f64 / 1e6 / seconds
    )?;
    Ok(())
}

/// Returns the ids of each piece, and whether its document ends.
fn encode(tokenizer: &Tokenizer, inputs: &[Input], batch: &[Piece]) -> Result<Vec<(Vec<u32>, bool)>> {
    let encode = |piece: &Piece| {
        let text = piece.text(&inputs[piece.input])?;
        let ids = tokenizer.encode(&text).with_context(|| inputs[piece.input].name(piece.line));
        Ok((ids?, piece.ends))
    };
    batch.par_iter().map(encode).collect()
}

/// Identifies texts by their names and lengths, and by how they are read.
fn origin(inputs: &[Input], key: &str) -> String {
    let mut hash = Sha256::new();
    for part in inputs.iter().map(|input| format!("{:?} {}", input.path.file_name(), input.n_bytes)) {
        hash.update(part);
    }
    hash.update(format!("{key:?}"));
    cli::hex(hash.finalize())
}

/// A bar, or without a terminal a plain line now and then.
struct Progress {
    bar: ProgressBar,
    last_line: std::cell::Cell<Instant>,
}

impl Progress {
    fn new(n_bytes: u64) -> Self {
        let bar = ProgressBar::new(n_bytes);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left") {
            bar.set_style(style);
        }
        Self { bar, last_line: Instant::now().into() }
    }

    fn show(&self, n_read: u64) {
        self.bar.set_position(n_read);
        if self.bar.is_hidden() && self.last_line.get().elapsed() > INTERVAL {
            let n_bytes = self.bar.length().unwrap_or(n_read);
            cli::note(format_args!("{:.1} of {:.1} MB", n_read as f64 / 1e6, n_bytes as f64 / 1e6));
            self.last_line.set(Instant::now());
        }
    }
}
