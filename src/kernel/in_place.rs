//! Writing to a tensor's own memory through Candle's in-place operations, which refuse operands that share it.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result, Tensor};

/// Calls `f` once with the storage of `dst` to write to, and those of `srcs` (at most two) to read from.
pub(super) fn write_in_place(
    dst: &Tensor,
    srcs: &[&Tensor],
    f: impl FnOnce(&mut CpuStorage, &[&CpuStorage]) -> Result<()>,
) -> Result<()> {
    let op = Once(Cell::new(Some(f)));
    match srcs {
        [] => dst.inplace_op1(&op),
        [a] => dst.inplace_op2(a, &op),
        [a, b] => dst.inplace_op3(a, b, &op),
        _ => candle_core::bail!("an in-place operation reads at most two tensors, not {}", srcs.len()),
    }
}

struct Once<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut CpuStorage, &[&CpuStorage]) -> Result<()>> Once<F> {
    fn call(&self, dst: &mut CpuStorage, srcs: &[&CpuStorage]) -> Result<()> {
        match self.0.take() {
            Some(f) => f(dst, srcs),
            None => candle_core::bail!("an in-place operation ran twice"),
        }
    }
}

const NAME: &str = "optimizer-step";

impl<F: FnOnce(&mut CpuStorage, &[&CpuStorage]) -> Result<()>> InplaceOp1 for Once<F> {
    fn name(&self) -> &'static str {
        NAME
    }
    fn cpu_fwd(&self, dst: &mut CpuStorage, _: &Layout) -> Result<()> {
        self.call(dst, &[])
    }
}

impl<F: FnOnce(&mut CpuStorage, &[&CpuStorage]) -> Result<()>> InplaceOp2 for Once<F> {
    fn name(&self) -> &'static str {
        NAME
    }
    fn cpu_fwd(&self, dst: &mut CpuStorage, _: &Layout, a: &CpuStorage, _: &Layout) -> Result<()> {
        self.call(dst, &[a])
    }
}

impl<F: FnOnce(&mut CpuStorage, &[&CpuStorage]) -> Result<()>> InplaceOp3 for Once<F> {
    fn name(&self) -> &'static str {
        NAME
    }
    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        _: &Layout,
        a: &CpuStorage,
        _: &Layout,
        b: &CpuStorage,
        _: &Layout,
    ) -> Result<()> {
        self.call(dst, &[a, b])
    }
}
