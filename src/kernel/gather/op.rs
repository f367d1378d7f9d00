//! The kernels as Candle operations, with gradients.

// Long because it is the one file that gives each operation its code on every device.

use std::mem::MaybeUninit;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
#[cfg(feature = "metal-kernels")]
use candle_core::MetalStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, InplaceOp3, Layout, Shape, Tensor};

use super::cpu;
use crate::kernel::core::element::{Element, by_dtype, bytes_of, bytes_of_mut};
use crate::kernel::core::parallel::Outside;
use crate::kernel::core::row_sums::{AddRows, add_rows};
use crate::kernel::core::rows::{Ids, Rows};
use crate::kernel::core::storage::{as_uninit, changed, inside, inside_mut, on_host, slice, summed, written};
#[cfg(feature = "cuda")]
use crate::kernel::cuda;
#[cfg(any(feature = "cuda", feature = "metal-kernels"))]
use crate::kernel::ids::RowGroups;
use crate::kernel::ids::{CheckedIds, PlacesOf};
#[cfg(feature = "metal-kernels")]
use crate::kernel::metal;

type CandleResult<T> = candle_core::Result<T>;

/// Returns whether this crate has kernels of the look-up for a table of this dtype and device.
pub(super) fn has_kernels(table: &Tensor) -> bool {
    match table.device() {
        Device::Cpu => true,
        Device::Cuda(_) => cfg!(feature = "cuda"),
        #[cfg(feature = "metal-kernels")]
        Device::Metal(_) => metal::has_kernels(table),
        #[cfg(not(feature = "metal-kernels"))]
        Device::Metal(_) => false,
    }
}

/// Loads this crate's kernels of the look-up, which fails if the driver of the device is too old for them.
pub(crate) fn load_kernels(device: &Device) -> CandleResult<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::load_kernels(device),
        _ => Ok(()),
    }
}

/// Lets the memory pool of a CUDA device keep up to `n_bytes` of freed memory. Other devices have none.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub(crate) fn keep_freed_memory(device: &Device, n_bytes: u64) -> CandleResult<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::keep_freed_memory(device, n_bytes),
        _ => Ok(()),
    }
}

/// `table[ids]`: arguments table `[N, C]` and ids `[..]`, both contiguous.
pub(crate) struct Gather {
    /// The ids again, with what is known of them.
    pub(crate) ids: CheckedIds,
}

/// `wte[ids] + wpe[places]`: arguments `wte` `[V, C]`, `wpe` `[P, C]` and ids `[.., T]`, all contiguous.
#[derive(Clone)]
pub(crate) struct GatherAdd {
    pub(crate) places: PlacesOf,
    /// The ids, as in [`Gather`].
    pub(crate) ids: CheckedIds,
}

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

impl CustomOp2 for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn cpu_fwd(
        &self,
        table: &CpuStorage,
        l1: &Layout,
        ids: &CpuStorage,
        l2: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (_, width) = l1.shape().dims2()?;
        let (ids, (_, rows)) = (Ids::new(ids, l2)?, in_bytes(table, l1, width)?);
        by_dtype!(table, E => {
            written::<E>(ids.len() * width, &mut |out| cpu::gather(bytes_of_mut(out), ids, rows))
        })
        .map(|storage| (storage, with_width(l2, width)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        table: &CudaStorage,
        l1: &Layout,
        ids: &CudaStorage,
        l2: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        let (_, width) = l1.shape().dims2()?;
        Ok((cuda::gather((table, l1), ((ids, l2), self.ids.noted_in()), None)?, with_width(l2, width)))
    }

    #[cfg(feature = "metal-kernels")]
    fn metal_fwd(
        &self,
        table: &MetalStorage,
        l1: &Layout,
        ids: &MetalStorage,
        l2: &Layout,
    ) -> CandleResult<(MetalStorage, Shape)> {
        let (_, width) = l1.shape().dims2()?;
        Ok((metal::gather((table, l1), (ids, l2), None)?, with_width(l2, width)))
    }

    fn bwd(
        &self,
        table: &Tensor,
        _ids: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(scatter_add(table, self.ids.on_host()?, grad)?), None))
    }
}

