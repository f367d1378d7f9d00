//! GPT-2 on top of [`GptInputLayer`]: pre-norm blocks, causal attention with a key/value cache, final norm, output
//! head.
//!
//! Copy this file with `fused.rs` and `attention.rs` beside it. The input layer is everything below the first block,
//! and its table serves as the head: see [`Gpt2::hidden_states`] and [`Gpt2::forward`]. Everything can be trained:
//! unlike `candle_nn::LayerNorm` and `candle_nn::ops::softmax_last_dim`, the layer norm and the softmax here have
//! gradients. In f32 on the CPU these two and the attention come from [`fused`]; every other dtype and device takes the
//! plain forms here.
//!
//! The configuration chooses the positions: GPT-2's table, or any other scheme of the library (`config.position`).

// Long because it is one file to copy.

use anyhow::{Context, Result, ensure};
use candle_core::{D, DType, Device, Tensor};
use candle_gpt_input::checkpoint::Checkpoint;
use candle_gpt_input::dropout::dropout;
use candle_gpt_input::input_layer::OpenOptions;
use candle_gpt_input::position::{PositionEncoding, PositionKind};
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{GptInputConfig, GptInputLayer, LmHead, Positions};
use candle_nn::{Init, VarBuilder, ops};
use serde::Deserialize;

#[path = "fused.rs"] // beside this file, wherever it is included from
mod fused;

/// Added to a score that must not count, whose weight then is exactly 0. It is finite: a row of padding, in which
/// nothing counts, gets weights that nobody reads. Infinity would make them NaN, which spreads.
const MASKED: f64 = -1e30;

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
    tie_word_embeddings: bool,
    // `reorder_and_upcast_attn` needs no field: the softmax here is always computed in f32 or wider.
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
            tie_word_embeddings: true,
        }
    }
}

impl BlockConfig {
    fn of(config: &GptInputConfig) -> Result<Self> {
        let blocks: Self = serde_json::to_value(config).and_then(serde_json::from_value).context("config")?;
        ensure!(blocks.model_type == "gpt2", "config: model_type `{}` is not gpt2", blocks.model_type);
        ensure!(!blocks.add_cross_attention, "config: add_cross_attention is not supported");
        let (n_head, n_embd) = (config.n_head, config.n_embd);
        ensure!(n_head > 0 && n_embd % n_head == 0, "config: n_embd {n_embd} is not a multiple of n_head {n_head}");
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
        let dtype = x.dtype();
        let x = widened(x)?;
        let y = match self {
            Self::GeluNew if fused::is_fused(&x) => fused::gelu(&x)?,
            Self::GeluNew => x.gelu()?,
            Self::Gelu => x.gelu_erf()?,
            Self::Relu => x.relu()?,
            Self::Silu => x.silu()?,
            Self::Tanh => x.tanh()?,
            Self::QuickGelu => (&x * ops::sigmoid(&(&x * 1.702)?)?)?,
        };
        Ok(y.to_dtype(dtype)?)
    }
}

/// The keys and values of the tokens seen so far; empty at the start of a sequence.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    n_tokens: usize,
    /// For each block: `[B, H, n_tokens, D]` twice.
    blocks: Vec<Option<(Tensor, Tensor)>>,
}

impl KvCache {
    fn block(&mut self, i: usize) -> &mut Option<(Tensor, Tensor)> {
        if self.blocks.len() <= i {
            self.blocks.resize(i + 1, None);
        }
        &mut self.blocks[i]
    }
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
    /// Puts the blocks of `vb` (`h.0`, `h.1`, …, `ln_f`) and a tied head on an input layer.
    pub fn new(input: GptInputLayer, vb: VarBuilder) -> Result<Self> {
        let config = input.config();
        let block_config = BlockConfig::of(config)?;
        let block = |i| Block::load(i, config, &block_config, vb.pp("h").pp(i));
        let blocks = (0..config.n_layer).map(block).collect::<Result<_>>()?;
        let ln_f = LayerNorm::load(config.n_embd, block_config.layer_norm_epsilon, vb.pp("ln_f"))?;
        let lm_head = input.lm_head()?;
        Ok(Self { input, blocks, ln_f, lm_head })
    }

    /// Returns the model with a head of its own, `[V, C]`.
    pub fn with_head(self, lm_head: Tensor) -> Result<Self> {
        Ok(Self { lm_head: LmHead::new(lm_head)?, ..self })
    }

