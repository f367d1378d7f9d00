//! Gradients of rows of all ranks, one behind the other.

use candle_core::{Device, Var};

use super::super::RowGrad;
use crate::error::{RanksError, Result};
use crate::kernel::{from_bytes, to_bytes};
use crate::ranks::{Parts, Ranks};

/// Returns the gradient of all ranks' ids, in the order of the ranks.
pub(super) fn gather(ranks: &dyn Ranks, var: &Var, own: Option<RowGrad>) -> Result<Option<RowGrad>> {
    let (n_rows, width) = var.dims2()?;
    let row_bytes = width * var.dtype().size_in_bytes();
    // For each row of the gradient its row of the table, then the rows, then whether they are divided by their number.
    let mut message = Vec::new();
    if let Some(own) = &own {
        message.extend(own.ids().iter().flat_map(|id| id.to_le_bytes()));
        message.extend(to_bytes(&own.rows.to_device(&Device::Cpu)?)?);
        message.push(u8::from(own.is_by_frequency()));
    }
    let mut all = Parts::default();
    ranks.all_gather(&message, &mut all)?;
    let (mut ids, mut rows, mut by_frequency) = (Vec::new(), Vec::new(), None);
    for (rank, message) in all.iter().enumerate() {
        let Some((&last, message)) = message.split_last() else { continue };
        let n_ids = message.len() / (8 + row_bytes);
        let (of_ids, of_rows) = message.split_at(8 * n_ids);
        let before = ids.len();
        ids.extend(of_ids.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)));
        rows.extend_from_slice(of_rows);
        let is_inside = |id: &i64| (-1..n_rows as i64).contains(id);
        if *by_frequency.get_or_insert(last) != last || !ids[before..].iter().all(is_inside) {
            return Err(RanksError::Differ { what: "the kind of the row gradients", rank }.into());
        }
    }
    let Some(by_frequency) = by_frequency else { return Ok(None) };
    let rows = from_bytes(&rows, width, var.dtype())?.to_device(var.device())?;
    Ok(Some(RowGrad::from_ids(var, &ids, &rows, by_frequency == 1)))
}
