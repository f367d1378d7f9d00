//! The names under which checkpoints keep the two input tables.

use std::collections::HashMap;

use crate::error::Shown;

/// The modules of (token table, position table). Any prefix may precede them (`transformer.`, `_orig_mod.`, `model/`,
/// …), and one of [`LEAVES`] may follow.
const MODULES: [(&str, &str); 10] = [
    ("wte", "wpe"),                                        // Hugging Face, nanoGPT, OpenAI: `model/wte`
    ("tok_emb", "pos_emb"),                                // "Build a Large Language Model From Scratch", minGPT
    ("token_embd", "position_embd"),                       // GGUF
    ("tokens_embed", "positions_embed"),                   // GPT-1
    EMBED_TOKENS,                                          // OPT, BART
    WORD_EMBEDDINGS,                                       // BERT, Megatron
    ("token_embedding", "position_embedding"),             // CLIP's text model
    ("token_embedding_table", "position_embedding_table"), // Karpathy's lecture
    ("embed.W_E", "pos_embed.W_pos"),                      // TransformerLens
    ("embed_in", "embed_pos"),                             // GPT-NeoX
];
/// Tables whose first rows are not positions in some models, which [`first_row`](super::first_row) tells apart.
pub(super) const EMBED_TOKENS: (&str, &str) = ("embed_tokens", "embed_positions");
pub(super) const WORD_EMBEDDINGS: (&str, &str) = ("word_embeddings", "position_embeddings");

/// The last part of a table's name: PyTorch's, then Flax's and Keras's. OpenAI's names and parameters of a model's own
/// have none.
const LEAVES: [&str; 3] = ["weight", "embedding", "embeddings"];

/// The separators of the parts of a name; TensorFlow's is the slash.
pub(super) const DOTS: [char; 2] = ['.', '/'];

/// The names that [`save`](super::save) writes, except into GGUF.
pub(crate) const SAVED: (&str, &str) = ("wte.weight", "wpe.weight");

/// What it writes before them if there is a head beside.
pub(super) const AROUND_HEAD: &str = "transformer.";

/// The names in GGUF.
pub(super) const GGUF: (&str, &str) = ("token_embd.weight", "position_embd.weight");

/// The names of an output head in GGUF, and of its bias.
pub(super) const GGUF_HEAD: (&str, &str) = ("output.weight", "output.bias");

/// One of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Tokens,
    Positions,
}

/// A name that a table has.
#[derive(Clone, Copy, Debug)]
struct Table<'a> {
    side: Side,
    /// The index in [`MODULES`].
    modules: usize,
    prefix: &'a str,
    /// What follows the module, such as `.weight`.
    leaf: &'a str,
}

impl<'a> Table<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let module = module_of(name)?;
        let leaf = name.get(module.len()..)?;
        MODULES.iter().enumerate().find_map(|(modules, (wte, wpe))| {
            let sides = [(Side::Tokens, wte), (Side::Positions, wpe)];
            let found = sides.into_iter().find_map(|(side, end)| Some((side, prefix_before(module, end)?)));
            found.map(|(side, prefix)| Self { side, modules, prefix, leaf })
        })
    }

    /// Returns the usual name of the position table beside this token table.
    fn position_table(&self) -> String {
        let leaf = if LEAVES.iter().any(|leaf| *leaf == self.leaf.trim_start_matches(DOTS)) { self.leaf } else { "" };
        format!("{}{}{leaf}", self.prefix, MODULES[self.modules].1)
    }
}

/// Returns whether a name is that of a position table in a module of this name, under any prefix.
pub(super) fn is_position_table(name: &str, module: &str) -> bool {
    Table::of(name).is_some_and(|table| table.side == Side::Positions && MODULES[table.modules].1 == module)
}

/// Returns whether a name is known as that of a token table.
pub(super) fn is_known_token_table(name: &str) -> bool {
    Table::of(name).is_some_and(|table| table.side == Side::Tokens)
}

/// Returns whether a name is known as that of a position table.
pub(super) fn is_known_position_table(name: &str) -> bool {
    Table::of(name).is_some_and(|table| table.side == Side::Positions)
}

