//! What GGUF's keys say of a tokenizer, as a `tokenizer.json` says it.
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer>

use serde_json::{Map, Value, json};

/// A whole `tokenizer.json`, which few files have.
const WHOLE: &str = "tokenizer.huggingface.json";
const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
/// The tokens before and after a text, and whether they are put there.
const BEGIN: [&str; 2] = ["tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token"];
const END: [&str; 2] = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_eos_token"];
const ARCHITECTURE: &str = "general.architecture";

/// Types of tokens: those that text consists of, those that only a program writes, those that a text may hold as they
/// are, and those that fill the table.
const NORMAL: u64 = 1;
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;
/// GPT-2's only special token.
const END_OF_TEXT: &str = "<|endoftext|>";

/// llama.cpp's names of the ways to cut a text into words, by the pattern that they stand for.
/// <https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp>
const LIKE_GPT2: [&str; 10] =
    ["gpt-2", "phi-2", "mpt", "olmo", "jais", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "trillion"];
const DIGITS_APART: [&str; 7] = ["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"];
const LIKE_LLAMA3: [&str; 6] = ["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral"];
const LIKE_QWEN2: [&str; 3] = ["qwen2", "deepseek-r1-qwen", "stablelm2"];
const LIKE_GPT4O: [&str; 2] = ["gpt-4o", "llama4"];

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Why there is no tokenizer.
pub(in super::super) enum Reason {
    Invalid(String),
    Unsupported(String),
}

/// Returns whether a key is read here.
pub(super) fn is_wanted(key: &str) -> bool {
    [WHOLE, MODEL, PRE, TOKENS, TYPES, MERGES, ARCHITECTURE].contains(&key)
        || [BEGIN, END].as_flattened().contains(&key)
}

/// Makes a `tokenizer.json` of the wanted keys; `None` if the file has no tokenizer.
pub(in super::super) fn tokenizer(keys: &Map<String, Value>) -> Result<Option<String>, Reason> {
    if let Some(whole) = keys.get(WHOLE) {
        let text = whole.as_str().ok_or_else(|| Reason::Invalid(format!("`{WHOLE}` is not a text")))?;
        return Ok(Some(text.to_string()));
    }
    match keys.get(MODEL).map(|model| model.as_str().unwrap_or_default()) {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some("gpt2") => {}
        Some(model) => return Err(only_byte_level(model)),
    }
    let words = words(keys)?;
    let (tokens, merges) = (texts(keys, TOKENS)?, texts(keys, MERGES)?);
    let (begin, end) = (around(keys, BEGIN, &tokens, words.begins)?, around(keys, END, &tokens, false)?);
    let types: Vec<u64> = match keys.get(TYPES) {
        // Old files say only by these what a text does not consist of.
        None => {
            let special = |id, token: &str| token == END_OF_TEXT || [begin.id, end.id].contains(&Some(id));
            let kind = |(id, token): (usize, &&str)| if special(id, token) { CONTROL } else { NORMAL };
            tokens.iter().enumerate().map(kind).collect()
        }
        Some(types) => types.as_array().into_iter().flatten().map(|kind| kind.as_u64().unwrap_or_default()).collect(),
    };
    if types.len() != tokens.len() {
        return Err(Reason::Invalid(format!("`{TYPES}` has {} entries, `{TOKENS}` {}", types.len(), tokens.len())));
    }
    let (mut vocab, mut added) = (Map::new(), Vec::new());
    for (id, (&token, &kind)) in tokens.iter().zip(&types).enumerate() {
        let is_special = [UNKNOWN, CONTROL].contains(&kind);
        if is_special || kind == USER_DEFINED {
            let flags = json!({"id": id, "content": token, "special": is_special, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false});
            added.push(flags);
        } else if kind != UNUSED
            && let Some(first) = vocab.insert(token.to_string(), id.into())
        {
            return Err(Reason::Invalid(format!("`{TOKENS}` has `{token}` twice, as {first} and as {id}")));
        }
    }
    let named = |id: usize| (tokens[id].to_string(), json!({"id": tokens[id], "ids": [id], "tokens": [tokens[id]]}));
    let named: Map<_, _> = begin.put.into_iter().chain(end.put).map(named).collect();
    let piece = |id: usize| json!({"SpecialToken": {"id": tokens[id], "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let single: Vec<_> = begin.put.map(piece).into_iter().chain([text]).chain(end.put.map(piece)).collect();
    let processor = match single.len() {
        1 => Value::Null,
        _ => {
            let pair = ["A", "B"].map(|id| json!({"Sequence": {"id": id, "type_id": 0}}));
            json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": named})
        }
    };
    let file = json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": words.pre_tokenizer,
        "post_processor": processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": words.whole_first},
    });
    Ok(Some(file.to_string()))
}

/// How a text is cut into words.
struct Words {
    pre_tokenizer: Value,
    /// Whether a word that is a token is that token, whatever the merges say.
    whole_first: bool,
    /// Whether a token is put before each text unless the file says otherwise.
    begins: bool,
}

fn words(keys: &Map<String, Value>) -> Result<Words, Reason> {
    let by = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})
    };
    let gpt2 = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let pre = keys.get(PRE).and_then(Value::as_str);
    let is_gpt2 = keys.get(ARCHITECTURE).is_some_and(|architecture| architecture == "gpt2");
    let (pre_tokenizer, like_llama3) = match pre {
        // Files from before the key was invented.
        None if is_gpt2 => (gpt2, false),
        Some(pre) if LIKE_GPT2.contains(&pre) => (gpt2, false),
        Some(pre) if DIGITS_APART.contains(&pre) => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            (json!({"type": "Sequence", "pretokenizers": [digits, gpt2]}), false)
        }
        Some(pre) if LIKE_LLAMA3.contains(&pre) => (by(LLAMA3), true),
        Some(pre) if LIKE_QWEN2.contains(&pre) => (by(QWEN2), false),
        Some(pre) if LIKE_GPT4O.contains(&pre) => (by(GPT4O), false),
        Some(pre) => {
            return Err(Reason::Unsupported(format!("its tokenizer cuts words in the way `{pre}` of `{PRE}`")));
        }
        None => return Err(Reason::Unsupported(format!("its tokenizer cuts words in an unknown way: no `{PRE}`"))),
    };
    Ok(Words { pre_tokenizer, whole_first: like_llama3, begins: like_llama3 })
}

