//! [`Merges`], byte-pair encoding of one word where ids follow the order of merges, as GPT-2's do.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::vocabulary::TokenBytes;

/// No token: ids are smaller.
const NONE: u16 = u16::MAX;
/// Slots of a table of tokens or merges. Fewer than half are taken, so that absent keys are found absent at once.
const N_SLOTS: usize = 1 << 17;
/// The most bytes of a word whose parts are searched for each merge. In a longer word, merges are queued.
const SHORT_BYTES: usize = 48;

/// The tokens and merges of a vocabulary: merges apply in the order of the ids that they give.
pub(super) struct Merges {
    tokens: Arc<TokenBytes>,
    /// The id of each byte.
    bytes: [u16; 256],
    /// What two bytes merge into, by the first and the second.
    byte_pairs: Vec<u16>,
    /// Two tokens, as in [`pair`], and what they merge into.
    pairs: Vec<(u32, u16)>,
    /// Part of the hash of a token's bytes, and its id.
    ids: Vec<(u16, u16)>,
}

/// The buffers of [`Merges::merge`].
#[derive(Default)]
pub(super) struct MergeBuffers {
    /// The parts of the word.
    parts: Vec<u16>,
    /// What each part and its right neighbour merge into.
    merged: Vec<u16>,
    /// The neighbours of each part of a long word.
    left: Vec<u32>,
    right: Vec<u32>,
    /// The merges that apply, as `id << 32 | part`: the lowest id first, then the leftmost part.
    queue: BinaryHeap<Reverse<u64>>,
}

impl Merges {
    /// Takes all tokens, and how many bytes the left half of each has: 0 for a token that no merge gives.
    pub(super) fn new(tokens: Arc<TokenBytes>, left_lens: &[usize]) -> Result<Self, String> {
        let (byte_pairs, pairs, ids) = (vec![NONE; 1 << 16], vec![(0, NONE); N_SLOTS], vec![(0, NONE); N_SLOTS]);
        let mut merges = Self { tokens: tokens.clone(), bytes: [NONE; 256], byte_pairs, pairs, ids };
        for (id, &left_len) in (0..NONE).zip(left_lens) {
            let Some(token) = tokens.get(id.into()) else { continue };
            if let [byte] = token {
                merges.bytes[usize::from(*byte)] = id;
            } else if left_len == 0 {
                continue;
            } else {
                let halves = token.split_at_checked(left_len).map(|(left, right)| (merges.id(left), merges.id(right)));
                let Some((Some(left), Some(right))) = halves else {
                    return Err(format!("token {id} is not merged from two tokens before it"));
                };
                merges.insert_pair(left, right, id);
            }
            if let [left, right] = token {
                merges.byte_pairs[byte_pair(*left, *right)] = id;
            }
            let hash = hash_bytes(token);
            if let Some(slot) = slots(hash).find(|&slot| merges.ids[slot].1 == NONE) {
                merges.ids[slot] = (tag(hash), id);
            }
        }
        match merges.bytes.iter().position(|id| *id == NONE) {
            Some(byte) => Err(format!("no token stands for the byte {byte:#04x}")),
            None => Ok(merges),
        }
    }

    fn insert_pair(&mut self, left: u16, right: u16, id: u16) {
        let key = pair(left, right);
        if let Some(slot) = slots(hash(0, key.into())).find(|&slot| self.pairs[slot].1 == NONE) {
            self.pairs[slot] = (key, id);
        }
    }

    /// Returns the token with these bytes.
    pub(super) fn id(&self, bytes: &[u8]) -> Option<u16> {
        let hash = hash_bytes(bytes);
        let spells = |id: u16| self.tokens.strip(id.into(), bytes).is_some_and(<[u8]>::is_empty);
        let mut entries = slots(hash).map(|slot| self.ids[slot]).take_while(|(_, id)| *id != NONE);
        entries.find(|&(other, id)| other == tag(hash) && spells(id)).map(|(_, id)| id)
    }

    /// Returns what two tokens merge into, or [`NONE`].
    fn merged(&self, left: u16, right: u16) -> u16 {
        let key = pair(left, right);
        let mut found = slots(hash(0, key.into())).map(|slot| self.pairs[slot]);
        found.find(|&(other, id)| other == key || id == NONE).map_or(NONE, |(_, id)| id)
    }