    /// Reads a whole Hugging Face checkpoint: one file or shards, tied or untied, under any prefix.
    pub fn from_checkpoint(checkpoint: &Checkpoint, dtype: DType, device: &Device) -> Result<Self> {
        // Refuse what cannot run before reading anything.
        let is_whole = checkpoint.tensors()?.iter().any(|entry| entry.name.ends_with("ln_f.weight"));
        ensure!(is_whole, "no ln_f.weight: these are not the weights of a whole GPT-2; embed takes input tables alone");
        let block_config = BlockConfig::of(&checkpoint.config()?)?;
        let (input, report) = GptInputLayer::open(checkpoint, &OpenOptions::new(dtype, device))?;
        let root = checkpoint.var_builder(dtype, device);
        let prefix = report.wte.name.strip_suffix("wte.weight").context("the names are not Hugging Face's")?;
        let vb = match prefix.strip_suffix('.') {
            Some(prefix) => root.pp(prefix),
            None => root.clone(),
        };
        let model = Self::new(input, vb)?;
        let head_name = format!("{}lm_head.weight", prefix.strip_suffix("transformer.").unwrap_or(prefix));
        if !root.contains_tensor(&head_name) {
            ensure!(block_config.tie_word_embeddings, "tie_word_embeddings is false, but there is no {head_name}");
            return Ok(model);
        }
        // As in transformers, a head in the file is the table's copy only if it is equal, whatever the config says.
        let wte = model.input.wte().as_embedding().context("wte is not dense")?.embeddings().clone();
        let head = root.get(wte.shape(), &head_name)?;
        let n_different = head.ne(&wte)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
        if block_config.tie_word_embeddings && n_different == 0.0 { Ok(model) } else { model.with_head(head) }
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
        self.transform(inputs_embeds, positions, attention_mask, cache, false)
    }

    /// Runs the blocks and the final norm on embeddings of your own: `[B, T, C] -> [B, T, C]`.
    ///
    /// With `train`, the config's `attn_pdrop` and `resid_pdrop` apply. Their masks are drawn from the input layer's
    /// generator in the order of transformers, so they equal those of `attn_implementation="eager"`.
    pub fn transform(
        &self,
        inputs_embeds: Tensor,
        positions: Positions,
        attention_mask: Option<&Tensor>,
        mut cache: Option<&mut KvCache>,
        train: bool,
    ) -> Result<Tensor> {
        let (_, t, _) = inputs_embeds.dims3()?;
        let n_cached = cache.as_ref().map_or(0, |cache| cache.n_tokens);
        let mut mask = score_mask(t, n_cached, attention_mask, self.input.device())?;
        let encoding = self.input.positions();
        if let Some(attention_mask) = attention_mask {
            encoding.check_mask(attention_mask)?;
        }
        if encoding.kind() == PositionKind::Bias {
            let bias = widened(&encoding.attention_bias(t, n_cached + t, n_cached)?)?;
            mask = Some(match mask {
                Some(mask) => bias.broadcast_add(&mask.to_dtype(bias.dtype())?)?,
                None => bias,
            });
        }
        let generator = train.then(|| self.input.generator());
        let is_causal_only = cache.is_none() && attention_mask.is_none();
        let call = Call { encoding, positions, n_cached, mask, is_causal_only, generator };
        let mut hidden_states = inputs_embeds;
        for (i, block) in self.blocks.iter().enumerate() {
            let past = cache.as_mut().map(|cache| cache.block(i));
            hidden_states = block.forward(&hidden_states, i, &call, past)?;
        }
        if let Some(cache) = cache {
            cache.n_tokens += t;
        }
        self.ln_f.forward(&hidden_states)
    }
}

/// The arguments of a call that all blocks share.
struct Call<'a> {
    encoding: &'a PositionEncoding,
    /// The positions of this call's tokens.
    positions: Positions,
    n_cached: usize,
    /// Added to the scores.
    mask: Option<Tensor>,
    /// Set for whole sequences without padding, of which nothing is cached.
    is_causal_only: bool,
    /// The generator of dropout masks, in training.
    generator: Option<&'a Generator>,
}

