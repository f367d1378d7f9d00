//! Options for what a checkpoint's files leave open: names of tables, a state dict, a configuration.

use super::*;
use candle_gpt_input::position::PositionScheme;

fn with(path: impl AsRef<Path>, options: &CheckpointOptions) -> Result<GptInputLayer> {
    let checkpoint = Checkpoint::open_with(path, options)?;
    Ok(GptInputLayer::open(&checkpoint, &OpenOptions::new(DType::F32, &Device::Cpu))?.0)
}

#[test]
fn tables_are_taken_by_the_names_that_are_given() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("odd.safetensors");
    let (wte, wpe) = tables(7, 5, 3);
    save_tensors(&path, [("words", &wte), ("places", &wpe), ("wte.weight", &wpe)], [])?;
    let named = CheckpointOptions::default().with_wte("words").with_wpe("places");
    let found = tables_of(&with(&path, &named)?);
    assert_bits_eq(&found[0], &wte);
    assert_bits_eq(&found[1], &wpe);
    let text = error_text(with(&path, &CheckpointOptions::default().with_wte("word").with_wpe("places")));
    assert!(text.contains("token table") && text.contains("word") && text.contains("closest"), "{text}");
    let text = error_text(with(&path, &CheckpointOptions::default().with_wte("wte.weight").with_wpe("place")));
    assert!(text.contains("position table") && text.contains("place"), "{text}");
    Ok(())
}

#[test]
fn one_name_alone_goes_with_the_known_names_of_the_other() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("half.safetensors");
    let (wte, wpe) = tables(7, 5, 3);
    save_tensors(&path, [("a.wte.weight", &wte), ("a.wpe.weight", &wpe), ("b.wte.weight", &wte), ("p", &wpe)], [])?;
    let found = tables_of(&with(&path, &CheckpointOptions::default().with_wte("a.wte.weight"))?);
    assert_bits_eq(&found[1], &wpe);
    let found = tables_of(&with(&path, &CheckpointOptions::default().with_wpe("p").with_prefix("b"))?);
    assert_bits_eq(&found[0], &wte);
    Ok(())
}

#[test]
fn a_state_dict_is_chosen_by_its_key() {
    let file = golden("formats/nanogpt.pt");
    let found = with(&file, &CheckpointOptions::default().with_state_dict("model")).unwrap();
    let by_itself = load(&file).unwrap();
    for (left, right) in tables_of(&found).iter().zip(&tables_of(&by_itself)) {
        assert_bits_eq(left, right);
    }
    let text = error_text(with(&file, &CheckpointOptions::default().with_state_dict("ema")));
    assert!(text.contains("no state dict under `ema`") && text.contains("`model`"), "{text}");
    for other in ["formats/f32.gguf", "formats/tables.safetensors", "formats/stored.npz", "formats/openai"] {
        let text = error_text(with(golden(other), &CheckpointOptions::default().with_state_dict("model")));
        assert!(text.contains("no state dicts to choose among"), "{other}: {text}");
    }
}

#[test]
fn no_state_dict_is_chosen_of_shards() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(7, 5, 4);
    let shard = "model-00001-of-00001.safetensors";
    save_tensors(folder.path().join(shard), [("wte.weight", &wte), ("wpe.weight", &wpe)], [])?;
    let index = format!(r#"{{"weight_map": {{"wte.weight": "{shard}", "wpe.weight": "{shard}"}}}}"#);
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    drop(with(folder.path(), &CheckpointOptions::default())?);
    let text = error_text(with(folder.path(), &CheckpointOptions::default().with_state_dict("ema")));
    assert!(text.contains("model.safetensors.index.json") && text.contains("it has no state dict `ema`"), "{text}");
    Ok(())
}

#[test]
fn a_given_configuration_takes_the_place_of_the_files() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(7, 5, 4);
    GptInputLayer::new(wte.clone(), wpe)?.save(folder.path())?;
    let json = r#"{"n_head": 2, "position_embedding_type": "none", "max_position_embeddings": 9}"#;
    let layer = with(folder.path(), &CheckpointOptions::default().with_config_json(json))?;
    assert_eq!((layer.config().n_head, layer.config().n_positions), (2, 9));
    assert_eq!(layer.config().position, PositionScheme::None);
    assert!(layer.wpe().is_none());
    let text = error_text(with(folder.path(), &CheckpointOptions::default().with_config_json(r#"{"n_embd": 5}"#)));
    assert!(text.contains("n_embd") && text.contains('5') && text.contains('4'), "{text}");
    Ok(())
}

#[test]
fn the_format_is_the_one_that_is_asked_for() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(7, 5, 4);
    let layer = GptInputLayer::new(wte.clone(), wpe)?;
    for (name, format) in [("a.weights", SaveFormat::Safetensors), ("b.weights", SaveFormat::Gguf)] {
        let path = folder.path().join(name);
        layer.save_as(&path, format)?;
        assert!(path.is_file());
        assert_bits_eq(&tables_of(&load(&path)?)[0], &wte);
    }
    let path = folder.path().join("c.safetensors");
    layer.save_as(&path, SaveFormat::Folder)?;
    assert!(path.join("config.json").is_file());
    assert_eq!(SaveFormat::of(&path), SaveFormat::Folder, "an existing folder stays one");
    Ok(())
}
