//! What the page asks of a checkpoint whose tables are in memory.

use std::cell::RefCell;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, IndexOp, Tensor};
use candle_gpt_input::GptInputLayer;
use candle_gpt_input::checkpoint::{ByteRanges, Checkpoint, CheckpointOptions};
use candle_gpt_input::init::Init;
use candle_gpt_input::input_layer::OpenOptions;
use candle_gpt_input::rng::Generator;

use crate::gpt2::{Gpt2, KvCache};
use crate::map::{self, Flat};
use crate::rows::{Rows, dot, largest};

/// The tokens of a file that holds only chosen rows, in the order of the rows: whole numbers in f64, since a checkpoint
/// is floats.
pub const CHOSEN: &str = "chosen_ids";

const ONLY_CHOSEN: &str = "this page holds only chosen rows of the model";

/// Rows count as one if their cosine is larger.
const SAME: f32 = 0.99;
/// If at least this share of all rows is nearly one row, it is that of tokens that training never met.
const UNSEEN_SHARE: f64 = 0.25;

/// The input layer of a checkpoint, and its blocks where it has them.
pub struct Tables {
    layer: GptInputLayer,
    wte: Rows,
    wpe: Option<Rows>,
    /// The blocks, or why there are none.
    model: Result<Gpt2, String>,
    /// The tokens that have a row, ascending; `None` if all have.
    chosen: Option<Vec<u32>>,
    /// The `tokenizer.json` inside the file, until it is taken.
    tokenizer_json: Result<Option<String>>,
    /// The text whose keys and values are kept.
    cache: RefCell<(Vec<u32>, KvCache)>,
}

impl Tables {
    /// Reads all tables of a checkpoint, and its blocks if it is a whole GPT-2.
    pub fn open(shards: Vec<Arc<dyn ByteRanges>>, config_json: Option<String>) -> Result<Self> {
        let checkpoint = open(shards, config_json)?;
        if checkpoint.tensors()?.iter().any(|entry| entry.name == CHOSEN) {
            let layer = layer(&checkpoint)?;
            let chosen = chosen(&checkpoint, layer.config().vocab_size)?;
            return Self::new(layer, Err(ONLY_CHOSEN.to_string()), Some(chosen));
        }
        let tables = match Gpt2::from_checkpoint(&checkpoint, DType::F32, &Device::Cpu) {
            Ok(model) => Self::new(model.input().clone(), Ok(model), None),
            Err(error) => Self::new(layer(&checkpoint)?, Err(format!("{error:#}")), None),
        };
        Ok(Self { tokenizer_json: checkpoint.tokenizer_json().map_err(Into::into), ..tables? })
    }

    /// Takes the `tokenizer.json` that a GGUF file has inside.
    pub fn take_tokenizer_json(&mut self) -> Result<Option<String>> {
        std::mem::replace(&mut self.tokenizer_json, Ok(None))
    }

    fn new(layer: GptInputLayer, model: Result<Gpt2, String>, chosen: Option<Vec<u32>>) -> Result<Self> {
        let wte = Rows::new(layer.wte_embedding()?.embeddings())?;
        let wpe = layer.wpe().map(|wpe| Rows::new(wpe.embedding()?.embeddings())).transpose()?;
        Ok(Self { layer, wte, wpe, model, chosen, tokenizer_json: Ok(None), cache: RefCell::default() })
    }

    /// Returns tables of the same shape before any training, N(0, 0.02²), as `explore` and `pretrain` draw them.
    pub fn fresh(&self, seed: u64) -> Result<Self> {
        ensure!(self.chosen.is_none(), ONLY_CHOSEN);
        let (init, generator) = (Init::Gpt2 { std: 0.02 }, Generator::manual_seed(seed));
        let layer = GptInputLayer::init(self.layer.config(), init, &generator, DType::F32, &Device::Cpu)?;
        Self::new(layer, Err("before training there is nothing to predict with".to_string()), None)
    }

    pub fn layer(&self) -> &GptInputLayer {
        &self.layer
    }

    /// Returns the row of a token.
    pub fn row(&self, id: u32) -> Option<usize> {
        match &self.chosen {
            Some(chosen) => chosen.binary_search(&id).ok(),
            None => Some(id as usize).filter(|&row| row < self.wte.len()),
        }
    }

    fn id(&self, row: usize) -> u32 {
        self.chosen.as_ref().map_or(row as u32, |chosen| chosen[row])
    }

    fn rows(&self, ids: &[u32]) -> Result<Vec<u32>> {
        let row = |&id| Ok(self.row(id).with_context(|| format!("token {id} has no row here"))? as u32);
        ids.iter().map(row).collect()
    }

    /// Returns `wte`, `wpe` and their sum for each token at its position: `[3, T, C]`, flat.
    pub fn vectors(&self, ids: &[u32], positions: &[u32]) -> Result<Vec<f32>> {
        vectors(&self.layer, &self.rows(ids)?, positions)
    }

    /// Returns the `n` tokens with the largest cosines to a token, and the cosines.
    pub fn nearest(&self, id: u32, n: usize) -> Result<Vec<(f32, u32)>> {
        let row = self.rows(&[id])?[0] as usize;
        let found = self.wte.nearest(&self.wte.unit(row)?, &[row], n)?;
        Ok(found.into_iter().map(|(cosine, row)| (cosine, self.id(row))).collect())
    }

