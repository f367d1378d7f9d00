//! From a checkpoint, and into a file.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::GptInputLayer;
use crate::checkpoint::{Checkpoint, LoadReport, StoredTables, save_tables};
use crate::config::GptInputConfig;
use crate::error::Result;
use crate::kernel::{StoredTable, Table};
use crate::position::PositionEncoding;

impl GptInputLayer {
    /// The Candle way: `wte.weight` and `wpe.weight` of any [`VarBuilder`], in exactly the shapes of `config`; with other
    /// positions their tables, under the names of [`PositionEncoding::tables`].
    ///
    /// On a [`VarMap`](candle_nn::VarMap) that lacks them they are drawn from N(0, `initializer_range`²) and are trained as usual.
    ///
    /// # Errors
    /// [`ConfigError`](crate::error::ConfigError) if the configuration makes no sense, [`Error::Candle`](crate::Error::Candle) if a table is
    /// missing or has another shape.
    pub fn load(vb: VarBuilder, config: &GptInputConfig) -> Result<Self> {
        config.validate()?;
        let init = candle_nn::Init::Randn { mean: 0.0, stdev: config.initializer_range };
        let wte = vb.get_with_hints((config.vocab_size, config.n_embd), "wte.weight", init)?;
        let positions = PositionEncoding::build(config, vb.dtype(), vb.device(), |spec| {
            let init = if spec.drawn { init } else { candle_nn::Init::Const(0.0) };
            Ok(vb.get_with_hints(&*spec.shape, &spec.name, init)?)
        })?;
        Self::with_config(wte.into(), positions, config.clone())
    }

