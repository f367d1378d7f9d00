//! `dataloader --corpus` and `pretrain --corpus`: each format, documents, shares, what was seen, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use candle_gpt_input::checkpoint::Checkpoint;
use candle_gpt_input::data::corpus::{About, Corpus, CorpusFormat, CorpusOptions, CorpusWriter, IdBits};
use candle_gpt_input::tokenizer::Tokenizer;
use tempfile::TempDir;

use crate::gpt2::SUMS;
use crate::gpt2::model::Gpt2;
use crate::pretrain::checkpoints;
use crate::support::{copy_files, golden};
use crate::tokenizers::small_tokenizer;
use crate::{example, failure, load, stdout};

/// Tokenizes lines as documents by a tokenizer of 97 tokens, whose end of text is 96.
pub fn tokenized(folder: &Path, name: &str, format: &str, lines: &[String]) -> PathBuf {
    let (texts, out) = (folder.join(format!("{name}.jsonl")), folder.join(name));
    let line = |line: &String| serde_json::json!({ "text": line }).to_string() + "\n";
    fs::write(&texts, lines.iter().map(line).collect::<String>()).unwrap();
    for (name, text) in small_tokenizer() {
        fs::write(folder.join(name), text).unwrap();
    }
    let mut command = example("tokenize");
    command.arg(texts).args(["--format", format, "--out"]).arg(&out).arg("--tokenizer").arg(folder);
    stdout(&mut command);
    out
}

/// Makes documents of different lengths, all short.
pub fn lines(n: usize, letter: char) -> Vec<String> {
    (0..n).map(|i| format!("{letter}{}{i}", "he".repeat(i * i % 7))).collect()
}

/// Trains a small model on corpora of the tokenizer in `folder`.
pub fn run(folder: &Path, corpora: &[&str], out: &str, (steps, batch_size): (usize, usize)) -> Command {
    let mut command = example("pretrain");
    command.current_dir(folder).arg("--out").arg(folder.join(out)).args(["--steps", &steps.to_string()]);
    command.arg("--tokenizer").arg(folder);
    command
        .args("--n-layer 1 --n-head 2 --n-embd 4 --max-length 16 --batch-size".split(' '))
        .arg(batch_size.to_string());
    for corpus in corpora {
        command.args(["--corpus", corpus]);
    }
    command
}

fn loader(folder: &Path, arguments: &str) -> Command {
    let mut command = example("dataloader");
    command.current_dir(folder).args(arguments.split(' '));
    command
}

