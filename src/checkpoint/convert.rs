//! Converts a checkpoint of any format to safetensors.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde_json::json;

use super::folder;
use super::header::{header_of, stored_as};
use super::names::{CONFIG_FILE, CONFIG_METADATA, INDEX_FILE, WEIGHTS_FILE};
use super::save::{SaveFormat, replace, write_elements};
use super::stored::{Kind, StoredTensor};
use super::switch::Switch;
use super::weights::{Weights, WeightsFile};
use super::{Checkpoint, ConfigSource};
use crate::config::read_text;
use crate::error::{CheckpointError, Error, Result};
use crate::files::write_file;

/// A tensor to be written: where it is read, and its new dtype.
struct Planned {
    name: String,
    /// The number of its shard.
    shard: usize,
    tensor: StoredTensor,
    to: Dtype,
    is_copied: bool,
    n_bytes: usize,
}

impl Checkpoint {
    /// Writes all tensors as safetensors under their own names, and returns the files written, those of weights first.
    /// All are those that [`tensors`](Self::tensors) lists.
    ///
    /// `to` is one file if it ends in `.safetensors`, else a folder: with a `config.json` where there are input tables,
    /// and in shards of at most `max_shard_bytes` if that is given. Floating-point and quantized tensors become
    /// `dtype`; without one, the former keep theirs and the latter become f32. Integer tensors keep their dtype. One
    /// tensor is in memory, and one shard open, at a time.
    ///
    /// A folder that holds a checkpoint opens at every moment as that one or as the new one, as
    /// [`save_pretrained`](super::save_pretrained) describes. New shards have names that no file has, and the old
    /// checkpoint's files are removed last. No other file of the folder is touched.
    ///
    /// A configuration beside or in the weights is written with the dimensions of the tables. Where these are not
    /// found, it is written as it is.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::checkpoint::{Checkpoint, save_tensors};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let (from, to) = (folder.path().join("f32.safetensors"), folder.path().join("f16.safetensors"));
    /// let bias = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
    /// save_tensors(&from, [("ln_f.bias", &bias)], [])?;
    /// assert_eq!(Checkpoint::open(&from)?.convert(&to, Some(DType::F16), None)?, [to.clone()]);
    /// let entry = &Checkpoint::open(&to)?.tensors()?[0];
    /// assert_eq!((entry.dtype.as_str(), entry.n_bytes), ("F16", 4)); // 2 elements of 2 bytes
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CheckpointError::TableDType`] for a tensor whose dtype cannot be written,
    /// [`CheckpointError::UnreadableTensor`] and [`CheckpointError::TensorNotInShard`] for one of
    /// [`unreadable`](Self::unreadable), [`CheckpointError::Config`] and [`CheckpointError::ConfigMismatch`] for a
    /// configuration that is invalid or contradicts the tables, [`CheckpointError::CannotReadBack`] for a folder whose
    /// `config.json` would be taken for that of weights without one, and those of [`open`](Self::open). Nothing is
    /// changed then.
    pub fn convert(
        &self,
        to: impl AsRef<Path>,
        dtype: Option<DType>,
        max_shard_bytes: Option<u64>,
    ) -> Result<Vec<PathBuf>> {
        let to = to.as_ref();
        let mut planned = Vec::new();
        let mut shards = Vec::new();
        self.each_file(|part, budget| {
            if let Some(missing) = part.unreadable().next() {
                part.file.tensor(&missing.name)?;
            }
            for (name, tensor) in part.tensors() {
                part.file.pay(budget, n_bytes_planned(name, tensor))?;
                planned.push(plan(part.file, shards.len(), name, tensor, dtype)?);
            }
            shards.push(part.file.path().to_path_buf());
            Ok(())
        })?;
        if planned.is_empty() {
            return Err(self.no_tensors().into());
        }
        let config = self.config_to_write()?;
        let mut source = Source { checkpoint: self, shards, opened: None };
        let metadata = config.clone().map(|config| (CONFIG_METADATA.to_string(), config));
        if SaveFormat::of(to) == SaveFormat::Safetensors {
            write(to, &mut source, &planned, metadata, |write| replace(to, write))?;
            return Ok(vec![to.to_path_buf()]);
        }
        if let Some(beside) = folder::config_of_weights(to).filter(|_| config.is_none()) {
            let reason = format!(
                "its {beside} belongs to other weights, and these state no configuration: choose another folder, or \
                 state one with `CheckpointOptions::with_config_json`"
            );
            return Err(CheckpointError::CannotReadBack { path: to.to_path_buf(), reason }.into());
        }
        let mut switch = Switch::begin(to, config.clone())?;
        let shards = in_shards(&planned, max_shard_bytes.unwrap_or(u64::MAX));
        let mut written = Vec::new();
        if let [whole] = shards.as_slice() {
            written.push(to.join(WEIGHTS_FILE));
            write(&written[0], &mut source, whole, metadata, |write| switch.replace_by_file(write))?;
        } else {
            let names = switch.names(shards.len());
            let of_shard = |(name, shard): (&String, &&[Planned])| {
                shard.iter().map(|tensor| (tensor.name.clone(), name.clone())).collect::<Vec<_>>()
            };
            let weight_map: BTreeMap<_, _> = names.iter().zip(&shards).flat_map(of_shard).collect();
            let total: usize = planned.iter().map(|tensor| tensor.n_bytes).sum();
            let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
            switch.prepare_shards(&names, &format!("{index:#}"))?;
            for (name, shard) in names.iter().zip(shards) {
                let path = to.join(name);
                write(&path, &mut source, shard, metadata.clone(), |write| write_file(&path, write))?;
                written.push(path);
            }
            written.push(to.join(INDEX_FILE));
            switch.decide()?;
        }
        written.extend(config.map(|_| to.join(CONFIG_FILE)));
        Ok(written)
    }

    /// Returns the text of the configuration, if there is one: what the tables complete, or else what is stated.
    fn config_to_write(&self) -> Result<Option<String>> {
        let (error, source) = match (self.config(), &self.config) {
            (Ok(config), _) => return Ok(Some(config.to_json())),
            (Err(_), None) => return Ok(None),
            (Err(error), Some((source, _))) => (error, source),
        };
        if let Error::Checkpoint(CheckpointError::Config { .. } | CheckpointError::ConfigMismatch { .. }) = error {
            return Err(error);
        }
        match (source, &self.weights) {
            (ConfigSource::Given, _) => Ok(self.options.config_json.clone()),
            (ConfigSource::Metadata(_), Weights::File(file)) => Ok(file.metadata().get(CONFIG_METADATA).cloned()),
            (ConfigSource::File(path), _) if path.file_name().is_some_and(|name| name == CONFIG_FILE) => {
                Ok(Some(read_text(path)?))
            }
            _ => Err(error),
        }
    }
}

/// The files that are read, of which the last one used is open.
struct Source<'a> {
    checkpoint: &'a Checkpoint,
    shards: Vec<PathBuf>,
    opened: Option<(usize, WeightsFile)>,
}

impl Source<'_> {
    fn file(&mut self, shard: usize) -> Result<&WeightsFile, CheckpointError> {
        if let Weights::File(file) = &self.checkpoint.weights {
            return Ok(file);
        }
        let opened = match self.opened.take() {
            Some((number, file)) if number == shard => file,
            _ => WeightsFile::open(&self.shards[shard])?,
        };
        Ok(&self.opened.insert((shard, opened)).1)
    }
}

/// Returns the memory that a planned tensor takes, and its part of the header.
fn n_bytes_planned(name: &str, tensor: &StoredTensor) -> u64 {
    const PER_TENSOR: usize = 512;
    // A name is planned, put into the header and its text, and noted in an index.
    (2 * size_of::<Planned>() + PER_TENSOR + 8 * name.len() + 4 * size_of_val(&*tensor.shape)) as u64
}

fn plan(
    file: &WeightsFile,
    shard: usize,
    name: &str,
    tensor: &StoredTensor,
    dtype: Option<DType>,
) -> Result<Planned, CheckpointError> {
    let refused = || CheckpointError::TableDType {
        path: file.file_of(tensor),
        name: name.to_string(),
        dtype: tensor.dtype.name.to_string(),
    };
    let as_it_is = || serde_json::from_value(json!(tensor.dtype.name)).map_err(|_| refused());
    let is_plain = tensor.strides.is_none() && !tensor.big_endian;
    let (to, is_copied) = match tensor.dtype.kind {
        // With scales, only the stored bytes go with the scales.
        Kind::Float8(_) if is_plain && (dtype.is_none() || file.scale_of(name).is_some()) => (as_it_is()?, true),
        Kind::Float8(_) if file.scale_of(name).is_some() => return Err(refused()),
        Kind::Float(_) | Kind::Float8(_) | Kind::Blocks(_) => {
            (stored_as(dtype.unwrap_or(tensor.dtype.loaded_as()))?, false)
        }
        // Unchanged, if safetensors has the dtype.
        Kind::Other if is_plain => (as_it_is()?, true),
        Kind::Other => return Err(refused()),
    };
    let n_bytes = if is_copied { tensor.n_bytes() } else { tensor.n_elements() * to.bitsize() / 8 };
    Ok(Planned { name: name.to_string(), shard, tensor: tensor.clone(), to, is_copied, n_bytes })
}

/// Splits before a tensor that would exceed `max_bytes`; a larger tensor has a shard of its own.
fn in_shards(planned: &[Planned], max_bytes: u64) -> Vec<&[Planned]> {
    let mut shards = Vec::new();
    let (mut start, mut n_bytes) = (0, 0);
    for (i, tensor) in planned.iter().enumerate() {
        if i > start && n_bytes + tensor.n_bytes as u64 > max_bytes {
            shards.push(&planned[start..i]);
            (start, n_bytes) = (i, 0);
        }
        n_bytes += tensor.n_bytes as u64;
    }
    shards.push(&planned[start..]);
    shards
}

/// Writes one file through `save`, which puts it in its place.
fn write(
    path: &Path,
    source: &mut Source,
    planned: &[Planned],
    metadata: Option<(String, String)>,
    save: impl FnOnce(&mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> Result<(), CheckpointError>,
) -> Result<()> {
    let mut infos = Vec::with_capacity(planned.len());
    let mut end = 0;
    for Planned { name, tensor, to, n_bytes, .. } in planned {
        let start = end;
        end += n_bytes;
        infos.push((name.clone(), TensorInfo { dtype: *to, shape: tensor.shape.to_vec(), data_offsets: (start, end) }));
    }
    let header = header_of(path, &infos, metadata)?;
    let mut failed = None;
    let written = save(&mut |out| {
        out.write_all(&header)?;
        for planned in planned {
            if let Err(error) = write_one(source, planned, out, path) {
                // Reported below with the path of the file that is read or written.
                failed = Some(error);
                return Err(io::Error::other("a tensor could not be copied"));
            }
        }
        Ok(())
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(written?),
    }
}

/// Writes one tensor to `out`, which becomes the file at `path`.
fn write_one(source: &mut Source, planned: &Planned, out: &mut dyn io::Write, path: &Path) -> Result<()> {
    let file = source.file(planned.shard)?;
    // A shard was closed meanwhile.
    let tensor = file.tensors().get(&planned.name);
    let same = |tensor: &&StoredTensor| tensor.shape == planned.tensor.shape && tensor.dtype == planned.tensor.dtype;
    let Some(tensor) = tensor.filter(same) else {
        let (path, name) = (file.path().to_path_buf(), planned.name.clone());
        return Err(CheckpointError::TensorNotInShard { path, name }.into());
    };
    let dtype = match planned.to {
        _ if planned.is_copied => {
            return Ok(file.copy(tensor, out, path)?);
        }
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F64 => DType::F64,
        _ => DType::F32,
    };
    let tensor = file.read(tensor, dtype, &Device::Cpu)?;
    Ok(write_elements(out, &tensor).map_err(CheckpointError::writing(path))?)
}
