//! Runs the examples as programs, and tests the GPT-2 among them as a model.

mod corpora;
mod dataloader;
mod documents;
mod explore;
mod finetuning;
mod generation;
mod gguf;
mod gpt2;
mod inspect;
mod kills;
#[path = "../../examples/explore/labels.rs"]
mod labels;
#[path = "../documents/markdown.rs"]
mod markdown;
#[path = "../../examples/pretrain/mean.rs"]
mod mean;
mod messages;
mod pretrain;
mod programs;
mod runs;
#[path = "../support/mod.rs"]
mod support;
mod tokenize;
mod tokenizers;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};

/// Returns a command for an example's program. Built before its first run, because `cargo test --test examples` builds
/// none and an old one could be found.
fn example(name: &str) -> Command {
    static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let test = std::env::current_exe().unwrap(); // TARGET/PROFILE/deps/examples-HASH
    let folder = test.ancestors().nth(2).unwrap();
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if !built.contains(name) {
        build(name, folder);
        built.insert(name.to_string());
    }
    let mut command = Command::new(folder.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX)));
    command.current_dir(std::env::temp_dir()); // defaults must not depend on the working folder
    command
}

#[track_caller]
fn stdout(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Returns the one line on standard error of a run that ends in `status`.
#[track_caller]
fn failure(command: &mut Command, status: i32) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(status == 2 || stderr.lines().count() == 1, "{stderr}");
    stderr.trim_end().to_string()
}

fn load(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// Builds an example with the profile, the target folder and the features of this test.
fn build(name: &str, folder: &Path) {
    let profile = match folder.file_name().unwrap().to_str().unwrap() {
        "debug" => "test",
        other => other,
    };
    let features = [
        (cfg!(feature = "default"), "default"),
        (cfg!(feature = "tokenizer"), "tokenizer"),
        (cfg!(feature = "hub"), "hub"),
        (cfg!(feature = "cuda"), "cuda"),
        (cfg!(feature = "metal"), "metal"),
        (cfg!(feature = "accelerate"), "accelerate"),
    ];
    let features: Vec<_> = features.into_iter().filter_map(|(enabled, name)| enabled.then_some(name)).collect();
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--offline", "--example", name]);
    build.args(["--profile", profile, "--no-default-features", "--features", &features.join(",")]);
    build.arg("--target-dir").arg(folder.parent().unwrap());
    // Cargo's variables about this package would make build scripts (ours, ring's) run again.
    let of_cargo = ["CARGO_PKG_", "CARGO_MANIFEST_", "OUT_DIR", "LD_LIBRARY_PATH"];
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(|key| of_cargo.iter().any(|start| key.starts_with(start))) {
            build.env_remove(key);
        }
    }
    assert!(build.status().unwrap().success(), "the example `{name}` does not build");
}
