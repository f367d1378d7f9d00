//! Names and prefixes of tables, and their configuration.

use candle_gpt_input::checkpoint::Format;

use super::*;

#[test]
fn every_known_name_is_found_under_any_prefix() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(9, 5, 3);
    let path = folder.path().join("anything.safetensors");
    for (wte_name, wpe_name) in [
        ("wte.weight", "wpe.weight"),
        ("transformer.wte.weight", "transformer.wpe.weight"),
        ("_orig_mod.transformer.wte.weight", "_orig_mod.transformer.wpe.weight"),
        ("tok_emb.weight", "pos_emb.weight"),
        ("module.model.tok_emb.weight", "module.model.pos_emb.weight"),
    ] {
        save_tensors(&path, [(wpe_name, &wpe), ("lm_head.weight", &wte), (wte_name, &wte)], [])?;
        let (layer, report) = open(&path, DType::F32)?;
        assert_bits_eq(&tables_of(&layer)[0], &wte);
        assert_bits_eq(&tables_of(&layer)[1], &wpe);
        assert_eq!(
            (report.wte.name.as_str(), report.lm_head.as_deref(), report.unused.len()),
            (wte_name, Some("lm_head.weight"), 0)
        );
    }
    let both = [("a.wte.weight", &wte), ("a.wpe.weight", &wpe), ("b.wte.weight", &wte), ("b.wpe.weight", &wpe)];
    save_tensors(&path, both, [])?;
    assert!(
        error_text(load(&path)).contains(
            "several input tables: a.wte.weight, b.wte.weight; choose one with `CheckpointOptions::with_prefix` (`--prefix`)"
        )
    );
    let (_, report) = GptInputLayer::open(
        &Checkpoint::open_with(&path, &CheckpointOptions::default().with_prefix("b"))?,
        &OpenOptions::new(DType::F32, &Device::Cpu),
    )?;
    assert_eq!(report.wpe.unwrap().name, "b.wpe.weight");
    Ok(())
}

#[test]
fn a_missing_config_is_inferred_from_the_shapes() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(9, 5, 128);
    let block = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
    let path = folder.path().join("model.safetensors");
    save_tensors(&path, [("wte.weight", &wte), ("wpe.weight", &wpe), ("h.2.ln_1.bias", &block)], [])?;
    for path in [path.as_path(), folder.path()] {
        let (layer, report) = open(path, DType::F32)?;
        let config = layer.config();
        assert_eq!((config.vocab_size, config.n_positions, config.n_embd), (9, 5, 128));
        assert_eq!((config.n_layer, config.n_head), (3, 2));
        assert_eq!(report.config_source, ConfigSource::Shapes);
    }
    Ok(())
}

#[test]
fn a_config_must_agree_with_the_tables() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(9, 5, 3);
    save_tensors(folder.path().join("model.safetensors"), [("wte.weight", &wte), ("wpe.weight", &wpe)], [])?;
    let with = |config: &str| {
        fs::write(folder.path().join("config.json"), config).unwrap();
        load(folder.path())
    };
    // Dimensions that the file does not state come from the tables.
    let layer = with(r#"{"embd_pdrop": 0.25}"#)?;
    assert_eq!((layer.config().n_positions, layer.config().embd_pdrop), (5, 0.25));
    for (config, expected) in [
        (r#"{"vocab_size": 10}"#, "the config says `vocab_size` is 10, but the table `wte.weight` says 9"),
        (r#"{"n_embd": 4}"#, "the config says `n_embd` is 4, but the table `wte.weight` says 3"),
        (r#"{"block_size": 6}"#, "the config says `n_positions` is 6, but the table `wpe.weight` says 5"),
        (r#"{"n_embd": "3"}"#, "config.json: config: `n_embd` is \"3\", expected a whole number"),
        (r#"{"embd_pdrop": -1}"#, "`embd_pdrop` is -1, which is not a probability between 0 and 1"),
        ("nonsense", "config.json: config: not valid JSON: expected ident at line 1 column 2"),
    ] {
        let text = error_text(with(config));
        assert!(text.contains(expected), "{text}");
    }
    Ok(())
}

#[test]
fn a_padded_vocabulary_is_reported_and_its_rows_are_ids() -> Result<()> {
    let folder = TempDir::new().unwrap();
    for (vocab_size, n_rows, padded) in [
        (50, 64, true),
        (65, 128, true),
        (130, 256, true),
        (64, 64, false),
        (129, 192, true),
        (50, 63, false),
        (63, 192, false),
    ] {
        let (wte, wpe) = tables(n_rows, 5, 3);
        save_tensors(folder.path().join("model.safetensors"), [("wte.weight", &wte), ("wpe.weight", &wpe)], [])?;
        fs::write(folder.path().join("config.json"), format!(r#"{{"vocab_size": {vocab_size}}}"#)).unwrap();
        let loaded = open(folder.path(), DType::F32);
        if !padded && vocab_size != n_rows {
            assert!(error_text(loaded).contains(&format!("`vocab_size` is {vocab_size}")));
            continue;
        }
        let (layer, report) = loaded?;
        let found = report.padded_vocab.map(|padded| (padded.vocab_size, padded.padded_to));
        assert_eq!(found, padded.then_some((vocab_size, n_rows)));
        assert_eq!(report.to_string().contains("padded vocabulary"), padded);
        assert_eq!((layer.config().vocab_size, layer.config().n_token_rows()), (vocab_size, n_rows));
        assert_eq!(layer.lm_head()?.vocab_size(), vocab_size);
        layer.forward(&Tensor::new(&[n_rows as u32 - 1], &Device::Cpu)?)?;
    }
    Ok(())
}

/// A pickled optimizer state beside the weights is not taken for weights.
#[test]
fn in_a_folder_safetensors_are_the_weights() -> Result<()> {
    let folder = TempDir::new().unwrap();
    fs::copy(golden("formats/state_dict.pth"), folder.path().join("optimizer.pt")).unwrap();
    assert_eq!(Checkpoint::open(folder.path())?.format()?, Format::Torch, "alone, it is all that there is");
    let (wte, wpe) = tables(9, 5, 3);
    save_tensors(folder.path().join("z.safetensors"), [("wte.weight", &wte), ("wpe.weight", &wpe)], [])?;
    assert_eq!(load(folder.path())?.config().vocab_size, 9);
    fs::copy(golden("formats/state_dict.pth"), folder.path().join("scheduler.pt")).unwrap();
    assert_eq!(load(folder.path())?.config().vocab_size, 9);
    Ok(())
}

#[test]
fn a_folder_with_one_other_safetensors_file_is_a_checkpoint() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(9, 5, 3);
    let save =
        |name: &str| save_tensors(folder.path().join(name), [("tok_emb.weight", &wte), ("pos_emb.weight", &wpe)], []);
    assert!(error_text(load(folder.path())).ends_with("found none"));
    save("gpt2-small-124M.safetensors")?;
    fs::write(folder.path().join("config.json"), r#"{"n_layer": 7}"#).unwrap();
    assert_eq!(load(folder.path())?.config().n_layer, 7);
    // A file opened by itself may lie beside the config of another model.
    assert_eq!(load(folder.path().join("gpt2-small-124M.safetensors"))?.config().n_layer, 0);
    save("gpt2-medium-355M.safetensors")?;
    let text = error_text(load(folder.path()));
    assert!(
        text.contains("folder: gpt2-medium-355M.safetensors, gpt2-small-124M.safetensors; open one of these"),
        "{text}"
    );
    Ok(())
}
