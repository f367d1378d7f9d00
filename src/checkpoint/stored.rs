//! The contents of a file of weights, as the parsers of all formats return them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::DType;
use candle_core::quantized::GgmlDType;

use super::budget::{Budget, MAX_DIMS, MAX_TEXT_BYTES};
use super::bytes::{ByteFile, Parse, invalid};
use super::float8::Float8;
use super::report::PickleReport;
use crate::error::Shown;

/// The tensors and metadata of a file. [`check`](Self::check) compares them with the lengths of the files.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) tensors: BTreeMap<String, StoredTensor>,
    /// The tensors that are not read, and why.
    pub(super) unreadable: BTreeMap<String, String>,
    /// Other texts of the header; the configuration has the key [`CONFIG_METADATA`](super::names::CONFIG_METADATA).
    pub(super) metadata: BTreeMap<String, String>,
    /// What else a pickle holds.
    pub(super) pickle: Option<PickleReport>,
}

impl Contents {
    /// Adds a tensor, whose name must be new. Its memory is taken from the budget.
    pub(super) fn add(&mut self, budget: &Budget, name: String, tensor: StoredTensor) -> Parse<()> {
        self.must_be_new(&name)?;
        if tensor.shape.len() > MAX_DIMS {
            return invalid(format!("`{name}` has {} dimensions, more than {MAX_DIMS}", tensor.shape.len()));
        }
        budget.take_node::<(String, StoredTensor)>()?;
        budget.take_text(name.len())?;
        budget.take_text(size_of_val(&*tensor.shape) + tensor.strides.as_deref().map_or(0, size_of_val))?;
        self.tensors.insert(name, tensor);
        Ok(())
    }

    /// Adds a tensor that is not read, whose name must be new. Its memory is taken from the budget.
    pub(super) fn leave(&mut self, budget: &Budget, name: String, reason: String) -> Parse<()> {
        self.must_be_new(&name)?;
        budget.take_node::<(String, String)>()?;
        budget.take_text(name.len())?;
        budget.take_text(reason.len())?;
        self.unreadable.insert(name, reason);
        Ok(())
    }

    fn must_be_new(&self, name: &str) -> Parse<()> {
        if self.tensors.contains_key(name) || self.unreadable.contains_key(name) {
            return invalid(format!("it holds `{name}` twice"));
        }
        match name.len() as u64 > MAX_TEXT_BYTES {
            true => invalid(format!("a tensor's name has {} bytes, more than {MAX_TEXT_BYTES}", name.len())),
            false => Ok(()),
        }
    }

    /// Adds a text of the header. Its memory is taken from the budget.
    pub(super) fn note(&mut self, budget: &Budget, key: &str, value: String) -> Parse<()> {
        budget.take_node::<(String, String)>()?;
        budget.take_text(key.len().saturating_add(value.len()))?;
        self.metadata.insert(key.to_string(), value);
        Ok(())
    }

    /// Refuses a tensor whose name has control characters, whose size is impossible, or whose bytes exceed its file.
    pub(super) fn check(&self, files: &[ByteFile]) -> Parse<()> {
        for name in self.tensors.keys().chain(self.unreadable.keys()) {
            if name.contains(char::is_control) {
                return invalid(format!("a tensor's name has control characters: `{}`", Shown::name(name)));
            }
        }
        for (name, tensor) in &self.tensors {
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

/// A tensor in a file: its shape, its dtype, and where its bytes are.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor {
    pub(crate) shape: Arc<[usize]>,
    pub(crate) dtype: StoredDType,
    pub(super) place: Place,
    /// In elements; `None` for row-major order.
    pub(super) strides: Option<Arc<[usize]>>,
    pub(super) big_endian: bool,
}

/// Where the bytes of a tensor begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Uncompressed, in one of the files.
    Plain { file: usize, start: u64 },
    /// In a deflated stream of `n_compressed` bytes, after the first `skip` bytes that it inflates to.
    Deflated { start: u64, n_compressed: u64, skip: u64 },
}

/// A dtype in a file: `block` elements take `block_bytes`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredDType {
    /// For messages and lists: safetensors' name, or GGUF's for a quantized dtype.
    pub(crate) name: Cow<'static, str>,
    pub(crate) kind: Kind,
    pub(super) block: usize,
    pub(super) block_bytes: usize,
}

/// What this crate can do with a dtype.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// f32, f16, bf16 or f64.
    Float(DType),
    /// 8-bit floats, which are converted to f32.
    Float8(Float8),
    /// Quantized blocks, which are dequantized to f32.
    Blocks(GgmlDType),
    /// Listed only.
    Other,
}

impl StoredDType {
    pub(super) fn float(dtype: DType) -> Self {
        let name = match dtype {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            _ => "F64",
        };
        Self { name: name.into(), kind: Kind::Float(dtype), block: 1, block_bytes: dtype.size_in_bytes() }
    }

    pub(super) fn float8(kind: Float8) -> Self {
        Self { name: kind.name().into(), kind: Kind::Float8(kind), block: 1, block_bytes: 1 }
    }

    /// Returns the dtype that loses nothing: its own, or f32 for quantized blocks and 8-bit floats.
    pub(crate) fn loaded_as(&self) -> DType {
        if let Kind::Float(dtype) = self.kind { dtype } else { DType::F32 }
    }

    pub(super) fn other(name: impl Into<Cow<'static, str>>, n_bytes: usize) -> Self {
        Self { name: name.into(), kind: Kind::Other, block: 1, block_bytes: n_bytes }
    }
}

impl StoredTensor {
    /// Describes a tensor in little-endian, row-major order.
    pub(super) fn plain(shape: impl Into<Arc<[usize]>>, dtype: StoredDType, file: usize, start: u64) -> Self {
        Self { shape: shape.into(), dtype, place: Place::Plain { file, start }, strides: None, big_endian: false }
    }

    /// Returns the number of elements. [`Contents::check`] makes sure that it does not overflow.
    pub(super) fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the bytes of its elements, without gaps.
    pub(crate) fn n_bytes(&self) -> usize {
        self.n_elements() / self.dtype.block * self.dtype.block_bytes
    }

    /// Returns the bytes from its first element to the end of its last, gaps included; `None` for an impossible size.
    pub(super) fn extent(&self) -> Option<u64> {
        let n_elements = self.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim))?;
        // A quantized block never extends from one row into the next.
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
        for (&dim, &stride) in self.shape.iter().zip(&**strides) {
            span = span.checked_add((dim - 1).checked_mul(stride)?)?;
        }
        // A view that repeats elements could be larger than its file.
        (n_elements <= span).then_some(u64::try_from(span.checked_mul(self.dtype.block_bytes)?).ok()?)
    }

    /// Drops leading dimensions of 1 down to a matrix, as of minGPT's `pos_emb` `[1, P, C]`.
    pub(super) fn flatten(&mut self) {
        let n_more = self.shape.len().saturating_sub(2);
        let n_dropped = self.shape.iter().take(n_more).take_while(|&&dim| dim == 1).count();
        if n_dropped > 0 {
            self.shape = self.shape.iter().copied().skip(n_dropped).collect();
            self.strides = self.strides.as_ref().map(|strides| strides.iter().copied().skip(n_dropped).collect());
        }
    }

    /// Returns the strides of row-major order.
    pub(super) fn row_major(shape: &[usize]) -> Option<Vec<usize>> {
        let mut strides = vec![1usize; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].checked_mul(shape[i])?;
        }
        Some(strides)
    }
}
