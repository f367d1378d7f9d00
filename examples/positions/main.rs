//! Shows position schemes side by side: where each acts, and how it scores identical tokens.
//!
//! cargo run --release --example positions
//! cargo run --release --example positions -- --compare /tmp/compare.png
//!
//! Draws one panel a scheme into positions.png: the score of a query at row i and a key at column j, both of one and the same
//! token, so that all there is to see is positions: red above the mean of the panel, blue below. Learned tables are fresh,
//! drawn at the width that makes them visible.

mod compare;

#[path = "../chart/mod.rs"]
mod chart;
#[path = "../cli/mod.rs"]
mod cli;
#[allow(dead_code)] // it can also load checkpoints and generate
#[path = "../gpt2/model.rs"]
mod model;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_gpt_input::init::Init;
use candle_gpt_input::position::{PositionKind, PositionScheme};
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{GptInputConfig, GptInputLayer};
use clap::Parser;
use plotters::prelude::*;

/// Shows every position scheme: where it acts, and how identical tokens at i and j score
#[derive(Parser)]
struct Args {
    /// Only these: learned, sinusoidal, transformer-xl, rope, alibi, t5, shaw, deberta, none
    #[arg(long, value_delimiter = ',', value_name = "SCHEME,..")]
    position: Vec<PositionScheme>,
    /// The picture's file
    #[arg(long, default_value = "positions.png", value_name = "F.png")]
    out: PathBuf,
    /// Number of positions shown
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(2..=256))]
    length: u16,
    /// Seed of the tables and of the token
    #[arg(long, default_value_t = 123)]
    seed: u64,
    /// Train a small model with each scheme instead, and draw its losses into this PNG (minutes)
    #[arg(long, value_name = "F.png")]
    compare: Option<PathBuf>,
    /// Steps of training for --compare
    #[arg(long, default_value_t = 200, requires = "compare")]
    steps: usize,
}

fn main() -> ExitCode {
    cli::settle_threads();
    cli::exit(run(Args::parse(), &mut std::io::stdout().lock()))
}

fn run(args: Args, out: &mut impl Write) -> Result<()> {
    let all = PositionScheme::NAMES.iter().map(|name| Ok(name.parse()?)).collect::<Result<Vec<_>>>()?;
    let schemes = if args.position.is_empty() { all } else { args.position };
    if let Some(path) = &args.compare {
        return compare::run(path, &schemes, args.steps, args.seed, out);
    }
    writeln!(out, "{:<15} {:<46} learned tables", "scheme", "acts")?;
    let mut panels = Vec::new();
    for scheme in schemes {
        let layer = layer(scheme, args.length.into(), args.seed)?;
        let tables: Vec<String> =
            layer.positions().tables().iter().map(|(name, table)| format!("{name} {:?}", table.dims())).collect();
        let tables = if tables.is_empty() { "none".to_string() } else { tables.join(", ") };
        writeln!(out, "{:<15} {:<46} {tables}", layer.positions().scheme().name(), acts(&layer))?;
        panels.push((layer.positions().scheme().name(), scores(&layer, args.length.into())?));
    }
    draw(&args.out, &panels)?;
    Ok(writeln!(out, "wrote {}", args.out.display())?)
}

fn acts(layer: &GptInputLayer) -> &'static str {
    match layer.positions().kind() {
        PositionKind::Input if layer.wpe().is_none() => "nowhere",
        PositionKind::Input => "added to the input, by the layer",
        PositionKind::Rotation => "rotate(q, k, positions)",
        PositionKind::Bias => "attention_bias(t_q, t_k, start_pos)",
        _ => "attention_scores(q, k, block, start_pos)",
    }
}

/// Draws a layer of one block with two heads of 16; tables are N(0, 1), large enough to be seen.
fn layer(scheme: PositionScheme, n_positions: usize, seed: u64) -> Result<GptInputLayer> {
    let sizes = GptInputConfig::new(1, n_positions, 32).with_n_layer(1).with_n_head(2);
    let config = sizes.with_position(scheme).with_embd_pdrop(0.0);
    let generator = Generator::manual_seed(seed);
    Ok(GptInputLayer::init(&config, Init::TorchEmbedding, &generator, DType::F32, &Device::Cpu)?)
}

/// What the first head scores for token 0 everywhere, above or below the mean, with queries and keys that are the hidden
/// states themselves: `T * T`.
fn scores(layer: &GptInputLayer, length: usize) -> Result<Vec<f32>> {
    let hidden_states = layer.forward(&Tensor::zeros((1, length), DType::U32, layer.device())?)?;
    let heads = hidden_states.reshape((1, length, 2, 16))?.transpose(1, 2)?.contiguous()?;
    let product = |q: &Tensor, k: &Tensor| -> Result<Tensor> { Ok((q.matmul(&k.t()?)? * 0.25)?) };
    let positions = layer.positions();
    let scores = match positions.kind() {
        PositionKind::Input => product(&heads, &heads)?,
        PositionKind::Rotation => {
            let (q, k) = positions.rotate(&heads, &heads, 0)?;
            product(&q, &k)?
        }
        PositionKind::Bias => product(&heads, &heads)?.broadcast_add(&positions.attention_bias(length, length, 0)?)?,
        _ => positions.attention_scores(&heads, &heads, 0, 0)?,
    };
    let scores: Vec<f32> = scores.get(0)?.get(0)?.flatten_all()?.to_vec1()?;
    let mean = scores.iter().copied().map(f64::from).sum::<f64>() / scores.len() as f64;
    Ok(scores.into_iter().map(|score| (f64::from(score) - mean) as f32).collect())
}

fn draw(path: &Path, panels: &[(&str, Vec<f32>)]) -> Result<()> {
    chart::register()?;
    std::fs::File::create(path).with_context(|| path.display().to_string())?;
    let n_columns = panels.len().min(5);
    let n_rows = panels.len().div_ceil(n_columns);
    let area = BitMapBackend::new(path, (290 * n_columns as u32, 300 * n_rows as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    for (area, (name, values)) in area.split_evenly((n_rows, n_columns)).iter().zip(panels) {
        chart::matrix(area, name, values)?;
    }
    Ok(area.present()?)
}