#[test]
fn every_format_gives_its_ids_and_its_text() {
    let folder = TempDir::new().unwrap();
    let (folder, documents) = (folder.path(), lines(12, 'x'));
    let tokenizer = Tokenizer::open(folder);
    assert!(tokenizer.is_err());
    for format in ["llmc", "nanogpt", "megatron"] {
        let path = tokenized(folder, format, format, &documents);
        let tokenizer = Tokenizer::open(folder).unwrap();
        let encode = |text: &String| tokenizer.encode(text).unwrap();
        let ids: Vec<Vec<u32>> = match format {
            "llmc" => documents.iter().map(|text| [vec![96], encode(text)].concat()).collect(),
            _ => documents.iter().map(|text| [encode(text), vec![96]].concat()).collect(),
        };
        let whole = ids.concat();
        // Windows of 4 tokens inside documents, as a plain loop cuts them.
        let windows: Vec<&[u32]> = ids
            .iter()
            .flat_map(|part| (0..part.len().saturating_sub(4)).step_by(4).map(|at| &part[at..at + 5]))
            .collect();
        let text = stdout(&mut loader(folder, &format!("--corpus {format} --verify --output out.safetensors")));
        let batches = load(&folder.join("out.safetensors"));
        let rows = |name: &str| -> Vec<Vec<i64>> {
            let batch = |n| batches.get(&format!("{name}.{n}")).map(|batch: &Tensor| batch.to_vec2::<i64>().unwrap());
            (0..).map_while(batch).flatten().collect()
        };
        let expected = |from: usize| -> Vec<Vec<i64>> {
            windows.iter().map(|window| window[from..from + 4].iter().map(|&id| id.into()).collect()).collect()
        };
        assert_eq!((rows("input_ids"), rows("target_ids")), (expected(0), expected(1)), "{format}");
        let covered = format!(
            "coverage of this run: {} tokens trained on in 1.00 epochs; never seen: 0 of {} windows; never a target: \
             {} of {} tokens\n",
            4 * windows.len(),
            windows.len(),
            whole.len() - 4 * windows.len(),
            whole.len()
        );
        assert!(text.contains(&covered), "{text}, not {covered}");
        // `tokenize` has copied the tokenizer.
        let first = tokenizer.decode(&windows[0][..1]).unwrap();
        assert!(text.contains(&format!("\n{first} ----> ")), "{text}");
        assert_eq!(fs::read(path.join("vocab.json")).unwrap(), fs::read(folder.join("vocab.json")).unwrap());
        let given = stdout(&mut loader(folder, &format!("--corpus {format} --tokenizer vocab.json")));
        assert!(given.contains(&format!("\n{first} ----> ")), "{given}");
        fs::copy(path.join("corpus.json"), folder.join("corpus.json")).unwrap();
        let marked =
            stdout(&mut loader(folder, &format!("--corpus {format} --boundaries mark --output out.safetensors")));
        assert!(marked.contains("12 documents"), "{marked}");
        let batch = load(&folder.join("out.safetensors"));
        let ends = parts_of_documents(&path);
        for (row, (positions, mask)) in rows_of(&batch, "position_ids").zip(rows_of(&batch, "loss_mask")).enumerate() {
            for column in 0..4 {
                let at = 4 * row + column;
                let start = ends.iter().copied().rev().find(|&start| start <= at).unwrap().max(4 * row);
                assert_eq!(positions[column], (at - start) as i64, "{format}: {row} {column}");
                assert_eq!(mask[column] == 0, ends.contains(&(at + 1)), "{format}: {row} {column}");
            }
        }
    }
    // Bare ids do not state their width, nor of what tokenizer they are.
    fs::create_dir(folder.join("bare")).unwrap();
    fs::copy(folder.join("nanogpt/train.bin"), folder.join("bare/train.bin")).unwrap();
    assert!(failure(&mut loader(folder, "--corpus bare"), 1).contains("bare ids may have 16 or 32 bits"));
    let text = stdout(&mut loader(folder, "--corpus bare --id-bits 16"));
    assert!(text.contains("format nanogpt, 16 bits an id, 1 documents") && text.contains("not decoded"), "{text}");
    assert!(failure(&mut loader(folder, "--corpus bare --id-bits 24"), 2).contains("use 16 or 32"));
    // Nor do they state where documents end.
    let with_end = "--corpus bare --id-bits 16 --tokenizer vocab.json --end-of-text";
    assert!(stdout(&mut loader(folder, &format!("{with_end} <|endoftext|>"))).contains(" 12 documents"));
    let text = failure(&mut loader(folder, &format!("{with_end} <eot>")), 1);
    assert!(text.contains("--end-of-text <eot>: the tokenizer has no such special token"), "{text}");
    let text = failure(&mut loader(folder, "--corpus bare --id-bits 16 --end-of-text <eot>"), 1);
    assert!(text.contains("--end-of-text <eot>: the tokenizer has no such special token"), "{text}");
    // A text is encoded by the tokenizer that is given, and ends with its end of text.
    fs::write(folder.join("b.txt"), "he").unwrap();
    fs::write(folder.join("c.txt"), "hehe").unwrap();
    for boundaries in ["mark", "ignore"] {
        let arguments = format!("--corpus b.txt c.txt --tokenizer vocab.json --boundaries {boundaries}");
        let text = stdout(&mut loader(folder, &arguments));
        assert!(text.contains("[[95, 96, 95, 95]]") && text.contains("[[96, 95, 95, 96]]"), "{text}");
    }
    fs::write(folder.join("a.txt"), "hehehehehe").unwrap();
    let text = stdout(&mut loader(folder, "--corpus a.txt --tokenizer vocab.json"));
    assert!(text.contains("he ----> he\n") && text.contains("95,    95,    95") || text.contains("[95, 95, 95, 95]"));
    for (arguments, expected) in [
        ("--corpus none", "cannot read none: No such file"),
        ("--corpus a.txt --text-file a.txt", "cannot be used with"),
        ("--boundaries mark", "--corpus"),
    ] {
        let status = if expected.starts_with("cannot read") { 1 } else { 2 };
        assert!(failure(&mut loader(folder, arguments), status).contains(expected), "{arguments}");
    }
}

