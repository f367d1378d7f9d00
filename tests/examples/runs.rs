//! `pretrain` loses nothing: closed outputs, two runs in one folder, damaged and mixed checkpoints, divergence.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::pretrain::{assert_same_end, checkpoints, small, smallest, wait_for_a_checkpoint};
use crate::support::copy_files;
use crate::{example, failure, load, stdout};
use tempfile::TempDir;

/// The files of a checkpoint that its list of hashes ties together.
const PARTS: [&str; 6] =
    ["model.safetensors", "config.json", "optimizer.safetensors", "loader.json", "settings.json", "loss.csv"];

/// Goes on with the run in a folder, with its own settings.
fn resume(out: &Path) -> Command {
    let mut command = example("pretrain");
    command.args(["--resume", "--out"]).arg(out);
    command
}

/// Returns the name of the only checkpoint.
#[track_caller]
fn only(out: &Path) -> String {
    let [path] = <[PathBuf; 1]>::try_from(checkpoints(out)).unwrap();
    path.file_name().unwrap().to_str().unwrap().to_string()
}

#[test]
fn an_output_that_nobody_reads_costs_nothing() {
    let folder = TempDir::new().unwrap();
    stdout(&mut small(folder.path(), "whole", 15));
    let run = |out: &str| {
        let mut command = small(folder.path(), out, 15);
        command.args(["--save-every", "4"]);
        command
    };
    let ended = |name: &str, output: Output, status| {
        assert_eq!(output.status.code(), Some(status), "{name}: {}", output.status);
        assert_same_end(&folder.path().join("whole"), &folder.path().join(name));
        String::from_utf8(output.stderr).unwrap()
    };
    let mut child = run("pipe").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let text = ended("pipe", child.wait_with_output().unwrap(), 1);
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("error: all is saved, but standard output could not be written: Broken pipe"), "{text}");
    let mut child = run("stderr").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    ended("stderr", child.wait_with_output().unwrap(), 0);
    if cfg!(target_os = "linux") {
        let full = || File::create("/dev/full").unwrap();
        let text = ended("full", run("full").stdout(full()).output().unwrap(), 1);
        assert!(text.contains("could not be written: No space left on device"), "{text}");
        ended("both", run("both").stdout(full()).stderr(full()).output().unwrap(), 1);
        ended("stderr full", run("stderr full").stderr(full()).output().unwrap(), 0);
    }
}

