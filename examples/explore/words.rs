//! Words as tokens, and tokens as words.

use anyhow::{Context, Result};
use candle_gpt_input::tokenizer::Tokenizer;

/// Words and their tokens.
pub struct Words {
    pub tokenizer: Tokenizer,
}

impl Words {
    /// Returns the token of a word inside a sentence (with a space before it), or else of the bare word.
    pub fn id(&self, word: &str) -> Result<usize> {
        let written = self.tokenizer.encode(word)?;
        match (&self.tokenizer.encode(&format!(" {word}"))?[..], &written[..]) {
            (&[id], _) | (_, &[id]) => Ok(id as usize),
            _ => anyhow::bail!("{word:?} is {} tokens: {}", written.len(), self.list_ids(&written)),
        }
    }

    pub fn analogy(&self, text: &str) -> Result<[usize; 3]> {
        let parts = text.split_once("::").and_then(|(known, c)| Some((known.split_once(':')?, c)));
        let ((a, b), c) = parts.with_context(|| format!("{text:?}: write an analogy as A:B::C"))?;
        Ok([self.id(a)?, self.id(b)?, self.id(c)?])
    }

    pub fn group(&self, words: &str) -> Result<Vec<(String, usize)>> {
        words.split(',').map(|word| Ok((word.to_string(), self.id(word)?))).collect()
    }

    pub fn show(&self, id: usize) -> String {
        let bytes = u32::try_from(id).ok().and_then(|id| self.tokenizer.token_bytes(id));
        bytes.map_or_else(|| format!("token {id}"), |bytes| format!("{:?}", String::from_utf8_lossy(bytes)))
    }

    pub fn list(&self, found: &[(f32, usize)]) -> String {
        let shown: Vec<String> = found.iter().map(|&(cosine, id)| format!("{} {cosine:.2}", self.show(id))).collect();
        shown.join("  ")
    }

    fn list_ids(&self, ids: &[u32]) -> String {
        ids.iter().map(|&id| self.show(id as usize)).collect::<Vec<_>>().join(" ")
    }
}
