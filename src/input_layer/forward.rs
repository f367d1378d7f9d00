//! Ids in, hidden states out.

use candle_core::{DType, Tensor};

use super::GptInputLayer;
use crate::embedding::IdCheck;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::kernel::{
    CheckedIds, IdChecks, Places, Table, Wpe, add_rows, copy_into, gather_add, gather_add_into, gather_into,
};
use crate::position::{PositionTable, Positions};
use crate::shape::outer_dims;

/// # Forward
impl GptInputLayer {
    /// Embeds ids that start a sequence, without dropout.
    ///
    /// # Shapes
    /// - `input_ids`: `[B, T]` (or `[T]`, or more dimensions before T), `u8`, `u32` or `i64`, any stride, empty allowed
    /// - returns: `[B, T, C]` in the tables' dtype
    ///
    /// # Errors
    /// - [`Error::TokenOutOfRange`] if an id is not below V
    /// - [`Error::SequenceTooLong`] if T is more than P
    /// - [`Error::IdDType`] if the ids have another dtype
    pub fn forward(&self, input_ids: &Tensor) -> Result<Tensor> {
        self.forward_at(input_ids, 0)
    }

    /// Embeds ids at given positions: `start_pos` with a key/value cache, a tensor of position ids, or
    /// [`Positions::from_mask`].
    ///
    /// # Shapes
    /// - `input_ids`: `[.., T]`
    /// - position ids, if given: any shape that broadcasts to it
    /// - returns: `[.., T, C]`
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and [`Error::PositionOutOfRange`] or [`Error::ShapeMismatch`] for position ids.
    #[doc(alias("position_ids", "past_key_values_length"))]
    pub fn forward_at(&self, input_ids: &Tensor, positions: impl Into<Positions>) -> Result<Tensor> {
        let places = self.places(&positions.into(), input_ids.dims(), &self.id_checks)?;
        let ids = self.wte.check_as(input_ids, &self.id_checks)?;
        let Some((wpe, places)) = places else { return self.token_rows(&ids) };
        if self.wte.is_plain() && self.embed_scale().is_none() {
            match (self.wte.stored(), wpe.stored()) {
                (None, None) => return gather_add(self.wte.dense()?.weight(), &ids, wpe.dense()?.weight(), &places),
                (Some(wte), Some(wpe)) => return wte.gather_add(&ids, Wpe::Stored(wpe), &places),
                (Some(wte), None) if wte.can_add(wpe.dense()?.weight()) => {
                    return wte.gather_add(&ids, Wpe::Dense(wpe.dense()?.weight()), &places);
                }
                _ => {}
            }
        }
        add_rows(&self.token_rows(&ids)?, &wpe.rows_at(&places)?)
    }

    /// Embeds into an existing buffer. Allocates nothing for contiguous ids at a start position, and records nothing for
    /// gradients.
    ///
    /// The buffer may be of another type than the tables: the sum is taken in f32 and rounded once to it (an f64 buffer
    /// goes with f64 tables only). With mapped or quantized tables, or token rows that are scaled, it must be of the tables'
    /// type, and its content is copied.
    ///
    /// # Shapes
    /// - `input_ids`: `[.., T]`
    /// - `buffer`: `[.., T, C]`, contiguous, not a variable
    ///
    /// # Errors
    /// As [`forward_at`](Self::forward_at), and [`Error::ShapeMismatch`] or [`Error::Candle`] for a buffer that does not fit.
    pub fn forward_into(&self, input_ids: &Tensor, positions: impl Into<Positions>, buffer: &Tensor) -> Result<()> {
        let stored = self.wte.stored().or(self.wpe().and_then(PositionTable::stored));
        if stored.is_some() || self.embed_scale().is_some() {
            return copy_into(buffer, &self.forward_at(input_ids, positions)?);
        }
        let places = self.places(&positions.into(), input_ids.dims(), &self.id_checks)?;
        let ids = self.wte.check_as(input_ids, &self.id_checks)?;
        if !self.wte.is_plain() {
            self.wte.forward_checked(&ids)?; // for what `max_norm` does to the table
        }
        let weight = self.wte.dense()?.weight();
        match places {
            Some((wpe, places)) => gather_add_into(buffer, weight, &ids, wpe.dense()?.weight(), &places),
            None => gather_into(buffer, weight, &ids),
        }
    }

