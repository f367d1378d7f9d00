//! [`TiedLmHead`]: the output head that shares the token table, and its loss.

mod loss;

use candle_core::{Module, Tensor};

use crate::embedding::TokenTable;
use crate::error::Result;

pub use loss::{LossGrads, LossOptions, Reduction};

/// logits = hidden_states · `wte`ᵀ, as GPT-2 ties its output to its input (Press & Wolf 2017, arXiv:1608.05859).
///
/// It holds the token table itself, not a copy: in training the gradients of both uses add up in the one table.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::TiedLmHead;
///
/// let wte = Tensor::new(&[[1f32, 0.], [0., 1.], [2., 3.]], &Device::Cpu)?;
/// let logits = TiedLmHead::new(wte)?.forward(&Tensor::new(&[[[10f32, 1.]]], &Device::Cpu)?)?;
/// assert_eq!(logits.to_vec3::<f32>()?, [[[10., 1., 23.]]]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TiedLmHead {
    wte: TokenTable,
}

impl TiedLmHead {
    /// A head on the token table `wte` `[V, C]`.
    ///
    /// # Errors
    /// [`Error::InvalidTable`](crate::Error::InvalidTable) if it is no matrix of floating-point numbers,
    /// [`Error::NotInMemory`](crate::Error::NotInMemory) if it is mapped.
    pub fn new(wte: impl Into<TokenTable>) -> Result<Self> {
        let wte = wte.into();
        wte.dense()?.dims()?;
        Ok(Self { wte })
    }

    /// # Shapes
    /// - `hidden_states`: `[.., C]`, usually `[B, T, C]`
    /// - returns: `[.., V]`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) if the last dimension is not C, [`Error::TableMismatch`](crate::Error::TableMismatch) if the type is not the table's.
    pub fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let table = self.wte.dense()?;
        let (vocab_size, n_embd) = table.dims()?;
        let outer = table.outer_dims("hidden_states", hidden_states)?;
        let n_rows: usize = outer.iter().product();
        let dims: Vec<usize> = outer.iter().copied().chain([vocab_size]).collect();
        Ok(hidden_states.reshape((n_rows, n_embd))?.matmul(&table.weight().t()?)?.reshape(dims)?)
    }
}

impl Module for TiedLmHead {
    fn forward(&self, hidden_states: &Tensor) -> candle_core::Result<Tensor> {
        Ok(Self::forward(self, hidden_states)?)
    }
}
