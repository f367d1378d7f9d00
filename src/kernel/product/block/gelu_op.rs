//! GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415) in both of its forms.

use candle_core::cpu::erf::erf_f64;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use crate::kernel::core::parallel::each_in_parallel;
use crate::kernel::core::simd::vectorised;
use crate::kernel::core::storage::slice;
use crate::kernel::product::exp::exp_row_f32;
use crate::kernel::product::values::{grad, storage, with_values};
use crate::memory::zeros;

type CandleResult<T> = candle_core::Result<T>;

/// The form of a GELU, by the names of `torch.nn.GELU(approximate=…)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Approximate {
    /// `x · (1 + erf(x/√2)) / 2`, the exact form: `"none"`. Hugging Face calls it `gelu`.
    #[default]
    None,
    /// `x · (1 + tanh(√(2/π) · (x + 0.044715 x³))) / 2`: `"tanh"`. Hugging Face calls it `gelu_new`; it is GPT-2's.
    Tanh,
}

/// √(2/π)
const ROOT: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;
/// Elements for each task.
const SPAN: usize = 1 << 13;

impl Approximate {
    /// Writes the share of each `x` that GELU lets through: `gelu(x) / x`, between 0 and 1.
    fn shares(self, x: &[f32], to: &mut [f32]) {
        match self {
            Self::None => to.iter_mut().zip(x).for_each(|(to, &x)| *to = normal_cdf(x)),
            Self::Tanh => {
                // (1 + tanh(u)) / 2 is the logistic function of 2 u, which needs exp(-|2 u|).
                vectorised(|| to.iter_mut().zip(x).for_each(|(to, &x)| *to = -two_u(x).abs()));
                exp_row_f32(to, 0.0);
                vectorised(|| {
                    to.iter_mut().zip(x).for_each(|(e, &x)| {
                        *e = if two_u(x) >= 0.0 { 1.0 } else { *e } / (1.0 + *e);
                    });
                });
            }
        }
    }

    /// Turns the shares of `x` into the slopes of GELU there, times `grad`.
    fn slopes(self, x: &[f32], grad: &[f32], shares: &mut [f32]) {
        let all = shares.iter_mut().zip(x).zip(grad);
        match self {
            Self::None => all.for_each(|((share, &x), g)| *share = g * (*share + x * normal_density(x))),
            Self::Tanh => vectorised(|| {
                all.for_each(|((share, &x), g)| {
                    let slope_of_2u = 2.0 * ROOT * (1.0 + 3.0 * CUBIC * x * x);
                    // Far out the share is exactly 0 or 1, and an infinite x times 0 would be NaN.
                    let rest = *share * (1.0 - *share);
                    *share = g * if rest == 0.0 { *share } else { *share + x * rest * slope_of_2u };
                });
            }),
        }
    }
}

#[inline(always)]
fn two_u(x: f32) -> f32 {
    2.0 * ROOT * (x + CUBIC * x * x * x)
}

/// Computed in f64: the sum 1 + erf loses the digits of a small share.
fn normal_cdf(x: f32) -> f32 {
    (0.5 * (1.0 + erf_f64(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2))) as f32
}

fn normal_density(x: f32) -> f32 {
    const ROOT_OF_TWO_PI: f32 = 2.506_628_3;
    (-0.5 * x * x).exp() / ROOT_OF_TWO_PI
}

/// A GELU as an operation.
pub(super) struct Gelu(pub(super) Approximate);

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let x = slice::<f32>(x, layout)?;
        let mut y: Vec<f32> = zeros(x.len())?;
        each_in_parallel(y.chunks_mut(SPAN).zip(x.chunks(SPAN)), &|_, (y, x)| {
            self.0.shares(x, y);
            y.iter_mut().zip(x).for_each(|(y, x)| *y *= x);
        });
        Ok(storage(y, layout.shape()))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, y_grad: &Tensor) -> CandleResult<Option<Tensor>> {
        let x_grad = with_values([x, y_grad], |[x, y_grad]| {
            let mut x_grad: Vec<f32> = zeros(x.len())?;
            let spans = x.chunks(SPAN).zip(y_grad.chunks(SPAN));
            each_in_parallel(x_grad.chunks_mut(SPAN).zip(spans), &|_, (x_grad, (x, y_grad))| {
                self.0.shares(x, x_grad);
                self.0.slopes(x, y_grad, x_grad);
            });
            CandleResult::Ok(x_grad)
        })??;
        grad(x_grad, x)
    }
}
