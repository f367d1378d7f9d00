//! Normalizers, the space before a text, post-processors and vocabularies without some bytes: the ids and texts of
//! Hugging Face's tokenizers on a thousand texts in many scripts.

use candle_gpt_input::error::TokenizerError;
use candle_gpt_input::tokenizer::Tokenizer;
use candle_gpt_input::{Error, Result};
use serde_json::{Value, json};

use crate::support::{Failures, error_text, fnv1a, golden, golden_json};
use crate::{byte_level, gpt2_file, ids};

/// Reads what `generate_normalizers.py` wrote.
fn expected() -> Value {
    golden_json("normalizers.json")
}

/// Makes the texts that the script made.
fn texts(expected: &Value) -> Vec<String> {
    let mut state = expected["seed"].as_u64().unwrap();
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let pools = expected["pools"].as_array().unwrap();
    let mut text = || {
        let mut text = String::new();
        for _ in 0..1 + below(6) {
            let pool = pools[below(pools.len())].as_array().unwrap();
            for _ in 0..1 + below(8) {
                match &pool[below(pool.len())] {
                    Value::String(piece) => text.push_str(piece),
                    span => {
                        let [first, last] = [0, 1].map(|i| span[i].as_u64().unwrap() as usize);
                        text.push(char::from_u32((first + below(last - first + 1)) as u32).unwrap());
                    }
                }
            }
        }
        text
    };
    (0..expected["n_texts"].as_u64().unwrap()).map(|_| text()).collect()
}

/// GPT-2's alphabet: the character that spells a byte.
fn spelling(byte: u8) -> char {
    let prints = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(byte) {
        byte if prints(byte) => byte,
        byte => 256 + (0..byte).filter(|other| !prints(*other)).count() as u32,
    }
    .try_into()
    .unwrap()
}

/// Takes the tokens with some bytes out of a file.
fn without(file: &mut Value, bytes: &[u8]) {
    let gone: Vec<char> = bytes.iter().map(|byte| spelling(*byte)).collect();
    let holds_gone = |token: &str| token.contains(&gone[..]);
    let model = &mut file["model"];
    model["vocab"].as_object_mut().unwrap().retain(|token, _| !holds_gone(token));
    let halves = |merge: &Value| [0, 1].map(|i| merge[i].as_str().unwrap().to_string()).concat();
    model["merges"].as_array_mut().unwrap().retain(|merge| !holds_gone(&halves(merge)));
}

#[test]
fn ids_of_a_thousand_texts_are_those_of_hugging_face() {
    let expected = expected();
    let texts = texts(&expected);
    assert_eq!(expected["first"], texts[0]);
    let n_per_hash = expected["n_per_hash"].as_u64().unwrap() as usize;
    let mut failures = Failures::default();
    for variant in expected["variants"].as_array().unwrap() {
        let name = variant["name"].as_str().unwrap();
        let mut file = byte_level();
        let mut missing: Vec<u8> = Vec::new();
        for (key, value) in variant["changes"].as_object().unwrap() {
            match key.strip_prefix("model.") {
                Some(key) => file["model"][key] = value.clone(),
                None if key == "without" => missing = serde_json::from_value(value.clone()).unwrap(),
                None => file[key] = value.clone(),
            }
        }
        without(&mut file, &missing);
        let tokenizer = Tokenizer::from_json(&file.to_string()).unwrap();
        let mut hashes = Vec::new();
        for texts in texts.chunks(n_per_hash) {
            let mut bytes = Vec::new();
            for text in texts {
                let place = text.bytes().position(|byte| missing.contains(&byte));
                match (tokenizer.encode(text), place) {
                    (Ok(ids), None) => {
                        bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
                        if variant["decoded"] == true {
                            bytes.extend(tokenizer.decode(&ids).unwrap().into_bytes());
                        }
                    }
                    (Err(Error::Tokenizer(TokenizerError::MissingByte { byte, at })), Some(_)) => {
                        failures.holds(text.as_bytes()[at] == byte, format_args!("{name}: {byte} at {at} of {text:?}"));
                    }
                    (result, place) => failures.holds(false, format_args!("{name}: {text:?}: {result:?}, {place:?}")),
                }
            }
            hashes.push(fnv1a(bytes));
        }
        failures.holds(variant["fnv1a"] == json!(hashes), format_args!("{name}: {:?}", variant["fnv1a"]));
    }
}

