//! Indexes that list more than their shards hold, and conversions of shards and configurations.

use candle_gpt_input::Error;
use candle_gpt_input::checkpoint::TensorEntry;
use candle_gpt_input::error::CheckpointError;

use super::*;

const MISSING: &str = "listed in the index, but missing from its shard: download both again";

/// Writes `wte` into shard 1 and `wpe` with `more` into shard 2, under an index that lists `also` besides.
fn sharded(folder: &Path, also: &[(&str, u8)]) {
    let (wte, wpe) = tables(9, 5, 3);
    save_tensors(folder.join("1.safetensors"), [("wte.weight", &wte)], []).unwrap();
    save_tensors(folder.join("2.safetensors"), [("wpe.weight", &wpe), ("ln_f.weight", &wpe)], []).unwrap();
    let listed = [("wte.weight", 1), ("wpe.weight", 2), ("ln_f.weight", 2)];
    let map: Vec<_> =
        listed.iter().chain(also).map(|(name, shard)| format!(r#""{name}": "{shard}.safetensors""#)).collect();
    let index = format!(r#"{{"weight_map": {{{}}}}}"#, map.join(", "));
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

#[test]
fn names_that_are_missing_from_their_shards_are_told() -> Result<()> {
    let folder = TempDir::new().unwrap();
    sharded(folder.path(), &[("h.1.x", 2), ("h.0.x", 1), ("h.2.x", 2)]);
    let checkpoint = Checkpoint::open(folder.path())?;
    assert_eq!(checkpoint.tensors()?.len(), 3);
    let unreadable = checkpoint.unreadable()?;
    let found: Vec<_> = unreadable.iter().map(|left| (left.name.as_str(), left.file.clone())).collect();
    let shard = |n: u8| folder.path().join(format!("{n}.safetensors"));
    assert_eq!(found, [("h.0.x", shard(1)), ("h.1.x", shard(2)), ("h.2.x", shard(2))]);
    assert!(unreadable.iter().all(|left| left.reason == MISSING));
    // The tables are there.
    let (layer, report) = open(folder.path(), DType::F32)?;
    assert_eq!(layer.config().vocab_size, 9);
    assert_eq!(report.unreadable, unreadable);
    let expected = format!("3 tensors cannot be read: `h.0.x` ({MISSING}), `h.1.x` ({MISSING}), `h.2.x` ({MISSING})\n");
    assert!(report.to_string().contains(&expected), "{report}");
    let vb = checkpoint.var_builder(DType::F32, &Device::Cpu);
    let text = error_text(vb.get_unchecked("h.1.x").map_err(Error::from));
    assert!(
        text.ends_with(
            "2.safetensors: the index says that this shard holds `h.1.x`, but it does not: download both again"
        ),
        "{text}"
    );
    // A conversion would lose them.
    let error = checkpoint.convert(folder.path().join("out"), None, None).unwrap_err();
    assert!(matches!(error, Error::Checkpoint(CheckpointError::TensorNotInShard { .. })), "{error:?}");
    assert!(!folder.path().join("out").exists());
    // A table itself.
    sharded(folder.path(), &[]);
    save_tensors(folder.path().join("1.safetensors"), [("x", &tables(9, 5, 3).0)], [])?;
    let text = error_text(load(folder.path()));
    assert!(text.contains("the index says that this shard holds `wte.weight`, but it does not"), "{text}");
    assert_eq!(Checkpoint::open(folder.path())?.unreadable()?[0].name, "wte.weight");
    Ok(())
}

/// A shard without the tables is not opened by loading.
#[test]
fn shards_without_tables_may_be_missing() -> Result<()> {
    let folder = TempDir::new().unwrap();
    sharded(folder.path(), &[("h.0.x", 3)]);
    let (_, report) = open(folder.path(), DType::F32)?;
    assert!(report.unreadable.is_empty());
    assert!(error_text(Checkpoint::open(folder.path())?.unreadable()).contains("3.safetensors"));
    Ok(())
}

/// Each shard holds older tensors besides, which are those of the other shard or of nobody.
#[test]
fn the_index_decides_which_shard_holds_a_tensor() -> Result<()> {
    let folder = TempDir::new().unwrap();
    sharded(folder.path(), &[]);
    let (wte, wpe) = tables(9, 5, 3);
    let (old_wte, old_wpe) = (wte.affine(1., 1.)?, wpe.affine(1., 1.)?);
    let shard = |n: u8| folder.path().join(format!("{n}.safetensors"));
    save_tensors(shard(1), [("wte.weight", &wte), ("ln_f.weight", &old_wpe), ("old", &old_wpe)], [])?;
    save_tensors(shard(2), [("wte.weight", &old_wte), ("wpe.weight", &wpe), ("ln_f.weight", &wpe)], [])?;
    let checkpoint = Checkpoint::open(folder.path())?;
    let placed = |tensors: Vec<TensorEntry>| -> Vec<_> {
        tensors.into_iter().map(|tensor| (tensor.name, tensor.file)).collect()
    };
    let at = |name: &str, n: u8| (name.to_string(), shard(n));
    assert_eq!(placed(checkpoint.tensors()?), [at("ln_f.weight", 2), at("wpe.weight", 2), at("wte.weight", 1)]);
    assert_eq!(placed(checkpoint.not_in_index()?), [at("ln_f.weight", 1), at("old", 1), at("wte.weight", 2)]);
    assert!(checkpoint.unreadable()?.is_empty());
    let (layer, report) = open(folder.path(), DType::F32)?;
    assert_bits_eq(&tables_of(&layer)[0], &wte);
    assert_eq!(report.not_in_index, ["ln_f.weight", "old", "wte.weight"]);
    let line = "3 tensors of the shards not in the index, and left: `ln_f.weight`, `old`, `wte.weight`\n";
    assert!(report.to_string().contains(line), "{report}");
    for (to, max_bytes) in [("one.safetensors", None), ("several", Some(1))] {
        let to = folder.path().join(to);
        checkpoint.convert(&to, None, max_bytes)?;
        let converted = Checkpoint::open(&to)?;
        assert_eq!(converted.tensors()?.len(), 3);
        let vb = converted.var_builder(DType::F32, &Device::Cpu);
        assert_bits_eq(&vb.get((9, 3), "wte.weight")?, &wte);
        assert_bits_eq(&vb.get((5, 3), "ln_f.weight")?, &wpe);
    }
    Ok(())
}

/// One file under many names is one shard.
#[cfg(unix)]
#[test]
fn aliases_of_a_shard_are_one_file() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(9, 5, 3);
    let inside = |name: &str| folder.path().join(name);
    fs::create_dir(inside("d")).unwrap();
    save_tensors(
        inside("d/s.safetensors"),
        [("wte.weight", &wte), ("wpe.weight", &wpe), ("x", &wpe), ("y", &wpe)],
        [],
    )?;
    std::os::unix::fs::symlink("d/s.safetensors", inside("link.safetensors")).unwrap();
    fs::hard_link(inside("d/s.safetensors"), inside("hard.safetensors")).unwrap();
    let map = r#"{"weight_map": {"wte.weight": "d/s.safetensors", "wpe.weight": "link.safetensors",
        "x": "hard.safetensors", "y": "d//.//s.safetensors", "z": "d/./s.safetensors"}}"#;
    fs::write(inside("model.safetensors.index.json"), map).unwrap();
    let index = ShardIndex::open(inside("model.safetensors.index.json"))?;
    assert!(index.shards().into_iter().eq(["d/s.safetensors", "hard.safetensors", "link.safetensors"]));
    let checkpoint = Checkpoint::open(folder.path())?;
    let listed = checkpoint.tensors()?;
    let names: Vec<_> = listed.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["wpe.weight", "wte.weight", "x", "y"]);
    assert!(listed.iter().all(|tensor| tensor.file == inside("d/s.safetensors")));
    let unreadable = checkpoint.unreadable()?;
    assert_eq!((unreadable.len(), unreadable[0].name.as_str()), (1, "z"));
    assert!(checkpoint.not_in_index()?.is_empty());
    let (layer, report) = open(folder.path(), DType::F32)?;
    assert_bits_eq(&tables_of(&layer)[1], &wpe);
    assert_eq!((report.unreadable, report.not_in_index), (unreadable, Vec::new()));
    Ok(())
}

