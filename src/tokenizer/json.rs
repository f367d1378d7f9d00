//! Reads a Hugging Face `tokenizer.json`, and checks it before the library does, which panics on some broken ones.

use std::collections::{HashMap, HashSet};
use std::panic::catch_unwind;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::ConvertError;
use tokenizers::pipeline::{EncodeOptions, PipelineTokenizer, Template};
use tokenizers::vocab::bucket_added_vocabulary::AddedToken;

use super::added::AddedTokens;
use super::encode::Encoder;
use super::vocabulary::{Spelling, TokenBytes};
use crate::error::TokenizerError;

/// The largest id in a file: memory is proportional to it. The largest known vocabulary has 262 144 tokens.
const MAX_ID: u64 = (1 << 21) - 1;
/// The longest token in bytes, as spelt in the file: the library counts in 16 bits.
const MAX_TOKEN_BYTES: usize = u16::MAX as usize;

/// The most objects and lists in a file: parsed, they take up to a hundred times the memory of their text. An added
/// token is an object and a merge is a list; known files have at most 10 000 and 600 000.
const MAX_OBJECTS: usize = 1 << 17;
const MAX_LISTS: usize = 1 << 21;

const REFUSED: &str = "the tokenizer library refuses it";

/// Why a file cannot become a tokenizer.
pub(super) enum Problem {
    Broken(String),
    /// What was attempted, and the library's error.
    Refused(String, tokenizers::Error),
    Unsupported(String),
}

impl Problem {
    pub(super) fn of(self, origin: String) -> TokenizerError {
        match self {
            Self::Broken(reason) => TokenizerError::Invalid { origin, reason, source: None },
            Self::Refused(reason, source) => TokenizerError::Invalid { origin, reason, source: Some(source) },
            Self::Unsupported(reason) => TokenizerError::Unsupported { origin, reason },
        }
    }
}

impl From<String> for Problem {
    fn from(reason: String) -> Self {
        Self::Broken(reason)
    }
}

impl From<ConvertError> for Problem {
    fn from(error: ConvertError) -> Self {
        use ConvertError::{ByteLevelAddPrefixSpace, ByteLevelNotLast, PostProcessorSequenceAmbiguous};
        match error {
            ByteLevelAddPrefixSpace | ByteLevelNotLast | PostProcessorSequenceAmbiguous => {
                Self::Unsupported(error.to_string().trim_end_matches(" is not supported").to_string())
            }
            other => Self::Refused(REFUSED.to_string(), other.into()),
        }
    }
}

