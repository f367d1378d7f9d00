//! Cross-entropy of `hidden_states · tableᵀ` without the logits as a whole: chunk by chunk of rows, the loss and its
//! gradients in one pass, as Liger-Kernel's fused linear cross-entropy does it (Hsu et al. 2024, arXiv:2410.10989).
//!
//! With logits `z = h · tableᵀ` of a row and `p = softmax(z)`: `loss = ln Σ exp(z) - z[target]`,
//! `∂loss/∂h = (p - onehot) · table`, `∂loss/∂table = (p - onehot)ᵀ · h`.

mod composed;
mod exp;
mod fused;
mod matmul;
mod op;
mod real;
mod sweeps;

use candle_core::{DType, Tensor};
use half::{bf16, f16};

use crate::error::Result;
pub(crate) use op::attach;
use real::{Element, with_values};

/// A row of the hidden states that counts, and the token that it is to predict: below N and V.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) row: usize,
    pub(crate) target: usize,
}

/// Which gradients are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) hidden: bool,
    pub(crate) table: bool,
}

/// What is to be computed, all checked: `hidden` `[N, C]` and `table` `[V, C]` of one type on one device.
#[derive(Clone, Debug)]
pub(crate) struct CrossEntropy<'a> {
    hidden: Tensor,
    table: Tensor,
    counted: &'a [Counted],
    scale: f64,
    chunk_rows: usize,
}

/// The loss and the gradients that were asked for: f64 for f64 inputs, else f32, so that nothing is rounded to a half
/// type before the last factor is known.
#[derive(Clone, Debug)]
pub(crate) struct LossParts {
    /// A scalar.
    pub(crate) loss: Tensor,
    /// `[N, C]`, zero in rows that do not count.
    pub(crate) hidden_grad: Option<Tensor>,
    /// `[V, C]`
    pub(crate) table_grad: Option<Tensor>,
}

/// How many logits a chunk holds unless its rows are given: 64 MB in f32. Fewer cost a pass over the table's gradient
/// more often, more do not pay.
const CHUNK_LOGITS: usize = 16 << 20;

impl<'a> CrossEntropy<'a> {
    /// `scale` times the sum of the losses of the rows `counted`.
    pub(crate) fn new(
        hidden: &Tensor,
        table: &Tensor,
        counted: &'a [Counted],
        scale: f64,
        chunk_rows: Option<usize>,
    ) -> Result<Self> {
        let (vocab_size, _) = table.dims2()?;
        let most = chunk_rows.unwrap_or((CHUNK_LOGITS / vocab_size).clamp(16, 2048)).max(1);
        // Chunks of the same size, so that the last one is no sliver.
        let n_chunks = counted.len().div_ceil(most).max(1);
        let chunk_rows = counted.len().div_ceil(n_chunks).max(1);
        let (hidden, table) = (hidden.detach().contiguous()?, table.detach().contiguous()?);
        Ok(Self { hidden, table, counted, scale, chunk_rows })
    }

    pub(crate) fn run(&self, wanted: Wanted) -> Result<LossParts> {
        if self.counted.is_empty() {
            return self.nothing(wanted);
        }
        match (self.hidden.device().is_cpu(), self.hidden.dtype()) {
            (true, DType::F32) => self.fused::<f32>(wanted),
            (true, DType::F64) => self.fused::<f64>(wanted),
            (true, DType::BF16) => self.fused::<bf16>(wanted),
            (true, DType::F16) => self.fused::<f16>(wanted),
            _ => composed::run(self, wanted),
        }
    }

    /// The type that is computed in.
    fn real(&self) -> DType {
        if self.hidden.dtype() == DType::F64 { DType::F64 } else { DType::F32 }
    }

    /// No row counts: 0 · `scale`, which is NaN for a mean (0/0, as PyTorch), and gradients of zero.
    fn nothing(&self, wanted: Wanted) -> Result<LossParts> {
        let zeros = |like: &Tensor| Tensor::zeros(like.shape(), self.real(), like.device());
        Ok(LossParts {
            loss: (Tensor::zeros((), self.real(), self.hidden.device())? * self.scale)?,
            hidden_grad: wanted.hidden.then(|| zeros(&self.hidden)).transpose()?,
            table_grad: wanted.table.then(|| zeros(&self.table)).transpose()?,
        })
    }

    fn fused<S: Element>(&self, wanted: Wanted) -> Result<LossParts> {
        let (n_rows, n_embd) = self.hidden.dims2()?;
        let (vocab_size, _) = self.table.dims2()?;
        let found = with_values::<S, _>(&self.hidden, |hidden| {
            with_values::<S, _>(&self.table, |table| {
                let (counted, scale, chunk_rows) = (self.counted, self.scale, self.chunk_rows);
                fused::Job { hidden, table, n_rows, n_embd, vocab_size, counted, scale, chunk_rows }.run(wanted)
            })
        })??;
        let device = self.hidden.device();
        let tensor = |values, rows| Tensor::from_vec(values, (rows, n_embd), device);
        Ok(LossParts {
            loss: Tensor::new(found.loss, device)?.to_dtype(self.real())?,
            hidden_grad: found.hidden_grad.map(|values| tensor(values, n_rows)).transpose()?,
            table_grad: found.table_grad.map(|values| tensor(values, vocab_size)).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests;
