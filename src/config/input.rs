//! [`GptInputConfig`]: the dimensions of an input layer.

use crate::error::{ConfigError, Result};

use super::builders::builders;
use super::fields::Object;
use super::origin::Origin;
use super::position::PositionScheme;
use super::scale::EmbeddingScale;

/// Name, `n_layer`, `n_head`, `n_embd`; vocabulary (50257) and positions (1024) are the same for all four.
pub(super) const GPT2_SIZES: [(&str, usize, usize, usize); 4] =
    [("gpt2", 12, 12, 768), ("gpt2-medium", 24, 16, 1024), ("gpt2-large", 36, 20, 1280), ("gpt2-xl", 48, 25, 1600)];

/// The tutorial's input stage (*Build a Large Language Model From Scratch*, chapter 2).
const TUTORIAL: &str = "tutorial";

/// Holds the input layer's part of a GPT-2 configuration; [`extra`](Self::extra) returns everything else in the file.
///
/// Reads and writes Hugging Face's `config.json`. Other names are accepted, and kept: `block_size`, `context_length`
/// and `max_position_embeddings` for `n_positions`, `hidden_size` and `emb_dim` for `n_embd`. A field that the file
/// leaves out has the default of `transformers.GPT2Config`, as in [`default`](Self::default): GPT-2 small. With another
/// `model_type`, a dimension that the model needs must be stated.
///
/// Keys that change input or positions in an unsupported way are errors that name the key. Python's `NaN` and
/// `Infinity` are read, and kept as text.
///
/// Later versions may add fields. Start from [`new`](Self::new), [`preset`](Self::preset) or
/// [`default`](Self::default), and change fields in place or by their `with_…` methods.
///
/// ```
/// use candle_gpt_input::GptInputConfig;
///
/// let config = GptInputConfig::from_json(r#"{"vocab_size": 50257, "context_length": 256, "emb_dim": 768}"#)?;
/// assert_eq!((config.vocab_size, config.n_positions, config.n_embd), (50257, 256, 768));
/// assert_eq!(GptInputConfig::preset("gpt2-xl")?.n_embd, 1600);
/// assert_eq!(GptInputConfig::default().with_embd_pdrop(0.0).n_positions, 1024);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[doc(alias = "GPT2Config", alias = "AutoConfig", alias = "PretrainedConfig")]
pub struct GptInputConfig {
    /// V: the tokens. Without padding they are the rows of `wte`.
    #[doc(alias = "num_embeddings")]
    pub vocab_size: usize,
    /// The rows of `wte`, if it is padded: 50304 for the 50257 tokens of GPT-2, for example. The rows of padding have no
    /// logits, and are no targets.
    ///
    /// Read from `padded_vocab_size` beside a `vocab_size` that counts tokens, as llm.c and litgpt write it. Written as a
    /// `vocab_size` that counts rows, which transformers needs, beside `unpadded_vocab_size`.
    #[doc(alias = "pad_vocab_size_multiple", alias = "make_vocab_size_divisible_by")]
    pub padded_vocab_size: Option<usize>,
    /// P: rows of `wpe`, the longest sequence. For schemes without a table, the length that the model is trained on.
    #[doc(alias = "max_position_embeddings", alias = "block_size", alias = "context_length")]
    pub n_positions: usize,
    /// C: width of both tables.
    #[doc(alias = "hidden_size", alias = "emb_dim", alias = "embedding_dim")]
    pub n_embd: usize,
    /// Number of transformer blocks. Some relative schemes have tables in each block.
    pub n_layer: usize,
    /// Number of attention heads, which schemes inside attention need.
    pub n_head: usize,
    /// Width of a head; `n_embd / n_head` if not given.
    pub head_dim: Option<usize>,
    /// How the model encodes positions.
    #[doc(alias = "position_embedding_type")]
    pub position: PositionScheme,
    /// What token rows are multiplied by before positions are added.
    #[doc(alias("embedding_multiplier", "scale_embedding"))]
    pub embedding_scale: EmbeddingScale,
    /// Probability of dropout on the sum of the embeddings in training.
    pub embd_pdrop: f64,
    /// Standard deviation of newly drawn tables.
    pub initializer_range: f64,
    /// Every other key of the file, unchanged.
    pub(crate) extra: Object,
    pub(crate) origin: Origin,
}

builders!(GptInputConfig {
    with_vocab_size(vocab_size: usize),
    with_padded_vocab_size(padded_vocab_size: usize, Some),
    with_n_positions(n_positions: usize),
    with_n_embd(n_embd: usize),
    with_n_layer(n_layer: usize),
    with_n_head(n_head: usize),
    with_head_dim(head_dim: usize, Some),
    with_position(position: PositionScheme),
    with_embedding_scale(embedding_scale: EmbeddingScale),
    with_embd_pdrop(embd_pdrop: f64),
    with_initializer_range(initializer_range: f64),
});

