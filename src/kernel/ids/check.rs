//! The one contract for ids, on every device: `u8`, `u32` or `i64`, any rank, any stride, empty allowed, each id inside
//! its table.
//!
//! Candle has none: a bad id is an error on the CPU, an assert that kills the context on CUDA, the last row on Metal, and
//! the largest value of the id's type (`u8` 255!) is a row of zeros everywhere.

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};

use super::contract::{MAX_RANK, Table, outside, unravel};
use crate::error::{Error, Result};
#[cfg(feature = "cuda")]
use crate::kernel::cuda::Notes;
use crate::shape::same_device;

/// Without kernels of ours nothing is noted.
#[cfg(not(feature = "cuda"))]
type Notes = std::convert::Infallible;

/// When ids that lie on a CUDA device are checked. Ids on the host are checked there, in every call, for free.
///
/// On Metal (and for tables that stay in a file, or whose options ask for the ids) every call checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IdCheck {
    /// In every call, before anything is computed: the ids are copied to the host, which waits for the device.
    ///
    /// The default, so that a bad id is an error on every device. A training step needs the ids on the host in any case:
    /// there they are sorted for the backward pass.
    #[default]
    EveryCall,
    /// Later, by [`GptInputLayer::check_ids`](crate::GptInputLayer::check_ids): no call waits for the device.
    ///
    /// The row of an id that is outside its table is filled with NaN, nothing else is read or written for it, and its
    /// gradient goes nowhere. A backward pass copies the ids to the host.
    Deferred,
}

/// When a layer's ids are checked, and where a device notes those that are outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdChecks {
    when: IdCheck,
    notes: Option<Notes>,
}

impl IdChecks {
    pub(crate) fn new(when: IdCheck, device: &Device) -> Result<Self> {
        let notes = match (when, device) {
            #[cfg(feature = "cuda")]
            (IdCheck::Deferred, Device::Cuda(device)) => Some(Notes::new(device)?),
            _ => None,
        };
        Ok(Self { when, notes })
    }

    pub(crate) fn when(&self) -> IdCheck {
        self.when
    }

    /// The first bad id of the first call that had one since this was asked last, as an error.
    pub(crate) fn take(&self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(notes) = &self.notes {
            return notes.take();
        }
        Ok(())
    }
}

/// Ids that are known to be inside the table they were checked for, or that a kernel of ours checks while it reads them:
/// contiguous, on the table's device.
#[derive(Clone, Debug)]
pub(crate) struct CheckedIds {
    ids: Tensor,
    /// The same ids on the host, where they were checked: what groups them needs no second copy.
    on_host: Option<Tensor>,
    table: Table,
    n_rows: usize,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only kernels of CUDA check ids"))]
    checks: IdChecks,
}

impl CheckedIds {
    /// Checks `ids` against a table of `n_rows` rows on `device`.
    ///
    /// Ids on the host are checked there for free, and go over to the table's device afterwards; ids on the table's
    /// device are copied to the host for the check (one synchronisation).
    pub(crate) fn new(ids: &Tensor, table: Table, n_rows: usize, device: &Device) -> Result<Self> {
        Self::noted(ids, table, (n_rows, device), &IdChecks::default())
    }

    /// The same, but ids on a device are left to the kernel, if `checks` says so.
    pub(crate) fn noted(
        ids: &Tensor,
        table: Table,
        (n_rows, device): (usize, &Device),
        checks: &IdChecks,
    ) -> Result<Self> {
        if !matches!(ids.dtype(), DType::U8 | DType::U32 | DType::I64) {
            return Err(Error::IdDType { what: table.ids(), got: ids.dtype() });
        }
        if !ids.device().is_cpu() {
            same_device((table.ids(), ids.device()), (table.name(), device))?;
        }
        let ids = ids.contiguous()?;
        if checks.notes.is_some() && !ids.device().is_cpu() && ids.rank() <= MAX_RANK {
            return Ok(Self { ids, on_host: None, table, n_rows, checks: checks.clone() });
        }
        let on_host = ids.to_device(&Device::Cpu)?;
        if let Some((index, id)) = first_outside(&on_host, n_rows)? {
            return Err(outside(table, id, unravel(index, ids.dims()), n_rows));
        }
        let ids = ids.to_device(device)?;
        Ok(Self { ids, on_host: Some(on_host), table, n_rows, checks: IdChecks::default() })
    }

    /// The ids as they were given, contiguous.
    pub(crate) fn tensor(&self) -> &Tensor {
        &self.ids
    }

    /// The ids as they were given, contiguous, on the host; those that nobody has checked are copied there.
    pub(crate) fn on_host(&self) -> candle_core::Result<Tensor> {
        match &self.on_host {
            Some(on_host) => Ok(on_host.clone()),
            None => self.ids.to_device(&Device::Cpu),
        }
    }

    /// Where a kernel notes what is outside; `None` where all is known to be inside.
    #[cfg(feature = "cuda")]
    pub(crate) fn noted_in(&self) -> Option<(&Notes, Table)> {
        self.checks.notes.as_ref().map(|notes| (notes, self.table))
    }

    /// The same ids for each of the ids `dims`, to whose shape theirs broadcasts: on the host in that shape, as `u32`, on a
    /// device in one that repeats.
    pub(crate) fn broadcast_to(&self, dims: &[usize]) -> Result<Self> {
        let own: Vec<usize> = self.dims().iter().copied().skip_while(|&dim| dim == 1).collect();
        match &self.on_host {
            None if dims.ends_with(&own) => Ok(self.clone()),
            None => Self::new(&self.ids, self.table, self.n_rows, self.ids.device())?.broadcast_to(dims),
            Some(on_host) => {
                let on_host = on_host.to_dtype(DType::U32)?.broadcast_as(dims)?.contiguous()?;
                Ok(Self { ids: on_host.to_device(self.ids.device())?, on_host: Some(on_host), ..self.clone() })
            }
        }
    }

    /// The ids as a vector of a type in which Candle reads every one of them rightly: wider than they need, so that no valid
    /// id is the largest of its type.
    pub(crate) fn flat(&self) -> Result<Tensor> {
        let wide = if self.n_rows > u32::MAX as usize { DType::I64 } else { DType::U32 };
        Ok(self.ids.flatten_all()?.to_dtype(wide)?)
    }

    pub(crate) fn dims(&self) -> &[usize] {
        self.ids.dims()
    }
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