/// Returns the module that holds a table: its name without the leaf and without what PEFT puts in between.
///
/// A layer that PEFT trains (`wte.modules_to_save.default.weight`) replaces the one it was made from
/// (`wte.original_module.weight`), which has no module here. One with an adapter is `wte.base_layer.weight`.
pub(super) fn module_of(name: &str) -> Option<&str> {
    let (before, last) = split_last(name);
    let path = if LEAVES.contains(&last) && !before.is_empty() { before } else { name };
    let (before, last) = split_last(path);
    match last {
        "original_module" => return None,
        "base_layer" => return Some(before),
        _ => {}
    }
    match split_last(before) {
        (module, "modules_to_save") => Some(module),
        _ => Some(path),
    }
}

/// Splits off the last part of a name; what is before it is without a separator at its end.
pub(super) fn split_last(name: &str) -> (&str, &str) {
    name.rsplit_once(DOTS).unwrap_or(("", name))
}

/// The tables that were found, or why none were.
pub(super) enum Found<'a> {
    Tables { wte: &'a str, wpe: Option<&'a str> },
    NoTokenTable,
    NoPositionTable { looked_for: String },
    Several { candidates: Vec<&'a str> },
}

/// What limits a search for tables.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted<'a> {
    /// The prefix of the names.
    pub(super) prefix: Option<&'a str>,
    /// The token table's whole name.
    pub(super) wte: Option<&'a str>,
    /// The position table's whole name.
    pub(super) wpe: Option<&'a str>,
}

/// Finds the token table among `names`, and with `has_wpe` the position table beside it, in one pass.
pub(super) fn find_tables<'a>(names: &[&'a str], wanted: Wanted<'a>, has_wpe: bool) -> Found<'a> {
    let mut token_tables: Vec<(&'a str, Table<'a>)> = Vec::new();
    let mut position_tables: HashMap<(usize, &'a str), Vec<&'a str>> = HashMap::new();
    for &name in names {
        let Some(table) = Table::of(name) else { continue };
        if table.side == Side::Positions {
            position_tables.entry((table.modules, table.prefix)).or_default().push(name);
        } else if wanted.wte.is_none_or(|wte| wte == name) {
            token_tables.push((name, table));
        }
    }
    if let Some(prefix) = wanted.prefix {
        let prefix = prefix.trim_end_matches(DOTS);
        let is_exact = |table: &Table| table.prefix.trim_end_matches(DOTS) == prefix;
        // A prefix may also be that of a whole model, above the module that holds the tables.
        let has_exact = token_tables.iter().any(|(_, table)| is_exact(table));
        token_tables.retain(|(_, table)| match has_exact {
            true => is_exact(table),
            false => table.prefix.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(DOTS)),
        });
    }
    if token_tables.is_empty() {
        return match (wanted.wte, has_wpe, wanted.wpe) {
            (None, ..) => Found::NoTokenTable,
            (Some(_), true, None) => Found::NoPositionTable { looked_for: position_table_names() },
            (Some(wte), _, wpe) => Found::Tables { wte, wpe: wpe.filter(|_| has_wpe) },
        };
    }
    let place = |table: &Table<'a>| (table.modules, table.prefix);
    let beside = |table: &Table<'a>| position_tables.get(&place(table)).map_or(&[][..], Vec::as_slice);
    let mut complete = token_tables.clone();
    match wanted.wpe.filter(|_| has_wpe) {
        // A position table of any name goes with any token table, but first with the one that it lies beside.
        Some(wpe) => {
            let partner = Table::of(wpe).map(|table| place(&table));
            if token_tables.iter().any(|(_, table)| Some(place(table)) == partner) {
                complete.retain(|(_, table)| Some(place(table)) == partner);
            }
        }
        None if has_wpe => complete.retain(|(_, table)| !beside(table).is_empty()),
        None => {}
    }
    match (complete.as_slice(), token_tables.as_slice()) {
        ([], [(_, table), ..]) => Found::NoPositionTable { looked_for: table.position_table() },
        ([], []) => Found::NoTokenTable,
        ([(wte, _)], _) if !has_wpe => Found::Tables { wte, wpe: None },
        ([(wte, table)], _) => match (wanted.wpe, beside(table)) {
            (Some(wpe), _) => Found::Tables { wte, wpe: Some(wpe) },
            (None, [wpe]) => Found::Tables { wte, wpe: Some(wpe) },
            (None, several) => Found::Several { candidates: several.to_vec() },
        },
        (several, _) => Found::Several { candidates: several.iter().map(|(wte, _)| *wte).collect() },
    }
}

