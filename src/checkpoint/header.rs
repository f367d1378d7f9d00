//! Makes the header of a safetensors file, and reads it once before anything is written.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Serialize;

use super::bytes::ByteFile;
use super::format::safetensors::{METADATA, parse};
use super::names::CONFIG_METADATA;
use crate::config::ConfigFile;
use crate::error::CheckpointError;
use crate::rows::ByteRanges;

/// Returns the front of a safetensors file: the length of the header, and the header.
///
/// The same input gives the same bytes. What the reader would refuse is an error.
pub(super) fn header_of(
    path: &Path,
    infos: &[(String, TensorInfo)],
    metadata: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<u8>, CheckpointError> {
    let mut names = BTreeSet::new();
    for (name, _) in infos {
        let reason = match name.as_str() {
            METADATA => "the format keeps that name for itself",
            name if name.contains(char::is_control) => "it has control characters",
            name if !names.insert(name) => "another tensor has that name",
            _ => continue,
        };
        return Err(CheckpointError::InvalidName { path: path.to_path_buf(), name: name.clone(), reason });
    }
    let mut all_metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    all_metadata.extend(metadata);
    if let Some(config) = all_metadata.get(CONFIG_METADATA) {
        ConfigFile::parse(config).map_err(CheckpointError::config_in(path))?;
    }
    let front = front_of(infos, &all_metadata).map_err(|error| CheckpointError::writing(path)(error.into()))?;
    let n_data = infos.last().map_or(0, |(_, info)| info.data_offsets.1 as u64);
    let front = Front { bytes: front.into(), n_data };
    let file = ByteFile::elsewhere(Arc::new(front.clone()));
    match parse(&file).and_then(|contents| contents.check(&[file])) {
        Ok(()) => Ok(Arc::unwrap_or_clone(front.bytes)),
        Err(error) => {
            let reason = match error.into_reason() {
                (what, Some(source)) => format!("{what}: {source}"),
                (what, None) => what,
            };
            Err(CheckpointError::CannotReadBack { path: path.to_path_buf(), reason })
        }
    }
}

fn front_of(infos: &[(String, TensorInfo)], metadata: &BTreeMap<String, String>) -> serde_json::Result<Vec<u8>> {
    let tensors = infos.iter().map(|(name, info)| entry(name, info));
    let entries = std::iter::once(entry(METADATA, metadata)).chain(tensors);
    let mut header = format!("{{{}}}", entries.collect::<serde_json::Result<Vec<_>>>()?.join(",")).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' '); // the format requires aligned data
    let mut front = (header.len() as u64).to_le_bytes().to_vec();
    front.append(&mut header);
    Ok(front)
}

fn entry(name: &str, value: &impl Serialize) -> serde_json::Result<String> {
    Ok(format!("{}:{}", serde_json::to_string(name)?, serde_json::to_string(value)?))
}

/// The front of a file whose data are still to be written.
#[derive(Clone, Debug)]
struct Front {
    bytes: Arc<Vec<u8>>,
    n_data: u64,
}

impl ByteRanges for Front {
    fn name(&self) -> String {
        "the header".to_string()
    }

    fn n_bytes(&self) -> u64 {
        (self.bytes.len() as u64).saturating_add(self.n_data)
    }

    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
        let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
        let read = |range: &Range<u64>| {
            let mut bytes: Vec<u8> = self.bytes.iter().copied().take(at(range.end)).skip(at(range.start)).collect();
            bytes.resize(at(range.end - range.start), 0); // a page may reach into the data
            bytes
        };
        Ok(ranges.iter().map(read).collect())
    }
}

pub(super) fn stored_as(dtype: DType) -> Result<Dtype, CheckpointError> {
    match dtype {
        DType::F32 => Ok(Dtype::F32),
        DType::F16 => Ok(Dtype::F16),
        DType::BF16 => Ok(Dtype::BF16),
        DType::F64 => Ok(Dtype::F64),
        DType::U8 => Ok(Dtype::U8),
        DType::U32 => Ok(Dtype::U32),
        DType::I64 => Ok(Dtype::I64),
        dtype => Err(CheckpointError::UnsupportedDType { dtype }),
    }
}