    /// Embeds tokens without positions, the first half of [`forward`](Self::forward). Ids may have any rank; a scalar gives `[C]`.
    ///
    /// # Shapes
    /// - `input_ids`: `[..]`
    /// - returns: `[.., C]`
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`], [`Error::IdDType`].
    pub fn embed_tokens(&self, input_ids: &Tensor) -> Result<Tensor> {
        self.token_rows(&self.wte.check_as(input_ids, &self.id_checks)?)
    }

    /// Adds positions to embeddings of your own (`inputs_embeds`, token types, soft prompts), the second half of
    /// [`forward`](Self::forward).
    ///
    /// # Shapes
    /// - `inputs_embeds`: `[.., T, C]`
    /// - returns: the same
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the last dimension is not C, [`Error::TableMismatch`] if the dtype is not the tables',
    /// and the errors of positions as in [`forward_at`](Self::forward_at).
    #[doc(alias = "inputs_embeds")]
    pub fn add_positions(&self, inputs_embeds: &Tensor, positions: impl Into<Positions>) -> Result<Tensor> {
        let ids_dims =
            outer_dims("inputs_embeds", inputs_embeds, (Table::Positions.name(), self.config.n_embd, self.dtype()))?;
        match self.places(&positions.into(), ids_dims, &self.id_checks)? {
            Some((wpe, places)) => add_rows(inputs_embeds, &wpe.rows_at(&places)?),
            None => Ok(inputs_embeds.clone()),
        }
    }

    /// The table that is added to the input, and where ids of shape `ids_dims` stand in it; `None` if nothing is added.
    pub(super) fn places(
        &self,
        positions: &Positions,
        ids_dims: &[usize],
        checks: &IdChecks,
    ) -> Result<Option<(&PositionTable, Places)>> {
        match self.positions.input_table() {
            Some(wpe) => Ok(Some((wpe, wpe.places(positions, ids_dims, checks)?))),
            None => {
                positions.resolve(ids_dims, usize::MAX)?; // what does not go with the ids is an error all the same
                Ok(None)
            }
        }
    }

    /// What token rows are multiplied by before positions are added, where the scheme says so.
    pub(super) fn embed_scale(&self) -> Option<f64> {
        self.config.position.scales_embedding().then(|| (self.config.n_embd as f64).sqrt())
    }

    /// The rows of checked ids, scaled: in f32 at least and rounded once, as PyTorch multiplies by a number.
    fn token_rows(&self, ids: &CheckedIds) -> Result<Tensor> {
        let rows = self.wte.forward_checked(ids)?;
        let Some(scale) = self.embed_scale() else { return Ok(rows) };
        let wide = if rows.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        Ok((rows.to_dtype(wide)? * scale)?.to_dtype(rows.dtype())?)
    }

    /// Asks the system to have the rows of `input_ids` in memory soon: those of the next batch, while this one is computed.
    ///
    /// Does nothing for tables in memory. Remote rows are fetched and discarded, to warm the source's own cache.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`], [`Error::IdDType`], and what fetching reports.
    pub fn prefetch(&self, input_ids: &Tensor) -> Result<()> {
        let ids = self.wte.check(input_ids)?;
        self.wte.stored().map_or(Ok(()), |table| table.prefetch(&ids))
    }

    /// Sets when ids on a CUDA device are checked. Ids elsewhere are always checked. Clones share pending errors.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    /// use candle_gpt_input::embedding::IdCheck;
    ///
    /// # let device = Device::Cpu;
    /// # let table = Tensor::zeros((4, 2), candle_core::DType::F32, &device)?;
    /// let layer = GptInputLayer::new(table.clone(), table)?.with_id_check(IdCheck::Deferred)?;
    /// for step in 0..3u32 {
    ///     let input_ids = Tensor::new(&[step], &device)?; // say, what sampling has left on the device
    ///     layer.forward(&input_ids)?; // does not wait for the device
    /// }
    /// layer.check_ids()?; // waits, once
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Candle`] if the device has no memory for what is noted.
    pub fn with_id_check(mut self, id_check: IdCheck) -> Result<Self> {
        self.id_checks = IdChecks::new(id_check, self.device())?;
        Ok(self)
    }

    /// Reports the first bad id of the first call that had one since the last check. With [`IdCheck::Deferred`] this waits for
    /// the device once; otherwise it costs nothing.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`] or [`Error::PositionOutOfRange`], as the call itself would have reported it.
    pub fn check_ids(&self) -> Result<()> {
        self.id_checks.take()
    }
}
