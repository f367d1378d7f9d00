//! Writing to a tensor's own memory through Candle's in-place operations, which refuse operands that share it.

use std::any::Any;
use std::cell::Cell;
use std::marker::PhantomData;

use candle_core::{CpuStorage, CudaStorage, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result, Tensor};

/// Calls `f` once with the storage of `dst` to write to, and those of `srcs` (at most two) to read from: all of the kind `S`.
pub(crate) fn write_in_place<S: 'static>(
    dst: &Tensor,
    srcs: &[&Tensor],
    f: impl FnOnce(&mut S, &[&S]) -> Result<()>,
) -> Result<()> {
    let op = Once { f: Cell::new(Some(f)), storage: PhantomData };
    match srcs {
        [] => dst.inplace_op1(&op),
        [a] => dst.inplace_op2(a, &op),
        [a, b] => dst.inplace_op3(a, b, &op),
        _ => candle_core::bail!("an in-place operation reads at most two tensors, not {}", srcs.len()),
    }
}

struct Once<S, F> {
    f: Cell<Option<F>>,
    storage: PhantomData<fn(&mut S)>,
}

impl<S: 'static, F: FnOnce(&mut S, &[&S]) -> Result<()>> Once<S, F> {
    fn call(&self, dst: &mut dyn Any, srcs: &[&dyn Any]) -> Result<()> {
        let srcs: Option<Vec<&S>> = srcs.iter().map(|src| src.downcast_ref()).collect();
        match (self.f.take(), dst.downcast_mut(), srcs) {
            (Some(f), Some(dst), Some(srcs)) => f(dst, &srcs),
            (None, ..) => candle_core::bail!("an in-place operation ran twice"),
            _ => candle_core::bail!("an in-place operation met memory of another device"),
        }
    }
}

const NAME: &str = "optimizer-step";

/// One of Candle's in-place operations, on the CPU and on CUDA, with its sources.
macro_rules! in_place {
    ($op:ident, $($src:ident),*) => {
        impl<S: 'static, F: FnOnce(&mut S, &[&S]) -> Result<()>> $op for Once<S, F> {
            fn name(&self) -> &'static str {
                NAME
            }
            fn cpu_fwd(&self, dst: &mut CpuStorage, _: &Layout, $($src: &CpuStorage, _: &Layout),*) -> Result<()> {
                self.call(dst, &[$($src),*])
            }
            fn cuda_fwd(&self, dst: &mut CudaStorage, _: &Layout, $($src: &CudaStorage, _: &Layout),*) -> Result<()> {
                self.call(dst, &[$($src),*])
            }
        }
    };
}
in_place!(InplaceOp1,);
in_place!(InplaceOp2, a);
in_place!(InplaceOp3, a, b);
