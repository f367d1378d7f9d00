//! The smallest training that works: text → loader → layer → two blocks → tied head → loss → AdamW.
//!
//! cargo run --release --example train_minimal
//!
//! Prints the loss as it falls, and the tokens nearest to a word before and after.

#[allow(dead_code)] // it can also load checkpoints and generate
#[path = "gpt2/model.rs"]
mod model;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_gpt_input::data::{Loader, LoaderConfig, Seeding, Tokens};
use candle_gpt_input::{GptInputConfig, GptInputLayer, init::Init, rng::Generator, tokenizer::Tokenizer};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, VarMap, loss::cross_entropy};

fn main() -> Result<()> {
    let device = Device::Cpu;
    let tokenizer = Tokenizer::gpt2()?;
    let generator = Generator::manual_seed(123);
    let tokens = Tokens::new(tokenizer.encode(include_str!("data/genesis.txt"))?);
    let cut = LoaderConfig { batch_size: 4, max_length: 32, stride: 32, ..Default::default() };
    let loader = Loader::new(&tokens, cut, Seeding::Global(generator.clone()), &device)?;

    let (vocab_size, n_positions, n_embd) = (tokenizer.vocab_size(), 32, 32);
    let sizes = GptInputConfig::new(vocab_size, n_positions, n_embd);
    let config = GptInputConfig { n_layer: 2, n_head: 4, embd_pdrop: 0.0, ..sizes };
    let varmap = VarMap::new();
    let input = GptInputLayer::init(&config, Init::Gpt2 { std: 0.02 }, &generator, DType::F32, &device)?;
    let input = input.trainable(&varmap, "transformer")?; // its tables are variables of the map now
    let blocks = VarBuilder::from_varmap(&varmap, DType::F32, &device).pp("transformer");
    let gpt = model::Gpt2::new(input, blocks)?; // and so are the weights of the blocks
    let mut adamw = AdamW::new(varmap.all_vars(), ParamsAdamW { lr: 1e-2, ..Default::default() })?;

    println!("nearest before: {:?}", nearest(gpt.input(), tokenizer, " earth")?);
    for (step, batch) in loader.epoch().enumerate() {
        let batch = batch?;
        let logits = gpt.forward(&batch.input_ids, None)?; // [B, T] -> [B, T, V]
        let loss = cross_entropy(&logits.flatten(0, 1)?, &batch.target_ids.flatten_all()?)?;
        adamw.backward_step(&loss)?;
        if step % 8 == 0 {
            println!("step {step:>3}, loss {:.3}", loss.to_scalar::<f32>()?);
        }
    }
    println!("nearest after: {:?}", nearest(gpt.input(), tokenizer, " earth")?);
    Ok(())
}

/// The tokens whose rows of `wte` point most nearly the way that the word's row does.
fn nearest(input: &GptInputLayer, tokenizer: &Tokenizer, word: &str) -> Result<Vec<String>> {
    let wte = input.embed_tokens(&Tensor::arange(0, input.config().vocab_size as u32, input.device())?)?;
    let wte = wte.broadcast_div(&wte.sqr()?.sum_keepdim(1)?.sqrt()?)?; // rows of length 1
    let row = wte.get(tokenizer.encode(word)?[0] as usize)?.unsqueeze(1)?;
    let order = wte.matmul(&row)?.squeeze(1)?.arg_sort_last_dim(false)?.to_vec1::<u32>()?;
    order[1..6].iter().map(|&id| Ok(tokenizer.decode(&[id])?)).collect()
}
