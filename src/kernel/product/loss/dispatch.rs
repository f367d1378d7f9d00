//! Chooses the pass of a cross-entropy: the fused one on the CPU, plain Candle operations on other devices.

use std::marker::PhantomData;

use candle_core::{DType, Tensor};
use half::{bf16, f16};

use super::composed;
use super::cross_entropy::CrossEntropy;
use super::exchange::Exchange;
use super::job::{Blocks, Job, Stored, Values, WideRows};
use super::parts::{HeadTable, LossParts, Wanted};
use super::split::groups_of;
use super::whole::Whole;
use crate::error::{EmbeddingError, Result};
use crate::kernel::core::element::Element;
use crate::kernel::product::real::Real;
use crate::kernel::product::values::with_values;

impl CrossEntropy<'_> {
    pub(crate) fn run(&self, wanted: Wanted) -> Result<LossParts> {
        if self.counted.is_empty() {
            return self.nothing(wanted);
        }
        match (self.hidden.device().is_cpu(), self.hidden.dtype()) {
            (true, DType::F32) => self.fused::<f32>(wanted),
            (true, DType::F64) => self.fused::<f64>(wanted),
            (true, DType::BF16) => self.fused::<bf16>(wanted),
            (true, DType::F16) => self.fused::<f16>(wanted),
            _ if self.split.is_some() => Err(EmbeddingError::SplitOnDevice.into()),
            _ => composed::run(self, wanted),
        }
    }

    /// Returns the result if no row counts: 0 · `scale`, which is NaN for a mean (0/0, as in PyTorch), and zero
    /// gradients.
    fn nothing(&self, wanted: Wanted) -> Result<LossParts> {
        let (n_rows, n_embd) = self.hidden.dims2()?;
        let zeros = |n_rows| Tensor::zeros((n_rows, n_embd), self.real(), self.hidden.device());
        Ok(LossParts {
            loss: (Tensor::zeros((), self.real(), self.hidden.device())? * self.scale)?,
            losses: Tensor::zeros(0, self.real(), self.hidden.device())?,
            hidden_grad: wanted.hidden.then(|| zeros(n_rows)).transpose()?,
            table_grad: wanted.table.then(|| zeros(self.n_table_rows)).transpose()?,
            bias_grad: wanted.bias.then(|| zeros(self.n_table_rows)?.sum(1)).transpose()?,
        })
    }

    fn fused<S: Element<Wide: Real>>(&self, wanted: Wanted) -> Result<LossParts> {
        let (n_rows, n_embd) = self.hidden.dims2()?;
        let (vocab_size, blocks) = (self.vocab_size, Blocks::new(self.vocab_size));
        let groups = match &self.split {
            Some(split) => groups_of(blocks, split.ranks.rank(), split.ranks.size()),
            None => 0..blocks.n_groups(),
        };
        let others: &dyn Exchange<S::Wide> = match &self.split {
            Some(split) => split,
            None => &Whole,
        };
        let widened = |[bias]: [&[S]; 1]| bias.iter().map(|x| x.widen()).collect::<Vec<_>>();
        let bias = self.bias.as_ref().map(|bias| with_values([bias], widened)).transpose()?;
        let run = |hidden: &[S], table: &dyn WideRows<S::Wide>| {
            let (hidden, bias, counted) = (&Values(hidden, n_embd), bias.as_deref(), self.counted);
            let (scale, chunk_rows) = (self.scale, self.chunk_rows);
            let groups = groups.clone();
            Job { hidden, table, bias, n_rows, n_embd, vocab_size, groups, counted, scale, chunk_rows }
                .run(wanted, others)
        };
        let found = match &self.table {
            HeadTable::Dense(table) => {
                with_values([&self.hidden, table], |[hidden, table]| run(hidden, &Values(table, n_embd)))
            }
            HeadTable::Stored(table) => {
                with_values([&self.hidden], |[hidden]| run(hidden, &Stored(table, PhantomData::<S>)))
            }
        }??;
        let device = self.hidden.device();
        let tensor = |values, rows| Tensor::from_vec(values, (rows, n_embd), device);
        Ok(LossParts {
            loss: Tensor::new(found.loss, device)?.to_dtype(self.real())?,
            losses: Tensor::new(found.losses, device)?.to_dtype(self.real())?,
            hidden_grad: found.hidden_grad.map(|values| tensor(values, n_rows)).transpose()?,
            table_grad: found.table_grad.map(|values| tensor(values, self.n_table_rows)).transpose()?,
            bias_grad: found.bias_grad.map(|values| Tensor::new(values, device)).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor, Var};
    use proptest::prelude::*;

    use super::super::parts::{Counted, HeadTable, LossParts, Wanted};
    use super::{CrossEntropy, composed};
    use crate::error::Result;
    use crate::kernel::core::locks::while_a_writer_waits;

    const ALL: Wanted = Wanted { hidden: true, table: true, bias: true };

    fn values(n: usize, seed: u64, scale: f64) -> Vec<f64> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f64 / (1u64 << 23) as f64 - 1.0) * scale
        };
        (0..n).map(|_| next()).collect()
    }

    /// Computes the fused pass and the plain operations on the same random values.
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
            .map(|row| {
                let target = (row * 7919 + seed as usize % 1000) % vocab_size;
                Counted { row, target, weight: 1.0 + row as f64 / 8.0 }
            })
            .collect();
        let bias = Tensor::from_vec(values(vocab_size, seed ^ 1, 3.0), vocab_size, &Device::Cpu)?.to_dtype(dtype)?;
        let (hidden, table) = (hidden.to_dtype(dtype)?, HeadTable::Dense(table.to_dtype(dtype)?));
        let job = CrossEntropy::new(&hidden, (table, Some(&bias)), &counted, 0.3, Some(chunk_rows), None)?;
        Ok((job.run(ALL)?, composed::run(&job, ALL)?))
    }

    fn assert_near(left: &Tensor, right: &Tensor, bound: f64) {
        assert_eq!((left.dtype(), left.dims()), (right.dtype(), right.dims()));
        let read = |tensor: &Tensor| -> Result<Vec<f64>> { Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?) };
        let (left, right) = (read(left).unwrap(), read(right).unwrap());
        let largest = right.iter().fold(0.0f64, |max, x| max.max(x.abs()));
        let apart = left.iter().zip(&right).fold(0.0f64, |max, (x, y)| max.max((x - y).abs()));
        assert!(apart <= bound * largest, "{apart} apart, {largest} at most");
    }

    /// Compares both passes: the same sums in another order, a few units in the last place of the largest terms apart.
    fn assert_parts_near((fused, plain): (LossParts, LossParts), bound: f64) {
        assert_near(&fused.loss, &plain.loss, bound);
        assert_near(&fused.losses, &plain.losses, bound);
        assert_near(&fused.hidden_grad.unwrap(), &plain.hidden_grad.unwrap(), bound);
        assert_near(&fused.table_grad.unwrap(), &plain.table_grad.unwrap(), bound);
        assert_near(&fused.bias_grad.unwrap(), &plain.bias_grad.unwrap(), bound);
    }

    proptest! {
        #![proptest_config(crate::tests::properties(64))]

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
                // Candle adds a row's f32 exponentials one after the other, which costs it five digits here. So ours
                // are compared with the sums in f64, within the rounding of the logits.
                let (fused, _) = both_ways(shape, chunk_rows, DType::F32, vocab_size as u64)?;
                let wide = |tensor: Tensor| tensor.to_dtype(DType::F64);
                let fused = LossParts {
                    loss: wide(fused.loss)?,
                    losses: wide(fused.losses)?,
                    hidden_grad: fused.hidden_grad.map(wide).transpose()?,
                    table_grad: fused.table_grad.map(wide).transpose()?,
                    bias_grad: fused.bias_grad.map(wide).transpose()?,
                };
                assert_parts_near((fused, plain), 3e-6);
            }
        }
        Ok(())
    }

    /// Hidden states that are rows of the table share its lock.
    #[test]
    fn hidden_states_in_the_memory_of_the_table() -> Result<()> {
        let var = Var::zeros((4, 2), DType::F32, &Device::Cpu)?;
        let hidden = var.detach().narrow(0, 1, 1)?;
        while_a_writer_waits(&var, || {
            let counted = [Counted { row: 0, target: 3, weight: 1.0 }];
            let table = HeadTable::Dense(var.as_tensor().clone());
            let loss = CrossEntropy::new(&hidden, (table, None), &counted, 1.0, None, None)?;
            let found = loss.run(Wanted { bias: false, ..ALL })?.loss.to_scalar::<f32>()?;
            assert_eq!(found, 4f32.ln());
            Ok(())
        })?;
        Ok(())
    }

    #[test]
    fn only_what_is_wanted_is_computed() -> Result<()> {
        let tensor = |rows, seed| Tensor::from_vec(values(rows * 3, seed, 1.0), (rows, 3), &Device::Cpu);
        let counted = [Counted { row: 1, target: 4, weight: 1.0 }];
        let (table, bias) = (HeadTable::Dense(tensor(5, 2)?), tensor(5, 3)?.get_on_dim(1, 0)?);
        let job = CrossEntropy::new(&tensor(2, 1)?, (table, Some(&bias)), &counted, 1.0, None, None)?;
        let all = job.run(ALL)?;
        for [hidden, table, bias] in
            [[false, false, false], [true, false, false], [false, true, false], [false, false, true]]
        {
            let parts = job.run(Wanted { hidden, table, bias })?;
            assert_near(&parts.loss, &all.loss, 0.0);
            let found = [&parts.hidden_grad, &parts.table_grad, &parts.bias_grad].map(Option::is_some);
            assert_eq!(found, [hidden, table, bias]);
            parts.hidden_grad.iter().for_each(|grad| assert_near(grad, all.hidden_grad.as_ref().unwrap(), 0.0));
            parts.table_grad.iter().for_each(|grad| assert_near(grad, all.table_grad.as_ref().unwrap(), 0.0));
            parts.bias_grad.iter().for_each(|grad| assert_near(grad, all.bias_grad.as_ref().unwrap(), 0.0));
        }
        Ok(())
    }
}
