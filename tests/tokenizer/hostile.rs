//! Files that are not tokenizers: one clear error each, no panic, bounded memory.

use std::fs;

use candle_gpt_input::error::TokenizerError;
use candle_gpt_input::tokenizer::Tokenizer;
use candle_gpt_input::{Error, Result};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::byte_level;
use crate::support::{Failures, error_text, golden, properties};

/// Returns the error of the file after a change.
fn refused(change: impl FnOnce(&mut Value)) -> String {
    let mut file = byte_level();
    change(&mut file);
    error_text(Tokenizer::from_json(&file.to_string()))
}

#[track_caller]
fn assert_refused(expected: &str, change: impl FnOnce(&mut Value)) {
    let text = refused(change);
    assert_eq!(text.strip_prefix("tokenizer.json: "), Some(expected));
}

/// The expected error, and the change that causes it.
type Fault = (&'static str, fn(&mut Value));

/// Checks that each change to the file causes exactly the expected error.
fn assert_each_refused(faults: &[Fault]) {
    let mut failures = Failures::default();
    for (expected, change) in faults {
        let mut file = byte_level();
        change(&mut file);
        let expected = format!("tokenizer.json: {expected}");
        let text = error_text(Tokenizer::from_json(&file.to_string()));
        failures.holds(text == expected, format_args!("{text:?}\n  expected {expected}"));
    }
}

#[test]
fn broken_files_are_named_as_such() {
    assert_each_refused(&[
        ("the tokenizer library refuses it: a tokenizer.json must be a JSON object, found an array", |file| {
            *file = json!([])
        }),
        ("the tokenizer library refuses it: the config has no `model`", |file| *file = json!({})),
        ("the tokenizer library refuses it: `model` must be a JSON object, found a number", |file| {
            file["model"] = json!(7)
        }),
        ("its model has no `vocab` object", |file| file["model"]["vocab"] = json!(["a"])),
        ("its model has no `merges` list", |file| file["model"]["merges"] = Value::Null),
        ("token 5000 has 65536 bytes, expected at most 65535", |file| {
            file["model"]["vocab"]["z".repeat(1 << 16)] = json!(5000);
        }),
        ("its post-processor adds the id 9999, which is not in the vocabulary", |file| {
            file["post_processor"] = json!({ "type": "TemplateProcessing",
                "single": [{ "ids": [9999] }, { "seq": "A" }], "pair": [{ "seq": "A" }, { "seq": "B", "type_id": 1 }] });
        }),
        ("not supported: a pre-tokenizer with no `type`", |file| {
            file["model"]["byte_level"] = json!(true);
            file["pre_tokenizer"] = json!("ByteLevel");
        }),
    ]);
    let text = refused(|file| file["pre_tokenizer"] = json!("ByteLevel"));
    assert!(text.starts_with("tokenizer.json: not supported: its model is a BPE that is not byte-level"), "{text}");
}

#[test]
fn broken_merges_are_named() {
    assert_each_refused(&[
        ("the merge [\"a\",\"🤗\"] needs the token \"🤗\", which is not in the vocabulary", |file| {
            file["model"]["merges"] = json!([["a", "🤗"]]);
        }),
        ("the merge [\"q\",\"x\"] needs the token \"qx\", which is not in the vocabulary", |file| {
            file["model"]["merges"] = json!(["q x"]);
        }),
        ("the merge [\"\",\"a\"] has an empty half", |file| {
            file["model"]["vocab"][""] = json!(5000);
            file["model"]["merges"] = json!([["", "a"]]);
        }),
        (
            "the tokenizer library refuses it: legacy merge \"a b c\" does not split into exactly two tokens on a space",
            |file| {
                file["model"]["merges"] = json!(["a b c"]);
            },
        ),
        (
            "the tokenizer library refuses it: a merge is neither a `[\"a\", \"b\"]` pair nor an `\"a b\"` string",
            |file| {
                file["model"]["merges"] = json!([["a"]]);
            },
        ),
    ]);
}

#[test]
fn ids_that_are_none_or_stand_for_two_tokens_are_named() {
    for id in [json!(2_097_152), json!(u32::MAX), json!(u64::MAX), json!(-1), json!(1.5), json!("7"), json!(null)] {
        let expected = format!("token \"zz\" has the id {id}, expected a whole number up to 2097151");
        assert_refused(&expected, |file| file["model"]["vocab"]["zz"] = id.clone());
        let expected = expected.replace("zz", "<strip>");
        assert_refused(&expected, |file| file["added_tokens"][2]["id"] = id);
    }
    assert_each_refused(&[
        ("the id 0 stands for both \"<|endoftext|>\" and \"zz\"", |file| file["model"]["vocab"]["zz"] = json!(0)),
        ("the id 0 stands for both \"<|endoftext|>\" and \"<strip>\"", |file| {
            file["added_tokens"][2]["id"] = json!(0);
        }),
    ]);
}

#[test]
fn broken_added_tokens_are_named() {
    assert_each_refused(&[
        ("added token 0: \"<|endoftext|>\" has the id 5, but 0 in the model", |file| {
            file["added_tokens"][0]["id"] = json!(5);
        }),
        ("added token 2: \"<|begin|>\" is listed twice", |file| {
            file["added_tokens"][2] = file["added_tokens"][1].clone();
        }),
        ("`added_tokens` is not a list", |file| file["added_tokens"] = json!("all")),
        ("added token 1 cannot be read: missing field `content`", |file| {
            file["added_tokens"][1].as_object_mut().unwrap().remove("content");
        }),
        ("added token 2: id 400 has an empty `content`", |file| file["added_tokens"][2]["content"] = json!("")),
        ("added token 1 cannot be read: invalid type: integer `1`, expected a boolean", |file| {
            file["added_tokens"][1]["lstrip"] = json!(1);
        }),
    ]);
}

#[test]
fn what_is_not_done_here_is_named() {
    for kind in ["WordPiece", "Unigram", "WordLevel", "Quantum"] {
        let expected = format!("not supported: its model is {kind}; only byte-level BPE (GPT-2's kind) is supported");
        assert_refused(&expected, |file| file["model"]["type"] = json!(kind));
    }
    assert_refused(
        "not supported: its model is a BPE that is not byte-level; only byte-level BPE (GPT-2's kind) is supported",
        |file| file["pre_tokenizer"] = json!({ "type": "Whitespace" }),
    );
    assert_refused("not supported: its version is \"3.0\", expected \"1.0\" or \"2.0\"", |file| {
        file["version"] = json!("3.0");
    });
    let spaced =
        "not supported: a `ByteLevel` pre-tokenizer with `add_prefix_space: true` behind another pre-tokenizer";
    assert_refused(spaced, |file| {
        file["pre_tokenizer"]["add_prefix_space"] = json!(true);
        let members = json!([{ "type": "Digits", "individual_digits": true }, file["pre_tokenizer"].take()]);
        file["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": members });
    });
    assert_refused("not supported: its model has the `end_of_word_suffix` \"</w>\"", |file| {
        file["model"]["end_of_word_suffix"] = json!("</w>");
    });
    assert_refused("not supported: its model has a dropout of 0.5: ids would differ from call to call", |file| {
        file["model"]["dropout"] = json!(0.5);
    });
    for kind in ["Nmt", "BertNormalizer", "Precompiled"] {
        let expected = format!("not supported: the `{kind}` normalizer");
        assert_refused(&expected, |file| file["normalizer"] = json!({ "type": kind }));
    }
    let expected = "not supported: a `Replace` normalizer with the regular expression `x+\\n`";
    assert_refused(expected, |file| {
        let replace = json!({ "type": "Replace", "pattern": { "Regex": "x+\n" }, "content": "y" });
        file["normalizer"] = json!({ "type": "Sequence", "normalizers": [{ "type": "NFC" }, replace] });
    });
    for (kind, key) in [("Replace", "content"), ("Prepend", "prepend")] {
        let expected = format!("not supported: a `{kind}` normalizer that puts in 33 bytes, more than 32");
        assert_refused(&expected, |file| {
            file["normalizer"] = json!({ "type": kind, "pattern": { "String": "x" }, key: "y".repeat(33) });
        });
    }
    assert_refused("not supported: it has more than 64 normalizers", |file| {
        file["normalizer"] = json!({ "type": "Sequence", "normalizers": vec![json!({ "type": "NFC" }); 65] });
    });
    assert_refused("its `Sequence` of normalizers has no list `normalizers`", |file| {
        file["normalizer"] = json!({ "type": "Sequence" });
    });
    for decoder in
        [json!({ "type": "WordPiece" }), json!({ "type": "Sequence", "decoders": [{ "type": "WordPiece" }] })]
    {
        assert_refused("not supported: the `WordPiece` decoder of a byte-level BPE", |file| {
            file["decoder"] = decoder;
        });
    }
    assert_refused("not supported: the `Sigmoid` post-processor", |file| {
        file["post_processor"] = json!({ "type": "Sigmoid" });
    });
    // The library would take the last two for cl100k's, which cuts numbers into at most three digits.
    let cl100k = |digits: &str| {
        let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+";
        format!(r"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    };
    for pattern in ["(?=x)y", &cl100k(r"\p{N}+"), &cl100k(r"\p{N}{1,2}")] {
        let text = refused(|file| {
            file["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
                { "type": "ByteLevel", "add_prefix_space": false, "use_regex": false },
            ] });
        });
        assert!(text.starts_with("tokenizer.json: not supported: its pre-tokenizer splits by a pattern"), "{text}");
    }
    // The library panics here; we must not.
    let text = refused(|file| {
        let bytes: Vec<String> = file["model"]["vocab"].as_object().unwrap().keys().cloned().collect();
        let bytes: Vec<&String> = bytes.iter().filter(|token| token.chars().count() == 1).collect();
        let mut merges = Vec::new();
        for left in &bytes {
            for right in &bytes {
                file["model"]["vocab"][format!("{left}{right}")] = json!(1000 + merges.len());
                merges.push(json!([left, right]));
            }
        }
        file["model"]["merges"] = json!(merges);
    });
    assert_eq!(text, "tokenizer.json: not supported: the tokenizer library gave up on it");
}

