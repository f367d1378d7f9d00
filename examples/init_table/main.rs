//! Draws an embedding table exactly as `torch.manual_seed(S); torch.empty(V, C).normal_(0, std)` does, and writes it.
//!
//! cargo run --release --example init_table
//! cargo run --release --example init_table -- --vocab-size 50257 --n-embd 768 --std 0.02 --output wte.safetensors
//!
//! Prints the first rows as torch prints them, and how long drawing them took.

#[path = "../cli/mod.rs"]
mod cli;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use candle_core::{DType, Device};
use candle_gpt_input::checkpoint::save_tensors;
use candle_gpt_input::error::Shown;
use candle_gpt_input::init::Init;
use candle_gpt_input::rng::Generator;
use clap::Parser;

/// Draws an embedding table with torch's random numbers.
#[derive(Parser)]
struct Args {
    /// Rows of the table
    #[arg(long, value_name = "V", default_value_t = 6, value_parser = cli::count::<usize>)]
    vocab_size: usize,
    /// Columns of the table
    #[arg(long, value_name = "C", default_value_t = 3, value_parser = cli::count::<usize>)]
    n_embd: usize,
    /// The seed, as torch.manual_seed takes it
    #[arg(long, value_name = "S", default_value_t = 123, value_parser = cli::seed)]
    seed: u64,
    /// Standard deviation; 1 is torch.nn.Embedding's
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    std: f64,
    /// f32, f16 or bf16
    #[arg(long, default_value = "f32", value_parser = cli::parse_dtype)]
    dtype: DType,
    /// Write the table, as `weight`, to this file
    #[arg(long, value_name = "F.safetensors")]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    cli::exit(run(cli::args(), &mut cli::Output::default()))
}

fn run(args: Args, out: &mut impl Write) -> Result<()> {
    let generator = Generator::manual_seed(args.seed);
    let start = Instant::now();
    let init = Init::Gpt2 { std: args.std };
    let weight = init.wte(args.vocab_size, args.n_embd, &generator, args.dtype, &Device::Cpu)?;
    let drawing = start.elapsed();
    let shown = weight.narrow(0, 0, args.vocab_size.min(6))?.narrow(1, 0, args.n_embd.min(6))?;
    writeln!(out, "{}", cli::tensor(&shown)?)?;
    writeln!(out, "weight {:?} {:?} drawn in {:.1} ms", weight.dims(), weight.dtype(), drawing.as_secs_f64() * 1e3)?;
    if let Some(path) = &args.output {
        save_tensors(path, [("weight", &weight)], [])?;
        writeln!(out, "wrote {}", Shown::path(path))?;
    }
    Ok(())
}
