//! The output head of a layer: tied, one of its own, or still in its checkpoint.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};

use super::options::{OpenOptions, TableStorage};
use crate::checkpoint::{HeadTable, StoredHead};
use crate::config::GptInputConfig;
use crate::embedding::TokenTable;
use crate::error::Result;
use crate::kernel::{StoredTable, Table};
use crate::lm_head::LmHead;

#[derive(Clone, Debug)]
pub(super) enum Head {
    /// The token table, with a bias in some models.
    Tied(Option<Tensor>),
    Own(LmHead),
    /// In the checkpoint, until it is asked for.
    Unread(Arc<Unread>),
    /// In the checkpoint, behind more than a head does.
    Transformed(Arc<StoredHead>),
    /// The model has one of its own, which nobody gave.
    Missing,
}

/// A head in a checkpoint.
#[derive(Debug)]
pub(super) struct Unread {
    stored: StoredHead,
    options: OpenOptions,
    is_tied: bool,
    /// What became of it, once it was asked for.
    read: OnceLock<Head>,
}

impl Head {
    /// Returns the head of a layer whose tables come from elsewhere than a checkpoint.
    pub(super) fn of(config: &GptInputConfig) -> Self {
        if config.tie_word_embeddings() { Self::Tied(None) } else { Self::Missing }
    }

    pub(super) fn stored(stored: Option<StoredHead>, options: &OpenOptions, config: &GptInputConfig) -> Self {
        let Some(stored) = stored else { return Self::of(config) };
        if stored.transform().is_some() {
            return Self::Transformed(stored.into());
        }
        let (options, is_tied) = (options.clone(), config.tie_word_embeddings());
        Self::Unread(Unread { stored, options, is_tied, read: OnceLock::new() }.into())
    }

    /// Returns the head, which is read now if it has not been.
    pub(super) fn resolved(&self) -> Result<Self> {
        let Self::Unread(unread) = self else { return Ok(self.clone()) };
        if let Some(head) = unread.read.get() {
            return Ok(head.clone());
        }
        let head = unread.read()?;
        Ok(unread.read.get_or_init(|| head).clone())
    }

    /// Returns the head in another dtype; one that was not read stays so.
    pub(super) fn to_dtype(&self, dtype: DType) -> Result<Self> {
        if let Self::Unread(unread) = self
            && unread.read.get().is_none()
        {
            let Unread { stored, options, is_tied, .. } = &**unread;
            let options = OpenOptions { dtype, ..options.clone() };
            let (stored, is_tied) = (stored.clone(), *is_tied);
            return Ok(Self::Unread(Unread { stored, options, is_tied, read: OnceLock::new() }.into()));
        }
        let convert = |tensor: &Tensor| Ok(tensor.to_dtype(dtype)?);
        self.map(|table| table.with_weight(convert(table.dense()?.weight())?), convert)
    }

    /// Returns the head with its own table and bias changed; a tied one has only a bias. It is read if it has not been.
    pub(super) fn map(
        &self,
        table: impl FnOnce(&TokenTable) -> Result<TokenTable>,
        bias: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        Ok(match self.resolved()? {
            Self::Own(head) => Self::Own(head.map(table, bias)?),
            Self::Tied(of_head) => Self::Tied(of_head.as_ref().map(bias).transpose()?),
            other => other,
        })
    }

    /// Returns the tensors of its own in memory with their names in its module; those of an unread head are not.
    pub(super) fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        let (weight, bias) = match self {
            Self::Own(head) => (head.table().dense().ok().map(|table| table.weight()), head.bias()),
            Self::Tied(bias) => (None, bias.as_ref()),
            Self::Unread(unread) => return unread.read.get().map(Self::tensors).unwrap_or_default(),
            Self::Transformed(_) | Self::Missing => (None, None),
        };
        let weight = weight.map(|weight| ("weight", weight));
        weight.into_iter().chain(bias.map(|bias| ("bias", bias))).collect()
    }
}

impl Unread {
    /// Reads the head. As in transformers, a weight in the file that differs from the token table is the model's head,
    /// whatever the configuration says.
    fn read(&self) -> Result<Head> {
        let Self { stored, options, is_tied, .. } = self;
        let (dtype, device) = (options.dtype, &options.device);
        let bias = || stored.bias(dtype, device);
        // A remote table is refused before anything is fetched to compare it.
        let mapped = match options.head_storage {
            TableStorage::Mapped => stored.mapped()?.map(|table| own(table, dtype, device)).transpose()?,
            TableStorage::Dense | TableStorage::Quantized => None,
        };
        if *is_tied && (!stored.has_weight()? || stored.is_copy_of_wte()?) {
            return Ok(Head::Tied(bias()?));
        }
        let head = match (mapped, options.head_storage) {
            (Some(head), _) => head,
            (None, TableStorage::Quantized) => match stored.quantized(dtype, device)? {
                Some(table) => own(table, dtype, device)?,
                None => return Ok(Head::Missing),
            },
            (None, _) => match stored.read(dtype, device)? {
                Some(table) => own(table, dtype, device)?,
                None => return Ok(Head::Missing),
            },
        };
        Ok(Head::Own(match bias()? {
            Some(bias) => head.with_bias(bias)?,
            None => head,
        }))
    }
}

fn own(table: HeadTable, dtype: DType, device: &Device) -> Result<LmHead> {
    match table {
        HeadTable::Dense(weight) => LmHead::new(weight),
        HeadTable::Stored(rows) => {
            LmHead::new(TokenTable::from(StoredTable { rows, dtype, device: device.clone(), table: Table::Tokens }))
        }
    }
}
