//! A small GPT trained with each scheme: losses as it learns, and on longer sequences than it has seen.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{D, DType, Device, Tensor};
use candle_gpt_input::data::{Loader, LoaderConfig, Seeding, Tokens};
use candle_gpt_input::error::Shown;
use candle_gpt_input::init::Init;
use candle_gpt_input::optim::AdamW;
use candle_gpt_input::position::{PositionScheme, Resize};
use candle_gpt_input::rng::Generator;
use candle_gpt_input::tokenizer::Tokenizer;
use candle_gpt_input::{GptInputConfig, GptInputLayer};
use candle_nn::{Optimizer, ParamsAdamW, VarBuilder, VarMap, loss::cross_entropy, ops::log_softmax};
use plotters::style::RGBColor;

use super::chart::{self, Axis, Line};
use super::model::Gpt2;

/// What the models are trained on, and what they are then asked.
const TRAINED: usize = 32;
const LENGTHS: [usize; 5] = [8, 16, 32, 64, 128];
/// Points of a curve are means over so many steps.
const MEAN_OF: usize = 10;

const COLORS: [RGBColor; 9] = [
    RGBColor(31, 119, 180),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(23, 190, 207),
    RGBColor(120, 120, 120),
];

pub fn run(path: &Path, schemes: &[PositionScheme], steps: usize, seed: u64, out: &mut impl Write) -> Result<()> {
    std::fs::File::create(path).with_context(|| Shown::path(path).to_string())?; // before minutes of training
    let ids = Tokenizer::gpt2().encode(include_str!("../data/genesis.txt"))?;
    let mut vocabulary = ids.clone();
    vocabulary.sort_unstable();
    vocabulary.dedup();
    let ids: Vec<u32> = ids.iter().filter_map(|id| Some(vocabulary.binary_search(id).ok()? as u32)).collect();
    let entropy = unigram_entropy(&ids, vocabulary.len());
    // The last tenth is kept for the losses at other lengths.
    let (seen, held_out) = ids.split_at(ids.len() * 9 / 10);
    writeln!(
        out,
        "{} tokens of {} kinds, unigram entropy {entropy:.3}; {steps} steps of 8 x {TRAINED} tokens",
        ids.len(),
        vocabulary.len()
    )?;
    let (mut curves, mut by_length) = (Vec::new(), Vec::new());
    for (scheme, color) in schemes.iter().zip(COLORS.iter().cycle()) {
        let start = Instant::now();
        let sizes = GptInputConfig::new(vocabulary.len(), TRAINED, 32);
        let config = sizes.with_n_layer(2).with_n_head(4).with_embd_pdrop(0.0).with_position(scheme.clone());
        let varmap = VarMap::new();
        let (gpt, losses) = train(&config, &varmap, seen, steps, seed)?;
        let name = scheme.name().to_string();
        let means = losses.chunks(MEAN_OF).enumerate();
        let means = means.map(|(i, part)| (((i + 1) * MEAN_OF) as f64, part.iter().sum::<f64>() / part.len() as f64));
        let points: Vec<(f64, f64)> = means.collect();
        let last = points.last().map_or(f64::NAN, |&(_, loss)| loss);
        curves.push(Line { name: name.clone(), color: *color, points });
        let mut points = Vec::new();
        for length in LENGTHS {
            let gpt = at_length(&gpt, &config, &varmap, length)?;
            points.push((length as f64, loss_at(&gpt, held_out, length)?));
        }
        let text: Vec<String> = points.iter().map(|(length, loss)| format!("{length}: {loss:.2}")).collect();
        let (seconds, text) = (start.elapsed().as_secs_f64(), text.join(", "));
        writeln!(out, "{name:<15} loss {last:.3} after {seconds:.0} s; held out, by length {text}")?;
        out.flush()?;
        by_length.push(Line { name, color: *color, points });
    }
    draw(path, &curves, &by_length)?;
    Ok(writeln!(out, "wrote {}", Shown::path(path))?)
}

/// Computes the loss, in nats for each token, of a model that knows only how often each token occurs.
fn unigram_entropy(ids: &[u32], n: usize) -> f64 {
    let mut counts = vec![0f64; n];
    ids.iter().for_each(|&id| counts[id as usize] += 1.0);
    let total = ids.len() as f64;
    -counts.iter().filter(|&&count| count > 0.0).map(|count| count / total * (count / total).ln()).sum::<f64>()
}

