//! `pretrain --init-from`: losses are PyTorch's, what is frozen stays, the best is kept, and a run stops early.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::Tensor;
use candle_gpt_input::checkpoint::save_tensors;
use serde_json::Value;
use tempfile::TempDir;

use crate::pretrain::{assert_same_end, checkpoints, smallest};
use crate::support::{assert_bits_eq, bits, copy_files, golden, golden_json};
use crate::tokenizers::small_tokenizer;
use crate::{example, failure, load, stdout};

fn tiny_gpt2() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/tiny-gpt2")
}

/// Writes a part of Genesis.
fn genesis(path: &Path, part: std::ops::Range<usize>) {
    let text = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/genesis.txt")).unwrap();
    fs::write(path, &text[part]).unwrap();
}

/// Returns a column of loss.csv, without empty cells.
fn column(out: &Path, i: usize) -> Vec<f64> {
    let text = fs::read_to_string(out.join("loss.csv")).unwrap();
    let cells = text.lines().skip(1).map(|line| line.split(',').nth(i).unwrap().to_string());
    cells.filter(|cell| !cell.is_empty()).map(|cell| cell.parse().unwrap()).collect()
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn fine_tuning_is_pytorchs_and_frozen_weights_stay() {
    let folder = TempDir::new().unwrap();
    let golden = golden_json("finetuning.json");
    for (option, name) in [("training", "training.txt"), ("validation", "validation.txt")] {
        let range = numbers(&golden[option]);
        genesis(&folder.path().join(name), range[0] as usize..range[1] as usize);
    }
    let before = load(&tiny_gpt2().join("model.safetensors"));
    for (i, run) in golden["runs"].as_array().unwrap().iter().enumerate() {
        let out = folder.path().join(i.to_string());
        let mut command = example("pretrain");
        command.arg("--init-from").arg(tiny_gpt2()).arg("--out").arg(&out);
        command.arg("--text-file").arg(folder.path().join("training.txt"));
        command.arg("--validation-file").arg(folder.path().join("validation.txt"));
        let mut options = golden["settings"].as_object().unwrap().clone();
        options.extend(run["options"].as_object().unwrap().clone());
        for (name, value) in options {
            let value = value.as_str().map_or(value.to_string(), str::to_string);
            command.arg(format!("--{}", name.replace('_', "-"))).arg(value);
        }
        stdout(&mut command);
        for (i, name) in [(2, "losses"), (4, "validation_losses")] {
            let (ours, theirs) = (column(&out, i), numbers(&run[name]));
            assert_eq!(ours.len(), theirs.len(), "{run}");
            for (ours, theirs) in ours.iter().zip(theirs) {
                // The weights are f16 in the file and every sum is in f32; 4.3e-6 is the most that was seen.
                assert!((ours - theirs).abs() <= 1e-5 * theirs, "{name}: {ours}, PyTorch {theirs}, {}", run["options"]);
            }
        }
        let frozen = run["options"]["freeze"].as_str().unwrap_or_default();
        let is_frozen = |name: &str| match frozen {
            "" => false,
            "wte,wpe,h.0-1" => ["wte.", "wpe.", "h.0.", "h.1."].iter().any(|module| name.contains(module)),
            "ln_f,h.1.attn,h.2" => ["ln_f.", "h.1.attn.", "h.2."].iter().any(|module| name.contains(module)),
            other => panic!("{other}"),
        };
        for saved in ["model.safetensors", "best/model.safetensors"] {
            let after = load(&out.join(saved));
            assert_eq!(after.len(), before.len());
            for (name, tensor) in &before {
                let tensor = tensor.to_dtype(candle_core::DType::F32).unwrap();
                assert_eq!(bits(&after[name]) == bits(&tensor), is_frozen(name), "{saved}: {name}, frozen: {frozen}");
            }
        }
        let states = load(&checkpoints(&out)[0].join("optimizer.safetensors"));
        assert!(states.keys().all(|name| !is_frozen(name)) && !states.is_empty(), "no state of what is frozen");
    }
}

/// Makes a folder with a model of the golden files, and a tokenizer of 97 tokens.
pub fn model(folder: &Path, from: &[&str]) -> PathBuf {
    let path = folder.join("model");
    let _ = fs::remove_dir_all(&path);
    fs::create_dir(&path).unwrap();
    for from in from {
        let from = golden(from);
        match from.is_dir() {
            true => copy_files(&from, &path),
            false => drop(fs::copy(&from, path.join(from.file_name().unwrap())).unwrap()),
        }
    }
    for (name, text) in small_tokenizer() {
        fs::write(path.join(name), text).unwrap();
    }
    path
}

/// Fine-tunes a model of the golden files.
pub fn tuned(folder: &Path, weights: &Path, out: &str, steps: usize) -> Command {
    let text = folder.join("text.txt");
    let letters = (0..1500u32).map(|i| if i * i % 7 < 3 { 'a' } else { 'b' });
    fs::write(&text, letters.collect::<String>()).unwrap();
    let mut command = example("pretrain");
    command.arg("--out").arg(folder.join(out)).arg("--init-from").arg(weights);
    command.args("--batch-size 2 --max-length 6 --eval-every 2 --steps".split(' ')).arg(steps.to_string());
    command.arg("--text-file").arg(text);
    command
}

fn logits(weights: &Path) -> Tensor {
    let folder = TempDir::new().unwrap();
    let output = folder.path().join("logits.safetensors");
    let mut command = example("gpt2");
    command.args(["--ids", "3,1,2", "--max-new-tokens", "0", "--weights"]).arg(weights);
    stdout(command.arg("--logits-output").arg(&output));
    load(&output)["logits"].clone()
}

#[test]
fn any_whole_gpt2_begins_as_it_is_and_is_saved_whole() {
    for (from, name) in [
        (&["gpt2_one_file"][..], ""),
        (&["gpt2_sharded"], ""),
        (&["gpt2_sharded"], "model.safetensors.index.json"),
        (&["gpt2_untied.safetensors"], "gpt2_untied.safetensors"),
        (&["gpt2_n_inner.safetensors"], "gpt2_n_inner.safetensors"),
        (&["gpt2_bf16.safetensors"], "gpt2_bf16.safetensors"),
    ] {
        let folder = TempDir::new().unwrap();
        let weights = model(folder.path(), from);
        fs::write(weights.join("vocab.json"), r#"{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}"#).unwrap();
        fs::write(weights.join("merges.txt"), "#version: 0.2\na b\n").unwrap();
        let weights = weights.join(name);
        let before = logits(&weights);
        let out = folder.path().join("out");
        let text = stdout(&mut tuned(folder.path(), &weights, "out", 0));
        assert!(text.starts_with(&format!("begins with {}: ", weights.display())), "{text}");
        for saved in [out.clone(), out.join("step-000000")] {
            assert_bits_eq(&logits(&saved), &before);
        }
        // From here on the model is where the run is: what it began from may go.
        fs::remove_dir_all(folder.path().join("model")).unwrap();
        stdout(tuned(folder.path(), &weights, "out", 4).arg("--resume"));
        let after = logits(&out);
        assert!(bits(&after) != bits(&before), "{name}: nothing is trained");
        let best = if column(&out, 4)[0] <= column(&out, 4)[1] { 2 } else { 4 };
        assert!(best == 2 || bits(&logits(&out.join("best"))) == bits(&after), "{name}");
        let (first, last) = (load(&out.join("step-000004/model.safetensors")), load(&out.join("model.safetensors")));
        assert_eq!(first.contains_key("lm_head.weight"), from[0].contains("untied"), "{name}");
        first.iter().for_each(|(name, tensor)| assert_bits_eq(tensor, &last[name]));
    }
}

#[test]
fn the_tokenizer_of_the_model_goes_with_it() {
    let folder = TempDir::new().unwrap();
    let weights = model(folder.path(), &["gpt2_one_file"]);
    fs::write(weights.join("special_tokens_map.json"), r#"{"eos_token": "<|endoftext|>"}"#).unwrap();
    fs::write(weights.join("README.md"), "not of the tokenizer").unwrap();
    stdout(&mut tuned(folder.path(), &weights, "out", 2));
    let (out, step) = (folder.path().join("out"), folder.path().join("out/step-000002"));
    for name in ["vocab.json", "merges.txt", "special_tokens_map.json"] {
        let bytes = fs::read(weights.join(name)).unwrap();
        for saved in [out.clone(), step.clone(), out.join("best")] {
            assert!(fs::read(saved.join(name)).unwrap() == bytes, "{name} in {}", saved.display());
            assert!(!saved.join("README.md").exists());
        }
        // It is as much a part of the checkpoint as the weights.
        let resumed = || failure(tuned(folder.path(), &weights, "out", 4).arg("--resume"), 1);
        fs::write(step.join(name), [&bytes[..], b" "].concat()).unwrap();
        assert!(resumed().contains(&format!("step-000002/{name} is not as it was when")), "{}", resumed());
        fs::remove_file(step.join(name)).unwrap();
        assert!(resumed().contains(&format!("step-000002/{name}: No such file")), "{}", resumed());
        fs::write(step.join(name), &bytes).unwrap();
    }
    fs::write(step.join("tokenizer.json"), "{}").unwrap();
    let text = failure(tuned(folder.path(), &weights, "out", 4).arg("--resume"), 1);
    assert!(text.contains("step-000002/tokenizer.json is not as it was when"), "{text}");
    fs::remove_file(step.join("tokenizer.json")).unwrap();
    for saved in [out.clone(), step, out.join("best")] {
        let text = stdout(example("gpt2").args(["--prompt", "he", "--max-new-tokens", "3", "--weights"]).arg(saved));
        assert!(text.contains("2 blocks, "), "{text}");
    }

    // A tokenizer of too many tokens, two texts without a token between them.
    let mut command = tuned(folder.path(), &weights, "new", 2);
    fs::remove_file(weights.join("vocab.json")).unwrap();
    assert!(failure(&mut command, 1).contains("`vocab.json` is missing beside it"));
    fs::remove_file(weights.join("merges.txt")).unwrap();
    let text = failure(&mut command, 1);
    assert!(text.contains("put its own tokenizer.json beside the weights"), "{text}");
    let [(name, vocab), (_, merges)] = small_tokenizer();
    fs::write(weights.join(name), vocab.replace("<|endoftext|>", "unused")).unwrap();
    fs::write(weights.join("merges.txt"), merges).unwrap();
    fs::remove_file(weights.join("special_tokens_map.json")).unwrap();
    stdout(&mut command);
    let text = folder.path().join("text.txt");
    let two = failure(tuned(folder.path(), &weights, "two", 2).arg(&text), 1);
    assert!(two.contains("no <|endoftext|> to put between texts: join them into one file"), "{two}");
}

#[test]
fn what_cannot_be_tuned_is_said() {
    let folder = TempDir::new().unwrap();
    let new = |weights: &Path, more: &[&str]| {
        let mut command = example("pretrain");
        command.arg("--init-from").arg(weights).arg("--out").arg(folder.path().join("out")).args(more);
        failure(&mut command, 1)
    };
    for (model, name) in [("heads/gptj", "gptj"), ("other_models/opt", "opt"), ("other_models/bert", "bert")] {
        let text = new(&golden(model), &[]);
        assert!(text.ends_with(&format!("config: model_type `{name}` is not gpt2")), "{text}");
    }
    let text = new(&golden("formats/state_dict.pth"), &[]);
    assert!(text.contains("no ln_f.weight or output_norm.weight: not a whole GPT-2"), "{text}");
    assert!(new(&folder.path().join("none"), &[]).contains("no such file or folder"));
    for (options, expected) in [
        (&["--n-layer", "4"][..], "--n-layer 4: the model has 3: leave the option out"),
        (&["--n-head", "2"], "--n-head 2: the model has 4"),
        (&["--n-embd", "63"], "--n-embd 63: the model has 64"),
        (&["--position", "rope"], "--position \"rope\": the model has \"learned\""),
        (&["--max-length", "129"], "--max-length 129: the model has 128 positions, no more"),
        (&["--dropout", "1.5"], "1.5, which is not a probability"),
        (&["--freeze", "wte,h.1-3"], "--freeze h.1-3: the model has no h.3; it has wte, wpe, h.0-2, ln_f"),
        (&["--freeze", "lm_head"], "--freeze lm_head: the model has no lm_head; it has wte, wpe, h.0-2, ln_f"),
        (&["--freeze", ""], "--freeze : the model has no ; it has wte, wpe, h.0-2, ln_f"),
        (&["--freeze", "w"], "--freeze w: the model has no w; it has"),
        (&["--freeze", "h\n.0"], "--freeze h\\n.0: the model has no h\\n.0; it has wte"),
        (&["--freeze", "h.2-1"], "--freeze h.2-1: a range begins with its lower number"),
        (&["--freeze", "h.0-x"], "--freeze h.0-x: `x` is not the number of a block"),
        (&["--freeze", "wte,wpe,h,ln_f"], "--freeze wte,wpe,h,ln_f: nothing is left to train"),
    ] {
        let text = new(&tiny_gpt2(), options);
        assert!(text.contains(expected), "{options:?}: {text}");
    }
    // What the model says already may be said again.
    let mut command = example("pretrain");
    command.arg("--init-from").arg(tiny_gpt2()).arg("--out").arg(folder.path().join("out"));
    let sizes = "--n-layer 3 --n-head 4 --n-embd 64 --position learned --max-length 8 --batch-size 1 --steps 0";
    stdout(command.args(sizes.split(' ')));
    let mut other = example("pretrain");
    other.arg("--resume").arg("--out").arg(folder.path().join("out")).arg("--init-from").arg(folder.path());
    let text = failure(&mut other, 1);
    assert!(text.contains("this run began with ") && text.contains("tiny-gpt2\", which cannot change"), "{text}");
    let mut other = example("pretrain");
    other.args(["--resume", "--freeze", "wte", "--out"]).arg(folder.path().join("out"));
    assert!(failure(&mut other, 1).contains("--freeze [\"wte\"]: this run began with [], which cannot change"));
}

/// At this learning rate the validation loss soon rises.
#[test]
fn the_model_that_a_run_begins_with_is_never_replaced() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("model");
    for (from, within) in [("gpt2_one_file", ""), ("gpt2_sharded", ""), ("gpt2_one_file", "best")] {
        let own = out.join(within);
        let _ = fs::remove_dir_all(&out);
        fs::create_dir_all(&own).unwrap();
        copy_files(golden(from), &own);
        let files = || -> BTreeMap<PathBuf, Vec<u8>> {
            let paths = fs::read_dir(&own).unwrap().map(|entry| entry.unwrap().path());
            paths
                .filter(|path| path.is_file() && !path.ends_with(".lock"))
                .map(|p| (p.clone(), fs::read(p).unwrap()))
                .collect()
        };
        let before = files();
        for more in [&[][..], &["--resume"]] {
            let text = failure(tuned(folder.path(), &own, "model", 1).args(more), 1);
            assert!(text.contains("is there already, and not of a run of pretrain: it would be replaced"), "{text}");
        }
        assert!(files() == before, "{from}/{within}");
    }
    // Nor is a tokenizer of another model left beside the new one.
    let beside = folder.path().join("beside");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("merges.txt"), "").unwrap();
    let weights = model(folder.path(), &["gpt2_one_file"]);
    assert!(failure(&mut tuned(folder.path(), &weights, "beside", 1), 1).contains("merges.txt is there already"));
}

#[test]
fn a_damaged_model_is_not_trained() {
    let folder = TempDir::new().unwrap();
    let weights = folder.path().join("model");
    fs::create_dir(&weights).unwrap();
    copy_files(tiny_gpt2(), &weights);
    let file = weights.join("model.safetensors");
    let (mut tensors, name) = (load(&tiny_gpt2().join("model.safetensors")), "transformer.h.1.ln_2.bias");
    for value in [f32::NAN, f32::NEG_INFINITY] {
        let bad = Tensor::full(value, 64, &candle_core::Device::Cpu).unwrap();
        tensors.insert(name.to_string(), bad);
        save_tensors(&file, &tensors, []).unwrap();
        let text = failure(&mut tuned(folder.path(), &weights, "out", 1), 1);
        assert!(
            text.ends_with(&format!("{name} has NaN or infinite elements: a model that is damaged cannot be trained")),
            "{text}"
        );
        assert_eq!(text.matches("model").count(), 2, "the path is said once: {text}");
    }
}

fn impatient(folder: &Path, out: &str, steps: usize) -> Command {
    let mut command = smallest(folder, out, steps);
    // During warm-up the learning rate does not depend on the number of steps.
    command.args("--learning-rate 2 --warmup 400 --eval-every 1 --save-every 1000 --resume".split(' '));
    command
}

#[test]
fn a_run_out_of_patience_stops_and_the_best_is_kept() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let text = stdout(impatient(folder.path(), "out", 300).args(["--patience", "3"]));
    let losses = column(&out, 4);
    let lowest = losses.iter().copied().fold(f64::MAX, f64::min);
    let best = 1 + losses.iter().position(|&loss| loss == lowest).unwrap();
    assert_eq!(losses.len(), best + 3, "{losses:?}");
    assert!(best > 3 && losses.len() < 300, "{losses:?}");
    let stopped = format!("stopped early after step {}: 3 evaluations without a lower validation loss", best + 3);
    assert!(text.contains(&stopped) && text.contains("model.safetensors, loss.csv and loss.png to"), "{text}");
    let shown = format!("best: step {best}, validation loss {lowest:.4}, in {}", out.join("best").display());
    assert!(text.contains(&shown), "{text}");

    // The best is what a run of so many steps ends with.
    stdout(&mut impatient(folder.path(), "best", best));
    let is_best = |saved: &Path| {
        let expected = fs::read(folder.path().join("best/model.safetensors")).unwrap();
        assert!(fs::read(saved.join("model.safetensors")).unwrap() == expected, "{}", saved.display());
    };
    is_best(&out.join("best"));
    let mut opened = example("gpt2");
    opened.args(["--ids", "1,2", "--max-new-tokens", "2", "--weights"]).arg(out.join("best"));
    assert!(stdout(&mut opened).contains("1 blocks, "));

    // Resumed, it says so again; more patience goes on, and the best stays until there is a better one.
    let text = stdout(&mut impatient(folder.path(), "out", 300));
    assert!(text.contains("\n0 steps in ") && text.contains(&stopped) && text.contains(&shown), "{text}");
    is_best(&out.join("best"));
    let text = stdout(impatient(folder.path(), "out", best + 5).args(["--patience", "9"]));
    assert!(text.contains("\n2 steps in ") && !text.contains("stopped"), "{text}");
    if column(&out, 4).iter().all(|&loss| loss >= lowest) {
        is_best(&out.join("best"));
    }
    stdout(impatient(folder.path(), "whole", best + 5).args(["--patience", "9"]));
    assert_same_end(&folder.path().join("whole"), &out);

    // A kill between the checkpoint and its weights as the best: the latter are made up for.
    let short = folder.path().join("best");
    fs::remove_dir_all(short.join("best")).unwrap();
    stdout(&mut impatient(folder.path(), "best", best));
    is_best(&short.join("best"));
}

