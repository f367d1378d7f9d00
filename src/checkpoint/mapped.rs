//! The two tables left where they are: a memory map of their file, or who fetches their bytes, and where they lie.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;

use super::bytes::ByteFile;
use super::locate::LocatedTable;
use super::stored::{Kind, Place};
use super::{Checkpoint, LoadReport};
use crate::config::GptInputConfig;
use crate::error::{CheckpointError, Result};
use crate::ranges::RowBytes;

/// A table `[n_rows, width]` of little-endian numbers that begins at byte `start`.
pub(crate) struct MappedRows {
    pub(crate) bytes: RowBytes,
    pub(crate) start: usize,
    pub(crate) n_rows: usize,
    pub(crate) width: usize,
    pub(crate) stored: DType,
}

/// The two tables of an input layer, not read.
pub(crate) struct MappedTables {
    pub(crate) wte: MappedRows,
    pub(crate) wpe: Option<MappedRows>,
    /// The tables of other positions, which are small: in memory.
    pub(crate) position_tables: Vec<Tensor>,
    pub(crate) config: GptInputConfig,
    pub(crate) report: LoadReport,
}

impl Checkpoint {
    /// Maps the files of the two input tables, those that are files; no row is read.
    pub(crate) fn map_tables(&self, dtype: DType, device: &Device) -> Result<MappedTables> {
        if !matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
            return Err(CheckpointError::UnsupportedDType { dtype }.into());
        }
        let located = self.locate()?;
        let mut maps = HashMap::new();
        let wte = map(&located.wte, &mut maps)?;
        let wpe = located.wpe.as_ref().map(|wpe| map(wpe, &mut maps)).transpose()?;
        let position_tables = match wpe {
            Some(_) => Vec::new(),
            None => self.position_tables(&located, dtype, device)?,
        };
        let report = self.report(&located, dtype);
        Ok(MappedTables { wte, wpe, position_tables, config: located.config, report })
    }
}

fn map(table: &LocatedTable, maps: &mut HashMap<PathBuf, Arc<Mmap>>) -> Result<MappedRows, CheckpointError> {
    let at = &table.info.at;
    let file = table.file.get().file_of(at);
    let refused = |reason| CheckpointError::NotMappable { path: file.clone(), name: table.name.clone(), reason };
    let (Place::Plain { start, .. }, Kind::Float(stored)) = (at.place, at.dtype.kind) else {
        return Err(refused(if at.dtype.kind == Kind::Other {
            "no floating-point type"
        } else {
            "compressed or quantized"
        }));
    };
    if at.big_endian {
        return Err(refused("big-endian"));
    }
    if at.strides.is_some() {
        return Err(refused("stored column after column, or with gaps"));
    }
    let (n_rows, width) = (table.info.n_rows, table.info.width);
    let no_longer_there = || refused("no longer all there");
    let start = usize::try_from(start).map_err(|_| no_longer_there())?;
    if let Some(source) = table.file.get().bytes_of(at).and_then(ByteFile::source) {
        return Ok(MappedRows { bytes: RowBytes::Elsewhere(source.clone()), start, n_rows, width, stored });
    }
    let io = |source| CheckpointError::Io { path: file.clone(), source };
    let map = match maps.get(&file) {
        Some(map) => map.clone(),
        None => {
            let opened = std::fs::File::open(&file).map_err(io)?;
            // SAFETY: the map is only read, as bytes. That nobody changes or cuts off the file while it is mapped is the
            // promise of whoever asks for a mapped table (`GptInputLayer::from_pretrained_mapped` says so): no system
            // lets a process see to that by itself.
            let map = Arc::new(unsafe { Mmap::map(&opened) }.map_err(io)?);
            maps.insert(file.clone(), map.clone());
            map
        }
    };
    // The file may have been replaced since its header was read.
    if map.len().checked_sub(start).is_none_or(|n| n < at.n_bytes()) {
        return Err(no_longer_there());
    }
    Ok(MappedRows { bytes: RowBytes::Mapped(map), start, n_rows, width, stored })
}
