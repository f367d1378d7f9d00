//! The methods that an attention layer calls on the positions of its model.

use candle_core::Tensor;

use super::encoding::{Kind, PositionEncoding, PositionKind};
use super::{Positions, scores};
use crate::error::{Error, PositionError, Result};
use crate::kernel::to_host;

impl PositionEncoding {
    /// Rotates queries and keys by their positions, as [`Rotary::rotate`](super::Rotary::rotate) does. For
    /// [`PositionKind::Rotation`].
    ///
    /// # Shapes
    /// - `q`: `[B, H, T, D]`, `k`: `[B, H_k, T, D]`; positions: those of `[B, T]`
    /// - returns: the same
    ///
    /// # Errors
    /// - [`PositionError::WrongPlace`] for other kinds
    /// - [`PositionError::LayerTypes`] if types of layers differ: choose with [`of_layer_type`](Self::of_layer_type)
    /// - [`Error::ShapeMismatch`] for other shapes
    /// - [`Error::PositionOutOfRange`] for a position below 0
    /// - [`Error::IdDType`] for position ids of another dtype
    #[doc(alias = "apply_rotary_pos_emb")]
    pub fn rotate(&self, q: &Tensor, k: &Tensor, positions: impl Into<Positions>) -> Result<(Tensor, Tensor)> {
        self.rotary()?.rotate(q, k, positions)
    }

    /// Returns the bias to add to attention scores, for queries at `start_pos..start_pos + t_q` and keys at `0..t_k`.
    /// It is the same in all blocks. For [`PositionKind::Bias`].
    ///
    /// # Shapes
    /// - returns: `[1, H, T_q, T_k]`, in f32 at least
    ///
    /// # Errors
    /// [`PositionError::WrongPlace`] for other kinds.
    #[doc(alias("compute_bias", "build_alibi_tensor"))]
    pub fn attention_bias(&self, t_q: usize, t_k: usize, start_pos: usize) -> Result<Tensor> {
        match &self.kind {
            Kind::Alibi(alibi) => alibi.attention_bias(t_q, t_k, start_pos),
            Kind::T5(bias) => bias.attention_bias(t_q, t_k, start_pos),
            _ => Err(self.wrong_place("are not a bias")),
        }
    }

    /// Returns the bias for queries and keys at given positions, which may differ from their columns. For
    /// [`PositionKind::Bias`].
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_gpt_input::init::Init;
    /// # use candle_gpt_input::rng::Generator;
    /// # use candle_gpt_input::{GptInputConfig, GptInputLayer};
    /// let mut config = GptInputConfig::new(10, 8, 4).with_n_head(1); // ALiBi's only slope is 1/256
    /// config.position = "alibi".parse()?;
    /// let layer = GptInputLayer::init(&config, Init::OpenAi, &Generator::manual_seed(1), DType::F32, &Device::Cpu)?;
    /// let q_positions = Tensor::new(&[[512u32]], &Device::Cpu)?; // [B, T_q]
    /// let k_positions = Tensor::new(&[[0u32, 256, 512]], &Device::Cpu)?; // [B, T_k]
    /// let bias = layer.positions().attention_bias_at(&q_positions, &k_positions)?; // [B, H, T_q, T_k]
    /// assert_eq!(bias.flatten_all()?.to_vec1::<f32>()?, [-2.0, -1.0, 0.0]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `q_positions`: `[B, T_q]`, `k_positions`: `[B, T_k]`, `u8`, `u32` or `i64`
    /// - returns: `[B, H, T_q, T_k]`, in f32 at least
    ///
    /// # Errors
    /// [`PositionError::WrongPlace`] for other kinds, [`Error::ShapeMismatch`] or [`Error::IdDType`] for positions of
    /// another shape or dtype.
    pub fn attention_bias_at(&self, q_positions: &Tensor, k_positions: &Tensor) -> Result<Tensor> {
        match &self.kind {
            Kind::Alibi(alibi) => alibi.attention_bias_at(q_positions, k_positions),
            Kind::T5(bias) => bias.attention_bias_at(q_positions, k_positions),
            _ => Err(self.wrong_place("are not a bias")),
        }
    }

