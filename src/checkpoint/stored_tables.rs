//! [`StoredTables`]: the tables of an input layer in their stored form.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::mapped::{hold, map};
use super::{Checkpoint, LoadReport, StoredHead};
use crate::config::GptInputConfig;
use crate::error::{CheckpointError, Result};
use crate::rows::StoredRows;

/// The two tables of an input layer, not converted.
pub(crate) struct StoredTables {
    pub(crate) wte: StoredRows,
    pub(crate) wpe: Option<StoredRows>,
    /// The position tables that are loaded into memory.
    pub(crate) position_tables: Vec<Tensor>,
    pub(crate) head: Option<StoredHead>,
    pub(crate) config: GptInputConfig,
    pub(crate) report: LoadReport,
}

impl Checkpoint {
    /// Maps the files of the two input tables, or keeps their remote source; reads no row.
    pub(crate) fn map_tables(&self, dtype: DType, device: &Device) -> Result<StoredTables> {
        must_be_float(dtype)?;
        let located = self.locate()?;
        let mut maps = HashMap::new();
        let wte = map(&located.wte, &mut maps)?;
        let wpe = located.wpe.as_ref().map(|wpe| map(wpe, &mut maps)).transpose()?;
        let position_tables = match wpe {
            Some(_) => Vec::new(),
            None => self.position_tables(&located, dtype, device)?,
        };
        let report = self.report(&located, dtype);
        let head = self.stored_head(&located);
        Ok(StoredTables { wte, wpe, position_tables, head, config: located.config, report })
    }

    /// Reads the token table's blocks unchanged, and the position tables as `dtype`.
    pub(crate) fn quantized_tables(&self, dtype: DType, device: &Device) -> Result<StoredTables> {
        must_be_float(dtype)?;
        let located = self.locate()?;
        let wte = hold(&located.wte)?;
        let position_tables = self.position_tables(&located, dtype, device)?;
        let report = self.report(&located, dtype);
        let head = self.stored_head(&located);
        Ok(StoredTables { wte, wpe: None, position_tables, head, config: located.config, report })
    }
}

fn must_be_float(dtype: DType) -> Result<(), CheckpointError> {
    match dtype {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => Ok(()),
        dtype => Err(CheckpointError::UnsupportedDType { dtype }),
    }
}
