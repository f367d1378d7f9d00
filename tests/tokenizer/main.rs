//! The tokenizer: the ids and offsets of Hugging Face and tiktoken, laws, policies, streams, errors.

// Long because each promise of the tokenizer is a short test.

mod files;
mod gguf;
mod hostile;
mod normalizers;
mod sha256;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use candle_gpt_input::error::TokenizerError;
use candle_gpt_input::tokenizer::{END_OF_TEXT, END_OF_TEXT_ID, SpecialTokens, Tokenizer};
use candle_gpt_input::{Error, Result};
use proptest::prelude::*;
use serde_json::Value;
use support::{error_text, fnv1a, golden, golden_json, properties};

const GPT2_FILES: [(&str, &str); 2] = [
    ("encoder.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    ("vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
];

fn gpt2() -> &'static Tokenizer {
    Tokenizer::gpt2()
}

/// Reads GPT-2's tokenizer from files, as the tokenizer library does.
fn gpt2_files() -> &'static Tokenizer {
    static FILES: LazyLock<Tokenizer> = LazyLock::new(|| {
        Tokenizer::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/gpt2-tokenizer")).unwrap()
    });
    &FILES
}

fn gpt2_file(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/gpt2-tokenizer").join(name)).unwrap()
}

/// Reads the cases that `generate_tokenizer.py` wrote.
fn expected() -> Value {
    golden_json("tokenizer.json")
}

/// Reads a `tokenizer.json` with added tokens.
fn byte_level() -> Value {
    golden_json("tokenizer/byte_level.json")
}

fn ids(case: &Value) -> Vec<u32> {
    serde_json::from_value(case["ids"].clone()).unwrap()
}