#[cfg(feature = "hub")]
#[test]
fn a_model_of_the_hub_begins_a_run() {
    use crate::support::http::{Hub, closed, files};

    let (folder, home) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut served = files("gpt2_sharded");
    served.extend(small_tokenizer().map(|(name, text)| (name.to_string(), text.into_bytes())));
    let hub = Hub::serve(served);
    let run = |out: &str, steps: usize, endpoint: &str| {
        let of_folder = tuned(folder.path(), Path::new("model"), out, steps);
        let mut command = example("pretrain");
        command.args(["--hub", "someone/gpt2"]).env("HF_ENDPOINT", endpoint).env("HF_HOME", home.path());
        for proxy in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        let of_folder: Vec<_> = of_folder.get_args().filter(|arg| *arg != "--init-from" && *arg != "model").collect();
        command.args(of_folder);
        command
    };
    let text = stdout(&mut run("hub", 2, &hub.url()));
    assert!(text.starts_with("begins with someone/gpt2: "), "{text}");
    let weights = model(folder.path(), &["gpt2_sharded"]);
    stdout(&mut tuned(folder.path(), &weights, "folder", 2));
    // Whoever goes on asks nobody.
    fs::remove_dir_all(home.path().join("hub")).unwrap();
    stdout(run("hub", 4, &closed()).arg("--resume"));
    stdout(tuned(folder.path(), &weights, "folder", 4).arg("--resume"));
    assert_same_end(&folder.path().join("folder"), &folder.path().join("hub"));
}
