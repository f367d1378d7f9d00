//! Replacing a checkpoint, seen from outside at any moment: after SIGKILL, by a reader beside it, after errors.
//!
//! Each case has an old and a new state, of which every file says which it is. `SAVES_KILLS=100 cargo test --release
//! --test checkpoint kills` kills each of the cases so often.

mod place;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use place::{CASES, Case, Place, State};

const CHILD: &str = "SAVES_KILLS_CHILD";

/// The program that is killed: saves both states in turn, without end. Does nothing where nobody asked for it.
#[test]
fn saves_until_it_is_killed() {
    let Ok(asked) = std::env::var(CHILD) else { return };
    let (number, root) = asked.split_once(' ').unwrap();
    let place = Place { case: CASES[number.parse::<usize>().unwrap()], folder: Path::new(root).join("saved") };
    loop {
        for state in [State::New, State::Old] {
            place.save(state).unwrap();
            fs::write(Path::new(root).join("saved-once"), "").unwrap();
        }
    }
}

#[cfg(unix)]
#[test]
fn a_kill_leaves_the_old_or_the_new_and_the_next_save_is_clean() {
    let n_kills: u32 = std::env::var("SAVES_KILLS").map_or(4, |n| n.parse().unwrap());
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let mut counts = Vec::new();
    for (number, case) in CASES.into_iter().enumerate() {
        let (mut n_leftovers, mut n_new) = (0, 0);
        let root = TempDir::new().unwrap();
        let place = Place::new(case, root.path());
        for kill in 0..n_kills {
            place.is_clean_after(State::Old);
            let ready = root.path().join("saved-once");
            let _ = fs::remove_file(&ready);
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "kills::saves_until_it_is_killed"])
                .env(CHILD, format!("{number} {}", root.path().display()))
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let start = Instant::now();
            while !ready.exists() && start.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(1));
            }
            // Somewhere in the next saves; before that nobody reads its outputs any more.
            let pause = |n: u32| {
                let pause = seed.wrapping_add(3 * kill + n).wrapping_mul(2_654_435_761) % 15_000;
                std::thread::sleep(Duration::from_micros(pause.into()));
            };
            pause(0);
            drop(child.stdout.take());
            pause(1);
            drop(child.stderr.take());
            pause(2);
            child.kill().unwrap();
            let status = child.wait().unwrap();
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{case:?}: it ended by itself");
            n_new += u32::from(place.opens_as() == State::New);
            n_leftovers += u32::from(names(&place.folder).iter().any(|name| name.ends_with(".partial")));
        }
        for state in [State::New, State::Old] {
            place.is_clean_after(state);
        }
        counts.push(format!("{case:?}: {n_kills} kills, {n_new} left the new one, {n_leftovers} a leftover"));
    }
    println!("{}", counts.join("\n"));
}

#[test]
fn a_reader_beside_a_writer_sees_the_old_or_the_new() {
    for case in [Case::Folder, Case::Tensors] {
        let root = TempDir::new().unwrap();
        let place = Place::new(case, root.path());
        place.save(State::Old).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..20 {
                    [State::New, State::Old].into_iter().for_each(|state| place.save(state).unwrap());
                }
            });
            while !writer.is_finished() {
                let checkpoint = Checkpoint::open(place.path()).unwrap();
                let config = checkpoint.config().unwrap();
                let state = if config.vocab_size == 1500 { State::Old } else { State::New };
                assert_eq!(config.embd_pdrop, state.config().embd_pdrop, "{case:?}");
            }
        });
    }
}

#[test]
fn writers_of_one_folder_wait_for_each_other() {
    let root = TempDir::new().unwrap();
    let places = [Case::Folder, Case::Convert, Case::Shards].map(|case| Place::new(case, root.path()));
    std::thread::scope(|scope| {
        for place in &places {
            scope.spawn(move || {
                for _ in 0..5 {
                    [State::New, State::Old].into_iter().for_each(|state| place.save(state).unwrap());
                }
            });
        }
    });
    places[0].opens_as();
    places.iter().for_each(|place| place.is_clean_after(State::New));
}

