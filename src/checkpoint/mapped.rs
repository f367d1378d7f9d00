//! Keeps a table in its stored form: mapped from its file, held in memory as blocks, or left at a remote source.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use memmap2::Mmap;

use super::bytes::ByteFile;
use super::locate::LocatedTable;
use super::stored::{Kind, Place, StoredTensor};
use super::weights::WeightsFile;
use crate::error::CheckpointError;
use crate::files;
use crate::memory;
use crate::rows::{RowBytes, RowType, StoredRows};

pub(super) fn hold(table: &LocatedTable) -> Result<StoredRows, CheckpointError> {
    let (at, file) = (&table.info.at, table.file.get());
    let path = file.file_of(at);
    let Kind::Blocks(blocks) = at.dtype.kind else {
        return Err(CheckpointError::NotQuantized { path, name: table.name.clone(), dtype: at.dtype.name.to_string() });
    };
    let bytes = read_blocks(file, at)?;
    let (n_rows, width) = (table.info.n_rows, table.info.width);
    Ok(StoredRows { bytes: RowBytes::Held(bytes.into()), start: 0, n_rows, width, stored: RowType::Blocks(blocks) })
}

/// Reads the bytes of a tensor as they are stored.
pub(super) fn read_blocks(file: &WeightsFile, at: &StoredTensor) -> Result<Vec<u8>, CheckpointError> {
    let path = file.file_of(at);
    // A remote length is only a claim: no memory is reserved for it.
    let is_here = file.bytes_of(at).is_some_and(|file| file.source().is_none());
    let no_memory = CheckpointError::reading(&path);
    let mut bytes = if is_here { memory::try_with_capacity(at.n_bytes()).map_err(no_memory)? } else { Vec::new() };
    file.copy(at, &mut bytes, &path)?;
    Ok(bytes)
}

pub(super) fn map(table: &LocatedTable, maps: &mut HashMap<PathBuf, Arc<Mmap>>) -> Result<StoredRows, CheckpointError> {
    let at = &table.info.at;
    let file = table.file.get().file_of(at);
    let refused = |reason| CheckpointError::NotMappable { path: file.clone(), name: table.name.clone(), reason };
    let Place::Plain { start, .. } = at.place else { return Err(refused("compressed")) };
    let stored = match at.dtype.kind {
        Kind::Float(dtype) => RowType::Numbers(dtype),
        Kind::Blocks(blocks) => RowType::Blocks(blocks),
        Kind::Float8(_) => return Err(refused("of an 8-bit floating-point dtype")),
        Kind::Other => return Err(refused("not of a floating-point dtype")),
    };
    if at.big_endian {
        return Err(refused("big-endian"));
    }
    if at.strides.is_some() {
        return Err(refused("not stored row after row"));
    }
    let (n_rows, width) = (table.info.n_rows, table.info.width);
    let start = usize::try_from(start).map_err(|_| refused("beyond the address space of this machine"))?;
    if let Some(source) = table.file.get().bytes_of(at).and_then(ByteFile::source) {
        return Ok(StoredRows { bytes: RowBytes::Elsewhere(source.clone()), start, n_rows, width, stored });
    }
    let io = CheckpointError::reading(&file);
    let map = match maps.get(&file) {
        Some(map) => map.clone(),
        None => {
            let opened = std::fs::File::open(&file).map_err(io)?;
            // The caller who asks for a mapped table promises that the file stays as it is (`GptInputLayer::open`
            // documents that).
            let map = Arc::new(files::map(&opened).map_err(io)?);
            maps.insert(file.clone(), map.clone());
            map
        }
    };
    // The file may have been replaced since its header was read.
    if map.len().checked_sub(start).is_none_or(|n| n < at.n_bytes()) {
        return Err(refused("truncated since its header was read"));
    }
    Ok(StoredRows { bytes: RowBytes::Mapped(map), start, n_rows, width, stored })
}
