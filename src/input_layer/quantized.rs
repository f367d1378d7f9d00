//! The layer on a token table in quantized blocks.

use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device};

use super::GptInputLayer;
use crate::checkpoint::{Checkpoint, LoadReport, TableData, save_gguf};
use crate::embedding::QuantizeReport;
use crate::error::{CheckpointError, Result};
use crate::position::{PositionEncoding, PositionScheme};

impl GptInputLayer {
    /// As [`from_pretrained`](Self::from_pretrained), but a quantized token table stays in its blocks: they are read into
    /// memory as they are, and dequantized row by row by the look-up.
    ///
    /// The hidden states are the bits of [`from_pretrained`](Self::from_pretrained) with the same `dtype`.
    /// [`from_pretrained_mapped`](Self::from_pretrained_mapped) leaves the blocks in their file.
    ///
    /// # Errors
    /// As [`from_pretrained`](Self::from_pretrained), and
    /// [`CheckpointError::NotQuantized`] for a table of numbers, which
    /// [`quantize`](Self::quantize) quantizes.
    pub fn from_pretrained_quantized(
        path: impl AsRef<Path>,
        dtype: DType,
        device: &Device,
    ) -> Result<(Self, LoadReport)> {
        Self::from_checkpoint_quantized(&Checkpoint::open(path)?, dtype, device)
    }

    /// As [`from_pretrained_quantized`](Self::from_pretrained_quantized), from a checkpoint that is already open.
    ///
    /// # Errors
    /// As [`from_pretrained_quantized`](Self::from_pretrained_quantized).
    pub fn from_checkpoint_quantized(
        checkpoint: &Checkpoint,
        dtype: DType,
        device: &Device,
    ) -> Result<(Self, LoadReport)> {
        Self::from_stored(checkpoint.quantized_tables(dtype, device)?, dtype, device)
    }

    /// The same layer with its token table in quantized blocks, and how far they are from its numbers:
    /// [`TokenTable::quantize`](crate::embedding::TokenTable::quantize). The tables of the positions, which are small, stay.
    ///
    /// # Errors
    /// As [`TokenTable::quantize`](crate::embedding::TokenTable::quantize).
    pub fn quantize(&self, block_type: GgmlDType) -> Result<(Self, QuantizeReport)> {
        let (wte, report) = self.wte.quantize(block_type)?;
        Ok((Self { wte, ..self.clone() }, report))
    }

    pub(super) fn save_as_gguf(&self, path: &Path) -> Result<()> {
        if self.config.position != PositionScheme::Learned {
            let (path, scheme) = (path.to_path_buf(), self.config.position.name());
            return Err(CheckpointError::NoNamesForPositions { path, scheme }.into());
        }
        let wte = match (self.wte.stored(), self.wte.block_type()) {
            (Some(table), Some(block_type)) => {
                let dims = (table.rows.n_rows, table.rows.width);
                TableData::Blocks { block_type, dims, bytes: table.bytes_here()? }
            }
            _ => TableData::Numbers(self.wte.dense()?.weight()),
        };
        let wpe = match self.wpe()?.stored() {
            Some(wpe) => wpe.narrow(0, wpe.rows.n_rows)?,
            None => self.wpe()?.dense()?.weight().clone(),
        };
        save_gguf(path, wte, &wpe, &self.config)
    }

    /// The same layer with the numbers of its tables in memory, where they are mapped or quantized: what can be trained,
    /// changed and saved.
    ///
    /// # Errors
    /// What reading the rows reports, for those that are elsewhere.
    pub fn to_dense(&self) -> Result<Self> {
        let wte = self.wte.to_dense()?;
        let positions = match self.positions.input_table().and_then(|wpe| wpe.stored()) {
            Some(wpe) => PositionEncoding::learned(&self.config, wpe.narrow(0, wpe.rows.n_rows)?.into()),
            None => self.positions.clone(),
        };
        Ok(Self { wte, positions, ..self.clone() })
    }
}
