//! Writes tables in pieces; each file is replaced atomically, synced, and has ordinary permissions.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::path::Path;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::keys;
use super::names::{CONFIG_FILE, CONFIG_METADATA, WEIGHTS_FILE};
use crate::config::GptInputConfig;
use crate::error::{CheckpointError, Result};

/// How many elements are converted to bytes at a time.
const PIECE_ELEMENTS: usize = 1 << 16;

/// Names a format in which a layer is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SaveFormat {
    /// A folder with `model.safetensors` and `config.json`.
    Folder,
    /// One safetensors file, with the configuration in its metadata.
    Safetensors,
    /// One GGUF file, which keeps only the dimensions of the configuration, and only learned positions. A quantized
    /// table keeps its blocks.
    Gguf,
}

impl SaveFormat {
    /// Returns the format for a path: a file for `.safetensors` and `.gguf`, a folder for any other path and any
    /// existing folder.
    ///
    /// ```
    /// use candle_gpt_input::checkpoint::SaveFormat;
    ///
    /// assert_eq!(SaveFormat::of("gpt2.gguf"), SaveFormat::Gguf);
    /// assert_eq!(SaveFormat::of("my-gpt2"), SaveFormat::Folder);
    /// ```
    pub fn of(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") if !path.is_dir() => Self::Safetensors,
            Some("gguf") if !path.is_dir() => Self::Gguf,
            _ => Self::Folder,
        }
    }
}

/// Writes `wte`, the position tables and the configuration to a folder.
pub(crate) fn save_folder(
    path: &Path,
    wte: &Tensor,
    positional: &[(String, Tensor)],
    config: &GptInputConfig,
) -> Result<()> {
    std::fs::create_dir_all(path).map_err(CheckpointError::creating(path))?;
    save_safetensors(&path.join(WEIGHTS_FILE), wte, positional, config)?;
    write_atomically(&path.join(CONFIG_FILE), |out| out.write_all(config.to_json().as_bytes()))?;
    Ok(())
}

/// Writes `wte`, the position tables and the configuration to one file.
pub(crate) fn save_safetensors(
    path: &Path,
    wte: &Tensor,
    positional: &[(String, Tensor)],
    config: &GptInputConfig,
) -> Result<()> {
    let positional = positional.iter().map(|(name, table)| (name.as_str(), table));
    let tensors = [(keys::SAVED.0, wte)].into_iter().chain(positional);
    save_tensors(path, tensors, [(CONFIG_METADATA.to_string(), config.to_json())])
}

/// Writes tensors (f32, f64, f16, bf16, u8, u32 or i64) into one safetensors file, in the given order.
///
/// `metadata` is added to `format=pt`, without which transformers refuses a file. The file appears whole or not at all,
/// is on disk when this returns, and has ordinary permissions. Tensors on a device and strided ones are copied to the
/// host; otherwise a megabyte is allocated.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_gpt_input::checkpoint::{Checkpoint, save_tensors};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bias.safetensors");
/// let bias = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
/// save_tensors(&path, [("ln_f.bias", &bias)], [("step".to_string(), "3".to_string())])?;
/// let read = Checkpoint::open(&path)?.var_builder(DType::F32, &Device::Cpu).get(2, "ln_f.bias")?;
/// assert_eq!(read.to_vec1::<f32>()?, [1., 2.]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`CheckpointError::Io`] with the path, [`CheckpointError::UnsupportedDType`] for any other dtype,
/// [`CheckpointError::InvalidName`] for a name given twice, with control characters, or kept by the format.
#[doc(alias("save_file", "safetensors"))]
pub fn save_tensors<'a>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (impl AsRef<str>, &'a Tensor)>,
    metadata: impl IntoIterator<Item = (String, String)>,
) -> Result<()> {
    let path = path.as_ref();
    let (mut infos, mut on_host) = (Vec::new(), Vec::new());
    let mut end = 0;
    for (name, tensor) in tensors {
        let start = end;
        end += tensor.elem_count() * tensor.dtype().size_in_bytes();
        let info =
            TensorInfo { dtype: stored_as(tensor.dtype())?, shape: tensor.dims().to_vec(), data_offsets: (start, end) };
        infos.push((name.as_ref().to_string(), info));
        on_host.push(tensor.to_device(&Device::Cpu)?.contiguous()?);
    }
    let header = header_of(path, infos, metadata)?;
    write_atomically(path, |out| {
        out.write_all(&header)?;
        on_host.iter().try_for_each(|tensor| write_elements(out, tensor))
    })?;
    Ok(())
}

