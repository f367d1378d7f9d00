//! [`InputTables`]: what a checkpoint has for an input layer, read.

use candle_core::{DType, Device, Tensor};

use super::locate::{Located, LocatedTable};
use super::{Checkpoint, ConfigSource, LoadReport};
use crate::config::GptInputConfig;
use crate::error::Result;

/// The tables of an input layer, and what is known about them.
#[derive(Debug)]
pub(crate) struct InputTables {
    /// The token table `[V, C]`.
    pub(crate) wte: Tensor,
    /// The learned tables of the positions: `wpe` `[P, C]`, or those that the configuration's scheme has.
    pub(crate) position_tables: Vec<Tensor>,
    /// The checkpoint's configuration, in agreement with the tables' shapes.
    pub(crate) config: GptInputConfig,
    /// What came from where.
    pub(crate) report: LoadReport,
}

impl Checkpoint {
    /// The checkpoint's configuration, in agreement with the shapes of its input tables; no tensor is read.
    ///
    /// # Errors
    /// [`CheckpointError`](crate::error::CheckpointError) if there are no such tables, or the configuration says otherwise.
    pub fn config(&self) -> Result<GptInputConfig> {
        Ok(self.locate()?.config)
    }

    /// Reads the input tables as `dtype` (f32, f16, bf16 or f64) onto `device`.
    ///
    /// Shapes, types and the configuration are checked before any data is read. Beside the tables themselves a megabyte
    /// is allocated.
    ///
    /// # Errors
    /// [`CheckpointError`](crate::error::CheckpointError), naming the file and the numbers that disagree.
    pub(crate) fn load_tables(&self, dtype: DType, device: &Device) -> Result<InputTables> {
        let located = self.locate()?;
        let report = self.report(&located, dtype);
        let position_tables = self.position_tables(&located, dtype, device)?;
        let Located { wte, config, .. } = located;
        Ok(InputTables { wte: wte.read(dtype, device)?, position_tables, config, report })
    }

    /// The learned tables of the positions, read.
    pub(super) fn position_tables(&self, located: &Located, dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
        if let Some(wpe) = &located.wpe {
            return Ok(vec![wpe.read(dtype, device)?]);
        }
        let vb = self.var_builder(dtype, device);
        located.positional().into_iter().map(|(name, shape)| Ok(vb.get(shape, &name)?)).collect()
    }

    pub(super) fn report(&self, located: &Located, dtype: DType) -> LoadReport {
        let Located { names, wte, wpe, padded_vocab, .. } = located;
        let positional = located.positional();
        let is_used = |name: &str| {
            let is_wpe = wpe.as_ref().is_some_and(|wpe| wpe.name == name);
            is_wpe || wte.name == name || positional.iter().any(|(positional, _)| positional == name)
        };
        LoadReport {
            wte: wte.report(),
            wpe: wpe.as_ref().map(LocatedTable::report),
            dtype,
            config_source: self.config.as_ref().map_or(ConfigSource::Shapes, |(source, _)| source.clone()),
            padded_vocab: *padded_vocab,
            unused: names.iter().filter(|name| !is_used(name)).map(|name| name.to_string()).collect(),
        }
    }
}
