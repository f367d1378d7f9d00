//! Models that are not GPT-2, as transformers and others write them (`generate_other_models.py`).

use candle_gpt_input::checkpoint::{LeftOut, LoadReport};
use safetensors::tensor::{Dtype, TensorView};

use super::*;

fn model(name: &str) -> PathBuf {
    golden("other_models").join(name)
}

fn open_with(path: impl AsRef<Path>, options: &CheckpointOptions) -> Result<(GptInputLayer, LoadReport)> {
    GptInputLayer::open(&Checkpoint::open_with(path, options)?, &OpenOptions::new(DType::F32, &Device::Cpu))
}

fn names_of(left_out: &[LeftOut]) -> Vec<&str> {
    left_out.iter().map(|left| left.name.as_str()).collect()
}

#[test]
fn the_sum_is_that_of_transformers() -> Result<()> {
    let expected = golden_tensors("other_models/expected.safetensors");
    let ids = expected["input_ids"].clone();
    for (name, wpe, first_row) in [
        ("opt", "model.decoder.embed_positions.weight", 2),
        ("openai_gpt", "transformer.positions_embed.weight", 0),
        ("bert", "embeddings.position_embeddings.weight", 0),
        ("roberta", "embeddings.position_embeddings.weight", 2),
        ("albert", "embeddings.position_embeddings.weight", 0),
    ] {
        for storage in [TableStorage::Dense, TableStorage::Mapped] {
            let options = OpenOptions::new(DType::F32, &Device::Cpu).with_storage(storage);
            let (layer, report) = GptInputLayer::open(&Checkpoint::open(model(name))?, &options)?;
            assert_bits_eq(&layer.forward(&ids)?, &expected[&format!("{name}.sum")]);
            assert_eq!((layer.config().n_positions, layer.config().vocab_size), (7, 11), "{name}");
            let table = report.wpe.as_ref().unwrap();
            assert_eq!((table.name.as_str(), table.first_row, table.shape), (wpe, first_row, (7, 4)), "{name}");
            let text = report.to_string();
            assert_eq!(text.contains("without its first 2 rows, which are not positions"), first_row == 2, "{text}");
        }
    }
    Ok(())
}

/// What the report names is all that is missing from what enters the first block.
#[test]
fn what_a_model_adds_is_named_and_can_be_applied() -> Result<()> {
    let expected = golden_tensors("other_models/expected.safetensors");
    let left = ["embeddings.LayerNorm.bias", "embeddings.LayerNorm.weight", "embeddings.token_type_embeddings.weight"];
    for name in ["bert", "roberta"] {
        let checkpoint = Checkpoint::open(model(name))?;
        let options = OpenOptions::new(DType::F32, &Device::Cpu);
        let (layer, report) = GptInputLayer::open(&checkpoint, &options)?;
        assert_eq!(names_of(&report.left_out), left);
        assert!(report.unused.len() > left.len());
        let text = report.to_string();
        assert!(
            text.contains(
                "\nnot applied: `embeddings.LayerNorm.bias` (normalization of the sum), `embeddings.LayerNorm.weight` \
                 (normalization of the sum), `embeddings.token_type_embeddings.weight` (token types, added to the sum)\n"
            ),
            "{text}"
        );
        let vb = checkpoint.var_builder(DType::F32, &Device::Cpu).pp("embeddings");
        let types = vb.get((2, 4), "token_type_embeddings.weight")?.get(0)?;
        let norm = candle_nn::LayerNorm::new(vb.get(4, "LayerNorm.weight")?, vb.get(4, "LayerNorm.bias")?, 1e-12);
        let entered = layer.forward(&expected["input_ids"])?.broadcast_add(&types)?.apply(&norm)?;
        let apart = apart(&entered, &expected[&format!("{name}.hidden_states")]);
        assert!(apart < 1e-5, "{name}: {apart}"); // rounding of a normalization
    }
    let (_, report) = open_with(model("albert"), &CheckpointOptions::default())?;
    let mapping = ["bias", "weight"].map(|end| format!("encoder.embedding_hidden_mapping_in.{end}"));
    assert_eq!(names_of(&report.left_out)[..3], left);
    assert_eq!(names_of(&report.left_out)[3..], mapping);
    for name in ["opt", "openai_gpt"] {
        let (_, report) = open_with(model(name), &CheckpointOptions::default())?;
        assert!(report.left_out.is_empty() && !report.to_string().contains("not applied"), "{report}");
    }
    Ok(())
}

