//! The memory of tensors on the CPU: the part that a layout covers, and new memory for kernels to write.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, DType, Device, Layout, Storage, Tensor, Var, WithDType};

use super::element::{Element, by_dtype};
use super::parallel::Outside;
use crate::memory::{with_capacity, zeros};

type CandleResult<T> = candle_core::Result<T>;

pub(crate) fn changed(_: Outside) -> candle_core::Error {
    candle_core::Error::Msg("the ids were changed while a kernel used them".to_string()).bt()
}

/// Returns the storage of a tensor on the CPU.
pub(crate) fn on_host(storage: &Storage) -> CandleResult<&CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        _ => Err(candle_core::Error::Msg("a kernel of the CPU was given memory of another device".to_string()).bt()),
    }
}

/// Returns the elements of a contiguous layout.
pub(crate) fn inside<'a, T>(values: &'a [T], layout: &Layout) -> CandleResult<&'a [T]> {
    let range = layout.contiguous_offsets();
    range
        .and_then(|(start, end)| values.get(start..end))
        .ok_or_else(|| candle_core::Error::RequiresContiguous { op: "gather-add" }.bt())
}

pub(crate) fn inside_mut<'a, T>(values: &'a mut [T], layout: &Layout) -> CandleResult<&'a mut [T]> {
    let range = layout.contiguous_offsets();
    range
        .and_then(|(start, end)| values.get_mut(start..end))
        .ok_or_else(|| candle_core::Error::RequiresContiguous { op: "write in place" }.bt())
}

pub(crate) fn slice<'a, E: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> CandleResult<&'a [E]> {
    inside(E::cpu_storage_as_slice(storage)?, layout)
}

pub(crate) fn as_uninit<E: Element>(values: &mut [E]) -> &mut [MaybeUninit<E>] {
    // SAFETY: `MaybeUninit<E>` has the layout of `E`, and the kernels only ever write whole elements through it.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

/// Returns a new array of `n` elements, all written by `write`.
#[inline(always)]
fn new_array<E: Element>(n: usize, write: Write<'_, E>) -> CandleResult<Vec<E>> {
    let mut values: Vec<E> = with_capacity(n)?;
    write(&mut values.spare_capacity_mut()[..n]).map_err(changed)?;
    // SAFETY: the kernels write every row of their outputs, or fail.
    unsafe { values.set_len(n) };
    Ok(values)
}

type Write<'a, E> = &'a mut dyn FnMut(&mut [MaybeUninit<E>]) -> Result<(), Outside>;
type WriteTwo<'a, E> = &'a mut dyn FnMut(&mut [MaybeUninit<E>], &mut [MaybeUninit<E>]) -> Result<(), Outside>;

/// Returns a new storage of `n` elements, all written by `write`.
pub(crate) fn written<E: Element>(n: usize, write: Write<'_, E>) -> CandleResult<CpuStorage> {
    Ok(E::to_cpu_storage_owned(new_array(n, write)?))
}

/// Returns two new arrays of elements, all written by `write`.
pub(crate) fn written_two<E: Element>(
    n_first: usize,
    n_second: usize,
    write: WriteTwo<'_, E>,
) -> CandleResult<(Vec<E>, Vec<E>)> {
    let mut second: Vec<E> = with_capacity(n_second)?;
    let first = new_array(n_first, &mut |first| write(first, &mut second.spare_capacity_mut()[..n_second]))?;
    // SAFETY: as in `new_array`, which has returned.
    unsafe { second.set_len(n_second) };
    Ok((first, second))
}

/// Returns a new storage of `n` zeros to which `write` has written sums.
pub(crate) fn summed<E: Element>(n: usize, write: Write<'_, E>) -> CandleResult<CpuStorage> {
    let mut values = zeros::<E>(n)?;
    write(as_uninit(&mut values)).map_err(changed)?;
    Ok(E::to_cpu_storage_owned(values))
}

/// Returns zeros with the shape, dtype and device of `tensor`.
pub(crate) fn zeros_like(tensor: &Tensor) -> CandleResult<Tensor> {
    if !tensor.device().is_cpu() {
        return tensor.zeros_like();
    }
    by_dtype!(tensor, E => Tensor::from_vec(zeros::<E>(tensor.elem_count())?, tensor.shape(), tensor.device()))
}

/// Returns a variable for a kernel to write, all of whose elements the caller overwrites before anyone reads them. On
/// the CPU new memory is zero at no cost; on CUDA zeros would be a pass over it.
pub(crate) fn unwritten_var(dims: &[usize], dtype: DType, device: &Device) -> CandleResult<Var> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            use candle_core::backend::BackendDevice;
            let shape = candle_core::Shape::from(dims);
            // SAFETY: any bits are a number, and the caller promises to write them all.
            let storage = Storage::Cuda(unsafe { cuda.alloc_uninit(&shape, dtype)? });
            Var::from_tensor(&Tensor::from_storage(storage, shape, candle_core::op::BackpropOp::none(), true))
        }
        _ => Var::zeros(dims, dtype, device),
    }
}

/// Returns a variable with the values of `tensor`; `tensor` itself if it is a variable already.
pub(crate) fn new_var(tensor: &Tensor) -> CandleResult<Var> {
    if tensor.is_variable() || !tensor.device().is_cpu() {
        return Var::from_tensor(tensor);
    }
    by_dtype!(tensor, E => Var::from_vec(values_of::<E>(tensor)?, tensor.shape(), tensor.device()))
}

/// Returns a copy of `tensor` in memory of its own, without history.
pub(crate) fn copy_of(tensor: &Tensor) -> CandleResult<Tensor> {
    if !tensor.device().is_cpu() {
        return tensor.detach().force_contiguous();
    }
    by_dtype!(tensor, E => Tensor::from_vec(values_of::<E>(tensor)?, tensor.shape(), tensor.device()))
}

/// Copies the elements of a tensor on the CPU.
fn values_of<E: Element>(tensor: &Tensor) -> CandleResult<Vec<E>> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let mut values = with_capacity(tensor.elem_count())?;
    values.extend_from_slice(slice::<E>(on_host(&storage)?, layout)?);
    Ok(values)
}
