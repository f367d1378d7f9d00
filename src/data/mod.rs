//! Turns token ids into batches: [`Windows`] cuts [`Tokens`], and a [`Loader`] groups windows into a [`Batch`].
//!
//! This is `create_dataloader_v1` of "Build a Large Language Model (From Scratch)", chapter 2, in the order of PyTorch
//! 2.15:
//!
//! ```python
//! torch.manual_seed(123)
//! dataloader = DataLoader(GPTDatasetV1(txt, tokenizer, max_length=4, stride=4), batch_size=2, shuffle=True)
//! ```
//! ```
//! use candle_core::Device;
//! use candle_gpt_input::data::{Loader, LoaderConfig, Seeding, Tokens};
//! use candle_gpt_input::rng::Generator;
//!
//! let tokens = Tokens::new((0..1001).collect());
//! let config = LoaderConfig::default().with_batch_size(2).with_max_length(4).with_stride(4);
//! let generator = Generator::manual_seed(123);
//! let loader = Loader::new(&tokens, config, Seeding::Global(generator), &Device::Cpu)?;
//! assert_eq!((loader.windows().n_windows(), loader.n_batches()), (250, 125));
//!
//! let mut last = None;
//! for batch in &loader {
//!     last = Some(batch?);
//! }
//! let last = last.unwrap();
//! assert_eq!(last.input_ids.to_vec2::<u32>()?, [[880, 881, 882, 883], [112, 113, 114, 115]]);
//! assert_eq!(last.target_ids.to_vec2::<u32>()?, [[881, 882, 883, 884], [113, 114, 115, 116]]);
//! # Ok::<(), candle_gpt_input::Error>(())
//! ```

mod batch;
mod blend;
mod blend_state;
#[cfg(feature = "tokenizer")]
mod book;
mod boundaries;
pub mod corpus;
mod coverage;
mod cut;
mod documents;
mod ids;
mod index;
mod loader;
mod mapped;
mod mixture;
mod order;
mod packed;
mod progress;
mod read_ahead;
mod state;
mod text;
mod tokens;
mod windows;

use serde::{Deserialize, Serialize};

use crate::config::builders;

pub use batch::Batch;
pub use blend::{Batches, Blend};
pub use blend_state::BlendState;
#[cfg(feature = "tokenizer")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokenizer")))]
pub use book::create_dataloader_v1;
pub use boundaries::Boundaries;
pub use coverage::Coverage;
pub use ids::{Ids, IdsIter};
pub use loader::{Epoch, Loader};
pub use order::Seeding;
pub use packed::PackedDocuments;
pub use state::LoaderState;
pub use text::read_text;
pub use tokens::Tokens;
pub use windows::{Tail, Window, Windows};

/// Says how a [`Loader`] cuts and batches; the defaults are those of the book's `create_dataloader_v1`.
///
/// ```
/// use candle_gpt_input::data::LoaderConfig;
///
/// let config: LoaderConfig = serde_json::from_str(r#"{"max_length": 1024, "stride": 1024}"#)?;
/// assert_eq!((config.batch_size, config.shuffle, config.drop_last), (4, true, true));
/// assert_eq!(LoaderConfig::default().with_max_length(1024).with_stride(1024), config);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LoaderConfig {
    /// Windows in a batch (of one rank).
    pub batch_size: usize,
    /// Tokens in a window.
    pub max_length: usize,
    /// Tokens from the start of one window to the start of the next.
    pub stride: usize,
    /// Whether each epoch has a new random order; otherwise windows come in the order of the text.
    pub shuffle: bool,
    /// Whether a last batch that would not be full is left out. With fewer windows than a batch has, there would be none:
    /// an error, where PyTorch makes empty epochs.
    pub drop_last: bool,
    /// What happens to the targets after the last whole window.
    pub tail: Tail,
    /// Whether windows may cross from one document into the next, and whether batches then say where.
    pub boundaries: Boundaries,
    /// Gives batches `position_ids` that restart at 0 after this token, such as GPT-2's end of text.
    ///
    /// Use it for [`joined`](Tokens::joined) documents, of which the boundaries are forgotten; else
    /// [`Boundaries::Mark`] does more and guesses nothing. The token itself belongs to the document that it ends.
    #[doc(alias = "document_separator")]
    pub reset_positions_after: Option<u32>,
}

builders!(LoaderConfig {
    with_batch_size(batch_size: usize),
    with_max_length(max_length: usize),
    with_stride(stride: usize),
    with_shuffle(shuffle: bool),
    with_drop_last(drop_last: bool),
    with_tail(tail: Tail),
    with_boundaries(boundaries: Boundaries),
    with_reset_positions_after(reset_positions_after: u32, Some),
});

impl Default for LoaderConfig {
    /// Returns the defaults of the book's `create_dataloader_v1`: shuffled batches of 4 windows of 256 tokens, 128
    /// apart.
    fn default() -> Self {
        Self {
            batch_size: 4,
            max_length: 256,
            stride: 128,
            shuffle: true,
            drop_last: true,
            tail: Tail::Drop,
            boundaries: Boundaries::Keep,
            reset_positions_after: None,
        }
    }
}