    /// Returns the scores of queries at `start_pos..start_pos + t_q` and keys at `0..t_k`, already divided as the
    /// scheme's paper says. For [`PositionKind::Scores`].
    ///
    /// # Shapes
    /// - `block`: which block asks, counted from 0
    /// - `q`: `[B, H, T_q, D]`, `k`: `[B, H, T_k, D]`
    /// - returns: `[B, H, T_q, T_k]` in the dtype of `q`
    ///
    /// # Errors
    /// [`PositionError::WrongPlace`] for other kinds, [`PositionError::NoSuchBlock`], and [`Error::ShapeMismatch`] for
    /// other shapes.
    pub fn attention_scores(&self, q: &Tensor, k: &Tensor, block: usize, start_pos: usize) -> Result<Tensor> {
        match &self.kind {
            Kind::TransformerXl(blocks) => self.block(blocks, block)?.attention_scores(q, k, start_pos),
            Kind::Shaw(blocks) => self.block(blocks, block)?.attention_scores(q, k, start_pos),
            Kind::Deberta(blocks) => self.block(blocks, block)?.attention_scores(q, k, start_pos),
            _ => Err(self.wrong_place("compute no scores")),
        }
    }

    /// Returns the scores for queries and keys at given positions, which may differ from their columns. For
    /// [`PositionKind::Scores`].
    ///
    /// # Shapes
    /// - `block`: which block asks, counted from 0
    /// - `q`: `[B, H, T_q, D]`, `k`: `[B, H, T_k, D]`
    /// - `q_positions`: `[B, T_q]`, `k_positions`: `[B, T_k]`, `u8`, `u32` or `i64`
    /// - returns: `[B, H, T_q, T_k]` in the dtype of `q`
    ///
    /// # Errors
    /// [`PositionError::WrongPlace`] for other kinds, [`PositionError::NoSuchBlock`], and [`Error::ShapeMismatch`] and
    /// [`Error::IdDType`] for other shapes and positions.
    pub fn attention_scores_at(
        &self,
        q: &Tensor,
        k: &Tensor,
        block: usize,
        q_positions: &Tensor,
        k_positions: &Tensor,
    ) -> Result<Tensor> {
        match &self.kind {
            Kind::TransformerXl(blocks) => {
                self.block(blocks, block)?.attention_scores_at(q, k, q_positions, k_positions)
            }
            Kind::Shaw(blocks) => self.block(blocks, block)?.attention_scores_at(q, k, q_positions, k_positions),
            Kind::Deberta(blocks) => self.block(blocks, block)?.attention_scores_at(q, k, q_positions, k_positions),
            _ => Err(self.wrong_place("compute no scores")),
        }
    }

    /// Returns the attention's output from its weights and values. For [`PositionKind::Scores`].
    ///
    /// The output is their product; Shaw's scheme adds a vector for each distance to the values.
    ///
    /// # Shapes
    /// - `block`: which block asks, counted from 0
    /// - `weights`: `[B, H, T_q, T_k]`, after the softmax, `v`: `[B, H, T_k, D]`
    /// - returns: `[B, H, T_q, D]`
    ///
    /// # Errors
    /// [`PositionError::WrongPlace`] for other kinds, [`PositionError::NoSuchBlock`], and [`Error::Candle`] for other
    /// shapes.
    pub fn attention_output(&self, weights: &Tensor, v: &Tensor, block: usize, start_pos: usize) -> Result<Tensor> {
        match &self.kind {
            Kind::Shaw(blocks) => self.block(blocks, block)?.attention_output(weights, v, start_pos),
            Kind::TransformerXl(blocks) => self.block(blocks, block).and_then(|_| scores::weighted(weights, v)),
            Kind::Deberta(blocks) => self.block(blocks, block).and_then(|_| scores::weighted(weights, v)),
            _ => Err(self.wrong_place("have no part in the output")),
        }
    }

