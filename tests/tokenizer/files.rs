//! The tokenizer among a model's files: found beside a file and in a folder, read as transformers reads it, or refused.

use std::fs;
use std::path::Path;

use candle_gpt_input::Result;
use candle_gpt_input::data::corpus::{Corpus, CorpusOptions};
use candle_gpt_input::tokenizer::{SpecialTokens, Tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Failures, error_text, golden_json};
use crate::{byte_level, gpt2_file, ids};

/// Reads what `generate_tokenizer_folders.py` wrote.
fn expected() -> Value {
    golden_json("tokenizer_folders.json")
}

/// Makes a folder with weights, `vocab.json` and `merges.txt`, and other files.
fn folder(others: &Value) -> TempDir {
    let folder = TempDir::new().unwrap();
    let model = &byte_level()["model"];
    let half = |merge: &Value, i: usize| merge[i].as_str().unwrap().to_string();
    let merges = model["merges"].as_array().unwrap().iter().map(|merge| half(merge, 0) + " " + &half(merge, 1));
    let lines: Vec<String> = ["#version: 0.2".to_string()].into_iter().chain(merges).collect();
    write(&folder, "vocab.json", &model["vocab"].to_string());
    write(&folder, "merges.txt", &(lines.join("\n") + "\n"));
    write(&folder, "model.safetensors", "not read");
    for (name, content) in others.as_object().unwrap() {
        write(&folder, name, &content.to_string());
    }
    folder
}

fn write(folder: &TempDir, name: &str, text: &str) {
    fs::write(folder.path().join(name), text).unwrap();
}

fn beside(path: impl AsRef<Path>) -> Tokenizer {
    Tokenizer::beside(path).unwrap().unwrap()
}

#[test]
fn folders_are_read_as_transformers_reads_them() {
    let mut failures = Failures::default();
    let mut check = |name: &str, tokenizer: &Tokenizer, cases: &Value| {
        for case in cases.as_array().unwrap() {
            let (text, expected) = (case["text"].as_str().unwrap(), ids(case));
            let found = tokenizer.encode(text).unwrap();
            failures.holds(found == expected, format_args!("{name}: {text:?}: {found:?}, expected {expected:?}"));
        }
    };
    let expected = expected();
    for case in expected["folders"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let folder = folder(&case["others"]);
        for path in ["", "model.safetensors", "model.safetensors.index.json", "merges.txt"] {
            check(name, &beside(folder.path().join(path)), &case["cases"]);
        }
        for path in ["", "vocab.json", "merges.txt"] {
            check(name, &Tokenizer::open(folder.path().join(path)).unwrap(), &case["cases"]);
        }
        let read = |file: &str| Ok(fs::read_to_string(folder.path().join(file)).ok());
        check(name, &Tokenizer::from_files("a/repository", read).unwrap().unwrap(), &case["cases"]);
    }
    // `tokenizer.json` comes before the two files.
    for case in expected["own"].as_array().unwrap() {
        let folder = folder(&case["others"]);
        write(&folder, "tokenizer.json", &byte_level().to_string());
        let name = case["name"].as_str().unwrap();
        check(name, &beside(folder.path()), &case["cases"]);
        check(name, &beside(folder.path().join("model.safetensors")), &case["cases"]);
    }
}

#[test]
fn openai_s_two_files_are_gpt2_s() -> Result<()> {
    let tokenizer = beside("weights/gpt2-tokenizer");
    assert_eq!((tokenizer.vocab_size(), tokenizer.special_token_id("<|endoftext|>")), (50257, Some(50256)));
    let text = String::from_utf8(gpt2_file("vocab.bpe")).unwrap() + "<|endoftext|>";
    assert_eq!(tokenizer.encode(&text)?, Tokenizer::gpt2().encode(&text)?);
    Ok(())
}

#[test]
fn nothing_is_found_where_nothing_is() {
    let empty = TempDir::new().unwrap();
    write(&empty, "config.json", "{}");
    write(&empty, "model.safetensors", "");
    for path in ["", "model.safetensors", "none.gguf"] {
        assert!(Tokenizer::beside(empty.path().join(path)).unwrap().is_none());
    }
    let text = error_text(Tokenizer::open(empty.path()));
    assert!(text.ends_with(": the folder has no tokenizer.json, nor vocab.json and merges.txt"), "{text}");
}

