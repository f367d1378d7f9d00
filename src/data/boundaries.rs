//! [`Boundaries`]: what happens between two documents.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{ConfigError, Error, Result};

/// Says what happens at the boundary between two documents: `keep`, `mark` or `ignore`.
///
/// Documents are those of [`Tokens`](super::Tokens), which knows them from an index or from the files; they are never
/// guessed from ids.
///
/// ```
/// use candle_core::Device;
/// use candle_gpt_input::data::{Boundaries, Loader, LoaderConfig, Seeding, Tokens};
/// use candle_gpt_input::rng::Generator;
///
/// let tokens = Tokens::from_documents([vec![1, 2, 3], vec![4, 5, 6, 7]]);
/// let config = LoaderConfig::default().with_batch_size(1).with_max_length(6).with_stride(6).with_shuffle(false);
/// let new = |boundaries: &str| {
///     let config = config.clone().with_boundaries(boundaries.parse()?);
///     Loader::new(&tokens, config, Seeding::Global(Generator::default()), &Device::Cpu)
/// };
/// assert!(new("keep").is_err()); // no document has 7 tokens
/// let batch = new("mark")?.epoch().next().unwrap()?;
/// assert_eq!(batch.input_ids.to_vec2::<u32>()?, [[1, 2, 3, 4, 5, 6]]);
/// assert_eq!(batch.position_ids.unwrap().to_vec2::<u32>()?, [[0, 1, 2, 0, 1, 2]]);
/// assert_eq!(batch.loss_mask.unwrap().to_vec2::<u8>()?, [[1, 1, 0, 1, 1, 1]]); // 3 does not predict 4
/// assert_eq!(batch.documents.unwrap().lengths().collect::<Vec<_>>(), [[3, 3]]);
/// assert!(new("ignore")?.epoch().next().unwrap()?.loss_mask.is_none());
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
#[doc(alias("packing", "reset_position_ids", "eod_mask_loss"))]
pub enum Boundaries {
    /// No window crosses: each lies in one document.
    #[default]
    Keep,
    /// Windows cross, and batches say where: positions restart at each document, no token is predicted from another
    /// document, and [`Batch::documents`](super::Batch::documents) keeps attention apart. A document that a window
    /// cuts begins again at position 0 in the next. Megatron: `reset_position_ids`, `reset_attention_mask` and
    /// `eod_mask_loss`.
    Mark,
    /// Windows cross as if all documents were one, as nanoGPT's and llm.c's do.
    Ignore,
}

impl fmt::Display for Boundaries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "keep",
            Self::Mark => "mark",
            Self::Ignore => "ignore",
        })
    }
}

impl FromStr for Boundaries {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(ConfigError::one_of("boundaries", [Self::Keep, Self::Mark, Self::Ignore], "keep, mark or ignore", text)?)
    }
}
