//! The kernels as Candle operations, with gradients.

use std::mem::MaybeUninit;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, InplaceOp3, Layout, Shape, Tensor};
use half::{bf16, f16};

use super::cpu;
use crate::kernel::core::element::{Element, Id, by_dtype};
use crate::kernel::core::parallel::Outside;
use crate::kernel::core::rows::Rows;
use crate::kernel::core::storage::{as_uninit, changed, inside, inside_mut, on_host, slice, summed, written};
#[cfg(feature = "cuda")]
use crate::kernel::cuda;
#[cfg(feature = "cuda")]
use crate::kernel::ids::RowGroups;
use crate::kernel::ids::{CheckedIds, PlacesOf};

type CandleResult<T> = candle_core::Result<T>;

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

/// Binds `$ids` to the slice of ids in `$storage`, whatever their type.
macro_rules! by_ids {
    ($storage:expr, $layout:expr, $ids:ident => $body:expr) => {
        match $storage {
            CpuStorage::U8(ids) => {
                let $ids = inside(ids, $layout)?;
                $body
            }
            CpuStorage::U32(ids) => {
                let $ids = inside(ids, $layout)?;
                $body
            }
            CpuStorage::I64(ids) => {
                let $ids = inside(ids, $layout)?;
                $body
            }
            other => Err(candle_core::Error::UnsupportedDTypeForOp(other.dtype(), "ids").bt()),
        }
    };
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
        by_dtype!(table, E => by_ids!(ids, l2, ids => {
            let table = Rows { values: slice::<E>(table, l1)?, width };
            written(ids.len() * width, &mut |out| cpu::gather::<_, E>(out, ids, table))
        }))
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
        by_dtype!(wte, E => by_ids!(ids, l3, ids => {
            let (wte, wpe) = (Rows { values: slice::<E>(wte, l1)?, width }, Rows { values: slice::<E>(wpe, l2)?, width });
            written(ids.len() * width, &mut |out| self.run::<_, E, E>(out, ids, wte, wpe, l3))
        }))
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

    fn bwd(
        &self,
        wte: &Tensor,
        wpe: &Tensor,
        ids: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        // None only for what nobody tracks: Candle panics on a tracked argument without a gradient.
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

/// The same into memory that is there already: arguments buffer `[.., T, C]`, `wte`, `wpe`.
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
        /// One pair of types, both widened to the same.
        macro_rules! pair {
            ($E:ty, $O:ident, $buffer:ident) => {
                by_ids!(ids, ids_layout, ids => {
                    let wte = Rows { values: slice::<$E>(wte, l2)?, width };
                    let wpe = Rows { values: slice::<$E>(wpe, l3)?, width };
                    let out = as_uninit(inside_mut($buffer, l1)?);
                    self.0.run::<_, $E, $O>(out, ids, wte, wpe, ids_layout).map_err(changed)
                })
            };
        }
        macro_rules! from_any {
            ($O:ident, $buffer:ident) => {
                match wte.dtype() {
                    DType::F32 => pair!(f32, $O, $buffer),
                    DType::F16 => pair!(f16, $O, $buffer),
                    DType::BF16 => pair!(bf16, $O, $buffer),
                    dtype => Err(candle_core::Error::UnsupportedDTypeForOp(dtype, "forward-into").bt()),
                }
            };
        }
        match (wte.dtype(), buffer) {
            (DType::F64, CpuStorage::F64(buffer)) => pair!(f64, f64, buffer),
            (_, CpuStorage::F32(buffer)) => from_any!(f32, buffer),
            (_, CpuStorage::F16(buffer)) => from_any!(f16, buffer),
            (_, CpuStorage::BF16(buffer)) => from_any!(bf16, buffer),
            (_, other) => Err(candle_core::Error::UnsupportedDTypeForOp(other.dtype(), "forward-into").bt()),
        }
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
}

impl GatherAdd {
    fn run<I: Id, E: Element, O: Element<Wide = E::Wide>>(
        &self,
        out: &mut [MaybeUninit<O>],
        ids: &[I],
        wte: Rows<E>,
        wpe: Rows<E>,
        ids_layout: &Layout,
    ) -> Result<(), Outside> {
        if out.len() != ids.len() * wte.width {
            return Err(Outside);
        }
        match &self.places {
            &PlacesOf::Start(start) => {
                let t = ids_layout.dims().last().copied().unwrap_or(1);
                cpu::gather_add::<I, u32, E, O>(out, ids, wte, cpu::Places::Counted { start, t }, wpe)
            }
            PlacesOf::Ids(places) => {
                let (storage, layout) = places.tensor().storage_and_layout();
                let candle_core::Storage::Cpu(CpuStorage::U32(places)) = &*storage else { return Err(Outside) };
                let places = inside(places, layout).map_err(|_| Outside)?;
                cpu::gather_add(out, ids, wte, cpu::Places::Given(places), wpe)
            }
        }
    }
}

/// The gradient of `table` under a gather of ids: one `[N, C]` buffer.
fn scatter_add(table: &Tensor, on_host: Tensor, grad: &Tensor) -> CandleResult<Tensor> {
    let (n_rows, _) = table.dims2()?;
    rows_of(grad)?.apply_op1_no_bwd(&ScatterAdd { n_rows, on_host })
}

/// A gradient `[.., C]` as contiguous rows `[N, C]`.
fn rows_of(grad: &Tensor) -> CandleResult<Tensor> {
    let width = grad.dims().last().copied().unwrap_or(1);
    let n = grad.elem_count().checked_div(width).unwrap_or(0);
    grad.contiguous()?.reshape((n, width))
}

impl CustomOp1 for ScatterAdd {
    fn name(&self) -> &'static str {
        "scatter-add"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let (ids, ids_layout) = self.on_host.storage_and_layout();
        let ids = on_host(&ids)?;
        by_dtype!(grad, E => by_ids!(ids, ids_layout, ids => {
            let grad = Rows { values: slice::<E>(grad, layout)?, width };
            summed(self.n_rows * width, &mut |out| cpu::scatter_add(out, ids, grad))
        }))
        .map(|storage| (storage, (self.n_rows, width).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, grad: &CudaStorage, layout: &Layout) -> CandleResult<(CudaStorage, Shape)> {
        let ids = crate::kernel::ids::to_host(&self.on_host, "ids").map_err(candle_core::Error::from)?;
        cuda::scatter_add((grad, layout), &RowGroups::inside(&ids, self.n_rows), 1.0, self.n_rows)
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
        let (n_ids, _) = layout.shape().dims2()?;
        let groups = RowGroups::counted(self.start, self.t, n_ids.checked_div(self.t).unwrap_or(0));
        cuda::scatter_add((grad, layout), &groups, 1.0, self.n_rows)
    }
}

/// The shape of ids, with the width of a row behind it.
fn with_width(ids: &Layout, width: usize) -> Shape {
    ids.dims().iter().copied().chain([width]).collect::<Vec<_>>().into()
}
