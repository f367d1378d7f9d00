//! Runs the kernels on Candle's storages.

use std::ops::Range;
use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{DType, Layout, MetalDevice, MetalStorage, Result, Shape, Storage, Tensor};
use candle_metal_kernels::metal::Buffer;

use super::jobs::{self, PlacesAt, Sums};
use super::launch::{Bound, encode};
use crate::kernel::ids::{PlacesOf, RowGroups};
use crate::kernel::step::BatchRows;

/// A storage, and the part that a tensor covers.
pub(in crate::kernel) type Operand<'a> = (&'a MetalStorage, &'a Layout);

/// Returns whether this crate has kernels for a table.
pub(in crate::kernel) fn has_kernels(table: &Tensor) -> bool {
    table.device().is_metal() && jobs::has_kernels(table.dtype())
}

pub(in crate::kernel) fn on_metal(storage: &Storage) -> Result<&MetalStorage> {
    match storage {
        Storage::Metal(storage) => Ok(storage),
        _ => candle_core::bail!("a kernel of Metal was given memory of another device"),
    }
}

/// Returns the bytes of a contiguous operand in its buffer.
fn bytes(dtype: DType, layout: &Layout) -> Result<Range<usize>> {
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| candle_core::Error::RequiresContiguous { op: "kernel" }.bt())?;
    Ok(start * dtype.size_in_bytes()..end * dtype.size_in_bytes())
}

fn bound<'a>((storage, layout): Operand<'a>) -> Result<Bound<'a>> {
    Ok((storage.buffer(), bytes(storage.dtype(), layout)?))
}

/// Computes `table[ids]`, or `table[ids] + wpe[places]`, as a new storage.
pub(in crate::kernel) fn gather(
    table: Operand,
    ids: Operand,
    positions: Option<(Operand, &PlacesOf)>,
) -> Result<MetalStorage> {
    let (_, width) = table.1.shape().dims2()?;
    let (device, dtype, n) = (table.0.device(), table.0.dtype(), ids.1.shape().elem_count() * width);
    let out = device.new_buffer(n, dtype, "gather")?;
    launch_gather((&out, &Layout::contiguous(n)), table, ids, positions)?;
    Ok(MetalStorage::new(out, device.clone(), n, dtype))
}

/// Computes the same into `buffer`, which has the dtype of the table.
pub(in crate::kernel) fn gather_into(
    buffer: Operand,
    table: Operand,
    ids: Operand,
    positions: Option<(Operand, &PlacesOf)>,
) -> Result<()> {
    launch_gather((buffer.0.buffer(), buffer.1), table, ids, positions)
}

fn launch_gather(
    (out, out_layout): (&Buffer, &Layout),
    table: Operand,
    ids: Operand,
    positions: Option<(Operand, &PlacesOf)>,
) -> Result<()> {
    let dtype = table.0.dtype();
    let (_, width) = table.1.shape().dims2()?;
    let (n, n_ids) = (out_layout.shape().elem_count(), ids.1.shape().elem_count());
    if n != n_ids * width {
        candle_core::bail!("{n} elements do not hold {n_ids} rows of {width}");
    }
    if n == 0 {
        return Ok(());
    }
    let (start, given) = match positions {
        Some((_, &PlacesOf::Start(start))) => (start, None),
        Some((_, PlacesOf::Ids(places))) => (0, Some(places.tensor().storage_and_layout())),
        None => (0, None),
    };
    let places = match &given {
        Some((storage, layout)) => Some((on_metal(storage)?, *layout)),
        None => None,
    };
    let at = places.map_or(PlacesAt::Start(start), |(storage, layout)| PlacesAt::Ids(storage.dtype(), layout));
    let added = positions.map(|((_, wpe), _)| (wpe, at));
    let launch = jobs::gather(dtype, out_layout.start_offset(), table.1, (ids.0.dtype(), ids.1), added)?;
    let wpe = positions.map_or(table, |(wpe, _)| wpe);
    let inputs = [bound(ids)?, bound(places.unwrap_or(ids))?, bound(table)?, bound(wpe)?];
    encode(table.0.device(), &launch, &[(out, bytes(dtype, out_layout)?)], &inputs)
}

/// Computes `out[row] = Σ grad[place] · factor` over the places of each group: `[n_rows, C]`, with zeros in rows of no
/// group.
pub(in crate::kernel) fn scatter_add(
    grad: Operand,
    groups: &RowGroups,
    scale: f64,
    n_rows: usize,
) -> Result<(MetalStorage, Shape)> {
    let (device, dtype) = (grad.0.device(), grad.0.dtype());
    let sums = Sums::new((dtype, grad.1), groups, scale, (n_rows, true))?;
    let (_, width) = sums.dims();
    let n = n_rows * width;
    let out = device.allocate_zeros(n * dtype.size_in_bytes())?;
    launch_sums(device, (&out, n), grad, &sums)?;
    Ok((MetalStorage::new(out, device.clone(), n, dtype), (n_rows, width).into()))
}

/// Returns the sums of the rows of a batch as a whole table with the shape of `param`.
pub(in crate::kernel) fn dense_gradient(param: &Tensor, batch: BatchRows) -> Result<Tensor> {
    let (storage, layout) = batch.rows.storage_and_layout();
    let (n_rows, _) = param.dims2()?;
    let (dense, shape) = scatter_add((on_metal(&storage)?, layout), batch.groups, batch.scale, n_rows)?;
    Ok(Tensor::from_storage(Storage::Metal(dense), shape, BackpropOp::none(), false))
}

/// Returns the sums of the rows of a batch, one row for each group: `[n_groups, C]`.
pub(in crate::kernel) fn group_sums(param: &Tensor, batch: BatchRows) -> Result<Tensor> {
    let (storage, layout) = batch.rows.storage_and_layout();
    let grad = (on_metal(&storage)?, layout);
    let (device, dtype, (n_rows, _)) = (grad.0.device(), grad.0.dtype(), param.dims2()?);
    let sums = Sums::new((dtype, layout), batch.groups, batch.scale, (n_rows, false))?;
    let (n_groups, width) = sums.dims();
    let n = n_groups * width;
    let out: Arc<Buffer> = device.new_buffer(n, dtype, "group-sums")?;
    launch_sums(device, (&out, n), grad, &sums)?;
    let storage = Storage::Metal(MetalStorage::new(out, device.clone(), n, dtype));
    Ok(Tensor::from_storage(storage, (n_groups, width), BackpropOp::none(), false))
}

/// Writes the sum of each group to its row of the first `n` elements of `out`.
fn launch_sums(device: &MetalDevice, (out, n): (&Buffer, usize), grad: Operand, sums: &Sums) -> Result<()> {
    let Some(of_places) = sums.of_places()? else { return Ok(()) };
    let out = || (out, 0..n * grad.0.dtype().size_in_bytes());
    let table = device.new_buffer_with_data(sums.words())?;
    let table = || (&*table, 0..size_of_val(sums.words()));
    let n_part_sums = sums.n_part_sums();
    let part_sums = device.new_buffer(n_part_sums, DType::F32, "part-sums")?;
    let part_sums = || (&*part_sums, 0..n_part_sums * DType::F32.size_in_bytes());
    encode(device, &of_places, &[out(), part_sums()], &[bound(grad)?, table()])?;
    if let Some(of_parts) = sums.of_parts()? {
        encode(device, &of_parts, &[out()], &[part_sums(), table()])?;
    }
    Ok(())
}
