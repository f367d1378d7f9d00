//! Greedy decoding and top-k without logits in memory.

use candle_core::{DType, Device, Tensor};

use super::LmHead;
use crate::error::{Error, LmHeadError, Result};
use crate::kernel::{Best, best, unravel};
use crate::memory::{copy_fits, fits};

/// The largest logits of each row of hidden states, and their tokens, as `torch.topk` returns them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopK {
    /// The logits, `[.., k]` in the dtype of the table, the largest first. They have no history.
    pub values: Tensor,
    /// The tokens, `[.., k]` in `u32`.
    pub ids: Tensor,
}

/// The most memory that a logit takes until it is returned: twice 16 bytes in a list that grows by doubling, and what
/// tensors are made of.
const KEPT_BYTES: usize = 48;

impl LmHead {
    /// Returns the token with the largest logit for each row of hidden states: greedy decoding.
    ///
    /// It is that of [`forward`](Self::forward) without a history, of equal logits the lowest id, as in `torch.argmax`.
    /// Where `forward` reads a table once, row by row, this does it in the same pass and keeps no logits `[.., V]`;
    /// where `forward` takes another way (f64, another device, …) it goes through them.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::LmHead;
    ///
    /// let wte = Tensor::new(&[[1f32, 0.], [0., 1.], [1., 0.]], &Device::Cpu)?; // tokens 0 and 2 are alike
    /// let hidden_states = Tensor::new(&[[[2f32, 1.], [0., 3.]]], &Device::Cpu)?; // logits 2, 1, 2 and 0, 3, 0
    /// assert_eq!(LmHead::new(wte)?.argmax(&hidden_states)?.to_vec2::<u32>()?, [[0, 1]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `hidden_states`: `[.., C]`, usually `[B, T, C]`
    /// - returns: `[..]`, `u32`, on the device of the table
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward), and [`LmHeadError::Nan`] if a logit is NaN.
    pub fn argmax(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let TopK { ids, .. } = self.top_k(hidden_states, 1)?;
        Ok(ids.squeeze(candle_core::D::Minus1)?)
    }

    /// Returns the `k` largest logits of each row of hidden states, and their tokens.
    ///
    /// They are those of [`forward`](Self::forward), of equal logits the lowest ids, in this order. (`torch.topk` leaves
    /// open which of equal ones it takes.) It keeps no logits where [`argmax`](Self::argmax) keeps none,
    /// but at most 48 bytes for each one that is returned.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::LmHead;
    ///
    /// let wte = Tensor::new(&[[1f32], [3.], [2.], [3.]], &Device::Cpu)?;
    /// let found = LmHead::new(wte)?.top_k(&Tensor::new(&[[10f32], [-1.]], &Device::Cpu)?, 3)?;
    /// assert_eq!(found.values.to_vec2::<f32>()?, [[30., 30., 20.], [-1., -2., -3.]]);
    /// assert_eq!(found.ids.to_vec2::<u32>()?, [[1, 3, 2], [0, 2, 1]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `hidden_states`: `[.., C]`, usually `[B, T, C]`
    /// - returns: twice `[.., k]`, on the device of the table
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward), [`LmHeadError::Nan`] if a logit is NaN, and [`LmHeadError::TooMany`] if `k` is
    /// more than the [`vocab_size`](Self::vocab_size).
    #[doc(alias = "topk")]
    pub fn top_k(&self, hidden_states: &Tensor, k: usize) -> Result<TopK> {
        if k > self.vocab_size {
            return Err(LmHeadError::TooMany { k, vocab_size: self.vocab_size }.into());
        }
        let outer = self.outer_dims(hidden_states)?;
        let dims: Vec<usize> = outer.iter().copied().chain([k]).collect();
        fits("top_k", &dims, KEPT_BYTES)?;
        let (mut values, mut ids) = (Vec::new(), Vec::new());
        for (row, best) in self.best_of_rows(hidden_states, k)?.into_iter().enumerate() {
            let best = best.in_order().map_err(|id| LmHeadError::Nan { id, at: unravel(row, outer) })?;
            for (value, id) in best {
                values.push(value);
                ids.push(id);
            }
        }
        let (dtype, device) = (self.table.dtype(), self.table.device());
        Ok(TopK {
            values: Tensor::from_vec(values, &dims[..], &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?,
            ids: Tensor::from_vec(ids, &dims[..], device)?,
        })
    }

    fn best_of_rows(&self, hidden_states: &Tensor, k: usize) -> Result<Vec<Best>> {
        let hidden_states = hidden_states.detach();
        copy_fits("hidden_states", &hidden_states)?;
        let n_rows = self.outer_dims(&hidden_states)?.iter().product::<usize>();
        let flat = hidden_states.reshape((n_rows, self.table.dims().1))?;
        let bias = self.bias.as_ref().map(|bias| self.tokens(bias)).transpose()?;
        if let Some(found) = best(&flat, &self.rows()?, bias.as_ref(), k)? {
            return Ok(found);
        }
        let logits = self.forward(&hidden_states)?.reshape((n_rows, self.vocab_size))?.to_device(&Device::Cpu)?;
        (0..n_rows)
            .map(|row| {
                let mut best = Best::new(k);
                best.offer(0, &logits.get(row)?.to_dtype(DType::F64)?.to_vec1::<f64>()?);
                Ok(best)
            })
            .collect::<Result<_, Error>>()
    }
}
