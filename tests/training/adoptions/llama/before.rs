//! Llama as candle-transformers has it: rotated queries and keys, grouped heads, RMS norm, a gated MLP.

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{Embedding, Linear, RmsNorm, VarBuilder, embedding, linear_no_bias, rms_norm};

use super::super::Sizes;

#[derive(Clone)]
struct Cache {
    cos: Tensor,
    sin: Tensor,
}

impl Cache {
    fn new(cfg: &Sizes, device: &Device) -> Result<Self> {
        let d = cfg.emb_dim / cfg.n_heads;
        let theta: Vec<f32> = (0..d).step_by(2).map(|i| 1f32 / 10000f32.powf(i as f32 / d as f32)).collect();
        let theta = Tensor::new(theta, device)?;
        let idx_theta = Tensor::arange(0, cfg.context_length as u32, device)?
            .to_dtype(DType::F32)?
            .reshape((cfg.context_length, 1))?
            .matmul(&theta.reshape((1, theta.elem_count()))?)?;
        Ok(Self { cos: idx_theta.cos()?, sin: idx_theta.sin()? })
    }
}

struct CausalSelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    cache: Cache,
}

impl CausalSelfAttention {
    fn load(cfg: &Sizes, cache: &Cache, vb: VarBuilder) -> Result<Self> {
        let (c, kv) = (cfg.emb_dim, cfg.emb_dim / cfg.n_heads * cfg.n_kv_heads);
        Ok(Self {
            q_proj: linear_no_bias(c, c, vb.pp("q_proj"))?,
            k_proj: linear_no_bias(c, kv, vb.pp("k_proj"))?,
            v_proj: linear_no_bias(c, kv, vb.pp("v_proj"))?,
            o_proj: linear_no_bias(c, c, vb.pp("o_proj"))?,
            num_attention_heads: cfg.n_heads,
            num_key_value_heads: cfg.n_kv_heads,
            cache: cache.clone(),
        })
    }

    fn apply_rotary_emb(&self, x: &Tensor, index_pos: usize) -> Result<Tensor> {
        let (_, _, t, _) = x.dims4()?;
        let cos = self.cache.cos.narrow(0, index_pos, t)?;
        let sin = self.cache.sin.narrow(0, index_pos, t)?;
        candle_nn::rotary_emb::rope(x, &cos, &sin)
    }

    fn repeat_kv(&self, x: Tensor) -> Result<Tensor> {
        let n = self.num_attention_heads / self.num_key_value_heads;
        let (b, h, t, d) = x.dims4()?;
        x.unsqueeze(2)?.broadcast_as((b, h, n, t, d))?.reshape((b, h * n, t, d))
    }

    fn forward(&self, x: &Tensor, index_pos: usize) -> Result<Tensor> {
        let (b, t, c) = x.dims3()?;
        let d = c / self.num_attention_heads;
        let heads = |x: Tensor, h: usize| x.reshape((b, t, h, d))?.transpose(1, 2)?.contiguous();
        let q = heads(self.q_proj.forward(x)?, self.num_attention_heads)?;
        let k = heads(self.k_proj.forward(x)?, self.num_key_value_heads)?;
        let v = heads(self.v_proj.forward(x)?, self.num_key_value_heads)?;
        let q = self.apply_rotary_emb(&q, index_pos)?;
        let k = self.apply_rotary_emb(&k, index_pos)?;
        let (k, v) = (self.repeat_kv(k)?, self.repeat_kv(v)?);
        let att = (q.matmul(&k.t()?)? / (d as f64).sqrt())?;
        let mask: Vec<f32> =
            (0..t).flat_map(|i| (0..t).map(move |j| if j > i { f32::NEG_INFINITY } else { 0. })).collect();
        let att = att.broadcast_add(&Tensor::from_vec(mask, (t, t), x.device())?)?;
        let att = candle_nn::ops::softmax_last_dim(&att)?;
        let y = att.matmul(&v.contiguous()?)?.transpose(1, 2)?.reshape((b, t, c))?;
        self.o_proj.forward(&y)
    }
}

struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down_proj.forward(&(candle_nn::ops::silu(&self.gate_proj.forward(x)?)? * self.up_proj.forward(x)?)?)
    }
}

struct Block {
    rms_1: RmsNorm,
    attn: CausalSelfAttention,
    rms_2: RmsNorm,
    mlp: Mlp,
}

impl Block {
    fn load(cfg: &Sizes, cache: &Cache, vb: VarBuilder) -> Result<Self> {
        let (c, inner) = (cfg.emb_dim, 2 * cfg.emb_dim);
        Ok(Self {
            rms_1: rms_norm(c, 1e-5, vb.pp("input_layernorm"))?,
            attn: CausalSelfAttention::load(cfg, cache, vb.pp("self_attn"))?,
            rms_2: rms_norm(c, 1e-5, vb.pp("post_attention_layernorm"))?,
            mlp: Mlp {
                gate_proj: linear_no_bias(c, inner, vb.pp("mlp.gate_proj"))?,
                up_proj: linear_no_bias(c, inner, vb.pp("mlp.up_proj"))?,
                down_proj: linear_no_bias(inner, c, vb.pp("mlp.down_proj"))?,
            },
        })
    }

    fn forward(&self, x: &Tensor, index_pos: usize) -> Result<Tensor> {
        let x = (x + self.attn.forward(&self.rms_1.forward(x)?, index_pos)?)?;
        &x + self.mlp.forward(&self.rms_2.forward(&x)?)?
    }
}

pub struct Llama {
    wte: Embedding,
    blocks: Vec<Block>,
    ln_f: RmsNorm,
    lm_head: Linear,
}

impl Llama {
    pub fn load(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        let cache = Cache::new(cfg, vb.device())?;
        let wte = embedding(cfg.vocab_size, cfg.emb_dim, vb.pp("model.embed_tokens"))?;
        let layers = vb.pp("model.layers");
        let blocks = (0..cfg.n_layers).map(|i| Block::load(cfg, &cache, layers.pp(i))).collect::<Result<_>>()?;
        let ln_f = rms_norm(cfg.emb_dim, 1e-5, vb.pp("model.norm"))?;
        let lm_head = linear_no_bias(cfg.emb_dim, cfg.vocab_size, vb.pp("lm_head"))?;
        Ok(Self { wte, blocks, ln_f, lm_head })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.wte.forward(x)?;
        for block in &self.blocks {
            x = block.forward(&x, 0)?;
        }
        self.lm_head.forward(&self.ln_f.forward(&x)?)
    }
}