/// Each folder with the error that it must give, behind the folder's path.
#[test]
fn what_cannot_be_read_is_named() {
    let refused = |change: &dyn Fn(&TempDir), others: Value| {
        let folder = folder(&others);
        change(&folder);
        let text = error_text(Tokenizer::beside(folder.path()));
        assert_eq!(text, error_text(Tokenizer::beside(folder.path().join("model.safetensors"))));
        text.replace(&format!("{}/", folder.path().display()), "")
    };
    let nothing: &dyn Fn(&TempDir) = &|_| {};
    let remove = |folder: &TempDir, name: &str| fs::remove_file(folder.path().join(name)).unwrap();
    let both = |folder: &TempDir| ["vocab.json", "merges.txt"].iter().for_each(|name| remove(folder, name));
    let half = "is missing beside it; a GPT-2's tokenizer needs both";
    assert_eq!(refused(&|f| remove(f, "merges.txt"), json!({})), format!("vocab.json: `merges.txt` {half}"));
    assert_eq!(refused(&|f| remove(f, "vocab.json"), json!({})), format!("merges.txt: `vocab.json` {half}"));
    for (name, kind) in [
        ("tokenizer.model", "a SentencePiece or tiktoken tokenizer"),
        ("spiece.model", "a SentencePiece tokenizer"),
        ("sentencepiece.bpe.model", "a SentencePiece tokenizer"),
        ("vocab.txt", "a WordPiece tokenizer"),
        ("tekken.json", "a Tekken tokenizer"),
        ("qwen.tiktoken", "a tiktoken tokenizer"),
        ("tokenizer.tiktoken", "a tiktoken tokenizer"),
        ("meta.pkl", "a vocabulary of nanoGPT"),
    ] {
        let put = |folder: &TempDir| {
            both(folder);
            fs::write(folder.path().join(name), [0xff, 0xfe]).unwrap();
        };
        let expected = format!("{name}: not supported: {kind}; only byte-level BPE (GPT-2's kind) is supported");
        assert_eq!(refused(&put, json!({})), expected);
        // It is not looked at where another is there.
        let folder = folder(&json!({}));
        fs::write(folder.path().join(name), [0xff, 0xfe]).unwrap();
        assert_eq!(beside(folder.path()).vocab_size(), 400);
    }
    let settings = |class: &str| json!({ "tokenizer_config.json": { "tokenizer_class": class } });
    assert_eq!(
        refused(&both, settings("LlamaTokenizer")),
        "tokenizer_config.json: not supported: the model's tokenizer is a `LlamaTokenizer`, and its files are not here: \
         save it as tokenizer.json"
    );
    let of_gpt2 = folder(&settings("GPT2TokenizerFast"));
    both(&of_gpt2);
    assert!(Tokenizer::beside(of_gpt2.path()).unwrap().is_none());
    for (name, text, what) in [
        ("vocab.json", "version https://git-lfs.github.com/spec/v1\nsize 665\n", "this is a Git LFS pointer"),
        ("merges.txt", "<html><body>Log in</body></html>", "this is a web page (HTML)"),
        ("tokenizer.json", "\u{feff}{}", "it begins with a byte order mark"),
        ("tokenizer.json", "\u{7f}\u{80}", "not valid JSON"),
    ] {
        let put = |folder: &TempDir| fs::write(folder.path().join(name), text).unwrap();
        let said = refused(&put, json!({}));
        assert!(said.contains(what), "{said}");
    }
    let picture = |folder: &TempDir| fs::write(folder.path().join("tokenizer.json"), b"\x89PNG\r\n\x1a\n").unwrap();
    assert!(refused(&picture, json!({})).ends_with("this is a picture (PNG), not text"));
    let class = |others: Value| refused(nothing, others);
    let advice = "save the tokenizer as tokenizer.json: AutoTokenizer.from_pretrained(…).save_pretrained(…)";
    for (others, what) in [
        (
            json!({ "tokenizer_config.json": { "tokenizer_class": "Qwen2Tokenizer" } }),
            "tokenizer_class `Qwen2Tokenizer`",
        ),
        (json!({ "config.json": { "tokenizer_class": "CLIPTokenizer" } }), "tokenizer_class `CLIPTokenizer`"),
        (json!({ "config.json": { "model_type": "roberta" } }), "model_type `roberta`"),
    ] {
        let expected =
            format!("tokenizer_config.json: not supported: `vocab.json` and `merges.txt` of the {what}; {advice}");
        assert_eq!(class(others), expected);
    }
    for model in ["gpt2", "opt"] {
        assert_eq!(beside(folder(&json!({ "config.json": { "model_type": model } })).path()).vocab_size(), 400);
    }
    let config = |config: Value| class(json!({ "tokenizer_config.json": config }));
    assert_eq!(config(json!({ "do_lower_case": true })), "tokenizer_config.json: not supported: `do_lower_case: true`");
    assert_eq!(config(json!([])), "tokenizer_config.json: it is no JSON object");
    assert_eq!(
        config(json!({ "add_prefix_space": "yes" })),
        "tokenizer_config.json: `add_prefix_space` is `yes`, not a boolean"
    );
    assert_eq!(
        config(
            json!({ "add_bos_token": true, "bos_token": "<s>", "added_tokens_decoder": { "7": { "content": "<s>" } } })
        ),
        "vocab.json: the id 7 stands for both \"&\" and \"<s>\""
    );
    assert_eq!(
        config(json!({ "added_tokens_decoder": { "7": { "content": "<|begin|>" } } })),
        "tokenizer_config.json: the added token `<|begin|>` has the id 7, but 1 in the tokenizer"
    );
    assert_eq!(
        config(json!({ "added_tokens_decoder": { "x": { "content": "the" } } })),
        "tokenizer_config.json: `added_tokens_decoder` has the key `x`, expected an id"
    );
    assert_eq!(
        class(json!({ "added_tokens.json": { "[PAD]": "7" } })),
        "tokenizer_config.json: the added token `[PAD]` has no id"
    );
    assert_eq!(
        refused(&|f| write(f, "merges.txt", "#version: 0.2\na b c\n"), json!({})),
        "vocab.json: the tokenizer library refuses it: legacy merge \"a b c\" does not split into exactly two tokens on \
         a space"
    );
    assert!(refused(&|f| write(f, "vocab.json", "{"), json!({})).starts_with("vocab.json: not valid JSON"));
    assert_eq!(refused(&|f| write(f, "vocab.json", "[]"), json!({})), "vocab.json: its model has no `vocab` object");
    assert_eq!(
        refused(&|f| fs::write(f.path().join("merges.txt"), [0xff]).unwrap(), json!({})),
        "cannot read merges.txt: byte 0xff at 0 (line 1, column 1) is not UTF-8: convert the text, for example with \
         `iconv -f CP1252 -t UTF-8`"
    );
    let config = json!({ "tokenizer_config.json": { "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true } });
    let split = |folder: &TempDir| {
        let mut file = byte_level();
        file["pre_tokenizer"] =
            json!({ "type": "Sequence", "pretokenizers": [{ "type": "Digits" }, file["pre_tokenizer"]] });
        write(folder, "tokenizer.json", &file.to_string());
    };
    assert_eq!(
        refused(&split, config),
        "tokenizer_config.json: not supported: `add_prefix_space: true` with another pre-tokenizer"
    );
}

#[test]
fn a_table_has_a_row_for_every_id() -> Result<()> {
    let tokenizer = beside(folder(&json!({ "added_tokens.json": { "[PAD]": 450 } })).path());
    assert_eq!((tokenizer.vocab_size(), tokenizer.unused_rows(451)?, tokenizer.unused_rows(512)?), (401, 0, 61));
    assert_eq!(
        error_text(tokenizer.unused_rows(450)),
        "the tokenizer has ids up to 450, but the table only 450 rows: it is another model's tokenizer"
    );
    assert_eq!(Tokenizer::gpt2().unused_rows(50257)?, 0);
    // A text as a corpus may hold every one of the ids.
    let folder = TempDir::new().unwrap();
    let text = folder.path().join("text.txt");
    fs::write(&text, "[PAD]").unwrap();
    let tokenizer = tokenizer.with_special_tokens(SpecialTokens::Recognize);
    let corpus = Corpus::open(&[text], &CorpusOptions::default().with_tokenizer(tokenizer))?;
    assert_eq!((corpus.ids(0..1).unwrap().to_vec(), corpus.vocab_size()), (vec![450], Some(451)));
    Ok(())
}