/// Without the configuration, the names tell OPT from GPT-2; BERT's are RoBERTa's too.
#[test]
fn the_row_of_position_0_is_known_or_asked_for() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("alone.safetensors");
    fs::copy(model("opt").join("model.safetensors"), &path).unwrap();
    let expected = golden_tensors("other_models/expected.safetensors");
    assert_bits_eq(&load(&path)?.forward(&expected["input_ids"])?, &expected["opt.sum"]);
    fs::copy(model("roberta").join("model.safetensors"), &path).unwrap();
    let row_2 = CheckpointOptions::default().with_first_position_row(2);
    let (layer, _) = open_with(&path, &row_2)?;
    assert_bits_eq(&layer.forward(&expected["input_ids"])?, &expected["roberta.sum"]);

    let (wte, wpe) = tables(9, 514, 4);
    let bert = |prefix: &str| {
        let name = |table| format!("{prefix}embeddings.{table}_embeddings.weight");
        save_tensors(&path, [(name("word"), &wte), (name("position"), &wpe)], []).unwrap();
    };
    bert("");
    let text = error_text(load(&path));
    assert!(text.contains("cannot tell which of the 514 rows of `embeddings.position_embeddings.weight` is"), "{text}");
    assert!(text.contains("`CheckpointOptions::with_first_position_row` (`--first-position-row`)"), "{text}");
    assert_eq!(open_with(&path, &row_2)?.0.config().n_positions, 512);
    for (model_type, n_positions) in [("bert", 514), ("xlm-roberta", 512)] {
        let json = format!(r#"{{"model_type": "{model_type}", "max_position_embeddings": 514, "pad_token_id": 1}}"#);
        let (layer, _) = open_with(&path, &CheckpointOptions::default().with_config_json(json))?;
        assert_eq!(layer.config().n_positions, n_positions, "{model_type}");
    }
    bert("roberta.");
    assert_eq!(load(&path)?.config().n_positions, 512);

    let decoder = ["encoder.layers.0.fc1.bias", "decoder.embed_tokens.weight", "decoder.embed_positions.weight"];
    save_tensors(&path, [(decoder[0], &wpe), (decoder[1], &wte), (decoder[2], &wpe)], [])?;
    assert!(error_text(load(&path)).contains("cannot tell which of the 514 rows"));
    for (json, n_positions) in [
        (r#"{"model_type": "whisper", "max_target_positions": 514}"#, 514),
        (r#"{"model_type": "bart", "max_position_embeddings": 512}"#, 512),
        (r#"{"max_position_embeddings": 512}"#, 512),
        (r#"{"max_position_embeddings": 514}"#, 514),
        (r#"{"model_type": "opt", "n_positions": 512}"#, 512), // as a conversion writes it
    ] {
        let (layer, _) = open_with(&path, &CheckpointOptions::default().with_config_json(json))?;
        assert_eq!(layer.config().n_positions, n_positions, "{json}");
    }
    let wrong = CheckpointOptions::default().with_config_json(r#"{"max_position_embeddings": 500}"#);
    assert!(error_text(open_with(&path, &wrong)).contains("`n_positions` is 500"));
    let none_left = CheckpointOptions::default().with_first_position_row(514);
    let text = error_text(open_with(&path, &none_left));
    assert!(text.contains("has 514 rows, but position 0 is to be row 514"), "{text}");
    Ok(())
}

/// OPT-350m projects rows of 512 to 1024 before it adds positions.
#[test]
fn a_projection_between_the_tables_is_refused_by_name() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("opt.safetensors");
    let (wte, _) = tables(9, 5, 2);
    let (_, wpe) = tables(9, 7, 4);
    let name = |table: &str| format!("model.decoder.{table}.weight");
    let project = Tensor::zeros((4, 2), DType::F32, &Device::Cpu)?;
    save_tensors(
        &path,
        [(name("embed_tokens"), &wte), (name("embed_positions"), &wpe), (name("project_in"), &project)],
        [],
    )?;
    let text = error_text(load(&path));
    assert!(text.contains("is 2 wide, but `model.decoder.embed_positions.weight` is 4 wide"), "{text}");
    assert!(text.contains("`model.decoder.project_in.weight` projects token rows"), "{text}");
    Ok(())
}

#[test]
fn names_of_other_libraries_are_found() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("names.safetensors");
    let (wte, wpe) = tables(9, 5, 3);
    const PEFT: &str = "base_model.model.transformer.";
    for (wte_name, wpe_name, other, is_left_out) in [
        ("embed.W_E", "pos_embed.W_pos", "blocks.0.attn.W_Q", false),
        (
            &format!("{PEFT}wte.modules_to_save.default.weight"),
            &format!("{PEFT}wpe.weight"),
            &format!("{PEFT}wte.original_module.weight"),
            false,
        ),
        (
            &format!("{PEFT}wte.base_layer.weight"),
            &format!("{PEFT}wpe.weight"),
            &format!("{PEFT}wte.lora_embedding_A.default"),
            true,
        ),
        ("params/transformer/wte/embedding", "params/transformer/wpe/embedding", "params/lm_head/kernel", false),
        (
            "language_model.embedding.word_embeddings.weight",
            "language_model.embedding.position_embeddings.weight",
            "language_model.embedding.tokentype_embeddings.weight",
            true,
        ),
        ("token_embd.weight", "position_embd.weight", "token_types.weight", true),
        ("token_embedding_table.weight", "position_embedding_table.weight", "blocks.0.sa.heads.0.key.weight", false),
    ] {
        save_tensors(&path, [(wpe_name, &wpe), (other, &wpe), (wte_name, &wte)], [])?;
        let (layer, report) = open(&path, DType::F32)?;
        assert_bits_eq(&tables_of(&layer)[0], &wte);
        assert_bits_eq(&tables_of(&layer)[1], &wpe);
        let n_used = usize::from(report.lm_head.as_deref() == Some(other));
        assert_eq!((report.wte.name.as_str(), report.unused.len()), (wte_name, 1 - n_used));
        assert_eq!(names_of(&report.left_out), if is_left_out { vec![other] } else { vec![] });
    }
    Ok(())
}

/// minGPT's position table is a parameter `[1, P, C]`, learned in place.
#[test]
fn a_leading_dimension_of_1_is_dropped() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mingpt.safetensors");
    let (wte, wpe) = tables(9, 5, 3);
    let blocks = ["blocks.0.ln1.weight", "blocks.3.ln1.weight"];
    for shape in [&[1, 5, 3][..], &[1, 1, 5, 3]] {
        let stored = wpe.reshape(shape)?;
        save_tensors(
            &path,
            [("tok_emb.weight", &wte), ("pos_emb", &stored), (blocks[0], &wte), (blocks[1], &wte)],
            [],
        )?;
        for storage in [TableStorage::Dense, TableStorage::Mapped] {
            let options = OpenOptions::new(DType::F32, &Device::Cpu).with_storage(storage);
            let (layer, report) = GptInputLayer::open(&Checkpoint::open(&path)?, &options)?;
            assert_eq!((report.wpe.unwrap().shape, layer.config().n_layer), ((5, 3), 4));
            let expected = GptInputLayer::new(wte.clone(), wpe.clone())?;
            let ids = Tensor::new(&[[8u32, 0, 3]], &Device::Cpu)?;
            assert_bits_eq(&layer.forward_at(&ids, 2)?, &expected.forward_at(&ids, 2)?);
        }
    }
    let two = wpe.narrow(0, 0, 4)?.reshape((2, 2, 3))?;
    save_tensors(&path, [("tok_emb.weight", &wte), ("pos_emb", &two)], [])?;
    assert!(error_text(load(&path)).contains("`pos_emb` has shape [2, 2, 3], expected two dimensions"));
    Ok(())
}

/// A strided or deflated table begins elsewhere than a plain one.
#[test]
fn rows_are_dropped_in_every_way_that_tables_lie() -> Result<()> {
    let expected = golden_tensors("formats/tables.safetensors");
    let skipped = expected["wpe.weight"].narrow(0, 2, 4)?;
    let options = CheckpointOptions::default().with_first_position_row(2);
    for file in [
        "tables.safetensors",
        "state_dict.pth",
        "strided.pth",
        "legacy.bin",
        "stored.npz",
        "deflated.npz",
        "fortran.npz",
        "fortran_deflated.npz",
        "f32.gguf",
        "openai",
    ] {
        let (layer, report) = open_with(golden("formats").join(file), &options)?;
        assert_bits_eq(&tables_of(&layer)[1], &skipped);
        assert_eq!(report.wpe.unwrap().shape, (4, 32), "{file}");
    }
    Ok(())
}

/// 60,000 models in one file took half a minute; the header of this one takes less than a second.
#[test]
fn many_tables_in_one_file_are_refused_soon() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("many.safetensors");
    let element = 0f32.to_le_bytes();
    let view = || TensorView::new(Dtype::F32, vec![1, 1], &element).unwrap();
    let names = (0..60_000).map(|n| format!("{n}.wte.weight"));
    safetensors::serialize_to_file(names.map(|name| (name, view())), None, &path).unwrap();
    let start = std::time::Instant::now();
    let text = error_text(load(&path));
    assert!(text.contains("no position table found (looked for 0.wpe.weight"), "{text}");
    assert!(text.contains("closest: 0.wte.weight, "), "{text}");
    let names = (0..30_000).flat_map(|n| [format!("{n}.wte.weight"), format!("{n}.wpe.weight")]);
    safetensors::serialize_to_file(names.map(|name| (name, view())), None, &path).unwrap();
    let text = error_text(load(&path));
    assert!(text.contains("several input tables: 0.wte.weight, 1.wte.weight, "), "{text}");
    assert!(text.contains(" and 29992 more; choose one") && text.len() < 1000, "{text}");
    assert!(start.elapsed().as_secs() < 15, "{:?}", start.elapsed());
}

#[test]
fn the_closest_names_are_the_most_similar_ones() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let (wte, _) = tables(9, 5, 3);
    let names = [
        "blk.0.post_attention_norm.weight",
        "emb.LayerNorm.bias",
        "emb.LayerNorm.weight",
        "model.token_embeder.weight",
        "model.word_embedding.weight",
        "model.words.weight",
        "pos.0.weight",
    ];
    save_tensors(&path, names.map(|name| (name, &wte)), [])?;
    let text = error_text(load(&path));
    assert!(text.contains("closest: model.word_embedding.weight, model.token_embeder.weight, "), "{text}");
    assert!(text.contains("`CheckpointOptions::with_wte` and `with_wpe` (`--wte`, `--wpe`)"), "{text}");
    let named = CheckpointOptions::default().with_wte("model.word.weight").with_wpe("model.words.weight");
    let text = error_text(open_with(&path, &named));
    assert!(text.contains("looked for model.word.weight") && text.contains("closest: model.words.weight, "), "{text}");
    Ok(())
}

#[test]
fn a_table_that_is_named_has_its_role_in_the_list() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let (wte, wpe) = tables(9, 5, 3);
    save_tensors(&path, [("places", &wpe), ("words", &wte), ("wpe.weight", &wpe), ("wte.weight", &wte)], [])?;
    let roles = |options: CheckpointOptions| -> Result<Vec<Role>> {
        Ok(Checkpoint::open_with(&path, &options)?.tensors()?.into_iter().map(|entry| entry.role).collect())
    };
    let (tokens, positions, other) = (Role::TokenTable, Role::PositionTable, Role::Other);
    assert_eq!(roles(CheckpointOptions::default())?, [other, other, positions, tokens]);
    let named = CheckpointOptions::default().with_wte("words").with_wpe("places");
    assert_eq!(roles(named)?, [positions, tokens, other, other]);
    assert_eq!(roles(CheckpointOptions::default().with_wte("words"))?, [other, tokens, positions, other]);
    Ok(())
}
