//! GPT-2 on top of [`GptInputLayer`]: pre-norm blocks, causal attention with a key/value cache, final norm, output
//! head.
//!
//! One file to copy, with its linear layers in `gguf.rs`. The input layer is everything below the first block, and its
//! table serves as the head: see [`Gpt2::hidden_states`] and [`Gpt2::forward`]. Everything can be trained: the norms,
//! the attention and the linear layers are those of [`candle_gpt_input::nn`], which keep gradients.
//!
//! The configuration chooses the positions: GPT-2's table, or any other scheme of the library (`config.position`).

#[path = "gguf.rs"]
mod gguf;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Module, Tensor};
use candle_gpt_input::checkpoint::Checkpoint;
use candle_gpt_input::data::PackedDocuments;
use candle_gpt_input::dropout::dropout;
use candle_gpt_input::input_layer::OpenOptions;
use candle_gpt_input::nn::{self, Approximate, Attention, LayerNorm};
use candle_gpt_input::position::{PositionEncoding, PositionKind};
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{GptInputConfig, GptInputLayer, LmHead, Positions};
use candle_nn::{VarBuilder, ops};
use gguf::{Projection, Stored};
use serde::Deserialize;

/// The settings of the blocks in a `config.json`; the defaults are those of `transformers.GPT2Config`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct BlockConfig {
    model_type: String,
    n_inner: Option<usize>,
    activation_function: Activation,
    layer_norm_epsilon: f64,
    attn_pdrop: f64,
    resid_pdrop: f64,
    scale_attn_weights: bool,
    scale_attn_by_inverse_layer_idx: bool,
    add_cross_attention: bool,
    // `reorder_and_upcast_attn` needs no field: the softmax of `nn` is always computed in f32 or wider.
}

impl Default for BlockConfig {
    fn default() -> Self {
        Self {
            model_type: "gpt2".to_string(),
            n_inner: None,
            activation_function: Activation::GeluNew,
            layer_norm_epsilon: 1e-5,
            attn_pdrop: 0.1,
            resid_pdrop: 0.1,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            add_cross_attention: false,
        }
    }
}

impl BlockConfig {
    /// Reads the settings, and refuses those of another architecture.
    fn of(config: &GptInputConfig) -> Result<Self> {
        let blocks: Self = serde_json::to_value(config).and_then(serde_json::from_value).context("config")?;
        ensure!(blocks.model_type == "gpt2", "config: model_type `{}` is not gpt2", blocks.model_type);
        ensure!(!blocks.add_cross_attention, "config: add_cross_attention is not supported");
        Ok(blocks)
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Activation {
    #[serde(alias = "gelu_pytorch_tanh", alias = "gelu_fast")]
    GeluNew,
    Gelu,
    Relu,
    #[serde(alias = "swish")]
    Silu,
    Tanh,
    QuickGelu,
}

impl Activation {
    fn forward(self, x: &Tensor) -> Result<Tensor> {
        // Halves are widened, and rounded once.
        let wide = if x.dtype() == DType::F64 { x.clone() } else { x.to_dtype(DType::F32)? };
        let y = match self {
            Self::GeluNew => nn::gelu(&wide, Approximate::Tanh)?,
            Self::Gelu => nn::gelu(&wide, Approximate::None)?,
            Self::Relu => wide.relu()?,
            Self::Silu => wide.silu()?,
            Self::Tanh => wide.tanh()?,
            Self::QuickGelu => (&wide * ops::sigmoid(&(&wide * 1.702)?)?)?,
        };
        Ok(y.to_dtype(x.dtype())?)
    }
}

/// The keys and values of the tokens seen so far; empty at the start of a sequence.
#[derive(Debug, Default)]
pub struct KvCache {
    n_tokens: usize,
    /// Of each block.
    blocks: Vec<[Room; 2]>,
}

impl KvCache {
    /// Forgets all but the first `n_tokens`.
    pub fn truncate(&mut self, n_tokens: usize) {
        self.n_tokens = self.n_tokens.min(n_tokens);
    }
}

/// Keys or values `[B, H, room, D]` with room for more tokens: those seen so far are written once and not moved.
#[derive(Debug, Default)]
struct Room(Option<Tensor>);

impl Room {
    /// Adds `x` `[B, H, T, D]` behind the first `n` tokens, and returns all of them: `[B, H, n + T, D]`.
    fn append(&mut self, n: usize, x: &Tensor) -> Result<Tensor> {
        let (b, h, t, d) = x.dims4()?;
        let room = match self.0.take() {
            Some(room) if room.dim(2)? >= n + t => room,
            old => {
                let room = Tensor::zeros((b, h, (2 * n).max(n + t).next_multiple_of(64), d), x.dtype(), x.device())?;
                if let Some(old) = old {
                    room.slice_set(&old.narrow(2, 0, n)?.contiguous()?, 2, 0)?;
                }
                room
            }
        };
        room.slice_set(&x.contiguous()?, 2, n)?;
        Ok(self.0.insert(room).narrow(2, 0, n + t)?)
    }
}

/// Which tokens a query does not see, besides those after it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen<'a> {
    /// `[B, M]`: 1 for a token, 0 for padding.
    pub attention_mask: Option<&'a Tensor>,
    /// The documents of packed rows, each of which sees itself alone. Their positions are
    /// [`PackedDocuments::position_ids`].
    pub documents: Option<&'a PackedDocuments>,
}

/// GPT-2: token ids in, logits out.
#[derive(Clone, Debug)]
pub struct Gpt2 {
    input: GptInputLayer,
    blocks: Vec<Block>,
    ln_f: LayerNorm,
    lm_head: LmHead,
}

impl Gpt2 {
    /// Puts the blocks of `vb` (`h.0`, `h.1`, …, `ln_f`) on an input layer, whose head is the model's.
    pub fn new(input: GptInputLayer, vb: VarBuilder) -> Result<Self> {
        Self::with_stored(input, vb, &|_, _| Ok(None))
    }

