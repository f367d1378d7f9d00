//! Tokenizers inside GGUF files, against the `tokenizer.json` that they were made from.

use std::fs::File;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use candle_gpt_input::checkpoint::Checkpoint;
use candle_gpt_input::tokenizer::Tokenizer;
use serde_json::{Value as Json, json};

use crate::support::golden_json;
use crate::{byte_level, expected, gpt2, gpt2_file, ids};

type Keys = Vec<(&'static str, Value)>;

fn text(text: &str) -> Value {
    Value::String(text.to_string())
}

fn texts<S: AsRef<str>>(texts: &[S]) -> Value {
    Value::Array(texts.iter().map(|t| text(t.as_ref())).collect())
}

/// Writes the keys beside one weight, and returns the `tokenizer.json` that is read from them.
fn read(keys: &[(&str, Value)]) -> candle_gpt_input::Result<Option<String>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let wte = QTensor::quantize(&Tensor::ones((4, 32), DType::F32, &Device::Cpu).unwrap(), GgmlDType::F32).unwrap();
    let keys: Vec<_> = keys.iter().map(|(key, value)| (*key, value)).collect();
    gguf_file::write(&mut File::create(&path).unwrap(), &keys, &[("token_embd.weight", &wte)]).unwrap();
    Checkpoint::open(&path).unwrap().tokenizer_json()
}

fn encoder(keys: &[(&str, Value)]) -> Tokenizer {
    Tokenizer::from_json(&read(keys).unwrap().expect("a tokenizer")).unwrap()
}

/// Says what a `tokenizer.json` does in llama.cpp's keys, with two unused tokens that fill the table.
fn keys(file: &Json, pre: &str) -> Keys {
    let mut tokens: Vec<(u64, String, i32)> = Vec::new();
    for (token, id) in file["model"]["vocab"].as_object().unwrap() {
        tokens.push((id.as_u64().unwrap(), token.clone(), 1));
    }
    for added in file["added_tokens"].as_array().into_iter().flatten() {
        let id = added["id"].as_u64().unwrap();
        tokens.retain(|(known, ..)| *known != id);
        let kind = if added["special"] == true { 3 } else { 4 };
        tokens.push((id, added["content"].as_str().unwrap().to_string(), kind));
    }
    tokens.sort();
    let end = tokens.len() as u64;
    assert!(tokens.iter().zip(0..).all(|((id, ..), i)| *id == i));
    tokens.extend([end, end + 1].map(|id| (id, format!("[PAD{id}]"), 5)));
    let merge = |pair: &Json| match pair.as_str() {
        Some(text) => text.to_string(),
        None => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    };
    let merges: Vec<String> = file["model"]["merges"].as_array().unwrap().iter().map(merge).collect();
    vec![
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text(pre)),
        ("tokenizer.ggml.tokens", texts(&tokens.iter().map(|(_, token, _)| token).collect::<Vec<_>>())),
        ("tokenizer.ggml.token_type", Value::Array(tokens.iter().map(|(.., kind)| Value::I32(*kind)).collect())),
        ("tokenizer.ggml.merges", texts(&merges)),
    ]
}

#[test]
fn gpt2s_own_has_the_ids_of_the_built_in_one() {
    let vocab: Json = serde_json::from_slice(&gpt2_file("encoder.json")).unwrap();
    let lines = String::from_utf8(gpt2_file("vocab.bpe")).unwrap();
    let merges: Vec<&str> = lines.lines().skip(1).filter(|line| !line.is_empty()).collect();
    let end = json!([{"id": 50256, "content": "<|endoftext|>", "special": true}]);
    let mut keys = keys(&json!({"model": {"vocab": vocab, "merges": merges}, "added_tokens": end}), "gpt-2");
    let own = encoder(&keys);
    assert_eq!(own.vocab_size(), 50257, "unused tokens are left out");
    for case in expected()["gpt2"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(own.encode(text).unwrap(), ids(case), "{text:?}");
        assert_eq!(own.encode(text).unwrap(), gpt2().encode(text).unwrap());
    }
    // Files of GPT-2 that are older than the key for words and that for types.
    keys.retain(|(key, _)| !["tokenizer.ggml.pre", "tokenizer.ggml.token_type"].contains(key));
    keys.push(("general.architecture", text("gpt2")));
    keys.push(("tokenizer.ggml.eos_token_id", Value::U32(50256)));
    assert_eq!(encoder(&keys).encode("It's.<|endoftext|>").unwrap(), [1026, 338, 13, 50256]);
}