/// Returns where documents begin, by the library.
fn parts_of_documents(path: &Path) -> Vec<usize> {
    let options = CorpusOptions::default().with_end_of_text(96);
    let corpus = Corpus::open(&[path], &options).unwrap();
    (0..corpus.n_documents()).map(|document| corpus.document(document).unwrap().start).collect()
}

fn rows_of<'a>(
    batches: &'a std::collections::HashMap<String, Tensor>,
    name: &'a str,
) -> impl Iterator<Item = Vec<i64>> {
    let batch = move |n| Some(batches.get(&format!("{name}.{n}"))?.to_vec2::<i64>().unwrap());
    (0..).map_while(batch).flatten()
}

/// A corpus of GPT-2's ids is decoded by GPT-2's tokenizer, one of another tokenizer only by that.
#[test]
fn ids_are_decoded_by_their_own_tokenizer() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a.jsonl"), "{\"text\": \"Hello tea, Hello tea\"}\n").unwrap();
    stdout(example("tokenize").arg(folder.join("a.jsonl")).arg("--out").arg(folder.join("gpt2")));
    let text = stdout(&mut loader(folder, "--corpus gpt2 --max-length 3"));
    assert!(text.contains("<|endoftext|>Hello ---->  tea\n"), "{text}");
    let small = tokenized(folder, "small", "llmc", &lines(12, 'x'));
    let error = failure(&mut loader(folder, "--corpus gpt2 --tokenizer vocab.json"), 1);
    assert!(error.contains("gpt2/corpus.json: the ids are those of the tokenizer "), "{error}");
    assert!(error.contains("choose the one that wrote them (`--tokenizer`)"), "{error}");
    // A tokenizer.json beside the ids is theirs, if it is.
    let vocab: serde_json::Value = serde_json::from_str(&small_tokenizer()[0].1).unwrap();
    let special = serde_json::json!({ "id": 96, "content": "<|endoftext|>", "special": true, "normalized": false,
        "single_word": false, "lstrip": false, "rstrip": false });
    let own = serde_json::json!({
        "added_tokens": [special],
        "model": { "type": "BPE", "vocab": vocab, "merges": ["h e"] },
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true },
    });
    fs::write(small.join("tokenizer.json"), own.to_string()).unwrap();
    assert!(stdout(&mut loader(folder, "--corpus small")).contains("<|endoftext|> ----> x\n"));
    fs::copy(small.join("tokenizer.json"), folder.join("gpt2/tokenizer.json")).unwrap();
    let text = stdout(&mut loader(folder, "--corpus gpt2 --max-length 3"));
    assert!(text.contains("not decoded: gpt2/corpus.json: the ids are those of the tokenizer "), "{text}");
}

/// Returns a column of loss.csv.
fn column(out: &Path, i: usize) -> Vec<f64> {
    let text = fs::read_to_string(out.join("loss.csv")).unwrap();
    text.lines().skip(1).filter_map(|line| line.split(',').nth(i)?.parse().ok()).collect()
}