/// More shards than may be open at once (`ulimit -n`); each is opened again when its turn comes.
#[cfg(target_os = "linux")]
#[test]
fn shards_are_converted_one_after_another() -> Result<()> {
    const LIMITED: &str = "FEW_FILES_MAY_BE_OPEN";
    let n_shards = 40;
    if std::env::var_os(LIMITED).is_none() {
        let output = std::process::Command::new("sh")
            .args([
                "-c",
                r#"ulimit -n 24 && exec "$0" --exact incomplete::shards_are_converted_one_after_another --nocapture"#,
            ])
            .arg(std::env::current_exe().unwrap())
            .env(LIMITED, "1")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let said = format!("converted {n_shards} shards");
        assert!(text.contains(&said), "{text}{}", String::from_utf8_lossy(&output.stderr));
        return Ok(());
    }
    let folder = TempDir::new().unwrap();
    let (mut map, row) = (Vec::new(), Tensor::new(&[1f32, 2.], &Device::Cpu)?);
    for i in 0..n_shards {
        let tensor = (&row * f64::from(i))?;
        save_tensors(folder.path().join(format!("{i}.safetensors")), [(format!("t.{i}"), &tensor)], [])?;
        map.push(format!(r#""t.{i}": "{i}.safetensors""#));
    }
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, format!(r#"{{"weight_map": {{{}}}}}"#, map.join(", "))).unwrap();
    let checkpoint = Checkpoint::open(&index)?;
    for (to, max_bytes) in [("one.safetensors", None), ("several", Some(24))] {
        let to = folder.path().join(to);
        checkpoint.convert(&to, None, max_bytes)?;
        let vb = Checkpoint::open(&to)?;
        let vb = vb.var_builder(DType::F32, &Device::Cpu);
        for i in 0..n_shards {
            assert_eq!(vb.get(2, &format!("t.{i}"))?.to_vec1::<f32>()?, [i as f32, 2. * i as f32]);
        }
    }
    println!("converted {n_shards} shards");
    Ok(())
}

/// Writes tables beside a configuration.
fn configured(folder: &Path, name: &str, config: &str) -> Checkpoint {
    let (wte, wpe) = tables(9, 5, 4);
    let wpe_name = if name == "wte.weight" { "wpe.weight" } else { "conv2.weight" };
    save_tensors(folder.join("model.safetensors"), [(name, &wte), (wpe_name, &wpe)], []).unwrap();
    fs::write(folder.join("config.json"), config).unwrap();
    Checkpoint::open(folder).unwrap()
}

#[test]
fn a_conversion_drops_no_configuration() -> Result<()> {
    let folder = TempDir::new().unwrap();
    for (config, expected) in [
        (r#"{"vocab_size": 7, "n_layer": 1, "n_head": 2}"#, "the config says `vocab_size` is 7, but the table"),
        (r#"{"position_embedding_type": "rope", "n_layer": 1, "n_head": 3}"#, "cannot use the configuration in"),
    ] {
        for to in ["out", "out.safetensors"] {
            let to = folder.path().join(to);
            let text = error_text(configured(folder.path(), "wte.weight", config).convert(&to, None, None));
            assert!(text.contains(expected), "{text}");
            assert!(!to.exists());
        }
    }
    // Of a model without input tables it is carried over.
    let config = r#"{"architectures": ["ResNet"], "depths": [3, 4, 6, 3]}"#;
    let to = folder.path().join("resnet");
    let written = configured(folder.path(), "conv1.weight", config).convert(&to, None, None)?;
    assert_eq!(written, ["model.safetensors", "config.json"].map(|name| to.join(name)));
    assert_eq!(fs::read_to_string(to.join("config.json")).unwrap(), config);
    Ok(())
}