    /// Reads the two tables, and nothing else, out of a GPT-2 checkpoint: a safetensors file, a folder of Hugging Face's
    /// layout, or one with an index and shards. Where the configuration says other positions, their tables take the place
    /// of `wpe`, under the names of [`PositionEncoding::tables`].
    ///
    /// The tables are found by their names under any prefix (`wte.weight`, `tok_emb.weight`, …) and converted to `dtype`
    /// (f32, f16, bf16 or f64) while they are read.
    ///
    /// # Errors
    /// [`CheckpointError`](crate::error::CheckpointError), naming the file and what is wrong with it.
    pub fn from_pretrained(path: impl AsRef<Path>, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self::from_pretrained_with_report(path, dtype, device)?.0)
    }

    /// As [`from_pretrained`](Self::from_pretrained), and says what came from where.
    ///
    /// # Errors
    /// As [`from_pretrained`](Self::from_pretrained).
    pub fn from_pretrained_with_report(
        path: impl AsRef<Path>,
        dtype: DType,
        device: &Device,
    ) -> Result<(Self, LoadReport)> {
        Self::from_checkpoint(&Checkpoint::open(path)?, dtype, device)
    }

    /// As [`from_pretrained_with_report`](Self::from_pretrained_with_report), from a checkpoint that is already open.
    ///
    /// # Errors
    /// As [`from_pretrained`](Self::from_pretrained).
    pub fn from_checkpoint(checkpoint: &Checkpoint, dtype: DType, device: &Device) -> Result<(Self, LoadReport)> {
        let tables = checkpoint.load_tables(dtype, device)?;
        let positions = positions_of(&tables.config, tables.position_tables, dtype, device)?;
        Ok((Self::with_config(tables.wte.into(), positions, tables.config)?, tables.report))
    }

    /// As [`from_pretrained`](Self::from_pretrained), but the tables stay in their file: its header is read, and of the
    /// tables the rows that a call asks for, converted to `dtype` on the way and brought to `device` together.
    ///
    /// Opening takes milliseconds and next to no memory, however large the file; rows that the system keeps in its cache are
    /// looked up nearly as fast as those of a table in memory. Any format whose tensors lie row after row and uncompressed will
    /// do, aligned or not; GGUF's quantized blocks are dequantized row by row. What needs all numbers in memory (training,
    /// saving) does not work on it; [`lm_head`](Self::lm_head) reads the whole file in every call.
    ///
    /// The file is mapped: while the layer lives, nobody may change it or cut it off (replacing it, as every writer of this
    /// crate does, is fine). The numbers of a changed file are unspecified; a row beyond the end of a file that was cut
    /// off ends the process (`SIGBUS`), which no library can turn into an error.
    ///
    /// # Errors
    /// As [`from_pretrained`](Self::from_pretrained), and
    /// [`CheckpointError::NotMappable`](crate::error::CheckpointError::NotMappable) for tables that are compressed,
    /// big-endian or not stored row after row.
    pub fn from_pretrained_mapped(path: impl AsRef<Path>, dtype: DType, device: &Device) -> Result<(Self, LoadReport)> {
        Self::from_checkpoint_mapped(&Checkpoint::open(path)?, dtype, device)
    }

    /// As [`from_pretrained_mapped`](Self::from_pretrained_mapped), from a checkpoint that is already open.
    ///
    /// Of a checkpoint whose bytes are elsewhere ([`Checkpoint::from_ranges`]) a call fetches the rows that it needs, each
    /// once, in one request for the token table and one for the position table; that can fail as any reading can. Nothing
    /// is kept here: who fetches may keep it.
    ///
    /// # Errors
    /// As [`from_pretrained_mapped`](Self::from_pretrained_mapped).
    pub fn from_checkpoint_mapped(
        checkpoint: &Checkpoint,
        dtype: DType,
        device: &Device,
    ) -> Result<(Self, LoadReport)> {
        Self::from_stored(checkpoint.map_tables(dtype, device)?, dtype, device)
    }

    pub(super) fn from_stored(tables: StoredTables, dtype: DType, device: &Device) -> Result<(Self, LoadReport)> {
        let table = |rows, table| StoredTable { rows, dtype, device: device.clone(), table };
        let positions = match tables.wpe {
            Some(wpe) => PositionEncoding::learned(&tables.config, table(wpe, Table::Positions).into()),
            None => positions_of(&tables.config, tables.position_tables, dtype, device)?,
        };
        let wte = table(tables.wte, Table::Tokens);
        Ok((Self::with_config(wte.into(), positions, tables.config)?, tables.report))
    }

    /// Asks the system to have the rows of `input_ids` in memory soon: those of the next batch, while this one is computed.
    ///
    /// For tables that stay in a file; of tables in memory nothing is asked. Rows that are elsewhere are fetched and
    /// dropped, for the cache of who fetches them.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`](crate::Error::TokenOutOfRange), [`Error::IdDType`](crate::Error::IdDType), and what fetching reports.
    pub fn prefetch(&self, input_ids: &Tensor) -> Result<()> {
        let ids = self.wte.check(input_ids)?;
        self.wte.stored().map_or(Ok(()), |table| table.prefetch(&ids))
    }

    /// Writes the two tables (or `wte` and the tables of other positions) in their own type under Hugging Face's names, for
    /// this crate and for transformers to open.
    ///
    /// A path that ends in `.safetensors` becomes one file (the configuration goes into its metadata), one that ends in
    /// `.gguf` a GGUF file (of the configuration its dimensions, and learned positions only; a quantized table keeps its
    /// blocks), any other a folder with `model.safetensors` and `config.json`. Files appear whole or not at all, and are on
    /// disk when this returns.
    ///
    /// # Errors
    /// [`CheckpointError::Io`](crate::error::CheckpointError::Io) with the path; [`Error::Quantized`](crate::Error::Quantized) for a quantized table in
    /// another format than GGUF.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        if path.extension().is_some_and(|extension| extension == "gguf") && !path.is_dir() {
            return self.save_as_gguf(path);
        }
        save_tables(path, self.wte.dense()?.weight(), self.positions.tables(), &self.config)
    }
}

/// The scheme of a configuration on the tables that a checkpoint has for it, in their order.
fn positions_of(
    config: &GptInputConfig,
    tables: Vec<Tensor>,
    dtype: DType,
    device: &Device,
) -> Result<PositionEncoding> {
    let mut tables = tables.into_iter();
    PositionEncoding::build(config, dtype, device, |spec| {
        tables.next().ok_or_else(|| candle_core::Error::CannotFindTensor { path: spec.name.clone() }.into())
    })
}
