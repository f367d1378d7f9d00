//! Reads a Hugging Face `tokenizer.json`, and checks it before the library does, which panics on some broken ones.

use std::sync::Arc;

use serde_json::{Value, json};
use tokenizers::pipeline::EncodeOptions;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::utils::Grammar;

use super::added::AddedTokens;
use super::encode::{Encoder, Plain};
use super::entries::{check_merges, read_added, read_vocab};
use super::frame::Frame;
use super::library::pipeline;
use super::problem::{Problem, shown};
use super::vocabulary::{MissingBytes, TokenBytes};

/// Builds the encoder that a parsed `tokenizer.json` describes.
pub(super) fn build(mut file: Value) -> Result<Encoder, Problem> {
    check_kind(&file)?;
    check_decoder(&file["decoder"])?;
    let prefix_space = file.get_mut("pre_tokenizer").is_some_and(take_prefix_space);
    tokenizers::canonicalize_value(&mut file)?;
    if file["model"]["byte_level"] != true {
        return Err(only_byte_level("a BPE that is not byte-level"));
    }
    let mut tokens = TokenBytes::default();
    let ids = read_vocab(&file["model"], &mut tokens)?;
    check_merges(&file["model"], &ids)?;
    let added = read_added(&file["added_tokens"], &ids, &mut tokens)?;

    let frame = Frame::read(&file["normalizer"], &file["post_processor"])?;
    for (token, _) in frame.around().into_iter().flatten() {
        if tokens.get(token.id()).is_none() {
            return Err(format!("its post-processor adds the id {}, which is not in the vocabulary", token.id()).into());
        }
    }
    let added = AddedTokens::new(added, &frame)?;
    let mut pre_tokenizer = file["pre_tokenizer"].take();
    if let Some(only) = only_member(&mut pre_tokenizer) {
        // As in Llama 3, whose `ByteLevel` has moved to the model; `Encoder` then recognises the pattern.
        pre_tokenizer = only.take();
    }
    check_patterns(&pre_tokenizer)?;
    let mut model = file["model"].take();
    let missing = MissingBytes::find(
        tokens.end(),
        |token| ids.contains_key(token),
        |token, id| model["vocab"][token] = id.into(),
    );
    // A pipeline of its own: the library would find added tokens itself, but not report where.
    let plain = pipeline(json!({ "version": "2.0", "model": model, "pre_tokenizer": pre_tokenizer }))?;
    // The library accepts a pattern that it cannot run, and fails at the first text.
    let trial = plain.encode_into("a", &EncodeOptions::no_specials(), &mut Vec::new());
    trial.map_err(|_| Problem::Unsupported(UNKNOWN_PATTERN.to_string()))?;
    let mut encoder = Encoder::new(Plain::Library(plain), added, Arc::new(tokens));
    (encoder.frame, encoder.prefix_space, encoder.missing) = (frame, prefix_space, missing);
    Ok(encoder)
}

const UNKNOWN_PATTERN: &str = "its pre-tokenizer splits by a pattern that is not supported \
    (expected that of GPT-2, cl100k, Llama 3, Qwen, o200k, DeepSeek, Tekken or Kimi)";

/// Returns the only member of a `Sequence` of pre-tokenizers.
fn only_member(pre_tokenizer: &mut Value) -> Option<&mut Value> {
    match pre_tokenizer.get_mut("pretokenizers")?.as_array_mut()?.as_mut_slice() {
        [only] => Some(only),
        _ => None,
    }
}

/// Clears `add_prefix_space` of a `ByteLevel` pre-tokenizer, which the library refuses; returns whether it was set.
/// Behind other pre-tokenizers it stays: there it is about every word.
fn take_prefix_space(pre_tokenizer: &mut Value) -> bool {
    if pre_tokenizer["type"] == "Sequence" {
        return only_member(pre_tokenizer).is_some_and(take_prefix_space);
    }
    let byte_level = pre_tokenizer["type"] == "ByteLevel";
    let option = pre_tokenizer.get_mut("add_prefix_space").filter(|option| byte_level && **option == true);
    option.map(|option| *option = false.into()).is_some()
}

/// Refuses decoders other than the one that a byte-level BPE has. Without any, it is meant.
fn check_decoder(decoder: &Value) -> Result<(), Problem> {
    match decoder["type"].as_str() {
        Some("Sequence") => decoder["decoders"].as_array().into_iter().flatten().try_for_each(check_decoder),
        None | Some("ByteLevel" | "Fuse") => Ok(()),
        Some(_) => Err(Problem::Unsupported(format!("the {} decoder of a byte-level BPE", shown(&decoder["type"])))),
    }
}

/// Refuses patterns that the library takes for others: it counts up to three digits where more or fewer are one word.
fn check_patterns(pre_tokenizer: &Value) -> Result<(), Problem> {
    if let Some(members) = pre_tokenizer["pretokenizers"].as_array() {
        return members.iter().try_for_each(check_patterns);
    }
    let Some(pattern) = pre_tokenizer["pattern"]["Regex"].as_str() else { return Ok(()) };
    let split = Split::native(SplitPattern::Regex(pattern.to_string()), SplitDelimiterBehavior::Isolated, false);
    match split.ok().and_then(|split| split.grammar()) {
        Some(Grammar::Cl100k { digit_cap }) if ![1, 3].contains(&digit_cap) => {
            Err(Problem::Unsupported(UNKNOWN_PATTERN.to_string()))
        }
        _ => Ok(()),
    }
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
