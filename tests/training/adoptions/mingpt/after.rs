//! minGPT (github.com/karpathy/minGPT) on a `GptInputLayer`: one projection for queries, keys and values, a
//! `Sequential` of modules, a key/value cache.

use candle_core::{IndexOp, Module, Result, Tensor};
use candle_gpt_input::GptInputLayer;
use candle_gpt_input::nn::{Attention, LayerNorm};
use candle_nn::{Linear, VarBuilder, embedding, linear, linear_no_bias};

use super::super::Sizes;

struct CausalSelfAttention {
    c_attn: Linear,
    c_proj: Linear,
    n_head: usize,
}

impl CausalSelfAttention {
    fn forward(&self, x: &Tensor, cache: &mut Option<(Tensor, Tensor)>) -> Result<Tensor> {
        let (b, t, c) = x.dims3()?;
        let qkv = self.c_attn.forward(x)?.reshape((b, t, 3, self.n_head, c / self.n_head))?.permute((2, 0, 3, 1, 4))?;
        let q = qkv.i(0)?.contiguous()?;
        let (mut k, mut v) = (qkv.i(1)?.contiguous()?, qkv.i(2)?.contiguous()?);
        if let Some((past_k, past_v)) = cache.take() {
            k = Tensor::cat(&[&past_k, &k], 2)?;
            v = Tensor::cat(&[&past_v, &v], 2)?;
        }
        *cache = Some((k.clone(), v.clone()));
        let y = Attention::causal().forward(&q, &k, &v)?.transpose(1, 2)?.reshape((b, t, c))?;
        self.c_proj.forward(&y)
    }
}

struct Block {
    ln_1: LayerNorm,
    attn: CausalSelfAttention,
    ln_2: LayerNorm,
    c_fc: Linear,
    c_proj: Linear,
}

impl Block {
    fn load(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        let n_embd = cfg.emb_dim;
        let attn = CausalSelfAttention {
            c_attn: linear(n_embd, 3 * n_embd, vb.pp("attn.c_attn"))?,
            c_proj: linear(n_embd, n_embd, vb.pp("attn.c_proj"))?,
            n_head: cfg.n_heads,
        };
        Ok(Self {
            ln_1: LayerNorm::load(vb.pp("ln_1"), n_embd, 1e-5)?,
            attn,
            ln_2: LayerNorm::load(vb.pp("ln_2"), n_embd, 1e-5)?,
            c_fc: linear(n_embd, 4 * n_embd, vb.pp("mlp.c_fc"))?,
            c_proj: linear(4 * n_embd, n_embd, vb.pp("mlp.c_proj"))?,
        })
    }

    fn forward(&self, x: &Tensor, cache: &mut Option<(Tensor, Tensor)>) -> Result<Tensor> {
        let x = (x + self.attn.forward(&self.ln_1.forward(x)?, cache)?)?;
        let inner = self.c_fc.forward(&self.ln_2.forward(&x)?)?.gelu()?;
        &x + self.c_proj.forward(&inner)?
    }
}

pub struct Gpt {
    input: GptInputLayer,
    h: Vec<Block>,
    ln_f: LayerNorm,
    lm_head: Linear,
}

impl Gpt {
    pub fn load(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        let root = vb.pp("transformer");
        let wte = embedding(cfg.vocab_size, cfg.emb_dim, root.pp("wte"))?;
        let wpe = embedding(cfg.context_length, cfg.emb_dim, root.pp("wpe"))?;
        let input = GptInputLayer::new(wte, wpe)?;
        let h = (0..cfg.n_layers).map(|i| Block::load(cfg, root.pp("h").pp(i))).collect::<Result<_>>()?;
        let ln_f = LayerNorm::load(root.pp("ln_f"), cfg.emb_dim, 1e-5)?;
        let lm_head = linear_no_bias(cfg.emb_dim, cfg.vocab_size, vb.pp("lm_head"))?;
        Ok(Self { input, h, ln_f, lm_head })
    }

    pub fn forward(&self, idx: &Tensor, start: usize, cache: &mut [Option<(Tensor, Tensor)>]) -> Result<Tensor> {
        let mut x = self.input.forward_at(idx, start)?;
        for (block, cache) in self.h.iter().zip(cache) {
            x = block.forward(&x, cache)?;
        }
        self.lm_head.forward(&self.ln_f.forward(&x)?)
    }
}
