//! [`PositionEncoding`]: the scheme of a layer with its tables, and the one method an attention layer calls.

use candle_core::{DType, Device, Tensor};

use super::{Alibi, Deberta, PositionTable, Positions, Rotary, Shaw, T5Bias, TransformerXl, sinusoidal};
use crate::config::{GptInputConfig, PositionScheme, TableSpec};
use crate::error::{PositionError, Result};
use crate::kernel::to_host;

/// Where a scheme acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Added to the input by the layer itself (or, without positions, nowhere): attention has nothing to call.
    Input,
    /// Rotates queries and keys: [`PositionEncoding::rotate`].
    Rotation,
    /// Added to the attention scores: [`PositionEncoding::attention_bias`].
    Bias,
    /// Takes part in the attention scores: [`PositionEncoding::attention_scores`].
    Scores,
}

/// The positions of a [`GptInputLayer`](crate::GptInputLayer): what it adds to the input, and what an attention layer calls.
///
/// An attention layer calls the method of its scheme's [`place`](Self::place); the others answer with an error that says
/// which one. Scores and biases want the mask (causal, padding) added to them.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_gpt_input::init::Init;
/// use candle_gpt_input::rng::Generator;
/// use candle_gpt_input::{GptInputConfig, GptInputLayer};
///
/// let mut config = GptInputConfig { n_head: 2, ..GptInputConfig::new(10, 8, 4) };
/// config.position = "alibi".parse()?; // one line chooses the scheme
/// let layer = GptInputLayer::init(&config, Init::OpenAi, &Generator::manual_seed(1), DType::F32, &Device::Cpu)?;
/// let bias = layer.positions().attention_bias(2, 2, 0)?; // [1, H, T_q, T_k]
/// assert_eq!(bias.flatten_all()?.to_vec1::<f32>()?[2..4], [-0.0625, 0.0]);
/// let q = Tensor::zeros((1, 2, 2, 2), DType::F32, &Device::Cpu)?;
/// let error = layer.positions().rotate(&q, &q, 0).unwrap_err().to_string();
/// assert_eq!(error, "alibi positions do not rotate: call `attention_bias(t_q, t_k, start_pos)` and add it to the scores");
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PositionEncoding {
    scheme: PositionScheme,
    n_layer: usize,
    /// The learned tables, by name.
    tables: Vec<(String, Tensor)>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Input(Option<PositionTable>),
    Rotary(Rotary),
    Alibi(Alibi),
    T5(T5Bias),
    TransformerXl(Vec<TransformerXl>),
    Shaw(Vec<Shaw>),
    Deberta(Vec<Deberta>),
}

impl PositionEncoding {
    /// The scheme of a configuration, on tables that `table` makes or finds.
    pub(crate) fn build(
        config: &GptInputConfig,
        dtype: DType,
        device: &Device,
        mut table: impl FnMut(&TableSpec) -> Result<Tensor>,
    ) -> Result<Self> {
        let specs = config.position_tables();
        let tables: Vec<(String, Tensor)> =
            specs.iter().map(|spec| Ok((spec.name.clone(), table(spec)?))).collect::<Result<_>>()?;
        Self::with_tables(config, tables, dtype, device)
    }

    /// Learned positions on a table of any kind; one that is not in memory is none of [`tables`](Self::tables).
    pub(crate) fn learned(config: &GptInputConfig, table: PositionTable) -> Self {
        let names = config.position_tables().into_iter().map(|spec| spec.name);
        let tables = names.zip(table.dense().ok().map(|table| table.weight().clone())).collect();
        let kind = Kind::Input(Some(table));
        Self { scheme: config.position.clone(), n_layer: config.n_layer, tables, kind }
    }