/// Lists the names of token tables, for an error message.
pub(super) fn token_table_names() -> String {
    usual_names(token_table_modules())
}

fn position_table_names() -> String {
    usual_names(MODULES.iter().map(|(_, wpe)| *wpe))
}

/// Lists the names of weights by their modules, for an error message; one with a dot is a whole name.
pub(super) fn usual_names(modules: impl Iterator<Item = &'static str>) -> String {
    let name = |module: &str| if module.contains('.') { module.to_string() } else { format!("{module}.weight") };
    modules.map(name).collect::<Vec<_>>().join(", ")
}

/// Returns the names under which `contains` finds a token table and the position table beside it. Names of this crate if
/// it finds none.
///
/// # Errors
/// The names of the token tables, if there are several.
pub(crate) fn names_among(contains: impl Fn(&str) -> bool) -> Result<(String, String), Vec<String>> {
    let of = |module: &str| {
        let names = LEAVES.iter().map(|leaf| format!("{module}.{leaf}")).chain([module.to_string()]);
        names.into_iter().find(|name| contains(name))
    };
    // Some builders, such as one of zeros, have every name, and so tell nothing.
    if contains("a name that no file has") {
        return Ok((SAVED.0.to_string(), SAVED.1.to_string()));
    }
    let mut found: Vec<(String, &str)> = MODULES.iter().filter_map(|(wte, wpe)| Some((of(wte)?, *wpe))).collect();
    match (found.pop(), found.is_empty()) {
        (None, _) => Ok((SAVED.0.to_string(), SAVED.1.to_string())),
        (Some((wte, wpe)), true) => Ok((wte, of(wpe).unwrap_or_else(|| format!("{wpe}.weight")))),
        (Some((last, _)), false) => Err(found.into_iter().map(|(wte, _)| wte).chain([last]).collect()),
    }
}

/// Returns the usual names of token tables' modules.
pub(super) fn token_table_modules() -> impl Iterator<Item = &'static str> {
    MODULES.iter().map(|(wte, _)| *wte)
}

/// Lists the first of many names, for an error message.
pub(crate) fn listed(names: &[impl AsRef<str>]) -> String {
    const N_LISTED: usize = 8;
    let first: Vec<String> = names.iter().take(N_LISTED).map(|name| Shown::name(name.as_ref()).to_string()).collect();
    match names.len().saturating_sub(N_LISTED) {
        0 => first.join(", "),
        n_more => format!("{} and {n_more} more", first.join(", ")),
    }
}

/// Counts the blocks by names such as `transformer.h.11.ln_1.weight`.
pub(super) fn count_blocks(names: &[&str]) -> usize {
    let block = |name: &&str| {
        let parts: Vec<&str> = name.split(DOTS).collect();
        let joined = parts.iter().find_map(|part| part.strip_prefix('h')?.parse::<usize>().ok()); // OpenAI's `h0`
        let pair = parts.windows(2).find_map(|pair| match pair {
            ["h" | "trf_blocks" | "blk" | "blocks" | "block" | "layers" | "layer", number] => {
                number.parse::<usize>().ok()
            }
            _ => None,
        });
        pair.or(joined)
    };
    names.iter().filter_map(block).max().map_or(0, |last| last.saturating_add(1))
}

