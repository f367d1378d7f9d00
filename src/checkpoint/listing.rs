//! Lists the tensors of a checkpoint, and those that cannot be read. Opens shards one after another.

use super::budget::Budget;
use super::locate::LocatedTable;
use super::report::Unreadable;
use super::sharded::{ShardFile, file_id};
use super::stored::StoredTensor;
use super::weights::{Weights, WeightsFile};
use super::{Checkpoint, CheckpointOptions, TensorEntry};
use crate::error::Result;

const NOT_IN_SHARD: &str = "listed in the index, but missing from its shard: download both again";

impl Checkpoint {
    /// Lists every tensor that can be read, sorted by name; opens every shard.
    ///
    /// # Errors
    /// [`CheckpointError`](crate::error::CheckpointError) if a shard is missing or damaged.
    pub fn tensors(&self) -> Result<Vec<TensorEntry>> {
        let mut entries = Vec::new();
        // In one file the list has its final size at once; of several it grows by doubling.
        let factor = if matches!(self.weights, Weights::File(_)) { 1 } else { 2 };
        self.each_file(|part, budget| {
            part.file.pay(budget, factor * part.n_bytes(part.tensors()))?;
            entries.extend(part.tensors().map(|(name, tensor)| part.entry(name, tensor, &self.options)));
            Ok(())
        })?;
        entries.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    /// Lists the tensors that shards hold and the index assigns to another shard or to none, sorted by name.
    ///
    /// They are not part of the checkpoint: nothing lists, loads or converts them. Opens every shard.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::checkpoint::{Checkpoint, save_tensors};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("model.safetensors.index.json");
    /// let bias = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
    /// save_tensors(folder.path().join("1.safetensors"), [("bias", &bias), ("old", &bias)], [])?;
    /// std::fs::write(&path, r#"{"weight_map": {"bias": "1.safetensors"}}"#)?;
    ///
    /// let checkpoint = Checkpoint::open(&path)?;
    /// assert_eq!(checkpoint.tensors()?[0].name, "bias");
    /// assert_eq!(checkpoint.not_in_index()?[0].name, "old");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`tensors`](Self::tensors).
    pub fn not_in_index(&self) -> Result<Vec<TensorEntry>> {
        let mut entries = Vec::new();
        self.each_file(|part, budget| {
            part.file.pay(budget, 2 * part.n_bytes(part.not_in_index()))?;
            entries.extend(part.not_in_index().map(|(name, tensor)| part.entry(name, tensor, &self.options)));
            Ok(())
        })?;
        // Two shards may hold the same name.
        entries.sort_unstable_by(|left: &TensorEntry, right| (&left.name, &left.file).cmp(&(&right.name, &right.file)));
        Ok(entries)
    }

    /// Lists the tensors that cannot be read, sorted by name; opens every shard.
    ///
    /// These are tensors of kinds that are not supported (sparse, quantized by PyTorch, views that PyTorch negates),
    /// and those that an index assigns to a shard which does not hold them. All others can be read.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::checkpoint::{Checkpoint, save_tensors};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("model.safetensors.index.json");
    /// let bias = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
    /// save_tensors(folder.path().join("1.safetensors"), [("bias", &bias)], [])?;
    /// std::fs::write(&path, r#"{"weight_map": {"bias": "1.safetensors", "weight": "1.safetensors"}}"#)?;
    ///
    /// let checkpoint = Checkpoint::open(&path)?;
    /// assert_eq!(checkpoint.tensors()?.len(), 1);
    /// let missing = &checkpoint.unreadable()?[0];
    /// assert_eq!(missing.name, "weight");
    /// assert_eq!(missing.reason, "listed in the index, but missing from its shard: download both again");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`tensors`](Self::tensors).
    pub fn unreadable(&self) -> Result<Vec<Unreadable>> {
        let mut unreadable = Vec::new();
        self.each_file(|part, budget| {
            // A list grows by doubling.
            let n_bytes = |left: Unreadable| {
                let texts = left.name.len() + left.file.as_os_str().len() + left.reason.len();
                (2 * size_of::<Unreadable>() + 3 * 16 + texts) as u64
            };
            part.file.pay(budget, part.unreadable().map(n_bytes).sum())?;
            unreadable.extend(part.unreadable());
            Ok(())
        })?;
        unreadable.sort_unstable_by(|left: &Unreadable, right| left.name.cmp(&right.name));
        Ok(unreadable)
    }

    /// Returns the tensors that cannot be read in the files of the tables, and the names of those that are not in the
    /// index.
    pub(super) fn left_beside(&self, wte: &LocatedTable, wpe: Option<&LocatedTable>) -> (Vec<Unreadable>, Vec<String>) {
        let index = match &self.weights {
            Weights::File(file) => return (Part { file, names: None }.unreadable().collect(), Vec::new()),
            Weights::Shards(index) => index,
        };
        let (mut unreadable, mut not_in_index) = (Vec::new(), Vec::new());
        let mut files: Vec<_> = [wte].into_iter().chain(wpe).map(|table| table.file.get()).collect();
        let ids: Vec<_> = files.iter().map(|file| file_id(file.path()).ok()).collect();
        if let [wte, wpe] = ids.as_slice()
            && wte == wpe
        {
            files.pop();
        }
        for file in files {
            let names = index.names_in(file.path());
            let part = Part { file, names: Some(&names) };
            unreadable.extend(part.unreadable());
            not_in_index.extend(part.not_in_index().map(|(name, _)| name.clone()));
        }
        unreadable.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        not_in_index.sort_unstable();
        (unreadable, not_in_index)
    }

    /// Calls `visit` with each file and the budget that all share. Shards are opened one after another, each file once.
    pub(super) fn each_file(&self, mut visit: impl FnMut(Part, &Budget) -> Result<()>) -> Result<()> {
        let budget = Budget::of_text("");
        let mut visit = |part: Part| {
            budget.came(part.file.n_there());
            // The header is freed when its shard is closed, but not given back: small files that claim much take time.
            part.file.pay(&budget, part.file.budget().n_taken())?;
            visit(part, &budget)
        };
        match &self.weights {
            Weights::File(file) => visit(Part { file, names: None }),
            Weights::Shards(index) => index.files()?.into_iter().try_for_each(|ShardFile { path, names }| {
                visit(Part { file: &WeightsFile::open(&path)?, names: Some(&names) })
            }),
        }
    }
}

/// A file, and what of it belongs to the checkpoint.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) file: &'a WeightsFile,
    /// The names that an index assigns to the file, sorted; all belong to it without an index.
    names: Option<&'a [&'a str]>,
}

