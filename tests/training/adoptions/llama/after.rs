//! Llama on a `TokenTable` and a `Rotary`: rotated queries and keys, grouped heads, RMS norm, a gated MLP.

use candle_core::{Module, Result, Tensor};
use candle_gpt_input::embedding::TokenTable;
use candle_gpt_input::nn::{Attention, RmsNorm};
use candle_gpt_input::position::{Rotary, RotaryConfig};
use candle_nn::{Linear, VarBuilder, embedding, linear_no_bias};

use super::super::Sizes;

struct CausalSelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    rotary: Rotary,
}

impl CausalSelfAttention {
    fn load(cfg: &Sizes, rotary: &Rotary, vb: VarBuilder) -> Result<Self> {
        let (c, kv) = (cfg.emb_dim, cfg.emb_dim / cfg.n_heads * cfg.n_kv_heads);
        Ok(Self {
            q_proj: linear_no_bias(c, c, vb.pp("q_proj"))?,
            k_proj: linear_no_bias(c, kv, vb.pp("k_proj"))?,
            v_proj: linear_no_bias(c, kv, vb.pp("v_proj"))?,
            o_proj: linear_no_bias(c, c, vb.pp("o_proj"))?,
            num_attention_heads: cfg.n_heads,
            num_key_value_heads: cfg.n_kv_heads,
            rotary: rotary.clone(),
        })
    }

    fn forward(&self, x: &Tensor, index_pos: usize) -> Result<Tensor> {
        let (b, t, c) = x.dims3()?;
        let d = c / self.num_attention_heads;
        let heads = |x: Tensor, h: usize| x.reshape((b, t, h, d))?.transpose(1, 2)?.contiguous();
        let q = heads(self.q_proj.forward(x)?, self.num_attention_heads)?;
        let k = heads(self.k_proj.forward(x)?, self.num_key_value_heads)?;
        let v = heads(self.v_proj.forward(x)?, self.num_key_value_heads)?;
        let (q, k) = self.rotary.rotate(&q, &k, index_pos)?;
        let y = Attention::causal().forward(&q, &k, &v)?.transpose(1, 2)?.reshape((b, t, c))?;
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
    fn load(cfg: &Sizes, rotary: &Rotary, vb: VarBuilder) -> Result<Self> {
        let (c, inner) = (cfg.emb_dim, 2 * cfg.emb_dim);
        Ok(Self {
            rms_1: RmsNorm::load(vb.pp("input_layernorm"), c, 1e-5)?,
            attn: CausalSelfAttention::load(cfg, rotary, vb.pp("self_attn"))?,
            rms_2: RmsNorm::load(vb.pp("post_attention_layernorm"), c, 1e-5)?,
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
    wte: TokenTable,
    blocks: Vec<Block>,
    ln_f: RmsNorm,
    lm_head: Linear,
}

impl Llama {
    pub fn load(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        let head_dim = cfg.emb_dim / cfg.n_heads;
        let rotary = Rotary::new(&RotaryConfig::default(), head_dim, cfg.context_length, vb.device())?;
        let wte = embedding(cfg.vocab_size, cfg.emb_dim, vb.pp("model.embed_tokens"))?.try_into()?;
        let layers = vb.pp("model.layers");
        let blocks = (0..cfg.n_layers).map(|i| Block::load(cfg, &rotary, layers.pp(i))).collect::<Result<_>>()?;
        let ln_f = RmsNorm::load(vb.pp("model.norm"), cfg.emb_dim, 1e-5)?;
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