/// Returns the prefix before `suffix` in `name`, if it is empty or ends in a dot or a slash. A dot in `suffix` may be a
/// slash in `name`.
pub(super) fn prefix_before<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    let at = name.len().checked_sub(suffix.len())?;
    let tail = name.as_bytes().get(at..)?;
    let same = tail.iter().zip(suffix.as_bytes()).all(|(&ours, &dot)| ours == dot || (ours == b'/' && dot == b'.'));
    name.get(..at).filter(|before| same && (before.is_empty() || before.ends_with(DOTS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str], prefix: Option<&str>) -> String {
        match find_tables(names, Wanted { prefix, ..Wanted::default() }, true) {
            Found::Tables { wte, wpe } => format!("{wte} + {}", wpe.unwrap_or_default()),
            Found::NoTokenTable => "no token table".to_string(),
            Found::NoPositionTable { looked_for } => format!("no {looked_for}"),
            Found::Several { candidates } => format!("several: {}", candidates.join(" ")),
        }
    }

    #[test]
    fn tables_are_found_under_any_prefix() {
        for prefix in ["", "transformer.", "_orig_mod.transformer.", "model.gpt.", "module."] {
            for ((wte, wpe), leaf) in MODULES.into_iter().flat_map(|pair| ["", ".weight"].map(|leaf| (pair, leaf))) {
                let (wte, wpe) = (format!("{prefix}{wte}{leaf}"), format!("{prefix}{wpe}{leaf}"));
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

    #[test]
    fn names_of_peft_and_flax_are_those_of_their_modules() {
        let names = [
            "base_model.model.transformer.wte.modules_to_save.default.weight",
            "base_model.model.transformer.wte.original_module.weight",
            "base_model.model.transformer.wpe.weight",
        ];
        assert_eq!(found(&names, None), format!("{} + {}", names[0], names[2]));
        let names = ["m.wte.base_layer.weight", "m.wte.lora_embedding_A.default", "m.wpe.weight"];
        assert_eq!(found(&names, None), format!("{} + {}", names[0], names[2]));
        let names = ["params/transformer/wte/embedding", "params/transformer/wpe/embedding"];
        assert_eq!(found(&names, None), format!("{} + {}", names[0], names[1]));
        assert_eq!(found(&["embed/W_E", "pos_embed/W_pos"], None), "embed/W_E + pos_embed/W_pos");
        assert_eq!(found(&["tok_emb.weight", "pos_emb"], None), "tok_emb.weight + pos_emb");
        assert_eq!(
            found(&["wte.modules_to_save.a.weight", "wte.modules_to_save.b.weight", "wpe.weight"], None),
            "several: wte.modules_to_save.a.weight wte.modules_to_save.b.weight"
        );
        assert_eq!(found(&["tok_emb.weight", "pos_emb", "pos_emb.weight"], None), "several: pos_emb pos_emb.weight");
    }

    #[test]
    fn a_prefix_may_be_that_of_the_whole_model() {
        let names = ["a.x.wte.weight", "a.x.wpe.weight", "b.x.wte.weight", "b.x.wpe.weight", "ab.x.wte.weight"];
        assert_eq!(found(&names, Some("a")), "a.x.wte.weight + a.x.wpe.weight");
        assert_eq!(found(&names, Some("b.x.")), "b.x.wte.weight + b.x.wpe.weight");
        assert_eq!(found(&names, Some("x")), "no token table");
    }

    #[test]
    fn a_named_position_table_goes_with_the_token_table_beside_it() {
        let names = ["a.wte.weight", "a.wpe.weight", "b.wte.weight", "b.wpe.weight", "p"];
        let wanted = |wte, wpe| match find_tables(&names, Wanted { prefix: None, wte, wpe }, true) {
            Found::Tables { wte, wpe } => format!("{wte} + {}", wpe.unwrap_or_default()),
            Found::NoPositionTable { .. } => "no position table".to_string(),
            Found::Several { candidates } => format!("several: {}", candidates.join(" ")),
            Found::NoTokenTable => "no token table".to_string(),
        };
        assert_eq!(wanted(None, Some("b.wpe.weight")), "b.wte.weight + b.wpe.weight");
        assert_eq!(wanted(Some("a.wte.weight"), Some("p")), "a.wte.weight + p");
        assert_eq!(wanted(None, Some("p")), "several: a.wte.weight b.wte.weight");
        assert_eq!(wanted(Some("p"), None), "no position table");
    }

    /// Every name has a partner, or every partner is in one module: either took minutes where a look-up is a scan.
    #[test]
    fn many_tables_are_found_in_linear_time() {
        let numbered = |n: usize| [format!("{n}.wte.weight"), format!("{n}.wpe.weight")];
        let adapters = |n: usize| ["wte", "wpe"].map(|module| format!("{module}.modules_to_save.{n}.weight"));
        for names in [(0..100_000).flat_map(numbered).collect::<Vec<_>>(), (0..100_000).flat_map(adapters).collect()] {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let start = std::time::Instant::now();
            let Found::Several { candidates } = find_tables(&names, Wanted::default(), true) else { panic!() };
            assert_eq!(candidates.len(), 100_000);
            assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
        }
    }
}