impl<'a> Part<'a> {
    fn has(self, name: &str) -> bool {
        self.names.is_none_or(|names| names.binary_search(&name).is_ok())
    }

    /// Returns the tensors that can be read.
    pub(super) fn tensors(self) -> impl Iterator<Item = (&'a String, &'a StoredTensor)> {
        self.file.tensors().iter().filter(move |(name, _)| self.has(name))
    }

    /// Returns the tensors that the index does not assign to the file.
    fn not_in_index(self) -> impl Iterator<Item = (&'a String, &'a StoredTensor)> {
        self.file.tensors().iter().filter(move |(name, _)| !self.has(name))
    }

    /// Returns the tensors that cannot be read, and those that the file should hold.
    pub(super) fn unreadable(self) -> impl Iterator<Item = Unreadable> + 'a {
        let of_file = self.file.unreadable().iter().filter(move |(name, _)| self.has(name));
        let of_file = of_file.map(|(name, reason)| (name.as_str(), reason.as_str()));
        let missing = self.names.unwrap_or_default().iter().filter(move |name| !self.file.holds(name));
        of_file.chain(missing.map(|name| (*name, NOT_IN_SHARD))).map(move |(name, reason)| Unreadable {
            name: name.to_string(),
            file: self.file.path().to_path_buf(),
            reason: reason.to_string(),
        })
    }

    /// Returns the memory that a list of tensors takes.
    fn n_bytes(self, tensors: impl Iterator<Item = (&'a String, &'a StoredTensor)>) -> u64 {
        let n_bytes = |(name, tensor): (&String, &StoredTensor)| {
            let n_path = self.file.bytes_of(tensor).map_or(0, |file| file.path.as_os_str().len());
            let texts = name.len() + tensor.dtype.name.len() + n_path;
            size_of::<TensorEntry>() + 4 * 16 + texts + size_of_val(&*tensor.shape)
        };
        tensors.map(n_bytes).sum::<usize>() as u64
    }

    fn entry(self, name: &str, tensor: &StoredTensor, options: &CheckpointOptions) -> TensorEntry {
        TensorEntry {
            name: name.to_string(),
            dtype: tensor.dtype.name.to_string(),
            shape: tensor.shape.to_vec(),
            n_bytes: tensor.n_bytes(),
            file: self.file.file_of(tensor),
            role: options.role_of(name),
        }
    }
}
