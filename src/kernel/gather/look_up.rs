//! Gathers rows of a table and adds positions: by a kernel if the device has one, else by plain Candle operations.

use candle_core::Tensor;

use super::op::{Gather, GatherAdd, GatherAddInto, has_kernels};
use super::reference;
use crate::error::Result;
use crate::kernel::core::locks::{apart, let_writers_pass};
use crate::kernel::ids::{CheckedIds, Places};
use crate::shape::{fits_buffer, same_dtype};

/// Returns rows of `table` `[N, C]`: ids of shape `[..]` give `[.., C]`.
pub(crate) fn gather(table: &Tensor, ids: &CheckedIds) -> Result<Tensor> {
    if !has_kernels(table) {
        return reference::gather(table, ids);
    }
    let table = table.contiguous()?;
    let_writers_pass(&table);
    let op = Gather { ids: ids.clone() };
    Ok(match table.track_op() {
        true => table.apply_op2(ids.tensor(), op)?,
        false => table.apply_op2_no_bwd(ids.tensor(), &op)?,
    })
}

/// Returns rows of `wte` for ids `[.., T]` plus rows of `wpe` for their positions: `[.., T, C]`, in one pass.
pub(crate) fn gather_add(wte: &Tensor, ids: &CheckedIds, wpe: &Tensor, places: &Places) -> Result<Tensor> {
    if !has_kernels(wte) {
        return reference::gather_add(wte, ids, wpe, places);
    }
    let (wte, wpe) = (wte.contiguous()?, wpe.contiguous()?);
    let_writers_pass(&wte);
    let_writers_pass(&wpe);
    let op = GatherAdd { places: places.for_ids(ids)?, ids: ids.clone() };
    Ok(match wte.track_op() || wpe.track_op() {
        true => wte.apply_op3(&wpe, ids.tensor(), op)?,
        false => wte.apply_op3_no_bwd(&wpe, ids.tensor(), &op)?,
    })
}

/// Writes the sum of [`gather_add`] to `buffer` `[.., T, C]`, contiguous, of any dtype with the same arithmetic as the
/// tables. Records nothing.
pub(crate) fn gather_add_into(
    buffer: &Tensor,
    wte: &Tensor,
    ids: &CheckedIds,
    wpe: &Tensor,
    places: &Places,
) -> Result<()> {
    fits_buffer(buffer, ids.dims(), wte.dim(1)?)?;
    holds_floats(buffer, wte)?;
    if buffer.elem_count() == 0 {
        return Ok(());
    }
    let tables = [("wte", wte), ("wpe", wpe)];
    // On a GPU a kernel writes the dtype of the tables only.
    if !has_kernels(wte) || (!wte.device().is_cpu() && buffer.dtype() != wte.dtype()) {
        apart(("buffer", buffer), &tables)?;
        let rows = reference::gather_add(&wte.detach(), ids, &wpe.detach(), places)?.to_dtype(buffer.dtype())?;
        return Ok(buffer.slice_set(&rows, 0, 0)?);
    }
    let (wte, wpe) = (wte.contiguous()?, wpe.contiguous()?);
    let_writers_pass(&wte);
    let_writers_pass(&wpe);
    let op = GatherAddInto(GatherAdd { places: places.for_ids(ids)?, ids: ids.clone() });
    // Candle compares memories before it locks them, but does not name them.
    buffer.inplace_op3(&wte, &wpe, &op).or_else(|error| apart(("buffer", buffer), &tables).and(Err(error.into())))
}

/// Refuses a buffer of integers. It might lie in the memory of the ids, which the kernel reads while it writes.
fn holds_floats(buffer: &Tensor, table: &Tensor) -> Result<()> {
    if buffer.dtype().is_float() { Ok(()) } else { same_dtype(("buffer", buffer.dtype()), ("wte", table.dtype())) }
}

/// Copies `rows` `[.., T, C]` into `buffer`, which must be contiguous and have their shape and dtype.
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

/// Writes rows of `table` for ids `[..]` to `buffer` `[.., C]`, contiguous, of any dtype. Records nothing.
pub(crate) fn gather_into(buffer: &Tensor, table: &Tensor, ids: &CheckedIds) -> Result<()> {
    fits_buffer(buffer, ids.dims(), table.dim(1)?)?;
    holds_floats(buffer, table)?;
    apart(("buffer", buffer), &[("wte", table)])?;
    copy_into(buffer, &gather(&table.detach(), ids)?.to_dtype(buffer.dtype())?)
}
