//! Added tokens, which do not come from merges: they are found in a text before it is cut into words.

use std::collections::HashMap;
use std::ops::Range;

use tokenizers::pipeline::{NormalizerChain, PipelineNormalizer, PipelinePatternMatcher};
use tokenizers::vocab::bucket_added_vocabulary::{AddedToken, AddedVocabulary};

use super::encoding::SpecialTokens;
use crate::error::TokenizerError;

/// The added tokens of a vocabulary, and the library's search for them.
pub(super) struct AddedTokens {
    search: AddedVocabulary,
    /// By id.
    tokens: Vec<(u32, AddedToken)>,
    has_normalizers: bool,
}

impl AddedTokens {
    /// Takes tokens with distinct ids and contents that are not empty, and the normalizers of the text.
    pub(super) fn new(mut tokens: Vec<(u32, AddedToken)>, normalizers: &[PipelineNormalizer]) -> Result<Self, String> {
        tokens.sort_by_key(|(id, _)| *id);
        let mut search = AddedVocabulary::new();
        // The library would renumber the tokens; it keeps an id that it takes for the model's.
        let ids: HashMap<&str, u32> = tokens.iter().map(|(id, token)| (token.content.as_str(), *id)).collect();
        let id = |content: &str| ids.get(content).copied();
        let list = tokens.iter().map(|(_, token)| token.clone());
        search.add_tokens(list, 0, id, Some(&NormalizerChain(normalizers))).map_err(|error| error.to_string())?;
        Ok(Self { search, tokens, has_normalizers: !normalizers.is_empty() })
    }

    pub(super) fn special_id(&self, content: &str) -> Option<u32> {
        self.tokens.iter().find(|(_, token)| token.special && token.content == content).map(|(id, _)| *id)
    }

    /// Finds the first added token in `text` from byte `from` on, including the spaces that it absorbs.
    ///
    /// `normalized` selects the tokens to be found after normalization, or else those before it. `policy` applies to
    /// special tokens.
    pub(super) fn next(
        &self,
        text: &str,
        from: usize,
        normalized: bool,
        policy: SpecialTokens,
    ) -> Result<Option<(Range<usize>, u32)>, TokenizerError> {
        let as_text = policy == SpecialTokens::AsText;
        let Some(((start, end), id)) = self.search.extract_next(text.as_bytes(), from, normalized, as_text) else {
            return Ok(None);
        };
        let found = self.tokens.binary_search_by_key(&id, |(id, _)| *id).ok().map(|at| &self.tokens[at].1);
        // The library compares 32 bits of a hash, not the token. (The normalized form of the token is not known here.)
        let at = found.and_then(|token| text.get(start..end)?.find(&token.content));
        let at = at.or((normalized && self.has_normalizers).then_some(0));
        match (found, at) {
            (Some(token), Some(at)) if token.special && policy == SpecialTokens::Refuse => {
                Err(TokenizerError::SpecialToken { token: token.content.clone(), at: start + at })
            }
            (Some(_), Some(_)) => Ok(Some((start..end, id))),
            _ => {
                let reason = format!("what the library found at byte {start} is not an added token");
                Err(TokenizerError::Encode { reason, source: None })
            }
        }
    }
}
