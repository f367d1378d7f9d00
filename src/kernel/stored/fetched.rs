//! Fetches the rows of a remote table that a call needs, into a table in memory.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::{CheckpointError, Result};
use crate::kernel::core::rows::row_of;
use crate::rows::{ByteRanges, RowBytes, StoredRows, read_all};

impl StoredRows {
    /// Returns the table and the ids as they are. For a remote table, fetches each row of `ids` once, and returns a
    /// table of these rows and the ids in it.
    pub(super) fn with_rows(&self, ids: Tensor) -> Result<(Cow<'_, Self>, Tensor)> {
        let RowBytes::Elsewhere(source) = &self.bytes else { return Ok((Cow::Borrowed(self), ids)) };
        let values = ids.flatten_all()?.to_vec1::<i64>()?;
        let mut rows = values.clone();
        rows.sort_unstable();
        rows.dedup();
        let table = self.fetch(source, rows.iter().map(|&id| row_of(id)))?;
        let at: Vec<i64> = values.iter().map(|id| rows.partition_point(|row| row < id) as i64).collect();
        Ok((Cow::Owned(table), Tensor::from_vec(at, ids.shape(), &Device::Cpu)?))
    }

    /// Returns a table that holds rows `start..start + t`, and the index of the first. Fetches them if the table is
    /// remote.
    pub(super) fn with_counted(&self, start: usize, t: usize) -> Result<(Cow<'_, Self>, usize)> {
        match &self.bytes {
            RowBytes::Elsewhere(source) => Ok((Cow::Owned(self.fetch(source, start..start + t)?), 0)),
            _ => Ok((Cow::Borrowed(self), start)),
        }
    }

    /// Fetches rows, one range each, so that a cache finds a row again whatever its neighbours were.
    fn fetch(&self, source: &Arc<dyn ByteRanges>, rows: impl Iterator<Item = usize>) -> Result<Self> {
        let ranges: Vec<_> = rows.map(|row| self.range(row)).map(|row| row.start as u64..row.end as u64).collect();
        let bytes = read_all(&**source, &ranges).map_err(CheckpointError::reading(Path::new(&source.name())))?;
        Ok(Self { bytes: RowBytes::Held(bytes.into()), start: 0, n_rows: ranges.len(), ..self.clone() })
    }
}
