//! The arithmetic under the layers: rows gathered from a table, positions added. Private.
//!
//! Every id passes [`CheckedIds`] first, so that nothing below it meets a bad one unprepared. What has a kernel of its own on a device
//! (the CPU, CUDA) runs there; everything else runs as plain Candle operations, with the same bits.

mod adam;
mod adam_reference;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod distance;
mod element;
mod fetched;
mod gradient;
mod ids;
mod in_place;
mod loss;
mod ops;
mod quantized;
mod reference;
mod rotary;
mod row_groups;
mod simd;
mod storage;
mod stored;
mod table;
#[cfg(test)]
mod tests;
mod update;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use ops::{Gather, GatherAdd, GatherAddInto, PlacesOf};

pub(crate) use adam::AdamStep;
pub(crate) use distance::{Columns, bias_in_runs, by_distance, distances, linear_bias, sum_by_distance};
pub(crate) use gradient::{BatchRows, Gradient};
pub use ids::IdCheck;
pub(crate) use ids::{CheckedIds, IdChecks, Table, to_host, unravel};
pub(crate) use loss::{Counted, CrossEntropy, HeadTable, LossParts, Wanted, attach};
pub(crate) use quantized::can_dequantize;
pub(crate) use reference::add_rows;
pub(crate) use rotary::{AngleRows, Angles, rotate};
pub(crate) use row_groups::RowGroups;
pub(crate) use simd::{extend_widened, prefetch};
pub(crate) use storage::{new_var, zeros_like};
pub(crate) use stored::{StoredTable, Wpe};
pub(crate) use table::{DenseTable, outer_dims, same_device, same_dtype};
pub(crate) use update::{Moments, adamw, dense_gradient, row_adam, sum_of_squares};

/// Where ids `[.., T]` stand, known to be inside the position table.
#[derive(Clone, Debug)]
pub(crate) enum Places {
    /// They count up from here along the last dimension, T of them.
    Counted { start: usize, t: usize },
    /// One a token, in a shape that broadcasts to the ids'.
    Given(CheckedIds),
}

impl Places {
    /// The rows of `wpe` to add, in a shape that broadcasts to `[.., T, C]`: a view where they count up.
    pub(crate) fn rows(
        &self,
        wpe: &Tensor,
        gather: impl FnOnce(&Tensor, &CheckedIds) -> Result<Tensor>,
    ) -> Result<Tensor> {
        match self {
            &Self::Counted { start, t } => Ok(wpe.narrow(0, start, t)?),
            Self::Given(ids) => gather(wpe, ids),
        }
    }

    /// The ids of shape `ids_dims` grouped by the row of `wpe` that each takes.
    pub(crate) fn groups(&self, ids_dims: &[usize]) -> Result<RowGroups> {
        match self {
            &Self::Counted { start, t } => {
                let n_ids: usize = ids_dims.iter().product();
                Ok(RowGroups::counted(start, t, n_ids.checked_div(t).unwrap_or(0)))
            }
            Self::Given(ids) => {
                Ok(RowGroups::from_ids(&to_host(&ids.tensor().broadcast_as(ids_dims)?, "position_ids")?, None))
            }
        }
    }

    /// For a kernel.
    fn for_ids(&self, ids: &CheckedIds) -> Result<PlacesOf> {
        match self {
            &Self::Counted { start, .. } => Ok(PlacesOf::Start(start)),
            Self::Given(places) => Ok(PlacesOf::Ids(places.broadcast_to(ids.dims())?)),
        }
    }
}

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
    must_fit(buffer, ids.dims(), wte.dim(1)?)?;
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
        must_fit(buffer, outer, width)?;
    }
    same_dtype(("buffer", buffer.dtype()), ("wte", rows.dtype()))?;
    if buffer.elem_count() > 0 {
        buffer.slice_set(rows, 0, 0)?;
    }
    Ok(())
}

/// Rows of `table` for ids `[..]` into `buffer` `[.., C]`, contiguous, of any type; nothing is recorded.
pub(crate) fn gather_into(buffer: &Tensor, table: &Tensor, ids: &CheckedIds) -> Result<()> {
    must_fit(buffer, ids.dims(), table.dim(1)?)?;
    copy_into(buffer, &gather(&table.detach(), ids)?.to_dtype(buffer.dtype())?)
}

/// A buffer for ids of shape `ids_dims`.
fn must_fit(buffer: &Tensor, ids_dims: &[usize], width: usize) -> Result<()> {
    match buffer.dims().split_last() {
        Some((&last, outer)) if last == width && outer == ids_dims && buffer.is_contiguous() => Ok(()),
        _ => Err(Error::ShapeMismatch {
            what: "buffer",
            got: buffer.shape().clone(),
            expected: format!("{ids_dims:?} followed by the width of the tables, contiguous"),
        }),
    }
}
