//! Damaged tokenizers: a `tokenizer.json`, and the settings beside tokens and merges.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use candle_gpt_input::tokenizer::{SpecialTokens, Tokenizer};
use serde_json::{Value, json};

use crate::limits::measured;
use crate::mutate::Field;
use crate::support::{golden, golden_json};
use crate::{fuzz_with, one_line};

/// Two texts in which every kind of character and added token is.
fn texts() -> [String; 2] {
    let all = "The cat's 1 <strip> word \u{1100}\u{1161}e\u{301}\u{fdfa}ﬁ 🤗\r\n<|endoftext|><|begin|>[PAD]normal\u{b}";
    [all.to_string(), all.repeat(100)]
}

/// Reads a tokenizer and uses it, within bounds; says whether it was read, or what is wrong.
fn try_one(n_there: usize, read: impl Fn() -> candle_gpt_input::Result<Option<Tokenizer>>) -> Result<bool, String> {
    let (tokenizer, spent) = measured(|| catch_unwind(AssertUnwindSafe(|| read().map_err(one_line))));
    spent.check(n_there as u64, 0)?;
    let Ok(tokenizer) = tokenizer.map_err(|_| "reading it panicked".to_string())? else { return Ok(false) };
    let tokenizer = tokenizer.ok_or("nothing was found")?;
    let texts = texts();
    for policy in [SpecialTokens::Recognize, SpecialTokens::AsText, SpecialTokens::Refuse] {
        let tokenizer = tokenizer.with_special_tokens(policy);
        for text in &texts {
            let (used, spent) = measured(|| catch_unwind(AssertUnwindSafe(|| use_it(&tokenizer, text))));
            // Normalizers, and tokens around a text, may make much of a text, but no more than a share of the file.
            spent.check((n_there + 64 * text.len()) as u64, 0)?;
            used.map_err(|_| format!("using it with {policy} panicked"))?;
        }
    }
    Ok(true)
}

fn use_it(tokenizer: &Tokenizer, text: &str) {
    let Ok(ids) = tokenizer.encode(text).map_err(one_line) else { return };
    tokenizer.decode(&ids).unwrap();
    let _ = tokenizer.encode_with_offsets(text).map_err(one_line);
    let _ = tokenizer.unused_rows(400).map_err(one_line);
}

#[test]
fn fuzz_tokenizer() {
    let names = ["byte_level", "llama3_style", "lowercase", "no_alphabet"];
    let mut seeds: Vec<Vec<u8>> =
        names.iter().map(|name| fs::read(golden("tokenizer").join(format!("{name}.json"))).unwrap()).collect();
    // Small ones, in which damage hits what is not a token: all that the other tests use of a file.
    for variant in golden_json("normalizers.json")["variants"].as_array().unwrap() {
        let mut file = golden_json("tokenizer/no_alphabet.json");
        for (key, value) in variant["changes"].as_object().unwrap() {
            if file.get(key).is_some() && key != "added_tokens" {
                file[key] = value.clone();
            }
        }
        if file["post_processor"]["type"] == "RobertaProcessing" {
            file["post_processor"]["cls"] = json!(["a", 1]);
        }
        seeds.push(file.to_string().into_bytes());
    }
    fuzz_with("tokenizer", &seeds, &[Field::Json], |bytes, _| {
        let text = String::from_utf8_lossy(bytes);
        try_one(text.len(), || Tokenizer::from_json(&text).map(Some))
    });
}

#[test]
fn fuzz_tokenizer_settings() {
    let model = golden_json("tokenizer/byte_level.json")["model"].take();
    let half = |merge: &Value, i: usize| merge[i].as_str().unwrap().to_string();
    let merges = model["merges"].as_array().unwrap().iter().map(|merge| half(merge, 0) + " " + &half(merge, 1) + "\n");
    let (vocab, merges) = (model["vocab"].to_string(), merges.collect::<String>());
    let mut seeds = vec![merges.clone().into_bytes()];
    for folder in golden_json("tokenizer_folders.json")["folders"].as_array().unwrap() {
        seeds.extend(folder["others"].as_object().unwrap().values().map(|file| file.to_string().into_bytes()));
    }
    let names = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json", "merges.txt"];
    fuzz_with("tokenizer_settings", &seeds, &[Field::Json], |bytes, generator| {
        let damaged = names[generator.randint(0, names.len() as i64, 1).unwrap()[0] as usize];
        let text = String::from_utf8_lossy(bytes);
        try_one(vocab.len() + merges.len() + text.len(), || {
            Tokenizer::from_files("", |name| {
                Ok(match name {
                    name if name == damaged => Some(text.to_string()),
                    "vocab.json" => Some(vocab.clone()),
                    "merges.txt" => Some(merges.clone()),
                    _ => None,
                })
            })
        })
    });
}
