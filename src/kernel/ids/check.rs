//! The one contract for ids, on every device: `u8`, `u32` or `i64`, any rank, any stride, empty allowed, each id inside
//! its table.
//!
//! Candle has none: a bad id is an error on the CPU, an assert that kills the context on CUDA, the last row on Metal,
//! and the largest value of the id's type (`u8` 255!) is a row of zeros everywhere.

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};

use super::contract::{MAX_RANK, Table, outside, to_host, unravel};
use crate::error::{Error, Result};
#[cfg(feature = "cuda")]
use crate::kernel::cuda::{Notes, upload_ids};
use crate::memory::{copy_fits, fits};
use crate::shape::same_device;

/// Without the crate's own kernels nothing is noted.
#[cfg(not(feature = "cuda"))]
type Notes = std::convert::Infallible;

/// Says when ids on a CUDA device are checked. Ids on the host are checked there in every call.
///
/// On Metal every call checks, and so it does for tables that stay in a file and for tables whose options need the ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IdCheck {
    /// In every call, before anything is computed: the ids are copied to the host, which waits for the device.
    ///
    /// The default, so that a bad id is an error on every device. A training step needs the ids on the host anyway, to
    /// sort them for the backward pass.
    #[default]
    EveryCall,
    /// Later, by [`GptInputLayer::check_ids`](crate::GptInputLayer::check_ids): no call waits for the device.
    ///
    /// The row of an id outside its table is filled with NaN. Nothing else is read or written for it, and its gradient
    /// is dropped. A backward pass copies the ids to the host.
    Deferred,
}

/// When a layer's ids are checked, and where a device notes those that are outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdChecks {
    when: IdCheck,
    notes: Option<Notes>,
    /// Leave the ids on the host: no kernel reads them.
    stay_on_host: bool,
}

impl IdChecks {
    pub(crate) fn new(when: IdCheck, device: &Device) -> Result<Self> {
        let notes = match (when, device) {
            #[cfg(feature = "cuda")]
            (IdCheck::Deferred, Device::Cuda(device)) => Some(Notes::new(device)?),
            _ => None,
        };
        Ok(Self { when, notes, stay_on_host: false })
    }

    /// Checks in every call, for a caller that needs the ids on the host alone.
    pub(crate) fn on_host() -> Self {
        Self { stay_on_host: true, ..Self::default() }
    }

    pub(crate) fn when(&self) -> IdCheck {
        self.when
    }

    /// Returns the first bad id of the first call that had one since the last `take`, as an error.
    pub(crate) fn take(&self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(notes) = &self.notes {
            return notes.take();
        }
        Ok(())
    }
}

/// Ids that were checked against their table, or that the kernel checks while it reads them: contiguous, on the table's
/// device unless [`IdChecks::on_host`] says otherwise.
#[derive(Clone, Debug)]
pub(crate) struct CheckedIds {
    ids: Tensor,
    /// The same ids on the host, if they were checked there: grouping them needs no second copy.
    on_host: Option<Tensor>,
    table: Table,
    n_rows: usize,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only kernels of CUDA check ids"))]
    checks: IdChecks,
}

impl CheckedIds {
    /// Checks `ids` against a table of `n_rows` rows on `device`.
    ///
    /// Ids on the host are checked there and then moved to the table's device. Ids on the table's device are copied to
    /// the host for the check (one synchronisation).
    pub(crate) fn new(ids: &Tensor, table: Table, n_rows: usize, device: &Device) -> Result<Self> {
        Self::noted(ids, table, (n_rows, device), &IdChecks::default())
    }

    /// Does the same, but leaves ids on a device to the kernel if `checks` says so.
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
        copy_fits(table.ids(), ids)?;
        let ids = ids.contiguous()?;
        if checks.notes.is_some() && !ids.device().is_cpu() && ids.rank() <= MAX_RANK {
            return Ok(Self { ids, on_host: None, table, n_rows, checks: checks.clone() });
        }
        let on_host = ids.to_device(&Device::Cpu)?;
        if let Some((index, id)) = first_outside(&on_host, n_rows)? {
            return Err(outside(table, id, unravel(index, ids.dims()), n_rows));
        }
        let ids = if checks.stay_on_host { on_host.clone() } else { moved(&ids, device)? };
        Ok(Self { ids, on_host: Some(on_host), table, n_rows, checks: IdChecks::default() })
    }

    /// Returns the ids in their own dtype, contiguous.
    pub(crate) fn tensor(&self) -> &Tensor {
        &self.ids
    }

    /// Returns the ids in their own dtype, contiguous, on the host. Copies them if they were not checked there.
    pub(crate) fn on_host(&self) -> candle_core::Result<Tensor> {
        match &self.on_host {
            Some(on_host) => Ok(on_host.clone()),
            None => self.ids.to_device(&Device::Cpu),
        }
    }

    /// Returns the ids in logical order.
    pub(crate) fn values(&self) -> Result<Vec<i64>> {
        to_host(&self.on_host()?, self.table.ids())
    }

    /// Returns where a kernel notes ids outside their table, or `None` if all are known to be inside.
    #[cfg(feature = "cuda")]
    pub(crate) fn noted_in(&self) -> Option<(&Notes, Table)> {
        self.checks.notes.as_ref().map(|notes| (notes, self.table))
    }

    /// Broadcasts the ids to the shape `dims` of other ids. On the host they get that shape and `u32`; on CUDA they may
    /// keep a shape that repeats.
    pub(crate) fn broadcast_to(&self, dims: &[usize]) -> Result<Self> {
        let own: Vec<usize> = self.dims().iter().copied().skip_while(|&dim| dim == 1).collect();
        if self.ids.device().is_cuda() && dims.ends_with(&own) {
            return Ok(self.clone());
        }
        match &self.on_host {
            None => Self::new(&self.ids, self.table, self.n_rows, self.ids.device())?.broadcast_to(dims),
            Some(on_host) => {
                fits(self.table.ids(), dims, size_of::<u32>())?;
                let on_host = on_host.to_dtype(DType::U32)?.broadcast_as(dims)?.contiguous()?;
                Ok(Self { ids: moved(&on_host, self.ids.device())?, on_host: Some(on_host), ..self.clone() })
            }
        }
    }

    /// Returns the ids as a vector in a dtype so wide that no valid id is its largest value, which Candle would
    /// misread.
    pub(crate) fn flat(&self) -> Result<Tensor> {
        let wide = if self.n_rows > u32::MAX as usize { DType::I64 } else { DType::U32 };
        Ok(self.ids.flatten_all()?.to_dtype(wide)?)
    }

    pub(crate) fn dims(&self) -> &[usize] {
        self.ids.dims()
    }
}

/// Returns contiguous ids on a device. A copy from the host to CUDA waits for nothing.
fn moved(ids: &Tensor, device: &Device) -> candle_core::Result<Tensor> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) if ids.device().is_cpu() => upload_ids(ids, device),
        _ => ids.to_device(device),
    }
}

/// Returns the first of contiguous ids on the host that is not in `0..n_rows`, with its index.
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
