//! GPTBigCode (StarCoder) as candle-transformers has it: learned positions, one head of keys for all queries, tied head.

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, VarBuilder, embedding, layer_norm, linear};

use super::super::Sizes;

fn make_causal_mask(t: usize, device: &Device) -> Result<Tensor> {
    let mask: Vec<u8> = (0..t).flat_map(|i| (0..t).map(move |j| u8::from(j <= i))).collect();
    Tensor::from_slice(&mask, (t, t), device)
}

struct Attention {
    c_attn: Linear,
    c_proj: Linear,
    num_heads: usize,
    head_dim: usize,
}

impl Attention {
    fn load(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        let head_dim = cfg.emb_dim / cfg.n_heads;
        Ok(Self {
            c_attn: linear(cfg.emb_dim, cfg.emb_dim + 2 * head_dim, vb.pp("c_attn"))?,
            c_proj: linear(cfg.emb_dim, cfg.emb_dim, vb.pp("c_proj"))?,
            num_heads: cfg.n_heads,
            head_dim,
        })
    }

    fn attn(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        let (b, t, c) = query.dims3()?;
        let query = (query.reshape((b, t * self.num_heads, self.head_dim))? * (1.0 / (self.head_dim as f64).sqrt()))?;
        let scores = query.matmul(&key.t()?)?.reshape((b, t, self.num_heads, t))?;
        let mask = make_causal_mask(t, query.device())?.reshape((1, t, 1, t))?.broadcast_as(scores.shape())?;
        let mask_value = Tensor::new(f32::MIN, query.device())?.to_dtype(DType::F32)?.broadcast_as(scores.shape())?;
        let weights = candle_nn::ops::softmax_last_dim(&mask.where_cond(&scores, &mask_value)?)?;
        weights.reshape((b, t * self.num_heads, t))?.matmul(value)?.reshape((b, t, c))
    }

    fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let qkv = self.c_attn.forward(hidden_states)?;
        let c = self.num_heads * self.head_dim;
        let query = qkv.narrow(D::Minus1, 0, c)?.contiguous()?;
        let key = qkv.narrow(D::Minus1, c, self.head_dim)?.contiguous()?;
        let value = qkv.narrow(D::Minus1, c + self.head_dim, self.head_dim)?.contiguous()?;
        self.c_proj.forward(&self.attn(&query, &key, &value)?)
    }
}

struct Block {
    ln_1: LayerNorm,
    attn: Attention,
    ln_2: LayerNorm,
    c_fc: Linear,
    c_proj: Linear,
}

impl Block {
    fn load(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            ln_1: layer_norm(cfg.emb_dim, 1e-5, vb.pp("ln_1"))?,
            attn: Attention::load(cfg, vb.pp("attn"))?,
            ln_2: layer_norm(cfg.emb_dim, 1e-5, vb.pp("ln_2"))?,
            c_fc: linear(cfg.emb_dim, 4 * cfg.emb_dim, vb.pp("mlp.c_fc"))?,
            c_proj: linear(4 * cfg.emb_dim, cfg.emb_dim, vb.pp("mlp.c_proj"))?,
        })
    }

    fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let hidden_states = (hidden_states + self.attn.forward(&self.ln_1.forward(hidden_states)?)?)?;
        let inner = self.c_fc.forward(&self.ln_2.forward(&hidden_states)?)?.gelu()?;
        &hidden_states + self.c_proj.forward(&inner)?
    }
}

pub struct GptBigCode {
    wte: Embedding,
    wpe: Embedding,
    blocks: Vec<Block>,
    ln_f: LayerNorm,
    lm_head: Linear,
}

impl GptBigCode {
    pub fn load(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        let vb_t = vb.pp("transformer");
        let wte = embedding(cfg.vocab_size, cfg.emb_dim, vb_t.pp("wte"))?;
        let wpe = embedding(cfg.context_length, cfg.emb_dim, vb_t.pp("wpe"))?;
        let blocks = (0..cfg.n_layers).map(|i| Block::load(cfg, vb_t.pp("h").pp(i))).collect::<Result<_>>()?;
        let ln_f = layer_norm(cfg.emb_dim, 1e-5, vb_t.pp("ln_f"))?;
        let lm_head = Linear::new(wte.embeddings().clone(), None);
        Ok(Self { wte, wpe, blocks, ln_f, lm_head })
    }

    pub fn forward(&self, input_ids: &Tensor) -> Result<Tensor> {
        let (_, t) = input_ids.dims2()?;
        let position_ids = Tensor::arange(0u32, t as u32, input_ids.device())?;
        let mut hidden_states = self.wte.forward(input_ids)?.broadcast_add(&self.wpe.forward(&position_ids)?)?;
        for block in &self.blocks {
            hidden_states = block.forward(&hidden_states)?;
        }
        self.lm_head.forward(&self.ln_f.forward(&hidden_states)?)
    }
}
