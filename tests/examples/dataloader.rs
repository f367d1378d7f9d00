//! `dataloader` prints the book's first batch, and gives the same batches however often it is stopped.

use std::fs;
use std::path::Path;

use crate::example;
use candle_core::Device;

fn run(arguments: &str, folder: &Path) -> (bool, String, String) {
    let output = example("dataloader").args(arguments.split_whitespace()).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_example_prints_the_first_batch_as_the_book_does() {
    let folder = tempfile::tempdir().unwrap();
    let (ok, out, err) = run("--batch-size 3 --drop-last", folder.path());
    assert!(ok, "{err}");
    let n_tokens: usize = out.split_whitespace().next().unwrap().parse().unwrap();
    let n_windows = (n_tokens - 4).div_ceil(4);
    let counts = format!("{n_tokens} tokens, {n_windows} windows, {} batches an epoch\n", n_windows / 3);
    assert!(out.starts_with(&counts), "{out}");
    assert!(out.contains(&format!("drop_last leaves out {} windows\n", n_windows % 3)), "{out}");
    let batch = "
Inputs:
 tensor([[  818,   262,  3726,  1793],
        [ 2727,   262, 27636,   290],
        [  262,  4534,    13,   198]])

Targets:
 tensor([[  262,  3726,  1793,  2727],
        [  262, 27636,   290,   262],
        [ 4534,    13,   198,  1870]])

In ---->  the
In the ---->  beginning
In the beginning ---->  God
In the beginning God ---->  created
";
    assert!(out.contains(batch), "{out}");
}

/// Returns every batch that a run with these arguments writes.
fn written(arguments: &str, folder: &Path) -> Vec<[Vec<Vec<i64>>; 2]> {
    let (ok, _, err) = run(&format!("{arguments} --output out.safetensors"), folder);
    assert!(ok, "{err}");
    let tensors = candle_core::safetensors::load(folder.join("out.safetensors"), &Device::Cpu).unwrap();
    let batch = |n| ["input_ids", "target_ids"].map(|name| tensors[&format!("{name}.{n}")].to_vec2().unwrap());
    (0..tensors.len() / 2).map(batch).collect()
}

#[test]
fn the_example_resumes_in_a_new_process() {
    let folder = tempfile::tempdir().unwrap();
    for seeding in ["--seed 7", "--generator-seed 7"] {
        let arguments =
            format!("--shuffle --epochs 3 --batch-size 64 --max-length 16 --stride 16 {seeding} --shard 1/2");
        let whole = written(&arguments, folder.path());
        let n_batches = whole.len() / 3;
        assert!(n_batches >= 3);
        for stop in [1, n_batches - 1, n_batches, n_batches + 1, 2 * n_batches + 1] {
            let arguments = format!("{arguments} --state-file state.json");
            let before = written(&format!("{arguments} --stop-after {stop}"), folder.path());
            let after = written(&arguments, folder.path());
            assert_eq!([before, after].concat(), whole, "stopped after {stop}");
            fs::remove_file(folder.path().join("state.json")).unwrap();
        }
    }
}

#[test]
fn the_example_fails_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("short.txt"), "In the beginning").unwrap();
    fs::write(folder.path().join("state.json"), "{}").unwrap();
    for (arguments, expected) in [
        ("--text-file none.txt", "cannot read none.txt: No such file"),
        ("--text-file short.txt", "no window of max_length 4 fits: it needs 5 tokens"),
        ("--stride 0", "`stride` must be at least 1"),
        ("--shard 2/2", "no shard 2 of 2"),
        ("--state-file state.json", "state.json: missing field"),
    ] {
        let (ok, _, err) = run(arguments, folder.path());
        assert!(!ok && err.starts_with("error: ") && err.contains(expected) && err.lines().count() == 1, "{err}");
    }
}
