//! Changes of a layer's tables: vocabulary, positions, dtype, quantization.

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Tensor};
use candle_nn::VarMap;

use super::GptInputLayer;
use crate::config::GptInputConfig;
use crate::embedding::{NewRows, QuantizeReport, TokenTable};
use crate::error::{EmbeddingError, Result};
#[cfg(doc)]
use crate::init::Init;
use crate::kernel::new_var;
use crate::position::{PositionEncoding, PositionScheme, Resize, resized};

/// # Change the tables
impl GptInputLayer {
    /// Returns the layer with a vocabulary of `vocab_size` tokens: `resize_token_embeddings` of transformers.
    ///
    /// Rows that both tables have keep their bits, and new rows follow. Random rows are drawn from the layer's
    /// [`generator`](Self::generator). A head of its own is resized as well, after the token table.
    /// [`lm_head`](Self::lm_head) and [`save`](Self::save) follow. A variable becomes a
    /// new variable: replace the old one with [`update_varmap`](Self::update_varmap) and
    /// [`AdamW::resize_table`](crate::optim::AdamW::resize_table).
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    /// use candle_gpt_input::embedding::NewRows;
    /// use candle_gpt_input::optim::AdamW;
    /// use candle_nn::VarMap;
    ///
    /// let varmap = VarMap::new();
    /// let wte = Tensor::new(&[[0f32, 1.], [10., 11.]], &Device::Cpu)?;
    /// let wpe = Tensor::new(&[[0.5f32, 0.5]], &Device::Cpu)?;
    /// let old = GptInputLayer::new(wte, wpe)?.trainable(&varmap, "transformer")?;
    /// let mut adamw = AdamW::new_lr(old.vars(), 1e-3)?; // and train for a while
    ///
    /// let layer = old.resize_vocab(3, NewRows::Mean)?; // add a token
    /// layer.update_varmap(&old, &varmap);
    /// for (old, new) in old.vars().iter().zip(&layer.vars()) {
    ///     adamw.resize_table(old, new)?;
    /// }
    /// adamw.freeze_rows(&layer.vars()[0], 0..2)?; // if only the new row is to be trained
    /// assert_eq!(layer.vars()[0].to_vec2::<f32>()?, [[0., 1.], [10., 11.], [5., 6.]]);
    /// assert_eq!(layer.config().vocab_size, 3);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`EmbeddingError::Zero`] for a `vocab_size` of 0
    /// - [`EmbeddingError::PaddingIdx`] if the padding row would be cut off
    /// - [`EmbeddingError::SubTokens`] if there is not a list for each new
    ///   row, or one is empty
    /// - [`Error::TokenOutOfRange`](crate::Error::TokenOutOfRange) for a token of `new_rows` that the table does not
    ///   have
    /// - [`Error::NotInMemory`](crate::Error::NotInMemory) for a mapped table,
    ///   [`Error::Quantized`](crate::Error::Quantized) for a quantized one
    #[doc(alias = "resize_token_embeddings")]
    pub fn resize_vocab(&self, vocab_size: usize, new_rows: NewRows) -> Result<Self> {
        self.resize_rows(vocab_size, vocab_size, new_rows)
    }

    /// Returns the layer with `n_rows` rows of which the first `vocab_size` are tokens. Rows of padding become new ones.
    fn resize_rows(&self, vocab_size: usize, n_rows: usize, new_rows: NewRows) -> Result<Self> {
        let n_tokens = self.config.vocab_size;
        let resized = |table: &TokenTable| match table.dims().0 {
            // What the rows of padding hold is not a token's.
            n_old if n_tokens < n_old.min(n_rows) => {
                let tokens = table.resize(n_tokens, NewRows::Mean, &self.generator)?;
                tokens.resize(n_rows, new_rows.clone(), &self.generator)
            }
            _ => table.resize(n_rows, new_rows.clone(), &self.generator),
        };
        let bias = |bias: &Tensor| resized_bias(bias, n_tokens, n_rows);
        let (wte, head) = (resized(&self.wte)?, self.head.map(resized, bias)?);
        let padded_vocab_size = (n_rows != vocab_size).then_some(n_rows);
        let config = GptInputConfig { vocab_size, padded_vocab_size, ..self.config.clone() };
        Ok(Self { wte, config, head, ..self.clone() })
    }

