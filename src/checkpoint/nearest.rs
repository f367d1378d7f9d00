//! Finds the names most like a wanted one, for error messages.

use std::collections::HashMap;

use super::keys::{self, DOTS, module_of, token_table_modules};

/// How many names are returned, and how many bytes at the end of a name are compared.
const N_NEAREST: usize = 3;
const N_COMPARED: usize = 64;
/// Among very many names, only so many are measured: those with the most letters in common.
const N_MEASURED: usize = 20_000;

/// Lists up to three of `names`, for an error message: those most like `wanted`, or like a token table's.
pub(super) fn closest(names: &[&str], wanted: Option<&str>) -> String {
    let similar = match wanted {
        Some(name) => nearest(names, &[name], true),
        None => nearest(names, &token_table_modules().collect::<Vec<_>>(), false),
    };
    if similar.is_empty() { "no tensors".to_string() } else { keys::listed(&similar) }
}

/// Returns the up to three `names` whose ends are most like one of `wanted`, the most similar first.
///
/// Names are compared by edit distance relative to their length, over as many of their last parts as `wanted` has.
/// Their leaves (`.weight`) count only if `with_leaf`.
fn nearest<'a>(names: &[&'a str], wanted: &[&str], with_leaf: bool) -> Vec<&'a str> {
    let mut wanted: Vec<(usize, End)> =
        wanted.iter().map(|wanted| (wanted.split(DOTS).count(), End::of(wanted))).collect();
    wanted.sort_by_key(|(n_parts, _)| *n_parts);
    let longest = wanted.last().map_or(1, |(n_parts, _)| *n_parts);
    let with_ends = |name, compare: &dyn Fn(&End, &End) -> usize| {
        let path = if with_leaf { name } else { module_of(name).unwrap_or(name) };
        let same_length = wanted.chunk_by(|(left, _), (right, _)| left == right);
        let distances = same_length.flat_map(|wanted| {
            let end = wanted.first().map(|(n_parts, _)| End::of(last_parts(path, *n_parts)));
            wanted.iter().filter_map(move |(_, wanted)| Some(compare(end.as_ref()?, wanted)))
        });
        distances.min().unwrap_or(usize::MAX)
    };
    // Blocks repeat the ends of their names.
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut candidates: Vec<(usize, &str)> = Vec::with_capacity(names.len());
    for &name in names {
        let path = if with_leaf { name } else { module_of(name).unwrap_or(name) };
        let end = last_parts(path, longest);
        candidates.push((*known.entry(end).or_insert_with(|| with_ends(name, &End::least_distance)), name));
    }
    candidates.sort_by_key(|(least, _)| *least);
    let mut nearest: Vec<(usize, &str)> = Vec::with_capacity(N_NEAREST + 1);
    for (least, name) in candidates.into_iter().take(N_MEASURED) {
        // Whatever is no nearer than these is not wanted.
        let farthest = nearest.get(N_NEAREST - 1).map_or(usize::MAX, |(distance, _)| *distance);
        if least >= farthest {
            break;
        }
        let distance = with_ends(name, &End::distance);
        if distance < farthest {
            let at = nearest.partition_point(|(of_nearest, _)| *of_nearest <= distance);
            nearest.insert(at, (distance, name));
            nearest.truncate(N_NEAREST);
        }
    }
    nearest.into_iter().map(|(_, name)| name).collect()
}

/// Returns the last `n` parts of a name.
fn last_parts(name: &str, n: usize) -> &str {
    let mut ends = name.rmatch_indices(DOTS).map(|(at, _)| at + 1);
    ends.nth(n.saturating_sub(1)).map_or(name, |start| &name[start..])
}

/// The end of a name, backwards and in lower case.
struct End {
    bytes: Vec<u8>,
    /// A bit for each letter in it: bytes that differ by 64 share one.
    letters: u64,
}

impl End {
    fn of(name: &str) -> Self {
        let bytes: Vec<u8> = name.bytes().rev().take(N_COMPARED).map(|byte| byte.to_ascii_lowercase()).collect();
        let letters = bytes.iter().fold(0, |letters, byte| letters | 1 << (byte % 64));
        Self { bytes, letters }
    }

    /// Returns what the distance is at least, by lengths and letters alone.
    fn least_distance(&self, other: &Self) -> usize {
        // Each letter that only one of them has takes an edit.
        let only_left = (self.letters & !other.letters).count_ones() as usize;
        let only_right = (other.letters & !self.letters).count_ones() as usize;
        self.of_longer(other, only_left.max(only_right).max(self.bytes.len().abs_diff(other.bytes.len())))
    }

    /// Returns the edit distance in thousandths of the longer length.
    fn distance(&self, other: &Self) -> usize {
        // One row of the table of distances, from the row above.
        let mut row: Vec<usize> = (0..=other.bytes.len()).collect();
        for (i, of_left) in self.bytes.iter().enumerate() {
            let mut diagonal = std::mem::replace(&mut row[0], i + 1);
            for (j, of_right) in other.bytes.iter().enumerate() {
                let replaced = diagonal + usize::from(of_left != of_right);
                diagonal = row[j + 1];
                row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
            }
        }
        self.of_longer(other, row[other.bytes.len()])
    }

    fn of_longer(&self, other: &Self, n_edits: usize) -> usize {
        n_edits * 1000 / self.bytes.len().max(other.bytes.len()).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_levenshtein() {
        for (left, right, edits, longer) in
            [("kitten", "sitting", 3, 7), ("wte", "wpe", 1, 3), ("", "ab", 2, 2), ("flaw", "lawn", 2, 4)]
        {
            let (left, right) = (End::of(left), End::of(right));
            assert_eq!(left.distance(&right), edits * 1000 / longer);
            assert_eq!(right.distance(&left), edits * 1000 / longer);
            assert!(left.least_distance(&right) <= left.distance(&right));
        }
    }

    #[test]
    fn the_most_similar_names_come_first() {
        let names = [
            "blk.0.post_attention_norm.weight",
            "embeddings.LayerNorm.bias",
            "encoder.layer.0.output.dense.weight",
            "model.word_embedding.weight",
            "x.token_embed.weight",
        ];
        let wanted = ["word_embeddings", "token_embd", "wte"];
        assert_eq!(nearest(&names, &wanted, false)[..2], [names[3], names[4]]);
        assert_eq!(nearest(&["b.wpe.weight", "a.ln.weight"], &["a.wpe.weight"], true)[0], "b.wpe.weight");
        let many = ["a", "b", "c", "d", "tok_embd", "e", "token_embedding", "token_embd_"];
        assert_eq!(nearest(&many, &["token_embd"], true), ["token_embd_", "tok_embd", "token_embedding"]);
    }

    #[test]
    fn many_names_take_seconds() {
        let mut state = 1u64;
        let mut letter = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            b"abcdeghiklmnoprstuw_"[(state >> 33) as usize % 20] as char
        };
        let names: Vec<String> = (0..200_000).map(|_| (0..24).map(|_| letter()).collect()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let start = std::time::Instant::now();
        assert_eq!(closest(&names, None).split(", ").count(), N_NEAREST);
        assert_eq!(closest(&names, Some("transformer.h.0.attn.wte")).split(", ").count(), N_NEAREST);
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