impl CustomOp3 for GatherAdd {
    fn name(&self) -> &'static str {
        "gather-add"
    }

    fn cpu_fwd(
        &self,
        wte: &CpuStorage,
        l1: &Layout,
        wpe: &CpuStorage,
        l2: &Layout,
        ids: &CpuStorage,
        l3: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (_, width) = l1.shape().dims2()?;
        let sum = Sum::new((wte, l1), (wpe, l2), width, wte.dtype())?;
        let n = l3.shape().elem_count() * width;
        by_dtype!(wte, E => written::<E>(n, &mut |out| self.run(bytes_of_mut(out), &sum, ids, l3)))
            .map(|storage| (storage, with_width(l3, width)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        wte: &CudaStorage,
        l1: &Layout,
        wpe: &CudaStorage,
        l2: &Layout,
        ids: &CudaStorage,
        l3: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        let (_, width) = l1.shape().dims2()?;
        let ids = ((ids, l3), self.ids.noted_in());
        Ok((cuda::gather((wte, l1), ids, Some(((wpe, l2), &self.places)))?, with_width(l3, width)))
    }

    #[cfg(feature = "metal-kernels")]
    fn metal_fwd(
        &self,
        wte: &MetalStorage,
        l1: &Layout,
        wpe: &MetalStorage,
        l2: &Layout,
        ids: &MetalStorage,
        l3: &Layout,
    ) -> CandleResult<(MetalStorage, Shape)> {
        let (_, width) = l1.shape().dims2()?;
        Ok((metal::gather((wte, l1), (ids, l3), Some(((wpe, l2), &self.places)))?, with_width(l3, width)))
    }

    fn bwd(
        &self,
        wte: &Tensor,
        wpe: &Tensor,
        ids: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        // None only for what is not tracked: Candle panics on a tracked argument without a gradient.
        let wte_grad = if wte.track_op() { Some(scatter_add(wte, self.ids.on_host()?, grad)?) } else { None };
        let wpe_grad = match &self.places {
            _ if !wpe.track_op() => None,
            PlacesOf::Ids(places) => {
                Some(scatter_add(wpe, places.on_host()?.broadcast_as(ids.dims())?.contiguous()?, grad)?)
            }
            &PlacesOf::Start(start) => {
                let (n_rows, _) = wpe.dims2()?;
                let t = ids.dims().last().copied().unwrap_or(1);
                Some(rows_of(grad)?.apply_op1_no_bwd(&SumBatch { n_rows, start, t })?)
            }
        };
        Ok((wte_grad, wpe_grad, None))
    }
}

/// [`GatherAdd`] into an existing buffer: arguments buffer `[.., T, C]`, `wte`, `wpe`.
pub(super) struct GatherAddInto(pub(super) GatherAdd);

impl InplaceOp3 for GatherAddInto {
    fn name(&self) -> &'static str {
        "gather-add-into"
    }

    fn cpu_fwd(
        &self,
        buffer: &mut CpuStorage,
        l1: &Layout,
        wte: &CpuStorage,
        l2: &Layout,
        wpe: &CpuStorage,
        l3: &Layout,
    ) -> CandleResult<()> {
        let (_, width) = l2.shape().dims2()?;
        let (ids, ids_layout) = self.0.ids.tensor().storage_and_layout();
        let ids = on_host(&ids)?;
        let sum = Sum::new((wte, l2), (wpe, l3), width, buffer.dtype())?;
        by_dtype!(buffer, E => match E::slice_mut(buffer) {
            Some(numbers) => {
                let out = as_uninit(inside_mut(numbers, l1)?);
                self.0.run(bytes_of_mut(out), &sum, ids, ids_layout).map_err(changed)
            }
            None => Err(changed(Outside)),
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        buffer: &mut CudaStorage,
        l1: &Layout,
        wte: &CudaStorage,
        l2: &Layout,
        wpe: &CudaStorage,
        l3: &Layout,
    ) -> CandleResult<()> {
        let (ids, ids_layout) = self.0.ids.tensor().storage_and_layout();
        let ids = ((cuda::on_cuda(&ids)?, ids_layout), self.0.ids.noted_in());
        cuda::gather_into((buffer, l1), (wte, l2), ids, Some(((wpe, l3), &self.0.places)))
    }

    #[cfg(feature = "metal-kernels")]
    fn metal_fwd(
        &self,
        buffer: &mut MetalStorage,
        l1: &Layout,
        wte: &MetalStorage,
        l2: &Layout,
        wpe: &MetalStorage,
        l3: &Layout,
    ) -> CandleResult<()> {
        let (ids, ids_layout) = self.0.ids.tensor().storage_and_layout();
        let ids = (metal::on_metal(&ids)?, ids_layout);
        metal::gather_into((buffer, l1), (wte, l2), ids, Some(((wpe, l3), &self.0.places)))
    }
}

/// The rows of both tables, and how they are added.
struct Sum<'a> {
    wte: Rows<'a, u8>,
    wpe: Rows<'a, u8>,
    add: AddRows,
    /// Bytes of a sum.
    width: usize,
}

impl<'a> Sum<'a> {
    /// Prepares sums of rows of `width` elements, rounded to `dtype`.
    #[inline(always)]
    fn new(
        (wte, l1): (&'a CpuStorage, &Layout),
        (wpe, l2): (&'a CpuStorage, &Layout),
        width: usize,
        dtype: DType,
    ) -> CandleResult<Self> {
        let ((lhs, wte), (rhs, wpe)) = (in_bytes(wte, l1, width)?, in_bytes(wpe, l2, width)?);
        if lhs != rhs {
            return Err(candle_core::Error::DTypeMismatchBinaryOp { lhs, rhs, op: "gather-add" }.bt());
        }
        Ok(Self { wte, wpe, add: add_rows(lhs, dtype)?, width: width * dtype.size_in_bytes() })
    }
}

/// Returns rows of `width` elements as bytes, and their dtype. Inlined: a result passed through memory is slow for a
/// single token.
#[inline(always)]
fn in_bytes<'a>(storage: &'a CpuStorage, layout: &Layout, width: usize) -> CandleResult<(DType, Rows<'a, u8>)> {
    #[inline(always)]
    fn rows<'a, E: Element>(numbers: &'a [E], layout: &Layout, width: usize) -> CandleResult<(DType, Rows<'a, u8>)> {
        let values = bytes_of(inside(numbers, layout)?);
        Ok((E::DTYPE, Rows { values, width: width * size_of::<E>() }))
    }
    match storage {
        CpuStorage::F32(numbers) => rows(numbers, layout, width),
        CpuStorage::F64(numbers) => rows(numbers, layout, width),
        CpuStorage::F16(numbers) => rows(numbers, layout, width),
        CpuStorage::BF16(numbers) => rows(numbers, layout, width),
        other => Err(candle_core::Error::UnsupportedDTypeForOp(other.dtype(), "table of rows").bt()),
    }
}

impl GatherAdd {
    fn run(
        &self,
        out: &mut [MaybeUninit<u8>],
        &Sum { wte, wpe, add, width }: &Sum,
        ids: &CpuStorage,
        ids_layout: &Layout,
    ) -> Result<(), Outside> {
        let ids = Ids::new(ids, ids_layout).map_err(|_| Outside)?;
        if out.len() != ids.len() * width {
            return Err(Outside);
        }
        match &self.places {
            &PlacesOf::Start(start) => {
                let t = ids_layout.dims().last().copied().unwrap_or(1);
                cpu::gather_add((out, width), ids, wte, cpu::Places::Counted { start, t }, wpe, add)
            }
            PlacesOf::Ids(places) => {
                let (storage, layout) = places.tensor().storage_and_layout();
                let candle_core::Storage::Cpu(storage) = &*storage else { return Err(Outside) };
                let places = Ids::new(storage, layout).map_err(|_| Outside)?;
                cpu::gather_add((out, width), ids, wte, cpu::Places::Given(places), wpe, add)
            }
        }
    }
}

/// Computes the gradient of `table` under a gather of ids: one `[N, C]` buffer.
fn scatter_add(table: &Tensor, on_host: Tensor, grad: &Tensor) -> CandleResult<Tensor> {
    let (n_rows, _) = table.dims2()?;
    rows_of(grad)?.apply_op1_no_bwd(&ScatterAdd { n_rows, on_host })
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

/// Returns the shape of ids, followed by the width of a row.
fn with_width(ids: &Layout, width: usize) -> Shape {
    ids.dims().iter().copied().chain([width]).collect::<Vec<_>>().into()
}