    /// Returns the attention's output for queries and keys at given positions. For [`PositionKind::Scores`].
    ///
    /// # Shapes
    /// - `block`: which block asks, counted from 0
    /// - `weights`: `[B, H, T_q, T_k]`, after the softmax, `v`: `[B, H, T_k, D]`
    /// - `q_positions`: `[B, T_q]`, `k_positions`: `[B, T_k]`, `u8`, `u32` or `i64`
    /// - returns: `[B, H, T_q, D]`
    ///
    /// # Errors
    /// [`PositionError::WrongPlace`] for other kinds, [`PositionError::NoSuchBlock`], [`Error::ShapeMismatch`] or
    /// [`Error::IdDType`] for positions of another shape or dtype, and [`Error::Candle`] for other shapes.
    pub fn attention_output_at(
        &self,
        weights: &Tensor,
        v: &Tensor,
        block: usize,
        q_positions: &Tensor,
        k_positions: &Tensor,
    ) -> Result<Tensor> {
        match &self.kind {
            Kind::Shaw(blocks) => self.block(blocks, block)?.attention_output_at(weights, v, q_positions, k_positions),
            Kind::TransformerXl(blocks) => self.block(blocks, block).and_then(|_| scores::weighted(weights, v)),
            Kind::Deberta(blocks) => self.block(blocks, block).and_then(|_| scores::weighted(weights, v)),
            _ => Err(self.wrong_place("have no part in the output")),
        }
    }

    /// Checks that the columns of a mask can stand for positions.
    ///
    /// Schemes that count columns are wrong where padding lies between two tokens; the others skip padding, as
    /// [`Positions::from_mask`] does.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_gpt_input::init::Init;
    /// # use candle_gpt_input::rng::Generator;
    /// # use candle_gpt_input::{GptInputConfig, GptInputLayer};
    /// let mut config = GptInputConfig::new(10, 8, 4).with_n_head(2);
    /// config.position = "alibi".parse()?;
    /// let layer = GptInputLayer::init(&config, Init::OpenAi, &Generator::manual_seed(1), DType::F32, &Device::Cpu)?;
    /// assert!(layer.positions().check_mask(&Tensor::new(&[[0u8, 0, 1, 1]], &Device::Cpu)?).is_ok());
    /// assert!(layer.positions().check_mask(&Tensor::new(&[[1u8, 0, 1, 1]], &Device::Cpu)?).is_err());
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `attention_mask`: `[.., M]`, 1 for a token and 0 for padding
    ///
    /// # Errors
    /// [`PositionError::Hole`], which says what to do, and [`Error::IdDType`] for a mask of another dtype.
    pub fn check_mask(&self, attention_mask: &Tensor) -> Result<()> {
        let instead = match self.kind() {
            PositionKind::Input | PositionKind::Rotation => return Ok(()),
            PositionKind::Bias => {
                "call `attention_bias_at(q_positions, k_positions)`, or move the padding to one side of its row"
            }
            PositionKind::Scores => {
                "call `attention_scores_at(q, k, block, q_positions, k_positions)`, or move the padding to one side of \
                 its row"
            }
        };
        let Some(&n_columns) = attention_mask.dims().last().filter(|&&n| n > 0) else { return Ok(()) };
        for (row, mask) in to_host(attention_mask, "attention_mask")?.chunks_exact(n_columns).enumerate() {
            let first = mask.iter().position(|&token| token != 0).unwrap_or(n_columns);
            let last = mask.iter().rposition(|&token| token != 0).unwrap_or(0);
            if let Some(column) = (first..last).find(|&column| mask[column] == 0) {
                return Err(PositionError::Hole { scheme: self.scheme().name(), row, column, instead }.into());
            }
        }
        Ok(())
    }

    fn block<'a, T>(&self, blocks: &'a [T], block: usize) -> Result<&'a T> {
        blocks.get(block).ok_or_else(|| PositionError::NoSuchBlock { block, n_layer: self.n_layer }.into())
    }

    pub(crate) fn wrong_place(&self, asked: &'static str) -> Error {
        let instead = match self.kind() {
            PositionKind::Input if self.input_table().is_none() => "there are none; call nothing",
            PositionKind::Input => "the layer has added them to its output; call nothing",
            PositionKind::Rotation => "call `rotate(q, k, positions)` on queries and keys",
            PositionKind::Bias => "call `attention_bias(t_q, t_k, start_pos)` and add it to the scores",
            PositionKind::Scores => {
                "call `attention_scores(q, k, block, start_pos)` in place of the product of queries and keys"
            }
        };
        PositionError::WrongPlace { scheme: self.scheme().name(), asked, instead }.into()
    }
}