/// An added token in the file. All fields are required, as in Hugging Face's library.
#[derive(Deserialize)]
struct AddedTokenJson {
    id: Value,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

pub(super) fn build(text: &str) -> Result<Encoder, Problem> {
    let count = |bracket: u8| text.bytes().filter(|byte| *byte == bracket).count();
    if count(b'{') > MAX_OBJECTS || count(b'[') > MAX_LISTS {
        let reason = format!("it has more than {MAX_OBJECTS} objects or {MAX_LISTS} lists");
        return Err(Problem::Unsupported(reason));
    }
    let mut file: Value =
        serde_json::from_str(text).map_err(|error| Problem::Refused("not valid JSON".to_string(), error.into()))?;
    check_kind(&file)?;
    tokenizers::canonicalize_value(&mut file)?;
    if file["model"]["byte_level"] != true {
        return Err(only_byte_level("a BPE that is not byte-level"));
    }
    let mut tokens = TokenBytes::default();
    let ids = read_vocab(&file["model"], &mut tokens)?;
    check_merges(&file["model"], &ids)?;
    let added = read_added(&file["added_tokens"], &ids, &mut tokens)?;

    // Two pipelines: the library would find added tokens itself, but not report where.
    let frame = pipeline(json!({
        "version": "2.0",
        "model": { "type": "BPE", "byte_level": false, "vocab": { "a": 0 }, "merges": [] },
        "normalizer": file["normalizer"].take(),
        "post_processor": file["post_processor"].take(),
    }))?;
    check_template(&frame.get_post_processor().single, &tokens)?;
    let added = AddedTokens::new(added, frame.get_normalizers())?;
    let mut pre_tokenizer = file["pre_tokenizer"].take();
    if let Some([only]) = pre_tokenizer.get_mut("pretokenizers").and_then(Value::as_array_mut).map(Vec::as_mut_slice) {
        // As in Llama 3, whose `ByteLevel` has moved to the model; `Encoder` then recognises the pattern.
        pre_tokenizer = only.take();
    }
    let plain = pipeline(json!({ "version": "2.0", "model": file["model"].take(), "pre_tokenizer": pre_tokenizer }))?;
    // The library accepts a pattern that it cannot run, and fails at the first text.
    plain.encode_into("a", &EncodeOptions::no_specials(), &mut Vec::new()).map_err(|_| {
        Problem::Unsupported(
            "its pre-tokenizer splits by a pattern that is not supported \
             (expected that of GPT-2, cl100k, Llama 3, Qwen, o200k, DeepSeek, Tekken or Kimi)"
                .to_string(),
        )
    })?;
    Ok(Encoder::new(plain, added, Some(frame), Arc::new(tokens)))
}

fn only_byte_level(found: &str) -> Problem {
    Problem::Unsupported(format!("its model is {found}; only byte-level BPE (GPT-2's kind) is supported"))
}

/// Checks the version and the kind of model.
fn check_kind(file: &Value) -> Result<(), Problem> {
    match &file["version"] {
        Value::Null => {}
        version if version == "1.0" || version == "2.0" => {}
        version => return Err(Problem::Unsupported(format!("its version is {version}, expected \"1.0\" or \"2.0\""))),
    }
    match file["model"]["type"].as_str() {
        None | Some("BPE") => {}
        Some(kind) => return Err(only_byte_level(kind)),
    }
    let model = &file["model"];
    for affix in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if !model[affix].is_null() && model[affix] != "" {
            return Err(Problem::Unsupported(format!("its model has the `{affix}` {}", model[affix])));
        }
    }
    match model["dropout"].as_f64() {
        Some(dropout) if dropout != 0.0 => Err(Problem::Unsupported(format!(
            "its model has a dropout of {dropout}: ids would differ from call to call"
        ))),
        _ => Ok(()),
    }
}

/// Reads the model's tokens and ids; their bytes go to `tokens`.
fn read_vocab(model: &Value, tokens: &mut TokenBytes) -> Result<HashMap<String, u32>, Problem> {
    let vocab = model["vocab"].as_object().ok_or_else(|| "its model has no `vocab` object".to_string())?;
    let spelling = Spelling::new();
    let mut ids = HashMap::with_capacity(vocab.len());
    for (token, id) in vocab {
        let id = checked_id(token, id)?;
        insert_new(tokens, id, token, &spelling.read(token))?;
        ids.insert(token.clone(), id);
    }
    Ok(ids)
}

/// Checks that each merge names three tokens: its two halves, and the two joined.
fn check_merges(model: &Value, ids: &HashMap<String, u32>) -> Result<(), Problem> {
    let merges = model["merges"].as_array().ok_or_else(|| "its model has no `merges` list".to_string())?;
    for merge in merges {
        let [left, right] = merge.as_array().map_or(&[][..], Vec::as_slice) else {
            return Err(format!("the merge {merge} is not a pair of tokens").into());
        };
        let (Some(left), Some(right)) = (left.as_str(), right.as_str()) else {
            return Err(format!("the merge {merge} is not a pair of tokens").into());
        };
        if left.is_empty() || right.is_empty() {
            return Err(format!("the merge {merge} has an empty half").into());
        }
        for token in [left, right, &[left, right].concat()] {
            if !ids.contains_key(token) {
                return Err(
                    format!("the merge {merge} needs the token {token:?}, which is not in the vocabulary").into()
                );
            }
        }
    }
    Ok(())
}

