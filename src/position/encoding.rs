//! [`PositionEncoding`]: the position scheme of a layer, with its tables.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::Linear;

use super::{Alibi, Deberta, DebertaProjections, PositionTable, Rotary, Shaw, T5Bias, TransformerXl, sinusoidal};
use crate::checkpoint::{TableSpec, position_tables};
use crate::config::{DebertaConfig, GptInputConfig, PositionScheme, ShawConfig, SinusoidalConfig, T5Config};
use crate::error::{PositionError, Result};

/// Where a scheme acts, which determines the methods of [`PositionEncoding`] that an attention layer calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PositionKind {
    /// Added to the input by the layer itself (or, without positions, nowhere): attention calls nothing.
    Input,
    /// Rotates queries and keys: [`PositionEncoding::rotate`].
    Rotation,
    /// Added to the attention scores: [`PositionEncoding::attention_bias`].
    Bias,
    /// Takes part in the attention scores: [`PositionEncoding::attention_scores`] and
    /// [`attention_output`](PositionEncoding::attention_output).
    Scores,
}

/// The positions of a [`GptInputLayer`](crate::GptInputLayer): what it adds to the input, and the methods that an
/// attention layer calls.
///
/// An attention layer calls the methods of its scheme's [`kind`](Self::kind). All others return errors that name the
/// right one. Neither scores nor biases contain a mask (causal, padding): add it to the scores.
///
/// | kind | methods |
/// |---|---|
/// | [`PositionKind::Input`] | none |
/// | [`PositionKind::Rotation`] | [`rotate`] |
/// | [`PositionKind::Bias`] | [`attention_bias`], or [`attention_bias_at`] |
/// | [`PositionKind::Scores`] | [`attention_scores`] and [`attention_output`], or both with `_at` |
///
/// [`rotate`]: Self::rotate
/// [`attention_bias`]: Self::attention_bias
/// [`attention_bias_at`]: Self::attention_bias_at
/// [`attention_scores`]: Self::attention_scores
/// [`attention_output`]: Self::attention_output
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_gpt_input::init::Init;
/// use candle_gpt_input::rng::Generator;
/// use candle_gpt_input::{GptInputConfig, GptInputLayer};
///
/// let mut config = GptInputConfig::new(10, 8, 4).with_n_head(2);
/// config.position = "alibi".parse()?; // one line chooses the scheme
/// let layer = GptInputLayer::init(&config, Init::OpenAi, &Generator::manual_seed(1), DType::F32, &Device::Cpu)?;
/// let bias = layer.positions().attention_bias(2, 2, 0)?; // [1, H, T_q, T_k]
/// assert_eq!(bias.flatten_all()?.to_vec1::<f32>()?[2..4], [-0.0625, 0.0]);
/// let q = Tensor::zeros((1, 2, 2, 2), DType::F32, &Device::Cpu)?;
/// let error = layer.positions().rotate(&q, &q, 0).unwrap_err().to_string();
/// assert!(error.starts_with("alibi positions do not rotate: call `attention_bias(t_q, t_k, start_pos)`"));
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PositionEncoding {
    scheme: PositionScheme,
    pub(super) n_layer: usize,
    /// The learned tables and their names.
    tables: Vec<(String, Tensor)>,
    pub(super) kind: Kind,
}

/// The rotation of each layer type, or `None` for a type that is not rotated.
pub(super) type ByLayerType = BTreeMap<String, Option<Rotary>>;

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Input(Option<PositionTable>),
    Rotary(Rotary),
    RotaryByLayerType(ByLayerType),
    Alibi(Alibi),
    T5(T5Bias),
    TransformerXl(Vec<TransformerXl>),
    Shaw(Vec<Shaw>),
    Deberta(Vec<Deberta>),
}

impl PositionEncoding {
    /// Builds the scheme of a configuration on tables that `table` makes or finds.
    pub(crate) fn build(
        config: &GptInputConfig,
        dtype: DType,
        device: &Device,
        mut table: impl FnMut(&TableSpec) -> Result<Tensor>,
    ) -> Result<Self> {
        let specs = position_tables(config);
        let tables: Vec<(String, Tensor)> =
            specs.iter().map(|spec| Ok((spec.name.clone(), table(spec)?))).collect::<Result<_>>()?;
        Self::with_tables(config, tables, dtype, device)
    }

    /// Makes learned positions on a table of any kind; [`tables`](Self::tables) lists it if it is in memory.
    pub(crate) fn learned(config: &GptInputConfig, table: PositionTable) -> Self {
        let names = position_tables(config).into_iter().map(|spec| spec.name);
        let tables = names.zip(table.dense().ok().map(|table| table.weight().clone())).collect();
        let kind = Kind::Input(Some(table));
        Self { scheme: config.position.clone(), n_layer: config.n_layer, tables, kind }
    }

