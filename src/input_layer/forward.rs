//! The forward pass: ids in, hidden states out.

use candle_core::{DType, Tensor};

use super::GptInputLayer;
use crate::embedding::IdCheck;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::kernel::{
    CheckedIds, IdChecks, Places, Table, Wpe, add_rows, apart, copy_into, gather_add, gather_add_into, gather_into,
};
use crate::memory::copy_fits;
use crate::position::{PositionTable, Positions};
use crate::shape::outer_dims;

/// # Forward
impl GptInputLayer {
    /// Embeds ids that start a sequence, without dropout.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    ///
    /// let wte = Tensor::new(&[[0f32], [100.], [200.]], &Device::Cpu)?;
    /// let wpe = Tensor::new(&[[1f32], [2.]], &Device::Cpu)?;
    /// let layer = GptInputLayer::new(wte, wpe)?;
    /// let hidden_states = layer.forward(&Tensor::new(&[2u32, 0], &Device::Cpu)?)?; // [T] -> [T, C]
    /// assert_eq!(hidden_states.to_vec2::<f32>()?, [[201.], [2.]]);
    /// let error = layer.forward(&Tensor::new(&[3u32], &Device::Cpu)?).unwrap_err().to_string();
    /// assert_eq!(error, "token id 3 at [0] is outside the vocabulary of 3 (valid ids: 0 to 2)");
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
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
    /// ```
    /// # use candle_core::{Device, Tensor};
    /// # use candle_gpt_input::GptInputLayer;
    /// let wte = Tensor::new(&[[0f32], [100.]], &Device::Cpu)?;
    /// let wpe = Tensor::new(&[[1f32], [2.], [3.]], &Device::Cpu)?;
    /// let layer = GptInputLayer::new(wte, wpe)?;
    /// let ids = Tensor::new(&[1u32, 0], &Device::Cpu)?;
    /// assert_eq!(layer.forward_at(&ids, 1)?.to_vec2::<f32>()?, [[102.], [3.]]);
    /// let position_ids = Tensor::new(&[2u32, 0], &Device::Cpu)?;
    /// assert_eq!(layer.forward_at(&ids, &position_ids)?.to_vec2::<f32>()?, [[103.], [1.]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `input_ids`: `[.., T]`
    /// - position ids, if given: any shape that broadcasts to it
    /// - returns: `[.., T, C]`
    ///
    /// # Errors
    /// - [`Error::TokenOutOfRange`] if an id is not below V
    /// - [`Error::SequenceTooLong`] if the positions end after P
    /// - [`Error::PositionOutOfRange`] if a position id is not below P
    /// - [`Error::ShapeMismatch`] if position ids or a mask do not fit the ids
    /// - [`Error::IdDType`] if ids or position ids have another dtype
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

