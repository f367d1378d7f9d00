//! The GPT of "Build a Large Language Model (From Scratch)", chapter 4, as it is written in Candle.

use candle_core::{Module, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, VarBuilder, embedding, layer_norm, linear, linear_no_bias};

use super::super::Sizes;

struct MultiHeadAttention {
    w_query: Linear,
    w_key: Linear,
    w_value: Linear,
    out_proj: Linear,
    n_heads: usize,
}

impl MultiHeadAttention {
    fn new(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            w_query: linear_no_bias(cfg.emb_dim, cfg.emb_dim, vb.pp("W_query"))?,
            w_key: linear_no_bias(cfg.emb_dim, cfg.emb_dim, vb.pp("W_key"))?,
            w_value: linear_no_bias(cfg.emb_dim, cfg.emb_dim, vb.pp("W_value"))?,
            out_proj: linear(cfg.emb_dim, cfg.emb_dim, vb.pp("out_proj"))?,
            n_heads: cfg.n_heads,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, t, c) = x.dims3()?;
        let heads = |x: Tensor| x.reshape((b, t, self.n_heads, c / self.n_heads))?.transpose(1, 2)?.contiguous();
        let queries = heads(self.w_query.forward(x)?)?;
        let keys = heads(self.w_key.forward(x)?)?;
        let values = heads(self.w_value.forward(x)?)?;
        let scores = (queries.matmul(&keys.t()?)? / ((c / self.n_heads) as f64).sqrt())?;
        let mask: Vec<f32> =
            (0..t).flat_map(|i| (0..t).map(move |j| if j > i { f32::NEG_INFINITY } else { 0. })).collect();
        let scores = scores.broadcast_add(&Tensor::from_vec(mask, (t, t), x.device())?)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?;
        let context = weights.matmul(&values)?.transpose(1, 2)?.reshape((b, t, c))?;
        self.out_proj.forward(&context)
    }
}

struct TransformerBlock {
    att: MultiHeadAttention,
    ff_1: Linear,
    ff_2: Linear,
    norm1: LayerNorm,
    norm2: LayerNorm,
}

impl TransformerBlock {
    fn new(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            att: MultiHeadAttention::new(cfg, vb.pp("att"))?,
            ff_1: linear(cfg.emb_dim, 4 * cfg.emb_dim, vb.pp("ff.layers.0"))?,
            ff_2: linear(4 * cfg.emb_dim, cfg.emb_dim, vb.pp("ff.layers.2"))?,
            norm1: layer_norm(cfg.emb_dim, 1e-5, vb.pp("norm1"))?,
            norm2: layer_norm(cfg.emb_dim, 1e-5, vb.pp("norm2"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = (x + self.att.forward(&self.norm1.forward(x)?)?)?;
        let inner = self.ff_1.forward(&self.norm2.forward(&x)?)?.gelu()?;
        &x + self.ff_2.forward(&inner)?
    }
}

pub struct GptModel {
    tok_emb: Embedding,
    pos_emb: Embedding,
    trf_blocks: Vec<TransformerBlock>,
    final_norm: LayerNorm,
    out_head: Linear,
}

impl GptModel {
    pub fn new(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        let tok_emb = embedding(cfg.vocab_size, cfg.emb_dim, vb.pp("tok_emb"))?;
        let pos_emb = embedding(cfg.context_length, cfg.emb_dim, vb.pp("pos_emb"))?;
        let blocks = vb.pp("trf_blocks");
        let trf_blocks = (0..cfg.n_layers).map(|i| TransformerBlock::new(cfg, blocks.pp(i))).collect::<Result<_>>()?;
        let final_norm = layer_norm(cfg.emb_dim, 1e-5, vb.pp("final_norm"))?;
        let out_head = linear_no_bias(cfg.emb_dim, cfg.vocab_size, vb.pp("out_head"))?;
        Ok(Self { tok_emb, pos_emb, trf_blocks, final_norm, out_head })
    }

    pub fn forward(&self, in_idx: &Tensor) -> Result<Tensor> {
        let (_, seq_len) = in_idx.dims2()?;
        let tok_embeds = self.tok_emb.forward(in_idx)?;
        let positions = Tensor::arange(0, seq_len as u32, in_idx.device())?;
        let pos_embeds = self.pos_emb.forward(&positions)?;
        let mut x = tok_embeds.broadcast_add(&pos_embeds)?;
        for block in &self.trf_blocks {
            x = block.forward(&x)?;
        }
        self.out_head.forward(&self.final_norm.forward(&x)?)
    }
}