/// Whether a word stands alone depends on the whole text, also on the added token before it.
#[test]
fn words_that_stand_alone() -> Result<()> {
    let expected = expected();
    let mut file = byte_level();
    file["added_tokens"] = expected["alone"]["added_tokens"].clone();
    let tokenizer = Tokenizer::from_json(&file.to_string())?;
    for case in expected["alone"]["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text)?, ids(case), "{text:?}");
    }
    Ok(())
}

/// What the normalizers do, on texts whose normal forms the Unicode standard tells (UAX #15).
#[test]
fn normal_forms_by_hand() -> Result<()> {
    let encode = |normalizer: Value, text: &str| {
        let mut file = byte_level();
        file["normalizer"] = normalizer;
        let tokenizer = Tokenizer::from_json(&file.to_string())?;
        tokenizer.decode(&tokenizer.encode(text)?)
    };
    let of = |kind: &str, text: &str| encode(json!({ "type": kind }), text);
    for (text, nfc, nfd, nfkc, nfkd) in [
        ("é", "é", "e\u{301}", "é", "e\u{301}"),
        ("e\u{301}", "é", "e\u{301}", "é", "e\u{301}"),
        ("ﬁ", "ﬁ", "ﬁ", "fi", "fi"),
        ("\u{1100}\u{1161}\u{11a8}", "각", "\u{1100}\u{1161}\u{11a8}", "각", "\u{1100}\u{1161}\u{11a8}"),
        (
            "a\u{315}\u{300}\u{5ae}b",
            "à\u{5ae}\u{315}b",
            "a\u{5ae}\u{300}\u{315}b",
            "à\u{5ae}\u{315}b",
            "a\u{5ae}\u{300}\u{315}b",
        ),
        ("ｶﾞ", "ｶﾞ", "ｶﾞ", "ガ", "カ\u{3099}"),
        ("\u{958}", "\u{915}\u{93c}", "\u{915}\u{93c}", "\u{915}\u{93c}", "\u{915}\u{93c}"),
        // Younger than Unicode 9, so it stays: Unicode 12 gave it a compatibility decomposition.
        ("\u{32ff}", "\u{32ff}", "\u{32ff}", "\u{32ff}", "\u{32ff}"),
    ] {
        let found = [of("NFC", text)?, of("NFD", text)?, of("NFKC", text)?, of("NFKD", text)?];
        assert_eq!(found, [nfc, nfd, nfkc, nfkd], "{text:?}");
    }
    assert_eq!(of("StripAccents", "e\u{301}\u{300}é")?, "eé");
    let strip = json!({ "type": "Strip", "strip_left": true, "strip_right": true });
    let sequence = json!({ "type": "Sequence", "normalizers": [{ "type": "NFD" }, { "type": "StripAccents" }, strip] });
    assert_eq!(encode(sequence, "  Crème Brûlée ")?, "Creme Brulee");
    Ok(())
}

#[test]
fn a_space_before_every_text_between_added_tokens() -> Result<()> {
    let mut file = byte_level();
    file["pre_tokenizer"]["add_prefix_space"] = json!(true);
    let tokenizer = Tokenizer::from_json(&file.to_string())?;
    let plain = Tokenizer::from_json(&byte_level().to_string())?;
    for (text, spaced) in [
        ("", ""),
        ("the", " the"),
        (" the", " the"),
        ("\nthe", " \nthe"),
        ("the<|endoftext|>the<|endoftext|> the", " the<|endoftext|> the<|endoftext|> the"),
    ] {
        assert_eq!(tokenizer.encode(text)?, plain.encode(spaced)?, "{text:?}");
        assert_eq!(tokenizer.decode(&tokenizer.encode(text)?)?, spaced);
    }
    assert_eq!(tokenizer.encode_with_offsets(" the")?, plain.encode_with_offsets(" the")?);
    let text = error_text(tokenizer.encode_with_offsets("<|endoftext|>the"));
    assert!(text.starts_with("no byte offsets from byte 13 on: the tokenizer puts a space before the text"), "{text}");
    Ok(())
}

