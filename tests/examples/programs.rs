//! Runs the examples as a user does: checks what they print and write, and how they fail.

// Long because each example has its few tests here.

#[cfg(feature = "hub")]
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{assert_bits_eq, golden, golden_tensors};
use crate::{example, failure, load, stdout};
use candle_core::{DType, Device, Tensor};
use candle_gpt_input::checkpoint::save_tensors;
use tempfile::TempDir;

#[test]
fn every_example_has_help() {
    for name in [
        "embed",
        "inspect_checkpoint",
        "chapter2",
        "init_table",
        "dataloader",
        "tokenize",
        "gpt2",
        "train_minimal",
        "bench",
        "pretrain",
        "positions",
        "explore",
    ] {
        assert!(stdout(example(name).arg("--help")).contains("Usage:"), "{name}");
    }
}

#[test]
fn bench_compares_and_times_every_case() {
    let table: serde_json::Value = serde_json::from_str(&stdout(example("bench").args(["--quick", "--json"]))).unwrap();
    let cases = table["cases"].as_array().unwrap();
    for name in [
        "forward",
        "forward_into",
        "backward",
        "step_dense",
        "step_rows",
        "step_tied",
        "rotate",
        "alibi",
        "t5",
        "mapped",
        "head",
        "decode",
    ] {
        let rows: Vec<_> = cases.iter().filter(|row| row["case"] == name).collect();
        assert!(!rows.is_empty(), "{name}");
        assert!(rows.iter().all(|row| row["ours_ms"].as_f64().unwrap() > 0.0 && row["torch_ms"].is_null()), "{name}");
    }
    let text = stdout(example("bench").args(["--cases", "forward", "--shapes", "2x3x4,2x3x4:bf16", "--quick"]));
    assert_eq!(text.lines().filter(|line| line.starts_with("forward")).count(), 2, "{text}");
    for ids in ["uniform", "zipf", "same"] {
        let arguments =
            ["--quick", "--json", "--cases", "forward,backward,step_rows", "--shapes", "2x8x24", "--ids", ids];
        let table: serde_json::Value = serde_json::from_str(&stdout(example("bench").args(arguments))).unwrap();
        let rows = table["cases"].as_array().unwrap();
        assert!(rows.len() == 3 && rows.iter().all(|row| row["ids"] == ids), "{table}");
        assert!(rows[0]["rows_ms"].as_f64().unwrap() > 0.0 && rows[1]["rows_ms"].is_null(), "{table}");
        // Of `same` ids the step moves 3 * 16 + 6 * (1 + 8) rows.
        assert!(ids != "same" || rows[2]["n_bytes"] == 102 * 24 * 4, "{table}");
    }
    let text = stdout(example("bench").args(["--cases", "quantized", "--shapes", "2x3x64", "--quick"]));
    assert!(text.contains(" x resident"), "{text}");
    // A block of 32 elements takes 34 bytes; the table has 1000 rows, and a GPT-2 of width 64 has 1 block of 12 · 64².
    for (case, shape, n_weights) in [("head", "2x1x64:q8_0", 64_000), ("decode", "1x1x64:q8_0", 64_000 + 12 * 64 * 64)]
    {
        let row = cases.iter().find(|row| row["case"] == case && row["dtype"] == "q8_0").unwrap();
        assert_eq!((&row["n_weights"], &row["n_bytes"]), (&n_weights.into(), &(n_weights / 32 * 34).into()), "{shape}");
        assert!(row["copy_min_ms"].as_f64().unwrap() > 0.0, "{row}");
    }
    let text = stdout(example("bench").args(["--cases", "head,decode", "--shapes", "3x1x256:q4_k", "--quick"]));
    assert!(text.contains("head 3 q4_k: ") && text.contains("decode 3 q4_k: "), "{text}");
    let refused = failure(example("bench").args(["--cases", "forward", "--shapes", "1x1x64:q8_0", "--quick"]), 1);
    assert!(refused.ends_with("only head and decode take weights in blocks"), "{refused}");
    assert!(failure(example("bench").args(["--shapes", "1x1x48:q8_0"]), 2).contains("48 is not a multiple of 32"));
    assert!(failure(example("bench").args(["--shapes", "2x3"]), 2).contains("use BxTxC"));
    assert!(failure(example("bench").args(["--quick", "--torch", "no-such-python"]), 1).contains("no-such-python"));
}

