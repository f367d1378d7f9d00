//! Candle's [`VarBuilder`] on every tensor of a checkpoint, to load the blocks above an input layer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use super::Checkpoint;
use super::locate::Shard;
use super::nearest::closest;
use super::sharded::{FileId, file_id};
use super::weights::{Weights, WeightsFile};
use crate::error::{CheckpointError, Result};

impl Checkpoint {
    /// Returns a [`VarBuilder`] on all tensors of the checkpoint, under their own names: `transformer.h.0.ln_1.weight`.
    ///
    /// Each `get` compares the shape, then reads the tensor as `dtype` (f32, f16, bf16 or f64). No file is mapped into
    /// memory. A shard is opened once.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::checkpoint::{Checkpoint, save_tensors};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("model.safetensors");
    /// let bias = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
    /// save_tensors(&path, [("transformer.ln_f.bias", &bias)], [])?;
    /// let checkpoint = Checkpoint::open(&path)?;
    /// let vb = checkpoint.var_builder(DType::F64, &Device::Cpu);
    /// assert_eq!(vb.pp("transformer.ln_f").get(2, "bias")?.to_vec1::<f64>()?, [1., 2.]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias("load_state_dict", "safe_open"))]
    pub fn var_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'_> {
        let backend = Backend { checkpoint: self, shards: Mutex::default() };
        VarBuilder::from_backend(Box::new(backend), dtype, device.clone())
    }

    /// Returns whether a tensor of this name is listed.
    pub(super) fn holds(&self, name: &str) -> bool {
        match &self.weights {
            Weights::File(file) => file.holds(name),
            Weights::Shards(index) => index.shard_of(name).is_some(),
        }
    }

    /// Returns the error of a name that no tensor has.
    pub(super) fn missing_tensor(&self, name: &str) -> CheckpointError {
        let closest = closest(&self.names(), Some(name));
        CheckpointError::MissingTensor { path: self.path.clone(), name: name.to_string(), closest }
    }
}

struct Backend<'a> {
    checkpoint: &'a Checkpoint,
    /// The shards opened so far.
    shards: Mutex<BTreeMap<FileId, Arc<WeightsFile>>>,
}

impl Backend<'_> {
    fn read(&self, name: &str, expected: Option<&Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let shard = self.file_of(name)?;
        let file = shard.get();
        let at = file.tensor(name)?;
        if let Some(expected) = expected {
            file.must_have_shape(name, &at, expected)?;
        }
        file.read(&at, dtype, device)
    }

    fn file_of(&self, name: &str) -> Result<Shard<'_>, CheckpointError> {
        match &self.checkpoint.weights {
            _ if !self.checkpoint.holds(name) => Err(self.checkpoint.missing_tensor(name)),
            Weights::File(file) => Ok(Shard::Whole(file)),
            Weights::Shards(index) => {
                let path = index.path_of(index.shard_of(name).unwrap_or_default())?;
                let id = file_id(&path).map_err(CheckpointError::reading(&path))?;
                let mut opened = self.shards.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if let Some(file) = opened.get(&id) {
                    return Ok(Shard::Opened(file.clone()));
                }
                let file = Arc::new(WeightsFile::open(&path)?);
                opened.insert(id, file.clone());
                Ok(Shard::Opened(file))
            }
        }
    }
}

impl SimpleBackend for Backend<'_> {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        Ok(self.read(name, Some(&shape), dtype, device)?)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        Ok(self.read(name, None, dtype, device)?)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.checkpoint.holds(name)
    }
}
