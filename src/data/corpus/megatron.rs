//! Megatron's indices: where sequences begin in the file of ids, and which sequences make a document.
//!
//! `megatron/core/datasets/indexed_dataset.py` of <https://github.com/NVIDIA/Megatron-LM> writes them.

use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::IdBits;
use super::format::MEGATRON_MAGIC;
use crate::data::index::IndexPart;
use crate::error::CorpusError;

/// The magic, version, dtype code, and two counts.
const HEADER_BYTES: usize = 34;
const VERSION: u64 = 1;
/// The names of Megatron's codes of dtypes, from 1 on.
const DTYPES: [&str; 8] = ["u8", "i8", "i16", "i32", "i64", "f64", "f32", "u16"];
const CODE_I32: u8 = 4;
const CODE_U16: u8 = 8;
/// Megatron writes ids of 16 bits for vocabularies below this.
pub(super) const NARROW_BELOW: usize = 65_500;

/// Checks an index against the length of its file of ids.
pub(super) fn parse(path: &Path, map: Arc<Mmap>, bin: (&Path, u64)) -> Result<(IdBits, IndexPart), CorpusError> {
    let damaged = |reason: String| CorpusError::Index { path: path.to_path_buf(), reason };
    let file: &[u8] = &map;
    let Some(header) = file.first_chunk::<HEADER_BYTES>() else {
        return Err(damaged(format!("{} bytes are less than its header of {HEADER_BYTES}", file.len())));
    };
    if !header.starts_with(MEGATRON_MAGIC) {
        return Err(damaged("it does not begin with MMIDIDX".to_string()));
    }
    let [version, n_sequences, n_entries] = [9, 18, 26].map(|at| integer(header, at));
    if version != VERSION {
        let path = path.to_path_buf();
        return Err(match version.swap_bytes() == VERSION {
            true => CorpusError::BigEndian { path, format: "a Megatron index" },
            false => {
                CorpusError::Version { path, format: "a Megatron index", version: version.into(), expected: VERSION }
            }
        });
    }
    let code = header[17];
    let bits = match code {
        CODE_I32 => IdBits::ThirtyTwo,
        CODE_U16 => IdBits::Sixteen,
        _ => {
            let name = usize::from(code).checked_sub(1).and_then(|nth| DTYPES.get(nth)).copied();
            return Err(CorpusError::DType {
                path: path.to_path_buf(),
                code,
                name: name.unwrap_or("of no known type"),
            });
        }
    };
    // Lengths of 4 bytes, offsets of 8, one document index more than documents, perhaps modes of 1 byte.
    let wide = u128::from;
    let plain = HEADER_BYTES as u128 + 12 * wide(n_sequences) + 8 * wide(n_entries);
    if plain + wide(n_sequences) == file.len() as u128 && n_sequences > 0 {
        return Err(damaged("its sequences have modes: a multimodal corpus is not supported".to_string()));
    }
    if plain != file.len() as u128 {
        let text = format!(
            "{n_sequences} sequences and {n_entries} borders of documents need {plain} bytes, but it has {}",
            file.len()
        );
        return Err(damaged(text));
    }
    // They fit, for the file has more bytes.
    let (n_sequences, n_entries) = (n_sequences as usize, n_entries as usize);
    let (lengths, rest) = file[HEADER_BYTES..].split_at(4 * n_sequences);
    let (offsets, documents) = rest.split_at(8 * n_sequences);
    let n_bytes = check_sequences(lengths, offsets, bits).map_err(damaged)?;
    check_documents(documents, n_sequences).map_err(damaged)?;
    let n_stated = n_bytes / bits.n_bytes() as i128;
    if n_bytes != i128::from(bin.1) {
        return Err(CorpusError::Length { path: bin.0.to_path_buf(), n_stated, n_needed: n_bytes, n_bytes: bin.1 });
    }
    let n_ids = usize::try_from(n_stated).map_err(|_| CorpusError::TooLarge { path: path.to_path_buf() })?;
    let offsets_at = HEADER_BYTES + 4 * n_sequences;
    let documents_at = offsets_at + 8 * n_sequences;
    let (n_documents, id_bytes) = (n_entries - 1, bits.n_bytes());
    Ok((bits, IndexPart { map, offsets_at, documents_at, n_sequences, n_documents, id_bytes, n_ids }))
}

fn integer(header: &[u8; HEADER_BYTES], at: usize) -> u64 {
    header[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Checks that each sequence begins where the one before ends. Returns the bytes of all of them.
fn check_sequences(lengths: &[u8], offsets: &[u8], bits: IdBits) -> Result<i128, String> {
    let (lengths, offsets) = (lengths.as_chunks().0, offsets.as_chunks().0);
    let mut end = 0i64;
    for (number, (length, offset)) in lengths.iter().zip(offsets).enumerate() {
        let (length, offset) = (i32::from_le_bytes(*length), i64::from_le_bytes(*offset));
        if length < 0 {
            return Err(format!("sequence {number} has {length} ids"));
        }
        if offset != end {
            let is_wrapped = offset == i64::from(end as i32);
            let cause = if is_wrapped { ", an overflow of 32 bits in an old merge of corpora" } else { "" };
            return Err(format!(
                "sequence {number} begins at byte {offset}, not {end}{cause}: merge or write it again"
            ));
        }
        end = i64::from(length)
            .checked_mul(bits.n_bytes() as i64)
            .and_then(|n| n.checked_add(end))
            .ok_or_else(|| format!("sequence {number} ends beyond any file"))?;
    }
    Ok(end.into())
}

/// Checks that documents begin at 0, ascend, and end with the last sequence.
fn check_documents(documents: &[u8], n_sequences: usize) -> Result<(), String> {
    let mut before = None;
    for (number, border) in documents.as_chunks().0.iter().enumerate() {
        let border = i64::from_le_bytes(*border);
        if before.is_none() && border != 0 {
            return Err(format!("its documents begin at sequence {border} instead of 0"));
        }
        if before.is_some_and(|before| before > border) {
            return Err(format!("document {number} begins before the one before it"));
        }
        before = Some(border);
    }
    match before {
        Some(last) if i128::from(last) == n_sequences as i128 => Ok(()),
        Some(last) => Err(format!(
            "its documents end at sequence {last}, but it has {n_sequences}, as after a merge that forgot the documents: \
             merge or write it again"
        )),
        None => Err("it does not say where documents begin".to_string()),
    }
}

/// Returns an index of documents of one sequence each.
pub(super) fn index(bits: IdBits, lengths: &[i32]) -> Vec<u8> {
    let n = lengths.len() as u64;
    let code = if bits == IdBits::Sixteen { CODE_U16 } else { CODE_I32 };
    let mut bytes = MEGATRON_MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.push(code);
    bytes.extend([n, n + 1].iter().flat_map(|count| count.to_le_bytes()));
    bytes.extend(lengths.iter().flat_map(|length| length.to_le_bytes()));
    let mut offset = 0i64;
    for length in lengths {
        bytes.extend(offset.to_le_bytes());
        offset += i64::from(*length) * bits.n_bytes() as i64;
    }
    bytes.extend((0..=n).flat_map(|document| document.to_le_bytes()));
    bytes
}