    /// Returns where tokens lie on the plane of their first two principal components.
    pub fn flat(&self, ids: &[u32]) -> Result<Flat> {
        let units = self.rows(ids)?.into_iter().map(|row| self.wte.unit(row as usize)).collect::<Result<Vec<_>>>()?;
        Ok(map::flat(&units))
    }

    /// Returns the rows of `wpe` at these positions, and the cosine of any two of them.
    pub fn positions(&self, positions: &[u32]) -> Result<(Vec<f32>, Vec<f32>)> {
        let wpe = self.layer.wpe().context("this model adds no table of positions to its input")?;
        let rows = wpe.embedding()?.embeddings().index_select(&Tensor::new(positions, &Device::Cpu)?, 0)?;
        let wpe = self.wpe.as_ref().context("no position table")?;
        let units = positions.iter().map(|&p| wpe.unit(p as usize)).collect::<Result<Vec<_>>>()?;
        let cosines = units.iter().flat_map(|left| units.iter().map(move |right| dot(left, right)));
        Ok((rows.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?, cosines.collect()))
    }

    /// Returns for each row whether its token is one that training never, or hardly ever, met.
    ///
    /// Every step pushes such rows in one direction, so that they end as nearly one row. No row is marked if fewer than
    /// a quarter of them are alike.
    pub fn unseen(&self) -> Result<Vec<u32>> {
        let mut mean = vec![0f32; self.wte.width];
        for row in 0..self.wte.len() {
            mean.iter_mut().zip(self.wte.unit(row)?).for_each(|(sum, x)| *sum += x);
        }
        let alike = |(row, cosine): (usize, f32)| (cosine > SAME).then(|| self.id(row));
        let found: Vec<u32> = self.wte.cosines(&mean)?.into_iter().enumerate().filter_map(alike).collect();
        let are_many = found.len() as f64 >= UNSEEN_SHARE * self.wte.len() as f64;
        Ok(if are_many { found } else { Vec::new() })
    }

    /// Returns the `n` likeliest tokens after a text, and their probabilities.
    pub fn next(&self, ids: &[u32], n: usize) -> Result<Vec<(f32, u32)>> {
        let model = self.model.as_ref().map_err(|reason| anyhow::anyhow!("{reason}"))?;
        let last = ids.len().checked_sub(1).context("no text")?;
        let mut cache = self.cache.borrow_mut();
        let (cached, keys) = &mut *cache;
        // While one types, all but the last tokens are those of before.
        let n_same = cached.iter().zip(&ids[..last]).take_while(|(old, new)| old == new).count();
        cached.truncate(n_same);
        keys.truncate(n_same);
        let input_ids = Tensor::new(&ids[n_same..], &Device::Cpu)?.unsqueeze(0)?;
        let hidden_states = model.hidden_states(&input_ids, None, Some(keys))?;
        *cached = ids.to_vec();
        let last = hidden_states.narrow(1, last - n_same, 1)?.contiguous()?;
        let logits: Vec<f32> = model.lm_head().forward(&last)?.i((0, 0))?.to_vec1()?;
        Ok(likeliest(&logits, n))
    }
}

/// Returns the `n` largest probabilities and their ids.
fn likeliest(logits: &[f32], n: usize) -> Vec<(f32, u32)> {
    let max = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f32 = logits.iter().map(|x| (x - max).exp()).sum();
    let found = largest(logits.iter().copied().zip(0..).collect(), n);
    found.into_iter().map(|(logit, id)| ((logit - max).exp() / sum, id)).collect()
}

/// Opens a checkpoint of one or several files.
pub fn open(shards: Vec<Arc<dyn ByteRanges>>, config_json: Option<String>) -> Result<Checkpoint> {
    let options = CheckpointOptions::default();
    let options = match config_json {
        Some(text) => options.with_config_json(text),
        None => options,
    };
    Ok(Checkpoint::from_shards(shards, &options)?)
}

fn layer(checkpoint: &Checkpoint) -> Result<GptInputLayer> {
    Ok(GptInputLayer::open(checkpoint, &OpenOptions::new(DType::F32, &Device::Cpu))?.0)
}

fn chosen(checkpoint: &Checkpoint, n_rows: usize) -> Result<Vec<u32>> {
    let ids = checkpoint.var_builder(DType::F64, &Device::Cpu).get_unchecked_dtype(CHOSEN, DType::F64)?;
    let ids: Vec<u32> = ids.to_dtype(DType::U32)?.flatten_all()?.to_vec1()?;
    ensure!(ids.len() == n_rows && ids.is_sorted_by(|a, b| a < b), "`{CHOSEN}` does not fit the {n_rows} rows");
    Ok(ids)
}

/// Returns `wte`, `wpe` and their sum for each row at its position: `[3, T, C]`, flat.
pub fn vectors(layer: &GptInputLayer, rows: &[u32], positions: &[u32]) -> Result<Vec<f32>> {
    let ids = Tensor::new(rows, &Device::Cpu)?.unsqueeze(0)?;
    let positions = Tensor::new(positions, &Device::Cpu)?.unsqueeze(0)?;
    // What a remote file lacks of both tables comes at once.
    layer.prefetch_at(&ids, &positions)?;
    let zeros = Tensor::zeros((1, rows.len(), layer.config().n_embd), DType::F32, &Device::Cpu)?;
    let parts =
        [layer.embed_tokens(&ids)?, layer.add_positions(&zeros, &positions)?, layer.forward_at(&ids, &positions)?];
    Ok(Tensor::cat(&parts, 0)?.flatten_all()?.to_vec1()?)
}
