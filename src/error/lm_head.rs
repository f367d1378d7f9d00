//! [`LmHeadError`]: why a layer has no output head, or a head no largest logit.

use std::path::PathBuf;

use super::shown::Shown;

/// Says why a layer has no output head, or a head no largest logit.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_gpt_input::error::LmHeadError;
/// use candle_gpt_input::{Error, GptInputConfig, GptInputLayer};
/// use candle_nn::VarBuilder;
///
/// let config = GptInputConfig::new(3, 2, 4).with_extra("tie_word_embeddings", false)?;
/// let layer = GptInputLayer::load(VarBuilder::zeros(DType::F32, &Device::Cpu), &config)?;
/// assert!(matches!(layer.lm_head(), Err(Error::LmHead(LmHeadError::Missing))));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LmHeadError {
    /// A model whose head is its own, and is not there.
    #[error(
        "the model has an output head of its own (`tie_word_embeddings` is false), which is not there: give the layer \
         one with `with_lm_head`, or tie it to wte with `tie_lm_head`"
    )]
    Missing,
    /// Several tensors that may be the head.
    #[error(
        "{path}: several output heads: {candidates}; name one with `CheckpointOptions::with_lm_head`",
        path = Shown::path(path),
        candidates = Shown::text(candidates)
    )]
    Several {
        /// The checkpoint.
        path: PathBuf,
        /// Their names.
        candidates: String,
    },
    /// A model that changes hidden states before the head, as BERT does.
    #[error(
        "{path}: `{name}` changes the hidden states before the output head: compute that yourself, and make a head of \
         the table with `LmHead::new`",
        path = Shown::path(path),
        name = Shown::name(name)
    )]
    Transform {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A logit that is NaN, so that none is the largest.
    #[error(
        "the logit of token {id} for the hidden state at {at:?} is NaN: look for NaN or infinite elements in the \
         hidden states and the table"
    )]
    Nan {
        /// The lowest such token.
        id: u32,
        /// The index of the hidden state, one entry for each dimension before the last.
        at: Vec<usize>,
    },
    /// More logits than there are tokens.
    #[error("the {k} largest of {vocab_size} logits: pass at most {vocab_size}")]
    TooMany {
        /// How many were asked for.
        k: usize,
        /// How many tokens have a logit.
        vocab_size: usize,
    },
}
