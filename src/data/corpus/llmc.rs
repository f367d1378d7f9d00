//! llm.c's shards: 256 integers of 32 bits, then the ids.
//!
//! `dev/data/data_common.py` of <https://github.com/karpathy/llm.c> writes them.

use std::path::Path;

use super::IdBits;
use super::format::{LLMC_NARROW, LLMC_WIDE};
use crate::error::CorpusError;

pub(super) const HEADER_BYTES: usize = 1024;

/// Returns the width and the number of ids of a shard.
pub(super) fn parse(path: &Path, file: &[u8]) -> Result<(IdBits, usize), CorpusError> {
    let n_bytes = file.len() as u64;
    let header = file.get(..HEADER_BYTES).unwrap_or_default().as_chunks().0;
    let path = path.to_path_buf();
    let [magic, version, n_stated, ..] = header else {
        return Err(CorpusError::Length { path, n_stated: 0, n_needed: HEADER_BYTES as i128, n_bytes });
    };
    let (bits, expected) = match u32::from_le_bytes(*magic) {
        LLMC_WIDE => (IdBits::ThirtyTwo, 7),
        _ => (IdBits::Sixteen, 1),
    };
    let version = i32::from_le_bytes(*version);
    if i64::from(version) != expected as i64 {
        return Err(CorpusError::Version { path, format: "llm.c's ids", version: version.into(), expected });
    }
    let n_stated = i32::from_le_bytes(*n_stated);
    let n_needed = HEADER_BYTES as i128 + i128::from(n_stated) * bits.n_bytes() as i128;
    match usize::try_from(n_stated) {
        Ok(n_ids) if n_needed == i128::from(n_bytes) => Ok((bits, n_ids)),
        _ => Err(CorpusError::Length { path, n_stated: n_stated.into(), n_needed, n_bytes }),
    }
}

/// Returns the header of a shard.
pub(super) fn header(bits: IdBits, n_ids: u32) -> Vec<u8> {
    let start = match bits {
        IdBits::Sixteen => [LLMC_NARROW, 1, n_ids],
        IdBits::ThirtyTwo => [LLMC_WIDE, 7, n_ids],
    };
    let mut header: Vec<u8> = start.iter().flat_map(|number| number.to_le_bytes()).collect();
    header.resize(HEADER_BYTES, 0);
    header
}
