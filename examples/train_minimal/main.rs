//! Trains the smallest model that learns something: text → loader → layer → two blocks → tied head → loss → AdamW.
//!
//! `cargo run --release --example train_minimal` prints the loss as it falls, and the tokens nearest to a word.

#[allow(dead_code)] // it can also load checkpoints and generate
#[path = "../gpt2/model.rs"]
mod model;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use candle_gpt_input::data::{Loader, LoaderConfig, Seeding, Tokens};
use candle_gpt_input::{DeviceSpec, GptInputConfig, GptInputLayer};
use candle_gpt_input::{init::Init, optim::AdamW, rng::Generator, tokenizer::Tokenizer};
use candle_nn::{Optimizer, ParamsAdamW, VarBuilder, VarMap, loss::cross_entropy};
use std::{collections::BTreeSet, io::Write};

fn main() -> Result<()> {
    let out = &mut std::io::stdout().lock();
    let command = clap::Command::new("train_minimal").about("Trains two blocks on the first chapters of Genesis");
    let device = clap::arg!(--device <DEVICE> "auto, cpu, cuda[:N] or metal[:N]").default_value("cpu");
    let device = command.arg(device).get_matches().remove_one::<String>("device").context("no device")?;
    let device = device.parse::<DeviceSpec>()?.resolve()?;
    let generator = Generator::manual_seed(123);
    // Only tokens that occur get a row, a thousand instead of GPT-2's 50257: a step then takes milliseconds.
    let gpt2_ids = Tokenizer::gpt2().encode(include_str!("../data/genesis.txt"))?;
    let vocabulary: Vec<u32> = gpt2_ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let ids = gpt2_ids.iter().filter_map(|id| Some(vocabulary.binary_search(id).ok()? as u32)).collect();
    let cut = LoaderConfig::default().with_batch_size(8).with_max_length(32).with_stride(32);
    let loader = Loader::new(&Tokens::new(ids), cut, Seeding::Global(generator.clone()), &device)?;
    let config = GptInputConfig::new(vocabulary.len(), 32, 32).with_n_layer(2).with_n_head(4).with_embd_pdrop(0.0);
    let varmap = VarMap::new();
    let input = GptInputLayer::init(&config, Init::Gpt2 { std: 0.02 }, &generator, DType::F32, &device)?;
    let input = input.trainable(&varmap, "transformer")?; // its tables are variables of the map now
    let blocks = VarBuilder::from_varmap(&varmap, DType::F32, &device).pp("transformer");
    let gpt = model::Gpt2::new(input, blocks)?; // and so are the weights of the blocks
    let mut adamw = AdamW::from_varmap(&varmap, ParamsAdamW { lr: 5e-3, ..Default::default() })?;
    writeln!(out, "nearest to \" sons\" before: {:?}", nearest(gpt.input(), &vocabulary, " sons")?)?;
    for epoch in 0..6 {
        let mut losses = Vec::new();
        for batch in loader.epoch() {
            let batch = batch?;
            let logits = gpt.forward(&batch.input_ids, None)?.flatten(0, 1)?; // [B, T] -> [B, T, V] -> [B T, V]
            let loss = cross_entropy(&logits, &batch.target_ids.flatten_all()?)?;
            adamw.backward_step(&loss)?;
            ensure!(adamw.missing_gradients().is_empty(), "no gradient reaches {:?}", adamw.missing_gradients());
            losses.push(loss.to_scalar::<f32>()?);
        }
        writeln!(out, "epoch {epoch}, mean loss {:.3}", losses.iter().sum::<f32>() / losses.len() as f32)?;
    }
    Ok(writeln!(out, "nearest to \" sons\" after: {:?}", nearest(gpt.input(), &vocabulary, " sons")?)?)
}

/// Returns the tokens whose rows of `wte` have the largest cosine with the word's row.
fn nearest(input: &GptInputLayer, vocabulary: &[u32], word: &str) -> Result<Vec<String>> {
    let at = vocabulary.binary_search(&Tokenizer::gpt2().encode(word)?[0]).ok().context("a word of the text")?;
    let wte = input.embed_tokens(&Tensor::arange(0, vocabulary.len() as u32, input.device())?)?;
    let wte = wte.broadcast_div(&wte.sqr()?.sum_keepdim(1)?.sqrt()?)?; // rows of length 1
    let order = wte.matmul(&wte.get(at)?.unsqueeze(1)?)?.squeeze(1)?.arg_sort_last_dim(false)?;
    order.to_vec1::<u32>()?[1..6].iter().map(|&at| Ok(Tokenizer::gpt2().decode(&[vocabulary[at as usize]])?)).collect()
}
