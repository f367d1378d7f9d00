//! Finds the names most like a wanted one, for error messages.

use std::collections::HashMap;

use super::keys::{self, DOTS, module_of, token_table_modules};

/// How many names are returned, and how many bytes at the end of a name are compared.
const N_NEAREST: usize = 3;
const N_COMPARED: usize = 64;

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
    let longest = wanted.iter().map(|wanted| wanted.split(DOTS).count()).max().unwrap_or(1);
    // Blocks repeat the ends of their names.
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut nearest: Vec<(usize, &str)> = Vec::with_capacity(N_NEAREST + 1);
    for &name in names {
        let path = if with_leaf { name } else { module_of(name).unwrap_or(name) };
        let of_wanted = |wanted: &&str| relative(last_parts(path, wanted.split(DOTS).count()), wanted);
        let distance = *known
            .entry(last_parts(path, longest))
            .or_insert_with(|| wanted.iter().map(of_wanted).min().unwrap_or(usize::MAX));
        let at = nearest.partition_point(|(of_nearest, _)| *of_nearest <= distance);
        nearest.insert(at, (distance, name));
        nearest.truncate(N_NEAREST);
    }
    nearest.into_iter().map(|(_, name)| name).collect()
}

/// Returns the last `n` parts of a name.
fn last_parts(name: &str, n: usize) -> &str {
    let mut ends = name.rmatch_indices(DOTS).map(|(at, _)| at + 1);
    ends.nth(n.saturating_sub(1)).map_or(name, |start| &name[start..])
}

/// Returns the edit distance of the ends of two texts, in thousandths of the longer one's length.
fn relative(left: &str, right: &str) -> usize {
    let end =
        |text: &str| text.bytes().rev().take(N_COMPARED).map(|byte| byte.to_ascii_lowercase()).collect::<Vec<_>>();
    let (left, right) = (end(left), end(right));
    // One row of the table of distances, from the row above.
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, of_left) in left.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, of_right) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(of_left != of_right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()] * 1000 / left.len().max(right.len()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_levenshtein() {
        for (left, right, edits, longer) in
            [("kitten", "sitting", 3, 7), ("wte", "wpe", 1, 3), ("", "ab", 2, 2), ("flaw", "lawn", 2, 4)]
        {
            assert_eq!(relative(left, right), edits * 1000 / longer, "{left} {right}");
            assert_eq!(relative(right, left), edits * 1000 / longer, "{right} {left}");
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
    }
}
