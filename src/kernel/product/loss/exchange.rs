//! What a pass asks of the other ranks, where each has a share of the vocabulary.

use std::ops::Range;

use super::job::Job;
use crate::error::Result;

/// A row's logits in one block.
#[derive(Clone, Copy)]
pub(super) struct Score<T> {
    /// Leaves out the target, as `sum` does.
    pub(super) max: T,
    /// Of `exp(logit - max)`.
    pub(super) sum: f64,
    /// The target's logit, where the block holds it.
    pub(super) target: T,
}

/// The three points of a chunk at which ranks must know what others have. `chunk` says which of the rows that count it
/// has.
pub(super) trait Exchange<T> {
    /// Returns the rows of a chunk, of all ranks: `[rows, C]`.
    fn rows(&self, job: &Job<'_, T>, chunk: &Range<usize>) -> Result<Vec<T>>;

    /// Returns the scores of all blocks, `[blocks, rows]`, given those of this rank's blocks.
    fn scores(&self, job: &Job<'_, T>, chunk: &Range<usize>, own: Vec<Score<T>>) -> Result<Vec<Score<T>>>;

    /// Adds up the groups' shares of the hidden states' gradient in order, given those of this rank's groups
    /// `[groups, rows, C]`, and writes this rank's rows where they came from.
    fn hidden_grad(&self, job: &Job<'_, T>, chunk: &Range<usize>, partials: &mut [T], grad: &mut [T]) -> Result<()>;
}
