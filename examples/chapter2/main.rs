//! Reproduces chapter 2 digit for digit: every value of the tutorial beside the PyTorch line that prints it.
//!
//! cargo run --release --example chapter2
//! cargo run --release --example chapter2 -- --text-file the-verdict.txt
//!
//! Prints the 6 × 3 table of seed 123 and its look-ups, shows what positions are for, prints the 8 × 4 batch and its
//! hidden states, and how far a dozen training steps move the vectors. With `--text-file` it starts from a text instead
//! of the book's ids.

#[path = "../cli/mod.rs"]
mod cli;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_gpt_input::data::{Loader, LoaderConfig, Seeding, Tokens};
use candle_gpt_input::embedding::{EmbeddingOptions, TokenTable};
use candle_gpt_input::init::Init;
use candle_gpt_input::rng::Generator;
use candle_gpt_input::tokenizer::Tokenizer;
use candle_gpt_input::{GptInputConfig, GptInputLayer};
use candle_nn::{Optimizer, SGD, VarMap};
use clap::Parser;

/// The first 33 token ids of "The Verdict" (Edith Wharton, 1908), as the book prints them: 8 windows of 4, and a
/// target.
const FIRST_IDS: [u32; 33] = [
    40, 367, 2885, 1464, 1807, 3619, 402, 271, 10899, 2138, 257, 7026, 15632, 438, 2016, 257, 922, 5891, 1576, 438,
    568, 340, 373, 645, 1049, 5975, 284, 502, 284, 3285, 326, 11, 287,
];

/// Prints the values of chapter 2 of "Build a Large Language Model (From Scratch)" and shows what they mean.
#[derive(Parser)]
struct Args {
    /// A text to take the batch from, instead of the ids that the book prints
    #[arg(long, value_name = "F")]
    text_file: Option<PathBuf>,
    /// Training steps at the end
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = cli::count::<usize>)]
    steps: usize,
}

fn main() -> ExitCode {
    cli::exit(run(cli::args(), &mut std::io::stdout().lock()))
}

fn run(args: Args, out: &mut impl Write) -> Result<()> {
    a_table_of_six_rows(out)?;
    positions_tell_order(out)?;
    let (layer, input_ids, target_ids) = the_batch(&args, out)?;
    training_moves_the_vectors(&layer, &input_ids, &target_ids, args.steps, out)
}

fn a_table_of_six_rows(out: &mut impl Write) -> Result<()> {
    let cpu = Device::Cpu;
    let generator = Generator::manual_seed(123);
    let options = EmbeddingOptions::default();
    let embedding = TokenTable::init((6, 3), options, Init::TorchEmbedding, &generator, DType::F32, &cpu)?;
    let weight = embedding.as_embedding().context("a dense table")?.embeddings().clone();
    writeln!(out, ">>> torch.manual_seed(123); embedding_layer = torch.nn.Embedding(6, 3)")?;
    writeln!(out, ">>> embedding_layer.weight\n{}", cli::tensor(&weight)?)?;

    let ids = Tensor::new(&[3u32], &cpu)?;
    writeln!(out, ">>> embedding_layer(torch.tensor([3]))\n{}", cli::tensor(&embedding.forward(&ids)?)?)?;
    let ids = Tensor::new(&[2u32, 3, 5, 1], &cpu)?;
    let rows = embedding.forward(&ids)?;
    writeln!(out, ">>> embedding_layer(torch.tensor([2, 3, 5, 1]))\n{}", cli::tensor(&rows)?)?;

    let one_hot = candle_nn::encoding::one_hot(ids, 6, 1f32, 0f32)?;
    let product = one_hot.matmul(&weight)?;
    ensure!(product.to_vec2::<f32>()? == rows.to_vec2::<f32>()?, "a look-up is a product with one-hot vectors");
    writeln!(out, ">>> F.one_hot(torch.tensor([2, 3, 5, 1]), 6).float() @ embedding_layer.weight")?;
    writeln!(out, "the same four rows: a look-up is a product with one-hot vectors")?;

    let beyond = embedding.forward(&Tensor::new(&[1u32, 2, 3, 4, 5, 6], &cpu)?).err().context("6 rows end at id 5")?;
    writeln!(out, ">>> embedding_layer(torch.tensor([1, 2, 3, 4, 5, 6]))  # ids count from 0\n{beyond}\n")?;
    Ok(())
}

fn positions_tell_order(out: &mut impl Write) -> Result<()> {
    let cpu = Device::Cpu;
    let token = Tensor::new(&[0.5f32, -0.2, 0.1], &cpu)?;
    let position = Tensor::new(&[0.1f32, 0.3, -0.1], &cpu)?;
    writeln!(out, ">>> torch.tensor([0.5, -0.2, 0.1]) + torch.tensor([0.1, 0.3, -0.1])")?;
    writeln!(out, "{}", cli::tensor(&(token + position)?)?)?;

    let sentences = [" el gato se sentó en la estera", " la estera se sentó en el gato"];
    let config = GptInputConfig::preset("tutorial")?.with_n_positions(16).with_n_embd(8);
    let layer = GptInputLayer::init(&config, Init::TorchEmbedding, &Generator::manual_seed(123), DType::F32, &cpu)?;
    let mut without = Vec::new();
    let mut with = Vec::new();
    for sentence in sentences {
        let ids = Tokenizer::gpt2().encode(sentence)?;
        writeln!(out, "{sentence:?} -> {ids:?}")?;
        let ids = Tensor::new(ids, &cpu)?;
        without.push(bag_of_vectors(&layer.embed_tokens(&ids)?)?);
        with.push(bag_of_vectors(&layer.forward(&ids)?)?);
    }
    ensure!(without[0] == without[1] && with[0] != with[1], "only positions tell the sentences apart");
    writeln!(out, "without positions: the same vectors, whoever sat on whom; with positions: different ones\n")?;
    Ok(())
}

