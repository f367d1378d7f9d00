//! The one contract for ids, on every device: `u8`, `u32` or `i64`, any rank, any stride, empty allowed, each id inside
//! its table.
//!
//! Candle has none: a bad id is an error on the CPU, an assert that kills the context on CUDA, the last row on Metal, and
//! the largest value of the id's type (`u8` 255!) is a row of zeros everywhere.

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};

use super::same_device;
use crate::error::{Error, Result};

/// Which table the ids are to index: a bad one is reported as that table's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Tokens,
    Positions,
}

impl Table {
    fn ids(self) -> &'static str {
        match self {
            Self::Tokens => "input_ids",
            Self::Positions => "position_ids",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tokens => "wte",
            Self::Positions => "wpe",
        }
    }
}

/// Ids that are known to be inside the table they were checked for: contiguous, on the table's device.
#[derive(Clone, Debug)]
pub(crate) struct CheckedIds {
    ids: Tensor,
    /// The same ids on the host, where they were checked: what groups them needs no second copy.
    on_host: Tensor,
    /// A type that is wider than the ids need, so that no valid id is the largest of its type.
    wide: DType,
}

impl CheckedIds {
    /// Checks `ids` against a table of `n_rows` rows on `device`.
    ///
    /// Ids on the host are checked there for free, and go over to the table's device afterwards; ids on the table's
    /// device are copied to the host for the check (one synchronisation).
    pub(crate) fn new(ids: &Tensor, table: Table, n_rows: usize, device: &Device) -> Result<Self> {
        if !matches!(ids.dtype(), DType::U8 | DType::U32 | DType::I64) {
            return Err(Error::IdDType { what: table.ids(), got: ids.dtype() });
        }
        if !ids.device().is_cpu() {
            same_device((table.ids(), ids.device()), (table.name(), device))?;
        }
        let ids = ids.contiguous()?;
        let on_host = ids.to_device(&Device::Cpu)?;
        if let Some((index, id)) = first_outside(&on_host, n_rows)? {
            let at = unravel(index, ids.dims());
            return Err(match table {
                Table::Tokens => Error::TokenOutOfRange { id, at, vocab_size: n_rows },
                Table::Positions => Error::PositionOutOfRange { position: id, at, n_positions: n_rows },
            });
        }
        let wide = if n_rows > u32::MAX as usize { DType::I64 } else { DType::U32 };
        Ok(Self { ids: ids.to_device(device)?, on_host, wide })
    }

    /// The ids as they were given, contiguous.
    pub(crate) fn tensor(&self) -> &Tensor {
        &self.ids
    }

    /// The ids as they were given, contiguous, on the host.
    pub(super) fn on_host(&self) -> &Tensor {
        &self.on_host
    }

    /// The ids as a vector of a type in which Candle reads every one of them rightly.
    pub(crate) fn flat(&self) -> Result<Tensor> {
        Ok(self.ids.flatten_all()?.to_dtype(self.wide)?)
    }

    pub(crate) fn dims(&self) -> &[usize] {
        self.ids.dims()
    }
}

/// The values of an integer tensor as `i64`, in logical order.
pub(crate) fn to_host(ids: &Tensor, what: &'static str) -> Result<Vec<i64>> {
    if !matches!(ids.dtype(), DType::U8 | DType::U32 | DType::I64) {
        return Err(Error::IdDType { what, got: ids.dtype() });
    }
    let flat = ids.flatten_all()?.contiguous()?.to_device(&Device::Cpu)?;
    Ok(flat.to_dtype(DType::I64)?.to_vec1()?)
}

/// The first of contiguous ids on the host that is not in `0..n_rows`, with its index.
fn first_outside(on_host: &Tensor, n_rows: usize) -> Result<Option<(usize, i64)>> {
    let (storage, layout) = on_host.storage_and_layout();
    let range = match layout.contiguous_offsets() {
        Some((start, end)) => start..end,
        None => return Err(candle_core::Error::RequiresContiguous { op: "id check" }.into()),
    };
    let found = match &*storage {
        Storage::Cpu(CpuStorage::U8(ids)) => scan(&ids[range], |&id| usize::from(id) < n_rows),
        Storage::Cpu(CpuStorage::U32(ids)) => scan(&ids[range], |&id| u64::from(id) < n_rows as u64),
        Storage::Cpu(CpuStorage::I64(ids)) => scan(&ids[range], |&id| id >= 0 && (id as u64) < n_rows as u64),
        _ => None, // no other type passes `CheckedIds::new`
    };
    Ok(found)
}

fn scan<T: Copy + Into<i64>>(ids: &[T], inside: impl Fn(&T) -> bool) -> Option<(usize, i64)> {
    ids.iter().position(|id| !inside(id)).map(|index| (index, ids[index].into()))
}

/// The index of element `flat` of a tensor of shape `dims`, one number a dimension.
pub(crate) fn unravel(mut flat: usize, dims: &[usize]) -> Vec<usize> {
    let mut at = vec![0; dims.len()];
    for (axis, &dim) in dims.iter().enumerate().rev() {
        at[axis] = flat % dim;
        flat /= dim;
    }
    at
}