/// The loss of packed documents is the mean over the tokens of each document alone.
#[test]
fn documents_are_trained_and_evaluated_on_as_if_each_were_alone() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    for format in ["megatron", "llmc"] {
        let path = tokenized(folder, format, format, &lines(14, 'x'));
        let copy = folder.join(format!("copy of {format}"));
        copy_files(&path, &copy);
        let starts = parts_of_documents(&path);
        let corpus = Corpus::open(&[&path], &CorpusOptions::default()).unwrap();
        let n_windows = (corpus.n_tokens() - 16).div_ceil(16);
        let out = format!("out of {format}");
        let start = |steps: usize, more: &[&str]| {
            let mut command = run(folder, &[format], &out, (steps, 1));
            command.arg("--validation-corpus").arg(&copy).args(["--learning-rate", "0"]);
            command.args(["--eval-every", "1", "--warmup", "0"]).args(more);
            stdout(&mut command)
        };
        start(n_windows, &[]);
        let model = Checkpoint::open(folder.join(&out)).unwrap();
        let model = Gpt2::from_checkpoint(&model, DType::F32, &Device::Cpu).unwrap();
        let ids = corpus.ids(0..corpus.n_tokens()).unwrap().to_vec();
        // Pieces of documents, as windows cut them, and the sum of the losses of their targets.
        let (mut all, mut of_windows) = ((0.0, 0), Vec::new());
        for window in (0..ids.len() - 1).step_by(16) {
            let end = (window + 16).min(ids.len() - 1);
            let (mut sum, mut n) = (0.0, 0);
            let mut piece = window;
            while piece < end {
                let next = starts.iter().copied().find(|&start| start > piece).unwrap_or(ids.len());
                let inputs = &ids[piece..end.min(next)];
                let logits =
                    model.forward(&Tensor::new(inputs, &Device::Cpu).unwrap().unsqueeze(0).unwrap(), None).unwrap();
                let losses = candle_nn::ops::log_softmax(&logits, 2).unwrap().squeeze(0).unwrap();
                let losses = losses.to_vec2::<f32>().unwrap();
                for (nth, loss) in losses.iter().enumerate().filter(|(nth, _)| piece + nth + 1 < next) {
                    sum -= f64::from(loss[ids[piece + nth + 1] as usize]);
                    n += 1;
                }
                piece = next;
            }
            all = (all.0 + sum, all.1 + n);
            of_windows.push(sum / f64::from(n));
        }
        let mut losses = column(&folder.join(&out), 2);
        let mut expected = of_windows[..n_windows].to_vec();
        [&mut losses, &mut expected].into_iter().for_each(|losses| losses.sort_by(f64::total_cmp));
        assert_eq!(losses.len(), n_windows, "each window once");
        for (loss, expected) in losses.iter().zip(&expected) {
            assert!((loss - expected).abs() < SUMS * expected, "{format}: {loss} {expected}");
        }
        let validation = column(&folder.join(&out), 4)[0];
        let expected = all.0 / f64::from(all.1);
        assert!((validation - expected).abs() < SUMS * expected, "{format}: {validation} {expected}");
        fs::remove_dir_all(folder.join(&out)).unwrap();
        start(1, &["--boundaries", "ignore"]);
        let ignored = column(&folder.join(&out), 4)[0];
        assert!((ignored - expected).abs() > SUMS * expected, "{format}: {ignored} {expected}");
    }
}

#[test]
fn two_corpora_come_in_their_shares_and_what_was_seen_is_said() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let (a, b) = (lines(40, 'a'), lines(30, 'b'));
    tokenized(folder, "a", "llmc", &a);
    tokenized(folder, "b", "megatron", &b);
    let text = stdout(run(folder, &["a:1", "b:3"], "out", (20, 2)).args(["--eval-every", "10"]));
    let out = folder.join("out");
    let seen: serde_json::Value = serde_json::from_slice(&fs::read(out.join("coverage.json")).unwrap()).unwrap();
    assert_eq!((&seen[0]["share"], &seen[1]["share"]), (&0.25.into(), &0.75.into()));
    assert_eq!((&seen[0]["n_taken"], &seen[1]["n_taken"]), (&10.into(), &30.into()), "20 batches of 2");
    for (name, seen) in ["a", "b"].into_iter().zip(seen.as_array().unwrap()) {
        let number = |name: &str| seen[name].as_u64().unwrap();
        let line = format!(
            "/{name}: {} tokens trained on in {:.2} epochs; never seen: {} of {} windows; never a target: {} of \
             {} tokens\n",
            number("n_targets"),
            number("n_taken") as f64 / number("n_windows") as f64,
            number("n_unseen_windows"),
            number("n_windows"),
            number("n_never_targets"),
            number("n_tokens"),
        );
        assert!(text.contains(&line) && number("n_targets") > 0, "{text}, not {line}");
    }
    assert!(fs::read(out.join("loss.png")).unwrap().starts_with(b"\x89PNG"));
    // The model has the tokenizer, and the size, of its corpora.
    assert_eq!(load(&out.join("model.safetensors"))["transformer.wte.weight"].dims(), [97, 4]);
    assert!(out.join("vocab.json").is_file() && out.join("best/vocab.json").is_file());
    let text = stdout(example("gpt2").args(["--prompt", "hehe", "--max-new-tokens", "2", "--weights"]).arg(&out));
    assert!(text.contains("2 tokens in "), "{text}");
    // Without weights each window comes once before any comes again.
    stdout(&mut run(folder, &["a", "b"], "all", (0, 1)));
    let first: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("all/coverage.json")).unwrap()).unwrap();
    let n_windows: u64 = (0..2).map(|corpus| first[corpus]["n_windows"].as_u64().unwrap()).sum();
    let mut resumed = example("pretrain");
    resumed.args(["--resume", "--steps", &n_windows.to_string(), "--out"]).arg(folder.join("all"));
    stdout(&mut resumed);
    let seen: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("all/coverage.json")).unwrap()).unwrap();
    for corpus in [&seen[0], &seen[1]] {
        assert_eq!((&corpus["n_epochs"], &corpus["n_unseen_windows"]), (&1.into(), &0.into()), "{seen}");
        assert_eq!(corpus["n_taken"], corpus["n_windows"], "{seen}");
    }
    // Fine-tuning goes on with the tokenizer and the table of the model.
    let mut tuned = example("pretrain");
    tuned.current_dir(folder).args(["--init-from", "out", "--corpus", "b", "--steps", "2", "--out", "tuned"]);
    let text = stdout(&mut tuned);
    assert!(text.starts_with("begins with ") && text.contains("/b: ") && folder.join("tuned/vocab.json").is_file());
}

