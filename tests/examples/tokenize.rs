//! `tokenize`: texts and JSON lines, packed or not, to each format; runs that are killed; what is wrong with a text.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use candle_gpt_input::data::corpus::{Corpus, CorpusFormat, CorpusOptions};
use candle_gpt_input::rng::Generator;
use candle_gpt_input::tokenizer::{END_OF_TEXT_ID, SpecialTokens, Tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{copy_files, golden, golden_json};
use crate::{example, failure, stdout};

fn tokenize(folder: &Path, arguments: &str) -> Command {
    let mut command = example("tokenize");
    command.current_dir(folder).args(arguments.split_whitespace());
    command
}

/// Writes texts to a file each, and returns their names.
fn write_texts(folder: &Path, texts: &[String]) -> String {
    let name = |n: usize| format!("{n:02}.txt");
    texts.iter().enumerate().for_each(|(n, text)| fs::write(folder.join(name(n)), text).unwrap());
    (0..texts.len()).map(name).collect::<Vec<_>>().join(" ")
}

/// Writes texts as JSON lines with a blank one between them.
fn write_lines(path: &Path, texts: &[String]) {
    let line = |text: &String| format!("{}\n\n", json!({ "id": 7, "text": text }));
    fs::write(path, texts.iter().map(line).collect::<String>()).unwrap();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// Checks the documents of a corpus: the ids of the texts, and the end of text by the rule of the format.
fn assert_holds(folder: &Path, format: CorpusFormat, tokenizer: &Tokenizer, end: u32, texts: &[String]) {
    let tokenizer = tokenizer.with_special_tokens(SpecialTokens::AsText);
    let options = CorpusOptions::default().with_verify(true).with_end_of_text(end);
    let corpus = Corpus::open(&[folder], &options).unwrap();
    let marked = |text: &String| {
        let ids = tokenizer.encode(text).unwrap();
        if format == CorpusFormat::Llmc { [&[end][..], &ids].concat() } else { [&ids[..], &[end]].concat() }
    };
    let is_held = |text: &&String| format != CorpusFormat::Megatron || !text.is_empty();
    let expected: Vec<Vec<u32>> = texts.iter().filter(is_held).map(marked).collect();
    let found: Vec<Vec<u32>> = corpus.tokens().documents().map(|ids| ids.to_vec()).collect();
    assert!(found == expected, "{format}: {} documents, not {}", found.len(), expected.len());
    let about = corpus.about().unwrap();
    assert_eq!((corpus.format(), about.n_documents, about.end_of_text), (format, expected.len() as u64, Some(end)));
}

#[test]
fn texts_and_json_lines_become_corpora() {
    let folder = TempDir::new().unwrap();
    // The last is read in pieces, of which one ends inside a character, and one has no place to cut it.
    let long = "é\u{301} Über dem 的世界 <|endoftext|>, it's 1234.\n\n".repeat(20_000) + &"的".repeat(200_000);
    let texts = ["Hello tea", "", "a <|endoftext|> b", "🤗\n", &long].map(str::to_string);
    assert!(long.len() > 3 << 19);
    let names = write_texts(folder.path(), &texts);
    write_lines(&folder.path().join("texts.jsonl"), &texts);
    for format in [CorpusFormat::Llmc, CorpusFormat::Megatron, CorpusFormat::NanoGpt] {
        let shards = if format == CorpusFormat::NanoGpt { "" } else { "--shard-tokens 100000" };
        for (out, files) in [("of_texts", names.as_str()), ("of_lines", "texts.jsonl")] {
            stdout(&mut tokenize(folder.path(), &format!("{files} --out {out} --format {format} {shards}")));
            assert_holds(&folder.path().join(out), format, Tokenizer::gpt2(), END_OF_TEXT_ID, &texts);
        }
        for entry in fs::read_dir(folder.path().join("of_texts")).unwrap().map(Result::unwrap) {
            let name = entry.file_name();
            let other = fs::read(folder.path().join("of_lines").join(&name)).unwrap();
            let differs = fs::read(entry.path()).unwrap() != other;
            assert_eq!(differs, name == "corpus.json", "{name:?}"); // which names the origin
        }
        for out in ["of_texts", "of_lines"] {
            let repeated = format!("texts.jsonl --out {out} --format {format} {shards}");
            match out {
                "of_lines" => assert!(stdout(&mut tokenize(folder.path(), &repeated)).contains("is complete")),
                _ => assert!(failure(&mut tokenize(folder.path(), &repeated), 1).contains("of a corpus with texts")),
            }
            fs::remove_dir_all(folder.path().join(out)).unwrap();
        }
    }
}

/// A tokenizer of a file: one that can cut a text, and one that puts tokens around it.
#[test]
fn tokenizers_of_files_give_their_ids() {
    let folder = TempDir::new().unwrap();
    let texts = ["of the world ".repeat(100_000), "word".to_string()];
    let names = write_texts(folder.path(), &texts);
    for (name, cuts) in [("byte_level", true), ("llama3_style", false)] {
        let mut file = golden_json(&format!("tokenizer/{name}.json"));
        file["added_tokens"].as_array_mut().unwrap().retain(|token| token["rstrip"] == false);
        if let Some(template) = file["post_processor"].get_mut("single").and_then(Value::as_array_mut) {
            template.pop(); // the end of text, by which documents are found below
        }
        let path = folder.path().join("tokenizer.json");
        fs::write(&path, file.to_string()).unwrap();
        let tokenizer = Tokenizer::from_file(&path).unwrap();
        assert_eq!(tokenizer.cut(&texts[0], 1 << 20).is_some(), cuts, "{name}");
        let end = tokenizer.special_token_id("<|endoftext|>").unwrap();
        stdout(tokenize(folder.path(), &format!("{names} --out {name} --tokenizer")).arg(&path));
        assert_holds(&folder.path().join(name), CorpusFormat::Llmc, &tokenizer, end, &texts);
        // It goes with the corpus.
        let beside = folder.path().join(name).join("tokenizer.json");
        assert_eq!(fs::read(beside).unwrap(), file.to_string().as_bytes());
    }
}

/// Files packed by Python's gzip and zstandard: `generate_corpora.py`.
#[test]
fn packed_json_lines_are_read() {
    let folder = TempDir::new().unwrap();
    let texts: Vec<String> = serde_json::from_value(golden_json("corpora/expected.json")["packed"].clone()).unwrap();
    fs::write(folder.path().join("c.txt.gz"), gzip(texts[2].as_bytes())).unwrap();
    for name in ["packed.jsonl.gz", "packed.jsonl.zst"] {
        let whole = fs::read(golden("corpora").join(name)).unwrap();
        // As pzstd and tapes have them: frames that are skipped, and zeros at the end.
        let skipped = |magic: u8| [&[magic, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any"].concat();
        let padded = match name.ends_with(".zst") {
            true => [skipped(0x50), whole.clone(), skipped(0x5f)].concat(),
            false => [whole.clone(), vec![0; 70_000]].concat(),
        };
        fs::write(folder.path().join(name), padded).unwrap();
        stdout(&mut tokenize(folder.path(), &format!("{name} c.txt.gz --key content --out {name}.d")));
        let all: Vec<String> = texts.iter().chain([&texts[2]]).cloned().collect();
        assert_holds(
            &folder.path().join(format!("{name}.d")),
            CorpusFormat::Llmc,
            Tokenizer::gpt2(),
            END_OF_TEXT_ID,
            &all,
        );

        fs::write(folder.path().join(name), &whole[..whole.len() - 5]).unwrap();
        let text = failure(&mut tokenize(folder.path(), &format!("{name} --key content --out cut.{name}")), 1);
        assert!(text.starts_with(&format!("error: {name}")), "{text}");
        assert!(!folder.path().join(format!("cut.{name}/corpus.json")).exists());
    }
}

/// Zeros after gzip, byte order marks, and lines whose other fields hold anything.
#[test]
fn odd_files_give_their_texts() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let texts = [" tea", "a", "b", "é😀", "last", "NaN \\ \"Infinity", "wiki"].map(str::to_string);
    write("b.txt.gz", &[gzip(b" "), vec![0; 5000], gzip(b"tea"), vec![0; 100_000]].concat());
    write("c.txt", b"\xef\xbb\xbfa");
    let (deep, digits) = (["[".repeat(100_000), "]".repeat(100_000)].concat(), "7".repeat(400));
    let lines = format!(
        "\u{feff}{{\"n\": 1e999, \"text\": \"b\", \"m\": -{digits}, \"{digits}\": 1.{digits}e-{digits}}}\r\n\
         {{\"text\": 1, \"deep\": {deep}, \"half \\ud800\": \"\\udfff\", \"t\\u0065xt\": \"\\u00e9\\ud83d\\ude00\"}}\n"
    );
    write("d.jsonl", lines.as_bytes());
    write("e.jsonl.gz", &gzip(b"\xef\xbb\xbf{\"text\": \"last\"}"));
    // As Python writes numbers that JSON has not, and JSON lines by another name.
    write("f.jsonl", br#"{"n": NaN, "text": "NaN \\ \"Infinity", "list": [-Infinity, {"x": Infinity}]}"#);
    write("wiki_00", b" { \"text\": \"wiki\"}");
    stdout(&mut tokenize(folder.path(), "b.txt.gz c.txt d.jsonl e.jsonl.gz f.jsonl wiki_00 --out out"));
    assert_holds(&folder.path().join("out"), CorpusFormat::Llmc, Tokenizer::gpt2(), END_OF_TEXT_ID, &texts);
}

#[test]
fn a_run_that_is_killed_writes_the_same_bytes() {
    let folder = TempDir::new().unwrap();
    let generator = Generator::default(); // another seed in each run
    let below = |n: u64| (generator.random_u64() % n) as usize;
    let texts: Vec<String> = (0..300).map(|n| "Some words of a line. ".repeat(n % 7 * 30)).collect();
    write_lines(&folder.path().join("a.jsonl"), &texts);
    fs::write(folder.path().join("b.txt"), "a line of one long text\n".repeat(5000)).unwrap();
    for format in ["llmc", "megatron", "nanogpt"] {
        let shards = if format == "nanogpt" { "" } else { "--shard-tokens 4000" };
        let run = |out: &str| tokenize(folder.path(), &format!("a.jsonl b.txt --out {out} --format {format} {shards}"));
        stdout(&mut run("whole"));
        let (whole, out) = (folder.path().join("whole"), folder.path().join("killed"));
        let n_shards = fs::read_dir(&whole).unwrap().count() / if format == "megatron" { 2 } else { 1 };
        let mut n_killed = 0;
        for _ in 0..4 {
            let mut child = run("killed").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let until = out.join(format!("train_{:06}.bin", below(n_shards as u64)));
            while !until.exists() && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_micros(below(2000) as u64));
            }
            child.kill().unwrap();
            n_killed += usize::from(!child.wait().unwrap().success());
            if out.join("corpus.partial.json").exists() && !out.join("corpus.json").exists() {
                let text = Corpus::open(&[&out], &CorpusOptions::default()).unwrap_err().to_string();
                assert!(text.contains("not written to its end"), "{text}");
            }
            // What has a name is complete.
            for entry in
                fs::read_dir(&out).unwrap().map(Result::unwrap).filter(|e| e.file_name() != "corpus.partial.json")
            {
                assert_eq!(fs::read(entry.path()).unwrap(), fs::read(whole.join(entry.file_name())).unwrap());
            }
        }
        assert!(n_killed > 0 || format == "nanogpt", "{format}: all runs were too fast");
        stdout(&mut run("killed"));
        let names = |folder: &Path| {
            let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
            names.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(names(&whole), names(&out));
        for name in names(&whole) {
            assert!(fs::read(whole.join(&name)).unwrap() == fs::read(out.join(&name)).unwrap(), "{format}: {name:?}");
        }
        [whole, out].iter().for_each(|folder| fs::remove_dir_all(folder).unwrap());
    }
}

#[test]
fn what_cannot_be_tokenized_is_one_line() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    copy_files(golden("tokenizer"), folder.path());
    write("latin.txt", &[&b"a ".repeat(1 << 20)[..], b"caf\xe9 "].concat());
    write("cut.txt", b"caf\xc3");
    write("number.jsonl", b"{\"text\": \"a\"}\n{\"text\": 7}\n");
    write("other.jsonl", b"{\"body\": \"a\"}\n");
    write("broken.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"b\"\n");
    write("latin.jsonl", b"{\"text\": \"caf\xe9\"}\n");
    write("half.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"a \\ud83d b\"}\n");
    write("second_half.jsonl", b"{\"text\": \"a \\ude00 b\"}\n");
    write("huge.jsonl", b"{\"text\": 1}\n");
    write("list.jsonl", b"[{\"text\": \"a\"}]\n");
    write("nan.jsonl", b"{\"text\": NaN}\n");
    write("empty.jsonl.gz", b"");
    write("wide.txt", b"\xff\xfeH\0e\0");
    write("wide.jsonl", b"\xff\xfe{\0");
    write("ids.dat", &[464u16, 3290, 318, 0].map(u16::to_le_bytes).concat());
    write("garbage.txt.gz", &[gzip(b"a"), b"\0\0garbage".to_vec()].concat());
    write("fake.txt.gz", b"\x1f\x8b\x08no gzip");
    write("empty.jsonl", b"\n");
    write("a.txt", b"a");
    fs::create_dir(folder.path().join("folder")).unwrap();
    for (arguments, expected) in [
        ("none.txt", "none.txt: No such file"),
        ("folder", "folder is not a file: name the files in it"),
        ("latin.txt", "latin.txt: byte 2097155 is not UTF-8"),
        ("cut.txt", "cut.txt: byte 3 is not UTF-8"),
        ("number.jsonl", "number.jsonl, line 2: `text` is not a text"),
        ("other.jsonl", "other.jsonl, line 1: there is no `text`: choose the field with --key"),
        ("broken.jsonl", "broken.jsonl, line 2: this line is not one object: `jq -c .`"),
        ("nan.jsonl", "nan.jsonl, line 1: `text` is not a text"),
        ("empty.jsonl.gz", "empty.jsonl.gz is packed, and has no bytes: copy it again"),
        ("latin.jsonl", "latin.jsonl, line 1: invalid unicode"),
        (
            "half.jsonl",
            "half.jsonl, line 2: unexpected end of hex escape (column 19): half of a surrogate pair, such as",
        ),
        ("second_half.jsonl", "second_half.jsonl, line 1: lone leading surrogate in hex escape (column "),
        ("huge.jsonl", "huge.jsonl, line 1: `text` is not a text"),
        ("list.jsonl", "list.jsonl, line 1: this line is not one object: `jq -c .`, or `jq -c '.[]'` for a list"),
        ("wide.txt", "wide.txt: the text is UTF-16, not UTF-8: convert it with `iconv"),
        ("wide.jsonl", "wide.jsonl: the text is UTF-16, not UTF-8"),
        ("ids.dat", "ids.dat: it looks binary, not text: ids are opened as they are (`dataloader --corpus`)"),
        ("garbage.txt.gz", "garbage.txt.gz: "),
        ("fake.txt.gz", "fake.txt.gz: "),
        ("empty.jsonl", "out: it holds no ids"),
        (
            "a.txt --end-of-text <|end|>",
            "--end-of-text <|end|>: the tokenizer has no such special token: choose another",
        ),
        ("a.txt --tokenizer none.json", "cannot read none.json"),
        ("a.txt --tokenizer a.txt", "a.txt"),
        ("a.txt --format nanogpt --shard-tokens 5", "nanoGPT's train.bin is one file"),
        ("a.txt --shard-tokens 2000000000", "use 1 to 1073741311"),
    ] {
        let text = failure(&mut tokenize(folder.path(), &format!("{arguments} --out out")), 1);
        assert!(text.starts_with("error: ") && text.contains(expected), "{arguments}: {text}");
        assert!(!folder.path().join("out/corpus.json").exists());
        let _ = fs::remove_dir_all(folder.path().join("out"));
    }
    for (arguments, expected) in
        [("--shard-tokens 0", "--shard-tokens"), ("--format text", "use llmc, megatron or nanogpt")]
    {
        let text = failure(&mut tokenize(folder.path(), &format!("a.txt --out out {arguments}")), 2);
        assert!(text.contains(expected), "{text}");
    }
}

/// Settings that a corpus was not begun with.
#[test]
fn another_corpus_in_the_folder_is_refused() {
    let folder = TempDir::new().unwrap();
    write_texts(folder.path(), &["Hello tea".to_string()]);
    copy_files(golden("tokenizer"), folder.path());
    stdout(&mut tokenize(folder.path(), "00.txt --out out"));
    let about: Value = serde_json::from_slice(&fs::read(folder.path().join("out/corpus.json")).unwrap()).unwrap();
    assert_eq!((&about["n_tokens"], &about["vocab_size"]), (&json!(3), &json!(50257)));
    for (arguments, what) in [
        ("--format megatron", "the format llmc, not megatron"),
        ("--shard-tokens 9", "shards of 100000000, not 9"),
        ("--tokenizer no_alphabet.json", "a vocabulary of 50257, not "),
        ("--key other", "with texts "),
    ] {
        let text = failure(&mut tokenize(folder.path(), &format!("00.txt --out out {arguments}")), 1);
        assert!(text.contains(what) && text.ends_with("choose another folder, or empty this one"), "{text}");
    }
}

/// Nothing of others is written over, and a shard that is gone is not passed over.
#[test]
fn files_that_are_there_stay() {
    let folder = TempDir::new().unwrap();
    write_texts(folder.path(), &["Hello tea ".repeat(20)]);
    copy_files(golden("tokenizer"), folder.path());
    fs::copy(folder.path().join("00.txt"), folder.path().join("train.bin")).unwrap();
    let own = folder.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("tokenizer.json"), "of others").unwrap();
    for (arguments, name) in [
        ("--out . --format nanogpt", "./train.bin is there, and is of no corpus"),
        ("--out . --format llmc", "./train.bin is there"),
        ("--out own --tokenizer byte_level.json", "own/tokenizer.json is not of this tokenizer"),
        ("--out own", "own/tokenizer.json is not of this tokenizer: choose another folder"),
    ] {
        let text = failure(&mut tokenize(folder.path(), &format!("train.bin {arguments}")), 1);
        assert!(text.contains(name), "{arguments}: {text}");
    }
    assert_eq!(fs::read(folder.path().join("train.bin")).unwrap(), fs::read(folder.path().join("00.txt")).unwrap());
    assert_eq!(fs::read(own.join("tokenizer.json")).unwrap(), b"of others");
    assert_eq!(fs::read_dir(&own).unwrap().count(), 1);
    let run = || tokenize(folder.path(), "00.txt --out out --shard-tokens 10");
    stdout(&mut run());
    fs::remove_file(folder.path().join("out/train_000001.bin")).unwrap();
    let text = failure(&mut run(), 1);
    assert!(
        text.contains("out/train_000001.bin is missing, but its corpus states it: put it back, or empty"),
        "{text}"
    );
}
