//! The operations of a block, each in one pass forward and one backward; Candle takes many, each with its own
//! temporary.
//!
//! Copy this file beside `model.rs`, with `attention.rs`. It covers f32 on the CPU ([`is_fused`]); `model.rs` has the
//! plain forms for everything else. Every sum has a fixed order: the bits do not depend on the number of threads.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Storage, Tensor};
use rayon::prelude::*;

#[path = "attention.rs"] // beside this file
mod attention;

pub use attention::causal_attention;

/// Rows for each task.
const ROWS: usize = 32;
/// Elements summed side by side: a few vector registers full.
const LANES: usize = 16;

/// Returns whether these operations support `x`.
pub fn is_fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == candle_core::DType::F32 && x.elem_count() > 0
}

/// Computes `x · weight + bias`: `[N, I] -> [N, O]`, with a weight `[I, O]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.apply_op3(weight, &bias.contiguous()?, Linear)
}

/// Computes `(x - mean) / sqrt(variance + eps) · weight + bias` over the last dimension.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, LayerNorm { eps: eps as f32 })
}

/// Computes GPT-2's GELU, `x/2 · (1 + tanh(u))` with `u = √(2/π) (x + 0.044715 x³)`.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Gelu)
}

/// Computes the softmax over the last dimension.
pub fn softmax(scores: &Tensor) -> Result<Tensor> {
    scores.contiguous()?.apply_op1(Softmax)
}

/// Returns the elements of a contiguous tensor.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let range = layout.contiguous_offsets();
    let (start, end) = range.ok_or_else(|| candle_core::Error::RequiresContiguous { op: "fused" }.bt())?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Calls `f` on the elements of the tensors, which are made contiguous first where needed.
fn with_slices<const N: usize, R>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> Result<R>) -> Result<R> {
    let mut contiguous = Vec::with_capacity(N);
    for tensor in tensors {
        contiguous.push(tensor.contiguous()?);
    }
    let held: Vec<_> = contiguous.iter().map(Tensor::storage_and_layout).collect();
    let mut slices = [[].as_slice(); N];
    for (slot, (storage, layout)) in slices.iter_mut().zip(&held) {
        match &**storage {
            Storage::Cpu(storage) => *slot = slice(storage, layout)?,
            _ => candle_core::bail!("a fused operation met memory of another device"),
        }
    }
    f(slices)
}

fn storage_of(values: Vec<f32>, shape: &Shape) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), shape.clone())
}

/// Sums `f(x, y)` in lanes.
#[inline(always)]
fn sum(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (x, y) in x.iter().zip(y) {
        for lane in 0..LANES {
            lanes[lane] += f(x[lane], y[lane]);
        }
    }
    x_rest.iter().zip(y_rest).fold(lanes.iter().sum(), |sum, (&x, &y)| sum + f(x, y))
}

fn add(sums: &mut [f32], row: &[f32]) {
    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
}

/// Adds up the tasks' sums, in the order of the tasks.
fn total(tasks: &[Vec<f32>]) -> Vec<f32> {
    let mut sums = vec![0.0; tasks.first().map_or(0, Vec::len)];
    tasks.iter().for_each(|task| add(&mut sums, task));
    sums
}

struct Linear;

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((n, n_in), (_, n_out)) = (x_layout.shape().dims2()?, weight_layout.shape().dims2()?);
        let product = x.matmul(weight, (1, n, n_out, n_in), x_layout, weight_layout)?;
        let CpuStorage::F32(mut product) = product else { candle_core::bail!("a product of f32 is {product:?}") };
        let bias = slice(bias, bias_layout)?;
        product.par_chunks_mut(ROWS * n_out).for_each(|rows| rows.chunks_mut(n_out).for_each(|row| add(row, bias)));
        Ok(storage_of(product, &(n, n_out).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let n_out = bias.elem_count();
        let bias_grad = with_slices([grad], |[grad]| {
            let task = |rows: &[f32]| {
                let mut sums = vec![0.0; n_out];
                rows.chunks(n_out).for_each(|row| add(&mut sums, row));
                sums
            };
            let tasks: Vec<_> = grad.par_chunks(ROWS * n_out).map(task).collect();
            Tensor::from_vec(total(&tasks), n_out, bias.device())
        })?;
        let (x, weight) = (x.detach(), weight.detach());
        Ok((Some(grad.matmul(&weight.t()?)?), Some(x.t()?.matmul(grad)?), Some(bias_grad)))
    }
}

struct LayerNorm {
    eps: f32,
}