/// Sorts the vectors, so that two sentences with the same words compare equal in any word order.
fn bag_of_vectors(vectors: &Tensor) -> Result<Vec<Vec<u32>>> {
    let mut bag: Vec<Vec<u32>> =
        vectors.to_vec2::<f32>()?.iter().map(|vector| vector.iter().map(|x| x.to_bits()).collect()).collect();
    bag.sort();
    Ok(bag)
}

fn the_batch(args: &Args, out: &mut impl Write) -> Result<(GptInputLayer, Tensor, Tensor)> {
    let cpu = Device::Cpu;
    let ids = match &args.text_file {
        Some(file) => {
            let text = cli::read_text(file)?;
            let ids = Tokenizer::gpt2().encode(&text)?;
            writeln!(out, ">>> len(tiktoken.get_encoding(\"gpt2\").encode(raw_text))\n{}", ids.len())?;
            ids
        }
        None => FIRST_IDS.to_vec(),
    };
    let config = LoaderConfig::default().with_batch_size(8).with_max_length(4).with_stride(4).with_shuffle(false);
    let generator = Generator::manual_seed(123);
    let loader = Loader::new(&Tokens::new(ids), config, Seeding::Global(generator), &cpu)?;
    let batch = loader.epoch().next().context("the text has fewer than 8 windows of 4 tokens")??;
    writeln!(
        out,
        ">>> dataloader = create_dataloader_v1(raw_text, batch_size=8, max_length=4, stride=4, shuffle=False)"
    )?;
    writeln!(out, ">>> inputs, targets = next(iter(dataloader)); inputs\n{}", cli::tensor(&batch.input_ids)?)?;
    writeln!(out, ">>> targets\n{}", cli::tensor(&batch.target_ids)?)?;

    let config = GptInputConfig::preset("tutorial")?;
    let layer = GptInputLayer::init(&config, Init::TorchEmbedding, &Generator::manual_seed(123), DType::F32, &cpu)?;
    let tokens = layer.embed_tokens(&batch.input_ids)?;
    let positions = layer.wpe().context("positions are learned")?.rows(&0.into(), &[4])?;
    let hidden_states = layer.forward(&batch.input_ids)?;
    writeln!(out, ">>> token_embedding_layer(inputs).shape\ntorch.Size({:?})", tokens.dims())?;
    writeln!(out, ">>> pos_embedding_layer(torch.arange(4)).shape\ntorch.Size({:?})", positions.dims())?;
    writeln!(out, ">>> (token_embeddings + pos_embeddings).shape\ntorch.Size({:?})", hidden_states.dims())?;
    let corner = hidden_states.get(0)?.narrow(1, 0, 4)?;
    writeln!(
        out,
        ">>> (token_embeddings + pos_embeddings)[0, :, :4]  # both tables drawn after torch.manual_seed(123)"
    )?;
    writeln!(out, "{}\n", cli::tensor(&corner)?)?;
    Ok((layer, batch.input_ids, batch.target_ids))
}

fn training_moves_the_vectors(
    layer: &GptInputLayer,
    input_ids: &Tensor,
    target_ids: &Tensor,
    steps: usize,
    out: &mut impl Write,
) -> Result<()> {
    let varmap = VarMap::new();
    let trained = layer.trainable(&varmap, "")?;
    let mut sgd = SGD::new(trained.vars(), 0.1)?;
    let targets = target_ids.flatten_all()?;
    for step in 0..steps {
        let logits = trained.lm_head()?.forward(&trained.forward(input_ids)?)?.flatten(0, 1)?;
        let loss = candle_nn::loss::cross_entropy(&logits, &targets)?;
        if step == 0 || step + 1 == steps {
            writeln!(out, "step {:>2}: loss {:.4}", step + 1, loss.to_scalar::<f32>()?)?;
        }
        sgd.backward_step(&loss)?;
    }
    let id = input_ids.flatten_all()?.narrow(0, 0, 1)?;
    let (before, after) = (layer.embed_tokens(&id)?, trained.embed_tokens(&id)?);
    let distance = (&after - &before)?.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?;
    writeln!(out, "token {}: its vector has moved by {distance:.4}", id.to_vec1::<u32>()?[0])?;
    writeln!(out, "before {}", cli::tensor(&before.narrow(1, 0, 6)?)?)?;
    writeln!(out, "after  {}", cli::tensor(&after.narrow(1, 0, 6)?)?)?;
    Ok(())
}