/// Returns the front of a safetensors file: the length of the header, and the header.
pub(super) fn header_of(
    path: &Path,
    infos: Vec<(String, TensorInfo)>,
    metadata: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<u8>, CheckpointError> {
    let mut names = BTreeSet::new();
    for (name, _) in &infos {
        let reason = match name.as_str() {
            "__metadata__" => "the format keeps that name for itself",
            name if name.contains(char::is_control) => "it has control characters",
            name if !names.insert(name) => "another tensor has that name",
            _ => continue,
        };
        return Err(CheckpointError::InvalidName { path: path.to_path_buf(), name: name.clone(), reason });
    }
    let mut all_metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    all_metadata.extend(metadata);
    let header = Metadata::new(Some(all_metadata), infos)
        .map_err(std::io::Error::other)
        .and_then(|header| Ok(serde_json::to_vec(&header)?));
    let mut header = header.map_err(CheckpointError::writing(path))?;
    header.resize(header.len().next_multiple_of(8), b' '); // the format requires aligned data
    let mut front = (header.len() as u64).to_le_bytes().to_vec();
    front.extend(header);
    Ok(front)
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

pub(super) fn write_elements(out: &mut dyn Write, tensor: &Tensor) -> std::io::Result<()> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = layout.start_offset()..layout.start_offset() + tensor.elem_count();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => write_pieces(out, &values[range], |x| x.to_le_bytes()),
        Storage::Cpu(CpuStorage::F64(values)) => write_pieces(out, &values[range], |x| x.to_le_bytes()),
        Storage::Cpu(CpuStorage::F16(values)) => write_pieces(out, &values[range], |x| x.to_le_bytes()),
        Storage::Cpu(CpuStorage::BF16(values)) => write_pieces(out, &values[range], |x| x.to_le_bytes()),
        Storage::Cpu(CpuStorage::U8(values)) => out.write_all(&values[range]),
        Storage::Cpu(CpuStorage::U32(values)) => write_pieces(out, &values[range], |x| x.to_le_bytes()),
        Storage::Cpu(CpuStorage::I64(values)) => write_pieces(out, &values[range], |x| x.to_le_bytes()),
        _ => Err(std::io::Error::other("not a tensor on the host")), // refused by `stored_as`
    }
}

fn write_pieces<T: Copy, const N: usize>(
    out: &mut dyn Write,
    values: &[T],
    to_le: impl Fn(T) -> [u8; N],
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for piece in values.chunks(PIECE_ELEMENTS) {
        bytes.clear();
        bytes.extend(piece.iter().flat_map(|&value| to_le(value)));
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Returns the system's error inside one that also names the temporary file, which nobody has asked for.
fn without_path(error: std::io::Error) -> std::io::Error {
    let inner = error.get_ref().and_then(|with_path| with_path.source()).and_then(|inner| inner.downcast_ref());
    let code = inner.and_then(std::io::Error::raw_os_error);
    code.map_or(error, std::io::Error::from_raw_os_error)
}

/// Writes a file that appears whole or not at all, and is on disk when this returns.
pub(super) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), CheckpointError> {
    let io = CheckpointError::writing(path);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    #[cfg_attr(not(unix), expect(unused_mut, reason = "permissions are set on unix only"))]
    let mut builder = tempfile::Builder::new();
    // A temporary file is private by default; the umask decides for an ordinary one.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temporary = builder.tempfile_in(folder).map_err(|error| io(without_path(error)))?;
    write(&mut temporary.as_file()).map_err(io)?;
    temporary.as_file().sync_all().map_err(io)?;
    temporary.persist(path).map_err(|error| io(error.error))?;
    // The new name is on disk only once its folder is synced.
    #[cfg(unix)]
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
    Ok(())
}
