//! The names under which GPT-2 checkpoints keep the two input tables.

/// (token table, position table), as the name ends; any prefix may stand before it (`transformer.`, `_orig_mod.`, …).
const TABLE_NAMES: [(&str, &str); 2] = [
    ("wte.weight", "wpe.weight"),         // Hugging Face, nanoGPT, minGPT
    ("tok_emb.weight", "pos_emb.weight"), // "Build a Large Language Model From Scratch"
];

/// The names that [`save`](super::save) writes.
pub(super) const SAVED: (&str, &str) = TABLE_NAMES[0];

/// The output head's name, for reports.
const LM_HEAD: &str = "lm_head.weight";

/// What a tensor is to this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// `wte`.
    TokenTable,
    /// `wpe`.
    PositionTable,
    /// A separate output head; a tied one is `wte` itself.
    OutputHead,
    /// Not used by the input layer.
    Other,
}

impl Role {
    /// What the tensor called `name` is.
    pub fn of(name: &str) -> Self {
        let is = |suffix: &str| prefix_before(name, suffix).is_some();
        if TABLE_NAMES.iter().any(|(wte, _)| is(wte)) {
            Self::TokenTable
        } else if TABLE_NAMES.iter().any(|(_, wpe)| is(wpe)) {
            Self::PositionTable
        } else if is(LM_HEAD) {
            Self::OutputHead
        } else {
            Self::Other
        }
    }
}

/// Where the tables are, or why that cannot be said.
pub(super) enum Found<'a> {
    Tables { wte: &'a str, wpe: String },
    NoTokenTable,
    NoPositionTable { looked_for: String },
    Several { candidates: Vec<&'a str> },
}

/// Finds the token table and the position table beside it among `names`; only under `prefix`, where one is given. Without
/// learned positions the token table is enough.
pub(super) fn find_tables<'a>(names: &[&'a str], prefix: Option<&str>, has_wpe: bool) -> Found<'a> {
    let mut token_tables = Vec::new();
    for &name in names {
        for (wte_name, wpe_name) in TABLE_NAMES {
            if let Some(before) = prefix_before(name, wte_name)
                && prefix.is_none_or(|wanted| before.trim_end_matches('.') == wanted.trim_end_matches('.'))
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

/// The token tables' names, for an error message.
pub(super) fn token_table_names() -> String {
    TABLE_NAMES.map(|(wte, _)| wte).join(", ")
}

/// Up to three of `names` that look like embeddings, or else the first three.
pub(super) fn closest(names: &[&str]) -> String {
    const HINTS: [&str; 6] = ["wte", "wpe", "emb", "tok", "pos", "word"];
    let mut similar: Vec<&str> =
        names.iter().copied().filter(|name| HINTS.iter().any(|hint| name.contains(hint))).take(3).collect();
    if similar.is_empty() {
        similar = names.iter().copied().take(3).collect();
    }
    if similar.is_empty() { "no tensor at all".to_string() } else { similar.join(", ") }
}

/// Number of blocks, counted from names such as `transformer.h.11.ln_1.weight`.
pub(super) fn count_blocks(names: &[&str]) -> usize {
    let block = |name: &&str| {
        let parts: Vec<&str> = name.split('.').collect();
        parts.windows(2).find_map(|pair| match pair {
            ["h" | "trf_blocks", number] => number.parse::<usize>().ok(),
            _ => None,
        })
    };
    names.iter().filter_map(block).max().map_or(0, |last| last.saturating_add(1))
}

/// What stands before `suffix` in `name`: nothing, or something that ends in a dot.
fn prefix_before<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    name.strip_suffix(suffix).filter(|before| before.is_empty() || before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str], prefix: Option<&str>) -> String {
        match find_tables(names, prefix, true) {
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
        assert_eq!(count_blocks(&["wte.weight"]), 0);
    }
}
