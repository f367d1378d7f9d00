//! minGPT (github.com/karpathy/minGPT) as it is written in Candle: one projection for queries, keys and values, a
//! `Sequential` of modules, a key/value cache.

use candle_core::{D, Device, IndexOp, Module, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, VarBuilder, embedding, layer_norm, linear, linear_no_bias};

use super::super::Sizes;

fn causal_mask(t: usize, n_keys: usize, device: &Device) -> Result<Tensor> {
    let masked = |i: usize| (0..n_keys).map(move |j| u8::from(j > i + n_keys - t));
    Tensor::from_vec((0..t).flat_map(masked).collect(), (t, n_keys), device)
}

fn masked_fill(on_false: &Tensor, mask: &Tensor, on_true: f32) -> Result<Tensor> {
    let on_true = Tensor::new(on_true, on_false.device())?.broadcast_as(on_false.shape())?;
    mask.broadcast_as(on_false.shape())?.where_cond(&on_true, on_false)
}

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
        let att = (q.matmul(&k.t()?)? * (1.0 / ((c / self.n_head) as f64).sqrt()))?;
        let att = masked_fill(&att, &causal_mask(t, k.dim(2)?, x.device())?, f32::NEG_INFINITY)?;
        let att = candle_nn::ops::softmax_last_dim(&att)?;
        let y = att.matmul(&v)?.transpose(1, 2)?.reshape((b, t, c))?;
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
            ln_1: layer_norm(n_embd, 1e-5, vb.pp("ln_1"))?,
            attn,
            ln_2: layer_norm(n_embd, 1e-5, vb.pp("ln_2"))?,
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
    wte: Embedding,
    wpe: Embedding,
    h: Vec<Block>,
    ln_f: LayerNorm,
    lm_head: Linear,
}

impl Gpt {
    pub fn load(cfg: &Sizes, vb: VarBuilder) -> Result<Self> {
        let root = vb.pp("transformer");
        let wte = embedding(cfg.vocab_size, cfg.emb_dim, root.pp("wte"))?;
        let wpe = embedding(cfg.context_length, cfg.emb_dim, root.pp("wpe"))?;
        let h = (0..cfg.n_layers).map(|i| Block::load(cfg, root.pp("h").pp(i))).collect::<Result<_>>()?;
        let ln_f = layer_norm(cfg.emb_dim, 1e-5, root.pp("ln_f"))?;
        let lm_head = linear_no_bias(cfg.emb_dim, cfg.vocab_size, vb.pp("lm_head"))?;
        Ok(Self { wte, wpe, h, ln_f, lm_head })
    }

    pub fn forward(&self, idx: &Tensor, start: usize, cache: &mut [Option<(Tensor, Tensor)>]) -> Result<Tensor> {
        let t = idx.dim(D::Minus1)?;
        let pos = Tensor::arange(start as u32, (start + t) as u32, idx.device())?.unsqueeze(0)?;
        let mut x = self.wte.forward(idx)?.broadcast_add(&self.wpe.forward(&pos)?)?;
        for (block, cache) in self.h.iter().zip(cache) {
            x = block.forward(&x, cache)?;
        }
        self.lm_head.forward(&self.ln_f.forward(&x)?)
    }
}
