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

use super::StoredTable;
use super::element::Element;
use crate::error::Result;
use fused::Rows;
pub(crate) use op::attach;
use real::{Real, with_values};

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

/// The table of the head, `[V, C]`: in memory, or converted while it is read.
#[derive(Clone, Debug)]
pub(crate) enum HeadTable<'a> {
    Dense(Tensor),
    Stored(&'a StoredTable),
}

impl HeadTable<'_> {
    /// Whether a gradient of it is wanted.
    pub(crate) fn is_tracked(&self) -> bool {
        matches!(self, Self::Dense(table) if table.track_op())
    }

    /// All of its numbers in one tensor.
    fn dense(&self) -> Result<Tensor> {
        match self {
            Self::Dense(table) => Ok(table.clone()),
            Self::Stored(table) => table.narrow(0, table.n_rows),
        }
    }
}

/// What is to be computed, all checked: `hidden` `[N, C]` and `table` `[V, C]` of one type on one device.
#[derive(Clone, Debug)]
pub(crate) struct CrossEntropy<'a> {
    hidden: Tensor,
    table: HeadTable<'a>,
    vocab_size: usize,
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
        table: HeadTable<'a>,
        counted: &'a [Counted],
        scale: f64,
        chunk_rows: Option<usize>,
    ) -> Result<Self> {
        let (_, n_embd) = hidden.dims2()?;
        let (table, vocab_size) = match table {
            HeadTable::Dense(table) => (HeadTable::Dense(table.detach().contiguous()?), table.dim(0)?),
            HeadTable::Stored(stored) => (table, stored.n_rows),
        };
        // As many partial gradients of the hidden states as logits, at most.
        let width = vocab_size.max(fused::GROUPS * n_embd);
        let most = chunk_rows.unwrap_or((CHUNK_LOGITS / width).clamp(16, 2048)).max(1);
        // Chunks of the same size, so that the last one is no sliver.
        let n_chunks = counted.len().div_ceil(most).max(1);
        let chunk_rows = counted.len().div_ceil(n_chunks).max(1);
        let hidden = hidden.detach().contiguous()?;
        Ok(Self { hidden, table, vocab_size, counted, scale, chunk_rows })
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
        let (n_rows, n_embd) = self.hidden.dims2()?;
        let zeros = |n_rows| Tensor::zeros((n_rows, n_embd), self.real(), self.hidden.device());
        Ok(LossParts {
            loss: (Tensor::zeros((), self.real(), self.hidden.device())? * self.scale)?,
            hidden_grad: wanted.hidden.then(|| zeros(n_rows)).transpose()?,
            table_grad: wanted.table.then(|| zeros(self.vocab_size)).transpose()?,
        })
    }

    fn fused<S: Element<Wide: Real>>(&self, wanted: Wanted) -> Result<LossParts> {
        let (n_rows, n_embd) = self.hidden.dims2()?;
        let vocab_size = self.vocab_size;
        let found = with_values::<S, _>(&self.hidden, |hidden| {
            let run = |table: Rows<'_, S>| {
                let (counted, scale, chunk_rows) = (self.counted, self.scale, self.chunk_rows);
                fused::Job { hidden, table, n_rows, n_embd, vocab_size, counted, scale, chunk_rows }.run(wanted)
            };
            match &self.table {
                HeadTable::Dense(table) => with_values::<S, _>(table, |values| run(Rows::Values(values))),
                HeadTable::Stored(table) => Ok(run(Rows::Stored(table))),
            }
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
mod tests {
    use candle_core::{DType, Device, Tensor};
    use proptest::prelude::*;

    use super::{Counted, CrossEntropy, HeadTable, LossParts, Wanted, composed};
    use crate::error::Result;

    const BOTH: Wanted = Wanted { hidden: true, table: true };

    fn values(n: usize, seed: u64, scale: f64) -> Vec<f64> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f64 / (1u64 << 23) as f64 - 1.0) * scale
        };
        (0..n).map(|_| next()).collect()
    }

    /// The fused pass and the plain operations on the same random numbers.
    fn both_ways(
        (n_rows, n_embd, vocab_size): (usize, usize, usize),
        chunk_rows: usize,
        dtype: DType,
        seed: u64,
    ) -> Result<(LossParts, LossParts)> {
        let hidden = Tensor::from_vec(values(n_rows * n_embd, seed, 2.0), (n_rows, n_embd), &Device::Cpu)?;
        let table = Tensor::from_vec(values(vocab_size * n_embd, !seed, 2.0), (vocab_size, n_embd), &Device::Cpu)?;
        // Every third row does not count.
        let counted: Vec<_> = (0..n_rows)
            .filter(|row| row % 3 != 2)
            .map(|row| Counted { row, target: (row * 7919 + seed as usize % 1000) % vocab_size })
            .collect();
        let (hidden, table) = (hidden.to_dtype(dtype)?, table.to_dtype(dtype)?);
        let job = CrossEntropy::new(&hidden, HeadTable::Dense(table.clone()), &counted, 0.3, Some(chunk_rows))?;
        Ok((job.run(BOTH)?, composed::run(&job, BOTH)?))
    }

    fn assert_near(left: &Tensor, right: &Tensor, bound: f64) {
        assert_eq!((left.dtype(), left.dims()), (right.dtype(), right.dims()));
        let read = |tensor: &Tensor| -> Result<Vec<f64>> { Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?) };
        let (left, right) = (read(left).unwrap(), read(right).unwrap());
        let largest = right.iter().fold(0.0f64, |max, x| max.max(x.abs()));
        let apart = left.iter().zip(&right).fold(0.0f64, |max, (x, y)| max.max((x - y).abs()));
        assert!(apart <= bound * largest, "{apart} apart, {largest} at most");
    }

    /// The sums are the same in another order: a few units in the last place of the largest terms.
    fn assert_parts_near((fused, plain): (LossParts, LossParts), bound: f64) {
        assert_near(&fused.loss, &plain.loss, bound);
        assert_near(&fused.hidden_grad.unwrap(), &plain.hidden_grad.unwrap(), bound);
        assert_near(&fused.table_grad.unwrap(), &plain.table_grad.unwrap(), bound);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn fused_is_composed(
            n_rows in 1usize..40, n_embd in 1usize..20, vocab_size in 1usize..300, chunk in 1usize..50, seed: u64,
        ) {
            let shape = (n_rows, n_embd, vocab_size);
            assert_parts_near(both_ways(shape, chunk, DType::F32, seed).unwrap(), 1e-5);
            assert_parts_near(both_ways(shape, chunk, DType::F64, seed).unwrap(), 1e-13);
        }
    }

    /// Vocabularies around the ends of blocks and groups.
    #[test]
    fn blocks_and_groups_cover_the_vocabulary() -> Result<()> {
        for vocab_size in [1023, 1024, 1025, 2049, 16384, 16385, 16390, 33000, 50257] {
            for (n_rows, chunk_rows) in [(1, 1), (7, 3)] {
                let shape = (n_rows, 3, vocab_size);
                let (fused, plain) = both_ways(shape, chunk_rows, DType::F64, vocab_size as u64)?;
                assert_parts_near((fused, plain.clone()), 1e-12);
                // Candle adds a row's f32 exponentials one after the other, which costs it five digits here: ours are
                // held against the sums in f64, within the rounding of the logits.
                let (fused, _) = both_ways(shape, chunk_rows, DType::F32, vocab_size as u64)?;
                let wide = |tensor: Tensor| tensor.to_dtype(DType::F64);
                let fused = LossParts {
                    loss: wide(fused.loss)?,
                    hidden_grad: fused.hidden_grad.map(wide).transpose()?,
                    table_grad: fused.table_grad.map(wide).transpose()?,
                };
                assert_parts_near((fused, plain), 3e-6);
            }
        }
        Ok(())
    }

    #[test]
    fn only_what_is_wanted_is_computed() -> Result<()> {
        let tensor = |rows, seed| Tensor::from_vec(values(rows * 3, seed, 1.0), (rows, 3), &Device::Cpu);
        let counted = [Counted { row: 1, target: 4 }];
        let table = tensor(5, 2)?;
        let job = CrossEntropy::new(&tensor(2, 1)?, HeadTable::Dense(table.clone()), &counted, 1.0, None)?;
        let all = job.run(BOTH)?;
        for (hidden, table) in [(false, false), (true, false), (false, true)] {
            let parts = job.run(Wanted { hidden, table })?;
            assert_near(&parts.loss, &all.loss, 0.0);
            assert_eq!((parts.hidden_grad.is_some(), parts.table_grad.is_some()), (hidden, table));
            parts.hidden_grad.iter().for_each(|grad| assert_near(grad, all.hidden_grad.as_ref().unwrap(), 0.0));
            parts.table_grad.iter().for_each(|grad| assert_near(grad, all.table_grad.as_ref().unwrap(), 0.0));
        }
        Ok(())
    }
}
