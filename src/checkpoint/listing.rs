//! Lists the tensors of a checkpoint, and those that cannot be read. Opens shards one after another.

use super::budget::Budget;
use super::locate::LocatedTable;
use super::report::Unreadable;
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
        self.each_file(|file, _, budget| {
            file.pay(budget, factor * n_bytes_listed(file))?;
            entries.extend(entries_of(file, &self.options));
            Ok(())
        })?;
        entries.sort_unstable_by(|left, right| left.name.cmp(&right.name));
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
        self.each_file(|file, listed, budget| {
            // A list grows by doubling.
            let n_bytes = |left: Unreadable| {
                let texts = left.name.len() + left.file.as_os_str().len() + left.reason.len();
                (2 * size_of::<Unreadable>() + 3 * 16 + texts) as u64
            };
            file.pay(budget, unreadable_in(file, listed).map(n_bytes).sum())?;
            unreadable.extend(unreadable_in(file, listed));
            Ok(())
        })?;
        unreadable.sort_unstable_by(|left: &Unreadable, right| left.name.cmp(&right.name));
        Ok(unreadable)
    }

    /// Returns the tensors that cannot be read in the files of the tables.
    pub(super) fn unreadable_beside(&self, wte: &LocatedTable, wpe: Option<&LocatedTable>) -> Vec<Unreadable> {
        let index = match &self.weights {
            Weights::File(file) => return unreadable_in(file, &[]).collect(),
            Weights::Shards(index) => index,
        };
        let shard_of = |table: &LocatedTable| index.shard_of(&table.name);
        let wpe = wpe.filter(|wpe| shard_of(wpe) != shard_of(wte));
        let tables = [wte].into_iter().chain(wpe);
        let mut unreadable: Vec<_> = tables
            .flat_map(|table| {
                let listed: Vec<&str> = index.names().filter(|name| index.shard_of(name) == shard_of(table)).collect();
                unreadable_in(table.file.get(), &listed).collect::<Vec<_>>()
            })
            .collect();
        unreadable.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        unreadable
    }

    /// Calls `visit` with each file, the names that an index assigns to it, and the budget that all share. Shards are
    /// opened one after another.
    pub(super) fn each_file(&self, mut visit: impl FnMut(&WeightsFile, &[&str], &Budget) -> Result<()>) -> Result<()> {
        let budget = Budget::of_text("");
        let mut visit = |file: &WeightsFile, listed: &[&str]| {
            budget.came(file.n_there());
            // The header is freed when its shard is closed.
            let n_header = file.budget().n_taken();
            file.pay(&budget, n_header)?;
            visit(file, listed, &budget)?;
            budget.give_back(n_header);
            Ok(())
        };
        match &self.weights {
            Weights::File(file) => visit(file, &[]),
            Weights::Shards(index) => {
                let mut shards = index.by_shard().into_iter();
                shards.try_for_each(|(shard, listed)| visit(&WeightsFile::open(&index.path_of(shard)?)?, &listed))
            }
        }
    }
}

/// Returns the tensors of a file that cannot be read, and those of the `listed` names that it does not hold.
pub(super) fn unreadable_in<'a>(file: &'a WeightsFile, listed: &'a [&str]) -> impl Iterator<Item = Unreadable> + 'a {
    let of_file = file.unreadable().iter().map(|(name, reason)| (name.as_str(), reason.as_str()));
    let missing = listed.iter().filter(|name| !file.holds(name)).map(|name| (*name, NOT_IN_SHARD));
    of_file.chain(missing).map(|(name, reason)| Unreadable {
        name: name.to_string(),
        file: file.path().to_path_buf(),
        reason: reason.to_string(),
    })
}

/// Returns the memory that a list of the file's tensors takes.
fn n_bytes_listed(file: &WeightsFile) -> u64 {
    let n_bytes = |(name, tensor): (&String, &StoredTensor)| {
        let n_path = file.bytes_of(tensor).map_or(0, |file| file.path.as_os_str().len());
        size_of::<TensorEntry>() + 4 * 16 + name.len() + size_of_val(&*tensor.shape) + tensor.dtype.name.len() + n_path
    };
    file.tensors().iter().map(n_bytes).sum::<usize>() as u64
}

fn entries_of(file: &WeightsFile, options: &CheckpointOptions) -> impl ExactSizeIterator<Item = TensorEntry> {
    file.tensors().iter().map(|(name, tensor)| TensorEntry {
        name: name.clone(),
        dtype: tensor.dtype.name.to_string(),
        shape: tensor.shape.to_vec(),
        n_bytes: tensor.n_bytes(),
        file: file.file_of(tensor),
        role: options.role_of(name),
    })
}