/// `--report` writes one file: the device, that every check holds, and the time of each case.
#[test]
fn bench_reports() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("report.md");
    let text = stdout(example("bench").args(["--quick", "--device", "cpu", "--report"]).arg(&path));
    assert!(text.contains("report.md: 9 checks passed, 28 cases timed"), "{text}");
    let report = std::fs::read_to_string(&path).unwrap();
    assert!(report.starts_with(concat!("# candle-gpt-input ", env!("CARGO_PKG_VERSION"), " on the CPU\n")), "{report}");
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_string()).collect::<Vec<_>>();
    let checks: Vec<_> = report.lines().filter(|line| line.contains("| yes |")).map(cells).collect();
    assert_eq!(checks.len(), 9, "{report}");
    assert!(checks.iter().all(|cells| cells[2..6] == ["yes"; 4]), "{report}");
    for case in ["forward", "forward_into", "backward", "step_dense", "step_rows"] {
        let rows: Vec<_> =
            report.lines().filter(|line| line.starts_with(&format!("| `{case}` |"))).map(cells).collect();
        assert!(rows.len() >= 2, "{report}");
        for row in rows {
            let numbers = [4, 7, 8, 9].map(|column| row[column].parse::<f64>().unwrap());
            // Tiny cases on a busy machine may round to a share of 0.
            assert!(numbers[0] > 0.0 && numbers[1] > 0.0 && numbers[2] >= 0.0, "{row:?}");
            let copy = report.split("writes ").nth(1).unwrap().split(' ').next().unwrap().parse::<f64>().unwrap();
            // The copy is printed to 0.1 GB/s, which matters where a busy machine copies slowly.
            let bound = 0.01 + (0.01 + 0.05 / copy.min(1.0)) * numbers[3];
            assert!((numbers[2] / copy - numbers[3]).abs() <= bound, "{row:?} {copy}");
        }
    }
    let missing = folder.path().join("no-folder").join("report.md");
    let error = failure(example("bench").args(["--quick", "--cases", "forward", "--report"]).arg(missing), 1);
    assert!(error.contains("no-folder"), "{error}");
}

#[test]
#[cfg(target_os = "linux")]
fn bench_opens_a_large_file() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--shapes", "1x8x64", "--vocab-size", "100", "--large"];
    let text = stdout(example("bench").args(arguments).arg(folder.path()));
    assert!(text.contains("6.43 GB") && text.contains("ours") && text.contains("candle"), "{text}");
}

#[test]
fn bench_times_a_loader() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        // The second run finds the files of the first.
        let text = stdout(example("bench").args(["--quick", "--loader"]).arg(folder.path()));
        assert!(text.contains("1000000 tokens in 10 files") && text.matches("batches/s").count() == 2, "{text}");
    }
}

#[test]
fn bench_draws() {
    let folder = TempDir::new().unwrap();
    let picture = folder.path().join("scaling.png");
    let text = stdout(example("bench").args(["--quick", "--scaling"]).arg(&picture));
    assert!(text.contains("rows of the table: forward "), "{text}");
    let bytes = std::fs::read(&picture).unwrap();
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 10_000);
    let elsewhere = folder.path().join("none/scaling.png");
    assert!(failure(example("bench").args(["--quick", "--scaling"]).arg(elsewhere), 1).contains("scaling.png"));
}

#[test]
fn positions_shows_every_scheme() {
    let folder = TempDir::new().unwrap();
    let picture = folder.path().join("positions.png");
    let text = stdout(example("positions").arg("--out").arg(&picture));
    let acts = |scheme: &str| text.lines().find(|line| line.starts_with(scheme)).unwrap_or_else(|| panic!("{text}"));
    assert!(acts("rope").contains("rotate(q, k, positions)"), "{text}");
    assert!(acts("t5").contains("relative_attention_bias.weight [32, 2]"), "{text}");
    assert!(acts("none").contains("nowhere"), "{text}");
    let bytes = std::fs::read(&picture).unwrap();
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 10_000);
    let few = stdout(example("positions").args(["--position", "alibi,none", "--length", "8", "--out"]).arg(&picture));
    assert_eq!(few.lines().count(), 4, "{few}");
    assert!(failure(example("positions").args(["--position", "rop"]), 2).contains("no position scheme `rop`"));
    let elsewhere = folder.path().join("none/positions.png");
    assert!(failure(example("positions").arg("--out").arg(elsewhere), 1).contains("positions.png"));
}

/// A few steps of one scheme show that it trains and draws, not how well.
#[test]
fn positions_compares() {
    let folder = TempDir::new().unwrap();
    let picture = folder.path().join("compare.png");
    let mut command = example("positions");
    command.args(["--position", "t5", "--steps", "10", "--compare"]).arg(&picture);
    let text = stdout(&mut command);
    assert!(text.contains("unigram entropy 5.273") && text.contains("held out, by length 8: "), "{text}");
    assert!(std::fs::read(&picture).unwrap().len() > 5_000);
}