    /// Returns the layer with its tables padded to the next multiple, as `pad_to_multiple_of` of transformers does for
    /// matrix products of even size. A vocabulary that is a multiple already is not changed.
    ///
    /// `vocab_size` stays: rows of padding can be looked up, but have no logits and are no targets.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    /// use candle_gpt_input::embedding::NewRows;
    ///
    /// let table = Tensor::new(&[[0f32], [2.], [4.]], &Device::Cpu)?;
    /// let layer = GptInputLayer::new(table.clone(), table)?.pad_vocab(8, NewRows::Mean)?;
    /// assert_eq!((layer.config().vocab_size, layer.wte().dims()), (3, (8, 1)));
    /// let new_row = layer.embed_tokens(&Tensor::new(7u32, &Device::Cpu)?)?;
    /// assert_eq!(new_row.to_vec1::<f32>()?, [2.]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`EmbeddingError::Zero`] for a multiple of 0, [`EmbeddingError::Multiple`] for one that is too large, and the
    /// errors of [`resize_vocab`](Self::resize_vocab).
    #[doc(alias = "pad_to_multiple_of")]
    pub fn pad_vocab(&self, multiple: usize, new_rows: NewRows) -> Result<Self> {
        if multiple == 0 {
            return Err(EmbeddingError::Zero { name: "multiple" }.into());
        }
        let vocab_size = self.config.vocab_size;
        match vocab_size.checked_next_multiple_of(multiple) {
            Some(n_rows) if n_rows == self.config.n_token_rows() => Ok(self.clone()),
            Some(n_rows) => self.resize_rows(vocab_size, n_rows, new_rows),
            None => Err(EmbeddingError::Multiple { multiple, vocab_size }.into()),
        }
    }

    /// Returns the layer with the rows of `ids` in the token table replaced by `rows`.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    ///
    /// let table = Tensor::new(&[[0f32], [2.], [4.]], &Device::Cpu)?;
    /// let (ids, rows) = (Tensor::new(&[1u32], &Device::Cpu)?, Tensor::new(&[[7f32]], &Device::Cpu)?);
    /// let layer = GptInputLayer::new(table.clone(), table)?.replace_rows(&ids, &rows)?;
    /// assert_eq!(layer.embed_tokens(&Tensor::new(&[0u32, 1], &Device::Cpu)?)?.to_vec2::<f32>()?, [[0.], [7.]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `ids`: `[..]`
    /// - `rows`: `[.., C]`, in the table's dtype
    ///
    /// # Errors
    /// - [`Error::TokenOutOfRange`](crate::Error::TokenOutOfRange) or [`Error::IdDType`](crate::Error::IdDType) for
    ///   invalid ids
    /// - [`EmbeddingError::RepeatedRow`] for an id given twice
    /// - [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) or [`Error::TableMismatch`](crate::Error::TableMismatch)
    ///   for rows of another shape or dtype
    /// - [`Error::NotInMemory`](crate::Error::NotInMemory) for a mapped table,
    ///   [`Error::Quantized`](crate::Error::Quantized) for a quantized one
    pub fn replace_rows(&self, ids: &Tensor, rows: &Tensor) -> Result<Self> {
        Ok(Self { wte: self.wte.replace_rows(ids, rows)?, ..self.clone() })
    }

    /// Replaces the variables of `old` by those of this layer, under the names that `varmap` has for them.
    pub fn update_varmap(&self, old: &Self, varmap: &VarMap) {
        let pairs: Vec<_> = old.vars().into_iter().zip(self.vars()).collect();
        let mut vars = varmap.data().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for var in vars.values_mut() {
            if let Some((_, new)) = pairs.iter().find(|(old, _)| old.id() == var.id()) {
                *var = new.clone();
            }
        }
    }

    /// Returns the layer with `n_positions` positions.
    ///
    /// A learned table becomes a new one, which is not a variable (see [`trainable`](Self::trainable)); a sinusoidal
    /// one is computed. Schemes without a table only note the length, which the dynamic scaling of rotary positions
    /// needs.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    /// use candle_gpt_input::position::Resize;
    ///
    /// let wpe = Tensor::new(&[[0f32], [2.]], &Device::Cpu)?;
    /// let layer = GptInputLayer::new(Tensor::zeros_like(&wpe)?, wpe)?;
    /// let longer = layer.resize_positions(5, Resize::Interpolate)?;
    /// let x = longer.forward(&Tensor::new(&[0u32, 0, 0, 0, 0], &Device::Cpu)?)?;
    /// assert_eq!(x.squeeze(1)?.to_vec1::<f32>()?, [0.0, 0.5, 1.0, 1.5, 2.0]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`PositionError::Resize`](crate::error::PositionError::Resize) to crop to more rows or to extend to fewer, and
    /// the errors of [`Init::wpe`] for drawing rows.
    pub fn resize_positions(&self, n_positions: usize, how: Resize) -> Result<Self> {
        let config = GptInputConfig { n_positions, ..self.config.clone() };
        config.validate()?;
        let how = match how {
            Resize::Extend(init) => Resize::Extend(init.resolve(&config)),
            how => how,
        };
        let is_learned = config.position == PositionScheme::Learned;
        let positions =
            self.positions.map_tables(&config, self.dtype(), self.device(), |_, table| match is_learned {
                true => resized(table, n_positions, how, &self.generator),
                false => Ok(table.clone()),
            })?;
        Ok(Self { positions, config, ..self.clone() })
    }

