//! Into files.

use std::path::Path;

use super::GptInputLayer;
use crate::checkpoint::{SaveFormat, TableData, save_folder, save_gguf, save_safetensors};
use crate::error::{CheckpointError, Result};
use crate::position::PositionScheme;

/// # Save
impl GptInputLayer {
    /// Writes the tables in their own dtype under Hugging Face's names, for this crate and for transformers to open.
    ///
    /// The extension of `path` says how: see [`SaveFormat::of`]. [`save_as`](Self::save_as) says it outright. Files appear
    /// whole or not at all, and are on disk when this returns.
    ///
    /// # Errors
    /// - [`CheckpointError::Io`] with the path
    /// - [`Error::Quantized`](crate::Error::Quantized) for a quantized table in a format other than GGUF
    /// - [`CheckpointError::NoNamesForPositions`] for positions that GGUF has no names for
    #[doc(alias = "save_pretrained")]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_as(path.as_ref(), SaveFormat::of(path.as_ref()))
    }

    /// Writes the tables as [`save`](Self::save) does, in the format given, whatever the path is called.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_as(&self, path: impl AsRef<Path>, format: SaveFormat) -> Result<()> {
        let path = path.as_ref();
        if format == SaveFormat::Gguf {
            return self.save_as_gguf(path);
        }
        let (wte, positional) = (self.wte.dense()?.weight(), self.positions.tables());
        match format {
            SaveFormat::Safetensors => save_safetensors(path, wte, positional, &self.config),
            _ => save_folder(path, wte, positional, &self.config),
        }
    }

    fn save_as_gguf(&self, path: &Path) -> Result<()> {
        let Some(wpe) = self.wpe().filter(|_| self.config.position == PositionScheme::Learned) else {
            let (path, scheme) = (path.to_path_buf(), self.config.position.name());
            return Err(CheckpointError::NoNamesForPositions { path, scheme }.into());
        };
        let wte = match (self.wte.stored(), self.wte.block_type()) {
            (Some(table), Some(block_type)) => {
                let dims = (table.rows.n_rows, table.rows.width);
                TableData::Blocks { block_type, dims, bytes: table.bytes_here()? }
            }
            _ => TableData::Numbers(self.wte.dense()?.weight()),
        };
        let wpe =
            wpe.stored().map_or_else(|| Ok(wpe.dense()?.weight().clone()), |rows| rows.narrow(0, rows.rows.n_rows))?;
        save_gguf(path, wte, &wpe, &self.config)
    }
}
