//! Lists the tensors of a checkpoint of any format: name, dtype, shape, size, and the role each has for this crate.
//!
//! cargo run --release --example inspect_checkpoint
//! cargo run --release --example inspect_checkpoint -- path/to/gpt2
//! cargo run --release --example inspect_checkpoint -- model.gguf --convert out.safetensors --dtype bf16
//!
//! Prints a line for each tensor and the total. Only headers are read, unless something is converted.

#[path = "../cli/mod.rs"]
mod cli;

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use candle_core::DType;
use candle_gpt_input::checkpoint::Checkpoint;
use candle_gpt_input::error::Shown;
use clap::Parser;

/// Lists the tensors of a GPT-2 checkpoint.
#[derive(Parser)]
struct Args {
    /// A file of weights (safetensors, PyTorch, GGUF, .npz, llm.c, TensorFlow), a folder, or an index of shards
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/tiny-gpt2"))]
    path: PathBuf,
    /// Write all tensors as safetensors: to one file (`x.safetensors`), or else to a folder
    #[arg(long, value_name = "DST")]
    convert: Option<PathBuf>,
    /// The dtype to convert floating-point tensors to: f32, f16 or bf16; by default they keep theirs
    #[arg(long, requires = "convert", value_parser = cli::parse_dtype)]
    dtype: Option<DType>,
    /// The largest size of a shard in the folder, such as 500MB or 5GB
    #[arg(long, requires = "convert", value_parser = parse_size)]
    shard_size: Option<u64>,
    #[command(flatten)]
    choose: cli::Choose,
}

/// At most this many of the tensors that cannot be read, or are not in the index, are named.
const MAX_NAMED: usize = 8;

/// Names are padded to at most this width.
const MAX_NAME_WIDTH: usize = 80;

fn main() -> ExitCode {
    cli::exit(run(cli::args(), &mut cli::Output::default()))
}

fn run(args: Args, out: &mut impl Write) -> Result<()> {
    let checkpoint = Checkpoint::open_with(&args.path, &args.choose.options())?;
    let tensors = checkpoint.tensors()?;
    // One long name must not widen every line.
    let width = tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0).min(MAX_NAME_WIDTH);
    for tensor in &tensors {
        let (shape, role) = (format!("{:?}", tensor.shape), tensor.role);
        let (name, dtype) = (Shown::name(&tensor.name).to_string(), Shown::name(&tensor.dtype).to_string());
        writeln!(out, "{name:width$}  {dtype:<5} {shape:<16} {:>10}  {role}", size(tensor.n_bytes))?;
    }
    let format = checkpoint.format()?;
    match tensors.as_slice() {
        [] => writeln!(out, "{format}: no tensor under a name")?,
        tensors => {
            let n_bytes = tensors.iter().map(|tensor| tensor.n_bytes).sum();
            let plural = if tensors.len() == 1 { "" } else { "s" };
            writeln!(out, "{format}: {} tensor{plural}, {}", tensors.len(), size(n_bytes))?;
        }
    }
    list(out, "cannot be read", checkpoint.unreadable()?.iter())?;
    let not_in_index = checkpoint.not_in_index()?;
    let lines =
        not_in_index.iter().map(|tensor| format!("`{}` in {}", Shown::name(&tensor.name), Shown::path(&tensor.file)));
    list(out, "in the shards, but not in the index", lines)?;
    if let Some(report) = checkpoint.pickle_report().map(ToString::to_string).filter(|text| !text.is_empty()) {
        writeln!(out, "{report}")?;
    }
    if let Some(to) = &args.convert {
        // Without input tables no configuration is written.
        let _ = cli::note_heads(&checkpoint);
        for path in checkpoint.convert(to, args.dtype, args.shard_size)? {
            writeln!(out, "wrote {} ({})", Shown::path(&path), size(std::fs::metadata(&path)?.len() as usize))?;
        }
    }
    Ok(())
}

/// Lists the first of further tensors, if there are any, and counts the rest.
fn list<T: Display>(out: &mut impl Write, what: &str, mut tensors: impl ExactSizeIterator<Item = T>) -> Result<()> {
    if let n @ 1.. = tensors.len() {
        writeln!(out, "{n} more {what}:")?;
    }
    tensors.by_ref().take(MAX_NAMED).try_for_each(|tensor| writeln!(out, "  {tensor}"))?;
    if let n_more @ 1.. = tensors.len() {
        writeln!(out, "  and {n_more} more")?;
    }
    Ok(())
}

/// Parses `500MB`, `5GB`, or a number of bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let units = [("KB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("B", 1), ("", 1)];
    let upper = text.to_ascii_uppercase();
    let number = units.iter().find_map(|(unit, factor)| Some((upper.strip_suffix(unit)?, factor)));
    let n_bytes = number.and_then(|(number, factor)| number.trim().parse::<u64>().ok()?.checked_mul(*factor));
    n_bytes.filter(|&n| n > 0).ok_or_else(|| "use a number and KB, MB or GB, such as 500MB".to_string())
}

fn size(n_bytes: usize) -> String {
    match n_bytes {
        0..10_000 => format!("{n_bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", n_bytes as f64 / 1e3),
        _ => format!("{:.1} MB", n_bytes as f64 / 1e6),
    }
}