fn train(config: &GptInputConfig, varmap: &VarMap, ids: &[u32], steps: usize, seed: u64) -> Result<(Gpt2, Vec<f64>)> {
    let (device, generator) = (Device::Cpu, Generator::manual_seed(seed));
    let cut = LoaderConfig::default().with_batch_size(8).with_max_length(TRAINED).with_stride(TRAINED);
    let loader = Loader::new(&Tokens::new(ids.to_vec()), cut, Seeding::Global(generator.clone()), &device)?;
    let input = GptInputLayer::init(config, Init::Gpt2 { std: 0.02 }, &generator, DType::F32, &device)?;
    let input = input.trainable(varmap, "transformer")?;
    seed_blocks(config, varmap, input.clone(), &generator)?;
    let gpt = Gpt2::new(input, VarBuilder::from_varmap(varmap, DType::F32, &device).pp("transformer"))?;
    let mut adamw = AdamW::new(varmap.all_vars(), ParamsAdamW { lr: 3e-3, ..Default::default() })?;
    let mut losses = Vec::new();
    while losses.len() < steps {
        for batch in loader.epoch().take(steps - losses.len()) {
            let batch = batch?;
            let logits = gpt.forward(&batch.input_ids, None)?.flatten(0, 1)?;
            let loss = cross_entropy(&logits, &batch.target_ids.flatten_all()?)?;
            adamw.backward_step(&loss)?;
            losses.push(f64::from(loss.to_scalar::<f32>()?));
        }
    }
    Ok((gpt, losses))
}

/// Draws the matrices again, from a seed and the same for every scheme: Candle draws fresh weights without one.
fn seed_blocks(config: &GptInputConfig, varmap: &VarMap, input: GptInputLayer, generator: &Generator) -> Result<()> {
    let own: Vec<String> = varmap.data().lock().map(|vars| vars.keys().cloned().collect()).unwrap_or_default();
    Gpt2::new(input, VarBuilder::from_varmap(varmap, DType::F32, &Device::Cpu).pp("transformer"))?;
    let vars = varmap.data().lock().map_err(|_| anyhow::anyhow!("a thread has panicked"))?;
    let mut fresh: Vec<_> = vars.iter().filter(|(name, _)| !own.contains(name)).collect();
    fresh.sort_by_key(|(name, _)| *name);
    for (name, var) in fresh {
        let &[n_in, n_out] = var.dims() else { continue };
        let deep = if name.ends_with("c_proj.weight") { (2.0 * config.n_layer as f64).sqrt() } else { 1.0 };
        let init = Init::Gpt2 { std: config.initializer_range / deep };
        var.set(&init.wte(n_in, n_out, generator, DType::F32, &Device::Cpu)?)?;
    }
    Ok(())
}

/// The same weights for sequences of another length: a learned table is stretched, a fixed one computed.
fn at_length(gpt: &Gpt2, config: &GptInputConfig, varmap: &VarMap, length: usize) -> Result<Gpt2> {
    let input = gpt.input().resize_positions(length.max(config.n_positions), Resize::Interpolate)?;
    Gpt2::new(input, VarBuilder::from_varmap(varmap, DType::F32, &Device::Cpu).pp("transformer"))
}

/// Computes the mean loss of the last 8 tokens of sequences of `length`, which have most of the past to use.
fn loss_at(gpt: &Gpt2, ids: &[u32], length: usize) -> Result<f64> {
    let starts: Vec<usize> = (0..ids.len() - length).step_by(16).collect();
    let (mut sum, mut n) = (0.0, 0.0);
    for batch in starts.chunks(16) {
        let rows = |shift: usize| {
            let flat: Vec<u32> = batch.iter().flat_map(|&start| ids[start + shift..][..length].to_vec()).collect();
            Tensor::from_vec(flat, (batch.len(), length), &Device::Cpu)
        };
        let hidden_states = gpt.hidden_states(&rows(0)?, None, None)?;
        let logits = gpt.lm_head().forward(&hidden_states.narrow(1, length - 8, 8)?.contiguous()?)?;
        let targets = rows(1)?.narrow(1, length - 8, 8)?.contiguous()?.unsqueeze(2)?;
        let chosen = log_softmax(&logits, D::Minus1)?.gather(&targets, 2)?;
        sum -= f64::from(chosen.sum_all()?.to_scalar::<f32>()?);
        n += (8 * batch.len()) as f64;
    }
    Ok(sum / n)
}

fn draw(path: &Path, curves: &[Line], by_length: &[Line]) -> Result<()> {
    let loss = |lines: &[Line]| {
        let values: Vec<f64> = lines.iter().flat_map(|line| &line.points).map(|point| point.1).collect();
        Axis::linear("loss (nats per token)", values, 0.0)
    };
    chart::save(path, (1500, 620), |area| {
        let (top, bottom) = area.split_vertically(70);
        let panels = bottom.split_evenly((1, 2));
        let steps = curves.iter().flat_map(|line| &line.points).map(|point| point.0);
        let steps = Axis::linear("training step", steps.chain([0.0]), 1.0);
        let title = format!("training, {TRAINED} tokens per sequence: mean loss of {MEAN_OF} steps");
        chart::lines(&panels[0], &title, &steps, &loss(curves), curves)?;
        let lengths = LENGTHS.map(|length| length as f64);
        let lengths = Axis::log("tokens per sequence", lengths).with_ticks(lengths);
        let title = "held-out text: mean loss of the last 8 tokens of a sequence";
        chart::lines(&panels[1], title, &lengths, &loss(by_length), by_length)?;
        chart::legend(&top, curves)
    })
}