#[test]
fn a_folder_belongs_to_one_run() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let mut long = smallest(folder.path(), "out", 1_000_000);
    let mut child = long.args(["--save-every", "1"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_a_checkpoint(&mut child, &out);
    for mut other in [resume(&out), smallest(folder.path(), "out", 3)] {
        let text = failure(&mut other, 1);
        assert!(text.contains("another run of pretrain writes to ") && text.contains("/out: wait until"), "{text}");
    }
    assert!(child.try_wait().unwrap().is_none(), "the first goes on");
    child.kill().unwrap();
    child.wait().unwrap();
    // The system has taken the lock back.
    assert!(stdout(resume(&out).args(["--steps", "1"])).contains("\n0 steps in "));
}

#[test]
fn parts_of_a_checkpoint_and_its_texts_belong_together() {
    let folder = TempDir::new().unwrap();
    let (out, older, good) = (folder.path().join("out"), folder.path().join("older"), folder.path().join("good"));
    stdout(&mut small(folder.path(), "out", 2));
    copy_files(out.join("step-000002"), &older);
    stdout(resume(&out).args(["--steps", "4"]));
    let step = out.join("step-000004");
    copy_files(&step, &good);
    let refused = |what: &str, name: &Path| {
        let text = failure(&mut resume(&out), 1);
        assert!(text.contains(&format!("{} is not as it was when", name.display())), "{what}: {text}");
    };
    for name in PARTS {
        let part = step.join(name);
        let bytes = fs::read(&part).unwrap();
        let other = fs::read(older.join(name)).unwrap();
        assert_eq!(other == bytes, name == "config.json");
        if other != bytes {
            fs::write(&part, other).unwrap();
            refused("of another step", &part);
        }
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            fs::write(&part, flipped).unwrap();
            refused("a bit", &part);
        }
        fs::write(&part, &bytes[..bytes.len() - 1]).unwrap();
        refused("cut", &part);
        fs::remove_file(&part).unwrap();
        assert!(failure(&mut resume(&out), 1).contains(&format!("{name}: No such file")));
        copy_files(&good, &step);
    }
    let history = fs::read_to_string(step.join("loss.csv")).unwrap();
    let lines: Vec<&str> = history.lines().collect();
    for (what, changed) in [
        ("no last line", lines[..4].join("\n") + "\n"),
        ("a line missing", [&lines[..2], &lines[3..]].concat().join("\n") + "\n"),
        ("a line more", history.clone() + "18446744073709551615,1,1,1,\n"),
        ("empty", String::new()),
    ] {
        fs::write(step.join("loss.csv"), changed).unwrap();
        refused(what, &step.join("loss.csv"));
    }
    copy_files(&good, &step);

    // Without its line a part is as good as damaged.
    let list = fs::read_to_string(step.join("SHA256SUMS")).unwrap();
    let without: Vec<&str> = list.lines().filter(|line| !line.ends_with("optimizer.safetensors")).collect();
    fs::write(step.join("SHA256SUMS"), without.join("\n")).unwrap();
    refused("not in the list", &step.join("optimizer.safetensors"));
    fs::remove_file(step.join("SHA256SUMS")).unwrap();
    assert!(failure(&mut resume(&out), 1).contains("SHA256SUMS: No such file"));
    copy_files(&older, &step);
    let text = failure(&mut resume(&out), 1);
    assert!(text.contains("step-000004 holds step 2"), "{text}");
    copy_files(&good, &step);

    // Another text, of as many bytes and tokens.
    let path = folder.path().join("text.txt").canonicalize().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen(" God ", " Lord ", 1).replacen(" the ", " a   ", 1)).unwrap();
    refused("another text", &path);
    fs::write(&path, text.replacen(" God ", " Sun ", 1)).unwrap();
    refused("another text", &path);
    fs::write(&path, &text).unwrap();
    if cfg!(target_os = "linux") {
        let checked = stdout(Command::new("sha256sum").args(["-c", "SHA256SUMS"]).current_dir(&step));
        assert_eq!(checked.lines().filter(|line| line.ends_with(": OK")).count(), PARTS.len() + 1, "{checked}");
    }
    // All is as it was: it goes on.
    stdout(resume(&out).args(["--steps", "6"]));
    stdout(small(folder.path(), "whole", 2).args(["--save-every", "1"]));
    stdout(resume(&folder.path().join("whole")).args(["--steps", "4"]));
    stdout(resume(&folder.path().join("whole")).args(["--steps", "6"]));
    assert_same_end(&folder.path().join("whole"), &out);
}

#[test]
fn what_is_not_finite_replaces_no_checkpoint() {
    let folder = TempDir::new().unwrap();
    // At 10000 this model holds for six or seven steps.
    for (name, options) in [
        ("evaluated", "--eval-every 1 --grad-clip 1"),
        ("clipped", "--eval-every 1000 --grad-clip 1"),
        ("alone", "--eval-every 1000 --grad-clip 0"),
    ] {
        let mut run = smallest(folder.path(), name, 400);
        run.args("--learning-rate 1e4 --warmup 20 --save-every 1".split(' ')).args(options.split(' '));
        let output = run.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        let last = text.lines().last().unwrap();
        assert!(
            last.contains("no checkpoint was replaced: begin again with a lower --learning-rate"),
            "{name}: {text}"
        );
        let out = folder.path().join(name);
        let good: u64 = only(&out).strip_prefix("step-").unwrap().parse().unwrap();
        assert!(last.contains(&format!("step {}: ", good + 1)), "{name}: {last}, after step {good}");
        for (tensor, values) in load(&out.join(only(&out)).join("model.safetensors")) {
            let values = values.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(values.iter().all(|value| value.is_finite()), "{name}: {tensor}");
        }
        // It is one to go on from.
        stdout(resume(&out).args(["--steps", &good.to_string()]));
    }
    // Weights of f32 that another type cannot hold.
    let mut run = smallest(folder.path(), "f16", 1);
    let output =
        run.args("--learning-rate 1e6 --warmup 0 --save-dtype f16 --weight-decay 0".split(' ')).output().unwrap();
    // A slow machine says its progress first.
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(" has values that F16 cannot hold: choose another --save-dtype"), "{text}");
    assert_eq!(only(&folder.path().join("f16")), "step-000001");
}