impl LayerNorm {
    /// Writes `(x - mean) / sqrt(variance + eps)` and returns 1 over that root.
    fn normalize(&self, x: &[f32], to: &mut [f32]) -> f32 {
        let n = x.len() as f32;
        let mean = sum(x, x, |x, _| x) / n;
        let variance = sum(x, x, |x, _| (x - mean) * (x - mean)) / n;
        let rstd = 1.0 / (variance + self.eps).sqrt();
        to.iter_mut().zip(x).for_each(|(to, x)| *to = (x - mean) * rstd);
        rstd
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight, bias) = (slice(x, x_layout)?, slice(weight, weight_layout)?, slice(bias, bias_layout)?);
        let c = weight.len();
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).for_each(|(y, x)| {
            for (y, x) in y.chunks_mut(c).zip(x.chunks(c)) {
                self.normalize(x, y);
                y.iter_mut().zip(weight).zip(bias).for_each(|((y, weight), bias)| *y = *y * weight + bias);
            }
        });
        Ok(storage_of(y, x_layout.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let c = weight.elem_count();
        let (x_grad, sums) = with_slices([x, weight, grad], |[x, weight, grad]| {
            let mut x_grad = vec![0.0; x.len()];
            let rows = x_grad.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).zip(grad.par_chunks(ROWS * c));
            let tasks: Vec<_> = rows
                .map(|((x_grad, x), grad)| {
                    let (mut sums, mut normal) = (vec![0.0; 2 * c], vec![0.0; c]);
                    let (weight_sums, bias_sums) = sums.split_at_mut(c);
                    for ((x_grad, x), grad) in x_grad.chunks_mut(c).zip(x.chunks(c)).zip(grad.chunks(c)) {
                        let rstd = self.normalize(x, &mut normal);
                        add(bias_sums, grad);
                        weight_sums.iter_mut().zip(&normal).zip(grad).for_each(|((sum, x), g)| *sum += x * g);
                        x_grad.iter_mut().zip(weight).zip(grad).for_each(|((to, weight), g)| *to = weight * g);
                        let mean = sum(x_grad, x_grad, |g, _| g) / c as f32;
                        let slope = sum(x_grad, &normal, |g, x| g * x) / c as f32;
                        x_grad.iter_mut().zip(&normal).for_each(|(g, x)| *g = rstd * (*g - mean - x * slope));
                    }
                    sums
                })
                .collect();
            Ok((x_grad, total(&tasks)))
        })?;
        let tensor = |values: Vec<f32>, shape: &Shape| Tensor::from_vec(values, shape, x.device()).map(Some);
        let (weight_grad, bias_grad) = sums.split_at(c);
        Ok((
            tensor(x_grad, x.shape())?,
            tensor(weight_grad.to_vec(), weight.shape())?,
            tensor(bias_grad.to_vec(), bias.shape())?,
        ))
    }
}

struct Gelu;

impl Gelu {
    /// Computes `(1 + tanh(u)) / 2`, which is the logistic function of `2 u`.
    fn share(x: f32) -> f32 {
        1.0 / (1.0 + (-2.0 * ROOT * (x + CUBIC * x * x * x)).exp())
    }
}

/// √(2/π)
const ROOT: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = slice(x, layout)?.par_iter().with_min_len(1 << 12).map(|&x| x * Self::share(x)).collect();
        Ok(storage_of(y, layout.shape()))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let slope = |x: f32| {
            let share = Self::share(x);
            share + x * share * (1.0 - share) * 2.0 * ROOT * (1.0 + 3.0 * CUBIC * x * x)
        };
        with_slices([x, grad], |[values, grad]| {
            let pairs = values.par_iter().zip(grad).with_min_len(1 << 12);
            let x_grad: Vec<f32> = pairs.map(|(&x, g)| g * slope(x)).collect();
            Tensor::from_vec(x_grad, x.shape(), x.device()).map(Some)
        })
    }
}

/// Turns scores into weights.
fn softmax_row(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = (*x - max).exp());
    let factor = 1.0 / sum(row, row, |x, _| x);
    row.iter_mut().for_each(|x| *x *= factor);
}

/// Turns the gradient of the weights into that of the scores.
fn softmax_row_backward(weights: &[f32], grad: &mut [f32]) {
    let mean = sum(weights, grad, |weight, g| weight * g);
    grad.iter_mut().zip(weights).for_each(|(g, weight)| *g = weight * (*g - mean));
}

struct Softmax;

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let n = layout.dims().last().copied().unwrap_or(1);
        let mut weights = slice(scores, layout)?.to_vec();
        weights.par_chunks_mut(ROWS * n).for_each(|rows| rows.chunks_mut(n).for_each(softmax_row));
        Ok(storage_of(weights, layout.shape()))
    }

    fn bwd(&self, scores: &Tensor, weights: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let n = scores.dims().last().copied().unwrap_or(1);
        with_slices([weights, grad], |[weights, grad]| {
            let mut grad = grad.to_vec();
            grad.par_chunks_mut(ROWS * n).zip(weights.par_chunks(ROWS * n)).for_each(|(grad, weights)| {
                grad.chunks_mut(n)
                    .zip(weights.chunks(n))
                    .for_each(|(grad, weights)| softmax_row_backward(weights, grad));
            });
            Tensor::from_vec(grad, scores.shape(), scores.device()).map(Some)
        })
    }
}