    /// Does the same with linear layers whose weights stay in blocks.
    pub fn with_stored(input: GptInputLayer, vb: VarBuilder, stored: Stored) -> Result<Self> {
        let config = input.config();
        let block_config = BlockConfig::of(config)?;
        let (n_head, n_embd) = (config.n_head, config.n_embd);
        ensure!(n_head > 0 && n_embd % n_head == 0, "config: n_embd {n_embd} is not a multiple of n_head {n_head}");
        let block = |i| Block::load(i, config, &block_config, vb.pp("h").pp(i), stored);
        let blocks = (0..config.n_layer).map(block).collect::<Result<_>>()?;
        let ln_f = LayerNorm::load(vb.pp("ln_f"), config.n_embd, block_config.layer_norm_epsilon)?;
        let lm_head = input.lm_head()?;
        Ok(Self { input, blocks, ln_f, lm_head })
    }

    /// Checks that a checkpoint is that of a whole GPT-2. Reads no weights.
    pub fn check(checkpoint: &Checkpoint) -> Result<()> {
        let config = checkpoint.config()?;
        BlockConfig::of(&config)?; // another architecture has other names
        let names: Vec<String> = checkpoint.tensors()?.iter().map(|entry| format!(".{}", entry.name)).collect();
        let has = |part: &str| names.iter().any(|name| name.contains(part));
        let (is_whole, n_layer) = (has(".ln_f.weight") || has(".output_norm.weight"), config.n_layer);
        ensure!(is_whole, "no ln_f.weight or output_norm.weight: not a whole GPT-2; embed takes input tables alone");
        for next in [format!("h.{n_layer}"), format!("blk.{n_layer}")] {
            let is_all = !has(&format!(".{next}."));
            ensure!(is_all, "config: n_layer is {n_layer}, but the weights go on with {next}: correct n_layer");
        }
        Ok(())
    }

    /// Reads a whole checkpoint: Hugging Face's, one file or shards, tied or untied, under any prefix; or a GGUF file.
    pub fn from_checkpoint(checkpoint: &Checkpoint, dtype: DType, device: &Device) -> Result<Self> {
        let (input, vb) = Self::parts(checkpoint, dtype, device)?;
        Self::new(input, vb)
    }

    /// Reads a GGUF file whose quantized weights stay in their blocks, in memory and while they are multiplied.
    pub fn quantized(checkpoint: &Checkpoint, dtype: DType, device: &Device) -> Result<Self> {
        Self::check(checkpoint)?;
        let input = gguf::input_in_blocks(checkpoint, dtype, device)?;
        let vb = gguf::var_builder(checkpoint, dtype, device);
        let model = Self::with_stored(input, vb, &|module, dims| gguf::blocks(checkpoint, module, dims))?;
        let tables = [model.input.wte(), model.lm_head.table()].map(|table| table.block_type().is_some());
        let is_quantized = tables.contains(&true) || model.blocks.iter().any(Block::is_quantized);
        ensure!(is_quantized, "no weight of the file is quantized: read it without keeping blocks");
        Ok(model)
    }

