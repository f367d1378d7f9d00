//! What `tokenizer_config.json` and its like say beside a tokenizer's own file, or beside tokens and merges.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::END_OF_TEXT;
use super::problem::{Problem, shown};

/// Kinds of tokenizers, and of models in whose folder nothing names one, that read the two files as GPT-2 does.
const CLASSES: [&str; 4] = ["GPT2Tokenizer", "GPT2TokenizerFast", "CodeGenTokenizer", "CodeGenTokenizerFast"];
const MODELS: [&str; 6] = ["gpt2", "gpt_neo", "gptj", "gpt_bigcode", "codegen", "opt"];
/// The keys of special tokens, in the order in which those without an id get one.
const SPECIAL: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const MORE_SPECIAL: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// What stands beside the tokens and merges.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) config: Map<String, Value>,
    /// `special_tokens_map.json`.
    pub(super) special: Map<String, Value>,
    /// `added_tokens.json`.
    pub(super) added: Map<String, Value>,
}

/// Refuses settings of a tokenizer without its files, unless it is GPT-2's.
pub(super) fn check_absent(settings: &Value) -> Result<(), Problem> {
    match &settings["tokenizer_class"] {
        Value::Null => Ok(()),
        class if class.as_str().is_some_and(|class| CLASSES.contains(&class)) => Ok(()),
        class => Err(Problem::Unsupported(format!(
            "the model's tokenizer is a {}, and its files are not here: save it as tokenizer.json",
            shown(class)
        ))),
    }
}

impl Settings {
    pub(super) fn is(&self, key: &str) -> bool {
        self.config.get(key) == Some(&Value::Bool(true))
    }

    /// Refuses the two files of a tokenizer that reads them differently.
    pub(super) fn check_class(&self, model: &Map<String, Value>) -> Result<(), Problem> {
        let known = |value: &Value, names: &[&str]| value.as_str().is_some_and(|name| names.contains(&name));
        let class = [&self.config, model].iter().find_map(|map| map.get("tokenizer_class").filter(|c| !c.is_null()));
        let other = match (class, model.get("model_type")) {
            (Some(class), _) if !known(class, &CLASSES) => Some(("tokenizer_class", class)),
            (None, Some(kind)) if !known(kind, &MODELS) => Some(("model_type", kind)),
            _ => None,
        };
        if let Some((key, value)) = other {
            return Err(Problem::Unsupported(format!(
                "`vocab.json` and `merges.txt` of the {key} {}; save the tokenizer as tokenizer.json: \
                 AutoTokenizer.from_pretrained(…).save_pretrained(…)",
                shown(value)
            )));
        }
        match self.is("do_lower_case") {
            true => Err(Problem::Unsupported("`do_lower_case: true`".to_string())),
            false => Ok(()),
        }
    }

    /// Adds to a `tokenizer.json` what the other files say. `own_file` is false if it was made of tokens and merges.
    pub(super) fn complete(&self, file: &mut Value, own_file: bool) -> Result<(), Problem> {
        if !file.is_object() {
            return Ok(()); // refused later
        }
        let mut added = Added::of(file);
        let special = self.special_tokens(&added, own_file);
        for (id, token) in self.added_tokens(&special)? {
            added.push(token, Some(id))?;
        }
        for token in special {
            added.push(token, None)?;
        }
        let bos = self.around(&added, own_file, "add_bos_token", "bos_token")?;
        let eos = self.around(&added, own_file, "add_eos_token", "eos_token")?;
        if file["added_tokens"].is_array() || file["added_tokens"].is_null() {
            file["added_tokens"] = Value::Array(added.tokens);
        }
        if !bos.is_empty() || !eos.is_empty() {
            let single = [bos.clone(), vec![json!({ "seq": "A" })], eos.clone()].concat();
            let second = [bos, vec![json!({ "seq": "B", "type_id": 1 })], eos].concat();
            let pair = [single.clone(), second].concat();
            file["post_processor"] = json!({ "type": "TemplateProcessing", "single": single, "pair": pair });
        }
        let class = self.config.get("tokenizer_class").and_then(Value::as_str);
        let of_gpt2 = class.is_none_or(|class| CLASSES.contains(&class));
        if let (Some(space), true) = (self.config.get("add_prefix_space"), of_gpt2) {
            let space =
                space.as_bool().ok_or_else(|| format!("`add_prefix_space` is {}, not a boolean", shown(space)))?;
            if file["pre_tokenizer"]["type"] == "ByteLevel" {
                file["pre_tokenizer"]["add_prefix_space"] = space.into();
            } else if space {
                return Err(Problem::Unsupported("`add_prefix_space: true` with another pre-tokenizer".to_string()));
            }
        }
        Ok(())
    }

