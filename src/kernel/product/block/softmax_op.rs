//! The softmax over the last dimension.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::rows::{each_rows, sum};
use crate::kernel::core::storage::slice;
use crate::kernel::product::exp::{exp_row_f32, row_max_f32};
use crate::kernel::product::values::{grad, storage, with_values};

type CandleResult<T> = candle_core::Result<T>;

/// A softmax as an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Softmax {
    /// Whether a row of -∞ alone becomes zeros; otherwise NaN, as the quotient 0/0 is.
    pub(super) masks_rows: bool,
}

impl Softmax {
    /// Turns scores into weights.
    pub(super) fn forward_row(self, row: &mut [f32]) {
        let max = row_max_f32(row);
        // A row of NaN has no largest element either.
        if self.masks_rows && max == f32::NEG_INFINITY && !row.iter().any(|x| x.is_nan()) {
            return row.fill(0.0);
        }
        let factor = (1.0 / exp_row_f32(row, max)) as f32;
        row.iter_mut().for_each(|x| *x *= factor);
    }

    /// Turns the gradient of the weights into that of the scores.
    pub(super) fn backward_row(weights: &[f32], grad: &mut [f32]) {
        let mean = sum(weights, grad, |weight, g| weight * g);
        grad.iter_mut().zip(weights).for_each(|(g, weight)| *g = weight * (*g - mean));
    }
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let n = layout.dims().last().copied().unwrap_or(1);
        let mut weights = slice::<f32>(scores, layout)?.to_vec();
        each_rows(&mut weights, n, &|_, rows| rows.chunks_mut(n).for_each(|row| self.forward_row(row)));
        Ok(storage(weights, layout.shape()))
    }

    fn bwd(&self, scores: &Tensor, weights: &Tensor, weights_grad: &Tensor) -> CandleResult<Option<Tensor>> {
        let n = scores.dims().last().copied().unwrap_or(1);
        let scores_grad = with_values([weights, weights_grad], |[weights, weights_grad]| {
            let mut scores_grad = weights_grad.to_vec();
            each_rows(&mut scores_grad, n, &|first, rows| {
                let weights = weights[first..].chunks(n);
                rows.chunks_mut(n).zip(weights).for_each(|(grad, weights)| Self::backward_row(weights, grad));
            });
            scores_grad
        })?;
        grad(scores_grad, scores)
    }
}