    /// Reads the input layer of a whole checkpoint, and returns what the blocks are read from.
    pub fn parts<'a>(
        checkpoint: &'a Checkpoint,
        dtype: DType,
        device: &Device,
    ) -> Result<(GptInputLayer, VarBuilder<'a>)> {
        Self::check(checkpoint)?;
        let (input, report) = GptInputLayer::open(checkpoint, &OpenOptions::new(dtype, device))?;
        if report.wte.name == gguf::WTE {
            return Ok((input, gguf::var_builder(checkpoint, dtype, device)));
        }
        let root = checkpoint.var_builder(dtype, device);
        let prefix = report.wte.name.strip_suffix("wte.weight").context("the names are not Hugging Face's")?;
        Ok((input, prefix.strip_suffix('.').map_or(root.clone(), |prefix| root.pp(prefix))))
    }

    pub fn input(&self) -> &GptInputLayer {
        &self.input
    }

    pub fn lm_head(&self) -> &LmHead {
        &self.lm_head
    }

    /// Computes the logits of a sequence from its start: `[B, T] -> [B, T, V]`.
    pub fn forward(&self, input_ids: &Tensor, attention_mask: Option<&Tensor>) -> Result<Tensor> {
        let hidden_states = self.hidden_states(input_ids, attention_mask, None)?;
        Ok(self.lm_head.forward(&hidden_states)?)
    }

    /// Computes the input of the head, `[B, T] -> [B, T, C]`, for the tokens that follow those in the cache; without a
    /// cache, for a sequence from its start.
    ///
    /// `attention_mask` `[B, M]` (1 token, 0 padding) counts from the start of the sequence. Columns beyond it are
    /// tokens, so the mask of a padded prompt serves for the whole generation.
    pub fn hidden_states(
        &self,
        input_ids: &Tensor,
        attention_mask: Option<&Tensor>,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        let n_cached = cache.as_ref().map_or(0, |cache| cache.n_tokens);
        let positions = match attention_mask {
            Some(mask) => Positions::from_mask(mask)?.after(n_cached),
            None => n_cached.into(),
        };
        let inputs_embeds = self.input.forward_at(input_ids, positions.clone())?; // wte[input_ids] + wpe[positions]
        self.transform(inputs_embeds, positions, Seen { attention_mask, ..Seen::default() }, cache, false)
    }

    /// Runs the blocks and the final norm on embeddings of your own: `[B, T, C] -> [B, T, C]`.
    ///
    /// With `train`, the config's `attn_pdrop` and `resid_pdrop` apply. Their masks are drawn from the input layer's
    /// generator in the order of transformers, so they equal those of `attn_implementation="eager"`.
    pub fn transform(
        &self,
        inputs_embeds: Tensor,
        positions: Positions,
        seen: Seen<'_>,
        mut cache: Option<&mut KvCache>,
        train: bool,
    ) -> Result<Tensor> {
        let (_, t, _) = inputs_embeds.dims3()?;
        let n_cached = cache.as_ref().map_or(0, |cache| cache.n_tokens);
        let encoding = self.input.positions();
        let mut attention = Attention::causal();
        if let Some(documents) = seen.documents {
            attention = attention.with_documents(documents);
        }
        if let Some(attention_mask) = seen.attention_mask {
            encoding.check_mask(attention_mask)?;
            attention = attention.with_padding(attention_mask)?;
        }
        if encoding.kind() == PositionKind::Bias {
            attention = attention.with_bias(&encoding.attention_bias(t, n_cached + t, n_cached)?);
        }
        let generator = train.then(|| self.input.generator());
        let call = Call { encoding, positions, n_cached, attention, generator };
        let mut hidden_states = inputs_embeds;
        for (i, block) in self.blocks.iter().enumerate() {
            let past = cache.as_mut().map(|cache| {
                cache.blocks.resize_with(self.blocks.len(), Default::default);
                &mut cache.blocks[i]
            });
            hidden_states = block.forward(&hidden_states, i, &call, past)?;
        }
        if let Some(cache) = cache {
            cache.n_tokens += t;
        }
        Ok(self.ln_f.forward(&hidden_states)?)
    }
}

/// The arguments of a call that all blocks share.
struct Call<'a> {
    encoding: &'a PositionEncoding,
    /// The positions of this call's tokens.
    positions: Positions,
    n_cached: usize,
    /// With masks and bias.
    attention: Attention,
    /// The generator of dropout masks, in training.
    generator: Option<&'a Generator>,
}

/// A block's keys and values, if it caches them.
type Past<'a> = Option<&'a mut [Room; 2]>;

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Clone, Debug)]
struct Block {
    ln_1: LayerNorm,
    attn: SelfAttention,
    ln_2: LayerNorm,
    c_fc: Projection,
    activation: Activation,
    c_proj: Projection,
    resid_pdrop: f64,
}

