//! Writing a layer into files.

use std::path::Path;

use super::{GptInputLayer, Head};
use crate::checkpoint::{SaveFormat, SavedBlocks, SavedTables, TableData, save_folder, save_gguf, save_safetensors};
use crate::config::GptInputConfig;
use crate::embedding::TokenTable;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{CheckpointError, ConfigError, LmHeadError, Result};
use crate::position::PositionScheme;

/// # Save
impl GptInputLayer {
    /// Writes the tables in their own dtype under Hugging Face's names, for this crate and for transformers to open.
    ///
    /// The names are `wte.weight` and `wpe.weight`. A layer that was opened from a model of another `model_type` keeps
    /// that type and the names that it was read from. Rows before position 0, which such a model may have, are zeros.
    ///
    /// A head of its own is written beside them, as `lm_head.weight`, and read from the checkpoint if it has not been.
    /// Rows of padding are kept; `config.json` counts them in `vocab_size`, as transformers needs it.
    ///
    /// The extension of `path` chooses the format ([`SaveFormat::of`]); [`save_as`](Self::save_as) takes it explicitly.
    /// A file appears whole or not at all, as [`write_file`](crate::checkpoint::write_file) describes. A folder opens
    /// at every moment as what it held or as this layer ([`save_pretrained`](crate::checkpoint::save_pretrained)).
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    ///
    /// let table = Tensor::new(&[[1f32, 2.], [3., 4.]], &Device::Cpu)?;
    /// let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("tables.safetensors");
    /// GptInputLayer::new(table.clone(), table)?.save(&path)?;
    /// let layer = GptInputLayer::from_pretrained(&path, DType::F32, &Device::Cpu)?;
    /// let hidden_states = layer.forward(&Tensor::new(&[1u32], &Device::Cpu)?)?;
    /// assert_eq!(hidden_states.to_vec2::<f32>()?, [[4., 6.]]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// - [`CheckpointError::Io`], naming the path
    /// - [`Error::Quantized`] for a quantized table in a format other than GGUF
    /// - [`CheckpointError::NoNamesForPositions`] for positions that GGUF has no names for
    /// - [`ConfigError::Unsupported`] for a factor of token rows, which GGUF has no key for
    /// - [`Error::NotInMemory`] for a mapped table: use [`to_dense`](Self::to_dense)
    /// - [`LmHeadError::Missing`] if the model has a head of its own that is not there: transformers would draw one at random
    #[doc(alias = "save_pretrained")]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_as(path.as_ref(), SaveFormat::of(path.as_ref()))
    }

    /// Writes the tables as [`save`](Self::save) does, in the given format, whatever the extension of `path`.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], [`Error::Quantized`], [`CheckpointError::NoNamesForPositions`],
    /// [`Error::NotInMemory`] or [`LmHeadError::Missing`], as for [`save`](Self::save).
    pub fn save_as(&self, path: impl AsRef<Path>, format: SaveFormat) -> Result<()> {
        let path = path.as_ref();
        let head = self.head.resolved()?;
        let config = self.config.clone().with_rows_as_vocab_size();
        let config = match head {
            Head::Missing => return Err(LmHeadError::Missing.into()),
            Head::Own(_) => config.with_tying(false),
            _ => config,
        };
        if format == SaveFormat::Gguf {
            return self.save_as_gguf(path, &head, &config);
        }
        if let Head::Own(head) = &head {
            head.table().dense()?;
        }
        let (wte, positional) = (self.wte.dense()?.weight(), self.positions.tables());
        let tables = SavedTables { wte, positional, head: &head.tensors() };
        match format {
            SaveFormat::Safetensors => save_safetensors(path, tables, &config),
            _ => save_folder(path, tables, &config),
        }
    }

    fn save_as_gguf(&self, path: &Path, head: &Head, config: &GptInputConfig) -> Result<()> {
        if let Some(factor) = config.embed_scale(self.wte.dtype()) {
            return Err(ConfigError::Unsupported {
                key: "embedding_multiplier".to_string(),
                value: factor.to_string(),
                instead: "GGUF's GPT-2 has no such key: save a folder or a safetensors file",
            }
            .into());
        }
        let Some(wpe) = self.wpe().filter(|_| config.position == PositionScheme::Learned) else {
            let (path, scheme) = (path.to_path_buf(), config.position.name());
            return Err(CheckpointError::NoNamesForPositions { path, scheme }.into());
        };
        let wpe =
            wpe.stored().map_or_else(|| Ok(wpe.dense()?.weight().clone()), |rows| rows.narrow(0, rows.rows.n_rows))?;
        let (table, bias) = match head {
            Head::Own(head) => (Some(table_data(head.table())?), head.bias()),
            Head::Tied(bias) => (None, bias.as_ref()),
            _ => (None, None),
        };
        let tables = SavedBlocks { wte: table_data(&self.wte)?, wpe: &wpe, head: table, bias };
        save_gguf(path, tables, config)
    }
}

/// Returns a table as it is stored: quantized blocks, or elements.
fn table_data(table: &TokenTable) -> Result<TableData<'_>> {
    match (table.stored(), table.block_type()) {
        (Some(table), Some(block_type)) => {
            let dims = (table.rows.n_rows, table.rows.width);
            Ok(TableData::Blocks { block_type, dims, bytes: table.bytes_here()? })
        }
        _ => Ok(TableData::Numbers(table.dense()?.weight())),
    }
}