#[test]
fn added_tokens_and_those_around_a_text_are_read() {
    let texts = ["Hello, it's 12345 o'clock", "<|endoftext|> a<|begin|>b", "  \n\n x", "žluťoučký 😀 DON'T"];
    let file = byte_level();
    let (own, same) = (encoder(&keys(&file, "gpt-2")), Tokenizer::from_json(&file.to_string()).unwrap());
    for text in texts {
        assert_eq!(own.decode(&own.encode(text).unwrap()).unwrap(), same.decode(&same.encode(text).unwrap()).unwrap());
    }
    let file = golden_json("tokenizer/llama3_style.json");
    let mut keys = keys(&file, "llama-bpe");
    let same = Tokenizer::from_json(&file.to_string()).unwrap();
    keys.push(("tokenizer.ggml.bos_token_id", Value::U32(1)));
    keys.push(("tokenizer.ggml.eos_token_id", Value::U32(0)));
    // llama.cpp begins a text of this kind unless the file says otherwise, and ends none unless it says so.
    let own = encoder(&keys);
    for text in texts {
        let ids = same.encode(text).unwrap();
        assert_eq!(own.encode(text).unwrap(), ids[..ids.len() - 1], "{text:?}");
    }
    keys.push(("tokenizer.ggml.add_eos_token", Value::Bool(true)));
    let own = encoder(&keys);
    for text in texts {
        assert_eq!(own.encode(text).unwrap(), same.encode(text).unwrap(), "{text:?}");
    }
    keys.push(("tokenizer.ggml.add_bos_token", Value::Bool(false)));
    assert_eq!(encoder(&keys).encode("a").unwrap(), same.encode("a").unwrap()[1..]);
}

#[test]
fn words_are_cut_as_the_file_says() {
    let tokens = ["1", "2", "3", "4", "12", "123", "1234", "a", "B", "aB"];
    let words = |pre: &str| {
        let mut keys = small();
        keys.retain(|(key, _)| ["tokenizer.ggml.model"].contains(key));
        keys.push(("tokenizer.ggml.pre", text(pre)));
        keys.push(("tokenizer.ggml.tokens", texts(&tokens)));
        keys.push(("tokenizer.ggml.merges", texts(&["1 2", "12 3", "123 4", "a B"])));
        encoder(&keys).encode("1234aB").unwrap().iter().map(|id| tokens[*id as usize]).collect::<Vec<_>>()
    };
    for pre in ["gpt-2", "phi-2", "olmo", "mpt"] {
        assert_eq!(words(pre), ["1234", "aB"], "{pre}");
    }
    for pre in ["starcoder", "smollm", "qwen2", "stablelm2"] {
        assert_eq!(words(pre), ["1", "2", "3", "4", "aB"], "{pre}");
    }
    assert_eq!(words("llama-bpe"), ["123", "4", "aB"]);
    assert_eq!(words("gpt-4o"), ["123", "4", "a", "B"]);
}

fn small() -> Keys {
    vec![
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.tokens", texts(&["a", "b", "ab", "<|endoftext|>"])),
        ("tokenizer.ggml.token_type", Value::Array([1, 1, 1, 3].map(Value::I32).to_vec())),
        ("tokenizer.ggml.merges", texts(&["a b"])),
    ]
}

