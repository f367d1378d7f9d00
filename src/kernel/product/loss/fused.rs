//! The fused pass on the CPU.
//!
//! The vocabulary is cut into blocks, and the blocks into groups, both by V alone. A chunk of rows takes two sweeps
//! over the blocks, each block being the work of one thread:
//!
//! 1. its logits, each row's largest one and the sum of the exponentials relative to it, while they are in the cache;
//!    the exponentials stay in the block's part of the buffer. (A row's total is known when all blocks are done.)
//! 2. its share of both gradients. One factor per row and block turns exponentials into probabilities, so each product
//!    scales its `[rows, C]` operand or result, never the logits.
//!
//! Every sum has a fixed order, so that the bits do not depend on the number of threads. The target's own logit is left
//! out of the sums and added separately: `p - 1` is computed as minus the share of all others, which loses no digits
//! when p is near 1.

use super::job::{GROUPS, Job};
use super::parts::{Counted, Wanted};
use super::sweeps::{Chunk, Partials};
use crate::error::Result;
use crate::kernel::core::parallel::each_in_parallel;
use crate::kernel::product::matmul::Update;
use crate::kernel::product::real::Real;
use crate::memory::{fits, zeros};

pub(super) struct Found<T> {
    pub(super) loss: f64,
    pub(super) losses: Vec<f64>,
    pub(super) hidden_grad: Option<Vec<T>>,
    pub(super) table_grad: Option<Vec<T>>,
    pub(super) bias_grad: Option<Vec<T>>,
}

impl<T: Real> Job<'_, T> {
    pub(super) fn run(&self, wanted: Wanted) -> Result<Found<T>> {
        let (c, blocks) = (self.n_embd, self.blocks());
        let mut found = Found {
            loss: 0.0,
            losses: Vec::with_capacity(self.counted.len()),
            hidden_grad: wanted.hidden.then(|| zeros(self.n_rows * c)).transpose()?,
            table_grad: wanted.table.then(|| zeros(self.vocab_size * c)).transpose()?,
            bias_grad: wanted.bias.then(|| zeros(self.vocab_size)).transpose()?,
        };
        let n_logits = fits("a chunk of logits", &[self.chunk_rows, blocks.len * blocks.count], size_of::<T>())?;
        let mut exps = wanted.any().then(|| zeros(n_logits)).transpose()?;
        let mut partials = wanted.hidden.then(|| zeros(GROUPS * self.chunk_rows * c)).transpose()?;
        let mut update = Update::Overwrite;
        for counted in self.counted.chunks(self.chunk_rows) {
            let chunk = Chunk::new(self, counted, self.pack(counted), exps.as_deref_mut());
            found.loss += chunk.loss();
            found.losses.extend(chunk.losses());
            if let Some(exps) = &exps {
                let partials = Partials {
                    hidden: partials.as_deref_mut(),
                    table: found.table_grad.as_deref_mut(),
                    bias: found.bias_grad.as_deref_mut(),
                };
                chunk.gradients(exps, partials, update);
                update = Update::Add;
            }
            if let (Some(partials), Some(grad)) = (&mut partials, &mut found.hidden_grad) {
                self.unpack(counted, partials, grad);
            }
        }
        found.loss *= self.scale;
        Ok(found)
    }

    /// Copies the rows that count next to each other.
    fn pack(&self, counted: &[Counted]) -> Vec<T> {
        let c = self.n_embd;
        let (mut rows, mut scratch) = (Vec::with_capacity(counted.len() * c), Vec::new());
        for &Counted { row, .. } in counted {
            rows.extend_from_slice(self.hidden.rows(row..row + 1, &mut scratch));
        }
        rows
    }

    /// Adds up the groups' shares `[groups, rows, C]` in order, and writes the rows where they came from.
    fn unpack(&self, counted: &[Counted], partials: &mut [T], grad: &mut [T]) {
        let c = self.n_embd;
        let blocks = self.blocks();
        let used = blocks.count.div_ceil(blocks.per_group) * counted.len() * c;
        let (sums, others) = partials[..used].split_at_mut(counted.len() * c);
        each_in_parallel(sums.chunks_mut(c), &|row, sum| {
            for other in others.chunks(counted.len() * c) {
                T::add_scaled(sum, T::ONE, &other[row * c..][..c]);
            }
        });
        for (sum, counted) in sums.chunks(c).zip(counted) {
            grad[counted.row * c..][..c].copy_from_slice(sum);
        }
    }
}
