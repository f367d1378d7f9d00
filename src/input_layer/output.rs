//! The output head of a layer.

use super::{GptInputLayer, Head};
#[cfg(doc)]
use crate::error::{CheckpointError, ConfigError, Error};
use crate::error::{LmHeadError, Result};
use crate::lm_head::LmHead;
use crate::shape::{same_device, same_dtype, wrong_shape};

/// # Output head
impl GptInputLayer {
    /// Returns the output head: `[B, T, C] -> [B, T, V]`. It is tied to the token table, or the checkpoint's own.
    ///
    /// A head of its own is read from the checkpoint by the first call, and kept; it is stored as the token table is. As
    /// in transformers, a weight in the file (`lm_head.weight`, `out_head.weight`, `output.weight`, …) is the head if
    /// `tie_word_embeddings` is false or its elements differ from those of the token table.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    ///
    /// let wte = Tensor::new(&[[1f32, 0.], [0., 1.], [2., 3.]], &Device::Cpu)?;
    /// let layer = GptInputLayer::new(wte.clone(), wte)?;
    /// let logits = layer.lm_head()?.forward(&Tensor::new(&[[10f32, 1.]], &Device::Cpu)?)?;
    /// assert_eq!(logits.to_vec2::<f32>()?, [[10., 1., 23.]]); // the product with each token's row
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`LmHeadError::Missing`] if the model has a head of its own that is not there
    /// - [`Error::NotInMemory`] for a remote table: every call would fetch all of it
    /// - [`ConfigError::Unsupported`] if the model scales or caps its logits (`logits_scaling`,
    ///   `final_logit_softcapping`, …): see [`lm_head_unscaled`](Self::lm_head_unscaled)
    /// - [`CheckpointError`] if the head cannot be read, [`LmHeadError::Several`] if it is unclear which it is,
    ///   [`LmHeadError::Transform`] if the model changes hidden states before it
    #[doc(alias = "get_output_embeddings")]
    pub fn lm_head(&self) -> Result<LmHead> {
        self.config.plain_logits()?;
        self.lm_head_unscaled()
    }

    /// Returns the output head as [`lm_head`](Self::lm_head) does, also for a model that scales or caps its logits: what
    /// the head returns is to be scaled or capped by the caller.
    ///
    /// # Errors
    /// Those of [`lm_head`](Self::lm_head), but for [`ConfigError::Unsupported`].
    pub fn lm_head_unscaled(&self) -> Result<LmHead> {
        let head = match self.head.resolved()? {
            Head::Own(head) => head,
            Head::Tied(None) => LmHead::new(self.wte.clone())?,
            Head::Tied(Some(bias)) => LmHead::new(self.wte.clone())?.with_bias(bias)?,
            Head::Transformed(stored) => return Err(stored.transform().unwrap_or(LmHeadError::Missing).into()),
            Head::Missing | Head::Unread(_) => return Err(LmHeadError::Missing.into()),
        };
        head.with_vocab_size(self.config.vocab_size)
    }

    /// Returns the layer with an output head of its own, which [`save`](Self::save), [`trainable`](Self::trainable) and
    /// [`resize_vocab`](Self::resize_vocab) take with them.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::{GptInputLayer, LmHead};
    ///
    /// let table = Tensor::new(&[[1f32], [2.]], &Device::Cpu)?;
    /// let head = LmHead::new((&table * 10.)?)?;
    /// let layer = GptInputLayer::new(table.clone(), table)?.with_lm_head(head)?;
    /// let logits = layer.lm_head()?.forward(&Tensor::new(&[[3f32]], &Device::Cpu)?)?;
    /// assert_eq!(logits.to_vec2::<f32>()?, [[30., 60.]]);
    /// assert!(!layer.config().tie_word_embeddings());
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if its table has another width than the token table, or fewer rows than the vocabulary;
    /// [`Error::TableMismatch`] for another dtype or device.
    #[doc(alias = "set_output_embeddings")]
    pub fn with_lm_head(mut self, head: LmHead) -> Result<Self> {
        let (_, n_embd) = self.wte.dims();
        let table = head.table();
        if table.dims().1 != n_embd {
            return Err(wrong_shape("lm_head", table.dims(), format!("[V, {n_embd}], as wide as the token table")));
        }
        same_dtype(("lm_head", table.dtype()), ("wte", self.wte.dtype()))?;
        same_device(("lm_head", table.device()), ("wte", self.wte.device()))?;
        self.head = Head::Own(head.with_vocab_size(self.config.vocab_size)?);
        self.config = self.config.with_tying(false);
        Ok(self)
    }

    /// Returns the layer with its output head tied to the token table, whatever it was: `tie_weights` of transformers.
    #[doc(alias = "tie_weights")]
    pub fn tie_lm_head(mut self) -> Self {
        self.head = Head::Tied(None);
        self.config = self.config.with_tying(true);
        self
    }
}