/// Returns the mask to add to the scores of T queries behind `n_cached` keys: `[1 or B, 1, T, n_cached + T]`. It is
/// `None` if nothing is masked, as when a batch without padding decodes one token.
fn score_mask(t: usize, n_cached: usize, attention_mask: Option<&Tensor>, device: &Device) -> Result<Option<Tensor>> {
    let n_keys = n_cached + t;
    let causal = if t > 1 {
        let later = |query: usize| (0..n_keys).map(move |key| if key > n_cached + query { MASKED as f32 } else { 0. });
        Some(Tensor::from_vec((0..t).flat_map(later).collect::<Vec<_>>(), (1, 1, t, n_keys), device)?)
    } else {
        None
    };
    let Some(attention_mask) = attention_mask else { return Ok(causal) };
    let (b, n_columns) = attention_mask.dims2()?;
    let mut is_token = attention_mask.to_dtype(DType::F32)?.to_device(device)?;
    if n_columns < n_keys {
        is_token = Tensor::cat(&[&is_token, &Tensor::ones((b, n_keys - n_columns), DType::F32, device)?], 1)?;
    }
    let padding = is_token.narrow(1, 0, n_keys)?.affine(-MASKED, MASKED)?.reshape((b, 1, 1, n_keys))?;
    Ok(Some(match causal {
        Some(causal) => causal.broadcast_add(&padding)?,
        None => padding,
    }))
}

/// The slot for a block's keys and values, if it caches them.
type Past<'a> = Option<&'a mut Option<(Tensor, Tensor)>>;

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Clone, Debug)]
struct Block {
    ln_1: LayerNorm,
    attn: Attention,
    ln_2: LayerNorm,
    c_fc: Conv1D,
    activation: Activation,
    c_proj: Conv1D,
    resid_pdrop: f64,
}

impl Block {
    fn load(i: usize, config: &GptInputConfig, block: &BlockConfig, vb: VarBuilder) -> Result<Self> {
        let (n_embd, eps) = (config.n_embd, block.layer_norm_epsilon);
        let n_inner = block.n_inner.unwrap_or(4 * n_embd);
        // GPT-2 draws the projections into the residual stream smaller, the deeper the model.
        let stdev = config.initializer_range;
        let residual_stdev = stdev / (2.0 * config.n_layer as f64).sqrt();
        let root = ((n_embd / config.n_head) as f64).sqrt();
        let (mut scale, mut rescale) = if block.scale_attn_weights { (1.0 / root, 1.0) } else { (1.0, root) };
        if block.scale_attn_by_inverse_layer_idx {
            scale /= (i + 1) as f64;
            rescale /= (i + 1) as f64;
        }
        let attn = Attention {
            c_attn: Conv1D::load(n_embd, 3 * n_embd, stdev, vb.pp("attn.c_attn"))?,
            c_proj: Conv1D::load(n_embd, n_embd, residual_stdev, vb.pp("attn.c_proj"))?,
            n_head: config.n_head,
            scale,
            pdrop: block.attn_pdrop,
            rescale,
        };
        Ok(Self {
            ln_1: LayerNorm::load(n_embd, eps, vb.pp("ln_1"))?,
            attn,
            ln_2: LayerNorm::load(n_embd, eps, vb.pp("ln_2"))?,
            c_fc: Conv1D::load(n_embd, n_inner, stdev, vb.pp("mlp.c_fc"))?,
            activation: block.activation_function,
            c_proj: Conv1D::load(n_inner, n_embd, residual_stdev, vb.pp("mlp.c_proj"))?,
            resid_pdrop: block.resid_pdrop,
        })
    }

    fn forward(&self, x: &Tensor, i: usize, call: &Call, past: Past) -> Result<Tensor> {
        let attended = self.attn.forward(&self.ln_1.forward(x)?, i, call, past)?;
        let x = (x + dropped(attended, self.resid_pdrop, call.generator)?)?;
        let inner = self.activation.forward(&self.c_fc.forward(&self.ln_2.forward(&x)?)?)?;
        Ok((&x + dropped(self.c_proj.forward(&inner)?, self.resid_pdrop, call.generator)?)?)
    }
}

#[derive(Clone, Debug)]
struct Attention {
    c_attn: Conv1D,
    c_proj: Conv1D,
    n_head: usize,
    scale: f64,
    pdrop: f64,
    /// `scale` without its factor 1/√D.
    rescale: f64,
}

