//! Rows of a batch on the device, and their sums.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr, SyncOnDrop,
};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Result, Shape, Storage, Tensor};

use super::pool::unwritten;
use super::staging::upload;
use super::{Module, Number, Operand, by_dtype, grid, launch, module, on_cuda, view};
use crate::kernel::core::row_sums::PART;
use crate::kernel::ids::{GroupTable, RowGroups};
use crate::kernel::step::BatchRows;

const SCATTER_ADD: Module = module!("scatter_add");

/// `Sums` of gradient.cuh, field by field.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct SumsArg {
    values: u64,
    rows: u64,
    n_groups: u64,
}

/// `Groups` of scatter_add.cu, field by field.
#[repr(C)]
#[derive(Clone, Copy)]
struct GroupsArg {
    rows: u64,
    starts: u64,
    places: u64,
    parts: u64,
    long_groups: u64,
    first_parts: u64,
    n_groups: u64,
    n_parts: u64,
    n_long: u64,
}

/// `Scatter` of scatter_add.cu, field by field.
#[repr(C)]
struct ScatterJob {
    out: u64,
    grad: u64,
    part_sums: u64,
    groups: GroupsArg,
    width: u64,
    part: u64,
    scale: f64,
    by_frequency: u64,
    is_table: u64,
}

// SAFETY: addresses, counts and a factor of 64 bits each, in the order and layout of the struct in the kernel's source.
unsafe impl DeviceRepr for ScatterJob {}

/// Groups of a batch on the device.
struct Groups {
    table: GroupTable,
    /// The words of the table: one copy to the device.
    words: CudaSlice<u32>,
}

impl Groups {
    /// Copies groups to the device. Fails unless they are of `n_ids` ids below `n_rows`.
    fn new(device: &CudaDevice, groups: &RowGroups, n_ids: usize, n_rows: usize) -> Result<Self> {
        let table = GroupTable::new(groups, n_ids, n_rows)?;
        Ok(Self { words: upload(device, table.words.len(), table.words.iter().copied())?, table })
    }

    fn argument<'b>(&'b self, stream: &'b CudaStream) -> (GroupsArg, SyncOnDrop<'b>) {
        let (address, used) = self.words.device_ptr(stream);
        let [rows, starts, places, parts, long_groups, first_parts] =
            self.table.offsets().map(|offset| address + (offset * size_of::<u32>()) as u64);
        let [n_groups, n_parts, n_long] =
            [self.table.n_groups, self.table.n_parts, self.table.n_long].map(|n| n as u64);
        (GroupsArg { rows, starts, places, parts, long_groups, first_parts, n_groups, n_parts, n_long }, used)
    }
}

/// The sums of the rows of a batch: one row for each group, `[n_groups, C]`.
pub(crate) struct Sums {
    groups: Groups,
    values: CudaStorage,
}

impl Sums {
    /// Sums the rows `rows` of a batch by the row of a table of `n_rows` that they belong to.
    pub(crate) fn new<E: Number>(device: &CudaDevice, rows: Operand, batch: BatchRows, n_rows: usize) -> Result<Self> {
        let (n_ids, width) = rows.1.shape().dims2()?;
        let groups = Groups::new(device, batch.groups, n_ids, n_rows)?;
        // SAFETY: the kernel writes every row.
        let mut values = unsafe { unwritten::<E>(device, groups.table.n_groups * width)? };
        let factors = (batch.scale, batch.groups.is_by_frequency());
        launch_sums::<E>(device, (&mut values.as_view_mut(), false), rows, &groups, factors)?;
        Ok(Self { groups, values: CudaStorage::wrap_cuda_slice(values, device.clone()) })
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        self.groups.table.n_groups
    }

    /// Returns a kernel's argument, and guards that tell the stream what the launch used when they are dropped.
    pub(crate) fn argument<'b, E: Number>(&'b self, stream: &'b CudaStream) -> Result<(SumsArg, [SyncOnDrop<'b>; 2])> {
        let (values, values_used) = self.values.as_cuda_slice::<E>()?.device_ptr(stream);
        let (rows, rows_used) = self.groups.words.device_ptr(stream);
        Ok((SumsArg { values, rows, n_groups: self.groups.table.n_groups as u64 }, [values_used, rows_used]))
    }
}

/// Computes `out[row] = Σ grad[place] · factor` over the places of each group: `[n_rows, C]`, with zeros in rows of no
/// group.
pub(in crate::kernel) fn scatter_add(
    grad: Operand,
    groups: &RowGroups,
    scale: f64,
    n_rows: usize,
) -> Result<(CudaStorage, Shape)> {
    let (n_ids, width) = grad.1.shape().dims2()?;
    let device = grad.0.device();
    by_dtype!(grad.0, E => {
        let mut out = device.alloc_zeros::<E>(n_rows * width)?;
        let on_device = Groups::new(device, groups, n_ids, n_rows)?;
        let factors = (scale, groups.is_by_frequency());
        launch_sums::<E>(device, (&mut out.as_view_mut(), true), grad, &on_device, factors)?;
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

/// Writes the sum of each group to its row of `out`, a whole table or one row for each group.
fn launch_sums<E: Number>(
    device: &CudaDevice,
    (out, is_table): (&mut CudaViewMut<E>, bool),
    grad: Operand,
    groups: &Groups,
    (scale, by_frequency): (f64, bool),
) -> Result<()> {
    let (_, width) = grad.1.shape().dims2()?;
    if groups.table.n_groups == 0 || width == 0 {
        return Ok(());
    }
    let stream = device.cuda_stream();
    let grad = view::<E>(grad)?;
    // SAFETY: the first kernel writes every element, and the second one reads them.
    let mut part_sums = unsafe { unwritten::<u8>(device, groups.table.n_parts * width * size_of::<E::Wide>())? };
    let (out, _out) = out.device_ptr_mut(&stream);
    let (grad, _grad) = grad.device_ptr(&stream);
    let (part_sums, _part_sums) = part_sums.device_ptr_mut(&stream);
    let (argument, _groups) = groups.argument(&stream);
    let job = ScatterJob {
        out,
        grad,
        part_sums,
        groups: argument,
        width: width as u64,
        part: PART as u64,
        scale,
        by_frequency: by_frequency.into(),
        is_table: is_table.into(),
    };
    let config = grid(groups.table.n_parts + groups.table.n_groups, width * size_of::<E>(), 1);
    // SAFETY: the job is that of the kernel's source. By the checks of `GroupTable::new`, places are below the number of
    // gradients and rows below that of the output, and no two groups have the same row. It writes the output, and the
    // sums of parts, of which there are `n_parts` rows.
    unsafe { launch::<E, _>(device, SCATTER_ADD, "scatter_add", &job, config)? };
    if groups.table.n_long == 0 {
        return Ok(());
    }
    let config = grid(groups.table.n_long, width * size_of::<E>(), 1);
    // SAFETY: as above. It reads the sums that the first kernel has written, and writes the output.
    unsafe { launch::<E, _>(device, SCATTER_ADD, "add_parts", &job, config) }
}
