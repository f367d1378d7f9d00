//! A small GPT on a `GptInputLayer`.

use candle_core::{Module, Result, Tensor};
use candle_gpt_input::{GptInputConfig, GptInputLayer, LmHead};
use candle_nn::{Linear, VarBuilder};

pub struct Gpt {
    input: GptInputLayer,
    block: Linear,
    lm_head: LmHead,
}

impl Gpt {
    pub fn load(vb: VarBuilder, config: &GptInputConfig) -> Result<Self> {
        let vb = vb.pp("transformer");
        let n_embd = config.n_embd;
        let input = GptInputLayer::load(vb.clone(), config)?;
        let block = candle_nn::linear(n_embd, n_embd, vb.pp("h.0"))?;
        let lm_head = input.lm_head()?;
        Ok(Self { input, block, lm_head })
    }

    pub fn forward(&self, input_ids: &Tensor, start_pos: usize) -> Result<Tensor> {
        let x = self.input.forward_at(input_ids, start_pos)?;
        let x = (&x + self.block.forward(&x)?.gelu()?)?;
        Ok(self.lm_head.forward(&x)?)
    }
}