#[test]
fn a_corpus_that_does_not_fit_is_refused() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    tokenized(folder, "a", "llmc", &lines(40, 'a'));
    tokenized(folder, "short", "nanogpt", &["hi".to_string()]);
    tokenized(folder, "b", "megatron", &lines(30, 'b'));
    // Documents of one token each, and a corpus of another tokenizer.
    let write = |name: &str, tokenizer: &str, vocab_size, documents: &[Vec<u32>]| {
        let about = About::new(CorpusFormat::Megatron, vocab_size, tokenizer, None, 1000);
        let mut writer = CorpusWriter::create(folder.join(name), about).unwrap();
        documents.iter().for_each(|document| writer.push(document).unwrap());
        writer.finish().unwrap();
    };
    let about: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("a/corpus.json")).unwrap()).unwrap();
    let own = about["tokenizer"].as_str().unwrap();
    write("single", own, 97, &vec![vec![1]; 200]);
    write("other", "llama", 97, &[vec![1; 200]]);
    write("large", own, 98, &[vec![1; 200]]);
    fs::write(folder.join("empty.bin"), "").unwrap();
    fs::write(folder.join("wild.bin"), [96u16, 200].map(u16::to_le_bytes).concat().repeat(100)).unwrap();
    let refused = |corpora: &[&str], more: &[&str], expected: &str| {
        let output = run(folder, corpora, "refused", (2, 2)).args(more).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let last = text.lines().last().unwrap();
        assert!(output.status.code() == Some(1) && last.contains(expected), "{corpora:?} {more:?}: {text}");
        assert!(!folder.join("refused").join("model.safetensors").exists());
    };
    let usage = |corpora: &[&str], more: &[&str], expected: &str| {
        let text = failure(run(folder, corpora, "refused", (2, 2)).args(more), 2);
        assert!(text.contains(expected), "{corpora:?} {more:?}: {text}");
    };
    refused(&["none"], &[], "none: No such file");
    refused(&["a:x"], &[], "a:x: No such file");
    refused(&["empty.bin"], &["--id-bits", "16"], "empty.bin: it holds no ids");
    for weight in ["0", "-1", "NaN", "inf", "1e999", "-0"] {
        usage(&[&format!("a:{weight}")], &[], "use a positive number");
    }
    refused(&["a:2", "b"], &[], "/b has no weight, but other corpora do: give each one a weight");
    refused(&["a:1e308", "b:1e308"], &[], "weights are positive and finite, and so is their sum");
    refused(&["a", "b", "a"], &[], "belongs to two corpora, ");
    refused(&["b", "b/train_000000"], &[], "belongs to two corpora, ");
    refused(&["a"], &["--validation-corpus", "a"], "evaluate on others than are trained on");
    refused(&["a", "short"], &[], "/short, for evaluation: no window of max_length 16 fits");
    refused(&["a", "short"], &["--validation-corpus", "b"], "/short: no window of max_length 16 fits");
    refused(&["single"], &[], "single, for evaluation: none of its 20 documents has a second token to predict: use");
    refused(&["single"], &["--validation-corpus", "a"], "single: none of its 200 documents has a second token to");
    refused(&["a"], &["--validation-corpus", "single"], "single: none of its 200 documents has a second token to");
    // A batch of single tokens is left out.
    let mut mostly_single = vec![vec![1]; 400];
    mostly_single.extend(vec![vec![1, 2]; 40]);
    write("mostly", own, 97, &mostly_single);
    stdout(run(folder, &["mostly"], "trained", (8, 1)).args(["--validation-corpus", "a"]));
    let seen: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("trained/coverage.json")).unwrap()).unwrap();
    assert!(seen[0]["n_taken"].as_u64().unwrap() > 8 && column(&folder.join("trained"), 2).len() == 8, "{seen}");
    refused(&["other"], &[], "other/corpus.json: the ids are those of the tokenizer llama, but ");
    refused(&["large"], &[], "a vocabulary of 98, but the model's table has 97 rows");
    refused(&["wild.bin"], &["--id-bits", "16"], "is outside the vocabulary of 97");
    refused(&["wild.bin"], &["--id-bits", "16", "--end-of-text", "<eot>"], "--end-of-text <eot>: the tokenizer has no");
    // `dataloader` holds them against the tokenizer, in batches and with --verify at once.
    for verify in ["", " --verify"] {
        let arguments = format!("--corpus wild.bin --id-bits 16 --tokenizer . --max-length 4 --stride 4{verify}");
        let text = failure(&mut loader(folder, &arguments), 1);
        assert!(text.contains("token id 200") && text.contains("wild.bin"), "{text}");
    }
    let unchecked = loader(folder, "--corpus wild.bin --id-bits 16 --max-length 4 --verify").output().unwrap();
    let text = String::from_utf8(unchecked.stderr).unwrap();
    assert!(text.contains("nothing states checksums or a vocabulary"), "{text}");
    usage(&[""], &[], "name a file, a folder or a pattern");
    usage(&["a"], &["--text-file", "a.jsonl"], "cannot be used with");
    usage(&[], &["--validation-corpus", "a"], "--corpus");
    // Without a tokenizer the run takes that of the first corpus, which others must be of too.
    let without = |corpora: &[&str], out: &str| {
        let mut command = example("pretrain");
        command
            .current_dir(folder)
            .args("--n-layer 1 --n-head 2 --n-embd 4 --max-length 16 --steps 1 --out".split(' '));
        command.arg(out).arg("--verify").arg("--corpus").args(corpora);
        command
    };
    stdout(&mut without(&["a", "b"], "own"));
    assert_eq!(load(&folder.join("own/model.safetensors"))["transformer.wte.weight"].dims(), [97, 4]);
    assert_eq!(fs::read(folder.join("own/vocab.json")).unwrap(), fs::read(folder.join("vocab.json")).unwrap());
    stdout(example("tokenize").current_dir(folder).args(["--out", "gpt2", "--shard-tokens", "100"]));
    for corpora in [["a", "gpt2"], ["gpt2", "a"]] {
        let text = failure(&mut without(&corpora, "refused"), 1);
        assert!(text.contains(&format!("{}/corpus.json: the ids are those of the tokenizer ", corpora[1])), "{text}");
    }
    // A byte that has changed is found with --verify.
    let shard = folder.join("a/train_000000.bin");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[1030] ^= 1;
    fs::write(&shard, bytes).unwrap();
    assert!(failure(&mut without(&["a"], "refused"), 1).contains("its corpus states a CRC-32 of "));
}

