//! The rows of a file that is not here: on a server, or a large one on the disk.

use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use candle_gpt_input::GptInputLayer;
use candle_gpt_input::checkpoint::ByteRanges;
use candle_gpt_input::input_layer::{OpenOptions, TableStorage};

use crate::fetched::Fetched;
use crate::tables;

/// A file, and the layer that reads rows of it. Any question may fail for want of bytes: then
/// [`Fetched::take_missing`] says which, and the question is repeated when they have come.
pub struct Remote {
    pub source: Arc<Fetched>,
    layer: Option<GptInputLayer>,
}

impl Remote {
    pub fn new(name: String, n_bytes: u64) -> Self {
        Self { source: Arc::new(Fetched::new(name, n_bytes)), layer: None }
    }

    /// Reads the header.
    pub fn open(&mut self) -> Result<&GptInputLayer> {
        let shards = vec![self.source.clone() as Arc<dyn ByteRanges>];
        let options = OpenOptions::new(DType::F32, &Device::Cpu).with_storage(TableStorage::Mapped);
        let (layer, _) = GptInputLayer::open(&tables::open(shards, None)?, &options)?;
        Ok(self.layer.insert(layer))
    }

    /// Returns what [`tables::vectors`] returns.
    pub fn vectors(&self, ids: &[u32], positions: &[u32]) -> Result<Vec<f32>> {
        tables::vectors(self.layer.as_ref().context("the file is not open yet")?, ids, positions)
    }
}