/// Flattens the offsets, widened to whole characters, as the golden file has them.
fn widened(text: &str, offsets: &[Range<usize>]) -> Vec<usize> {
    let floor = |at: usize| (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap();
    let ceil = |at: usize| (at..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap();
    offsets.iter().flat_map(|range| [floor(range.start), ceil(range.end)]).collect()
}

/// Checks that the offsets are consecutive, cover the text, and match each token's bytes.
fn assert_covers(tokenizer: &Tokenizer, text: &str) {
    let encoding = tokenizer.encode_with_offsets(text).unwrap();
    assert_eq!(encoding.ids, tokenizer.encode(text).unwrap());
    assert_eq!(encoding.ids.len(), encoding.offsets.len());
    let mut at = 0;
    for (id, range) in encoding.ids.iter().zip(encoding.offsets) {
        assert_eq!(range.start, at, "{text:?}");
        assert_eq!(tokenizer.token_bytes(*id).unwrap(), &text.as_bytes()[range.clone()], "{text:?}");
        at = range.end;
    }
    assert_eq!(at, text.len(), "{text:?}");
}

/// Joins the steps of a stream over all ids, and its end.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.decode_stream();
    let mut text = String::new();
    for id in ids {
        let step = stream.step(*id).unwrap();
        assert_ne!(step.as_deref(), Some(""));
        text.extend(step);
    }
    text.extend(stream.flush());
    text
}

#[test]
fn the_vocabulary_is_the_published_one() {
    for (name, digest) in GPT2_FILES {
        assert_eq!(sha256::hex(&gpt2_file(name)), digest, "{name}");
    }
    let published: serde_json::Map<String, Value> = serde_json::from_slice(&gpt2_file("encoder.json")).unwrap();
    assert_eq!(published.len(), gpt2().vocab_size());
    // As in `bytes_to_unicode` of openai/gpt-2, the 68 bytes that do not print are U+0100 and up.
    let prints = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let hidden: Vec<u32> = (0..256).filter(|byte| !prints(byte)).collect();
    let byte = |c: char| if prints(&(c as u32)) { c as u8 } else { hidden[c as usize - 256] as u8 };
    for (token, id) in &published {
        let bytes: Vec<u8> = token.chars().map(byte).collect();
        assert_eq!(gpt2().token_bytes(id.as_u64().unwrap() as u32), Some(&bytes[..]), "{token}");
    }
    assert_eq!(gpt2().token_bytes(50257), None);
    assert_eq!(gpt2().special_token_id(END_OF_TEXT), Some(END_OF_TEXT_ID));
    assert_eq!(gpt2().special_token_id("the"), None);
}

#[test]
fn ids_and_offsets_are_those_of_hugging_face_and_tiktoken() {
    let expected = expected();
    let cases = expected["gpt2"].as_array().unwrap();
    assert!(cases.len() > 350);
    let texts: Vec<&str> = cases.iter().map(|case| case["text"].as_str().unwrap()).collect();
    for ((case, text), batched) in cases.iter().zip(&texts).zip(gpt2().encode_batch(&texts).unwrap()) {
        let encoding = gpt2().encode_with_offsets(text).unwrap();
        assert_eq!(encoding.ids, ids(case), "{text:?}");
        assert_eq!(Value::from(widened(text, &encoding.offsets)), case["offsets"], "{text:?}");
        assert_eq!(batched, encoding.ids);
        assert_eq!(gpt2().decode(&encoding.ids).unwrap(), *text);
        assert_eq!(streamed(gpt2(), &encoding.ids), *text);
        assert_covers(gpt2(), text);
    }
    let as_text = gpt2().with_special_tokens(SpecialTokens::AsText);
    for case in expected["gpt2_as_text"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(as_text.encode(text).unwrap(), ids(case), "{text:?}");
        assert_covers(&as_text, text);
    }
}

/// Puts every scalar value between letters, numbers, symbols and spaces, where the ids depend on its class. Those that
/// Unicode 17 made letters and numbers differ.
#[test]
fn every_character_is_of_the_class_that_python_gives_it() {
    let expected = &expected()["every_character"];
    let newer: Vec<(u32, u32)> = serde_json::from_value(expected["unicode_17"].clone()).unwrap();
    let is_newer = |c: char| newer.iter().any(|&(first, last)| (first..=last).contains(&u32::from(c)));
    let (added, characters): (Vec<char>, Vec<char>) = ('\0'..=char::MAX).partition(|c| is_newer(*c));
    assert_eq!(added.len(), 4657);
    for c in added {
        // 338 is "'s".
        assert_eq!(gpt2().encode(&format!("{c}'s")).unwrap().last(), Some(&338), "{c:?} is not a letter");
    }
    let mut n_ids = 0;
    let hash = fnv1a(characters.chunks(4096).flat_map(|chunk| {
        let text: String = chunk.iter().map(|c| format!("{c}'s a{c}a 1{c}1 !{c}! {c} {c}x\n{c}")).collect();
        let ids = gpt2().encode(&text).unwrap();
        n_ids += ids.len();
        ids.into_iter().flat_map(u32::to_le_bytes)
    }));
    assert_eq!(expected["n_characters"], characters.len());
    assert_eq!(expected["n_ids"], n_ids);
    assert_eq!(expected["fnv1a"], hash);
}

#[test]
fn trained_tokenizers_are_followed() {
    for trained in expected()["trained"].as_array().unwrap() {
        let file = trained["file"].as_str().unwrap();
        let tokenizer = Tokenizer::from_file(golden("tokenizer").join(file)).unwrap();
        let lower = file == "lowercase.json";
        for case in trained["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), ids(case), "{file}: {text:?}");
            let changed = lower && text.to_lowercase() != text;
            match tokenizer.encode_with_offsets(text) {
                Ok(encoding) => {
                    assert!(!changed, "{file}: {text:?}");
                    assert_eq!(encoding.ids, ids(case));
                    assert_eq!(Value::from(widened(text, &encoding.offsets)), case["offsets"], "{file}: {text:?}");
                }
                Err(Error::Tokenizer(TokenizerError::NoOffsets { .. })) => assert!(changed, "{file}: {text:?}"),
                Err(error) => panic!("{file}: {text:?}: {error}"),
            }
        }
    }
}

#[test]
fn the_template_and_the_policy_of_a_file() -> Result<()> {
    let tokenizer = Tokenizer::from_file(golden("tokenizer").join("llama3_style.json"))?;
    let (begin, end) = (tokenizer.special_token_id("<|begin|>"), tokenizer.special_token_id(END_OF_TEXT));
    let (begin, end) = (begin.unwrap(), end.unwrap());
    let encoding = tokenizer.encode_with_offsets("ab")?;
    assert_eq!((encoding.ids[0], *encoding.ids.last().unwrap()), (begin, end));
    assert_eq!((&encoding.offsets[0], encoding.offsets.last().unwrap()), (&(0..0), &(2..2)));
    assert_eq!(tokenizer.encode("")?, [begin, end]);
    assert_eq!(tokenizer.encode("<|begin|>")?, [begin, begin, end]);
    let refusing = tokenizer.with_special_tokens(SpecialTokens::Refuse);
    let text = error_text(refusing.encode("é <|begin|>"));
    assert!(text.starts_with("the text holds the special token `<|begin|>` at byte 3: choose"), "{text}");
    assert_eq!(refusing.encode("")?, [begin, end]);
    // A token found after normalization, or one that absorbs spaces, is refused at its own place.
    let mut file = byte_level();
    file["added_tokens"][0]["normalized"] = true.into();
    file["added_tokens"][2]["special"] = true.into();
    let refusing = Tokenizer::from_json(&file.to_string())?.with_special_tokens(SpecialTokens::Refuse);
    let text = error_text(refusing.encode("é word <|endoftext|>"));
    assert!(text.starts_with("the text holds the special token `<|endoftext|>` at byte 8: choose"), "{text}");
    let text = error_text(refusing.encode("é  <strip>"));
    assert!(text.starts_with("the text holds the special token `<strip>` at byte 4: choose"), "{text}");
    // An added token that is not special belongs to the vocabulary under every policy.
    let tokenizer = Tokenizer::from_file(golden("tokenizer").join("byte_level.json"))?;
    assert_eq!(tokenizer.special_token_id("<strip>"), None);
    for policy in [SpecialTokens::Recognize, SpecialTokens::AsText, SpecialTokens::Refuse] {
        assert_eq!(tokenizer.with_special_tokens(policy).encode("a <strip> b")?, tokenizer.encode("a  <strip>b")?);
        assert_eq!(policy.to_string().parse::<SpecialTokens>()?, policy);
    }
    let text = error_text("all".parse::<SpecialTokens>());
    assert!(text.ends_with("`special_tokens` is all, expected recognize, as-text or refuse"), "{text}");
    Ok(())
}

#[test]
fn the_numbers_of_the_chapter() -> Result<()> {
    let cases: [(&str, &[u32]); 19] = [
        ("", &[]),
        ("\n", &[198]),
        ("\n\n\n  x", &[628, 198, 220, 2124]),
        ("  ", &[220, 220]),
        ("don't Don'T", &[9099, 470, 2094, 6, 51]),
        ("naïve café", &[2616, 38776, 40304]),
        ("日本語", &[33768, 98, 17312, 105, 45739, 252]),
        ("🤗 hi", &[8582, 97, 245, 23105]),
        ("a\u{a0}b", &[64, 1849, 65]),
        ("\t\tx", &[197, 197, 87]),
        ("1234567", &[10163, 2231, 3134]),
        (END_OF_TEXT, &[50256]),
        ("Hello, I am", &[15496, 11, 314, 716]),
        ("Every effort moves you", &[6109, 3626, 6100, 345]),
        ("Akwirw ier", &[33901, 86, 343, 86, 220, 959]),
        ("Hello, world. Is this-- a test?", &[15496, 11, 995, 13, 1148, 428, 438, 257, 1332, 30]),
        ("I HAD always thought", &[40, 367, 2885, 1464, 1807]),
        (
            "Hello, do you like tea? <|endoftext|> In the sunlit terracesof someunknownPlace.",
            &[
                15496, 11, 466, 345, 588, 8887, 30, 220, 50256, 554, 262, 4252, 18250, 8812, 2114, 1659, 617, 34680,
                27271, 13,
            ],
        ),
        (
            "Hello, MyNewToken_1 is a new token. <|endoftext|>",
            &[15496, 11, 2011, 3791, 30642, 62, 16, 318, 257, 649, 11241, 13, 220, 50256],
        ),
    ];
    for (text, ids) in cases {
        assert_eq!(gpt2().encode(text)?, ids, "{text:?}");
        assert_eq!(gpt2().decode(ids)?, text);
    }
    let ordinary = gpt2().with_special_tokens(SpecialTokens::AsText).encode(END_OF_TEXT)?;
    assert_eq!(ordinary, [27, 91, 437, 1659, 5239, 91, 29]);
    Ok(())
}

#[test]
fn special_tokens_are_recognized_or_text_or_refused() {
    let text = "é<|endoftext|>x<|endoftext|>";
    assert_eq!(gpt2().encode(text).unwrap(), [2634, 50256, 87, 50256]);
    let as_text = gpt2().with_special_tokens(SpecialTokens::AsText);
    assert!(!as_text.encode(text).unwrap().contains(&50256));
    assert_eq!(as_text.decode(&as_text.encode(text).unwrap()).unwrap(), text);
    let refusing = gpt2().with_special_tokens(SpecialTokens::Refuse);
    let expected = "the text holds the special token `<|endoftext|>` at byte 2: choose SpecialTokens::Recognize for its id, or SpecialTokens::AsText for the ids of its characters";
    assert_eq!(error_text(refusing.encode(text)), expected);
    assert_eq!(error_text(refusing.encode_with_offsets(text)), expected);
    assert_eq!(error_text(refusing.encode_batch(&["a", text, text])), format!("cannot encode document 1: {expected}"));
    for harmless in ["<|endoftext|", "|endoftext|>", "<|endoftext |>", "<|ENDOFTEXT|>", "<<||>>"] {
        assert_eq!(refusing.encode(harmless).unwrap(), gpt2().encode(harmless).unwrap());
    }
}

#[test]
fn an_unknown_id_is_an_error_with_its_place() {
    let expected = "token id 50257 at [2] is not in the tokenizer's vocabulary of 50257";
    assert_eq!(error_text(gpt2().decode(&[64, 65, 50257, 66])), expected);
    let mut stream = gpt2().decode_stream();
    assert_eq!(stream.step(8582).unwrap(), None); // two bytes of four
    assert_eq!(stream.step(97).unwrap(), None);
    assert_eq!(error_text(stream.step(50257)), expected);
    assert_eq!(stream.step(245).unwrap().as_deref(), Some("🤗")); // the error changed nothing
    assert_eq!(
        error_text(stream.step(u32::MAX)),
        "token id 4294967295 at [4] is not in the tokenizer's vocabulary of 50257"
    );
    assert_eq!(stream.flush(), None);
    assert!(error_text(stream.step(50257)).starts_with("token id 50257 at [0]"));
}

#[test]
fn a_stream_keeps_back_half_a_character_and_no_more() {
    // Ids 0 to 255 are the bytes: first those that print, then 0 to 32, 127 to 160 and 173.
    let id = |byte: u8| (0..256).find(|id| gpt2().token_bytes(*id) == Some(&[byte])).unwrap();
    let steps = |bytes: &[u8]| {
        let mut stream = gpt2().decode_stream();
        let mut out: Vec<Option<String>> = bytes.iter().map(|byte| stream.step(id(*byte)).unwrap()).collect();
        out.push(stream.flush());
        out.into_iter().map(|step| step.unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(steps("é!".as_bytes()), ["", "é", "!", ""]);
    assert_eq!(steps(b"\xf0\x9f\xa4"), ["", "", "", "\u{fffd}"]); // cut short: one replacement
    assert_eq!(steps(b"\xf0\x9fa"), ["", "", "\u{fffd}a", ""]);
    assert_eq!(steps(b"\x80a"), ["\u{fffd}", "a", ""]); // nothing can complete it
    assert_eq!(steps(b"\xe0\x80\xff"), ["", "\u{fffd}\u{fffd}", "\u{fffd}", ""]); // overlong
    assert_eq!(steps(b"\xed\xa0\x80"), ["", "\u{fffd}\u{fffd}", "\u{fffd}", ""]); // a surrogate
}

/// Long texts are encoded piece by piece; the cuts must not change the ids.
#[test]
fn long_texts_have_the_ids_of_their_words() -> Result<()> {
    let paragraph = "It's a  word, \n\n another1 2;\n<b>\tthe\u{3000} 的 é\u{300} x'll . \r\n \u{a0} end.\n\n\n";
    let text = paragraph.repeat(6000);
    assert!(text.len() > 5 << 16);
    // The paragraph begins with a letter and ends with line feeds, so its ids repeat.
    assert_eq!(gpt2().encode(&text)?, gpt2().encode(paragraph)?.repeat(6000));
    let llama3 = Tokenizer::from_file(golden("tokenizer").join("llama3_style.json"))?;
    let llama3_ids = |text: &str| llama3.encode(text).map(|ids| ids[1..ids.len() - 1].to_vec());
    for shift in 0..paragraph.len() {
        // Each place of the paragraph in turn is where a piece reaches its full length.
        let first = ["x".repeat(shift).as_str(), paragraph].concat();
        let n_more = (1 << 16) / paragraph.len() + 1;
        let text = [first.as_str(), &paragraph.repeat(n_more)].concat();
        let expected = [gpt2().encode(&first)?, gpt2().encode(paragraph)?.repeat(n_more)].concat();
        assert_eq!(gpt2().encode(&text)?, expected, "{shift}");
        let expected = [llama3_ids(&first)?, llama3_ids(paragraph)?.repeat(n_more)].concat();
        assert_eq!(llama3_ids(&text)?, expected, "{shift}");
    }
    assert_covers(gpt2(), &text);
    let documents: Vec<String> = (0..50).map(|i| paragraph.repeat(i * 7)).collect();
    let one_by_one: Vec<Vec<u32>> = documents.iter().map(|text| gpt2().encode(text)).collect::<Result<_>>()?;
    assert_eq!(gpt2().encode_batch(&documents)?, one_by_one);
    assert_eq!(gpt2().encode_batch::<&str>(&[])?, Vec::<Vec<u32>>::new());
    Ok(())
}

/// Reads a tokenizer of Llama 3's pattern, with added tokens and NFC, that puts nothing around a text.
fn of_pattern() -> &'static Tokenizer {
    static PATTERN: LazyLock<Tokenizer> = LazyLock::new(|| {
        let mut file = golden_json("tokenizer/llama3_style.json");
        file["post_processor"] = Value::Null;
        file["normalizer"] = serde_json::json!({ "type": "NFC" });
        let mut added = byte_level()["added_tokens"].as_array().unwrap().clone();
        added.retain(|token| token["rstrip"] == false);
        file["added_tokens"] = added.into();
        Tokenizer::from_json(&file.to_string()).unwrap()
    });
    &PATTERN
}

/// A text is cut only where the ids of both parts are known to be those of the whole.
#[test]
fn texts_are_cut_before_spaces_or_not_at_all() -> Result<()> {
    let text = "是。\nHello world";
    assert_eq!([gpt2().cut(text, 0), gpt2().cut(text, 7), gpt2().cut(text, 13)], [Some(6), Some(12), None]);
    assert_eq!(gpt2_files().cut(text, 0), Some(6));
    assert_eq!(of_pattern().cut(text, 0), Some(12)); // its pattern has line feeds in words
    for name in ["byte_level", "llama3_style", "lowercase"] {
        let tokenizer = Tokenizer::from_file(golden("tokenizer").join(format!("{name}.json")))?;
        assert_eq!(tokenizer.cut(text, 0), None, "{name}: rstrip, tokens around a text, another normalizer");
    }
    let mut file = golden_json("tokenizer/no_alphabet.json");
    assert_eq!(Tokenizer::from_json(&file.to_string())?.cut(text, 0), Some(6));
    let mut added = file["added_tokens"][0].clone();
    (added["id"], added["content"]) = (76.into(), "a b".into());
    file["added_tokens"].as_array_mut().unwrap().push(added);
    assert_eq!(Tokenizer::from_json(&file.to_string())?.cut(text, 0), None, "an added token with a space");
    Ok(())
}

/// A quadratic step would take hours for these texts of a megabyte, in one word where possible.
#[test]
fn a_megabyte_of_anything_takes_linear_time() {
    let repeated = [
        "a",
        "^",
        " ",
        "\n",
        "7",
        "\0",
        "\u{fffd}",
        "🤗",
        "的",
        "'s",
        "<",
        "<|",
        "<|endoftext|",
        "<|endoftext|>",
        "ab1 ",
    ];
    for unit in repeated {
        let text = unit.repeat((1 << 20) / unit.len());
        let start = Instant::now();
        assert_covers(gpt2(), &text);
        assert_eq!(gpt2().decode(&gpt2().encode(&text).unwrap()).unwrap(), text);
        assert!(start.elapsed() < Duration::from_secs(20), "{unit:?} took {:?}", start.elapsed());
    }
    let everything: String = ('\0'..=char::MAX).collect();
    assert_covers(gpt2(), &everything);
}

#[test]
fn clones_share_and_threads_may_use_them() {
    fn shared<T: Send + Sync + Clone + std::fmt::Debug>(_: &T) {}
    shared(gpt2());
    shared(&gpt2().decode_stream());
    let text = format!("{:?}", gpt2().with_special_tokens(SpecialTokens::Refuse));
    assert_eq!(text, "Tokenizer { vocab_size: 50257, special_tokens: Refuse, .. }");
}

/// Makes texts of several kinds, in which everything that the pattern and the policy look for is likely.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "\\PC{0,12}",
        ".{0,6}",
        "[ \\n\\t\u{a0}\u{3000}]{1,4}",
        "[a-z]{1,9} ?",
        "'(s|t|re|ve|m|ll|d|S)",
        Just(END_OF_TEXT.to_string()),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

/// Makes words of up to 2000 bytes, in which many merges apply.
fn words() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[a-e]{1,60}",
        "[0-9]{1,60}",
        "[ \n]{1,60}",
        "[-=*#/<>]{1,60}",
        "[一-三あ-お]{1,30}",
        ("[a-zé的🤗 \n=7]", 1..400usize).prop_map(|(unit, n)| unit.repeat(n)),
        prop::collection::vec(0..50256u32, 1..12).prop_map(|ids| gpt2().decode(&ids).unwrap()),
    ];
    prop::collection::vec(word, 0..5).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(properties(256))]

    #[test]
    fn decoding_gives_the_text_back(text in texts()) {
        for policy in [SpecialTokens::Recognize, SpecialTokens::AsText] {
            let tokenizer = gpt2().with_special_tokens(policy);
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(&tokenizer.decode(&ids).unwrap(), &text);
            prop_assert_eq!(streamed(&tokenizer, &ids), text.clone());
            assert_covers(&tokenizer, &text);
        }
    }

    /// The tokenizer library encodes by the same merges when they stand in a file.
    #[test]
    fn the_built_in_tokenizer_is_that_of_its_files(text in texts(), long in words()) {
        for policy in [SpecialTokens::Recognize, SpecialTokens::AsText, SpecialTokens::Refuse] {
            let (built_in, of_files) = (gpt2().with_special_tokens(policy), gpt2_files().with_special_tokens(policy));
            for text in [&text, &long, &[long.as_str(), &text].concat()] {
                match (built_in.encode_with_offsets(text), of_files.encode_with_offsets(text)) {
                    (Ok(own), Ok(library)) => {
                        prop_assert_eq!(&own, &library);
                        prop_assert_eq!(built_in.encode(text).unwrap(), library.ids); // now from the cache
                    }
                    (own, library) => prop_assert_eq!(error_text(own), error_text(library)),
                }
            }
        }
    }

    #[test]
    fn the_parts_of_a_cut_text_have_its_ids(text in texts(), long in words(), from in 0..200usize) {
        let text = [long.as_str(), &text, " 。 de\u{301}s\n", &text].concat();
        for tokenizer in [gpt2(), gpt2_files(), of_pattern()] {
            for policy in [SpecialTokens::Recognize, SpecialTokens::AsText] {
                let tokenizer = tokenizer.with_special_tokens(policy);
                let Some(cut) = tokenizer.cut(&text, from) else { continue };
                let (left, right) = text.split_at(cut);
                let parts = [tokenizer.encode(left).unwrap(), tokenizer.encode(right).unwrap()].concat();
                prop_assert!(cut >= from && parts == tokenizer.encode(&text).unwrap(), "{:?} | {:?}", left, right);
            }
        }
    }

    #[test]
    fn refusing_finds_what_recognizing_finds(text in texts()) {
        match gpt2().with_special_tokens(SpecialTokens::Refuse).encode(&text) {
            Ok(ids) => prop_assert!(!text.contains(END_OF_TEXT) && !ids.contains(&END_OF_TEXT_ID)),
            Err(Error::Tokenizer(TokenizerError::SpecialToken { token, at })) => {
                prop_assert_eq!(Some(at), text.find(END_OF_TEXT));
                prop_assert_eq!(token, END_OF_TEXT);
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    #[test]
    fn any_ids_decode_alike_at_once_and_streamed(ids in prop::collection::vec(prop_oneof![0..256u32, 0..50257u32], 0..40)) {
        prop_assert_eq!(streamed(gpt2(), &ids), gpt2().decode(&ids).unwrap());
    }

    #[test]
    fn a_batch_is_its_texts(texts in prop::collection::vec(texts(), 0..6)) {
        let one_by_one: Vec<Vec<u32>> = texts.iter().map(|text| gpt2().encode(text).unwrap()).collect();
        prop_assert_eq!(gpt2().encode_batch(&texts).unwrap(), one_by_one);
    }
}
