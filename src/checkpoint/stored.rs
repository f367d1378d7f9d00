//! What a file of weights holds, whatever its format: the table of contents that every parser produces.

use std::collections::BTreeMap;

use candle_core::DType;
use candle_core::quantized::GgmlDType;

use super::bytes::{ByteFile, Parse, invalid};

/// The tensors of a file, each checked against the length of the file that holds its bytes.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) tensors: BTreeMap<String, StoredTensor>,
    /// What else the file says of itself; its configuration under [`CONFIG_METADATA`](super::names::CONFIG_METADATA).
    pub(super) metadata: BTreeMap<String, String>,
}

impl Contents {
    /// Adds a tensor, whose name must be new.
    pub(super) fn add(&mut self, name: String, tensor: StoredTensor) -> Parse<()> {
        match self.tensors.contains_key(&name) {
            true => invalid(format!("it holds `{name}` twice")),
            false => {
                self.tensors.insert(name, tensor);
                Ok(())
            }
        }
    }

    /// Refuses a tensor whose name cannot be printed, whose size cannot be, or whose bytes are not all in their file.
    pub(super) fn check(&self, files: &[ByteFile]) -> Parse<()> {
        for (name, tensor) in &self.tensors {
            if name.contains(char::is_control) {
                return invalid(format!("a tensor's name has control characters: `{name}`"));
            }
            let Some(extent) = tensor.extent() else {
                let StoredTensor { shape, dtype, .. } = tensor;
                return invalid(format!("`{name}` cannot have shape {shape:?} of {}", dtype.name));
            };
            let (n_bytes, Place::Plain { file, start }) = (extent, tensor.place) else { continue };
            let n_in_file = files.get(file).map_or(0, |file| file.n_bytes);
            if start.checked_add(n_bytes).is_none_or(|end| end > n_in_file) {
                return invalid(format!(
                    "`{name}` has {n_bytes} bytes at {start}, but its file ends at {n_in_file}: truncated or damaged"
                ));
            }
        }
        Ok(())
    }
}

/// One tensor: what it is, and where its bytes are.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: StoredDType,
    pub(super) place: Place,
    /// In elements; `None` is row after row.
    pub(super) strides: Option<Vec<usize>>,
    pub(super) big_endian: bool,
}

/// Where the bytes of a tensor begin.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// As they are, in one of the files.
    Plain { file: usize, start: u64 },
    /// In a deflated stream of `n_compressed` bytes, behind its first `skip` bytes.
    Deflated { start: u64, n_compressed: u64, skip: u64 },
}

/// A type of number as a file has it: `block` elements take `block_bytes`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredDType {
    /// For messages and lists: safetensors' name, or GGUF's of a quantized type.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(super) block: usize,
    pub(super) block_bytes: usize,
}

/// What can be done with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// f32, f16, bf16 or f64.
    Float(DType),
    /// Quantized blocks, which are dequantized to f32.
    Blocks(GgmlDType),
    /// Listed, and nothing else.
    Other,
}

impl StoredDType {
    pub(super) fn float(dtype: DType) -> Self {
        let name = format!("{dtype:?}");
        Self { name, kind: Kind::Float(dtype), block: 1, block_bytes: dtype.size_in_bytes() }
    }

    /// The type that loses nothing: its own, or f32 for quantized blocks.
    pub(crate) fn loaded_as(&self) -> DType {
        if let Kind::Float(dtype) = self.kind { dtype } else { DType::F32 }
    }

    pub(super) fn other(name: &str, n_bytes: usize) -> Self {
        Self { name: name.to_string(), kind: Kind::Other, block: 1, block_bytes: n_bytes }
    }
}

impl StoredTensor {
    /// Little-endian, row after row.
    pub(super) fn plain(shape: Vec<usize>, dtype: StoredDType, file: usize, start: u64) -> Self {
        Self { shape, dtype, place: Place::Plain { file, start }, strides: None, big_endian: false }
    }

    /// How many elements; known not to overflow once [`Contents::check`] has seen it.
    pub(super) fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of its elements, without gaps.
    pub(crate) fn n_bytes(&self) -> usize {
        self.n_elements() / self.dtype.block * self.dtype.block_bytes
    }

    /// Bytes from its first element to its last, gaps included; `None` if it cannot be.
    pub(super) fn extent(&self) -> Option<u64> {
        let n_elements = self.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim))?;
        // A quantized block never reaches from one row into the next.
        let in_rows = matches!(self.dtype.kind, Kind::Blocks(_));
        let whole_rows = !in_rows || self.shape.last().is_none_or(|&width| width % self.dtype.block == 0);
        let n_bytes = (n_elements / self.dtype.block).checked_mul(self.dtype.block_bytes)?;
        if !(whole_rows && n_elements % self.dtype.block == 0) || isize::try_from(n_elements.max(n_bytes)).is_err() {
            return None;
        }
        let Some(strides) = &self.strides else { return Some(n_bytes as u64) };
        if strides.len() != self.shape.len() || n_elements == 0 {
            return (n_elements == 0 && strides.len() == self.shape.len()).then_some(0);
        }
        let mut span = 1usize;
        for (&dim, &stride) in self.shape.iter().zip(strides) {
            span = span.checked_add((dim - 1).checked_mul(stride)?)?;
        }
        // A view that repeats elements would be larger than the file that holds it.
        (n_elements <= span).then_some(u64::try_from(span.checked_mul(self.dtype.block_bytes)?).ok()?)
    }

    /// The strides of elements that lie row after row.
    pub(super) fn row_major(shape: &[usize]) -> Option<Vec<usize>> {
        let mut strides = vec![1usize; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].checked_mul(shape[i])?;
        }
        Some(strides)
    }
}