fn read_added(
    list: &Value,
    ids: &HashMap<String, u32>,
    tokens: &mut TokenBytes,
) -> Result<Vec<(u32, AddedToken)>, Problem> {
    let list = match list {
        Value::Null => return Ok(Vec::new()),
        list => list.as_array().ok_or_else(|| "`added_tokens` is not a list".to_string())?,
    };
    let mut added = Vec::with_capacity(list.len());
    let mut seen = HashSet::with_capacity(list.len());
    for (index, entry) in list.iter().enumerate() {
        let broken = |reason: String| format!("added token {index}: {reason}");
        let token = AddedTokenJson::deserialize(entry)
            .map_err(|error| Problem::Refused(format!("added token {index} cannot be read"), error.into()))?;
        let AddedTokenJson { id, content, single_word, lstrip, rstrip, normalized, special } = token;
        let id = checked_id(&content, &id)?;
        if content.is_empty() {
            return Err(broken(format!("id {id} has an empty `content`")).into());
        }
        match ids.get(&content) {
            Some(other) if *other != id => {
                return Err(broken(format!("{content:?} has the id {id}, but {other} in the model")).into());
            }
            Some(_) => tokens.insert(id, content.as_bytes()), // not spelt in the byte alphabet, unlike the model's
            None => insert_new(tokens, id, &content, content.as_bytes())?,
        }
        if !seen.insert(content.clone()) {
            return Err(broken(format!("{content:?} is listed twice")).into());
        }
        added.push((id, AddedToken { content, single_word, lstrip, rstrip, normalized, special }));
    }
    Ok(added)
}

fn check_template(template: &Template, tokens: &TokenBytes) -> Result<(), Problem> {
    for (token, _) in template.prefix.iter().chain(&template.suffix) {
        if tokens.get(token.id()).is_none() {
            return Err(format!("its post-processor adds the id {}, which is not in the vocabulary", token.id()).into());
        }
    }
    Ok(())
}

fn insert_new(tokens: &mut TokenBytes, id: u32, token: &str, bytes: &[u8]) -> Result<(), String> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(format!("token {id} has {} bytes, expected at most {MAX_TOKEN_BYTES}", token.len()));
    }
    if let Some(other) = tokens.get(id) {
        let other = String::from_utf8_lossy(other);
        return Err(format!("the id {id} stands for both {other:?} and {token:?}"));
    }
    tokens.insert(id, bytes);
    Ok(())
}

fn checked_id(token: &str, id: &Value) -> Result<u32, String> {
    match id.as_u64() {
        Some(id) if id <= MAX_ID => Ok(id as u32),
        _ => Err(format!("token {token:?} has the id {id}, expected a whole number up to {MAX_ID}")),
    }
}

fn pipeline(file: Value) -> Result<PipelineTokenizer, Problem> {
    let text = file.to_string();
    // Two panics of the library cannot be predicted here: it asserts that the 512 symbols that it takes for the most
    // frequent have fewer than 65 535 merges among them, and it may find no perfect hash for a crafted vocabulary. It
    // shares no state with us, so catching a panic is safe.
    match catch_unwind(|| tokenizers::from_json(&text)) {
        Ok(Ok(pipeline)) => Ok(pipeline),
        Ok(Err(error)) => Err(match unread_component(&error.to_string()) {
            Some(component) => Problem::Unsupported(component.to_string()),
            None => Problem::Refused(REFUSED.to_string(), error),
        }),
        Err(_) => Err(Problem::Unsupported("the tokenizer library gave up on it".to_string())),
    }
}

/// Extracts what the library cannot read from its error, without its advice on building it differently.
fn unread_component(reason: &str) -> Option<&str> {
    let unknown = reason.strip_prefix("the slim JSON reader does not support ");
    let unknown = unknown.and_then(|rest| rest.split(". Convert").next());
    let left_out = reason.strip_prefix("reading ").and_then(|rest| rest.split(" needs the ").next());
    unknown.or(left_out).or(reason.strip_prefix("not supported: "))
}
