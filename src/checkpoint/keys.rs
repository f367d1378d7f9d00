//! The names under which GPT-2 checkpoints keep the two input tables.

use std::fmt;

/// The ends of the names of (token table, position table). Any prefix may precede them: `transformer.`, `_orig_mod.`,
/// `model/`, …
const TABLE_NAMES: [(&str, &str); 4] = [
    ("wte.weight", "wpe.weight"),                  // Hugging Face, nanoGPT, minGPT
    ("tok_emb.weight", "pos_emb.weight"),          // "Build a Large Language Model From Scratch"
    ("token_embd.weight", "position_embd.weight"), // GGUF
    ("wte", "wpe"),                                // OpenAI: `model/wte`
];

/// The separators of the parts of a name; TensorFlow's is the slash.
const DOTS: [char; 2] = ['.', '/'];

/// The names that [`save`](super::save) writes, except into GGUF.
pub(super) const SAVED: (&str, &str) = TABLE_NAMES[0];

/// The names in GGUF.
pub(super) const GGUF: (&str, &str) = TABLE_NAMES[2];

/// The ends of the names of an output head: Hugging Face's, the book's, GGUF's.
const LM_HEADS: [&str; 3] = ["lm_head.weight", "out_head.weight", "output.weight"];

/// Says what this crate uses a tensor for.
///
/// ```
/// use candle_gpt_input::checkpoint::Role;
///
/// assert_eq!(Role::of("transformer.wte.weight"), Role::TokenTable);
/// assert_eq!(Role::of("lm_head.weight"), Role::OutputHead);
/// assert_eq!(Role::of("transformer.h.0.ln_1.weight"), Role::Other);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The token table, `wte`.
    TokenTable,
    /// The learned position table, `wpe`.
    PositionTable,
    /// A separate output head; a tied one is `wte` itself.
    OutputHead,
    /// Not used by the input layer.
    Other,
}

impl Role {
    /// Returns the role of the tensor called `name`.
    pub fn of(name: &str) -> Self {
        let is = |suffix: &str| prefix_before(name, suffix).is_some();
        if TABLE_NAMES.iter().any(|(wte, _)| is(wte)) {
            Self::TokenTable
        } else if TABLE_NAMES.iter().any(|(_, wpe)| is(wpe)) {
            Self::PositionTable
        } else if LM_HEADS.iter().any(|name| is(name)) {
            Self::OutputHead
        } else {
            Self::Other
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TokenTable => "token table wte",
            Self::PositionTable => "position table wpe",
            Self::OutputHead => "output head, if it is not tied to wte",
            Self::Other => "not used by the input layer",
        })
    }
}

/// The tables that were found, or why none were.
pub(super) enum Found<'a> {
    Tables { wte: &'a str, wpe: String },
    NoTokenTable,
    NoPositionTable { looked_for: String },
    Several { candidates: Vec<&'a str> },
}

/// Finds the token table among `names`, and with `has_wpe` the position table beside it.
///
/// A given `prefix` or `wte` limits the search to that prefix or that token table.
pub(super) fn find_tables<'a>(names: &[&'a str], prefix: Option<&str>, wte: Option<&str>, has_wpe: bool) -> Found<'a> {
    let mut token_tables = Vec::new();
    for &name in names.iter().filter(|&&name| wte.is_none_or(|wte| wte == name)) {
        for (wte_name, wpe_name) in TABLE_NAMES {
            if let Some(before) = prefix_before(name, wte_name)
                && prefix.is_none_or(|wanted| before.trim_end_matches(DOTS) == wanted.trim_end_matches(DOTS))
            {
                token_tables.push((name, format!("{before}{wpe_name}")));
            }
        }
    }
    let complete: Vec<_> = token_tables.iter().filter(|(_, wpe)| !has_wpe || names.contains(&wpe.as_str())).collect();
    match (complete.as_slice(), token_tables.as_slice()) {
        ([(wte, wpe)], _) => Found::Tables { wte, wpe: wpe.clone() },
        ([], []) => Found::NoTokenTable,
        ([], [(_, wpe), ..]) => Found::NoPositionTable { looked_for: wpe.clone() },
        (several, _) => Found::Several { candidates: several.iter().map(|(wte, _)| *wte).collect() },
    }
}