    /// Returns the layer with its tables in another dtype: f32, f16, bf16 or f64.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    ///
    /// let table = Tensor::new(&[[1f32], [0.1]], &Device::Cpu)?;
    /// let layer = GptInputLayer::new(table.clone(), table)?.to_dtype(DType::BF16)?;
    /// let row = layer.embed_tokens(&Tensor::new(1u32, &Device::Cpu)?)?.to_dtype(DType::F32)?;
    /// assert_eq!(row.to_vec1::<f32>()?, [205.0 / 2048.0]); // 0.1 rounded to 8 bits
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) if the device cannot convert,
    /// [`Error::NotInMemory`](crate::Error::NotInMemory) or [`Error::Quantized`](crate::Error::Quantized) for a table
    /// that is not dense.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let wte = self.wte.dense()?.weight().to_dtype(dtype)?;
        self.with_tables(wte, self.head.to_dtype(dtype)?, |_, table| Ok(table.to_dtype(dtype)?))
    }

    /// Returns the layer with its token table in quantized blocks, and the error of
    /// [`TokenTable::quantize`](crate::embedding::TokenTable::quantize). Position tables, which are small, stay as they
    /// are.
    ///
    /// ```
    /// use candle_core::quantized::GgmlDType;
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    ///
    /// let table = Tensor::full(3f32, (2, 32), &Device::Cpu)?;
    /// let (quantized, report) = GptInputLayer::new(table.clone(), table)?.quantize(GgmlDType::Q8_0)?;
    /// assert_eq!((report.n_bytes, report.n_bytes_before), (68, 256)); // a scale in f16 and 32 bytes for each row
    /// assert!(quantized.wte().as_embedding().is_none());
    /// assert!(quantized.to_dense()?.wte().as_embedding().is_some());
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`EmbeddingError::BlockWidth`] if blocks do not divide the width, [`EmbeddingError::BlockType`] for an
    /// unsupported type, [`EmbeddingError::NotFinite`] for a table with NaN or infinities.
    pub fn quantize(&self, block_type: GgmlDType) -> Result<(Self, QuantizeReport)> {
        let (wte, report) = self.wte.quantize(block_type)?;
        let head = self.head.map(|table| Ok(table.quantize(block_type)?.0), |bias| Ok(bias.clone()))?;
        Ok((Self { wte, head, ..self.clone() }, report))
    }

    /// Returns the layer with mapped and quantized tables read into memory, where they can be trained, changed and
    /// saved.
    ///
    /// # Errors
    /// [`CheckpointError::Io`](crate::error::CheckpointError::Io) for remote rows that cannot be read.
    pub fn to_dense(&self) -> Result<Self> {
        let wte = self.wte.to_dense()?;
        let positions = match self.positions.input_table().and_then(|wpe| wpe.stored()) {
            Some(wpe) => PositionEncoding::learned(&self.config, wpe.narrow(0, wpe.rows.n_rows)?.try_into()?),
            None => self.positions.clone(),
        };
        let head = self.head.map(TokenTable::to_dense, |bias| Ok(bias.clone()))?;
        Ok(Self { wte, positions, head, ..self.clone() })
    }
}

/// Returns the bias with zeros for new rows, and for those of padding.
fn resized_bias(bias: &Tensor, n_tokens: usize, n_rows: usize) -> Result<Tensor> {
    let kept = bias.detach().narrow(0, 0, n_tokens.min(n_rows))?;
    let resized = kept.pad_with_zeros(0, 0, n_rows - kept.dim(0)?)?;
    Ok(if bias.is_variable() { new_var(&resized)?.as_tensor().clone() } else { resized })
}