    /// Builds the scheme of a configuration on its tables, in their order.
    fn with_tables(
        config: &GptInputConfig,
        tables: Vec<(String, Tensor)>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let mut rest = tables.iter().map(|(_, table)| table.clone());
        let (scheme, n_tables) = (config.position.name(), tables.len());
        let mut next = || rest.next().ok_or(PositionError::MissingTable { scheme, n_tables });
        let (n_positions, n_layer) = (config.n_positions, config.n_layer);
        let kind = match config.position {
            PositionScheme::None => Kind::Input(None),
            PositionScheme::Learned => Kind::Input(Some(next()?.try_into()?)),
            PositionScheme::Sinusoidal(SinusoidalConfig { layout, .. }) => {
                Kind::Input(Some(sinusoidal(n_positions, config.n_embd, layout, dtype, device)?.try_into()?))
            }
            PositionScheme::Rotary(ref rotary) => {
                Kind::Rotary(Rotary::new(rotary, config.width_of_head(), n_positions, device)?)
            }
            PositionScheme::RotaryByLayerType(ref by_type) => {
                let mut rotations = ByLayerType::new();
                for (layer_type, rotary) in by_type {
                    let of = |rotary| Rotary::new(rotary, config.width_of_head(), n_positions, device);
                    rotations.insert(layer_type.clone(), rotary.as_ref().map(of).transpose()?);
                }
                Kind::RotaryByLayerType(rotations)
            }
            PositionScheme::Alibi => Kind::Alibi(Alibi::new(config.n_head, device)?),
            PositionScheme::T5(T5Config { max_distance, bidirectional, .. }) => {
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
            PositionScheme::Shaw(ShawConfig { left, values, .. }) => {
                let mut block = || Shaw::new(next()?, if values { Some(next()?) } else { None }, left);
                Kind::Shaw((0..n_layer).map(|_| block()).collect::<Result<_>>()?)
            }
            PositionScheme::Deberta(DebertaConfig { position_buckets, max_relative_positions, c2p, p2c }) => {
                let rel_embeddings = next()?;
                let mut projection = |on: bool| -> Result<Option<Linear>> {
                    if on { Ok(Some(Linear::new(next()?, Some(next()?)))) } else { Ok(None) }
                };
                let mut block = || {
                    let projections =
                        DebertaProjections { pos_key_proj: projection(c2p)?, pos_query_proj: projection(p2c)? };
                    Deberta::new(rel_embeddings.clone(), projections, position_buckets, max_relative_positions)
                };
                Kind::Deberta((0..n_layer).map(|_| block()).collect::<Result<_>>()?)
            }
        };
        Ok(Self { scheme: config.position.clone(), n_layer, tables, kind })
    }

    /// Returns the scheme on other tensors.
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

    /// Returns the same without tables, as another scheme.
    pub(super) fn with_kind(&self, scheme: PositionScheme, kind: Kind) -> Self {
        Self { scheme, n_layer: self.n_layer, tables: Vec::new(), kind }
    }

    /// Returns the scheme of the configuration.
    pub fn scheme(&self) -> &PositionScheme {
        &self.scheme
    }

    /// Returns where the scheme acts, which determines the methods that an attention layer calls.
    pub fn kind(&self) -> PositionKind {
        match self.kind {
            Kind::Input(_) => PositionKind::Input,
            Kind::Rotary(_) | Kind::RotaryByLayerType(_) => PositionKind::Rotation,
            Kind::Alibi(_) | Kind::T5(_) => PositionKind::Bias,
            Kind::TransformerXl(_) | Kind::Shaw(_) | Kind::Deberta(_) => PositionKind::Scores,
        }
    }

    /// Returns the learned tables with their names, under which a file has them beside `wte.weight`.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use candle_gpt_input::init::Init;
    /// use candle_gpt_input::rng::Generator;
    /// use candle_gpt_input::{GptInputConfig, GptInputLayer};
    ///
    /// let config = GptInputConfig::new(10, 8, 4); // V, P, C; learned positions
    /// let layer = GptInputLayer::init(&config, Init::OpenAi, &Generator::manual_seed(1), DType::F32, &Device::Cpu)?;
    /// let [(name, table)] = layer.positions().tables() else { unreachable!() };
    /// assert_eq!((name.as_str(), table.dims()), ("wpe.weight", &[8, 4][..]));
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    pub fn tables(&self) -> &[(String, Tensor)] {
        &self.tables
    }

    /// Returns the table whose rows are added to the input, if there is one.
    pub(crate) fn input_table(&self) -> Option<&PositionTable> {
        if let Kind::Input(table) = &self.kind { table.as_ref() } else { None }
    }
}