impl Attention {
    fn forward(&self, x: &Tensor, i: usize, call: &Call, past: Past) -> Result<Tensor> {
        let (b, t, c) = x.dims3()?;
        let (encoding, kind) = (call.encoding, call.encoding.kind());
        let qkv = self.c_attn.forward(x)?;
        let drops = call.generator.is_some() && self.pdrop > 0.0;
        if call.is_causal_only && kind == PositionKind::Input && !drops && fused::is_fused(&qkv) {
            return self.c_proj.forward(&fused::causal_attention(&qkv, self.n_head, self.scale)?);
        }
        // [B, T, 3 C] -> three times [B, H, T, D]
        let qkv = qkv.reshape((b, t, 3, self.n_head, c / self.n_head))?;
        let heads = |i| qkv.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
        let (mut q, mut k, mut v) = (heads(0)?, heads(1)?, heads(2)?);
        if kind == PositionKind::Rotation {
            (q, k) = encoding.rotate(&q, &k, call.positions.clone())?;
        }
        if let Some(past) = past {
            if let Some((past_k, past_v)) = past {
                k = Tensor::cat(&[&*past_k, &k], 2)?;
                v = Tensor::cat(&[&*past_v, &v], 2)?;
            }
            *past = Some((k.clone(), v.clone()));
        }
        let mut scores = match kind {
            // The scores are divided by √D already; `rescale` is the rest of the configuration's factor.
            PositionKind::Scores => (encoding.attention_scores(&q, &k, i, call.n_cached)? * self.rescale)?,
            _ => (q * self.scale)?.matmul(&k.t()?)?,
        };
        scores = widened(&scores)?;
        if let Some(mask) = &call.mask {
            scores = scores.broadcast_add(&mask.to_dtype(scores.dtype())?)?;
        }
        let weights = softmax(&scores)?.to_dtype(v.dtype())?;
        let weights = dropped(weights, self.pdrop, call.generator)?;
        let heads = match kind {
            PositionKind::Scores => encoding.attention_output(&weights, &v, i, call.n_cached)?,
            _ => weights.matmul(&v)?,
        };
        self.c_proj.forward(&heads.transpose(1, 2)?.reshape((b, t, c))?)
    }
}

/// A linear layer whose weight is stored `[in, out]`, as GPT-2's are.
#[derive(Clone, Debug)]
struct Conv1D {
    weight: Tensor,
    bias: Tensor,
}

impl Conv1D {
    fn load(n_in: usize, n_out: usize, stdev: f64, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get_with_hints((n_in, n_out), "weight", Init::Randn { mean: 0.0, stdev })?;
        Ok(Self { weight, bias: vb.get_with_hints(n_out, "bias", Init::Const(0.0))? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, t, n_in) = x.dims3()?;
        let x = x.reshape((b * t, n_in))?;
        let y = match fused::is_fused(&x) {
            true => fused::linear(&x, &self.weight, &self.bias)?,
            false => x.matmul(&self.weight)?.broadcast_add(&self.bias)?,
        };
        Ok(y.reshape((b, t, ()))?)
    }
}

/// `(x - mean) / sqrt(variance + eps) · weight + bias`, in f32 or wider, rounded once.
#[derive(Clone, Debug)]
struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    fn load(n_embd: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get_with_hints(n_embd, "weight", Init::Const(1.0))?;
        Ok(Self { weight, bias: vb.get_with_hints(n_embd, "bias", Init::Const(0.0))?, eps })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if fused::is_fused(x) {
            return Ok(fused::layer_norm(x, &self.weight, &self.bias, self.eps)?);
        }
        let dtype = x.dtype();
        let x = widened(x)?;
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        let x = x.broadcast_mul(&widened(&self.weight)?)?.broadcast_add(&widened(&self.bias)?)?;
        Ok(x.to_dtype(dtype)?)
    }
}

/// Computes the softmax over the last dimension.
fn softmax(x: &Tensor) -> Result<Tensor> {
    Ok(if fused::is_fused(x) { fused::softmax(x)? } else { ops::softmax(x, D::Minus1)? })
}

/// Applies dropout if there is a generator, that is, while training.
fn dropped(x: Tensor, p: f64, generator: Option<&Generator>) -> Result<Tensor> {
    Ok(match generator {
        Some(generator) => dropout(&x, p, generator)?,
        None => x,
    })
}

/// Widens f16 and bf16 to f32; returns everything else as it is.
fn widened(x: &Tensor) -> Result<Tensor> {
    Ok(if matches!(x.dtype(), DType::F16 | DType::BF16) { x.to_dtype(DType::F32)? } else { x.clone() })
}