impl Default for GptInputConfig {
    /// Returns `transformers.GPT2Config()`: the smallest of the four GPT-2s.
    fn default() -> Self {
        Self::new(50257, 1024, 768)
    }
}

impl GptInputConfig {
    /// Returns a configuration with these dimensions and otherwise the defaults of `transformers.GPT2Config`.
    ///
    /// [`TableSizes`](crate::input_layer::TableSizes) names the three, and converts into a configuration.
    ///
    /// Checks nothing: every function of the crate that takes a configuration calls [`validate`](Self::validate).
    #[must_use]
    pub fn new(vocab_size: usize, n_positions: usize, n_embd: usize) -> Self {
        let mut extra = Object::new();
        extra.insert("model_type".to_string(), "gpt2".into());
        Self {
            vocab_size,
            padded_vocab_size: None,
            n_positions,
            n_embd,
            n_layer: 12,
            n_head: 12,
            head_dim: None,
            position: PositionScheme::Learned,
            embedding_scale: EmbeddingScale::None,
            embd_pdrop: 0.1,
            initializer_range: 0.02,
            extra,
            origin: Origin::default(),
        }
    }

    /// Returns the configuration named `gpt2`, `gpt2-medium`, `gpt2-large`, `gpt2-xl` or `tutorial`.
    ///
    /// `tutorial` is the book's input stage: vocabulary 50257, 4 positions, 256 dimensions, tables drawn from N(0, 1),
    /// no dropout.
    ///
    /// ```
    /// # use candle_gpt_input::GptInputConfig;
    /// let tutorial = GptInputConfig::preset("tutorial")?;
    /// assert_eq!((tutorial.n_positions, tutorial.n_embd, tutorial.initializer_range), (4, 256, 1.0));
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError::UnknownPreset`] for any other name.
    pub fn preset(name: &str) -> Result<Self> {
        if name == TUTORIAL {
            let input_only = Self::new(50257, 4, 256).with_n_layer(0).with_n_head(1).with_embd_pdrop(0.0);
            return Ok(input_only.with_initializer_range(1.0));
        }
        match GPT2_SIZES.iter().find(|(known, ..)| *known == name) {
            Some(&(_, n_layer, n_head, n_embd)) => {
                Ok(Self::default().with_n_layer(n_layer).with_n_head(n_head).with_n_embd(n_embd))
            }
            None => {
                let known: Vec<_> = GPT2_SIZES.iter().map(|(name, ..)| *name).chain([TUTORIAL]).collect();
                Err(ConfigError::UnknownPreset { name: name.to_string(), known: known.join(", ") }.into())
            }
        }
    }

    /// Checks that dimensions are at least 1, that probabilities and deviations are in range, and that the scheme fits
    /// the dimensions.
    ///
    /// ```
    /// # use candle_gpt_input::GptInputConfig;
    /// assert!(GptInputConfig::new(50257, 1024, 768).validate().is_ok());
    /// assert!(GptInputConfig::new(50257, 1024, 0).validate().is_err());
    /// ```
    ///
    /// # Errors
    /// [`ConfigError::Zero`] or [`ConfigError::OutOfRange`], naming the field.
    pub fn validate(&self) -> Result<()> {
        Ok(self.check()?)
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for (name, value) in
            [("vocab_size", self.vocab_size), ("n_positions", self.n_positions), ("n_embd", self.n_embd)]
        {
            if value == 0 {
                return Err(ConfigError::Zero { name });
            }
        }
        if !(0.0..=1.0).contains(&self.embd_pdrop) {
            let expected = "a probability between 0 and 1";
            return Err(ConfigError::OutOfRange { name: "embd_pdrop", value: self.embd_pdrop, expected });
        }
        if !(self.initializer_range.is_finite() && self.initializer_range >= 0.0) {
            let expected = "a finite number of at least 0";
            return Err(ConfigError::OutOfRange { name: "initializer_range", value: self.initializer_range, expected });
        }
        if self.head_dim == Some(0) {
            return Err(ConfigError::Zero { name: "head_dim" });
        }
        self.check_vocab()?;
        self.check_tying()?;
        self.embedding_scale.check()?;
        self.check_limits()?;
        self.position.validate(self.n_embd, self.n_head, self.head_dim)
    }

    /// Returns the width of a head, stated or computed; 0 without heads.
    pub(crate) fn width_of_head(&self) -> usize {
        self.head_dim.unwrap_or(self.n_embd.checked_div(self.n_head).unwrap_or(0))
    }
}