#[test]
fn json_that_is_none() {
    for (text, expected) in [
        ("", "not valid JSON: EOF while parsing a value at line 1 column 0"),
        ("{", "not valid JSON: EOF while parsing an object at line 1 column 1"),
        ("nul", "not valid JSON: EOF while parsing"),
    ] {
        let error = error_text(Tokenizer::from_json(text));
        assert!(error.starts_with(&format!("tokenizer.json: {expected}")), "{error}");
    }
    for open in ["[", "{\"model\":"] {
        let error = error_text(Tokenizer::from_json(&open.repeat(100_000)));
        assert!(error.starts_with("tokenizer.json: not valid JSON: recursion limit exceeded"), "{error}");
    }
    for many in ["{},".repeat(1 << 18), "[],".repeat(1 << 22)] {
        let error = error_text(Tokenizer::from_json(&format!("[{many}0]")));
        assert_eq!(error, "tokenizer.json: not supported: it has more than 131072 objects or 2097152 lists");
    }
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let io = |name: &str| match Tokenizer::from_file(at(name)) {
        Err(Error::Tokenizer(TokenizerError::Io { source, .. })) => source,
        other => panic!("{other:?}"),
    };
    assert_eq!(io("none.json").kind(), std::io::ErrorKind::NotFound);
    fs::create_dir(at("folder")).unwrap();
    assert_eq!(io("folder").kind(), std::io::ErrorKind::IsADirectory);
    fs::write(at("latin1.json"), b"{\"\xe9\":1}").unwrap();
    assert_eq!(io("latin1.json").kind(), std::io::ErrorKind::InvalidData);
    fs::write(at("empty.json"), b"").unwrap();
    let text = error_text(Tokenizer::from_file(at("empty.json")));
    assert!(text.ends_with("empty.json: not valid JSON: EOF while parsing a value at line 1 column 0"), "{text}");
    fs::File::create(at("large.json")).unwrap().set_len((64 << 20) + 1).unwrap();
    let text = error_text(Tokenizer::from_file(at("large.json")));
    assert!(text.ends_with("large.json: not supported: it has more than 64 MiB"), "{text}");
}