#[test]
fn a_vocabulary_without_some_bytes_opens_and_names_the_byte_that_a_text_needs() -> Result<()> {
    // As bloomz: GPT-2's vocabulary without the token of the byte 0x0B.
    let vocab: Value = serde_json::from_slice(&gpt2_file("encoder.json")).unwrap();
    let merges = String::from_utf8(gpt2_file("vocab.bpe")).unwrap();
    let merges: Vec<&str> = merges.lines().collect();
    let pre_tokenizer = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true });
    let mut file = json!({ "model": { "vocab": vocab, "merges": merges }, "pre_tokenizer": pre_tokenizer });
    file["model"]["vocab"].as_object_mut().unwrap().remove(&spelling(0x0b).to_string());
    let tokenizer = Tokenizer::from_json(&file.to_string())?;
    assert_eq!((tokenizer.vocab_size(), tokenizer.token_bytes(50257)), (50256, None));
    assert_eq!(tokenizer.encode("Hello world")?, [15496, 995]);
    let missing = |at: usize| {
        format!(
            "the tokenizer has no token for the byte 0x0B at byte {at} of the text: remove it from the text, \
             or use a tokenizer whose vocabulary has all bytes"
        )
    };
    assert_eq!(error_text(tokenizer.encode("a\u{b}b")), missing(1));
    assert_eq!(error_text(tokenizer.encode_with_offsets("é\u{b}")), missing(2));
    let long = "It is a word. ".repeat(12_000); // three pieces
    assert_eq!(tokenizer.encode(&long)?, Tokenizer::gpt2().encode(&long)?);
    assert_eq!(error_text(tokenizer.encode(&format!("{long}\u{b}"))), missing(long.len()));
    let batch = error_text(tokenizer.encode_batch(&["a", "\u{b}"]));
    assert_eq!(batch, format!("cannot encode document 1: {}", missing(0)));
    // What BpeTrainer writes by default.
    let tokenizer = Tokenizer::from_file(golden("tokenizer").join("no_alphabet.json"))?;
    for case in expected()["no_alphabet"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text)?, ids(case), "{text:?}");
        assert_eq!(tokenizer.decode(&ids(case))?, text);
    }
    let text = error_text(tokenizer.encode("the void é"));
    assert!(text.starts_with("the tokenizer has no token for the byte 0xC3 at byte 9 of the text"), "{text}");
    // Without a pattern that is known to cover the text, it is searched for the byte.
    let mut file = byte_level();
    file["pre_tokenizer"]["use_regex"] = json!(false);
    without(&mut file, b"z");
    let text = error_text(Tokenizer::from_json(&file.to_string())?.encode("a word, a zoo"));
    assert!(text.starts_with("the tokenizer has no token for the byte 0x7A at byte 10 of the text"), "{text}");
    Ok(())
}

/// A chain of replacements makes no text that fills the memory.
#[test]
fn a_text_grows_within_bounds() {
    let double = |from: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": "zz" });
    let mut file = byte_level();
    file["normalizer"] = json!({ "type": "Sequence", "normalizers": vec![double("z"); 40] });
    let tokenizer = Tokenizer::from_json(&file.to_string()).unwrap();
    assert_eq!(
        error_text(tokenizer.encode("zoo")),
        "cannot encode the text: the tokenizer library refuses it: its normalizers make more than 16 times as many \
         bytes of it"
    );
    // No real text grows more than by NFKC of U+FDFA.
    file["normalizer"] = json!({ "type": "NFKC" });
    let tokenizer = Tokenizer::from_json(&file.to_string()).unwrap();
    let text = "\u{fdfa}".repeat(100_000);
    assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap().len(), 11 * text.len());
}
