//! Lists the tensors of a checkpoint: name, type, shape, size, and what each is to this crate.
//!
//! cargo run --release --example inspect_checkpoint
//! cargo run --release --example inspect_checkpoint -- path/to/gpt2
//!
//! Prints one line a tensor and the total; only headers are read.

mod cli;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use candle_gpt_input::checkpoint::{Checkpoint, Role};
use clap::Parser;

/// Lists the tensors of a GPT-2 checkpoint.
#[derive(Parser)]
struct Args {
    /// A safetensors file, a folder, or a sharded folder
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/tiny-gpt2"))]
    path: PathBuf,
}

fn main() -> ExitCode {
    cli::exit(run(Args::parse(), &mut std::io::stdout().lock()))
}

fn run(args: Args, out: &mut impl Write) -> Result<()> {
    let tensors = Checkpoint::open(&args.path)?.tensors()?;
    let width = tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0);
    for tensor in &tensors {
        let role = match tensor.role {
            Role::TokenTable => "token table wte",
            Role::PositionTable => "position table wpe",
            Role::OutputHead => "output head, if it is not tied to wte",
            _ => "not used by the input layer",
        };
        let shape = format!("{:?}", tensor.shape);
        writeln!(out, "{:width$}  {:<5} {shape:<16} {:>10}  {role}", tensor.name, tensor.dtype, size(tensor.n_bytes))?;
    }
    let n_bytes = tensors.iter().map(|tensor| tensor.n_bytes).sum();
    writeln!(out, "{} tensors, {}", tensors.len(), size(n_bytes))?;
    Ok(())
}

fn size(n_bytes: usize) -> String {
    match n_bytes {
        0..10_000 => format!("{n_bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", n_bytes as f64 / 1e3),
        _ => format!("{:.1} MB", n_bytes as f64 / 1e6),
    }
}