    /// The scheme of a configuration on its tables, in their order.
    fn with_tables(
        config: &GptInputConfig,
        tables: Vec<(String, Tensor)>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let mut rest = tables.iter().map(|(_, table)| table.clone());
        let mut next = || rest.next().ok_or(PositionError::NoSuchBlock { block: 0, n_layer: config.n_layer });
        let (n_positions, n_layer) = (config.n_positions, config.n_layer);
        let kind = match config.position {
            PositionScheme::None => Kind::Input(None),
            PositionScheme::Learned => Kind::Input(Some(next()?.try_into()?)),
            PositionScheme::Sinusoidal { layout } => {
                Kind::Input(Some(sinusoidal(n_positions, config.n_embd, layout, dtype, device)?.try_into()?))
            }
            PositionScheme::Rotary(ref rotary) => {
                let head_dim = config.n_embd.checked_div(config.n_head).unwrap_or(0);
                Kind::Rotary(Rotary::new(rotary, head_dim, n_positions, device)?)
            }
            PositionScheme::Alibi => Kind::Alibi(Alibi::new(config.n_head, device)?),
            PositionScheme::T5 { max_distance, bidirectional, .. } => {
                Kind::T5(T5Bias::new(next()?, max_distance, bidirectional)?)
            }
            PositionScheme::TransformerXl => {
                let mut blocks: Vec<TransformerXl> = Vec::with_capacity(n_layer);
                for _ in 0..n_layer {
                    let block = TransformerXl::new(next()?, next()?, next()?)?.sharing(blocks.first());
                    blocks.push(block);
                }
                Kind::TransformerXl(blocks)
            }
            PositionScheme::Shaw { left, values, .. } => {
                let mut block = || Shaw::new(next()?, if values { Some(next()?) } else { None }, left);
                Kind::Shaw((0..n_layer).map(|_| block()).collect::<Result<_>>()?)
            }
            PositionScheme::Deberta { position_buckets, max_relative_positions, c2p, p2c } => {
                let rel_embeddings = next()?;
                let mut projection = |on: bool| -> Result<_> { Ok(if on { Some((next()?, next()?)) } else { None }) };
                let mut block = || {
                    let (c2p, p2c) = (projection(c2p)?, projection(p2c)?);
                    Deberta::new(rel_embeddings.clone(), c2p, p2c, position_buckets, max_relative_positions)
                };
                Kind::Deberta((0..n_layer).map(|_| block()).collect::<Result<_>>()?)
            }
        };
        Ok(Self { scheme: config.position.clone(), n_layer, tables, kind })
    }

