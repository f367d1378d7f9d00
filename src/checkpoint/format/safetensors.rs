//! safetensors: the length of a JSON header, the header, and the bytes of the tensors.

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::super::bytes::{ByteFile, Parse, ParseError, invalid, printable};
use super::super::float8::Float8;
use super::super::stored::{Contents, Kind, StoredDType, StoredTensor};
use candle_core::DType;

/// The format's own limit on the header (safetensors 0.8, `MAX_HEADER_SIZE`).
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The header's length stands before it as a little-endian `u64`.
const LENGTH_BYTES: u64 = 8;

/// Reads the header and checks all that it claims against the file's length; reads no data.
pub(in super::super) fn parse(file: &ByteFile) -> Parse<Contents> {
    let n_bytes = file.n_bytes;
    if n_bytes < LENGTH_BYTES {
        return invalid(format!("it has {n_bytes} bytes, fewer than the {LENGTH_BYTES} of the header's length"));
    }
    let header_bytes = u64::from_le_bytes(file.array_at(0)?);
    if header_bytes > MAX_HEADER_BYTES {
        return invalid(format!("its header claims {header_bytes} bytes, more than the limit of {MAX_HEADER_BYTES}"));
    }
    let data_start = LENGTH_BYTES + header_bytes;
    if data_start > n_bytes {
        return invalid(format!("its header claims {header_bytes} bytes, but the file has {n_bytes}"));
    }
    let header = file.bytes_at(LENGTH_BYTES, header_bytes)?;
    // The library checks offsets, shapes and dtypes against each other while it parses.
    let header: Metadata = serde_json::from_slice(&header)
        .map_err(|error| ParseError::Unparsed("its header cannot be parsed", printable(error)))?;
    let data_bytes = header.data_len() as u64;
    if data_bytes != n_bytes - data_start {
        return invalid(format!(
            "its header describes {data_bytes} bytes of data, but {} follow: the file is truncated or damaged",
            n_bytes - data_start
        ));
    }
    let mut contents = Contents {
        metadata: header.metadata().clone().unwrap_or_default().into_iter().collect(),
        ..Contents::default()
    };
    for (name, TensorInfo { dtype, shape, data_offsets }) in header.tensors() {
        let start = data_start + data_offsets.0 as u64;
        contents.add(file.budget(), name, StoredTensor::plain(shape.as_slice(), stored_dtype(*dtype), 0, start))?;
    }
    Ok(contents)
}

fn stored_dtype(dtype: Dtype) -> StoredDType {
    let float = match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F64 => DType::F64,
        other => {
            if let Some(kind) = Float8::named(&other.to_string()) {
                return StoredDType::float8(kind);
            }
            // A dtype of 4 or 6 bits: the fewest elements that take whole bytes.
            let n_bits = other.bitsize();
            let block = (1..=8).find(|block| block * n_bits % 8 == 0).unwrap_or(8);
            let (name, kind) = (other.to_string().into(), Kind::Other);
            return StoredDType { name, kind, block, block_bytes: block * n_bits / 8 };
        }
    };
    StoredDType::float(float)
}
