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

use super::exchange::Exchange;
use super::job::Job;
use super::parts::Wanted;
use super::sweeps::{Chunk, Partials};
use crate::error::Result;
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
    pub(super) fn run(&self, wanted: Wanted, others: &dyn Exchange<T>) -> Result<Found<T>> {
        let (c, n_blocks, n_table_rows) = (self.n_embd, self.own_blocks().len(), self.own_rows().len());
        let mut found = Found {
            loss: 0.0,
            losses: Vec::with_capacity(self.counted.len()),
            hidden_grad: wanted.hidden.then(|| zeros(self.n_rows * c)).transpose()?,
            table_grad: wanted.table.then(|| zeros(n_table_rows * c)).transpose()?,
            bias_grad: wanted.bias.then(|| zeros(n_table_rows)).transpose()?,
        };
        let n_logits = fits("a chunk of logits", &[self.chunk_rows, self.blocks().len * n_blocks], size_of::<T>())?;
        let mut exps = wanted.any().then(|| zeros(n_logits)).transpose()?;
        let mut partials = wanted.hidden.then(|| zeros(self.groups.len() * self.chunk_rows * c)).transpose()?;
        let mut update = Update::Overwrite;
        for start in (0..self.counted.len()).step_by(self.chunk_rows) {
            let at = start..(start + self.chunk_rows).min(self.counted.len());
            let chunk = Chunk::new(self, at.clone(), others, exps.as_deref_mut())?;
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
                others.hidden_grad(self, &at, &mut partials[..self.groups.len() * at.len() * c], grad)?;
            }
        }
        found.loss *= self.scale;
        Ok(found)
    }
}