/// Pre-tokenizers that drop text can encode, but have no offsets.
#[test]
fn dropped_text_has_no_offsets() -> Result<()> {
    let mut file = byte_level();
    file["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "WhitespaceSplit" }, { "type": "ByteLevel", "add_prefix_space": false, "use_regex": false },
    ] });
    let tokenizer = Tokenizer::from_json(&file.to_string())?;
    assert_eq!(tokenizer.decode(&tokenizer.encode("a b  c ")?)?, "abc");
    assert_eq!(tokenizer.encode_with_offsets("abc")?.offsets.last(), Some(&(2..3)));
    let expected = "no byte offsets from byte 1 on: the tokenizer's pre-tokenizer drops some of the text: use `encode` for the ids alone";
    assert_eq!(error_text(tokenizer.encode_with_offsets("a b  c ")), expected);
    assert_eq!(error_text(tokenizer.encode_with_offsets("a ")), expected);
    let tokenizer = Tokenizer::from_file(golden("tokenizer").join("lowercase.json"))?;
    let expected =
        "no byte offsets from byte 13 on: the tokenizer's normalizer changes the text: use `encode` for the ids alone";
    assert_eq!(error_text(tokenizer.encode_with_offsets("<|endoftext|>Ab")), expected);
    Ok(())
}

proptest! {
    #![proptest_config(properties(512))]
    #[test]
    fn no_damaged_file_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut text = byte_level().to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        if cut {
            text.truncate(at);
        }
        if let Ok(tokenizer) = Tokenizer::from_json(&String::from_utf8_lossy(&text)) {
            for text in ["", "The cat's 1 <strip> 🤗\n<|endoftext|>word"] {
                if let Ok(ids) = tokenizer.encode(text) {
                    tokenizer.decode(&ids).unwrap();
                }
            }
        }
    }
}
