//! MPT on a `TokenTable` and `Alibi`: ALiBi, norms without bias, tied head.

use candle_core::{D, Module, Result, Tensor};
use candle_gpt_input::LmHead;
use candle_gpt_input::embedding::TokenTable;
use candle_gpt_input::nn::{Attention, LayerNorm};
use candle_gpt_input::position::Alibi;
use candle_nn::{Linear, VarBuilder, embedding, linear_no_bias};

use super::super::Sizes;

fn layer_norm_no_bias(n: usize, vb: VarBuilder) -> Result<LayerNorm> {
    Ok(LayerNorm::load_without_bias(vb, n, 1e-5)?)
}

struct GroupedQueryAttention {
    wqkv: Linear,
    out_proj: Linear,
    n_heads: usize,
    alibi: Alibi,
}

impl GroupedQueryAttention {
    fn new(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        let c = cfg.emb_dim;
        let wqkv = linear_no_bias(c, 3 * c, vb.pp("Wqkv"))?;
        let out_proj = linear_no_bias(c, c, vb.pp("out_proj"))?;
        let alibi = Alibi::new(cfg.n_heads, vb.device())?;
        Ok(Self { wqkv, out_proj, n_heads: cfg.n_heads, alibi })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, t, c) = xs.dims3()?;
        let qkv = self.wqkv.forward(xs)?;
        let heads = |i: usize| {
            let heads = qkv.narrow(2, i * c, c)?.reshape((b, t, self.n_heads, c / self.n_heads))?;
            heads.transpose(1, 2)?.contiguous()
        };
        let (query, key, value) = (heads(0)?, heads(1)?, heads(2)?);
        let attention = Attention::causal().with_bias(&self.alibi.attention_bias(t, t, 0)?);
        let attn_output = attention.forward(&query, &key, &value)?.transpose(1, 2)?.flatten_from(D::Minus2)?;
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
    wte: TokenTable,
    blocks: Vec<MptBlock>,
    norm_f: LayerNorm,
    lm_head: LmHead,
}

impl Mpt {
    pub fn new(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        let vb = vb.pp("transformer");
        let wte: TokenTable = embedding(cfg.vocab_size, cfg.emb_dim, vb.pp("wte"))?.try_into()?;
        let blocks = (0..cfg.n_layers).map(|i| MptBlock::new(cfg, vb.pp("blocks").pp(i))).collect::<Result<_>>()?;
        let norm_f = layer_norm_no_bias(cfg.emb_dim, vb.pp("norm_f"))?;
        let lm_head = LmHead::new(wte.clone())?;
        Ok(Self { wte, blocks, norm_f, lm_head })
    }

    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let mut xs = self.wte.forward(ids)?;
        for block in &self.blocks {
            xs = block.forward(&xs)?;
        }
        let xs = self.norm_f.forward(&xs)?;
        Ok(self.lm_head.forward(&xs)?)
    }
}
