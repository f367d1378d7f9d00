//! A file of weights of any format: checks its header, and reads its tensors one at a time.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Shape, Tensor};
use half::{bf16, f16};

use super::budget::Budget;
use super::bytes::{ByteFile, ParseError};
use super::format::{Format, foreign, tensorflow};
use super::read::{self, Element, read_elements};
use super::report::PickleReport;
use super::sharded::ShardIndex;
use super::stored::{Contents, Kind, Place, StoredTensor};
use crate::error::{CheckpointError, Result};

/// How many bytes are copied at a time.
const COPIED_BYTES: usize = 1 << 20;

/// The source of a checkpoint: a file, or an index of shards.
#[derive(Clone, Debug)]
pub(super) enum Weights {
    File(Arc<WeightsFile>),
    Shards(ShardIndex),
}

/// An open file whose header agrees with its length.
#[derive(Debug)]
pub(crate) struct WeightsFile {
    pub(super) format: Format,
    contents: Contents,
    /// The file itself, then the files that a TensorFlow index names.
    pub(super) files: Vec<ByteFile>,
}

/// A tensor that is a table (a matrix).
#[derive(Clone, Debug)]
pub(super) struct TableInfo {
    pub(super) n_rows: usize,
    pub(super) width: usize,
    pub(super) at: StoredTensor,
}

