//! `pretrain` is killed at random moments, mostly while it saves, and its outputs are closed before: what is there opens,
//! the same bits come out, and nothing is left behind.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use candle_core::DType;
use candle_gpt_input::checkpoint::Checkpoint;
use tempfile::TempDir;

use crate::corpora;
use crate::finetuning::{model, tuned};
use crate::pretrain::{assert_same_end, checkpoints, small, wait_for_a_checkpoint};
use crate::stdout;

/// Returns how often a run is killed; `PRETRAIN_KILLS=20` is the long version.
fn n_kills() -> usize {
    std::env::var("PRETRAIN_KILLS").map_or(4, |n| n.parse().unwrap())
}

/// Waits for up to 50 ms.
fn a_moment() {
    std::thread::sleep(Duration::from_micros(RandomState::new().hash_one(0) % 50_000));
}

/// Asserts that what a run has written so far opens as a whole.
fn opens(out: &Path) {
    let mut saved: Vec<_> = [out.to_path_buf(), out.join("best")].into_iter().collect();
    saved.extend(checkpoints(out).into_iter().max()); // an older one may be half removed
    for folder in saved.iter().filter(|folder| folder.join("model.safetensors").exists()) {
        let checkpoint = Checkpoint::open(folder).unwrap();
        let config = checkpoint.config().unwrap();
        let vb = checkpoint.var_builder(DType::F32, &candle_core::Device::Cpu);
        for tensor in checkpoint.tensors().unwrap() {
            let values = vb.get(tensor.shape, &tensor.name).unwrap().flatten_all().unwrap();
            assert!(values.to_vec1::<f32>().unwrap().iter().all(|value| value.is_finite()), "{}", tensor.name);
        }
        assert_eq!(config.extra::<String>("model_type").unwrap().as_deref(), Some("gpt2"), "{}", folder.display());
    }
}

/// Lists all files below a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        match entry.path().is_dir() {
            true => names.extend(names_below(&entry.path(), &name)),
            false => names.push(name),
        }
    }
    names.sort();
    names
}

fn names_below(folder: &Path, name: &str) -> Vec<String> {
    names(folder).into_iter().map(|below| format!("{name}/{below}")).collect()
}

/// Kills `run`, which saves in every step, and compares its end with that of `whole`, which nobody stopped.
fn killed(folder: &Path, mut whole: Command, run: impl Fn() -> Command) {
    stdout(&mut whole);
    let out = folder.join("killed");
    for kill in 0..n_kills() {
        let mut child = run().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if kill > 0 {
            wait_for_a_checkpoint(&mut child, &out); // or it would never progress
        }
        // From a moment on nobody reads what it writes, to one of the two, to both, or it lives without.
        a_moment();
        match kill % 3 {
            0 => drop((child.stdout.take(), child.stderr.take())),
            1 => drop(child.stdout.take()),
            _ => drop(child.stderr.take()),
        }
        a_moment();
        child.kill().unwrap();
        child.wait().unwrap();
        opens(&out);
    }
    stdout(&mut run());
    // The settings hold what was given last; nothing else remembers how the run went.
    assert_same_end(&folder.join("whole"), &out);
    assert_eq!(names(&out), names(&folder.join("whole")));
}

#[test]
fn a_run_that_is_killed_ends_with_the_same_bits() {
    let folder = TempDir::new().unwrap();
    let run = |out: &str, save_every: &str| {
        let mut command = small(folder.path(), out, 12 * n_kills());
        command.args(["--resume", "--save-every", save_every]);
        command
    };
    killed(folder.path(), run("whole", "100000"), || run("killed", "1"));
}

/// Two corpora in shares, with documents marked and dropout.
#[test]
fn a_blend_that_is_killed_ends_with_the_same_bits() {
    let folder = TempDir::new().unwrap();
    corpora::tokenized(folder.path(), "a", "llmc", &corpora::lines(40, 'a'));
    corpora::tokenized(folder.path(), "b", "megatron", &corpora::lines(30, 'b'));
    let run = |out: &str, save_every: &str| {
        let mut command = corpora::run(folder.path(), &["a:1", "b:2.5"], out, (12 * n_kills(), 2));
        command.args(["--dropout", "0.1", "--eval-every", "7", "--resume", "--save-every", save_every]);
        command
    };
    killed(folder.path(), run("whole", "100000"), || run("killed", "1"));
    let seen = |out: &str| fs::read(folder.path().join(out).join("coverage.json")).unwrap();
    assert_eq!(seen("whole"), seen("killed"));
}

/// Every step is evaluated, and often the best so far; all has a tokenizer of its own.
#[test]
fn fine_tuning_that_is_killed_ends_with_the_same_bits() {
    let folder = TempDir::new().unwrap();
    let weights = model(folder.path(), &["gpt2_one_file"]);
    let validation = folder.path().join("validation.txt");
    fs::write(&validation, "abbaabababbbaa".repeat(20)).unwrap();
    let run = |out: &str, save_every: &str| {
        let mut command = tuned(folder.path(), &weights, out, 12 * n_kills());
        command.arg("--validation-file").arg(&validation).args(["--freeze", "wpe,h.0", "--dropout", "0.1", "--resume"]);
        command.args(["--learning-rate", "1e-3", "--save-every", save_every]);
        command
    };
    killed(folder.path(), run("whole", "100000"), || run("killed", "1"));
}