#[test]
fn embed_turns_the_default_sentence_into_hidden_states() {
    let text = stdout(&mut example("embed"));
    assert!(text.contains("ids[0] [6109, 3626, 6100, 345, 11, 530, 11241, 379, 257, 640, 13]"), "{text}");
    assert!(text.contains(r#"       1    3626  " effort"  "#), "{text}");
    assert!(text.contains("hidden_states [1, 11, 64] F32"), "{text}");
    assert!(text.contains("device "), "{text}");
    assert!(text.contains("times: ids "), "{text}");
}

#[test]
fn embed_writes_what_transformers_computes() {
    let expected = golden_tensors("input_layer.safetensors");
    let folder = TempDir::new().unwrap();
    let output = folder.path().join("out.safetensors");
    let ids: Vec<String> =
        expected["input_ids"].get(0).unwrap().to_vec1::<i64>().unwrap().iter().map(i64::to_string).collect();
    for checkpoint in ["gpt2_one_file", "gpt2_sharded"] {
        for (dtype, name) in [("f32", "float32"), ("bf16", "bfloat16"), ("f16", "float16")] {
            for start_pos in ["0", "16"] {
                stdout(
                    example("embed")
                        .arg("--weights")
                        .arg(golden(checkpoint))
                        .args(["--ids", &ids.join(","), "--dtype", dtype, "--start-pos", start_pos, "--output"])
                        .arg(&output),
                );
                let written = load(&output);
                assert_eq!((written.len(), written["input_ids"].dtype()), (2, DType::U32));
                let expected = expected[&format!("start_{start_pos}.{name}")].narrow(0, 0, 1).unwrap();
                assert_bits_eq(&written["hidden_states"], &expected);
            }
        }
    }
}

#[test]
fn tables_of_any_name_are_named_on_the_command_line() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("odd.safetensors");
    let table = |value: f32| Tensor::full(value, (3, 4), &Device::Cpu).unwrap();
    let (words, places) = (table(1.), table(0.5));
    save_tensors(&path, [("places", &places), ("words", &words), ("ema.wte.weight", &words)], []).unwrap();
    let embed = |more: &[&str]| {
        let mut command = example("embed");
        command.args(["--ids", "2", "--weights"]).arg(&path).args(more);
        command
    };
    let text = failure(&mut embed(&[]), 1);
    assert!(
        text.contains("no position table found (looked for ema.wpe.weight") && text.contains("(`--wte`, `--wpe`)"),
        "{text}"
    );
    let text = stdout(&mut embed(&["--wte", "words", "--wpe", "places"]));
    assert!(
        text.contains("wte = `words` [3, 4] F32 from ") && text.contains("wpe = `places` [3, 4] F32 from "),
        "{text}"
    );
    assert!(text.contains("  1.5000   1.5000   1.5000   1.5000"), "{text}");
    let text = stdout(&mut embed(&["--prefix", "ema", "--wpe", "places", "--first-position-row", "1"]));
    assert!(text.contains("wte = `ema.wte.weight`"), "{text}");
    assert!(text.contains("without its first 1 rows, which are not positions"), "{text}");
    let listed = stdout(example("inspect_checkpoint").arg(&path).args(["--wte", "words", "--wpe", "places"]));
    let role = |name: &str| listed.lines().find(|line| line.starts_with(name)).unwrap().to_string();
    assert!(role("words").ends_with("token table wte") && role("places").ends_with("position table wpe"), "{listed}");
    assert!(role("ema.wte.weight").ends_with("not used by the input layer"), "{listed}");
    let text = stdout(example("embed").args(["--ids", "3,10", "--weights"]).arg(golden("other_models/bert")));
    assert!(text.contains("not applied: `embeddings.LayerNorm.bias` (normalization of the sum)"), "{text}");
}

#[test]
fn embed_quantizes_and_says_what_it_lost() {
    let text = stdout(example("embed").args(["--quantized", "q8_0", "--ids", "0,50256"]));
    assert!(text.contains("wte quantized to Q8_0: 3.4 MB of 12.9; error at most "), "{text}");
    let text = failure(example("embed").args(["--quantized", "Q4K"]), 1);
    assert!(text.contains("rows of 64 elements do not divide into Q4K blocks of 256: use Q8_0"), "{text}");
    assert!(failure(example("embed").args(["--quantized", "q9"]), 2).contains("use one of [q8_0, "));
    // The file's blocks are kept as they are.
    let file = golden("formats/q8_0.gguf");
    let text = stdout(example("embed").args(["--quantized", "q8_0", "--ids", "0,12", "--weights"]).arg(&file));
    let mapped = stdout(example("embed").args(["--mapped", "--ids", "0,12", "--weights"]).arg(&file));
    let vectors = |text: &str| text.lines().filter(|line| line.ends_with(char::is_numeric)).count();
    assert!(!text.contains("quantized to") && text.contains("Q8_0 -> F32"), "{text}");
    assert_eq!(vectors(&text), vectors(&mapped), "{mapped}");
}

#[test]
fn embed_pads_a_batch_on_the_left() {
    let folder = TempDir::new().unwrap();
    let output = folder.path().join("out.safetensors");
    for start_pos in ["0", "5"] {
        let run = |texts: &[&str]| {
            stdout(example("embed").args(texts).args(["--start-pos", start_pos, "--output"]).arg(&output));
            load(&output)
        };
        let batch = run(&["Hello", "Hello, do you like tea?"]);
        assert_eq!(batch["attention_mask"].to_vec2::<u8>().unwrap(), [[0, 0, 0, 0, 0, 0, 1], [1; 7]]);
        assert_eq!(
            batch["input_ids"].to_vec2::<u32>().unwrap(),
            [[50256, 50256, 50256, 50256, 50256, 50256, 15496], [15496, 11, 466, 345, 588, 8887, 30]]
        );
        let (short, long) = (run(&["Hello"]), run(&["Hello, do you like tea?"]));
        assert!(!short.contains_key("attention_mask"));
        let row = |i: usize| batch["hidden_states"].get(i).unwrap();
        assert_bits_eq(&row(0).narrow(0, 6, 1).unwrap(), &short["hidden_states"].get(0).unwrap());
        assert_bits_eq(&row(1), &long["hidden_states"].get(0).unwrap());
    }
}

#[test]
fn embed_reads_files_and_other_tokenizers() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("text.txt");
    std::fs::write(&file, "Hello, do you like tea?").unwrap();
    let text = stdout(example("embed").arg("--text-file").arg(&file));
    assert!(text.contains("ids[0] [15496, 11, 466, 345, 588, 8887, 30]"), "{text}");
    let text = stdout(example("embed").arg("Hello").arg("--text-file").arg(&file));
    assert!(text.contains("hidden_states [2, 7, 64] F32"), "{text}");
    assert!(stdout(example("embed").arg("")).contains("hidden_states [1, 0, 64] F32"));

    // A byte-level BPE of 256 bytes and one merge, passed by name or found beside the weights.
    let tokenizer = byte_tokenizer(folder.path(), &[("h", "e")]);
    let text = stdout(example("embed").arg("he?").arg("--tokenizer").arg(&tokenizer));
    assert!(text.contains("ids[0] [256, 30]"), "{text}");
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/tiny-gpt2/model.safetensors");
    std::fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
    let text = stdout(example("embed").arg("he?").arg("--weights").arg(folder.path()));
    assert!(text.contains("ids[0] [256, 30]"), "{text}");
    // Ids need no tokenizer, and may exceed its vocabulary.
    let text = stdout(example("embed").args(["--ids", "50256,0"]).arg("--tokenizer").arg("/no/such/file"));
    assert!(text.contains("hidden_states [1, 2, 64] F32"), "{text}");
}