/// A token that may be put before or after each text.
struct Around {
    id: Option<usize>,
    /// The same, if it is put there.
    put: Option<usize>,
}

fn around(keys: &Map<String, Value>, [id, put]: [&str; 2], tokens: &[&str], default: bool) -> Result<Around, Reason> {
    let is_put = keys.get(put).and_then(Value::as_bool).unwrap_or(default);
    let found = keys.get(id).and_then(Value::as_u64).and_then(|id| usize::try_from(id).ok());
    match found {
        Some(found) if found >= tokens.len() => {
            Err(Reason::Invalid(format!("`{id}` is {found}, but `{TOKENS}` has {} entries", tokens.len())))
        }
        None if keys.get(put).is_some() && is_put => Err(Reason::Invalid(format!("`{put}` is set without `{id}`"))),
        found => Ok(Around { id: found, put: found.filter(|_| is_put) }),
    }
}

fn texts<'a>(keys: &'a Map<String, Value>, key: &str) -> Result<Vec<&'a str>, Reason> {
    let Some(list) = keys.get(key).and_then(Value::as_array) else {
        return Err(Reason::Invalid(format!("it has a tokenizer, but no list `{key}`")));
    };
    let text = |(i, text): (usize, &'a Value)| {
        text.as_str().ok_or_else(|| Reason::Invalid(format!("`{key}` has no text of UTF-8 at {i}")))
    };
    list.iter().enumerate().map(text).collect()
}

fn only_byte_level(model: &str) -> Reason {
    let kind = match model {
        "llama" => "a SentencePiece tokenizer",
        "bert" => "a WordPiece tokenizer",
        "t5" => "a Unigram tokenizer",
        "rwkv" => "RWKV's tokenizer",
        _ => return Reason::Unsupported(format!("its tokenizer is of the unknown kind `{model}`")),
    };
    Reason::Unsupported(format!("it has {kind}; only byte-level BPE (GPT-2's kind) is supported"))
}
