//! The loss in plain Candle operations, chunk by chunk: for devices other than the CPU, and the oracle of the fused
//! pass.

use candle_core::Tensor;

use super::cross_entropy::CrossEntropy;
use super::parts::{Counted, LossParts, Wanted};
use crate::error::Result;

/// Computes as the fused pass does, with products in the dtype of the inputs and sums in f32 (f64 for f64).
pub(super) fn run(job: &CrossEntropy<'_>, wanted: Wanted) -> Result<LossParts> {
    let (real, device) = (job.real(), job.hidden.device());
    let mut loss = Tensor::zeros((), real, device)?;
    let mut all_losses = Vec::new();
    let table = job.table.dense(&job.hidden)?;
    let mut table_grad = wanted.table.then(|| Tensor::zeros(table.shape(), real, device)).transpose()?;
    let mut bias_grad = wanted.bias.then(|| Tensor::zeros(job.vocab_size, real, device)).transpose()?;
    let mut hidden_grad = wanted.hidden.then(|| Tensor::zeros(job.hidden.shape(), real, device)).transpose()?;
    for chunk in job.counted.chunks(job.chunk_rows) {
        let index = |value: fn(&Counted) -> usize| {
            let values: Vec<i64> = chunk.iter().map(|counted| value(counted) as i64).collect();
            Tensor::from_vec(values, chunk.len(), device)
        };
        let (rows, targets) = (index(|counted| counted.row)?, index(|counted| counted.target)?.unsqueeze(1)?);
        let hidden = job.hidden.index_select(&rows, 0)?;
        let mut logits = hidden.matmul(&table.t()?)?.to_dtype(real)?;
        if let Some(bias) = &job.bias {
            logits = logits.broadcast_add(&bias.to_dtype(real)?)?;
        }
        let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?)?;
        let exps = shifted.exp()?;
        let sums = exps.sum_keepdim(1)?;
        let losses = (sums.log()? - shifted.gather(&targets, 1)?)?;
        let weights: Vec<f64> = chunk.iter().map(|counted| counted.weight).collect();
        let weights = Tensor::from_vec(weights, (chunk.len(), 1), device)?.to_dtype(real)?;
        loss = (loss + (&losses * &weights)?.sum_all()?)?;
        all_losses.push(losses.squeeze(1)?);
        if !wanted.any() {
            continue;
        }
        let minus_one = Tensor::full(-1f32, targets.shape(), device)?.to_dtype(real)?;
        let slopes = exps.broadcast_div(&sums)?.scatter_add(&targets, &minus_one, 1)?;
        let slopes = slopes.broadcast_mul(&weights)?;
        if let Some(grad) = bias_grad.take() {
            bias_grad = Some((grad + slopes.sum(0)?)?);
        }
        let slopes = slopes.to_dtype(table.dtype())?;
        if let Some(grad) = hidden_grad.take() {
            hidden_grad = Some(grad.index_add(&rows, &slopes.matmul(&table)?.to_dtype(real)?, 0)?);
        }
        if let Some(grad) = table_grad.take() {
            table_grad = Some((grad + slopes.t()?.matmul(&hidden)?.to_dtype(real)?)?);
        }
    }
    // The factor comes last: the small factor of a mean would take slopes out of the range of f16.
    let scaled = |grad: Option<Tensor>| grad.map(|grad| grad * job.scale).transpose();
    Ok(LossParts {
        loss: (loss * job.scale)?,
        losses: Tensor::cat(&all_losses, 0)?,
        hidden_grad: scaled(hidden_grad)?,
        table_grad: scaled(table_grad)?,
        bias_grad: scaled(bias_grad)?,
    })
}