/// Writes a `tokenizer.json` whose first 256 ids are the bytes in GPT-2's order.
fn byte_tokenizer(folder: &Path, merges: &[(&str, &str)]) -> PathBuf {
    let printable = |b: &u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let shifted = (0..256u32).filter(|b| !printable(b)).count() as u32;
    let alphabet = (0..256u32).filter(printable).chain(256..256 + shifted);
    let mut vocab = serde_json::Map::new();
    for (id, character) in alphabet.enumerate() {
        vocab.insert(char::from_u32(character).unwrap().to_string(), id.into());
    }
    for (left, right) in merges {
        let id = vocab.len();
        vocab.insert(format!("{left}{right}"), id.into());
    }
    let merges: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    let byte_level =
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "vocab": vocab, "merges": merges},
    });
    let path = folder.join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    path
}

#[test]
fn embed_says_what_is_wrong_in_one_line() {
    let run = |args: &[&str]| failure(example("embed").args(args), 1);
    assert_eq!(
        run(&["--ids", "1,50257"]),
        "error: token id 50257 at [0, 1] is outside the vocabulary of 50257 (valid ids: 0 to 50256)"
    );
    assert!(run(&["--ids", "-1"]).starts_with("error: token id -1 at [0, 0] is outside"));
    assert!(run(&["Hello", "--start-pos", "128"]).starts_with("error: the sequence ends at position 129, but"));
    assert!(run(&["a", "b b", "--start-pos", "127"]).starts_with("error: the sequence ends at position 129, but"));
    let most = usize::MAX.to_string();
    assert!(run(&["a", "b b", "--start-pos", &most]).starts_with("error: the sequence ends at position 1844"));
    assert_eq!(run(&["--weights", "/no/such/weights"]), "error: cannot open /no/such/weights: no such file or folder");
    assert!(run(&["--text-file", "/no/such/text"]).starts_with("error: cannot read /no/such/text: No such file"));
    assert!(run(&["x", "--tokenizer", "/no/such/file"]).starts_with("error: cannot read /no/such/file: No such file"));
    let text = run(&["x", "--output", "/no/such/folder/x.safetensors"]);
    assert!(text.starts_with("error: cannot write /no/such/folder/x.safetensors: No such file"), "{text}");
    assert_eq!(text.matches("No such file").count(), 1, "{text}");
    if !cfg!(feature = "cuda") {
        let expected = "error: cannot open the device cuda:1: this binary was built without the feature `cuda`";
        assert!(run(&["--device", "cuda:1"]).starts_with(expected));
    }
    for args in
        [&["--dtype", "f8"][..], &["--device", "gpu"], &["--ids", "x"], &["--nonsense"], &["--ids", "1", "text"]]
    {
        assert!(failure(example("embed").args(args), 2).starts_with("error: "), "{args:?}");
    }
}

