//! The kernels as Candle operations, with gradients.

use std::mem::MaybeUninit;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, InplaceOp3, Layout, Shape, Tensor, WithDType};
use half::{bf16, f16};

#[cfg(feature = "cuda")]
use super::RowGroups;
use super::cpu::{self, Outside, Rows};
#[cfg(feature = "cuda")]
use super::cuda;
use super::element::{Element, Id};

type CandleResult<T> = candle_core::Result<T>;

/// `table[ids]`: arguments table `[N, C]` and ids `[..]`, both contiguous.
pub(super) struct Gather {
    /// The ids, which on a device the backward pass would otherwise have to wait for.
    pub(super) on_host: Tensor,
}

/// `wte[ids] + wpe[places]`: arguments `wte` `[V, C]`, `wpe` `[P, C]` and ids `[.., T]`, all contiguous.
#[derive(Clone)]
pub(super) struct GatherAdd {
    pub(super) places: PlacesOf,
    /// The ids, as in [`Gather`].
    pub(super) on_host: Tensor,
}

/// Where the ids stand.
#[derive(Clone)]
pub(super) enum PlacesOf {
    /// From here on, along the last dimension.
    Start(usize),
    /// Position ids of the shape of the ids, `u32`, contiguous: the same on the device of the ids and on the host.
    Ids { on_device: Tensor, on_host: Tensor },
}

/// `out[id] = Σ grad[n]`: arguments grad `[N, C]` and ids `[N]`; out `[n_rows, C]`.
struct ScatterAdd {
    n_rows: usize,
    /// The ids, as in [`Gather`]: a device sums them in groups that the host has made.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code))]
    on_host: Tensor,
}

/// `out[start + n % t] = Σ grad[n]`: argument grad `[N, C]`; out `[n_rows, C]`.
struct SumBatch {
    n_rows: usize,
    start: usize,
    t: usize,
}

/// Calls `$call::<E>` for the floating-point type of `$storage`.
macro_rules! by_dtype {
    ($storage:expr, $E:ident => $call:expr) => {
        match $storage.dtype() {
            DType::F32 => {
                type $E = f32;
                $call
            }
            DType::F64 => {
                type $E = f64;
                $call
            }
            DType::F16 => {
                type $E = f16;
                $call
            }
            DType::BF16 => {
                type $E = bf16;
                $call
            }
            dtype => Err(candle_core::Error::UnsupportedDTypeForOp(dtype, "table of rows").bt()),
        }
    };
}

#[cfg(feature = "cuda")]
pub(super) use by_dtype;

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
            written(ids.len() * width, |out| cpu::gather::<_, E>(out, ids, table))
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
        Ok((cuda::gather((table, l1), (ids, l2), None)?, with_width(l2, width)))
    }

    fn bwd(
        &self,
        table: &Tensor,
        ids: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(scatter_add(table, ids, &self.on_host, grad)?), None))
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
            written(ids.len() * width, |out| self.run::<_, E, E>(out, ids, wte, wpe, l3))
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
        Ok((cuda::gather((wte, l1), (ids, l3), Some(((wpe, l2), &self.places)))?, with_width(l3, width)))
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
        let wte_grad = if wte.track_op() { Some(scatter_add(wte, ids, &self.on_host, grad)?) } else { None };
        let wpe_grad = match &self.places {
            _ if !wpe.track_op() => None,
            PlacesOf::Ids { on_device, on_host } => Some(scatter_add(wpe, on_device, on_host, grad)?),
            &PlacesOf::Start(start) => {
                let (n_rows, _) = wpe.dims2()?;
                let t = ids.dims().last().copied().unwrap_or(1);
                Some(rows_of(grad)?.apply_op1_no_bwd(&SumBatch { n_rows, start, t })?)
            }
        };
        Ok((wte_grad, wpe_grad, None))
    }
}