    /// The same scheme on other tensors.
    pub(crate) fn map_tables(
        &self,
        config: &GptInputConfig,
        dtype: DType,
        device: &Device,
        mut map: impl FnMut(&str, &Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        let map = |(name, table): &(String, Tensor)| Ok((name.clone(), map(name, table)?));
        let tables = self.tables.iter().map(map).collect::<Result<Vec<_>>>()?;
        Self::with_tables(config, tables, dtype, device)
    }

    /// What the configuration says.
    pub fn scheme(&self) -> &PositionScheme {
        &self.scheme
    }

    /// Where the scheme acts, and so which method an attention layer calls.
    pub fn place(&self) -> Place {
        match self.kind {
            Kind::Input(_) => Place::Input,
            Kind::Rotary(_) => Place::Rotation,
            Kind::Alibi(_) | Kind::T5(_) => Place::Bias,
            Kind::TransformerXl(_) | Kind::Shaw(_) | Kind::Deberta(_) => Place::Scores,
        }
    }

    /// The learned tables by the names that they have beside `wte.weight` in a file.
    pub fn tables(&self) -> &[(String, Tensor)] {
        &self.tables
    }

    /// The rows that are added to the input, if any are.
    pub(crate) fn input_table(&self) -> Option<&PositionTable> {
        if let Kind::Input(table) = &self.kind { table.as_ref() } else { None }
    }

    /// Queries and keys at their positions, for rotary schemes: see [`Rotary::rotate`].
    ///
    /// # Shapes
    /// - `q`: `[B, H, T, D]`, `k`: `[B, H_k, T, D]`; positions: those of `[B, T]`
    /// - returns: the same
    ///
    /// # Errors
    /// [`PositionError::WrongPlace`] for other schemes, and as [`Rotary::rotate`].
    pub fn rotate(&self, q: &Tensor, k: &Tensor, positions: impl Into<Positions>) -> Result<(Tensor, Tensor)> {
        match &self.kind {
            Kind::Rotary(rotary) => rotary.rotate(q, k, positions),
            _ => Err(self.wrong_place("do not rotate")),
        }
    }

    /// What is added to the scores of `t_q` queries, the first of them at `start_pos`, and `t_k` keys from position 0 on,
    /// for ALiBi and T5; the same for all blocks.
    ///
    /// # Shapes
    /// - returns: `[1, H, T_q, T_k]`, in f32 at least
    ///
    /// # Errors
    /// [`PositionError::WrongPlace`] for other schemes.
    pub fn attention_bias(&self, t_q: usize, t_k: usize, start_pos: usize) -> Result<Tensor> {
        match &self.kind {
            Kind::Alibi(alibi) => alibi.attention_bias(t_q, t_k, start_pos),
            Kind::T5(bias) => bias.attention_bias(t_q, t_k, start_pos),
            _ => Err(self.wrong_place("are no bias")),
        }
    }

    /// The same for queries and keys at positions of their own, which need not be those of their columns.
    ///
    /// # Shapes
    /// - `q_positions`: `[B, T_q]`, `k_positions`: `[B, T_k]`, `u8`, `u32` or `i64`
    /// - returns: `[B, H, T_q, T_k]`, in f32 at least
    ///
    /// # Errors
    /// [`PositionError::WrongPlace`] for other schemes, [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) and
    /// [`Error::IdDType`](crate::Error::IdDType) for other positions.
    pub fn attention_bias_at(&self, q_positions: &Tensor, k_positions: &Tensor) -> Result<Tensor> {
        match &self.kind {
            Kind::Alibi(alibi) => alibi.attention_bias_at(q_positions, k_positions),
            Kind::T5(bias) => bias.attention_bias_at(q_positions, k_positions),
            _ => Err(self.wrong_place("are no bias")),
        }
    }

    /// Whether columns of a mask can stand for positions. Schemes that go by the distance of columns are wrong where padding
    /// lies between two tokens; the others skip it, as [`Positions::from_mask`] does.
    ///
    /// # Shapes
    /// - `attention_mask`: `[.., M]`, 1 for a token and 0 for padding
    ///
    /// # Errors
    /// [`PositionError::Hole`] with what to do, and [`Error::IdDType`](crate::Error::IdDType).
    pub fn check_mask(&self, attention_mask: &Tensor) -> Result<()> {
        let instead = match self.place() {
            Place::Input | Place::Rotation => return Ok(()),
            Place::Bias => {
                "call `attention_bias_at(q_positions, k_positions)`, or move the padding to one side of its row"
            }
            Place::Scores => {
                "call `attention_scores_at(q, k, block, q_positions, k_positions)`, or move the padding to one side of its row"
            }
        };
        let Some(&n_columns) = attention_mask.dims().last().filter(|&&n| n > 0) else { return Ok(()) };
        for (row, mask) in to_host(attention_mask, "attention_mask")?.chunks_exact(n_columns).enumerate() {
            let first = mask.iter().position(|&token| token != 0).unwrap_or(n_columns);
            let last = mask.iter().rposition(|&token| token != 0).unwrap_or(0);
            if let Some(column) = (first..last).find(|&column| mask[column] == 0) {
                return Err(PositionError::Hole { scheme: self.scheme.name(), row, column, instead }.into());
            }
        }
        Ok(())
    }

    /// The scores of queries that begin at `start_pos` of the keys, for Transformer-XL, Shaw and DeBERTa: already divided
    /// by the root that the scheme's paper divides by.
    ///
    /// # Shapes
    /// - `block`: which block asks, counted from 0
    /// - `q`: `[B, H, T_q, D]`, `k`: `[B, H, T_k, D]`
    /// - returns: `[B, H, T_q, T_k]` in the type of `q`
    ///
    /// # Errors
    /// [`PositionError::WrongPlace`] for other schemes, [`PositionError::NoSuchBlock`], and
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for shapes that do not go together.
    pub fn attention_scores(&self, q: &Tensor, k: &Tensor, block: usize, start_pos: usize) -> Result<Tensor> {
        match &self.kind {
            Kind::TransformerXl(blocks) => self.block(blocks, block)?.attention_scores(q, k, start_pos),
            Kind::Shaw(blocks) => self.block(blocks, block)?.attention_scores(q, k, start_pos),
            Kind::Deberta(blocks) => self.block(blocks, block)?.attention_scores(q, k, start_pos),
            _ => Err(self.wrong_place("compute no scores")),
        }
    }

    /// What the attention gives from its weights and values: their product, for every scheme but Shaw's, which adds the
    /// vectors that distances have for values.
    ///
    /// # Shapes
    /// - `weights`: `[B, H, T_q, T_k]`, after the softmax, `v`: `[B, H, T_k, D]`
    /// - returns: `[B, H, T_q, D]`
    ///
    /// # Errors
    /// [`PositionError::NoSuchBlock`], and [`Error::Candle`](crate::Error::Candle) for shapes that do not go together.
    pub fn attention_output(&self, weights: &Tensor, v: &Tensor, block: usize, start_pos: usize) -> Result<Tensor> {
        match &self.kind {
            Kind::Shaw(blocks) => self.block(blocks, block)?.attention_output(weights, v, start_pos),
            _ => Ok(weights.matmul(v)?),
        }
    }

    /// The same scores for queries and keys at positions of their own, which need not be those of their columns.
    ///
    /// # Shapes
    /// - `block`: which block asks, counted from 0
    /// - `q`: `[B, H, T_q, D]`, `k`: `[B, H, T_k, D]`
    /// - `q_positions`: `[B, T_q]`, `k_positions`: `[B, T_k]`, `u8`, `u32` or `i64`
    /// - returns: `[B, H, T_q, T_k]` in the type of `q`
    ///
    /// # Errors
    /// As [`attention_scores`](Self::attention_scores), and [`Error::IdDType`](crate::Error::IdDType).
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

    /// [`attention_output`](Self::attention_output) for queries and keys at positions of their own.
    ///
    /// # Shapes
    /// - `weights`: `[B, H, T_q, T_k]`, after the softmax, `v`: `[B, H, T_k, D]`
    /// - `q_positions`: `[B, T_q]`, `k_positions`: `[B, T_k]`, `u8`, `u32` or `i64`
    /// - returns: `[B, H, T_q, D]`
    ///
    /// # Errors
    /// As [`attention_scores_at`](Self::attention_scores_at), and [`Error::Candle`](crate::Error::Candle) for shapes that do
    /// not go together.
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
            _ => Ok(weights.contiguous()?.matmul(&v.contiguous()?)?),
        }
    }

    fn block<'a, T>(&self, blocks: &'a [T], block: usize) -> Result<&'a T> {
        blocks.get(block).ok_or_else(|| PositionError::NoSuchBlock { block, n_layer: self.n_layer }.into())
    }

    pub(crate) fn wrong_place(&self, asked: &'static str) -> crate::error::Error {
        let instead = match self.place() {
            Place::Input if self.input_table().is_none() => "there are none; call nothing",
            Place::Input => "the layer has added them to its output; call nothing",
            Place::Rotation => "call `rotate(q, k, positions)` on queries and keys",
            Place::Bias => "call `attention_bias(t_q, t_k, start_pos)` and add it to the scores",
            Place::Scores => {
                "call `attention_scores(q, k, block, start_pos)` in place of the product of queries and keys"
            }
        };
        PositionError::WrongPlace { scheme: self.scheme.name(), asked, instead }.into()
    }
}
