//! MPT as candle-transformers has it: ALiBi, norms without bias, tied head.

use candle_core::{D, Device, Module, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, VarBuilder, embedding, linear_no_bias};

use super::super::Sizes;

fn layer_norm_no_bias(n: usize, vb: VarBuilder) -> Result<LayerNorm> {
    Ok(LayerNorm::new_no_bias(vb.get(n, "weight")?, 1e-5))
}

fn build_alibi_bias(cfg: &Sizes, device: &Device) -> Result<Tensor> {
    let (n_heads, seq_len) = (cfg.n_heads, cfg.context_length);
    let alibi_bias = Tensor::arange(1 - seq_len as i64, 1, device)?;
    let alibi_bias = alibi_bias.reshape((1, 1, 1, seq_len))?.to_dtype(candle_core::DType::F32)?;
    let mut n_heads2 = 1;
    while n_heads2 < n_heads {
        n_heads2 *= 2;
    }
    let slopes: Vec<f32> = (1..=n_heads2).map(|v| 1f32 / 2f32.powf(v as f32 * 8. / n_heads2 as f32)).collect();
    let slopes = if n_heads2 == n_heads {
        slopes
    } else {
        slopes.iter().skip(1).step_by(2).chain(slopes.iter().step_by(2)).take(n_heads).cloned().collect()
    };
    alibi_bias.broadcast_mul(&Tensor::new(slopes, device)?.reshape((1, n_heads, 1, 1))?)
}

struct GroupedQueryAttention {
    wqkv: Linear,
    out_proj: Linear,
    n_heads: usize,
    attn_bias: Tensor,
}

impl GroupedQueryAttention {
    fn new(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        let c = cfg.emb_dim;
        let wqkv = linear_no_bias(c, 3 * c, vb.pp("Wqkv"))?;
        let out_proj = linear_no_bias(c, c, vb.pp("out_proj"))?;
        let attn_bias = build_alibi_bias(cfg, vb.device())?;
        Ok(Self { wqkv, out_proj, n_heads: cfg.n_heads, attn_bias })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, t, c) = xs.dims3()?;
        let qkv = self.wqkv.forward(xs)?;
        let heads = |i: usize| {
            let heads = qkv.narrow(2, i * c, c)?.reshape((b, t, self.n_heads, c / self.n_heads))?;
            heads.transpose(1, 2)?.contiguous()
        };
        let (query, key, value) = (heads(0)?, heads(1)?, heads(2)?);
        let attn_weights = (query.matmul(&key.t()?)? * (1.0 / ((c / self.n_heads) as f64).sqrt()))?;
        let attn_bias = self.attn_bias.narrow(3, self.attn_bias.dim(3)? - t, t)?;
        let attn_weights = attn_weights.broadcast_add(&attn_bias)?;
        let mask: Vec<f32> =
            (0..t).flat_map(|i| (0..t).map(move |j| if j > i { f32::NEG_INFINITY } else { 0. })).collect();
        let attn_weights = attn_weights.broadcast_add(&Tensor::from_vec(mask, (t, t), xs.device())?)?;
        let attn_weights = candle_nn::ops::softmax_last_dim(&attn_weights)?;
        let attn_output = attn_weights.matmul(&value)?.transpose(1, 2)?.flatten_from(D::Minus2)?;
        self.out_proj.forward(&attn_output)
    }
}

struct MptBlock {
    norm1: LayerNorm,
    attn: GroupedQueryAttention,
    norm2: LayerNorm,
    up_proj: Linear,
    down_proj: Linear,
}

impl MptBlock {
    fn new(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            norm1: layer_norm_no_bias(cfg.emb_dim, vb.pp("norm_1"))?,
            attn: GroupedQueryAttention::new(cfg, vb.pp("attn"))?,
            norm2: layer_norm_no_bias(cfg.emb_dim, vb.pp("norm_2"))?,
            up_proj: linear_no_bias(cfg.emb_dim, 4 * cfg.emb_dim, vb.pp("ffn.up_proj"))?,
            down_proj: linear_no_bias(4 * cfg.emb_dim, cfg.emb_dim, vb.pp("ffn.down_proj"))?,
        })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = (xs + self.attn.forward(&self.norm1.forward(xs)?)?)?;
        let inner = self.up_proj.forward(&self.norm2.forward(&xs)?)?.gelu_erf()?;
        &xs + self.down_proj.forward(&inner)?
    }
}

pub struct Mpt {
    wte: Embedding,
    blocks: Vec<MptBlock>,
    norm_f: LayerNorm,
}

impl Mpt {
    pub fn new(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        let vb = vb.pp("transformer");
        let wte = embedding(cfg.vocab_size, cfg.emb_dim, vb.pp("wte"))?;
        let blocks = (0..cfg.n_layers).map(|i| MptBlock::new(cfg, vb.pp("blocks").pp(i))).collect::<Result<_>>()?;
        let norm_f = layer_norm_no_bias(cfg.emb_dim, vb.pp("norm_f"))?;
        Ok(Self { wte, blocks, norm_f })
    }

    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let mut xs = self.wte.forward(ids)?;
        for block in &self.blocks {
            xs = block.forward(&xs)?;
        }
        let xs = self.norm_f.forward(&xs)?;
        xs.broadcast_matmul(&self.wte.embeddings().t()?)
    }
}
