//! Shows position schemes side by side: where each acts, and how it scores identical tokens.
//!
//! cargo run --release --example positions
//! cargo run --release --example positions -- --compare /tmp/compare.png
//!
//! Draws one panel per scheme into positions.png: the score of a query in row i and a key in column j. Both belong to
//! the same token, so positions alone make the difference: red above the mean of the panel, blue below. Keys after the
//! query stay blank: a causal model never sees them. Learned tables are fresh, from N(0, 1), so that they are visible.

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

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_gpt_input::error::Shown;
use candle_gpt_input::init::Init;
use candle_gpt_input::position::{PositionKind, PositionScheme};
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{GptInputConfig, GptInputLayer};
use chart::Area;
use clap::Parser;
use plotters::style::BLACK;
use plotters::style::text_anchor::HPos;

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
    #[arg(long, default_value_t = 123, value_parser = cli::seed)]
    seed: u64,
    /// Train a small model with each scheme instead, and draw its losses into this PNG (minutes)
    #[arg(long, value_name = "F.png")]
    compare: Option<PathBuf>,
    /// Steps of training for --compare
    #[arg(long, default_value_t = 200, requires = "compare", value_parser = cli::count::<usize>)]
    steps: usize,
}

fn main() -> ExitCode {
    cli::settle_threads();
    cli::exit(run(cli::args(), &mut cli::Output::default()))
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
    Ok(writeln!(out, "wrote {}", Shown::path(&args.out))?)
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

/// Returns the first head's `T * T` scores of token 0 everywhere; the hidden states themselves are queries and keys.
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
    Ok(scores.get(0)?.get(0)?.flatten_all()?.to_vec1()?)
}

fn draw(path: &Path, panels: &[(&str, Vec<f32>)]) -> Result<()> {
    let n_columns = panels.len().clamp(2, 5); // two have room for the notes
    let n_rows = panels.len().div_ceil(n_columns);
    chart::save(path, (280 * n_columns as u32, 290 * n_rows as u32 + 80), |area| {
        let (upper, foot) = area.split_vertically(580 * n_rows as i32);
        for (area, (name, scores)) in upper.split_evenly((n_rows, n_columns)).iter().zip(panels) {
            panel(area, name, scores)?;
        }
        chart::color_bar(&foot, "-largest", "+largest")?;
        let notes = [
            "Score of query i and key j, less the mean of the panel. The largest difference stands over each panel.",
            "Keys after the query (j > i) stay blank: a causal model never sees them.",
        ];
        for (note, y) in notes.into_iter().zip([76, 120]) {
            chart::write(&foot, note, (foot.dim_in_pixel().0 as i32 / 2, y), HPos::Center, &BLACK)?;
        }
        Ok(())
    })
}

/// Draws how much each score that a causal model sees differs from their mean.
fn panel(area: &Area, name: &str, scores: &[f32]) -> Result<()> {
    let n = scores.len().isqrt();
    let seen = || (0..n).flat_map(|i| &scores[i * n..][..=i]).copied();
    let mean = (seen().map(f64::from).sum::<f64>() / seen().count() as f64) as f32;
    let largest = seen().fold(0f32, |largest, score| largest.max((score - mean).abs()));
    let part = |i: usize, j: usize| (j <= i).then(|| (scores[i * n + j] - mean) / largest.max(f32::MIN_POSITIVE));
    let title = format!("{name} (largest {largest:.2})");
    chart::matrix(area, &title, ("key position j", "query position i"), n, part)
}