/// Hostile files are refused within an address space of 4 GB.
#[cfg(target_os = "linux")]
#[test]
fn hostile_checkpoints_cost_no_memory() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let giant = |shape: &str, end: u64| {
        format!(
            r#"{{"wpe.weight":{{"dtype":"F32","shape":[2,4],"data_offsets":[0,32]}},"wte.weight":{{"dtype":"F32","shape":{shape},"data_offsets":[32,{end}]}}}}"#
        )
    };
    let many: Vec<String> =
        (0..600_000).map(|i| format!(r#""t{i}":{{"dtype":"F32","shape":[],"data_offsets":[0,0]}}"#)).collect();
    for header in [
        giant("[1099511627776,4]", 32 + (1 << 44)),
        giant("[4294967296,4294967296]", u64::MAX),
        giant("[18446744073709551615,1]", 80),
        format!("{{{}}}", many.join(",")),
        "[".repeat(50_000_000),
        format!(r#"{{"a":"{}"}}"#, "x".repeat(90_000_000)),
    ] {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 80]);
        std::fs::write(&path, bytes).unwrap();
        let embed = example("embed");
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -v 4194304; exec \"$@\"", "sh"]).arg(embed.get_program());
        let text = failure(limited.args(["--ids", "1", "--weights"]).arg(&path), 1);
        assert!(text.contains("not a valid safetensors file"), "{text}");
    }
}

#[test]
fn inspect_checkpoint_lists_every_tensor() {
    let text = stdout(example("inspect_checkpoint").arg(golden("gpt2_sharded")));
    assert_eq!(text.lines().count(), 29);
    let wte = text.lines().find(|line| line.starts_with("transformer.wte.weight")).unwrap();
    assert!(wte.contains("F32") && wte.contains("[97, 12]") && wte.contains("4656 B"), "{wte}");
    assert!(wte.ends_with("token table wte"), "{wte}");
    assert!(text.ends_with("safetensors: 28 tensors, 20.9 kB\n"), "{text}");
    assert!(stdout(&mut example("inspect_checkpoint")).contains("[50257, 64]"));
    assert!(failure(example("inspect_checkpoint").arg("/no/such"), 1).ends_with("no such file or folder"));
}

#[test]
fn inspect_checkpoint_says_what_a_pickle_holds() {
    let inspect = |path: &str| {
        let mut command = example("inspect_checkpoint");
        command.arg(golden("pickles").join(path));
        command
    };
    assert_eq!(
        stdout(&mut inspect("optimizer.pt")),
        "PyTorch: no tensor under a name\n9 other tensors: `state.0.step`, `state.0.exp_avg`, `state.0.exp_avg_sq`, `state.1.step` and 5 more\n"
    );
    assert!(failure(inspect("optimizer.pt").args(["--convert", "x"]), 1).contains("it holds no tensor under a name"));
    let text = stdout(&mut inspect("dataclass.pt"));
    assert!(text.ends_with("\nstate dict `model`; 1 object skipped, of `__main__.GPTConfig`\n"), "{text}");
    assert!(failure(&mut inspect("net_ema.pt"), 1).contains("it holds several state dicts: `ema`, `nets.net.0`"));
    let text = stdout(inspect("net_ema.pt").args(["--state-dict", "nets.net.0"]));
    assert!(
        text.contains("PyTorch: 3 tensors")
            && text.ends_with(
                "\nstate dict `nets.net.0`; others: `ema`; 3 other tensors: `ema.wte.weight`, `ema.wpe.weight`, \
                 `ema.ln_f.weight`\n"
            ),
        "{text}"
    );
}