    /// Embeds into an existing buffer. For contiguous ids at a start position it allocates nothing; it records nothing
    /// for gradients.
    ///
    /// The buffer may have another dtype than the tables: the sum is computed in f32 and rounded once (an f64 buffer
    /// needs f64 tables). With mapped or quantized tables, or scaled token rows, the result is computed first and
    /// copied; the buffer must then have the tables' dtype.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_gpt_input::GptInputLayer;
    /// let wte = Tensor::new(&[[0f32], [100.]], &Device::Cpu)?;
    /// let wpe = Tensor::new(&[[1f32], [2.]], &Device::Cpu)?;
    /// let layer = GptInputLayer::new(wte, wpe)?;
    /// let buffer = Tensor::zeros((2, 1), DType::F32, &Device::Cpu)?;
    /// layer.forward_into(&Tensor::new(&[1u32, 0], &Device::Cpu)?, 0, &buffer)?;
    /// assert_eq!(buffer.to_vec2::<f32>()?, [[101.], [2.]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `input_ids`: `[.., T]`
    /// - `buffer`: `[.., T, C]`, contiguous. A variable may be given, too: its elements are replaced
    ///
    /// # Errors
    /// - those of [`forward_at`](Self::forward_at) for ids and positions
    /// - [`Error::ShapeMismatch`], [`Error::TableMismatch`] or [`Error::Candle`] for a buffer that does not fit
    /// - [`Error::SharedMemory`] for a buffer in the memory of a table
    pub fn forward_into(&self, input_ids: &Tensor, positions: impl Into<Positions>, buffer: &Tensor) -> Result<()> {
        let stored = self.wte.stored().or(self.wpe().and_then(PositionTable::stored));
        if stored.is_some() || self.embed_scale().is_some() {
            let wte = self.wte.dense().ok().map(|wte| ("wte", wte.weight()));
            let wpe = self.wpe().and_then(|wpe| wpe.dense().ok()).map(|wpe| ("wpe", wpe.weight()));
            apart(("buffer", buffer), &wte.into_iter().chain(wpe).collect::<Vec<_>>())?;
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

    /// Embeds tokens without positions, the first half of [`forward`](Self::forward). Ids may have any rank; a scalar
    /// gives `[C]`.
    ///
    /// ```
    /// # use candle_core::{Device, Tensor};
    /// # use candle_gpt_input::GptInputLayer;
    /// let wte = Tensor::new(&[[0f32], [100.]], &Device::Cpu)?;
    /// let wpe = Tensor::new(&[[1f32], [2.]], &Device::Cpu)?;
    /// let layer = GptInputLayer::new(wte, wpe)?;
    /// let embeds = layer.embed_tokens(&Tensor::new(&[1u32, 0], &Device::Cpu)?)?;
    /// assert_eq!(embeds.to_vec2::<f32>()?, [[100.], [0.]]);
    /// assert_eq!(layer.add_positions(&embeds, 0)?.to_vec2::<f32>()?, [[101.], [2.]]); // as `forward`
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `input_ids`: `[..]`
    /// - returns: `[.., C]`
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`] if an id is not below V, [`Error::IdDType`] if the ids have another dtype.
    pub fn embed_tokens(&self, input_ids: &Tensor) -> Result<Tensor> {
        self.token_rows(&self.wte.check_as(input_ids, &self.id_checks)?)
    }

    /// Adds positions to embeddings of your own (`inputs_embeds`, token types, soft prompts): the second half of
    /// [`forward`](Self::forward).
    ///
    /// ```
    /// # use candle_core::{Device, Tensor};
    /// # use candle_gpt_input::GptInputLayer;
    /// let wte = Tensor::new(&[[0f32], [100.]], &Device::Cpu)?;
    /// let wpe = Tensor::new(&[[1f32], [2.]], &Device::Cpu)?;
    /// let layer = GptInputLayer::new(wte, wpe)?;
    /// let soft_prompt = Tensor::new(&[[0.5f32], [0.25]], &Device::Cpu)?; // [T, C]
    /// assert_eq!(layer.add_positions(&soft_prompt, 0)?.to_vec2::<f32>()?, [[1.5], [2.25]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `inputs_embeds`: `[.., T, C]`
    /// - returns: the same
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if the last dimension is not C, or position ids or a mask do not fit
    /// - [`Error::TableMismatch`] if the dtype is not the tables'
    /// - [`Error::SequenceTooLong`] or [`Error::PositionOutOfRange`] for positions beyond P, [`Error::IdDType`] for
    ///   position ids of another dtype
    #[doc(alias = "inputs_embeds")]
    pub fn add_positions(&self, inputs_embeds: &Tensor, positions: impl Into<Positions>) -> Result<Tensor> {
        let ids_dims =
            outer_dims("inputs_embeds", inputs_embeds, (Table::Positions.name(), self.config.n_embd, self.dtype()))?;
        copy_fits("inputs_embeds", inputs_embeds)?;
        match self.places(&positions.into(), ids_dims, &self.id_checks)? {
            Some((wpe, places)) => add_rows(inputs_embeds, &wpe.rows_at(&places)?),
            None => Ok(inputs_embeds.clone()),
        }
    }

    /// Returns the table that is added to the input, and the places of ids of shape `ids_dims` in it; `None` if nothing
    /// is added.
    pub(super) fn places(
        &self,
        positions: &Positions,
        ids_dims: &[usize],
        checks: &IdChecks,
    ) -> Result<Option<(&PositionTable, Places)>> {
        match self.positions.input_table() {
            Some(wpe) => Ok(Some((wpe, wpe.places(positions, ids_dims, checks)?))),
            None => {
                positions.resolve(ids_dims, usize::MAX)?; // positions that do not fit the ids are an error all the same
                Ok(None)
            }
        }
    }

    /// Returns the factor of token rows before positions are added, if there is one.
    pub(super) fn embed_scale(&self) -> Option<f64> {
        self.config.embed_scale(self.dtype())
    }

    /// Returns the rows of checked ids, scaled in f32 or wider and rounded once, as PyTorch multiplies by a number.
    fn token_rows(&self, ids: &CheckedIds) -> Result<Tensor> {
        let rows = self.wte.forward_checked(ids)?;
        let Some(scale) = self.embed_scale() else { return Ok(rows) };
        let wide = if rows.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        Ok((rows.to_dtype(wide)? * scale)?.to_dtype(rows.dtype())?)
    }

    /// Asks the system to load the rows that [`forward`](Self::forward) will read, for example those of the next batch.
    ///
    /// Does nothing for tables in memory. Remote rows are fetched and discarded, to fill the source's own cache. Both
    /// tables are asked, even if one fails: a source that notes what it lacks (see
    /// [`ByteRanges`](crate::checkpoint::ByteRanges)) learns all of it at once.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward), and [`CheckpointError::Io`](crate::error::CheckpointError::Io) if remote
    /// rows cannot be fetched.
    pub fn prefetch(&self, input_ids: &Tensor) -> Result<()> {
        self.prefetch_at(input_ids, 0)
    }

    /// Asks for the rows that [`forward_at`](Self::forward_at) will read, as [`prefetch`](Self::prefetch) does.
    ///
    /// # Errors
    /// Those of [`forward_at`](Self::forward_at) and [`prefetch`](Self::prefetch).
    pub fn prefetch_at(&self, input_ids: &Tensor, positions: impl Into<Positions>) -> Result<()> {
        let ids = self.wte.check(input_ids)?;
        let places = self.places(&positions.into(), input_ids.dims(), &self.id_checks)?;
        let tokens = self.wte.stored().map_or(Ok(()), |table| table.prefetch(&ids));
        let positions = places.and_then(|(wpe, places)| Some(wpe.stored()?.prefetch_places(&places)));
        tokens.and(positions.unwrap_or(Ok(())))
    }

    /// Sets when ids on a CUDA device are checked. Other ids are checked in every call. Clones share pending errors.
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
    /// [`Error::Candle`] if the device has no memory for the pending errors.
    pub fn with_id_check(mut self, id_check: IdCheck) -> Result<Self> {
        self.id_checks = IdChecks::new(id_check, self.device())?;
        Ok(self)
    }

    /// Reports the first invalid id of the first call that had one since the last check. With [`IdCheck::Deferred`]
    /// this waits for the device once; otherwise it costs nothing.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`] or [`Error::PositionOutOfRange`], as the call itself would have reported it.
    pub fn check_ids(&self) -> Result<()> {
        self.id_checks.take()
    }
}
