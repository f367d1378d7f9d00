//! Rows gathered from a table, with positions added: by a kernel where there is one, else by plain Candle operations.

use candle_core::{Device, Tensor};

use super::op::{Gather, GatherAdd, GatherAddInto};
use super::reference;
use crate::error::Result;
use crate::kernel::ids::{CheckedIds, Places};
use crate::shape::{fits_buffer, same_dtype};

/// Whether kernels of ours run there; elsewhere Candle's own operations do.
fn has_kernels(device: &Device) -> bool {
    device.is_cpu() || (cfg!(feature = "cuda") && device.is_cuda())
}

/// Rows of `table` `[N, C]`: ids of shape `[..]` give `[.., C]`.
pub(crate) fn gather(table: &Tensor, ids: &CheckedIds) -> Result<Tensor> {
    if !has_kernels(table.device()) {
        return reference::gather(table, ids);
    }
    let table = table.contiguous()?;
    let op = Gather { ids: ids.clone() };
    Ok(match table.track_op() {
        true => table.apply_op2(ids.tensor(), op)?,
        false => table.apply_op2_no_bwd(ids.tensor(), &op)?,
    })
}

/// Rows of `wte` for ids `[.., T]` plus rows of `wpe` for their places: `[.., T, C]`, in one pass.
pub(crate) fn gather_add(wte: &Tensor, ids: &CheckedIds, wpe: &Tensor, places: &Places) -> Result<Tensor> {
    if !has_kernels(wte.device()) {
        return reference::gather_add(wte, ids, wpe, places);
    }
    let (wte, wpe) = (wte.contiguous()?, wpe.contiguous()?);
    let op = GatherAdd { places: places.for_ids(ids)?, ids: ids.clone() };
    Ok(match wte.track_op() || wpe.track_op() {
        true => wte.apply_op3(&wpe, ids.tensor(), op)?,
        false => wte.apply_op3_no_bwd(&wpe, ids.tensor(), &op)?,
    })
}

/// The same into `buffer` `[.., T, C]`, contiguous, of any type that is summed as the tables are; nothing is recorded.
pub(crate) fn gather_add_into(
    buffer: &Tensor,
    wte: &Tensor,
    ids: &CheckedIds,
    wpe: &Tensor,
    places: &Places,
) -> Result<()> {
    fits_buffer(buffer, ids.dims(), wte.dim(1)?)?;
    if buffer.elem_count() == 0 {
        return Ok(());
    }
    // On CUDA a kernel writes the type that the tables have.
    if !has_kernels(wte.device()) || (!wte.device().is_cpu() && buffer.dtype() != wte.dtype()) {
        let rows = reference::gather_add(&wte.detach(), ids, &wpe.detach(), places)?.to_dtype(buffer.dtype())?;
        return Ok(buffer.slice_set(&rows, 0, 0)?);
    }
    let op = GatherAdd { places: places.for_ids(ids)?, ids: ids.clone() };
    let op = GatherAddInto(op);
    Ok(buffer.inplace_op3(&wte.contiguous()?, &wpe.contiguous()?, &op)?)
}

/// Copies `rows` `[.., T, C]` into `buffer`, which must be of their shape and type, and contiguous.
pub(crate) fn copy_into(buffer: &Tensor, rows: &Tensor) -> Result<()> {
    if let Some((&width, outer)) = rows.dims().split_last() {
        fits_buffer(buffer, outer, width)?;
    }
    same_dtype(("buffer", buffer.dtype()), ("wte", rows.dtype()))?;
    if buffer.elem_count() > 0 {
        buffer.slice_set(rows, 0, 0)?;
    }
    Ok(())
}

/// Rows of `table` for ids `[..]` into `buffer` `[.., C]`, contiguous, of any type; nothing is recorded.
pub(crate) fn gather_into(buffer: &Tensor, table: &Tensor, ids: &CheckedIds) -> Result<()> {
    fits_buffer(buffer, ids.dims(), table.dim(1)?)?;
    copy_into(buffer, &gather(&table.detach(), ids)?.to_dtype(buffer.dtype())?)
}