#[test]
fn inspect_checkpoint_reads_and_converts_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let inspect = |path: &str| {
        let mut command = example("inspect_checkpoint");
        command.arg(golden("formats").join(path));
        command
    };
    for (name, format) in [
        ("state_dict.pth", "PyTorch: 3 tensors"),
        ("legacy.bin", "PyTorch: 3 tensors"),
        ("sharded", "PyTorch: 2 tensors"),
        ("q8_0.gguf", "GGUF: 2 tensors"),
        ("deflated.npz", "NumPy .npz: 2 tensors"),
        ("llmc_f32.bin", "llm.c: 4 tensors"),
        ("openai", "TensorFlow index: 5 tensors"),
    ] {
        let to = folder.path().join(name);
        let text = stdout(inspect(name).args(["--dtype", "bf16", "--shard-size", "1KB", "--convert"]).arg(&to));
        assert!(text.contains(format), "{text}");
        let back = stdout(example("inspect_checkpoint").arg(&to));
        assert!(back.contains("token table wte") && back.contains("BF16") && back.contains("safetensors: "), "{back}");
    }
    let one = folder.path().join("one.safetensors");
    let text = stdout(inspect("q8_0.gguf").arg("--convert").arg(&one));
    assert!(text.ends_with(" B)\n") && text.contains(&format!("wrote {}", one.display())), "{text}");
    assert!(
        failure(inspect("q8_0.gguf").args(["--convert", "x", "--shard-size", "many"]), 2).contains("such as 500MB")
    );
}

#[test]
fn gpt2_runs_on_its_defaults() {
    let text = stdout(example("gpt2").args(["--max-new-tokens", "4"]));
    assert!(text.contains("4 tokens in ") && text.contains(" tokens/s"), "{text}");
}

