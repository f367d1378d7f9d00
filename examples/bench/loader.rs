//! Batches of a corpus that stays in its files beside those of the same ids in memory, shuffled.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use candle_gpt_input::data::corpus::{About, Corpus, CorpusFormat, CorpusOptions, CorpusWriter};
use candle_gpt_input::data::{Loader, LoaderConfig, Seeding, Tokens};
use candle_gpt_input::error::Shown;
use candle_gpt_input::rng::Generator;

use super::cases::Shape;
use super::memory;

const TOKENS_PER_DOCUMENT: u64 = 100_000;
const N_SHARDS: u64 = 10;
const N_ROUNDS: usize = 21;

/// Writes the corpus into `folder` unless it is there, and prints what it costs to open and a line for each contender.
pub fn run(folder: &Path, shape: &Shape, is_quick: bool, out: &mut impl Write) -> Result<()> {
    let (n_documents, n_batches) = if is_quick { (10, 4) } else { (10_000, 2000) };
    let folder = folder.join(format!("corpus_{}_{n_documents}", shape.vocab_size));
    write_corpus(&folder, n_documents, shape.vocab_size)?;
    let (before, start) = (memory::status("RssAnon")?, Instant::now());
    let corpus = Corpus::open(&[&folder], &CorpusOptions::default().with_vocab_size(shape.vocab_size))?;
    let (ms, mb) = (1e3 * start.elapsed().as_secs_f64(), memory::status("RssAnon")? - before);
    let (n_tokens, n_files) = (corpus.n_tokens(), corpus.files().len());
    writeln!(
        out,
        "{}: {n_tokens} tokens in {n_files} files, opened in {ms:.1} ms and {mb:.1} MB",
        Shown::path(&folder)
    )?;

    let in_memory = Tokens::from_documents(corpus.tokens().documents().map(|ids| ids.to_vec()));
    let loader = |tokens: &Tokens| {
        let config = LoaderConfig::default().with_batch_size(shape.batch).with_max_length(shape.length);
        Loader::new(
            tokens,
            config.with_stride(shape.length),
            Seeding::Global(Generator::manual_seed(123)),
            &Device::Cpu,
        )
    };
    let loaders = [("in memory", loader(&in_memory)?), ("in files", loader(corpus.tokens())?)];
    let mut epochs = loaders.each_ref().map(|(_, loader)| loader.epoch());
    let mut times = [const { Vec::new() }; 2];
    for round in 0..N_ROUNDS {
        let mut last = [const { Vec::new() }; 2];
        for ((epoch, times), last) in epochs.iter_mut().zip(&mut times).zip(&mut last) {
            let start = Instant::now();
            let batch = epoch.take(n_batches).last().context("the epoch has ended")??;
            // The first round warms the page cache.
            if round > 0 {
                times.push(start.elapsed().as_secs_f64() / n_batches as f64);
            }
            *last = batch.target_ids.flatten_all()?.to_vec1::<u32>()?;
        }
        ensure!(last[0] == last[1], "the batches of round {round} differ");
    }
    for ((name, _), times) in loaders.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        writeln!(out, "{name:<12}{:>10.0} batches/s {:>10.1} µs", 1.0 / median, 1e6 * median)?;
    }
    Ok(())
}

/// Writes ids that all occur as often.
fn write_corpus(folder: &Path, n_documents: u64, vocab_size: usize) -> Result<()> {
    let shard_tokens = n_documents * TOKENS_PER_DOCUMENT / N_SHARDS;
    let about = About::new(CorpusFormat::Llmc, vocab_size, "none", None, shard_tokens);
    let mut writer = CorpusWriter::create(folder, about)?;
    for document in writer.n_done()..n_documents {
        let numbers = (0..TOKENS_PER_DOCUMENT).map(|nth| document * TOKENS_PER_DOCUMENT + nth);
        // The high bits of multiples of an odd number, scaled to the vocabulary.
        let high = numbers.map(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32);
        writer.push(&high.map(|bits| ((bits * vocab_size as u64) >> 32) as u32).collect::<Vec<_>>())?;
    }
    Ok(writer.finish().map(drop)?)
}
