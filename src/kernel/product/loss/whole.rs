//! [`Whole`]: a pass over all of the vocabulary, which asks nobody.

use std::ops::Range;

use super::exchange::{Exchange, Score};
use super::job::Job;
use crate::error::Result;
use crate::kernel::core::parallel::each_in_parallel;
use crate::kernel::product::real::Real;

pub(super) struct Whole;

impl<T: Real> Exchange<T> for Whole {
    fn rows(&self, job: &Job<'_, T>, chunk: &Range<usize>) -> Result<Vec<T>> {
        Ok(job.pack(chunk.clone()))
    }

    fn scores(&self, _: &Job<'_, T>, _: &Range<usize>, own: Vec<Score<T>>) -> Result<Vec<Score<T>>> {
        Ok(own)
    }

    fn hidden_grad(&self, job: &Job<'_, T>, chunk: &Range<usize>, partials: &mut [T], grad: &mut [T]) -> Result<()> {
        let (c, n) = (job.n_embd, chunk.len() * job.n_embd);
        let (sums, others) = partials.split_at_mut(n);
        each_in_parallel(sums.chunks_mut(c), &|row, sum| {
            for other in others.chunks(n) {
                T::add_scaled(sum, T::ONE, &other[row * c..][..c]);
            }
        });
        job.unpack(chunk.clone(), sums, grad);
        Ok(())
    }
}
