//! Writes to a tensor's own memory by Candle's in-place operations, which refuse operands that share memory.

use std::any::Any;
use std::cell::RefCell;

use candle_core::{CpuStorage, CudaStorage, Error, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result, Tensor};

use super::element::Element;
use super::storage::{inside_mut, slice};

/// Calls `f` with the storage of `dst` to write to, and those of `srcs` (at most two) to read from, all of type `S`.
pub(crate) fn write_in_place<S: 'static>(
    dst: &Tensor,
    srcs: &[&Tensor],
    f: &mut dyn FnMut(&mut S, &[&S]) -> Result<()>,
) -> Result<()> {
    let mut write = |dst: &mut dyn Any, srcs: &[&dyn Any]| {
        let srcs: Option<Vec<&S>> = srcs.iter().map(|src| src.downcast_ref()).collect();
        match (dst.downcast_mut(), srcs) {
            (Some(dst), Some(srcs)) => f(dst, &srcs),
            _ => candle_core::bail!("an in-place operation was given memory of another device"),
        }
    };
    let op = Write(RefCell::new(&mut write));
    match srcs {
        [] => dst.inplace_op1(&op),
        [a] => dst.inplace_op2(a, &op),
        [a, b] => dst.inplace_op3(a, b, &op),
        _ => candle_core::bail!("an in-place operation reads at most two tensors, not {}", srcs.len()),
    }
}

/// Calls `f` with the elements of `dst` to write, and those of `src` to read: contiguous tensors on the CPU.
pub(crate) fn update<E: Element>(dst: &Tensor, src: Option<&Tensor>, f: &mut dyn FnMut(&mut [E], &[E])) -> Result<()> {
    write_in_place::<CpuStorage>(dst, src.as_slice(), &mut |storage, others| {
        let others = match (others, src) {
            ([other], Some(src)) => slice::<E>(other, src.layout())?,
            _ => &[],
        };
        let values = E::slice_mut(storage).ok_or_else(|| Error::UnsupportedDTypeForOp(dst.dtype(), NAME).bt())?;
        f(inside_mut(values, dst.layout())?, others);
        Ok(())
    })
}

/// One type for all writes: Candle's machinery is large and compiled anew for each type of operation.
struct Write<'a>(RefCell<WriteFn<'a>>);

type WriteFn<'a> = &'a mut dyn FnMut(&mut dyn Any, &[&dyn Any]) -> Result<()>;

const NAME: &str = "optimizer-step";

/// Implements one of Candle's in-place operations, on the CPU and on CUDA.
macro_rules! in_place {
    ($op:ident, $($src:ident),*) => {
        impl $op for Write<'_> {
            fn name(&self) -> &'static str {
                NAME
            }
            fn cpu_fwd(&self, dst: &mut CpuStorage, _: &Layout, $($src: &CpuStorage, _: &Layout),*) -> Result<()> {
                (self.0.borrow_mut())(dst, &[$($src),*])
            }
            fn cuda_fwd(&self, dst: &mut CudaStorage, _: &Layout, $($src: &CudaStorage, _: &Layout),*) -> Result<()> {
                (self.0.borrow_mut())(dst, &[$($src),*])
            }
        }
    };
}
in_place!(InplaceOp1,);
in_place!(InplaceOp2, a);
in_place!(InplaceOp3, a, b);