/// The same into memory that is there already: arguments buffer `[.., T, C]`, `wte`, `wpe`; ids held here.
pub(super) struct GatherAddInto {
    pub(super) ids: Tensor,
    pub(super) op: GatherAdd,
}

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
        let (ids, ids_layout) = self.ids.storage_and_layout();
        let candle_core::Storage::Cpu(ids) = &*ids else {
            return Err(candle_core::Error::Msg("ids are not on the CPU".to_string()).bt());
        };
        /// One pair of types, both widened to the same.
        macro_rules! pair {
            ($E:ty, $O:ident, $buffer:ident) => {
                by_ids!(ids, ids_layout, ids => {
                    let wte = Rows { values: slice::<$E>(wte, l2)?, width };
                    let wpe = Rows { values: slice::<$E>(wpe, l3)?, width };
                    let out = as_uninit(inside_mut($buffer, l1)?);
                    self.op.run::<_, $E, $O>(out, ids, wte, wpe, ids_layout).map_err(changed)
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
        let (ids, ids_layout) = self.ids.storage_and_layout();
        let candle_core::Storage::Cuda(ids) = &*ids else {
            return Err(candle_core::Error::Msg("ids are not on the device of their table".to_string()).bt());
        };
        cuda::gather_into((buffer, l1), (wte, l2), (ids, ids_layout), Some(((wpe, l3), &self.op.places)))
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
            PlacesOf::Ids { on_host, .. } => {
                let (storage, layout) = on_host.storage_and_layout();
                let candle_core::Storage::Cpu(CpuStorage::U32(places)) = &*storage else { return Err(Outside) };
                let places = inside(places, layout).map_err(|_| Outside)?;
                cpu::gather_add(out, ids, wte, cpu::Places::Given(places), wpe)
            }
        }
    }
}

/// The gradient of `table` under a gather of `ids`: one `[N, C]` buffer.
fn scatter_add(table: &Tensor, ids: &Tensor, on_host: &Tensor, grad: &Tensor) -> CandleResult<Tensor> {
    let (n_rows, _) = table.dims2()?;
    let on_host = on_host.clone();
    rows_of(grad)?.apply_op2_no_bwd(&ids.flatten_all()?, &ScatterAdd { n_rows, on_host })
}

/// A gradient `[.., C]` as contiguous rows `[N, C]`.
fn rows_of(grad: &Tensor) -> CandleResult<Tensor> {
    let width = grad.dims().last().copied().unwrap_or(1);
    let n = grad.elem_count().checked_div(width).unwrap_or(0);
    grad.contiguous()?.reshape((n, width))
}

impl CustomOp2 for ScatterAdd {
    fn name(&self) -> &'static str {
        "scatter-add"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        l1: &Layout,
        ids: &CpuStorage,
        l2: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (_, width) = l1.shape().dims2()?;
        by_dtype!(grad, E => by_ids!(ids, l2, ids => {
            let grad = Rows { values: slice::<E>(grad, l1)?, width };
            summed(self.n_rows * width, |out| cpu::scatter_add(out, ids, grad))
        }))
        .map(|storage| (storage, (self.n_rows, width).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        grad: &CudaStorage,
        l1: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        let ids = super::to_host(&self.on_host, "ids").map_err(candle_core::Error::from)?;
        cuda::scatter_add((grad, l1), &RowGroups::from_ids(&ids, None), self.n_rows)
    }
}

impl candle_core::CustomOp1 for SumBatch {
    fn name(&self) -> &'static str {
        "sum-batch"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        by_dtype!(grad, E => {
            let grad = Rows { values: slice::<E>(grad, layout)?, width };
            summed(self.n_rows * width, |out| cpu::sum_batch(out, self.start, self.t, grad))
        })
        .map(|storage| (storage, (self.n_rows, width).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, grad: &CudaStorage, layout: &Layout) -> CandleResult<(CudaStorage, Shape)> {
        let (n_ids, _) = layout.shape().dims2()?;
        let groups = RowGroups::counted(self.start, self.t, n_ids.checked_div(self.t).unwrap_or(0));
        cuda::scatter_add((grad, layout), &groups, self.n_rows)
    }
}

fn changed(_: Outside) -> candle_core::Error {
    candle_core::Error::Msg("ids were changed by somebody else while they were used".to_string()).bt()
}

/// The shape of ids, with the width of a row behind it.
fn with_width(ids: &Layout, width: usize) -> Shape {
    ids.dims().iter().copied().chain([width]).collect::<Vec<_>>().into()
}

/// The elements of a contiguous layout.
fn inside<'a, T>(values: &'a [T], layout: &Layout) -> CandleResult<&'a [T]> {
    let range = layout.contiguous_offsets();
    range
        .and_then(|(start, end)| values.get(start..end))
        .ok_or_else(|| candle_core::Error::RequiresContiguous { op: "gather-add" }.bt())
}

pub(super) fn inside_mut<'a, T>(values: &'a mut [T], layout: &Layout) -> CandleResult<&'a mut [T]> {
    let range = layout.contiguous_offsets();
    range
        .and_then(|(start, end)| values.get_mut(start..end))
        .ok_or_else(|| candle_core::Error::RequiresContiguous { op: "write in place" }.bt())
}

pub(super) fn slice<'a, E: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> CandleResult<&'a [E]> {
    inside(E::cpu_storage_as_slice(storage)?, layout)
}

fn as_uninit<E: Element>(values: &mut [E]) -> &mut [MaybeUninit<E>] {
    // SAFETY: `MaybeUninit<E>` has the layout of `E`, and the kernels only ever write whole numbers through it.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

/// A new storage of `n` numbers, every one of them written by `write`.
fn written<E: Element>(
    n: usize,
    write: impl FnOnce(&mut [MaybeUninit<E>]) -> Result<(), Outside>,
) -> CandleResult<CpuStorage> {
    let mut values: Vec<E> = Vec::with_capacity(n);
    write(&mut values.spare_capacity_mut()[..n]).map_err(changed)?;
    // SAFETY: the kernels write every row of their output, or fail.
    unsafe { values.set_len(n) };
    Ok(E::to_cpu_storage_owned(values))
}

/// A new storage of `n` zeros, into which `write` writes sums.
fn summed<E: Element>(
    n: usize,
    write: impl FnOnce(&mut [MaybeUninit<E>]) -> Result<(), Outside>,
) -> CandleResult<CpuStorage> {
    let mut values = zeros::<E>(n);
    write(as_uninit(&mut values)).map_err(changed)?;
    Ok(E::to_cpu_storage_owned(values))
}

/// `n` zeros that the system provides: no page of them is touched before it is used.
pub(super) fn zeros<E: Element>(n: usize) -> Vec<E> {
    let Ok(layout) = std::alloc::Layout::array::<E>(n) else { return vec![E::zero(); n] };
    if layout.size() == 0 {
        return Vec::new();
    }
    // SAFETY: the size is not zero; all-zero bytes are the number zero in every type of element; the memory has the layout
    // of a vector with capacity `n`, and is its own.
    unsafe {
        let start = std::alloc::alloc_zeroed(layout).cast::<E>();
        if start.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        Vec::from_raw_parts(start, n, n)
    }
}
