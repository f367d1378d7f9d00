//! A table that stays in its stored form: in a file, in memory or remote.

use candle_core::{DType, Device, Tensor};

use super::op::{Added, GatherBytes, Of};
use crate::error::{Error, Result};
use crate::kernel::core::rows::row_of;
use crate::kernel::ids::{CheckedIds, Places, Table};
use crate::rows::{RowBytes, StoredRows};

/// Stored rows as a table of a layer.
#[derive(Clone, Debug)]
pub(crate) struct StoredTable {
    pub(crate) rows: StoredRows,
    /// The dtype that rows are converted to, and the device that they go to.
    pub(crate) dtype: DType,
    pub(crate) device: Device,
    pub(crate) table: Table,
}

/// The table whose rows are added.
#[derive(Clone, Copy)]
pub(crate) enum Wpe<'a> {
    Stored(&'a StoredTable),
    /// In the dtype of the output, on the host.
    Dense(&'a Tensor),
}

impl StoredTable {
    /// Checks `ids` against the contract. They stay on the host.
    pub(crate) fn check(&self, ids: &Tensor) -> Result<CheckedIds> {
        CheckedIds::new(&ids.to_device(&Device::Cpu)?, self.table, self.rows.n_rows, &Device::Cpu)
    }

    /// Returns the rows of `ids` `[..]`: `[.., C]`.
    pub(crate) fn gather(&self, ids: &CheckedIds) -> Result<Tensor> {
        self.run(ids, None)
    }

    /// Returns rows of this table plus the rows of `wpe` at their positions, in one pass.
    pub(crate) fn gather_add(&self, ids: &CheckedIds, wpe: Wpe<'_>, places: &Places) -> Result<Tensor> {
        self.run(ids, Some((wpe, places)))
    }

    /// Returns whether [`gather_add`](Self::gather_add) can read the rows of `wpe`: on the host, and in no graph.
    pub(crate) fn can_add(&self, wpe: &Tensor) -> bool {
        self.device.is_cpu() && wpe.device().is_cpu() && !wpe.track_op()
    }

    /// Returns rows `start..start + t`.
    pub(crate) fn narrow(&self, start: usize, t: usize) -> Result<Tensor> {
        self.gather(&self.counted(start, t)?)
    }

    fn counted(&self, start: usize, t: usize) -> Result<CheckedIds> {
        let ids: Vec<i64> = (start..start + t).map(|row| row as i64).collect();
        self.check(&Tensor::new(ids, &Device::Cpu)?)
    }

    /// Returns all bytes of the table, if they are on this machine.
    pub(crate) fn bytes_here(&self) -> Result<&[u8]> {
        let end = self.rows.range(self.rows.n_rows).start;
        self.rows.bytes.here().get(self.rows.start..end).ok_or(Error::NotInMemory { table: self.table.name() })
    }

    /// Prefetches the rows of `ids`. Asks the system for mapped rows; fetches and discards remote ones, to warm their
    /// source's cache.
    pub(crate) fn prefetch(&self, ids: &CheckedIds) -> Result<()> {
        let RowBytes::Mapped(map) = &self.rows.bytes else {
            return self.rows.with_rows(ids.on_host()?.to_dtype(DType::I64)?).map(drop);
        };
        for id in ids.on_host()?.to_dtype(DType::I64)?.flatten_all()?.to_vec1::<i64>()? {
            let range = self.rows.range(row_of(id));
            // Advice may be ignored, and so may its failure.
            #[cfg(unix)]
            let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
            #[cfg(not(unix))]
            let _ = (range, map);
        }
        Ok(())
    }

    /// Prefetches the rows of `places`, as [`prefetch`](Self::prefetch) does those of ids.
    pub(crate) fn prefetch_places(&self, places: &Places) -> Result<()> {
        match places {
            &Places::Counted { start, t } => self.prefetch(&self.counted(start, t)?),
            Places::Given(ids) => self.prefetch(ids),
        }
    }

    fn run(&self, ids: &CheckedIds, wpe: Option<(Wpe<'_>, &Places)>) -> Result<Tensor> {
        let wide = |ids: &CheckedIds| Ok::<_, Error>(ids.on_host()?.to_dtype(DType::I64)?);
        let (wte, input_ids) = self.rows.with_rows(wide(ids)?)?;
        let given = |places: &Tensor| Ok::<_, Error>(places.broadcast_as(ids.dims())?.contiguous()?);
        let wpe = match wpe {
            Some((Wpe::Stored(wpe), &Places::Counted { start, t })) => {
                let (wpe, start) = wpe.rows.with_counted(start, t)?;
                Some((Added::Stored(wpe), Of::Counted { start, t }))
            }
            Some((Wpe::Stored(wpe), Places::Given(places))) => {
                let (wpe, places) = wpe.rows.with_rows(wide(places)?)?;
                Some((Added::Stored(wpe), Of::Given(given(&places)?)))
            }
            Some((Wpe::Dense(wpe), &Places::Counted { start, t })) => {
                Some((Added::Dense(wpe.contiguous()?), Of::Counted { start, t }))
            }
            Some((Wpe::Dense(wpe), Places::Given(places))) => {
                Some((Added::Dense(wpe.contiguous()?), Of::Given(given(&wide(places)?)?)))
            }
            None => None,
        };
        let rows = input_ids.apply_op1_no_bwd(&GatherBytes { wte, dtype: self.dtype, wpe })?;
        Ok(rows.to_device(&self.device)?)
    }
}
