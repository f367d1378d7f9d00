//! Writes tables in pieces.

use std::io::Write;
use std::path::Path;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use safetensors::tensor::TensorInfo;

use super::header::{header_of, stored_as};
use super::keys;
use super::names::{CONFIG_METADATA, WEIGHTS_FILE};
use super::switch::{self, Switch};
use crate::config::{GptInputConfig, TableNames};
use crate::error::{CheckpointError, Result};
use crate::files;

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

/// Writes a file that appears whole or not at all, and is on disk when this returns.
///
/// [`save_tensors`], [`Checkpoint::convert`](super::Checkpoint::convert) and the `save` of layers and optimizers write
/// this way:
/// - An existing file keeps its permissions. A link stays, and the file at its end is replaced. A folder, a pipe or a
///   device is an error.
/// - On Linux, the file has no name until it is complete. Where the system or the file system lacks that, it is
///   `.NAME.partial` beside its target. A kill can leave a file of that name, which the next writer of NAME removes.
/// - Writers of the same file wait for each other under that name, by a lock (`flock`). The last one wins. Where there
///   are no locks, one of them can fail.
///
/// ```
/// use candle_gpt_input::checkpoint::write_file;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("loader.json");
/// write_file(&path, |out| out.write_all(b"{}"))?;
/// assert_eq!(std::fs::read(&path)?, b"{}");
/// let failed = write_file(&path, |_| Err(std::io::Error::other("no more")));
/// assert!(failed.is_err() && std::fs::read(&path)? == b"{}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`CheckpointError::Io`] with the path: an error of `write` or of the system, or a path that is not that of a file.
#[doc(alias = "atomic")]
pub fn write_file(path: impl AsRef<Path>, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    Ok(replace(path.as_ref(), write)?)
}

/// Writes tensors and a configuration as a Hugging Face folder: `model.safetensors` and `config.json`.
///
/// A folder that holds a checkpoint opens at every moment as that one or as the new one, also after a kill: the rename
/// of `model.safetensors` decides. Until `config.json` is written as well, the new one stands in
/// `.checkpoint.journal.partial`, where [`Checkpoint::open`](super::Checkpoint::open) finds it. Another reader, such as
/// transformers, sees the new weights beside the old `config.json` for that moment. Then the old checkpoint's shards
/// and index are removed; no other file is touched. What a kill leaves, the next writer of the folder finishes or
/// undoes.
/// Writers of one folder wait for each other.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::GptInputConfig;
/// use candle_gpt_input::checkpoint::{Checkpoint, save_pretrained};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path();
/// let wte = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu)?;
/// let wpe = Tensor::new(&[[10f32, 20.]], &Device::Cpu)?;
/// save_pretrained(path, [("wte.weight", &wte), ("wpe.weight", &wpe)], &GptInputConfig::new(3, 1, 2))?;
/// assert_eq!(Checkpoint::open(path)?.config()?.vocab_size, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of [`save_tensors`]. The folder holds what it held before.
pub fn save_pretrained<'a>(
    folder: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (impl AsRef<str>, &'a Tensor)>,
    config: &GptInputConfig,
) -> Result<()> {
    save_pretrained_after(None, folder.as_ref(), tensors, config)
}

/// A tensor whose bytes are written when their turn has come, and are in no memory before.
pub(crate) struct Streamed<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) write: &'a mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>,
}

/// Writes a folder as [`save_pretrained`] does, with one more tensor before the others.
pub(crate) fn save_pretrained_after<'a>(
    streamed: Option<Streamed<'_>>,
    folder: &Path,
    tensors: impl IntoIterator<Item = (impl AsRef<str>, &'a Tensor)>,
    config: &GptInputConfig,
) -> Result<()> {
    let config = config.to_json();
    let metadata = [(CONFIG_METADATA.to_string(), config.clone())];
    let tensors = OnHost::new(streamed, &folder.join(WEIGHTS_FILE), tensors, metadata)?;
    Ok(Switch::begin(folder, Some(config))?.replace_by_file(|out| tensors.write(out))?)
}

/// The tables of a layer, to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SavedTables<'a> {
    pub(crate) wte: &'a Tensor,
    /// The position tables, by their names beside `wte.weight`.
    pub(crate) positional: &'a [(String, Tensor)],
    /// The parts of the output head that are not `wte`: `weight`, `bias`.
    pub(crate) head: &'a [(&'static str, &'a Tensor)],
}

