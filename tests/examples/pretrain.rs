//! `pretrain` gives the same bits however it was stopped (`kills` kills it), and a result that the other examples open.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::assert_bits_eq;
use crate::{example, failure, load, stdout};
use candle_gpt_input::position::PositionScheme;
use tempfile::TempDir;

/// Pretrains a model as small as the vocabulary allows, on a text of a dozen steps per epoch.
pub fn smallest(folder: &Path, out: &str, steps: usize) -> Command {
    let text = folder.join("text.txt");
    let genesis = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/genesis.txt");
    fs::write(&text, &fs::read(genesis).unwrap()[..2000]).unwrap();
    let mut command = example("pretrain");
    command.arg("--text-file").arg(text).arg("--out").arg(folder.join(out));
    command.args("--n-layer 1 --n-head 2 --n-embd 4 --max-length 16 --batch-size 2".split(' '));
    command.args(["--steps", &steps.to_string()]);
    command
}

/// Pretrains the same with dropout.
pub fn small(folder: &Path, out: &str, steps: usize) -> Command {
    let mut command = smallest(folder, out, steps);
    command.args("--dropout 0.1 --warmup 3 --eval-every 7".split(' '));
    command
}

pub fn checkpoints(out: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(out) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("step-")).collect()
}

/// Waits until a new checkpoint appears or the run has ended.
pub fn wait_for_a_checkpoint(child: &mut Child, out: &Path) {
    let before = checkpoints(out);
    while child.try_wait().unwrap().is_none() && checkpoints(out).iter().all(|path| before.contains(path)) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Compares everything that a run leaves behind, except what contains a path.
#[track_caller]
pub fn assert_same_end(left: &Path, right: &Path) {
    let ends = [left, right].map(|out| match &checkpoints(out)[..] {
        [only] => only.clone(),
        several => panic!("{several:?}"),
    });
    assert_eq!(ends[0].file_name(), ends[1].file_name());
    // The metadata in the optimizer's file has no fixed order.
    let states = [&ends[0], &ends[1]].map(|end| load(&end.join("optimizer.safetensors")));
    assert_eq!(states[0].len(), states[1].len());
    states[0].iter().for_each(|(name, tensor)| assert_bits_eq(tensor, &states[1][name]));
    for name in ["model.safetensors", "loader.json", "loss.csv"] {
        let same = fs::read(ends[0].join(name)).unwrap() == fs::read(ends[1].join(name)).unwrap();
        assert!(same, "{name} differs");
    }
    for name in
        ["model.safetensors", "config.json", "loss.csv", "loss.png", "best/model.safetensors", "best/config.json"]
    {
        assert!(fs::read(left.join(name)).unwrap() == fs::read(right.join(name)).unwrap(), "{name} differs");
    }
}

#[cfg(unix)]
#[test]
fn signals_end_a_run_with_a_checkpoint() {
    let folder = TempDir::new().unwrap();
    stdout(&mut small(folder.path(), "whole", 100));
    let out = folder.path().join("stopped");
    // A terminal that ends sends SIGHUP twice; some supervisors send it after SIGTERM. What the tests were started to
    // ignore, as `nohup` and a shell's `&` do, the runs ignore too, as they should.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map_or("0", str::trim);
    let ignored = u64::from_str_radix(mask, 16).unwrap();
    let all = [
        ("kill -INT $0", 2),
        ("kill -TERM $0", 15),
        ("kill -HUP $0; kill -HUP $0", 1),
        ("kill -TERM $0; kill -HUP $0", 15),
    ];
    for (signals, _) in all.into_iter().filter(|(_, number)| ignored >> (number - 1) & 1 == 0) {
        let mut run = small(folder.path(), "stopped", 100);
        let mut child = run.args(["--resume", "--save-every", "5"]).stdout(Stdio::piped()).spawn().unwrap();
        wait_for_a_checkpoint(&mut child, &out); // so the run has begun
        stdout(Command::new("sh").args(["-c", &format!("{signals}; true"), &child.id().to_string()]));
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", done.status);
        let text = String::from_utf8(done.stdout).unwrap();
        assert!(text.contains("stopped after step ") && text.contains("wrote model.safetensors"), "{text}");
        assert_eq!(checkpoints(&out).len(), 1);
    }
    // All settings are in the checkpoint.
    let text = stdout(example("pretrain").arg("--resume").arg("--out").arg(&out));
    assert!(text.contains("resumed from "), "{text}");
    assert_same_end(&folder.path().join("whole"), &out);
    let text = stdout(example("pretrain").arg("--resume").arg("--out").arg(&out)); // nothing is left to do
    assert!(text.contains("\n0 steps in "), "{text}");
    assert_same_end(&folder.path().join("whole"), &out);
}

/// `nohup` starts programs so that they live through the end of the terminal.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_that_is_ignored_from_the_start_ends_no_run() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let run = small(folder.path(), "out", 40);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\" --save-every 5"]).arg(run.get_program()).args(run.get_args());
    let mut child = shell.stdout(Stdio::piped()).spawn().unwrap();
    wait_for_a_checkpoint(&mut child, &out);
    stdout(Command::new("kill").args(["-HUP", &child.id().to_string()]));
    let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(text.contains("\n40 steps in ") && !text.contains("stopped"), "{text}");
}