#[test]
fn a_corpus_that_has_changed_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    tokenized(folder, "a", "llmc", &lines(40, 'a'));
    let shards = folder.join("shards");
    fs::create_dir(&shards).unwrap();
    let shard = fs::read(folder.join("a/train_000000.bin")).unwrap();
    ["1.bin", "2.bin"].iter().for_each(|name| fs::write(shards.join(name), &shard).unwrap());
    stdout(run(folder, &["a", "shards"], "out", (2, 2)).args(["--eval-every", "1"]));
    let refused = |expected: &str| {
        let output = example("pretrain").args(["--resume", "--steps", "3", "--out"]).arg(folder.join("out")).output();
        let output = output.unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && text.lines().last().unwrap().contains(expected), "{text}");
    };
    let path = folder.join("a/train_000000.bin");
    let mut changed = shard.clone();
    changed[1030] ^= 1;
    fs::write(&path, &changed).unwrap();
    refused("a/train_000000.bin is not as it was when this checkpoint was saved");
    fs::write(&path, &shard[..shard.len() - 2]).unwrap();
    refused("a/train_000000.bin: its corpus states a length of");
    fs::write(&path, &shard).unwrap();
    fs::write(shards.join("3.bin"), &shard).unwrap();
    refused("shards/3.bin is not as it was when");
    fs::remove_file(shards.join("3.bin")).unwrap();
    fs::remove_file(shards.join("2.bin")).unwrap();
    refused("shards/2.bin was a file of this run, and is not any more");
    fs::write(shards.join("2.bin"), &shard).unwrap();
    let error = failure(run(folder, &["a:2"], "out", (3, 2)).arg("--resume"), 1);
    assert!(error.contains("--corpus ") && error.contains("which cannot change"), "{error}");
    let mut resumed = example("pretrain");
    stdout(resumed.args(["--resume", "--steps", "3", "--out"]).arg(folder.join("out")));
    assert!(checkpoints(&folder.join("out"))[0].ends_with("step-000003"));
}

