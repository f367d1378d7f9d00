//! [`WordEncoder`], which encodes text word by word: the library cuts it into words, and [`Merges`] gives their ids.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokenizers::pipeline::{PipelineToken, PreTokenizer, PreTokenizerScratch, Span};
use tokenizers::pre_tokenizers::split::Split;

use super::merges::{MergeBuffers, Merges};

/// Pairs of words whose ids are kept, a power of two: 2 MiB, as in the library.
const N_PAIRS: usize = 1 << 15;
/// The most bytes of a word that is kept there: its length is the last byte of its key.
const SHORT_BYTES: usize = 15;
/// The most ids of such a word.
const MAX_IDS: usize = 7;
/// The most bytes of other words whose ids are kept, and how many are.
const LONG_BYTES: usize = 64;
const N_LONG: usize = 1 << 13;
/// The longest text after which buffers are kept. Only one word can be longer.
const MAX_KEPT_BYTES: usize = 1 << 17;

/// Encodes by merges whose ids follow their order. The library needs ten times as long to prepare them.
pub(super) struct WordEncoder {
    split: Split,
    merges: Merges,
    /// Caches that no thread uses now.
    caches: Mutex<Vec<Cache>>,
}

/// Buffers, and the ids of words that were encoded before.
struct Cache {
    split: PreTokenizerScratch,
    words: Vec<Span>,
    merge: MergeBuffers,
    short: Vec<[Short; 2]>,
    long: Long,
}

/// Longer words, and their ids.
type Long = HashMap<Box<[u8]>, Box<[u16]>>;

/// A word as in [`key`], 0 for none, and its ids.
#[derive(Clone, Copy, Default)]
struct Short {
    key: u128,
    ids: [u16; MAX_IDS],
    n_ids: u16,
}

impl WordEncoder {
    /// Takes a pre-tokenizer whose words cover every text.
    pub(super) fn new(split: Split, merges: Merges) -> Self {
        Self { split, merges, caches: Mutex::default() }
    }

    pub(super) fn split(&self) -> &Split {
        &self.split
    }

    /// Appends the ids of a text. They spell it: a merged token has the bytes of its parts, and words are compared
    /// before their ids are used again.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<PipelineToken>) -> tokenizers::Result<()> {
        let unused = self.caches.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut cache = unused.unwrap_or_else(Cache::new);
        let Cache { split, words, merge, short, long } = &mut cache;
        words.clear();
        self.split.pre_tokenize(text, split, words)?;
        ids.reserve(words.len());
        let text = text.as_bytes();
        for word in words {
            let Some(key) = key(text, *word) else {
                self.encode_long(&text[word.range()], merge, long, ids);
                continue;
            };
            let pair = &mut short[place(key)];
            let known = match pair {
                [known, _] if known.key == key => known,
                [_, known] if known.key == key => known,
                _ => {
                    let start = ids.len();
                    self.encode_new(&text[word.range()], merge, ids);
                    if let Some(new) = Short::new(key, &ids[start..]) {
                        *pair = [new, pair[0]];
                    }
                    continue;
                }
            };
            match known.n_ids {
                1 => ids.push(u32::from(known.ids[0]).into()),
                n => ids.extend(tokens(&known.ids[..usize::from(n).min(MAX_IDS)])),
            }
        }
        if text.len() <= MAX_KEPT_BYTES {
            self.caches.lock().unwrap_or_else(PoisonError::into_inner).push(cache);
        }
        Ok(())
    }

    fn encode_long(&self, word: &[u8], buffers: &mut MergeBuffers, long: &mut Long, ids: &mut Vec<PipelineToken>) {
        if let Some(known) = long.get(word) {
            return ids.extend(tokens(known));
        }
        let start = ids.len();
        self.encode_new(word, buffers, ids);
        if word.len() <= LONG_BYTES {
            if long.len() >= N_LONG {
                long.clear();
            }
            long.insert(word.into(), ids[start..].iter().map(|token| token.id() as u16).collect());
        }
    }

    fn encode_new(&self, word: &[u8], buffers: &mut MergeBuffers, ids: &mut Vec<PipelineToken>) {
        match self.merges.id(word) {
            Some(id) => ids.push(u32::from(id).into()),
            None => ids.extend(tokens(self.merges.merge(word, buffers))),
        }
    }
}

impl Cache {
    fn new() -> Self {
        Self {
            split: PreTokenizerScratch::default(),
            words: Vec::new(),
            merge: MergeBuffers::default(),
            short: vec![[Short::default(); 2]; N_PAIRS],
            long: Long::new(),
        }
    }
}

impl Short {
    fn new(key: u128, tokens: &[PipelineToken]) -> Option<Self> {
        let mut ids = [0; MAX_IDS];
        ids.get_mut(..tokens.len())?.iter_mut().zip(tokens).for_each(|(id, token)| *id = token.id() as u16);
        Some(Self { key, ids, n_ids: tokens.len() as u16 })
    }
}

fn tokens(ids: &[u16]) -> impl Iterator<Item = PipelineToken> {
    ids.iter().map(|id| u32::from(*id).into())
}

/// Returns the bytes of a short word, and its length.
#[inline]
fn key(text: &[u8], word: Span) -> Option<u128> {
    let word = word.range();
    let n = word.len();
    if n > SHORT_BYTES {
        return None;
    }
    let bytes = match text[word.start..].first_chunk() {
        Some(chunk) => u128::from_le_bytes(*chunk) & ((1 << (8 * n)) - 1),
        None => {
            let mut chunk = [0; 16];
            chunk[..n].copy_from_slice(&text[word]);
            u128::from_le_bytes(chunk)
        }
    };
    Some(bytes | (n as u128) << (8 * SHORT_BYTES))
}

/// Mixes both halves of a key, each of which is combined with digits of an irrational number.
#[inline]
fn place(key: u128) -> usize {
    let (low, high) = (key as u64 ^ 0x9e37_79b9_7f4a_7c15, (key >> 64) as u64 ^ 0xd1b5_4a32_d192_ed03);
    let product = u128::from(low) * u128::from(high);
    ((product >> 64) as u64 ^ product as u64) as usize % N_PAIRS
}
