//! Runs one optimizer step of one tensor, in place, by the kernel of its device. The caller has checked the operands;
//! sums are taken in a fixed order.

use candle_core::{Device, Result, Tensor};

use super::cpu;
use super::gradient::{BatchRows, Gradient};
use super::moments::Moments;
use super::reference;
use super::rules::AdamStep;
use crate::kernel::core::element::by_dtype;
use crate::kernel::core::kept::Kept;
#[cfg(feature = "cuda")]
use crate::kernel::cuda;
#[cfg(feature = "metal-kernels")]
use crate::kernel::metal;

/// Runs AdamW on every element of the rows that are not frozen. Reads four tensors and writes three, in one pass.
pub(crate) fn adamw(tensors: Moments, gradient: Gradient, step: &AdamStep) -> Result<()> {
    match tensors.param.device() {
        Device::Cpu => by_dtype!(tensors.param, E => cpu::adamw::<E>(tensors, gradient, step)),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => cuda::adamw(tensors, gradient, step),
        _ => with_sums(tensors.param, gradient, |gradient| reference::adamw(tensors, gradient, step)),
    }
}

/// Runs Adam on the rows of the gradient's batch that are not frozen. Reads and writes no other row.
pub(crate) fn row_adam(tensors: Moments, gradient: Gradient, step: &AdamStep) -> Result<()> {
    let Some(batch) = gradient.rows else { return Ok(()) };
    match tensors.param.device() {
        Device::Cpu => by_dtype!(tensors.param, E => cpu::row_adam::<E>(tensors, batch, gradient.frozen, step)),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => cuda::row_adam(tensors, gradient, step),
        _ => {
            let sums = group_sums(tensors.param, batch)?;
            reference::row_adam(tensors, batch.groups, &sums, gradient.frozen, step)
        }
    }
}

/// Does what can fail in a step of one of several tensors, before the first of them is changed: the kernel of its device
/// then finds all that it needs.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub(crate) fn prepare(param: &Tensor, gradient: Gradient) -> Result<()> {
    match param.device() {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::prepare(param, gradient, device),
        _ => Ok(()),
    }
}

/// Returns the sum of the squares of gradients, in f64. Each is summed in an order that depends on its shape alone,
/// then their sums in order.
pub(crate) fn sum_of_squares(gradients: &[(&Tensor, Gradient)]) -> Result<f64> {
    #[cfg(feature = "cuda")]
    if let Some((Device::Cuda(device), others)) =
        gradients.split_first().map(|(first, others)| (first.0.device(), others))
        && others.iter().all(|(param, _)| param.device().same_device(gradients[0].0.device()))
    {
        return Ok(cuda::sums_of_squares(gradients, device)?.iter().sum());
    }
    let mut sum = 0.0;
    for &(param, gradient) in gradients {
        sum += match param.device() {
            Device::Cpu => by_dtype!(param, E => cpu::sum_of_squares::<E>(param, gradient))?,
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => cuda::sums_of_squares(&[(param, gradient)], device)?.iter().sum(),
            _ => with_sums(param, gradient, |gradient| reference::grad_sum_of_squares(param, gradient))?,
        };
    }
    Ok(sum)
}

/// Returns the sum of the squares of each row's gradient, for a matrix on the CPU.
pub(crate) fn row_sums_of_squares(param: &Tensor, gradient: Gradient) -> Result<Vec<f64>> {
    by_dtype!(param, E => cpu::row_sums_of_squares::<E>(param, gradient))
}

/// Returns the gradient of all of `param` `[V, C]`, zeros included.
pub(crate) fn dense_gradient(param: &Tensor, batch: BatchRows) -> Result<Tensor> {
    match param.device() {
        Device::Cpu => by_dtype!(param, E => cpu::dense_gradient::<E>(param, batch)),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => cuda::dense_gradient(param, batch),
        _ => {
            let gradient = Gradient { dense: None, rows: Some(batch), frozen: &[], kept: &Kept::default() };
            with_sums(param, gradient, |gradient| reference::materialized(param, gradient))
        }
    }
}

/// Returns the sums of a batch's rows, one for each group, for a device whose steps are plain operations.
fn group_sums(param: &Tensor, batch: BatchRows) -> Result<Tensor> {
    #[cfg(feature = "metal-kernels")]
    if metal::has_kernels(param) {
        return metal::group_sums(param, batch);
    }
    reference::sums(param, batch)
}

/// Calls `f`, made of plain operations, with the gradient: on Metal as a whole table whose sums a kernel has taken.
#[cfg_attr(not(feature = "metal-kernels"), allow(unused_variables))]
fn with_sums<R>(param: &Tensor, gradient: Gradient, f: impl FnOnce(Gradient) -> Result<R>) -> Result<R> {
    #[cfg(feature = "metal-kernels")]
    if let Some(batch) = gradient.rows.filter(|_| metal::has_kernels(param)) {
        let sums = metal::dense_gradient(param, batch)?;
        let dense = match gradient.dense {
            Some(dense) => (dense.detach() + sums)?,
            None => sums,
        };
        return f(Gradient { dense: Some(&dense), rows: None, ..gradient });
    }
    f(gradient)
}