impl WeightsFile {
    /// Opens the file and reads its header. Checks all that the header claims; reads no data.
    pub(crate) fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::open_with(path, None)
    }

    /// Opens the file as [`open`](Self::open) does, with the state dict under this key where it holds several.
    pub(super) fn open_with(path: &Path, state_dict: Option<&str>) -> Result<Self, CheckpointError> {
        Self::parse(ByteFile::open(path)?, state_dict)
    }

    /// Reads the header of a file that is open, or of a remote one.
    pub(super) fn parse(file: ByteFile, state_dict: Option<&str>) -> Result<Self, CheckpointError> {
        let path = file.path.clone();
        let recognised = match Format::of(&file) {
            Ok(format) => format,
            Err(ParseError::Io(source)) => return Err(CheckpointError::reading(&path)(source)),
            Err(_) => None,
        };
        let format = recognised.unwrap_or(Format::Safetensors);
        let invalid = |reason: &str, source| {
            let hint = if recognised.is_none() { " (it is not of any other supported format either)" } else { "" };
            let reason = format!("{reason}{hint}");
            CheckpointError::InvalidFile { path: path.clone(), format: format.name(), reason, source }
        };
        let at_path = |error| match error {
            ParseError::Io(source) => CheckpointError::reading(&path)(source),
            ParseError::Forbidden(what) => CheckpointError::ForbiddenPickle { path: path.clone(), what },
            ParseError::Foreign(format) => CheckpointError::Foreign { path: path.clone(), format },
            other => {
                let (reason, source) = other.into_reason();
                invalid(&reason, source)
            }
        };
        if recognised.is_none()
            && let Some(format) = foreign::of(&file).map_err(at_path)?
        {
            return Err(CheckpointError::Foreign { path, format });
        }
        let mut files = vec![file];
        let contents = match format {
            _ if state_dict.is_some() && !format.has_state_dicts() => {
                return Err(invalid("it holds no state dicts to choose among", None));
            }
            Format::TensorFlow if files[0].source().is_some() => {
                return Err(invalid(
                    "its data lies in other files, which cannot be fetched: download its folder",
                    None,
                ));
            }
            Format::TensorFlow => {
                let (contents, data_files) = tensorflow::parse(&files[0]).map_err(at_path)?;
                for data_file in data_files {
                    files.push(ByteFile::open(&data_file)?);
                }
                contents
            }
            format => format.parse(&files[0], state_dict).map_err(at_path)?,
        };
        contents.check(&files).map_err(at_path)?;
        Ok(Self { format, contents, files })
    }

    /// Joins several files into one, which has the path and metadata of the first.
    pub(super) fn joined(files: Vec<Self>) -> Result<Self, CheckpointError> {
        let mut files = files.into_iter();
        let Some(mut joined) = files.next() else {
            return Err(CheckpointError::NoWeights { path: "(no files)".into(), found: "none".to_string() });
        };
        for mut file in files {
            let n_before = joined.files.len();
            if let Some(name) = file.names().find(|name| joined.holds(name)) {
                return Err(file.invalid(format!("it holds `{name}`, which an earlier file holds too")));
            }
            joined.contents.unreadable.append(&mut file.contents.unreadable);
            for (name, mut tensor) in std::mem::take(&mut file.contents.tensors) {
                match &mut tensor.place {
                    Place::Plain { file, .. } => *file += n_before,
                    Place::Deflated { .. } => {
                        return Err(file.invalid(format!("`{name}` is compressed, which only a single file may be")));
                    }
                }
                joined.contents.tensors.insert(name, tensor);
            }
            joined.files.extend(file.files);
        }
        Ok(joined)
    }

    pub(super) fn path(&self) -> &Path {
        &self.files[0].path
    }

    pub(crate) fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.contents.tensors
    }

    /// Returns the tensors that cannot be read, and why.
    pub(super) fn unreadable(&self) -> &BTreeMap<String, String> {
        &self.contents.unreadable
    }

    /// Returns the names of all tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.contents.tensors.keys().chain(self.contents.unreadable.keys()).map(String::as_str)
    }

    /// Returns whether it has a tensor of this name, be it one that cannot be read.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.contents.tensors.contains_key(name) || self.contents.unreadable.contains_key(name)
    }

    pub(crate) fn metadata(&self) -> &BTreeMap<String, String> {
        &self.contents.metadata
    }

    /// Returns what else a pickle holds.
    pub(super) fn pickle(&self) -> Option<&PickleReport> {
        self.contents.pickle.as_ref()
    }

    /// Returns the budget of the file with the header.
    pub(super) fn budget(&self) -> &Budget {
        self.files[0].budget()
    }

    /// Takes `n_bytes` of a budget: its own, or one that several shards share.
    pub(super) fn pay(&self, budget: &Budget, n_bytes: u64) -> Result<(), CheckpointError> {
        budget.take(n_bytes).map_err(|error| self.invalid(error.into_reason().0))
    }

    /// Returns how many bytes are really there.
    pub(super) fn n_there(&self) -> u64 {
        self.files.iter().map(|file| file.budget().n_there()).sum()
    }

    fn invalid(&self, reason: String) -> CheckpointError {
        let (path, format) = (self.path().to_path_buf(), self.format.name());
        CheckpointError::InvalidFile { path, format, reason, source: None }
    }

    /// Returns the tensor with the scales of an 8-bit tensor, under the names that quantizers use.
    pub(super) fn scale_of(&self, name: &str) -> Option<&str> {
        let stem = name.strip_suffix(".weight").unwrap_or(name);
        let names = [format!("{name}_scale"), format!("{name}_scale_inv"), format!("{stem}.scale")];
        names.iter().find_map(|name| self.contents.tensors.get_key_value(name)).map(|(name, _)| name.as_str())
    }

    /// Returns the path of the file that holds a tensor's bytes.
    pub(super) fn file_of(&self, tensor: &StoredTensor) -> PathBuf {
        self.bytes_of(tensor).map(|file| file.path.clone()).unwrap_or_default()
    }

    pub(super) fn bytes_of(&self, tensor: &StoredTensor) -> Option<&ByteFile> {
        let file = match tensor.place {
            Place::Plain { file, .. } => file,
            Place::Deflated { .. } => 0,
        };
        self.files.get(file)
    }

    /// Looks up a tensor in the header; it must exist and have a floating-point dtype or quantized blocks.
    pub(crate) fn tensor(&self, name: &str) -> Result<StoredTensor, CheckpointError> {
        let (path, name) = (|| self.path().to_path_buf(), || name.to_string());
        match self.contents.tensors.get(&name()) {
            None => match self.contents.unreadable.get(&name()).cloned() {
                Some(reason) => Err(CheckpointError::UnreadableTensor { path: path(), name: name(), reason }),
                None => Err(CheckpointError::TensorNotInShard { path: path(), name: name() }),
            },
            Some(tensor) if tensor.dtype.kind == Kind::Other => {
                let dtype = tensor.dtype.name.to_string();
                Err(CheckpointError::TableDType { path: path(), name: name(), dtype })
            }
            Some(tensor) if matches!(tensor.dtype.kind, Kind::Float8(_)) => match self.scale_of(&name()) {
                Some(scale) => {
                    let (dtype, scale) = (tensor.dtype.name.to_string(), scale.to_string());
                    Err(CheckpointError::ScaledTensor { path: path(), name: name(), dtype, scale })
                }
                None => Ok(tensor.clone()),
            },
            Some(tensor) => Ok(tensor.clone()),
        }
    }

    /// Compares a tensor's shape with the one that is asked for.
    pub(super) fn must_have_shape(
        &self,
        name: &str,
        at: &StoredTensor,
        expected: &Shape,
    ) -> Result<(), CheckpointError> {
        let (shape, expected) = (at.shape.to_vec(), expected.dims().to_vec());
        match shape == expected {
            true => Ok(()),
            false => {
                let (path, name) = (self.path().to_path_buf(), name.to_string());
                Err(CheckpointError::TensorShape { path, name, shape, expected })
            }
        }
    }

    /// Looks up a table: a tensor that must be a matrix.
    pub(super) fn table(&self, name: &str) -> Result<TableInfo, CheckpointError> {
        self.matrix(name, self.tensor(name)?)
    }

    /// Looks up a position table: a matrix, or one with leading dimensions of 1.
    pub(super) fn position_table(&self, name: &str) -> Result<TableInfo, CheckpointError> {
        let mut at = self.tensor(name)?;
        at.flatten();
        self.matrix(name, at)
    }

    fn matrix(&self, name: &str, at: StoredTensor) -> Result<TableInfo, CheckpointError> {
        match &*at.shape {
            &[n_rows, width] if n_rows > 0 && width > 0 => Ok(TableInfo { n_rows, width, at }),
            _ => {
                let (path, name) = (self.path().to_path_buf(), name.to_string());
                Err(CheckpointError::TableShape { path, name, shape: at.shape.to_vec() })
            }
        }
    }

    /// Reads a whole tensor as `dtype`, in one pass over its bytes.
    pub(crate) fn read(&self, at: &StoredTensor, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = &*at.shape;
        let tensor = match dtype {
            DType::F32 => Tensor::from_vec(self.elements::<f32>(at)?, shape, device),
            DType::F16 => Tensor::from_vec(self.elements::<f16>(at)?, shape, device),
            DType::BF16 => Tensor::from_vec(self.elements::<bf16>(at)?, shape, device),
            DType::F64 => Tensor::from_vec(self.elements::<f64>(at)?, shape, device),
            dtype => return Err(CheckpointError::UnsupportedDType { dtype }.into()),
        };
        Ok(tensor?)
    }

    fn elements<T: Element>(&self, at: &StoredTensor) -> Result<Vec<T>, CheckpointError> {
        read_elements(&self.files, at).map_err(CheckpointError::reading(&self.file_of(at)))
    }

    /// Copies a tensor's bytes, which must be row-major and little-endian, to `out`, the file at `path`.
    pub(super) fn copy(&self, at: &StoredTensor, out: &mut dyn io::Write, path: &Path) -> Result<(), CheckpointError> {
        let source = self.file_of(at);
        let reading = CheckpointError::reading(&source);
        let mut bytes = read::reader(&self.files, at).map_err(reading)?;
        let mut left = at.n_bytes();
        let mut piece = vec![0; left.min(COPIED_BYTES)];
        while left > 0 {
            let piece = &mut piece[..left.min(COPIED_BYTES)];
            bytes.read_exact(piece).map_err(reading)?;
            out.write_all(piece).map_err(CheckpointError::writing(path))?;
            left -= piece.len();
        }
        Ok(())
    }
}