#[test]
fn files_of_others_are_neither_removed_nor_replaced() {
    let folder = TempDir::new().unwrap();
    let notes = folder.path().join("out/partial/notes");
    fs::create_dir_all(notes.parent().unwrap()).unwrap();
    fs::write(&notes, "mine").unwrap();
    stdout(&mut small(folder.path(), "out", 0));
    assert_eq!(fs::read_to_string(&notes).unwrap(), "mine");
    for name in ["loss.csv", "loss.png"] {
        let (other, path) = (format!("out of {name}"), folder.path().join(format!("out of {name}")).join(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "mine").unwrap();
        let text = failure(&mut small(folder.path(), &other, 0), 1);
        assert!(text.contains(&format!("{name} is there already, and not of a run of pretrain")), "{text}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}

#[test]
fn numbers_of_steps_that_are_odd_do_the_obvious() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    stdout(&mut small(folder.path(), "out", 0));
    assert!(failure(&mut small(folder.path(), "out", 0), 1).contains("step-000000 already exists: add --resume"));
    for (steps, expected) in [(0, 0), (0, 0), (3, 3), (3, 3), (1, 3), (0, 3), (4, 4)] {
        let text = stdout(resume(&out).args(["--steps", &steps.to_string()]));
        assert!(text.contains("model.safetensors, loss.csv and loss.png") && !text.contains("NaN"), "{text}");
        assert_eq!(only(&out), format!("step-{expected:06}"));
        assert!(!out.join(".step.partial").exists());
        assert!(fs::read(out.join("loss.png")).unwrap().starts_with(b"\x89PNG"));
    }
    stdout(&mut small(folder.path(), "whole", 4));
    let losses = |out: &Path| fs::read_to_string(out.join("loss.csv")).unwrap().lines().count();
    assert_eq!(losses(&out), losses(&folder.path().join("whole")));

    // Endless, until it is stopped.
    if cfg!(unix) {
        let (max, out) = (u64::MAX.to_string(), folder.path().join("endless"));
        let mut run = example("pretrain");
        run.arg("--text-file").arg(folder.path().join("text.txt")).arg("--out").arg(&out);
        run.args("--n-layer 1 --n-head 1 --n-embd 2 --max-length 8 --batch-size 1 --save-every 1".split(' '));
        run.args(["--steps", &max, "--warmup", &max]);
        let mut child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_a_checkpoint(&mut child, &out);
        stdout(Command::new("kill").arg(child.id().to_string()));
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn any_history_can_be_drawn() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    stdout(&mut smallest(folder.path(), "out", 2));
    let header = fs::read_to_string(out.join("step-000002/loss.csv")).unwrap().lines().next().unwrap().to_string();
    let mut before = out.join("step-000002");
    for (step, lines) in [
        ("2", "1,1,inf,1,inf 2,1,-inf,1,NaN"),
        ("2", "1,1,NaN,NaN, 2,1,NaN,,NaN"),
        ("2", "1,1,3.4e38,1,-3.4e38 2,1,-3.4e38,1,3.4e38"),
        ("2", "1,1,3.4e38,1, 2,1,3.4e38,1,3.4e38"),
        ("2", "1,1,1e9,1, 2,1,1.0000001e9,1,"),
        ("2", "1,1,1e-45,1, 2,1,0,1,-0"),
        ("2", "2,1,5,1,5 2,1,6,1, 2,1,5,1,7 2,1,5,1,7"),
        ("2", "9,1,5,1,5 8,1,inf,1, 2,1,5,1,"),
        ("1", "1,1,5,1,"),
        ("0", "0,1,5,1,5"),
        ("0", ""),
        ("18446744073709551615", "1,1,5,1, 18446744073709551615,1,4,1,4"),
    ] {
        let path = out.join(format!("step-{step:0>6}"));
        fs::rename(&before, &path).unwrap();
        before = path.clone();
        let lines: String = lines.split_whitespace().map(|line| format!("{line}\n")).collect();
        fs::write(path.join("loss.csv"), format!("{header}\n{lines}")).unwrap();
        // Whoever changes a file on purpose says so in the list.
        let list = stdout(Command::new("sha256sum").args(PARTS).current_dir(&path));
        let text = fs::read_to_string(path.join("SHA256SUMS")).unwrap();
        fs::write(path.join("SHA256SUMS"), list + text.lines().last().unwrap()).unwrap();
        let _ = fs::remove_file(out.join("loss.png"));
        stdout(resume(&out).args(["--steps", "0"]));
        assert!(fs::read(out.join("loss.png")).unwrap().starts_with(b"\x89PNG"), "{lines}");
    }
}