/// Lists the names of token tables, for an error message.
pub(super) fn token_table_names() -> String {
    TABLE_NAMES.map(|(wte, _)| wte).join(", ")
}

/// Lists up to three of `names` that look like embeddings, or else the first three.
pub(super) fn closest(names: &[&str]) -> String {
    const HINTS: [&str; 6] = ["wte", "wpe", "emb", "tok", "pos", "word"];
    let mut similar: Vec<&str> =
        names.iter().copied().filter(|name| HINTS.iter().any(|hint| name.contains(hint))).take(3).collect();
    if similar.is_empty() {
        similar = names.iter().copied().take(3).collect();
    }
    if similar.is_empty() { "no tensors".to_string() } else { similar.join(", ") }
}

/// Counts the blocks by names such as `transformer.h.11.ln_1.weight`.
pub(super) fn count_blocks(names: &[&str]) -> usize {
    let block = |name: &&str| {
        let parts: Vec<&str> = name.split(DOTS).collect();
        let joined = parts.iter().find_map(|part| part.strip_prefix('h')?.parse::<usize>().ok()); // OpenAI's `h0`
        let pair = parts.windows(2).find_map(|pair| match pair {
            ["h" | "trf_blocks" | "blk", number] => number.parse::<usize>().ok(),
            _ => None,
        });
        pair.or(joined)
    };
    names.iter().filter_map(block).max().map_or(0, |last| last.saturating_add(1))
}

/// Returns the prefix before `suffix` in `name`, if it is empty or ends in a dot or a slash.
fn prefix_before<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    name.strip_suffix(suffix).filter(|before| before.is_empty() || before.ends_with(DOTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str], prefix: Option<&str>) -> String {
        match find_tables(names, prefix, None, true) {
            Found::Tables { wte, wpe } => format!("{wte} + {wpe}"),
            Found::NoTokenTable => "no token table".to_string(),
            Found::NoPositionTable { looked_for } => format!("no {looked_for}"),
            Found::Several { candidates } => format!("several: {}", candidates.join(" ")),
        }
    }

    #[test]
    fn tables_are_found_under_any_prefix() {
        for prefix in ["", "transformer.", "_orig_mod.transformer.", "model.gpt.", "module."] {
            for (wte, wpe) in TABLE_NAMES {
                let (wte, wpe) = (format!("{prefix}{wte}"), format!("{prefix}{wpe}"));
                let names = ["h.0.ln_1.weight", &wpe, "xwte.weight", "lm_head.weight", &wte];
                assert_eq!(found(&names, None), format!("{wte} + {wpe}"));
            }
        }
    }

    #[test]
    fn half_a_pair_is_no_pair() {
        assert_eq!(found(&["wte.weight"], None), "no wpe.weight");
        assert_eq!(found(&["a.wte.weight", "b.wpe.weight"], None), "no a.wpe.weight");
        assert_eq!(found(&["wpe.weight"], None), "no token table");
        assert_eq!(found(&["b.wte.weight", "a.wte.weight", "a.wpe.weight"], None), "a.wte.weight + a.wpe.weight");
    }

    #[test]
    fn two_models_in_one_file_need_a_prefix() {
        let names = ["draft.wte.weight", "draft.wpe.weight", "big.wte.weight", "big.wpe.weight"];
        assert_eq!(found(&names, None), "several: draft.wte.weight big.wte.weight");
        assert_eq!(found(&names, Some("big")), "big.wte.weight + big.wpe.weight");
        assert_eq!(found(&names, Some("draft.")), "draft.wte.weight + draft.wpe.weight");
        assert_eq!(found(&names, Some("small")), "no token table");
    }

    #[test]
    fn blocks_are_counted_from_their_names() {
        assert_eq!(count_blocks(&["h.0.a", "h.11.a", "h.2.a"]), 12);
        assert_eq!(count_blocks(&["trf_blocks.3.norm1.scale"]), 4);
        assert_eq!(count_blocks(&["blk.3.attn_norm.weight", "model/h11/ln_1/g"]), 12);
        assert_eq!(count_blocks(&["wte.weight"]), 0);
    }
}
