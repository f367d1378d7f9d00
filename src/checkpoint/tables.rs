//! [`InputTables`]: the tables of an input layer, read from a checkpoint.

use std::collections::HashSet;
use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use super::left_out::left_out;
use super::locate::{Located, LocatedTable};
use super::{Checkpoint, ConfigSource, LoadReport, StoredHead};
use crate::config::GptInputConfig;
use crate::error::Result;

/// The tables of an input layer, with their configuration and report.
#[derive(Debug)]
pub(crate) struct InputTables {
    /// The token table `[V, C]`.
    pub(crate) wte: Tensor,
    /// The learned position tables: `wpe` `[P, C]`, or those of the configuration's scheme.
    pub(crate) position_tables: Vec<Tensor>,
    /// The output head.
    pub(crate) head: Option<StoredHead>,
    /// The checkpoint's configuration, which agrees with the tables' shapes.
    pub(crate) config: GptInputConfig,
    /// What was loaded from where.
    pub(crate) report: LoadReport,
}

impl Checkpoint {
    /// Returns the checkpoint's configuration, checked against the shapes of the input tables; reads no tensor.
    ///
    /// Dimensions that it does not state are those of the tables.
    ///
    /// # Errors
    /// [`CheckpointError`](crate::error::CheckpointError) if there are no input tables, or the configuration
    /// contradicts their shapes.
    pub fn config(&self) -> Result<GptInputConfig> {
        Ok(self.locate()?.config)
    }

    /// Returns where the configuration came from.
    ///
    /// With [`ConfigSource::Shapes`] the number of heads is a guess, which no table confirms: heads of 64, as in every
    /// GPT-2 of OpenAI's, or else one.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::checkpoint::{Checkpoint, ConfigSource, save_tensors};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("alone.safetensors");
    /// let wte = Tensor::zeros((5, 128), DType::F32, &Device::Cpu)?;
    /// save_tensors(&path, [("wte.weight", &wte), ("wpe.weight", &wte)], [])?; // without a config.json beside it
    /// let checkpoint = Checkpoint::open(&path)?;
    /// assert_eq!(checkpoint.config_source(), ConfigSource::Shapes);
    /// assert_eq!(checkpoint.config()?.n_head, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn config_source(&self) -> ConfigSource {
        self.config.as_ref().map_or(ConfigSource::Shapes, |(source, _)| source.clone())
    }

    /// Reads the input tables as `dtype` (f32, f16, bf16 or f64) onto `device`.
    ///
    /// Checks shapes, dtypes and the configuration before it reads any data. Allocates a megabyte in addition to the
    /// tables.
    ///
    /// # Errors
    /// [`CheckpointError`](crate::error::CheckpointError), which names the file and the values that disagree.
    pub(crate) fn load_tables(&self, dtype: DType, device: &Device) -> Result<InputTables> {
        let located = self.locate()?;
        let report = self.report(&located, dtype);
        let position_tables = self.position_tables(&located, dtype, device)?;
        let head = self.stored_head(&located);
        let Located { wte, config, .. } = located;
        Ok(InputTables { wte: wte.read(dtype, device)?, position_tables, head, config, report })
    }

    /// Reads the rows of the token table that `rows` chooses, and no others; returns them with the configuration.
    pub(crate) fn token_rows(
        &self,
        rows: impl FnOnce(&GptInputConfig) -> Range<usize>,
        dtype: DType,
    ) -> Result<(Tensor, GptInputConfig)> {
        let Located { mut wte, config, .. } = self.locate()?;
        let rows = rows(&config);
        let width = wte.info.width;
        let weight = match wte.info.without_first(rows.start) {
            Some(info) if !rows.is_empty() => {
                wte.info = info.first(rows.len());
                wte.read(dtype, &Device::Cpu)?
            }
            _ => Tensor::zeros((0, width), dtype, &Device::Cpu)?,
        };
        Ok((weight, config))
    }

    /// Reads the learned position tables.
    pub(super) fn position_tables(&self, located: &Located, dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
        if let Some(wpe) = &located.wpe {
            return Ok(vec![wpe.read(dtype, device)?]);
        }
        let vb = self.var_builder(dtype, device);
        located.positional().into_iter().map(|(name, shape)| Ok(vb.get(shape, &name)?)).collect()
    }

    pub(super) fn report(&self, located: &Located, dtype: DType) -> LoadReport {
        let Located { names, wte, wpe, head, config, padded_vocab } = located;
        let positional = located.positional();
        let wpe_name = wpe.as_ref().map(|wpe| wpe.name.as_str());
        let used: HashSet<&str> =
            positional.iter().map(|(name, _)| name.as_str()).chain([wte.name.as_str()]).chain(wpe_name).collect();
        let lm_head = match head.weights.as_slice() {
            [weight] => Some(weight.name.clone()),
            _ => None,
        };
        let unused = || names.iter().copied().filter(|name| !used.contains(name) && lm_head.as_deref() != Some(name));
        let (unreadable, not_in_index) = self.left_beside(wte, wpe.as_ref());
        LoadReport {
            wte: wte.report(),
            wpe: wpe.as_ref().map(LocatedTable::report),
            dtype,
            config_source: self.config_source(),
            padded_vocab: *padded_vocab,
            is_vocab_size_known: self.is_vocab_size_known(config),
            has_lm_head: lm_head.is_some() || config.tie_word_embeddings(),
            pickle: wte.file.get().pickle().cloned(),
            choice: self.choice.clone(),
            left_out: left_out(
                unused(),
                &wte.name,
                wpe_name,
                self.config.as_ref().and_then(|(_, config)| config.model_type()),
            ),
            unused: unused().map(str::to_string).collect(),
            unreadable,
            not_in_index,
            lm_head: lm_head.clone(),
        }
    }
}