#[test]
fn chapter2_prints_the_books_numbers() {
    let text = stdout(&mut example("chapter2"));
    for part in [
        "tensor([[ 0.3374, -0.1778, -0.1690],\n        [ 0.9178,  1.5810,  1.3010],\n        [ 1.2753, -0.2010, -0.1606],\n",
        "tensor([[-0.4015,  0.9666, -1.1481]])\n",
        "tensor([[ 1.2753, -0.2010, -0.1606],\n        [-0.4015,  0.9666, -1.1481],\n        [-2.8400, -0.7849, -1.4096],\n",
        "token id 6 at [5] is outside the vocabulary of 6 (valid ids: 0 to 5)\n",
        "tensor([0.6000, 0.1000, 0.0000])\n",
        "with positions: different ones\n",
        "tensor([[   40,   367,  2885,  1464],\n        [ 1807,  3619,   402,   271],\n        [10899,  2138,   257,  7026],\n",
        "tensor([[  367,  2885,  1464,  1807],\n",
        "torch.Size([8, 4, 256])\n",
        "torch.Size([4, 256])\n",
        // Drawn by torch 2.15: manual_seed(123), Embedding(50257, 256), Embedding(4, 256).
        "tensor([[ 0.4784,  0.2094, -1.3080, -0.4570],\n",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    let losses: Vec<f32> =
        text.lines().filter_map(|line| line.split_once("loss ")).map(|(_, loss)| loss.parse().unwrap()).collect();
    assert!(losses.len() == 2 && losses[1] < 0.8 * losses[0], "{losses:?}");

    let folder = TempDir::new().unwrap();
    let file = folder.path().join("text.txt");
    std::fs::write(&file, "Every effort moves you. ".repeat(20)).unwrap();
    let text = stdout(example("chapter2").args(["--steps", "1", "--text-file"]).arg(&file));
    assert!(text.contains("tensor([[6109, 3626, 6100,  345],\n"), "{text}");
    std::fs::write(&file, "Too short.").unwrap();
    failure(example("chapter2").arg("--text-file").arg(&file), 1);
}

#[test]
fn init_table_writes_what_it_prints() {
    let folder = TempDir::new().unwrap();
    let output = folder.path().join("table.safetensors");
    let text = stdout(example("init_table").arg("--output").arg(&output));
    assert!(text.starts_with("tensor([[ 0.3374, -0.1778, -0.1690],\n        [ 0.9178,"), "{text}");
    let weight = &load(&output)["weight"];
    assert_eq!((weight.dims(), weight.dtype()), (&[6, 3][..], DType::F32));
    let golden = &golden_tensors("seeded.safetensors")["tail.bfloat16.wte"];
    let args = ["--vocab-size", "9", "--n-embd", "7", "--std", "0.02", "--dtype", "bf16", "--seed", "123", "--output"];
    stdout(example("init_table").args(args).arg(&output));
    assert_bits_eq(&load(&output)["weight"], golden);
    assert_eq!(
        failure(example("init_table").args(["--std=-1"]), 1),
        "error: standard deviation -1 must be 0 or greater"
    );
    for (vocab_size, n_embd) in [("1152921504606846976", "3"), ("10000000000000", "3"), ("4611686018427387905", "4")] {
        let text = failure(example("init_table").args(["--vocab-size", vocab_size, "--n-embd", n_embd]), 1);
        assert!(text.starts_with(&format!("error: wte of shape [{vocab_size}, {n_embd}] in elements of 4")), "{text}");
    }
}

/// Standard error that is full or closed loses a line, and no run.
#[cfg(target_os = "linux")]
#[test]
fn a_message_that_nobody_can_read_ends_nothing() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ids = ["--ids", "999999", "--weights"];
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/tiny-gpt2");
    let status = example("embed").args(ids).arg(weights).stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[cfg(not(feature = "hub"))]
#[test]
fn without_the_feature_hub_says_how_to_get_the_file() {
    let text = failure(example("embed").args(["--hub", "openai-community/gpt2"]).env_remove("HF_ENDPOINT"), 1);
    assert!(text.contains("--features hub"), "{text}");
    assert!(text.contains("https://huggingface.co/openai-community/gpt2/resolve/main/model.safetensors"), "{text}");
}

#[cfg(feature = "hub")]
mod hub {
    use super::*;
    use crate::support::http::{Fault, Hub, closed, files};
    use crate::tokenizers::small_tokenizer;

    fn embed(hub: &Hub, home: &Path) -> Command {
        with_hub("embed", hub, home)
    }

    fn with_hub(name: &str, hub: &Hub, home: &Path) -> Command {
        let mut command = example(name);
        command.args(["--hub", "someone/gpt2", "--ids", "1,2,3"]).env("HF_ENDPOINT", hub.url()).env("HF_HOME", home);
        for proxy in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command
    }

    #[test]
    fn a_model_is_fetched_once() {
        let home = TempDir::new().unwrap();
        let hub = Hub::serve(files("gpt2_one_file"));
        let text = stdout(&mut embed(&hub, home.path()));
        assert!(
            text.contains("hidden_states [1, 3, 12] F32") && text.contains("/hub/models--someone--gpt2/"),
            "{text}"
        );
        let n_requests = hub.requests().len();
        stdout(embed(&hub, home.path()).arg("--mapped"));
        // One byte tells whether a file is still the same.
        let again = hub.requests().split_off(n_requests);
        assert!(again.len() >= 2 && again.iter().all(|request| request.end == 1), "{again:?}");
        let n_requests = hub.requests().len();
        let offline = stdout(embed(&hub, home.path()).env("HF_HUB_OFFLINE", "1"));
        assert!(offline.contains("hidden_states [1, 3, 12] F32"), "{offline}");
        assert_eq!(hub.requests().len(), n_requests);
        let text = failure(embed(&hub, &home.path().join("other")).env("HF_HUB_OFFLINE", "1"), 1);
        assert!(text.contains("`config.json` of someone/gpt2 (revision main) is not in the cache"), "{text}");
        // Ids need no tokenizer.
        let files: std::collections::BTreeSet<String> = hub.requests().into_iter().map(|r| r.file).collect();
        assert!(files.into_iter().eq(["config.json".to_string(), "model.safetensors".to_string()]));
        // Without the server.
        let endpoint = closed();
        let output = embed(&hub, home.path()).env("HF_ENDPOINT", &endpoint).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).to_string();
        assert!(
            text.starts_with("using what the cache has (commit ") && text.contains("cannot be reached: "),
            "{text}"
        );
        assert!(output.status.success() && text.lines().count() == 1, "{text}");
        let text = failure(embed(&hub, &home.path().join("other")).env("HF_ENDPOINT", &endpoint), 1);
        assert!(text.contains("config.json, and the cache ") && text.contains("cannot be reached: "), "{text}");
        // Another folder, and another revision.
        let cache = home.path().join("cache");
        stdout(embed(&hub, home.path()).env("HF_HUB_CACHE", &cache).args(["--revision", "v1"]));
        assert!(cache.join("models--someone--gpt2/refs/v1").is_file());
    }

    #[test]
    fn only_the_shards_with_tables_are_fetched() {
        let home = TempDir::new().unwrap();
        let hub = Hub::serve(files("gpt2_sharded"));
        let text = stdout(&mut embed(&hub, home.path()));
        assert!(text.contains("hidden_states [1, 3, 12] F32"), "{text}");
        let shards: std::collections::BTreeSet<String> =
            hub.requests().into_iter().map(|r| r.file).filter(|file| file.starts_with("model-")).collect();
        assert_eq!(shards.len(), 1, "{shards:?}");
    }

    /// The real hub keeps weights on another server, which must not get the token.
    #[test]
    fn the_token_goes_to_the_first_server_only() {
        let home = TempDir::new().unwrap();
        for folder in ["gpt2_one_file", "gpt2_sharded"] {
            let (hub, elsewhere) = (Hub::serve(files(folder)), Hub::serve(files(folder)));
            hub.misbehave(usize::MAX, Fault::Redirect(elsewhere.url()));
            std::fs::write(home.path().join("token"), "hf_of_the_file\n").unwrap();
            for args in [&[][..], &["--remote"]] {
                stdout(embed(&hub, home.path()).args(args).env("HF_TOKEN", "hf_secret"));
                stdout(embed(&hub, home.path()).args(args));
            }
            assert!(hub.requests().iter().all(|request| request.authorized));
            assert!(elsewhere.requests().len() > 4 && elsewhere.requests().iter().all(|request| !request.authorized));
        }
    }

    #[test]
    fn remote_tables_give_the_same_and_fetch_less() {
        let home = TempDir::new().unwrap();
        for folder in ["gpt2_one_file", "gpt2_sharded"] {
            let hub = Hub::serve(files(folder));
            let vectors = |text: &str| {
                text.lines().skip_while(|line| !line.starts_with("ids[0]")).take(5).collect::<Vec<_>>().join("\n")
            };
            let text = stdout(embed(&hub, home.path()).arg("--remote"));
            assert!(text.contains("\nfetched "), "{text}");
            let weights = |r: &crate::support::http::Request| r.file.ends_with(".safetensors");
            let remote: Vec<_> = hub.requests().into_iter().filter(weights).collect();
            assert!(remote.iter().all(|r| r.end < usize::MAX), "{remote:?}");
            let whole = stdout(&mut embed(&hub, home.path()));
            assert_eq!(vectors(&text), vectors(&whole));
            hub.cut_after(Some(3));
            let text = failure(embed(&hub, &home.path().join("other")).arg("--remote"), 1);
            assert!(text.starts_with("error: "), "{text}");
        }
    }

    #[test]
    fn gpt2_fetches_every_shard() {
        let home = TempDir::new().unwrap();
        let hub = Hub::serve(files("gpt2_sharded"));
        let text = stdout(with_hub("gpt2", &hub, home.path()).args(["--max-new-tokens", "4"]));
        assert!(text.contains("\n4 tokens in "), "{text}");
        let n_shards = |r: &crate::support::http::Request| r.file.starts_with("model-0");
        let shards: std::collections::BTreeSet<_> =
            hub.requests().into_iter().filter(n_shards).map(|r| r.file).collect();
        assert_eq!(shards.len(), 4, "{shards:?}");
    }

    #[test]
    fn a_server_that_cuts_is_an_error_and_leaves_nothing_behind() {
        let home = TempDir::new().unwrap();
        let hub = Hub::serve(files("gpt2_one_file"));
        hub.cut_after(Some(100));
        let text = failure(&mut embed(&hub, home.path()), 1);
        assert!(text.contains("the connection was cut after 400 of 824 bytes"), "{text}");
        hub.cut_after(None);
        let text = stdout(&mut embed(&hub, home.path()));
        assert!(text.contains("hidden_states [1, 3, 12] F32"), "{text}");
    }

    #[test]
    fn the_tokenizer_of_the_repository_is_used() {
        let mut files = files("gpt2_one_file");
        files.extend(small_tokenizer().map(|(name, text)| (name.to_string(), text.into_bytes())));
        let hub = Hub::serve(files.clone());
        let home = TempDir::new().unwrap();
        let other = TempDir::new().unwrap();
        let run = |hub: &Hub, name: &str, args: &[&str]| {
            let mut command = Command::new(example(name).get_program());
            command.args(["--hub", "someone/gpt2"]).args(args);
            command.env("HF_ENDPOINT", hub.url()).env("HF_HOME", home.path());
            command
        };
        for args in [&["he is"][..], &["he is", "--remote"]] {
            let text = stdout(&mut run(&hub, "embed", args));
            assert!(text.contains("ids[0] [95, 94, 72, 82]"), "{text}");
        }
        let text = stdout(&mut run(&hub, "gpt2", &["--max-new-tokens", "0", "--prompt", "he is"]));
        assert!(text.contains("logits [1, 4, 97]"), "{text}");
        files.remove("merges.txt");
        let elsewhere = |mut command: Command| failure(command.env("HF_HOME", other.path()), 1);
        let text = elsewhere(run(&Hub::serve(files.clone()), "embed", &["he is"]));
        assert!(text.contains("vocab.json: `merges.txt` is missing beside it"), "{text}");
        files.remove("vocab.json");
        files.insert("tokenizer.model".to_string(), vec![0xff; 100]);
        let other = TempDir::new().unwrap();
        let text = failure(run(&Hub::serve(files), "gpt2", &[]).env("HF_HOME", other.path()), 1);
        assert!(text.contains("tokenizer.model: not supported: a SentencePiece or tiktoken"), "{text}");
    }

    #[test]
    fn a_model_that_is_not_there_is_an_error() {
        let home = TempDir::new().unwrap();
        let hub = Hub::serve(HashMap::new());
        let output = embed(&hub, home.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr).to_string();
        assert!(text.contains("has neither model.safetensors nor pytorch_model.bin"), "{text}");
    }
}
