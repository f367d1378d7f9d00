//! Folders that hold a checkpoint in several files, or several checkpoints.

use std::time::{Duration, SystemTime};

use candle_gpt_input::checkpoint::LoadReport;

use super::*;

/// Writes tables whose token table has `n` rows, which tells them apart.
fn save(path: PathBuf, n: usize) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (wte, wpe) = tables(n, 5, 3);
    save_tensors(&path, [("wte.weight", &wte), ("wpe.weight", &wpe)], []).unwrap();
    path
}

fn opened(path: impl AsRef<Path>) -> Result<(usize, LoadReport)> {
    let (layer, report) = open(path, DType::F32)?;
    Ok((layer.config().vocab_size, report))
}

fn sharded(folder: &Path, shard: &str) {
    let index = format!(r#"{{"weight_map": {{"wte.weight": "{shard}", "wpe.weight": "{shard}"}}}}"#);
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

#[test]
fn shards_in_subfolders_are_opened() -> Result<()> {
    let folder = TempDir::new().unwrap();
    save(folder.path().join("a/b/1.safetensors"), 9);
    sharded(folder.path(), "a/b/1.safetensors");
    assert_eq!(opened(folder.path())?.0, 9);
    let checkpoint = Checkpoint::open(folder.path())?;
    assert_eq!(checkpoint.tensors()?.len(), 2);
    assert!(checkpoint.var_builder(DType::F32, &Device::Cpu).get((9, 3), "wte.weight").is_ok());
    let written = checkpoint.convert(folder.path().join("one.safetensors"), None, None)?;
    assert_eq!(opened(&written[0])?.0, 9);
    Ok(())
}

#[test]
fn shards_outside_of_the_folder_are_refused() {
    let outside = TempDir::new().unwrap();
    save(outside.path().join("1.safetensors"), 9);
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    let absolute = outside.path().join("1.safetensors").display().to_string();
    let mut failures = Failures::default();
    for shard in ["../1.safetensors", "sub/../../1.safetensors", "sub/..", "..", "/", "./1.safetensors", "", &absolute]
    {
        sharded(folder.path(), shard);
        failures.error(load(folder.path()), "is not the name of a file inside the index's folder");
    }
    sharded(folder.path(), "sub/missing.safetensors");
    failures.error(load(folder.path()), "sub/missing.safetensors: no such file, but the index ");
    sharded(folder.path(), "none/missing.safetensors");
    failures.error(load(folder.path()), "none/missing.safetensors: no such file, but the index ");
}

/// The files of a snapshot in the hub's cache are links; its folders are not.
#[cfg(unix)]
#[test]
fn a_linked_file_is_a_shard_and_a_folder_linked_outside_is_none() -> Result<()> {
    use std::os::unix::fs::symlink;

    let outside = TempDir::new().unwrap();
    let target = save(outside.path().join("1.safetensors"), 9);
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    symlink(target, folder.path().join("sub/1.safetensors")).unwrap();
    sharded(folder.path(), "sub/1.safetensors");
    assert_eq!(opened(folder.path())?.0, 9);
    symlink(outside.path(), folder.path().join("out")).unwrap();
    sharded(folder.path(), "out/1.safetensors");
    assert!(error_text(load(folder.path())).contains("`out` is a link out of its folder"));
    let checkpoint = Checkpoint::open(folder.path())?;
    assert!(checkpoint.tensors().is_err() && checkpoint.format().is_err());
    assert!(checkpoint.var_builder(DType::F32, &Device::Cpu).get((9, 3), "wte.weight").is_err());
    symlink(folder.path().join("sub"), folder.path().join("in")).unwrap();
    sharded(folder.path(), "in/1.safetensors");
    assert_eq!(opened(folder.path())?.0, 9);
    Ok(())
}

#[test]
fn several_checkpoints_are_listed() {
    let folder = TempDir::new().unwrap();
    save(folder.path().join("checkpoint-500/model.safetensors"), 9);
    save(folder.path().join("checkpoint-1000/model.safetensors"), 9);
    fs::create_dir(folder.path().join("runs")).unwrap();
    let mut failures = Failures::default();
    failures.error(
        load(folder.path()),
        "several checkpoints in this folder: checkpoint-1000, checkpoint-500; open one of these folders instead",
    );
    save(folder.path().join("a.safetensors"), 9);
    save(folder.path().join("b.safetensors"), 9);
    failures
        .error(load(folder.path()), "in this folder: a.safetensors, b.safetensors; open one of these files instead");
    let shards = TempDir::new().unwrap();
    save(shards.path().join("model-00001-of-00002.safetensors"), 9);
    save(shards.path().join("model-00002-of-00002.safetensors"), 9);
    failures.error(load(shards.path()), "add model.safetensors.index.json if they are shards of one");
}

#[test]
fn a_cached_repository_opens_its_snapshot() -> Result<()> {
    let cache = TempDir::new().unwrap();
    let root = cache.path().join("models--org--name");
    let snapshot = |name: &str, n: usize, age: u64| {
        save(root.join("snapshots").join(name).join("model.safetensors"), n);
        let folder = fs::File::open(root.join("snapshots").join(name)).unwrap();
        folder.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    };
    fs::create_dir_all(root.join("blobs")).unwrap();
    fs::create_dir_all(root.join("snapshots/aaa")).unwrap();
    fs::write(root.join("snapshots/aaa/config.json"), r#"{"n_layer": 3}"#).unwrap();
    snapshot("aaa", 7, 100);
    let (n, report) = opened(&root)?;
    assert_eq!((n, report.choice.unwrap().reason.as_str()), (7, "without refs/main, the only snapshot"));
    assert_eq!(load(&root)?.config().n_layer, 3);
    snapshot("bbb", 8, 50);
    let (n, report) = opened(&root)?;
    assert_eq!((n, report.choice.unwrap().reason.as_str()), (8, "without refs/main, the newest of 2 snapshots"));
    fs::create_dir(root.join("refs")).unwrap();
    fs::write(root.join("refs/main"), "aaa\n").unwrap();
    let (n, report) = opened(&root)?;
    assert_eq!(n, 7);
    assert!(report.to_string().contains("aaa: the snapshot that refs/main names"), "{report}");
    assert_eq!(Checkpoint::open(&root)?.file(), root.join("snapshots/aaa/model.safetensors"));
    for elsewhere in ["ccc", "../blobs", "/tmp", "..", ""] {
        fs::write(root.join("refs/main"), elsewhere).unwrap();
        let (n, report) = opened(&root)?;
        let reason = "without the snapshot that refs/main names, the newest of 2 snapshots";
        assert_eq!((n, report.choice.unwrap().reason.as_str()), (8, reason), "{elsewhere}");
    }
    // Above the repository there may be several.
    let text = error_text(load(cache.path()));
    assert!(text.contains("several checkpoints in this folder: models--org--name; open one of these"), "{text}");
    fs::remove_dir_all(root.join("snapshots/aaa")).unwrap();
    fs::remove_dir_all(root.join("snapshots/bbb")).unwrap();
    assert!(error_text(load(&root)).contains("found no snapshot"));
    Ok(())
}

/// gpt-2-simple keeps the steps of a run as TensorFlow does.
#[test]
fn a_run_of_gpt_2_simple_opens_the_step_that_it_names() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let source = golden("formats/openai");
    let step = |number: usize| {
        for end in ["index", "data-00000-of-00001"] {
            let name = format!("model-{number}.{end}");
            fs::copy(source.join(format!("model.ckpt.{end}")), folder.path().join(name)).unwrap();
        }
    };
    step(1000);
    step(2000);
    step(900);
    let reason = || Ok::<_, candle_gpt_input::Error>(opened(folder.path())?.1.choice.unwrap());
    assert_eq!(reason()?.reason, "the newest of 3 steps");
    assert!(reason()?.path.ends_with("model-2000.index"));
    for named in ["model-1000", "/content/checkpoint/run1/model-1000"] {
        let state = format!("model_checkpoint_path: \"{named}\"\nall_model_checkpoint_paths: \"model-2000\"\n");
        fs::write(folder.path().join("checkpoint"), state).unwrap();
        assert!(reason()?.path.ends_with("model-1000.index"));
        assert_eq!(reason()?.reason, "of 3 steps, the one that the file `checkpoint` names");
    }
    fs::write(folder.path().join("checkpoint"), "model_checkpoint_path: \"model-5\"").unwrap();
    assert!(reason()?.path.ends_with("model-2000.index"));
    assert_eq!(reason()?.reason, "the newest of 3 steps; the file `checkpoint` names none of them");
    Ok(())
}

#[test]
fn a_run_of_llmc_opens_the_newest_step_that_is_done() -> Result<()> {
    let folder = TempDir::new().unwrap();
    for step in [500, 1000] {
        let name = format!("model_{step:08}.bin");
        fs::copy(golden("formats/llmc_f32.bin"), folder.path().join(name)).unwrap();
        fs::write(folder.path().join(format!("state_{step:08}_00000.bin")), [0u8; 64]).unwrap();
    }
    let (_, report) = opened(folder.path())?;
    assert!(report.to_string().contains("model_00001000.bin: the newest of 2 steps"), "{report}");
    fs::write(folder.path().join("DONE_00000500"), "").unwrap();
    let (_, report) = opened(folder.path())?;
    assert!(report.to_string().contains("model_00000500.bin: the only step that is marked as done"), "{report}");
    // Beside another checkpoint it is no run.
    fs::copy(golden("formats/f32.gguf"), folder.path().join("other.gguf")).unwrap();
    let text = error_text(load(folder.path()));
    assert!(text.contains("model_00000500.bin, model_00001000.bin, other.gguf; open one of these"), "{text}");
    Ok(())
}
