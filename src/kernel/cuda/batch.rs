//! Rows of a batch on the device, and their sums.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr, SyncOnDrop,
};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Result, Shape, Storage, Tensor};

use super::{Module, Number, Operand, by_dtype, grid, launch, module, on_cuda, view};
use crate::kernel::ids::RowGroups;
use crate::kernel::step::BatchRows;

const SCATTER_ADD: Module = module!("scatter_add");

/// `Batch` of gradient.cuh, field by field.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct BatchArg {
    pub(crate) grad: u64,
    pub(crate) rows: u64,
    pub(crate) starts: u64,
    pub(crate) places: u64,
    pub(crate) factors: u64,
    pub(crate) n_groups: u64,
}

/// `Scatter` of scatter_add.cu, field by field.
#[repr(C)]
struct ScatterJob {
    out: u64,
    batch: BatchArg,
    width: u64,
}

// SAFETY: addresses and counts of 64 bits each, in the order and layout of the struct in the kernel's source.
unsafe impl DeviceRepr for ScatterJob {}

/// Groups of a batch and the rows that they sum, on the device.
pub(crate) struct Batch<'a, E> {
    grad: CudaView<'a, E>,
    /// Rows, starts, places and factors, one after the other: one copy to the device.
    table: CudaSlice<u64>,
    n_groups: usize,
    n_places: usize,
}

impl<'a, E: Number> Batch<'a, E> {
    /// Copies the groups whose row `is_wanted` to the device. `scale` multiplies their sums too. Fails unless rows are
    /// below `n_rows`.
    pub(crate) fn new(
        device: &CudaDevice,
        grad: Operand<'a>,
        (groups, scale): (&RowGroups, f64),
        n_rows: usize,
        is_wanted: impl Fn(usize) -> bool,
    ) -> Result<Self> {
        let (n_ids, _) = grad.1.shape().dims2()?;
        let is_outside = |group: usize| groups.row(group) >= n_rows;
        if groups.n_ids() != n_ids || groups.len().checked_sub(1).is_some_and(is_outside) {
            candle_core::bail!("gradients of {n_ids} rows do not belong to these ids");
        }
        let wanted: Vec<usize> = (0..groups.len()).filter(|&group| is_wanted(groups.row(group))).collect();
        let mut table: Vec<u64> = wanted.iter().map(|&group| groups.row(group) as u64).collect();
        let mut n_places = 0;
        for &group in &wanted {
            table.push(n_places as u64);
            n_places += groups.occurrences(group).len();
        }
        table.push(n_places as u64);
        for &group in &wanted {
            table.extend(groups.occurrences(group).iter().map(|&(_, place)| place as u64));
        }
        table.extend(wanted.iter().map(|&group| (scale * groups.factor(group)).to_bits()));
        Ok(Self { grad: view::<E>(grad)?, table: device.clone_htod(&table)?, n_groups: wanted.len(), n_places })
    }

    /// Returns how many groups there are.
    pub(crate) fn len(&self) -> usize {
        self.n_groups
    }

    /// Returns a kernel's argument, and guards that tell the stream what the launch used when they are dropped.
    pub(crate) fn argument<'b>(&'b self, stream: &'b CudaStream) -> (BatchArg, [SyncOnDrop<'b>; 2]) {
        let (grad, grad_used) = self.grad.device_ptr(stream);
        let (rows, table_used) = self.table.device_ptr(stream);
        let behind = |address: u64, n: usize| address + (n * size_of::<u64>()) as u64;
        let starts = behind(rows, self.n_groups);
        let places = behind(starts, self.n_groups + 1);
        let factors = behind(places, self.n_places);
        let argument = BatchArg { grad, rows, starts, places, factors, n_groups: self.n_groups as u64 };
        (argument, [grad_used, table_used])
    }
}

/// Computes `out[row] = Σ grad[place] · factor` over the places of each group, in order: `[n_rows, C]`, with zeros in
/// rows of no group.
pub(in crate::kernel) fn scatter_add(
    grad: Operand,
    groups: &RowGroups,
    scale: f64,
    n_rows: usize,
) -> Result<(CudaStorage, Shape)> {
    let (_, width) = grad.1.shape().dims2()?;
    let device = grad.0.device();
    by_dtype!(grad.0, E => {
        let mut out = device.alloc_zeros::<E>(n_rows * width)?;
        let batch = Batch::<E>::new(device, grad, (groups, scale), n_rows, |_| true)?;
        launch_scatter(device, &mut out.as_view_mut(), &batch, width)?;
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), (n_rows, width).into()))
    })
}

/// Returns the sums of the rows of a batch as a whole table with the shape of `param`.
pub(in crate::kernel) fn dense_gradient(param: &Tensor, batch: BatchRows) -> Result<Tensor> {
    let (storage, layout) = batch.rows.storage_and_layout();
    let (n_rows, _) = param.dims2()?;
    let (dense, shape) = scatter_add((on_cuda(&storage)?, layout), batch.groups, batch.scale, n_rows)?;
    Ok(Tensor::from_storage(Storage::Cuda(dense), shape, BackpropOp::none(), false))
}

fn launch_scatter<E: Number>(
    device: &CudaDevice,
    out: &mut CudaViewMut<E>,
    batch: &Batch<E>,
    width: usize,
) -> Result<()> {
    if batch.len() == 0 || width == 0 {
        return Ok(());
    }
    let stream = device.cuda_stream();
    let (out, _out) = out.device_ptr_mut(&stream);
    let (argument, _batch) = batch.argument(&stream);
    let job = ScatterJob { out, batch: argument, width: width as u64 };
    let config = grid(batch.len(), width * size_of::<E>(), 1);
    // SAFETY: the job is that of the kernel's source. By the checks of `Batch::new`, whose groups ascend, places are
    // below the number of gradients and rows below that of the output, and no two groups have the same row. It writes
    // the output alone.
    unsafe { launch::<E, _>(device, SCATTER_ADD, "scatter_add", &job, config) }
}
