//! OpenAI's original checkpoints: TensorFlow's "tensor bundle", an index of names and files of bytes.
//!
//! `tensorflow/core/protobuf/tensor_bundle.proto`, `tensor_bundle.cc`: the index is an [`sstable`](super::sstable)
//! whose values are protocol buffers. The first, under the empty key, describes the bundle.

use std::path::{Path, PathBuf};

use candle_core::DType;

use super::super::budget::MAX_DIMS;
use super::super::bytes::{ByteFile, Parse, ParseError, invalid};
use super::super::stored::{Contents, Kind, StoredDType, StoredTensor};
use super::sstable::{self, Varints};

const INDEX_SUFFIX: &str = ".index";
const MAX_SHARDS: u64 = 1 << 10;

/// Reads the index, and names the files beside it that hold the tensors. They are numbered from 1; file 0 is the index.
pub(in super::super) fn parse(index: &ByteFile) -> Parse<(Contents, Vec<PathBuf>)> {
    let mut contents = Contents::default();
    let (mut bundle, mut is_headless) = (None, false);
    sstable::read(index, |key, value| {
        if key.is_empty() {
            bundle = Some(Bundle::read(value)?);
            return Ok(());
        }
        let Some(bundle) = &bundle else {
            // Reported below: that keys are not in order says more.
            is_headless = true;
            return Ok(());
        };
        let Ok(name) = std::str::from_utf8(key) else { return invalid("a tensor whose name is not UTF-8") };
        let at_name = |error| match error {
            ParseError::Invalid(reason) => ParseError::Invalid(format!("`{name}`: {reason}")),
            other => other,
        };
        let Some(tensor) = entry(value, bundle).map_err(at_name)? else { return Ok(()) };
        contents.add(index.budget(), name.to_string(), tensor)
    })?;
    match bundle {
        _ if is_headless => invalid("its first entry does not describe the bundle"),
        Some(bundle) => Ok((contents, data_files(&index.path, bundle.n_shards))),
        None => invalid("it is empty"),
    }
}

/// Returns the names of the data files: `model.ckpt.data-00000-of-00001` beside `model.ckpt.index`.
fn data_files(index: &Path, n_shards: u64) -> Vec<PathBuf> {
    let name = index.file_name().unwrap_or_default().to_string_lossy();
    let prefix = name.strip_suffix(INDEX_SUFFIX).unwrap_or(&name);
    (0..n_shards).map(|shard| index.with_file_name(format!("{prefix}.data-{shard:05}-of-{n_shards:05}"))).collect()
}

struct Bundle {
    n_shards: u64,
    big_endian: bool,
}

impl Bundle {
    /// Reads a `BundleHeaderProto`: field 1 is the number of shards, 2 the byte order.
    fn read(message: &[u8]) -> Parse<Self> {
        let mut bundle = Self { n_shards: 0, big_endian: false };
        fields(message, |number, field| {
            match (number, field) {
                (1, Field::Number(n)) => bundle.n_shards = n,
                (2, Field::Number(order)) => bundle.big_endian = order == 1,
                _ => {}
            }
            Ok(())
        })?;
        match bundle.n_shards {
            1..=MAX_SHARDS => Ok(bundle),
            n => invalid(format!("it claims {n} data files")),
        }
    }
}

/// Reads a `BundleEntryProto`: 1 dtype, 2 shape, 3 shard, 4 offset, 5 size, 7 slices. `None` if it is not a whole
/// numeric tensor.
fn entry(message: &[u8], bundle: &Bundle) -> Parse<Option<StoredTensor>> {
    let (mut dtype, mut shape, mut shard, mut offset, mut size, mut sliced) = (0, Vec::new(), 0, 0, 0, false);
    fields(message, |number, field| {
        match (number, field) {
            (1, Field::Number(n)) => dtype = n,
            (2, Field::Bytes(message)) => shape = dims(message)?,
            (3, Field::Number(n)) => shard = n,
            (4, Field::Number(n)) => offset = n,
            (5, Field::Number(n)) => size = n,
            (7, _) => sliced = true,
            _ => {}
        }
        Ok(())
    })?;
    let (Some(dtype), false) = (stored_dtype(dtype), sliced) else { return Ok(None) };
    let Some(shard) = usize::try_from(shard).ok().filter(|_| shard < bundle.n_shards) else {
        return invalid(format!("it lies in data file {shard} of {}", bundle.n_shards));
    };
    let mut tensor = StoredTensor::plain(shape, dtype, shard + 1, offset);
    tensor.big_endian = bundle.big_endian && tensor.dtype.kind != Kind::Other;
    match tensor.extent() == Some(size) {
        true => Ok(Some(tensor)),
        false => invalid(format!("{size} bytes cannot hold shape {:?} of {}", tensor.shape, tensor.dtype.name)),
    }
}

/// Reads a `TensorShapeProto`: each field 2 is a dimension, whose field 1 is its size.
fn dims(message: &[u8]) -> Parse<Vec<usize>> {
    let mut dims = Vec::new();
    fields(message, |number, field| {
        let (2, Field::Bytes(message)) = (number, field) else { return Ok(()) };
        let mut dim = 0;
        fields(message, |number, field| {
            if let (1, Field::Number(n)) = (number, field) {
                dim = n;
            }
            Ok(())
        })?;
        match usize::try_from(dim) {
            Ok(dim) if dims.len() < MAX_DIMS => dims.push(dim),
            _ => return invalid(format!("a dimension of {dim}, or more than {MAX_DIMS} of them")),
        }
        Ok(())
    })?;
    Ok(dims)
}

/// Looks up `enum DataType` of `tensorflow/core/framework/types.proto`.
fn stored_dtype(number: u64) -> Option<StoredDType> {
    Some(match number {
        1 => StoredDType::float(DType::F32),
        2 => StoredDType::float(DType::F64),
        14 => StoredDType::float(DType::BF16),
        19 => StoredDType::float(DType::F16),
        3 => StoredDType::other("I32", 4),
        4 => StoredDType::other("U8", 1),
        5 => StoredDType::other("I16", 2),
        6 => StoredDType::other("I8", 1),
        9 => StoredDType::other("I64", 8),
        10 => StoredDType::other("BOOL", 1),
        17 => StoredDType::other("U16", 2),
        22 => StoredDType::other("U32", 4),
        23 => StoredDType::other("U64", 8),
        _ => return None,
    })
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Calls `each` with the fields of a protocol buffer and their numbers.
fn fields<'a>(message: &'a [u8], mut each: impl FnMut(u64, Field<'a>) -> Parse<()>) -> Parse<()> {
    let mut left = Varints(message);
    while !left.0.is_empty() {
        let tag = left.next()?;
        let field = match tag & 7 {
            0 => Field::Number(left.next()?),
            1 => Field::Bytes(left.bytes(8)?),
            2 => {
                let n_bytes = left.next()?;
                Field::Bytes(left.bytes(n_bytes)?)
            }
            5 => Field::Bytes(left.bytes(4)?),
            kind => return invalid(format!("a field of the unknown kind {kind}")),
        };
        each(tag >> 3, field)?;
    }
    Ok(())
}