    /// Merges the bytes of a word: of all merges that apply the first, at its leftmost place, until none applies.
    pub(super) fn merge<'b>(&self, word: &[u8], buffers: &'b mut MergeBuffers) -> &'b [u16] {
        let MergeBuffers { parts, merged, .. } = buffers;
        parts.clear();
        parts.extend(word.iter().map(|byte| self.bytes[usize::from(*byte)]));
        merged.clear();
        merged.extend(word.windows(2).map(|bytes| self.byte_pairs[byte_pair(bytes[0], bytes[1])]));
        match word.len() {
            ..=SHORT_BYTES => self.merge_short(parts, merged),
            _ => self.merge_long(buffers),
        }
        &buffers.parts
    }

    fn merge_short(&self, parts: &mut Vec<u16>, merged: &mut Vec<u16>) {
        while let Some(id) = merged.iter().copied().min().filter(|id| *id != NONE) {
            let at = merged.iter().position(|other| *other == id).unwrap_or(0);
            parts[at] = id;
            parts.remove(at + 1);
            merged.remove(at);
            if let Some(right) = parts.get(at + 1) {
                merged[at] = self.merged(id, *right);
            }
            if let Some(left) = at.checked_sub(1) {
                merged[left] = self.merged(parts[left], id);
            }
        }
    }

    /// Takes time proportional to n log n. Parts that went into their left neighbour are [`NONE`]. A queued merge does
    /// not apply if another one has changed its place.
    fn merge_long(&self, buffers: &mut MergeBuffers) {
        let MergeBuffers { parts, merged, left, right, queue } = buffers;
        let n = parts.len();
        merged.push(NONE);
        left.clear();
        left.extend((0..n as u32).map(|at| at.saturating_sub(1)));
        right.clear();
        right.extend(1..=n as u32);
        queue.clear();
        let due = |(id, at): (&u16, u32)| (*id != NONE).then_some(Reverse(u64::from(*id) << 32 | u64::from(at)));
        queue.extend(merged.iter().zip(0..).filter_map(due));
        while let Some(Reverse(entry)) = queue.pop() {
            let (id, place) = ((entry >> 32) as u16, entry as u32);
            let at = place as usize;
            if merged[at] != id {
                continue;
            }
            let gone = right[at] as usize;
            (parts[at], right[at]) = (id, right[gone]);
            (parts[gone], merged[gone]) = (NONE, NONE);
            let next = right[at] as usize;
            merged[at] = NONE;
            if next < n {
                left[next] = place;
                merged[at] = self.merged(id, parts[next]);
                queue.extend(due((&merged[at], place)));
            }
            if at > 0 {
                let before = left[at] as usize;
                merged[before] = self.merged(parts[before], id);
                queue.extend(due((&merged[before], left[at])));
            }
        }
        parts.retain(|id| *id != NONE);
    }
}

fn byte_pair(left: u8, right: u8) -> usize {
    usize::from(left) << 8 | usize::from(right)
}

fn pair(left: u16, right: u16) -> u32 {
    u32::from(left) << 16 | u32::from(right)
}

/// Returns the slots of a table in the order in which a key is searched for.
fn slots(hash: u64) -> impl Iterator<Item = usize> {
    let first = (hash >> (u64::BITS - N_SLOTS.ilog2())) as usize;
    (first..N_SLOTS).chain(0..first)
}

/// Returns a part of a hash that says little about the slot.
fn tag(hash: u64) -> u16 {
    (hash >> 16) as u16
}

/// Returns a hash of which the high bits are to be used.
fn hash(seed: u64, value: u64) -> u64 {
    (seed.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15) // 2^64 divided by the golden ratio
}

/// Hashes whole words of the bytes; the first and the last one may overlap.
fn hash_bytes(bytes: &[u8]) -> u64 {
    let n = bytes.len() as u64;
    if let Some(last) = bytes.last_chunk() {
        let (chunks, _) = bytes.as_chunks();
        return chunks.iter().chain([last]).fold(n, |seed, chunk| hash(seed, u64::from_le_bytes(*chunk)));
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return hash(hash(n, u32::from_le_bytes(*first).into()), u32::from_le_bytes(*last).into());
    }
    bytes.iter().fold(n, |seed, byte| hash(seed, (*byte).into()))
}

#[cfg(test)]
mod tests {
    use super::super::gpt2;
    use super::*;

    /// A word that is a token is not merged, so merging must give the token.
    #[test]
    fn each_token_is_what_its_bytes_merge_into() {
        let (tokens, left_lens) = gpt2::tokens();
        let merges = Merges::new(tokens.clone(), &left_lens).unwrap();
        let mut buffers = MergeBuffers::default();
        for id in 0..50256 {
            let token = tokens.get(id.into()).unwrap();
            assert_eq!((merges.merge(token, &mut buffers), merges.id(token)), (&[id][..], Some(id)));
        }
        assert_eq!((merges.id(b"<|endoftext|>"), merges.id(b"")), (None, None));
        assert_eq!(merges.merge(b"", &mut buffers), [0; 0]);
    }

    #[test]
    fn short_and_long_words_are_merged_alike() {
        let (tokens, left_lens) = gpt2::tokens();
        let merges = Merges::new(tokens.clone(), &left_lens).unwrap();
        let (mut short, mut long) = (MergeBuffers::default(), MergeBuffers::default());
        let mut state = 1u32;
        for n_tokens in (1..40).cycle().take(4000) {
            let mut word = Vec::new();
            for _ in 0..n_tokens {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                word.extend_from_slice(tokens.get((state >> 8) % [128, 1000, 50256][state as usize % 3]).unwrap());
            }
            for buffers in [&mut short, &mut long] {
                buffers.parts = word.iter().map(|byte| merges.bytes[usize::from(*byte)]).collect();
                buffers.merged = buffers.parts.windows(2).map(|parts| merges.merged(parts[0], parts[1])).collect();
            }
            merges.merge_short(&mut short.parts, &mut short.merged);
            merges.merge_long(&mut long);
            assert_eq!(short.parts, long.parts, "{word:?}");
            assert_eq!(merges.merge(&word, &mut long), short.parts);
        }
    }

    #[test]
    fn a_vocabulary_that_is_not_in_the_order_of_its_merges_is_refused() {
        let refused = |tokens: &[&[u8]], left_lens: &[usize]| {
            let mut bytes = TokenBytes::default();
            tokens.iter().zip(0..).for_each(|(token, id)| bytes.insert(id, token));
            Merges::new(Arc::new(bytes), left_lens).err().unwrap()
        };
        assert_eq!(refused(&[b"a", b"ab", b"b"], &[0, 1, 0]), "token 1 is not merged from two tokens before it");
        assert_eq!(refused(&[b"a", b"b", b"ab"], &[0, 0, 3]), "token 2 is not merged from two tokens before it");
        assert_eq!(refused(&[b"\0", b"b"], &[0, 0]), "no token stands for the byte 0x01");
    }
}
