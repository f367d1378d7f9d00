//! The gradients of a look-up as Candle operations.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
#[cfg(feature = "metal-kernels")]
use candle_core::MetalStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::cpu;
use crate::kernel::core::element::by_dtype;
use crate::kernel::core::rows::{Ids, Rows};
use crate::kernel::core::storage::{on_host, slice, summed};
#[cfg(feature = "cuda")]
use crate::kernel::cuda;
#[cfg(any(feature = "cuda", feature = "metal-kernels"))]
use crate::kernel::ids::RowGroups;
#[cfg(feature = "metal-kernels")]
use crate::kernel::metal;

type CandleResult<T> = candle_core::Result<T>;

/// `out[ids[n]] += grad[n]`: argument grad `[N, C]`; out `[n_rows, C]`.
struct ScatterAdd {
    n_rows: usize,
    /// N ids on the host: a device sums rows in groups that the host has made.
    on_host: Tensor,
}

/// `out[start + n % t] = Σ grad[n]`: argument grad `[N, C]`; out `[n_rows, C]`.
struct SumBatch {
    n_rows: usize,
    start: usize,
    t: usize,
}

/// Computes the gradient of `table` under a gather of ids: one `[N, C]` buffer.
pub(super) fn scatter_add(table: &Tensor, on_host: Tensor, grad: &Tensor) -> CandleResult<Tensor> {
    let (n_rows, _) = table.dims2()?;
    rows_of(grad)?.apply_op1_no_bwd(&ScatterAdd { n_rows, on_host })
}

/// Computes the gradient of a table of `n_rows` whose rows `start + n % t` were added.
pub(super) fn sum_batch(grad: &Tensor, n_rows: usize, start: usize, t: usize) -> CandleResult<Tensor> {
    rows_of(grad)?.apply_op1_no_bwd(&SumBatch { n_rows, start, t })
}

/// Returns a gradient `[.., C]` as contiguous rows `[N, C]`.
fn rows_of(grad: &Tensor) -> CandleResult<Tensor> {
    let width = grad.dims().last().copied().unwrap_or(1);
    let n = grad.elem_count().checked_div(width).unwrap_or(0);
    grad.contiguous()?.reshape((n, width))
}

#[cfg(any(feature = "cuda", feature = "metal-kernels"))]
impl ScatterAdd {
    fn groups(&self) -> CandleResult<RowGroups> {
        let ids = crate::kernel::ids::to_host(&self.on_host, "ids").map_err(candle_core::Error::from)?;
        Ok(RowGroups::inside(&ids, self.n_rows))
    }
}

#[cfg(any(feature = "cuda", feature = "metal-kernels"))]
impl SumBatch {
    /// Groups the rows of a gradient `[N, C]`.
    fn groups(&self, grad: &Layout) -> CandleResult<RowGroups> {
        let (n_ids, _) = grad.shape().dims2()?;
        Ok(RowGroups::counted(self.start, self.t, n_ids.checked_div(self.t).unwrap_or(0)))
    }
}

impl CustomOp1 for ScatterAdd {
    fn name(&self) -> &'static str {
        "scatter-add"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let (ids, ids_layout) = self.on_host.storage_and_layout();
        let ids = Ids::new(on_host(&ids)?, ids_layout)?;
        by_dtype!(grad, E => {
            let grad = Rows { values: slice::<E>(grad, layout)?, width };
            summed(self.n_rows * width, &mut |out| cpu::scatter_add(out, ids, grad))
        })
        .map(|storage| (storage, (self.n_rows, width).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, grad: &CudaStorage, layout: &Layout) -> CandleResult<(CudaStorage, Shape)> {
        cuda::scatter_add((grad, layout), &self.groups()?, 1.0, self.n_rows)
    }

    #[cfg(feature = "metal-kernels")]
    fn metal_fwd(&self, grad: &MetalStorage, layout: &Layout) -> CandleResult<(MetalStorage, Shape)> {
        metal::scatter_add((grad, layout), &self.groups()?, 1.0, self.n_rows)
    }
}

impl CustomOp1 for SumBatch {
    fn name(&self) -> &'static str {
        "sum-batch"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        by_dtype!(grad, E => {
            let grad = Rows { values: slice::<E>(grad, layout)?, width };
            summed(self.n_rows * width, &mut |out| cpu::sum_batch(out, self.start, self.t, grad))
        })
        .map(|storage| (storage, (self.n_rows, width).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, grad: &CudaStorage, layout: &Layout) -> CandleResult<(CudaStorage, Shape)> {
        cuda::scatter_add((grad, layout), &self.groups(layout)?, 1.0, self.n_rows)
    }

    #[cfg(feature = "metal-kernels")]
    fn metal_fwd(&self, grad: &MetalStorage, layout: &Layout) -> CandleResult<(MetalStorage, Shape)> {
        metal::scatter_add((grad, layout), &self.groups(layout)?, 1.0, self.n_rows)
    }
}
