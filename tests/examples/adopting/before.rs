//! A small GPT written the usual way, on two `candle_nn::Embedding`s.

use candle_core::{Module, Result, Tensor};
use candle_gpt_input::GptInputConfig;
use candle_nn::{Embedding, Linear, VarBuilder};

pub struct Gpt {
    wte: Embedding,
    wpe: Embedding,
    block: Linear,
    lm_head: Linear,
}

impl Gpt {
    pub fn load(vb: VarBuilder, config: &GptInputConfig) -> Result<Self> {
        let vb = vb.pp("transformer");
        let n_embd = config.n_embd;
        let wte = candle_nn::embedding(config.vocab_size, n_embd, vb.pp("wte"))?;
        let wpe = candle_nn::embedding(config.n_positions, n_embd, vb.pp("wpe"))?;
        let block = candle_nn::linear(n_embd, n_embd, vb.pp("h.0"))?;
        let lm_head = Linear::new(wte.embeddings().clone(), None);
        Ok(Self { wte, wpe, block, lm_head })
    }

    pub fn forward(&self, input_ids: &Tensor, start_pos: usize) -> Result<Tensor> {
        let (_, t) = input_ids.dims2()?;
        let positions = Tensor::arange(start_pos as u32, (start_pos + t) as u32, input_ids.device())?;
        let x = self.wte.forward(input_ids)?.broadcast_add(&self.wpe.forward(&positions)?)?;
        let x = (&x + self.block.forward(&x)?.gelu()?)?;
        self.lm_head.forward(&x)
    }
}
