//! Layer norm (Ba, Kiros & Hinton 2016, arXiv:1607.06450) and RMS norm (Zhang & Sennrich 2019, arXiv:1910.07467).

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use super::rows::{ROWS, add, each_rows, sum, total};
use crate::kernel::core::parallel::each_in_parallel;
use crate::kernel::core::simd::vectorised;
use crate::kernel::core::storage::slice;
use crate::kernel::product::values::{grad, storage, with_values};
use crate::memory::zeros;

type CandleResult<T> = candle_core::Result<T>;

/// `(x - mean) / sqrt(variance + eps)`, or `x / sqrt(mean(x²) + eps)` where the mean is not subtracted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub(crate) eps: f64,
    pub(crate) is_centred: bool,
}

impl Norm {
    #[inline(always)]
    fn mean(self, row: &[f32]) -> f32 {
        if self.is_centred { sum(row, row, |x, _| x) / row.len() as f32 } else { 0.0 }
    }

    /// Writes the normalized row and returns the factor that did it.
    #[inline(always)]
    fn normalize(self, x: &[f32], to: &mut [f32]) -> f32 {
        let mean = self.mean(x);
        let variance = sum(x, x, |x, _| (x - mean) * (x - mean)) / x.len() as f32;
        let rstd = 1.0 / (variance + self.eps as f32).sqrt();
        to.iter_mut().zip(x).for_each(|(to, x)| *to = (x - mean) * rstd);
        rstd
    }

    #[inline(always)]
    fn forward_row(self, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
        self.normalize(x, y);
        y.iter_mut().zip(weight).zip(bias).for_each(|((y, weight), bias)| *y = *y * weight + bias);
    }

    /// Writes the gradient of a row and adds those of weight and bias; `normal` is scratch.
    #[inline(always)]
    fn backward_row(self, (x, weight, grad): (&[f32], &[f32], &[f32]), to: Backward<'_>) {
        let Backward { normal, x_grad, weight_sums, bias_sums } = to;
        let rstd = self.normalize(x, normal);
        add(bias_sums, grad);
        weight_sums.iter_mut().zip(&*normal).zip(grad).for_each(|((sum, x), g)| *sum += x * g);
        x_grad.iter_mut().zip(weight).zip(grad).for_each(|((to, weight), g)| *to = weight * g);
        let mean = self.mean(x_grad);
        let slope = sum(x_grad, normal, |g, x| g * x) / x.len() as f32;
        x_grad.iter_mut().zip(&*normal).for_each(|(g, x)| *g = rstd * (*g - mean - x * slope));
    }
}

/// Where a row's backward pass writes.
struct Backward<'a> {
    normal: &'a mut [f32],
    x_grad: &'a mut [f32],
    weight_sums: &'a mut [f32],
    bias_sums: &'a mut [f32],
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (x, weight) = (slice::<f32>(x, x_layout)?, slice::<f32>(weight, weight_layout)?);
        let (bias, c) = (slice::<f32>(bias, bias_layout)?, weight.len());
        let mut y = zeros(x.len())?;
        each_rows(&mut y, c, &|first, y| {
            vectorised(|| {
                for (y, x) in y.chunks_mut(c).zip(x[first..].chunks(c)) {
                    self.forward_row(x, weight, bias, y);
                }
            });
        });
        Ok(storage(y, x_layout.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _res: &Tensor,
        y_grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let c = weight.elem_count();
        let (x_grad, sums) = with_values([x, weight, y_grad], |[x, weight, grad]| {
            let mut x_grad: Vec<f32> = zeros(x.len())?;
            let mut parts = vec![vec![0.0; 2 * c]; (x.len() / c).div_ceil(ROWS)];
            each_in_parallel(x_grad.chunks_mut(ROWS * c).zip(&mut parts), &|index, (x_grad, sums)| {
                let (mut normal, first) = (vec![0.0; c], index * ROWS * c);
                let (weight_sums, bias_sums) = sums.split_at_mut(c);
                vectorised(|| {
                    let rows = x[first..].chunks(c).zip(grad[first..].chunks(c));
                    for (x_grad, (x, grad)) in x_grad.chunks_mut(c).zip(rows) {
                        let to = Backward { normal: &mut normal, x_grad, weight_sums, bias_sums };
                        self.backward_row((x, weight, grad), to);
                    }
                });
            });
            CandleResult::Ok((x_grad, total(&parts)))
        })??;
        let (weight_grad, bias_grad) = sums.split_at(c);
        let of = |tensor: &Tensor, sums: &[f32]| match tensor.track_op() {
            true => grad(sums.to_vec(), tensor),
            false => Ok(None),
        };
        Ok((grad(x_grad, x)?, of(weight, weight_grad)?, of(bias, bias_grad)?))
    }
}