impl SavedTables<'_> {
    /// Returns the tensors under the names of the file, and the configuration that fits them.
    ///
    /// A model of a type of its own has its own names, its rows before position 0, and its count of positions.
    fn named(self, config: &GptInputConfig) -> Result<(Vec<(String, Tensor)>, GptInputConfig)> {
        let Self { wte, positional, head } = self;
        // A head lies outside of the module with the tables, as in transformers.
        let prefix = if head.is_empty() { "" } else { keys::AROUND_HEAD };
        let named = |name: &str| format!("{prefix}{name}");
        let mut positional: Vec<_> = positional.iter().map(|(name, table)| (named(name), table.clone())).collect();
        let of_file = config.table_names().filter(|names| positional.len() == usize::from(names.wpe.is_some()));
        let wte_name = of_file.map_or_else(|| named(keys::SAVED.0), |names| names.wte.clone());
        let mut written = config.clone();
        if let (Some(TableNames { wpe: Some(name), first_row, is_counted, .. }), [(wpe_name, wpe)]) =
            (of_file, positional.as_mut_slice())
        {
            wpe_name.clone_from(name);
            if *first_row > 0 {
                let before = Tensor::zeros((*first_row, wpe.dim(1)?), wpe.dtype(), wpe.device())?;
                *wpe = Tensor::cat(&[&before, &*wpe], 0)?;
            }
            written.n_positions += if *is_counted { *first_row } else { 0 };
        }
        let mut tensors = vec![(wte_name, wte.clone())];
        tensors.append(&mut positional);
        tensors.extend(head.iter().map(|(name, tensor)| (format!("lm_head.{name}"), (*tensor).clone())));
        Ok((tensors, written))
    }
}

/// Writes the tables and the configuration to a folder.
pub(crate) fn save_folder(path: &Path, tables: SavedTables<'_>, config: &GptInputConfig) -> Result<()> {
    let (tensors, config) = tables.named(config)?;
    save_pretrained(path, tensors.iter().map(|(name, tensor)| (name, tensor)), &config)
}

/// Writes the tables and the configuration to one file.
pub(crate) fn save_safetensors(path: &Path, tables: SavedTables<'_>, config: &GptInputConfig) -> Result<()> {
    let (tensors, config) = tables.named(config)?;
    let metadata = [(CONFIG_METADATA.to_string(), config.to_json())];
    save_tensors(path, tensors.iter().map(|(name, tensor)| (name, tensor)), metadata)
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
    let tensors = OnHost::new(None, path, tensors, metadata)?;
    Ok(replace(path, |out| tensors.write(out))?)
}

/// Replaces a file. If a killed writer of its folder left work, that is finished or undone first.
pub(super) fn replace(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), CheckpointError> {
    switch::recover(files::folder_of(path))?;
    files::write_file(path, write)
}

/// What is written: a header that can be read back, and contiguous tensors on the host.
struct OnHost<'s> {
    header: Vec<u8>,
    streamed: Option<Streamed<'s>>,
    tensors: Vec<Tensor>,
}

impl<'s> OnHost<'s> {
    fn new<'a>(
        streamed: Option<Streamed<'s>>,
        path: &Path,
        tensors: impl IntoIterator<Item = (impl AsRef<str>, &'a Tensor)>,
        metadata: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let (mut infos, mut on_host) = (Vec::new(), Vec::new());
        let mut end = 0;
        let mut add = |name: &str, dtype: DType, shape: &[usize]| -> Result<()> {
            let start = end;
            end += shape.iter().product::<usize>() * dtype.size_in_bytes();
            let info = TensorInfo { dtype: stored_as(dtype)?, shape: shape.to_vec(), data_offsets: (start, end) };
            infos.push((name.to_string(), info));
            Ok(())
        };
        if let Some(Streamed { name, dtype, shape, .. }) = &streamed {
            add(name, *dtype, shape)?;
        }
        for (name, tensor) in tensors {
            add(name.as_ref(), tensor.dtype(), tensor.dims())?;
            on_host.push(tensor.to_device(&Device::Cpu)?.contiguous()?);
        }
        Ok(Self { header: header_of(path, &infos, metadata)?, streamed, tensors: on_host })
    }

    fn write(self, out: &mut dyn Write) -> std::io::Result<()> {
        out.write_all(&self.header)?;
        if let Some(streamed) = self.streamed {
            (streamed.write)(out)?;
        }
        self.tensors.iter().try_for_each(|tensor| write_elements(out, tensor))
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