#[test]
fn a_running_mean_takes_one_pass() {
    let points: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), f64::from(i * 7919 % 1009))).collect();
    for n in [1, 2, 7, 999, 1000, 1001] {
        for (i, (x, mean)) in crate::mean::running(&points, n).into_iter().enumerate() {
            let window = &points[(i + 1).saturating_sub(n)..=i];
            let expected = window.iter().map(|point| point.1).sum::<f64>() / window.len() as f64;
            assert!(x == points[i].0 && (mean - expected).abs() < 1e-9, "{n}: {i}");
        }
    }
    // A large value leaves nothing behind.
    let spike: Vec<(f64, f64)> = (0..9).map(|i| (f64::from(i), if i == 2 { 1e300 } else { 1.0 })).collect();
    assert!(crate::mean::running(&spike, 3)[5..].iter().all(|&(_, mean)| mean == 1.0));
    // Window by window this would be 10^12 additions.
    let many = vec![(0.0, 1.0); 2_000_000];
    assert_eq!(crate::mean::running(&many, 1_000_000).len(), many.len());
}

#[test]
fn the_result_opens_and_more_steps_go_on() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    stdout(&mut small(folder.path(), "out", 0));
    assert!(out.join("step-000000/model.safetensors").is_file());
    let text = stdout(small(folder.path(), "out", 5).args(["--resume", "--save-dtype", "f16"]));
    assert!(text.contains("step 5: loss 10."), "{text}");
    let (checkpoint, result) = (load(&out.join("step-000005/model.safetensors")), load(&out.join("model.safetensors")));
    assert_eq!(checkpoint.len(), 2 + 12 + 2);
    for (name, tensor) in &checkpoint {
        assert_bits_eq(&tensor.to_dtype(candle_core::DType::F16).unwrap(), &result[name]);
    }
    assert!(fs::read(out.join("loss.png")).unwrap().starts_with(b"\x89PNG"));
    assert_eq!(fs::read_to_string(out.join("loss.csv")).unwrap().lines().count(), 6);
    assert!(stdout(example("embed").args(["--ids", "1,2", "--weights"]).arg(&out)).contains("[1, 2, 4] F32"));
    let text = stdout(example("gpt2").args(["--ids", "1,2", "--max-new-tokens", "3", "--weights"]).arg(&out));
    assert!(text.contains("1 blocks, 2 heads, 4 dimensions"), "{text}");
}

#[test]
fn every_position_scheme_trains_and_resumes() {
    let folder = TempDir::new().unwrap();
    for scheme in PositionScheme::NAMES {
        let run = |out: &str, steps, resume: &[&str]| {
            let mut command = smallest(folder.path(), out, steps);
            // During warm-up the learning rate does not depend on the number of steps.
            command.args(["--position", scheme, "--learning-rate", "0.2", "--warmup", "50", "--eval-every", "4"]);
            stdout(command.args(resume));
        };
        let (whole, resumed) = (format!("{scheme}-whole"), format!("{scheme}-resumed"));
        run(&whole, 8, &[]);
        run(&resumed, 4, &[]);
        run(&resumed, 8, &["--resume"]);
        let [whole, resumed] = [whole, resumed].map(|out| folder.path().join(out));
        assert_same_end(&whole, &resumed);
        let losses = fs::read_to_string(whole.join("loss.csv")).unwrap();
        let losses: Vec<f32> =
            losses.lines().skip(1).map(|line| line.split(',').nth(2).unwrap().parse().unwrap()).collect();
        assert!(losses.len() == 8 && losses[7] < losses[0] - 0.2, "{scheme}: {losses:?}");
        let text = stdout(example("gpt2").args(["--ids", "1,2", "--max-new-tokens", "2", "--weights"]).arg(&whole));
        assert!(text.contains("1 blocks, 2 heads, 4 dimensions"), "{scheme}: {text}");
    }
}

/// Without a terminal a run writes plain lines, the last one at its end.
#[cfg(target_os = "linux")]
#[test]
fn lines_of_progress_that_nobody_can_read_end_no_run() {
    let folder = TempDir::new().unwrap();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut run = smallest(folder.path(), "out", 2);
    assert!(run.args(["--warmup", "18446744073709551615"]).stderr(full).status().unwrap().success());
    assert!(folder.path().join("out/model.safetensors").exists());
}

#[test]
fn what_cannot_be_is_said_in_one_line() {
    let folder = TempDir::new().unwrap();
    stdout(&mut small(folder.path(), "out", 1));
    let run = |args: &[&str]| failure(small(folder.path(), "out", 1).args(args), 1);
    assert!(run(&[]).contains("step-000001 already exists: add --resume, or choose another --out"));
    assert!(run(&["--resume", "--learning-rate", "0.5"]).ends_with(
        "\"0.5\": this run began with \"0.003\", which cannot change: leave the option out, or choose another --out"
    ));
    let elsewhere = folder.path().join("elsewhere");
    let new = |args: &[&str]| failure(example("pretrain").args(args).arg("--out").arg(&elsewhere), 1);
    assert!(new(&["--batch-size", "1000"]).contains("no batch: an epoch has 124 windows, and a step takes 1000"));
    assert!(new(&["--max-length", "5000"]).contains("no batch: an epoch has 1 windows, and a step takes 8"));
    assert!(new(&["--n-head", "3"]).contains("n_embd 64 is not a multiple of n_head 3"));
    assert!(new(&["--dropout", "2"]).contains("2, which is not a probability"));
    for number in [["--max-length", "18446744073709551615"], ["--n-embd", "18446744073709551612"]] {
        new(&number);
    }
    let blocks = new(&["--n-layer", "16384", "--n-embd", "65536"]);
    assert!(blocks.contains("16384, n_embd 65536 and n_positions 64, with its gradients and the optimizer's state"));
    assert!(new(&["--n-layer", "100000"]).contains("`n_layer` is 100000, which is not at most 16384"));
    let diverging = failure(small(folder.path(), "new", 9).args(["--learning-rate", "1e30"]), 1);
    assert!(diverging.ends_with(": begin again with a lower --learning-rate"), "{diverging}");
}
