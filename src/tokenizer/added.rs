//! Added tokens, which do not come from merges: they are found in a text before it is cut into words.

use std::collections::HashMap;
use std::ops::Range;

use tokenizers::pipeline::{Normalizer, PipelinePatternMatcher};
use tokenizers::pre_tokenizers::whitespace::is_word_char;
use tokenizers::vocab::bucket_added_vocabulary::{AddedToken, AddedVocabulary};

use super::encoding::SpecialTokens;
use super::frame::Frame;
use crate::error::TokenizerError;

/// The added tokens of a vocabulary, and the library's search for them.
pub(super) struct AddedTokens {
    search: AddedVocabulary,
    /// By id.
    tokens: Vec<Added>,
}

struct Added {
    id: u32,
    token: AddedToken,
    /// What is searched for: the token, or its normalized form.
    form: String,
}

impl AddedTokens {
    /// Takes tokens with distinct ids and contents that are not empty, and the normalizers of the text.
    pub(super) fn new(tokens: Vec<(u32, AddedToken)>, frame: &Frame) -> Result<Self, String> {
        let form = |token: &AddedToken| match token.normalized {
            true => frame.normalize(&token.content, 1).map(|form| form.into_owned()).map_err(|error| error.to_string()),
            false => Ok(token.content.clone()),
        };
        let added = |(id, token): (u32, AddedToken)| Ok(Added { id, form: form(&token)?, token });
        let mut tokens = tokens.into_iter().map(added).collect::<Result<Vec<_>, String>>()?;
        tokens.sort_by_key(|added| added.id);
        let mut search = AddedVocabulary::new();
        // The library would renumber the tokens; it keeps an id that it takes for the model's.
        let ids: HashMap<&str, u32> = tokens.iter().map(|added| (added.token.content.as_str(), added.id)).collect();
        let id = |content: &str| ids.get(content).copied();
        // `next` looks at the characters around a word: the library passes over those before the place where it begins.
        let list = tokens.iter().map(|added| added.token.clone().single_word(false));
        search.add_tokens(list, 0, id, Some(frame)).map_err(|error| error.to_string())?;
        Ok(Self { search, tokens })
    }

    pub(super) fn special_id(&self, content: &str) -> Option<u32> {
        self.tokens.iter().find(|added| added.token.special && added.token.content == content).map(|added| added.id)
    }

    /// Returns whether no token has or takes a space that follows something else.
    pub(super) fn are_in_words(&self) -> bool {
        let has_space = |text: &str| text.contains(char::is_whitespace);
        self.tokens
            .iter()
            .all(|Added { token, form, .. }| !token.rstrip && !has_space(&token.content) && !has_space(form))
    }

    /// Finds the first added token in `text` from byte `from` on, including the spaces that it absorbs.
    ///
    /// `normalized` selects the tokens to be found after normalization, or else those before it. `policy` applies to
    /// special tokens.
    pub(super) fn next(
        &self,
        text: &str,
        mut from: usize,
        normalized: bool,
        policy: SpecialTokens,
    ) -> Result<Option<(Range<usize>, u32)>, TokenizerError> {
        let as_text = policy == SpecialTokens::AsText;
        while let Some(((start, end), id)) = self.search.extract_next(text.as_bytes(), from, normalized, as_text) {
            let found = self.tokens.binary_search_by_key(&id, |added| added.id).ok().map(|at| &self.tokens[at]);
            // The library compares 32 bits of a hash, not the token.
            let found = found.and_then(|added| Some((added, start + text.get(start..end)?.find(&added.form)?)));
            let Some((Added { token, form, .. }, at)) = found else {
                let reason = format!("what the library found at byte {start} is not an added token");
                return Err(TokenizerError::Encode { reason, source: None });
            };
            if token.single_word && !stands_alone(text, at..at + form.len()) {
                from = at + form.len();
            } else if token.special && policy == SpecialTokens::Refuse {
                return Err(TokenizerError::SpecialToken { token: token.content.clone(), at });
            } else {
                return Ok(Some((start..end, id)));
            }
        }
        Ok(None)
    }
}

/// Returns whether the characters around a range are none of a word.
fn stands_alone(text: &str, range: Range<usize>) -> bool {
    let around = [text[..range.start].chars().next_back(), text[range.end..].chars().next()];
    !around.into_iter().flatten().any(is_word_char)
}