#[test]
fn files_without_one_have_none() {
    assert!(read(&[]).unwrap().is_none());
    assert!(read(&[("tokenizer.ggml.model", text("no_vocab"))]).unwrap().is_none());
    let whole = byte_level().to_string();
    let keys = [("tokenizer.huggingface.json", text(&whole)), ("tokenizer.ggml.model", text("llama"))];
    assert_eq!(read(&keys).unwrap(), Some(whole));
    let safetensors = Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/tiny-gpt2")).unwrap();
    assert!(safetensors.tokenizer_json().unwrap().is_none());
}

#[test]
fn what_cannot_be_read_is_an_error_that_says_why() {
    let with = |key: &'static str, value: Value| {
        let mut keys = small();
        keys.retain(|(known, _)| *known != key);
        keys.push((key, value));
        read(&keys).unwrap_err().to_string()
    };
    let numbers = |n: i32| Value::Array((0..n).map(|_| Value::I32(1)).collect());
    let cases = [
        (
            with("tokenizer.ggml.model", text("llama")),
            "model.gguf: not supported: it has a SentencePiece tokenizer; only",
        ),
        (with("tokenizer.ggml.model", text("new")), "its tokenizer is of the unknown kind `new`"),
        (with("tokenizer.ggml.model", Value::U32(1)), "its tokenizer is of the unknown kind ``"),
        (with("tokenizer.ggml.pre", text("poro")), "cuts words in the way `poro` of `tokenizer.ggml.pre`"),
        (with("tokenizer.ggml.pre", Value::U8(2)), "cuts words in an unknown way: no `tokenizer.ggml.pre`"),
        (
            with("tokenizer.ggml.token_type", numbers(3)),
            "`tokenizer.ggml.token_type` has 3 entries, `tokenizer.ggml.tokens` 4",
        ),
        (with("tokenizer.ggml.token_type", Value::Bool(true)), "`tokenizer.ggml.token_type` has 0 entries"),
        (with("tokenizer.ggml.tokens", texts(&["a", "b", "a", "x"])), "has `a` twice, as 0 and as 2"),
        (with("tokenizer.ggml.tokens", numbers(4)), "`tokenizer.ggml.tokens` has no text of UTF-8 at 0"),
        (with("tokenizer.ggml.merges", text("a b")), "it has a tokenizer, but no list `tokenizer.ggml.merges`"),
        (with("tokenizer.ggml.eos_token_id", Value::U32(4)), "`tokenizer.ggml.eos_token_id` is 4, but"),
        (with("tokenizer.ggml.add_eos_token", Value::Bool(true)), "`tokenizer.ggml.add_eos_token` is set without"),
        (with("tokenizer.huggingface.json", Value::U32(1)), "`tokenizer.huggingface.json` is not a text"),
    ];
    for (error, expected) in cases {
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("model.gguf: "), "{error}");
    }
    // What the merges of the file contradict is the tokenizer's to say.
    let mut keys = small();
    keys.retain(|(known, _)| *known != "tokenizer.ggml.merges");
    keys.push(("tokenizer.ggml.merges", texts(&["a c"])));
    let error = Tokenizer::from_json(&read(&keys).unwrap().unwrap()).unwrap_err().to_string();
    assert!(error.contains('c'), "{error}");
}

/// llama.cpp ends a text with such a token, and it stays one that text consists of.
#[test]
fn a_token_that_ends_texts_may_be_an_ordinary_one() {
    let with_end = |keys: &mut Keys, id: u32| keys.push(("tokenizer.ggml.eos_token_id", Value::U32(id)));
    let mut keys = small();
    with_end(&mut keys, 1);
    assert_eq!(encoder(&keys).encode("abab<|endoftext|>").unwrap(), [2, 2, 3]);
    // Without types it is special: "b" is cut out of the text before words are.
    keys.retain(|(key, _)| *key != "tokenizer.ggml.token_type");
    let error = Tokenizer::from_json(&read(&keys).unwrap().unwrap()).unwrap_err().to_string();
    assert!(error.contains("needs the token"), "{error}");
    // The end of text is known by its name.
    keys.retain(|(key, _)| *key != "tokenizer.ggml.eos_token_id");
    assert_eq!(encoder(&keys).encode("ab<|endoftext|>").unwrap(), [2, 3]);
}
