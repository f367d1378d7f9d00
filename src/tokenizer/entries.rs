//! The entries of a `tokenizer.json`: tokens, merges and added tokens, checked before the library sees them.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::vocab::bucket_added_vocabulary::AddedToken;

use super::problem::Problem;
use super::vocabulary::{Spelling, TokenBytes};

/// The largest id in a file: memory is proportional to it. The largest known vocabulary has 262 144 tokens.
const MAX_ID: u64 = (1 << 21) - 1;
/// The longest token in bytes, as spelt in the file: the library counts in 16 bits.
const MAX_TOKEN_BYTES: usize = u16::MAX as usize;

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

/// Reads the model's tokens and ids; their bytes go to `tokens`.
pub(super) fn read_vocab(model: &Value, tokens: &mut TokenBytes) -> Result<HashMap<String, u32>, Problem> {
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
pub(super) fn check_merges(model: &Value, ids: &HashMap<String, u32>) -> Result<(), Problem> {
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

pub(super) fn read_added(
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
