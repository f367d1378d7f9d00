//! Gradient clipping with tables that are cut.

use candle_core::Var;
use candle_core::backprop::GradStore;

use super::VocabParallelEmbedding;
use crate::error::{RanksError, Result};
use crate::kernel::{Gradient, row_sums_of_squares, sum_of_row_sums, sum_of_squares};
use crate::optim::{RowGrad, clip_grad_norm_by};
use crate::ranks::{Parts, Ranks, agree};

/// Does what [`optim::clip_grad_norm`](crate::optim::clip_grad_norm) does, with the norm of the whole gradient: all
/// rows of `tables`, of which each rank holds a share, and the other variables, whose gradients are the same on each
/// rank. A collective call.
///
/// The norm has the bits of one process with whole tables. `vars` are those of all tables and the others, in the same
/// order on each rank. The sums of squares of a table's rows are gathered: 8·V bytes.
///
/// ```
/// use candle_core::backprop::GradStore;
/// use candle_core::{DType, Device, Tensor};
/// use candle_gpt_input::ranks::Threads;
/// use candle_gpt_input::vocab_parallel::{VocabParallelEmbedding, clip_grad_norm};
///
/// let norms = Threads::run(2, |ranks| {
///     let wte = VocabParallelEmbedding::new(ranks, &Tensor::zeros((2000, 1), DType::F32, &Device::Cpu)?)?;
///     let mut grads = GradStore::default();
///     grads.insert(wte.var(), wte.var().ones_like()?); // 1000 rows on each rank
///     clip_grad_norm(ranks, &[&wte], &[wte.var().clone()], &mut grads, &mut [], 1.0)
/// });
/// assert!(norms.into_iter().all(|norm| norm.unwrap() == 2000f64.sqrt()));
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
///
/// # Errors
/// [`OptimError`](crate::error::OptimError) on every rank for a gradient of another shape, dtype or device than its
/// variable; nothing is changed then.
pub fn clip_grad_norm(
    ranks: &dyn Ranks,
    tables: &[&VocabParallelEmbedding],
    vars: &[Var],
    grads: &mut GradStore,
    rows: &mut [RowGrad],
    max_norm: f64,
) -> Result<f64> {
    // Checks all gradients before anything is sent.
    agree(ranks, clip_grad_norm_by(vars, grads, rows, f64::INFINITY, |_, _| Ok(0.0)).map(drop))?;
    clip_grad_norm_by(vars, grads, rows, max_norm, |var, gradient| {
        match tables.iter().find(|table| table.var.id() == var.id()) {
            Some(table) => sum_of_table(ranks, table, gradient),
            None => Ok(sum_of_squares(&[(var.as_tensor(), gradient)])?),
        }
    })
}

/// Returns the sum of squares of a whole table's gradient.
fn sum_of_table(ranks: &dyn Ranks, table: &VocabParallelEmbedding, gradient: Gradient) -> Result<f64> {
    let own = row_sums_of_squares(&table.var, gradient)?;
    let bytes: Vec<u8> = own.iter().flat_map(|sum| sum.to_le_bytes()).collect();
    let mut all = Parts::default();
    ranks.all_gather(&bytes, &mut all)?;
    if let Some(rank) = all.iter().zip(&table.shares).position(|(part, rows)| part.len() != 8 * rows.len()) {
        return Err(RanksError::Differ { what: "the norm of the gradient", rank }.into());
    }
    let (sums, _) = all.bytes().as_chunks::<8>();
    let sums: Vec<f64> = sums.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
    Ok(sum_of_row_sums(&sums, table.n_embd))
}