impl Block {
    fn load(i: usize, config: &GptInputConfig, block: &BlockConfig, vb: VarBuilder, stored: Stored) -> Result<Self> {
        let (n_embd, eps) = (config.n_embd, block.layer_norm_epsilon);
        let n_inner = block.n_inner.unwrap_or(4 * n_embd);
        // GPT-2 draws the projections into the residual stream smaller, the deeper the model.
        let stdev = config.initializer_range;
        let residual_stdev = stdev / (2.0 * config.n_layer as f64).sqrt();
        let d = n_embd / config.n_head;
        let mut scale = if block.scale_attn_weights { 1.0 / (d as f64).sqrt() } else { 1.0 };
        if block.scale_attn_by_inverse_layer_idx {
            scale /= (i + 1) as f64;
        }
        let attn = SelfAttention {
            c_attn: Projection::load((n_embd, 3 * n_embd, stdev), vb.pp("attn.c_attn"), stored)?,
            c_proj: Projection::load((n_embd, n_embd, residual_stdev), vb.pp("attn.c_proj"), stored)?,
            n_head: config.n_head,
            scale,
            pdrop: block.attn_pdrop,
        };
        Ok(Self {
            ln_1: LayerNorm::load(vb.pp("ln_1"), n_embd, eps)?,
            attn,
            ln_2: LayerNorm::load(vb.pp("ln_2"), n_embd, eps)?,
            c_fc: Projection::load((n_embd, n_inner, stdev), vb.pp("mlp.c_fc"), stored)?,
            activation: block.activation_function,
            c_proj: Projection::load((n_inner, n_embd, residual_stdev), vb.pp("mlp.c_proj"), stored)?,
            resid_pdrop: block.resid_pdrop,
        })
    }

    fn is_quantized(&self) -> bool {
        [&self.attn.c_attn, &self.attn.c_proj, &self.c_fc, &self.c_proj].into_iter().any(Projection::is_quantized)
    }

    fn forward(&self, x: &Tensor, i: usize, call: &Call, past: Past) -> Result<Tensor> {
        let attended = self.attn.forward(&self.ln_1.forward(x)?, i, call, past)?;
        let x = (x + dropped(attended, self.resid_pdrop, call.generator)?)?;
        let inner = self.activation.forward(&self.c_fc.forward(&self.ln_2.forward(&x)?)?)?;
        Ok((&x + dropped(self.c_proj.forward(&inner)?, self.resid_pdrop, call.generator)?)?)
    }
}

#[derive(Clone, Debug)]
struct SelfAttention {
    c_attn: Projection,
    c_proj: Projection,
    n_head: usize,
    scale: f64,
    pdrop: f64,
}

impl SelfAttention {
    fn forward(&self, x: &Tensor, i: usize, call: &Call, past: Past) -> Result<Tensor> {
        let (b, t, c) = x.dims3()?;
        let (encoding, n_cached) = (call.encoding, call.n_cached);
        let mut attention = call.attention.clone().with_scale(self.scale);
        if let Some(generator) = call.generator {
            attention = attention.with_dropout(self.pdrop, generator);
        }
        let qkv = self.c_attn.forward(x)?;
        if past.is_none() && matches!(encoding.kind(), PositionKind::Input | PositionKind::Bias) {
            return Ok(self.c_proj.forward(&attention.forward_packed(&qkv, self.n_head, self.n_head)?)?);
        }
        let (mut q, mut k, mut v) = nn::split_heads(&qkv, self.n_head, self.n_head)?;
        if encoding.kind() == PositionKind::Rotation {
            (q, k) = encoding.rotate(&q, &k, call.positions.clone())?;
        }
        if let Some([keys, values]) = past {
            (k, v) = (keys.append(n_cached, &k)?, values.append(n_cached, &v)?);
        }
        let heads = if encoding.kind() == PositionKind::Scores {
            let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
            // These scores are divided by √D already.
            let rescale = self.scale * ((c / self.n_head) as f64).sqrt();
            let scores = (encoding.attention_scores(&q, &k, i, n_cached)? * rescale)?;
            let weights = attention.weights(&scores)?.to_dtype(v.dtype())?;
            encoding.attention_output(&weights, &v, i, n_cached)?
        } else {
            attention.forward(&q, &k, &v)?
        };
        Ok(self.c_proj.forward(&heads.transpose(1, 2)?.reshape((b, t, c))?)?)
    }
}

/// Applies dropout if there is a generator, that is, while training.
fn dropped(x: Tensor, p: f64, generator: Option<&Generator>) -> Result<Tensor> {
    generator.map_or(Ok(x.clone()), |generator| Ok(dropout(&x, p, generator)?))
}
