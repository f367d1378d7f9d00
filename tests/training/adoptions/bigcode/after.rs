//! GPTBigCode (StarCoder) on a `GptInputLayer`: learned positions, one head of keys for all queries, tied head.

use candle_core::{Module, Result, Tensor};
use candle_gpt_input::nn::LayerNorm;
use candle_gpt_input::{GptInputLayer, LmHead, nn};
use candle_nn::{Linear, VarBuilder, embedding, linear};

use super::super::Sizes;

struct Attention {
    c_attn: Linear,
    c_proj: Linear,
    num_heads: usize,
}

impl Attention {
    fn load(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        let head_dim = cfg.emb_dim / cfg.n_heads;
        Ok(Self {
            c_attn: linear(cfg.emb_dim, cfg.emb_dim + 2 * head_dim, vb.pp("c_attn"))?,
            c_proj: linear(cfg.emb_dim, cfg.emb_dim, vb.pp("c_proj"))?,
            num_heads: cfg.n_heads,
        })
    }

    fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let qkv = self.c_attn.forward(hidden_states)?;
        self.c_proj.forward(&nn::Attention::causal().forward_packed(&qkv, self.num_heads, 1)?)
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
            ln_1: LayerNorm::load(vb.pp("ln_1"), cfg.emb_dim, 1e-5)?,
            attn: Attention::load(cfg, vb.pp("attn"))?,
            ln_2: LayerNorm::load(vb.pp("ln_2"), cfg.emb_dim, 1e-5)?,
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
    input: GptInputLayer,
    blocks: Vec<Block>,
    ln_f: LayerNorm,
    lm_head: LmHead,
}

impl GptBigCode {
    pub fn load(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        let vb_t = vb.pp("transformer");
        let wte = embedding(cfg.vocab_size, cfg.emb_dim, vb_t.pp("wte"))?;
        let wpe = embedding(cfg.context_length, cfg.emb_dim, vb_t.pp("wpe"))?;
        let input = GptInputLayer::new(wte, wpe)?;
        let blocks = (0..cfg.n_layers).map(|i| Block::load(cfg, vb_t.pp("h").pp(i))).collect::<Result<_>>()?;
        let ln_f = LayerNorm::load(vb_t.pp("ln_f"), cfg.emb_dim, 1e-5)?;
        let lm_head = input.lm_head()?;
        Ok(Self { input, blocks, ln_f, lm_head })
    }

    pub fn forward(&self, input_ids: &Tensor) -> Result<Tensor> {
        let mut hidden_states = self.input.forward(input_ids)?;
        for block in &self.blocks {
            hidden_states = block.forward(&hidden_states)?;
        }
        Ok(self.lm_head.forward(&self.ln_f.forward(&hidden_states)?)?)
    }
}