/// What a kill can leave, made by hand.
#[test]
fn what_is_decided_is_finished_and_what_is_not_is_undone() {
    let journal = ".checkpoint.journal.partial";
    let config = |state: State| serde_json::to_string(&state.config().to_json()).unwrap();
    // The weights are renamed, the configuration is not written: the pair is the new one.
    let root = TempDir::new().unwrap();
    let place = Place::new(Case::Folder, root.path());
    place.save(State::Old).unwrap();
    let new = root.path().join("source-New/model.safetensors");
    let text =
        format!(r#"{{"config": {}, "new": [], "old": ["tokenizer.json", "../x.safetensors"]}}"#, config(State::New));
    fs::write(root.path().join("x.safetensors"), "not ours").unwrap();
    fs::copy(&new, place.folder.join("model.safetensors")).unwrap();
    fs::write(place.folder.join(journal), &text).unwrap();
    assert_eq!(place.opens_as(), State::New);
    let before = fs::read_to_string(place.folder.join("config.json")).unwrap();
    assert_eq!(before, State::Old.config().to_json());
    // Any save finishes it, also that of one file beside.
    save_tensors(place.folder.join("beside.safetensors"), [("a", &State::New.table(1))], []).unwrap();
    assert_eq!(fs::read_to_string(place.folder.join("config.json")).unwrap(), State::New.config().to_json());
    fs::remove_file(place.folder.join("beside.safetensors")).unwrap();
    assert!(root.path().join("x.safetensors").exists() && place.opens_as() == State::New);
    place.is_clean_after(State::New);

    // The weights are complete, but not renamed: the old pair stays, and shards that were begun go.
    let place = Place::new(Case::Convert, root.path());
    place.save(State::Old).unwrap();
    fs::copy(&new, place.folder.join(".model.safetensors.partial")).unwrap();
    fs::write(place.folder.join(journal), &text).unwrap();
    assert_eq!(place.opens_as(), State::Old);
    place.is_clean_after(State::New);
    let text = text.replace(r#""new": []"#, r#""new": ["model-9-00001-of-00002.safetensors"]"#);
    for index in [".model.safetensors.index.json.partial", "nothing"] {
        place.save(State::Old).unwrap();
        fs::write(place.folder.join(index), "{}").unwrap();
        fs::copy(&new, place.folder.join("model-9-00001-of-00002.safetensors")).unwrap();
        fs::write(place.folder.join(journal), &text).unwrap();
        assert_eq!(place.opens_as(), State::Old);
        let _ = fs::remove_file(place.folder.join("nothing"));
        place.is_clean_after(State::New);
    }

    // The first save into a folder: shards alone are no checkpoint.
    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::copy(&new, empty.join("model-9-00001-of-00002.safetensors")).unwrap();
    fs::write(empty.join(".model.safetensors.index.json.partial"), "{}").unwrap();
    fs::write(empty.join(journal), &text).unwrap();
    assert!(error_text(Checkpoint::open(&empty)).contains("cannot find weights"));
}

#[test]
fn weights_without_a_configuration_take_no_other_ones() {
    let root = TempDir::new().unwrap();
    let place = Place::new(Case::Convert, root.path());
    let source = root.path().join("bias.safetensors");
    save_tensors(&source, [("bias", &State::New.table(1))], []).unwrap();
    place.save(State::Old).unwrap();
    let text = error_text(Checkpoint::open(&source).unwrap().convert(&place.folder, None, None));
    assert!(text.contains("config.json belongs to other weights, and these state no configuration"), "{text}");
    assert_eq!(place.opens_as(), State::Old);
}

#[test]
fn an_error_leaves_the_folder_as_it_was() {
    let root = TempDir::new().unwrap();
    let place = Place::new(Case::Shards, root.path());
    place.save(State::Old).unwrap();
    let before = names(&place.folder);
    // The source is cut while it is read, for one file and for shards.
    let source = root.path().join("source.safetensors");
    for max_bytes in [None, Some(100_000)] {
        fs::copy(root.path().join("source-New/model.safetensors"), &source).unwrap();
        let checkpoint = Checkpoint::open(&source).unwrap();
        fs::OpenOptions::new().write(true).open(&source).unwrap().set_len(500_000).unwrap();
        error_text(checkpoint.convert(&place.folder, None, max_bytes));
        assert_eq!(place.opens_as(), State::Old);
        assert_eq!(names(&place.folder), before);
    }
    // The configuration cannot be written.
    let checkpoint = Checkpoint::open(root.path().join("source-New")).unwrap();
    fs::create_dir(place.folder.join(".config.json.partial")).unwrap();
    let text = error_text(checkpoint.convert(&place.folder, None, Some(200_000)));
    assert!(text.contains(".config.json.partial exists and is not a regular file: remove it"), "{text}");
    fs::remove_dir(place.folder.join(".config.json.partial")).unwrap();
    assert_eq!(place.opens_as(), State::New, "the weights were decided before the configuration failed");
    place.is_clean_after(State::Old);
    assert_eq!(names(&place.folder).len(), before.len());
}
