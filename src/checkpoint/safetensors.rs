//! One safetensors file: its header checked, its tensors read one at a time, in pieces, converted on the way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::{CheckpointError, Result};
use crate::memory::with_capacity;

/// The format's own limit on the header (safetensors 0.8, `MAX_HEADER_SIZE`).
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The header's length stands before it as a little-endian `u64`.
const LENGTH_BYTES: u64 = 8;
/// How much of a tensor is read before it is converted; a multiple of every element's size.
const PIECE_BYTES: usize = 1 << 20;

/// An open file whose header agrees with its length.
#[derive(Debug)]
pub(crate) struct SafetensorsFile {
    pub(super) path: PathBuf,
    pub(crate) tensors: BTreeMap<String, TensorInfo>,
    /// The `__metadata__` of the header.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Locked for as long as a tensor is read, because its position is shared.
    file: Mutex<File>,
    data_start: u64,
}

impl SafetensorsFile {
    /// Opens the file and reads its header; no data is read, and nothing that the header claims is believed unchecked.
    pub(crate) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let io = |source| CheckpointError::Io { path: path.to_path_buf(), source };
        let invalid = |reason: String| CheckpointError::InvalidHeader { path: path.to_path_buf(), reason };
        let mut file = File::open(path).map_err(io)?;
        let n_bytes = file.metadata().map_err(io)?.len();
        if n_bytes < LENGTH_BYTES {
            return Err(invalid(format!(
                "it has {n_bytes} bytes, fewer than the {LENGTH_BYTES} of the header's length"
            )));
        }
        let mut length = [0; LENGTH_BYTES as usize];
        file.read_exact(&mut length).map_err(io)?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > MAX_HEADER_BYTES {
            return Err(invalid(format!(
                "its header claims {header_bytes} bytes, more than the limit of {MAX_HEADER_BYTES}"
            )));
        }
        let data_start = LENGTH_BYTES + header_bytes;
        if data_start > n_bytes {
            return Err(invalid(format!("its header claims {header_bytes} bytes, but the file has {n_bytes}")));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(io)?;
        // Offsets, shapes and types are checked against each other by the library while it parses.
        let header: Metadata = serde_json::from_slice(&header).map_err(|error| invalid(error.to_string()))?;
        let data_bytes = header.data_len() as u64;
        if data_bytes != n_bytes - data_start {
            return Err(invalid(format!(
                "its header describes {data_bytes} bytes of data, but {} follow: the file is truncated or damaged",
                n_bytes - data_start
            )));
        }
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let tensors = header.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Self { path: path.to_path_buf(), tensors, metadata, file: Mutex::new(file), data_start })
    }

    /// What the header says of a tensor: its name must be in the file, its type a floating-point one.
    pub(crate) fn tensor(&self, name: &str) -> Result<TensorAt, CheckpointError> {
        let path = || self.path.clone();
        let Some(info) = self.tensors.get(name) else {
            return Err(CheckpointError::TensorNotInShard { path: path(), name: name.to_string() });
        };
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F64 => DType::F64,
            other => {
                return Err(CheckpointError::TableDType {
                    path: path(),
                    name: name.to_string(),
                    dtype: other.to_string(),
                });
            }
        };
        Ok(TensorAt { shape: info.shape.clone(), dtype, start: self.data_start + info.data_offsets.0 as u64 })
    }

    /// The same of a table, which must be a matrix.
    pub(super) fn table(&self, name: &str) -> Result<TableInfo, CheckpointError> {
        let at = self.tensor(name)?;
        match at.shape.as_slice() {
            &[n_rows, width] if n_rows > 0 && width > 0 => Ok(TableInfo { n_rows, width, at }),
            _ => {
                let (path, name) = (self.path.clone(), name.to_string());
                Err(CheckpointError::TableShape { path, name, shape: at.shape })
            }
        }
    }

    /// Reads a whole tensor as `dtype`: one pass over its bytes, one allocation of the result.
    pub(crate) fn read(&self, at: &TensorAt, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = at.shape.as_slice();
        let tensor = match dtype {
            DType::F32 => Tensor::from_vec(self.read_elements::<f32>(at)?, shape, device),
            DType::F16 => Tensor::from_vec(self.read_elements::<f16>(at)?, shape, device),
            DType::BF16 => Tensor::from_vec(self.read_elements::<bf16>(at)?, shape, device),
            DType::F64 => Tensor::from_vec(self.read_elements::<f64>(at)?, shape, device),
            dtype => return Err(CheckpointError::UnsupportedDType { dtype }.into()),
        };
        Ok(tensor?)
    }

    fn read_elements<T: Element>(&self, at: &TensorAt) -> Result<Vec<T>, CheckpointError> {
        let io = |source| CheckpointError::Io { path: self.path.clone(), source };
        // The shape was checked against the file's length, so neither product can overflow, nor the allocation be more
        // than a small multiple of what is really there.
        let n_elements = at.shape.iter().product::<usize>();
        let mut left = n_elements * at.dtype.size_in_bytes();
        let mut elements = with_capacity(n_elements);
        let mut piece = vec![0; PIECE_BYTES.min(left)];
        let mut file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        file.seek(SeekFrom::Start(at.start)).map_err(io)?;
        while left > 0 {
            let bytes = &mut piece[..PIECE_BYTES.min(left)];
            file.read_exact(bytes).map_err(io)?;
            T::extend(&mut elements, bytes, at.dtype);
            left -= bytes.len();
        }
        Ok(elements)
    }
}

/// Where a tensor lies in its file, and as what.
#[derive(Clone, Debug)]
pub(crate) struct TensorAt {
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: DType,
    start: u64,
}

/// A tensor that is a table.
#[derive(Clone, Debug)]
pub(super) struct TableInfo {
    pub(super) n_rows: usize,
    pub(super) width: usize,
    pub(super) at: TensorAt,
}

/// A type that tensors are loaded as. Conversions are PyTorch's: through f32, one rounding to nearest even each step.
trait Element: Copy {
    const DTYPE: DType;
    fn from_f32(value: f32) -> Self;
    fn from_le(bytes: &[u8]) -> Self;

    /// Appends the little-endian elements of type `stored` in `bytes`.
    fn extend(elements: &mut Vec<Self>, bytes: &[u8], stored: DType) {
        let of = |size: usize| bytes.chunks_exact(size);
        match stored {
            // The same type keeps every bit, those of a NaN included.
            same if same == Self::DTYPE => elements.extend(of(same.size_in_bytes()).map(Self::from_le)),
            DType::F32 => elements.extend(of(4).map(|b| Self::from_f32(f32::from_le(b)))),
            DType::F16 => elements.extend(of(2).map(|b| Self::from_f32(f16::from_le(b).to_f32()))),
            DType::BF16 => elements.extend(of(2).map(|b| Self::from_f32(bf16::from_le(b).to_f32()))),
            _ => elements.extend(of(8).map(|b| Self::from_f32(f64::from_le(b) as f32))),
        }
    }
}

/// `$from_le` is called with slices of exactly the type's size, by `chunks_exact`.
macro_rules! element {
    ($type:ty, $dtype:expr, $from_f32:expr) => {
        impl Element for $type {
            const DTYPE: DType = $dtype;
            fn from_f32(value: f32) -> Self {
                $from_f32(value)
            }
            fn from_le(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$type>()];
                array.copy_from_slice(bytes);
                <$type>::from_le_bytes(array)
            }
        }
    };
}
element!(f32, DType::F32, |value| value);
element!(f64, DType::F64, f64::from);
element!(f16, DType::F16, f16::from_f32);
element!(bf16, DType::BF16, bf16::from_f32);
