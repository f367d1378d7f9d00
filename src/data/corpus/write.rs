//! What the formats' writers decide.

use super::megatron::NARROW_BELOW;
use super::{CorpusFormat, IdBits};

/// Returns the width of ids that a format's own writer takes for a vocabulary.
pub(super) fn id_bits(format: CorpusFormat, vocab_size: usize) -> IdBits {
    match format {
        CorpusFormat::Megatron if vocab_size >= NARROW_BELOW => IdBits::ThirtyTwo,
        _ => IdBits::of_vocabulary(vocab_size),
    }
}
