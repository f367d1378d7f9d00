//! Writing a layer into files.

use std::path::Path;

use super::GptInputLayer;
use crate::checkpoint::{SaveFormat, TableData, save_folder, save_gguf, save_safetensors};
use crate::error::{CheckpointError, Result};
use crate::position::PositionScheme;

/// # Save
impl GptInputLayer {
    /// Writes the tables in their own dtype under Hugging Face's names, for this crate and for transformers to open.
    ///
    /// The extension of `path` chooses the format ([`SaveFormat::of`]); [`save_as`](Self::save_as) takes it explicitly.
    /// Files appear whole or not at all, and are on disk when this returns.
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
    /// - [`Error::Quantized`](crate::Error::Quantized) for a quantized table in a format other than GGUF
    /// - [`CheckpointError::NoNamesForPositions`] for positions that GGUF has no names for
    /// - [`Error::NotInMemory`](crate::Error::NotInMemory) for a mapped table: use [`to_dense`](Self::to_dense)
    #[doc(alias = "save_pretrained")]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_as(path.as_ref(), SaveFormat::of(path.as_ref()))
    }

    /// Writes the tables as [`save`](Self::save) does, in the given format, whatever the extension of `path`.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], [`Error::Quantized`](crate::Error::Quantized), [`CheckpointError::NoNamesForPositions`]
    /// or [`Error::NotInMemory`](crate::Error::NotInMemory), as for [`save`](Self::save).
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
