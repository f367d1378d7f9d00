//! Which tokenizer the examples use: the model's own in every place where it may stand, or an error that names it.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::support::golden;
use crate::{example, failure, stdout};

/// The files of a tokenizer of 97 tokens: 95 bytes, `he` and the end of text.
pub fn small_tokenizer() -> [(&'static str, String); 2] {
    let bytes = ('!'..='~').chain(['\u{120}']).map(String::from);
    let tokens = bytes.chain(["he".to_string(), "<|endoftext|>".to_string()]);
    let vocab: Map<String, Value> = tokens.zip(0..).map(|(token, id): (String, i64)| (token, id.into())).collect();
    [("vocab.json", Value::from(vocab).to_string()), ("merges.txt", "#version: 0.2\nh e\n".to_string())]
}

/// Makes a folder with a model of 97 tokens.
fn model() -> TempDir {
    let folder = TempDir::new().unwrap();
    for name in ["model.safetensors", "config.json"] {
        fs::copy(golden("gpt2_one_file").join(name), folder.path().join(name)).unwrap();
    }
    folder
}

fn with_tokenizer() -> TempDir {
    let folder = model();
    for (name, text) in small_tokenizer() {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// Makes a `tokenizer.json` of the two files.
fn whole(folder: &Path) -> Value {
    let vocab: Value = serde_json::from_str(&fs::read_to_string(folder.join("vocab.json")).unwrap()).unwrap();
    serde_json::json!({
        "model": { "type": "BPE", "vocab": vocab, "merges": ["h e"] },
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true },
    })
}

fn with(name: &str, path: &Path, more: &[&str]) -> Command {
    let mut command = example(name);
    command.arg("--weights").arg(path).args(more);
    command
}

#[test]
fn the_model_s_own_tokenizer_is_used() {
    let two = with_tokenizer();
    let one = model();
    fs::write(one.path().join("tokenizer.json"), whole(two.path()).to_string()).unwrap();
    let none = model();
    let paths = [&two, &one].map(|folder| [folder.path().to_path_buf(), folder.path().join("model.safetensors")]);
    for path in paths.as_flattened() {
        let text = stdout(&mut with("embed", path, &["he is"]));
        assert!(text.contains("ids[0] [95, 94, 72, 82]"), "{path:?}: {text}");
        let text = stdout(&mut with("gpt2", path, &["--prompt", "he is", "--max-new-tokens", "0"]));
        assert!(text.contains("logits [1, 4, 97]") && text.contains("next[0] \""), "{path:?}: {text}");
    }
    for path in ["vocab.json", "merges.txt", ""].map(|name| two.path().join(name)) {
        let path = path.to_str().unwrap();
        let text = stdout(&mut with("embed", none.path(), &["he is", "--tokenizer", path]));
        assert!(text.contains("ids[0] [95, 94, 72, 82]"), "{text}");
        let more = ["--prompt", "he is", "--max-new-tokens", "0", "--tokenizer", path];
        assert!(stdout(&mut with("gpt2", none.path(), &more)).contains("logits [1, 4, 97]"));
    }
}

#[test]
fn a_tokenizer_that_is_not_the_model_s_is_refused() {
    let refused = |folder: &TempDir| {
        let path = folder.path().join("model.safetensors");
        let text = failure(&mut with("gpt2", &path, &["--prompt", "he"]), 1);
        assert_eq!(text, failure(&mut with("embed", folder.path(), &["he"]), 1));
        text.replace(&format!("{}/", folder.path().display()), "")
    };
    let advice = "choose a tokenizer with --tokenizer PATH, or pass ids";
    assert_eq!(
        refused(&model()),
        format!(
            "error: GPT-2's tokenizer (the model has none) does not fit: {advice}: the tokenizer has ids up to 50256, \
             but the table only 97 rows: it is another model's tokenizer"
        )
    );
    let half = with_tokenizer();
    fs::remove_file(half.path().join("merges.txt")).unwrap();
    assert_eq!(
        refused(&half),
        format!(
            "error: the model's tokenizer cannot be used: {advice}: vocab.json: `merges.txt` is missing beside it; \
             a GPT-2's tokenizer needs both"
        )
    );
    let other = model();
    fs::write(other.path().join("spiece.model"), [0xff]).unwrap();
    assert_eq!(
        refused(&other),
        format!(
            "error: the model's tokenizer cannot be used: {advice}: spiece.model: not supported: a SentencePiece \
             tokenizer; only byte-level BPE (GPT-2's kind) is supported"
        )
    );
    let large = with_tokenizer();
    fs::write(large.path().join("added_tokens.json"), r#"{"[PAD]": 97}"#).unwrap();
    assert_eq!(
        refused(&large),
        format!(
            "error: the model's tokenizer does not fit: {advice}: the tokenizer has ids up to 97, but the table only \
             97 rows: it is another model's tokenizer"
        )
    );
    // Ids need none.
    assert!(stdout(&mut with("embed", other.path(), &["--ids", "1,2"])).contains("hidden_states [1, 2, 12] F32"));
}

/// `weights/tiny-gpt2` has GPT-2's vocabulary; a tokenizer with far fewer tokens is said.
#[test]
fn rows_without_a_token_are_said() {
    let two = with_tokenizer();
    let output = example("embed").arg("he").arg("--tokenizer").arg(two.path()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let expected = format!("note: {} has ids for 97 of the table's 50257 rows only\n", two.path().display());
    assert!(output.status.success() && text == expected, "{text}");
    let output = example("embed").arg("he").output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
