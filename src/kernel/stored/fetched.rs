//! A table whose bytes are elsewhere: the rows of a call are fetched first, and are then a table in memory like any other.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::{CheckpointError, Result};
use crate::kernel::core::rows::row_of;
use crate::rows::{ByteRanges, RowBytes, StoredRows, read_all};

impl StoredRows {
    /// The table and the ids as they are; where its bytes are elsewhere, a table of the rows of `ids` alone, each once, and
    /// the ids in it.
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

    /// The same for rows `start..start + t`, which are first, second, … of the table that is returned from the row on that is
    /// returned.
    pub(super) fn with_counted(&self, start: usize, t: usize) -> Result<(Cow<'_, Self>, usize)> {
        match &self.bytes {
            RowBytes::Elsewhere(source) => Ok((Cow::Owned(self.fetch(source, start..start + t)?), 0)),
            _ => Ok((Cow::Borrowed(self), start)),
        }
    }

    /// A range a row, so that whoever keeps what was fetched finds a row again whatever its neighbours were.
    fn fetch(&self, source: &Arc<dyn ByteRanges>, rows: impl Iterator<Item = usize>) -> Result<Self> {
        let ranges: Vec<_> = rows.map(|row| self.range(row)).map(|row| row.start as u64..row.end as u64).collect();
        let bytes = read_all(&**source, &ranges).map_err(CheckpointError::reading(Path::new(&source.name())))?;
        Ok(Self { bytes: RowBytes::Held(bytes.into()), start: 0, n_rows: ranges.len(), ..self.clone() })
    }
}