/// nanoGPT's `shakespeare_char`: the vocabulary of `meta.pkl` is the model's, and its characters are sampled.
#[test]
fn characters_of_nanogpt_are_trained_on_and_sampled() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let corpus = folder.join("char");
    copy_files(golden("corpora/nanogpt"), &corpus);
    let ids = fs::read(corpus.join("train.bin")).unwrap();
    fs::write(corpus.join("train.bin"), ids.repeat(20)).unwrap();
    let text = stdout(&mut loader(folder, "--corpus char --id-bits 16"));
    assert!(text.contains("\nT ----> o\nTo ---->  \nTo  ----> b\nTo b ----> e\n"), "{text}");
    let pretrain = |more: &[&str]| {
        let mut command = example("pretrain");
        command.current_dir(folder).args("--n-layer 1 --n-head 2 --n-embd 4 --max-length 16".split(' '));
        command.args(["--corpus", "char", "--id-bits", "16"]).args(more);
        command
    };
    stdout(&mut pretrain(&["--out", "out", "--steps", "2"]));
    let rows = load(&folder.join("out/model.safetensors"))["transformer.wte.weight"].dims()[0];
    let meta = Corpus::open(&[&corpus], &CorpusOptions::default().with_id_bits(IdBits::Sixteen)).unwrap();
    assert_eq!(Some(rows), meta.vocab_size());
    stdout(&mut pretrain(&["--out", "out", "--resume", "--steps", "3"]));
    let mut gpt2 = example("gpt2");
    gpt2.current_dir(folder).args(["--weights", "out", "--prompt", "To be", "--max-new-tokens", "8"]);
    let sampled = stdout(&mut gpt2);
    assert!(sampled.contains("\n8 tokens in "), "{sampled}");
    // Another tokenizer is refused, and so is the vocabulary where it says no characters.
    for (name, text) in small_tokenizer() {
        fs::write(folder.join(name), text).unwrap();
    }
    let text = failure(&mut pretrain(&["--out", "refused", "--tokenizer", "vocab.json"]), 1);
    assert!(
        text.contains("train.bin: meta.pkl states ids of ") && text.contains("choose the tokenizer that"),
        "{text}"
    );
    // pickle.dump({"vocab_size": 65}, f, protocol=0)
    fs::write(corpus.join("meta.pkl"), b"(dp0\nVvocab_size\np1\nI65\ns.").unwrap();
    let text = failure(&mut pretrain(&["--out", "refused"]), 1);
    assert!(text.contains("meta.pkl states a vocabulary of 65, but the tokenizer has 50257 tokens"), "{text}");
    // pickle.dump({"vocab_size": 1, "stoi": {"é": 0}}, f, protocol=0)
    fs::write(corpus.join("meta.pkl"), b"(dp0\nVvocab_size\np1\nI1\nsVstoi\np2\n(dp3\nV\xe9\np4\nI0\nss.").unwrap();
    let text = failure(&mut pretrain(&["--out", "refused"]), 1);
    assert!(text.contains("meta.pkl: its character 'é' is more than one byte"), "{text}");
    fs::write(corpus.join("train.bin"), [0; 100]).unwrap();
    let text = stdout(&mut loader(folder, "--corpus char --id-bits 16"));
    assert!(text.contains("not decoded: char/meta.pkl: its character 'é' is more than one byte"), "{text}");
}
