//! The GPT of "Build a Large Language Model (From Scratch)", chapter 4, on a `GptInputLayer`.

use candle_core::{Module, Result, Tensor};
use candle_gpt_input::GptInputLayer;
use candle_gpt_input::nn::{Attention, LayerNorm};
use candle_nn::{Linear, VarBuilder, embedding, linear, linear_no_bias};

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
        let context = Attention::causal().forward(&queries, &keys, &values)?;
        let context = context.transpose(1, 2)?.reshape((b, t, c))?;
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
            norm1: LayerNorm::load(vb.pp("norm1"), cfg.emb_dim, 1e-5)?,
            norm2: LayerNorm::load(vb.pp("norm2"), cfg.emb_dim, 1e-5)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = (x + self.att.forward(&self.norm1.forward(x)?)?)?;
        let inner = self.ff_1.forward(&self.norm2.forward(&x)?)?.gelu()?;
        &x + self.ff_2.forward(&inner)?
    }
}

pub struct GptModel {
    input: GptInputLayer,
    trf_blocks: Vec<TransformerBlock>,
    final_norm: LayerNorm,
    out_head: Linear,
}

impl GptModel {
    pub fn new(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        let tok_emb = embedding(cfg.vocab_size, cfg.emb_dim, vb.pp("tok_emb"))?;
        let pos_emb = embedding(cfg.context_length, cfg.emb_dim, vb.pp("pos_emb"))?;
        let input = GptInputLayer::new(tok_emb, pos_emb)?;
        let blocks = vb.pp("trf_blocks");
        let trf_blocks = (0..cfg.n_layers).map(|i| TransformerBlock::new(cfg, blocks.pp(i))).collect::<Result<_>>()?;
        let final_norm = LayerNorm::load(vb.pp("final_norm"), cfg.emb_dim, 1e-5)?;
        let out_head = linear_no_bias(cfg.emb_dim, cfg.vocab_size, vb.pp("out_head"))?;
        Ok(Self { input, trf_blocks, final_norm, out_head })
    }

    pub fn forward(&self, in_idx: &Tensor) -> Result<Tensor> {
        let mut x = self.input.forward(in_idx)?;
        for block in &self.trf_blocks {
            x = block.forward(&x)?;
        }
        self.out_head.forward(&self.final_norm.forward(&x)?)
    }
}