    /// Returns the piece of a template that a flag asks for. A `tokenizer.json` has its own template.
    fn around(&self, added: &Added, own_file: bool, flag: &str, key: &str) -> Result<Vec<Value>, Problem> {
        if own_file || !self.is(flag) {
            return Ok(Vec::new());
        }
        let token = self.named(key).and_then(content).unwrap_or(END_OF_TEXT);
        let unknown = || format!("`{flag}: true`, but the vocabulary has no token {}", shown(&token.into()));
        Ok(vec![json!({ "ids": [added.id(token).ok_or_else(unknown)?] })])
    }

    fn named(&self, key: &str) -> Option<&Value> {
        self.config.get(key).or_else(|| self.special.get(key)).filter(|token| !token.is_null())
    }

    /// Lists the special tokens that have a name, and others. A GPT-2's has its end of text if nothing else is said.
    fn special_tokens(&self, added: &Added, own_file: bool) -> Vec<Value> {
        let default = Value::from(END_OF_TEXT);
        let by_default = |key: &str| !own_file && SPECIAL[..3].contains(&key) && added.id(END_OF_TEXT).is_some();
        let named = SPECIAL.iter().filter_map(|key| self.named(key).or_else(|| by_default(key).then_some(&default)));
        let more = MORE_SPECIAL.iter().filter_map(|key| self.named(key)?.as_array()).flatten();
        named.chain(more).filter_map(|value| Some(flagged(value, content(value)?, true))).collect()
    }

    /// Lists the added tokens that have an id.
    fn added_tokens(&self, special: &[Value]) -> Result<Vec<(u64, Value)>, Problem> {
        let special: HashSet<&str> = special.iter().filter_map(content).collect();
        let mut tokens = Vec::new();
        for (token, id) in &self.added {
            let id =
                id.as_u64().ok_or_else(|| format!("the added token {} has no id", shown(&token.as_str().into())))?;
            tokens.push((id, flagged(&Value::Null, token, special.contains(token.as_str()))));
        }
        for (id, token) in self.config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
            let no_id = || format!("`added_tokens_decoder` has the key {}, expected an id", shown(&id.as_str().into()));
            let id = id.parse().map_err(|_| no_id())?;
            let content = content(token).ok_or_else(|| format!("the added token {} has no content", shown(token)))?;
            tokens.push((id, flagged(token, content, token["special"] == true)));
        }
        tokens.sort_by_key(|(id, _)| *id);
        Ok(tokens)
    }
}

/// The added tokens of a file, to which others come.
struct Added<'f> {
    tokens: Vec<Value>,
    /// The ids of the added tokens. One that is in the model's vocabulary as well has this id.
    ids: HashMap<String, u64>,
    /// The vocabulary of the model.
    vocab: &'f Value,
    /// The id of the next token without one, as Hugging Face's library gives it.
    next_id: u64,
}

impl<'f> Added<'f> {
    fn of(file: &'f Value) -> Self {
        let vocab = &file["model"]["vocab"];
        let n_ids = vocab.as_object().into_iter().flatten().filter(|(_, id)| id.is_u64()).count();
        let mut added = Self { tokens: Vec::new(), ids: HashMap::new(), vocab, next_id: n_ids as u64 };
        for token in file["added_tokens"].as_array().into_iter().flatten() {
            added.note(token);
            added.tokens.push(token.clone());
        }
        added
    }

    fn id(&self, token: &str) -> Option<u64> {
        self.ids.get(token).copied().or_else(|| self.vocab.get(token)?.as_u64())
    }

    fn note(&mut self, token: &Value) {
        if let (Some(content), Some(id)) = (content(token), token["id"].as_u64()) {
            self.ids.insert(content.to_string(), id);
            self.next_id = self.next_id.max(id.saturating_add(1));
        }
    }

    /// Adds a token that is not among them, with the id that a file gives it, or that it has in the model, or the next.
    fn push(&mut self, mut token: Value, id: Option<u64>) -> Result<(), Problem> {
        let Some(content) = content(&token) else { return Ok(()) };
        let known = self.id(content);
        if let (Some(id), Some(known)) = (id, known.filter(|known| Some(*known) != id)) {
            let content = shown(&content.into());
            return Err(format!("the added token {content} has the id {id}, but {known} in the tokenizer").into());
        }
        if !self.ids.contains_key(content) {
            token["id"] = id.or(known).unwrap_or(self.next_id).into();
            self.note(&token);
            self.tokens.push(token);
        }
        Ok(())
    }
}

/// Returns the text of a token, which is written as itself or as an object with flags.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// Returns an added token with the flags that `value` gives it.
fn flagged(value: &Value, content: &str, special: bool) -> Value {
    let flag = |name: &str, default: bool| value[name].as_bool().unwrap_or(default);
    json!({
        "content": content,
        "single_word": flag("single_word", false),
        "lstrip": flag("lstrip", false),
        "rstrip": flag("rstrip", false),
        "normalized": flag("normalized", !special),
        "special": special,
    })
}
