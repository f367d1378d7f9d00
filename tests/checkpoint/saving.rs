//! The promises of saving: every bit, whole files, ordinary permissions.

use candle_gpt_input::checkpoint::LoadReport;
use candle_gpt_input::position::Resize;

use super::*;

fn awkward_config() -> GptInputConfig {
    let config = GptInputConfig::new(9, 5, 3).with_n_layer(3).with_n_head(1);
    let config = config.with_embd_pdrop(0.37).with_initializer_range(0.0123);
    let config = config.with_extra("n_inner", None::<usize>).unwrap();
    config.with_extra("quotes \"and\" \u{1F917}", "\u{0}\n").unwrap()
}

#[test]
fn save_and_load_give_back_every_bit_and_the_whole_config() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source");
    let config = awkward_config();
    fs::create_dir(&source).unwrap();
    fs::write(source.join("config.json"), config.to_json()).unwrap();
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        // NaNs with a payload, infinities, subnormals: bits are compared, not values.
        let pattern = |i: usize| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7;
        let table = |n_rows: usize| -> candle_core::Result<Tensor> {
            let n = n_rows * 3;
            match dtype {
                DType::F16 => Tensor::from_vec(
                    (0..n).map(|i| f16::from_bits(0x7c00 ^ pattern(i) as u16)).collect(),
                    (n_rows, 3),
                    &Device::Cpu,
                ),
                DType::BF16 => Tensor::from_vec(
                    (0..n).map(|i| bf16::from_bits(0x7f80 ^ pattern(i) as u16)).collect(),
                    (n_rows, 3),
                    &Device::Cpu,
                ),
                DType::F64 => Tensor::from_vec(
                    (0..n).map(|i| f64::from_bits(pattern(i) | 0x7ff0 << 48)).collect(),
                    (n_rows, 3),
                    &Device::Cpu,
                ),
                _ => Tensor::from_vec(
                    (0..n).map(|i| f32::from_bits(pattern(i) as u32 | 0x7f80_0000)).collect(),
                    (n_rows, 3),
                    &Device::Cpu,
                ),
            }
        };
        let (wte, wpe) = (table(9)?, table(5)?);
        save_tensors(source.join("model.safetensors"), [("wte.weight", &wte), ("wpe.weight", &wpe)], [])?;
        let layer = GptInputLayer::from_pretrained(&source, dtype, &Device::Cpu)?;
        assert_eq!(layer.config(), &config);
        for target in [folder.path().join("one.safetensors"), folder.path().join("a folder")] {
            layer.save(&target)?;
            let (back, report) = open(&target, dtype)?;
            assert_eq!(bits(&tables_of(&back)[0]), bits(&wte));
            assert_eq!(bits(&tables_of(&back)[1]), bits(&wpe));
            assert_eq!(back.config(), &config);
            assert_eq!(report.wte.stored_dtype, dtype);
        }
    }
    assert!(folder.path().join("a folder/config.json").is_file());
    Ok(())
}

#[test]
fn saved_files_are_ordinary_files_and_nothing_else_is_left() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(9, 5, 3);
    let layer = GptInputLayer::new(wte, wpe)?;
    let path = folder.path().join("out.safetensors");
    fs::write(&path, "what was here before").unwrap();
    layer.save(&path)?;
    assert_eq!(names(folder.path()), ["out.safetensors"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let ordinary = folder.path().join("ordinary");
        fs::write(&ordinary, "").unwrap();
        assert_eq!(mode(&path), mode(&ordinary));
    }
    let bytes = fs::read(&path).unwrap();
    let (header_bytes, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header_bytes % 8, 0);
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    assert_eq!(header.offset_keys(), ["wte.weight", "wpe.weight"]);
    let nowhere = folder.path().join("no such folder/out.safetensors");
    assert!(error_text(layer.save(&nowhere)).starts_with(&format!("cannot write {}: ", nowhere.display())));
    assert!(!nowhere.exists());
    Ok(())
}

#[test]
fn strided_and_shared_tensors_are_saved_as_they_are_seen() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let wte = addressed(0., 3, 9, &Device::Cpu).t()?;
    let wpe = addressed(0., 20, 3, &Device::Cpu).narrow(0, 7, 5)?;
    GptInputLayer::new(wte.clone(), wpe.clone())?.save(&path)?;
    let [back_wte, back_wpe] = tables_of(&load(&path)?);
    assert_bits_eq(&back_wte, &wte.contiguous()?);
    assert_bits_eq(&back_wpe, &wpe.contiguous()?);
    let ids = Tensor::new(&[[1u8, 2]], &Device::Cpu)?;
    let wide = ids.to_dtype(DType::I64)?;
    save_tensors(&path, [("u8", &ids), ("i64", &wide), ("u32", &ids.to_dtype(DType::U32)?)], [])?;
    let back = candle_core::safetensors::load(&path, &Device::Cpu)?;
    assert_eq!(back["i64"].to_vec2::<i64>()?, [[1, 2]]);
    assert_eq!((back["u8"].to_vec2::<u8>()?, back["u32"].to_vec2::<u32>()?), (vec![vec![1, 2]], vec![vec![1, 2]]));
    assert!(
        error_text(save_tensors(&path, [("x", &ids.to_dtype(DType::I16)?)], []))
            .starts_with("cannot load or save a tensor as I16")
    );
    Ok(())
}

#[test]
fn names_that_could_not_be_read_back_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let (wte, wpe) = tables(7, 5, 3);
    for (names, found) in [
        (["a", "a"], "as `a`: another tensor has that name"),
        (["a", "__metadata__"], "as `__metadata__`: the format keeps that name"),
        (["a\nb", "c"], "as `a\\nb`: it has control characters"),
    ] {
        let text = error_text(save_tensors(&path, names.into_iter().zip([&wte, &wpe]), []));
        assert!(text.contains(found) && text.contains("x.safetensors"), "{text}");
        assert!(!path.exists());
    }
}

/// transformers finds nothing in a file of OPT's type with GPT-2's names.
#[test]
fn a_model_of_another_type_is_written_as_it_was_read() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let expected = golden_tensors("other_models/expected.safetensors");
    let ids = expected["input_ids"].clone();
    for name in ["opt", "openai_gpt", "bert", "roberta", "albert"] {
        let source = golden("other_models").join(name);
        let stored = candle_core::safetensors::load(source.join("model.safetensors"), &Device::Cpu)?;
        let (layer, from) = open(&source, DType::F32)?;
        for target in [folder.path().join(format!("{name}.safetensors")), folder.path().join(name)] {
            layer.save(&target)?;
            let (back, report) = open(&target, DType::F32)?;
            assert_bits_eq(&back.forward(&ids)?, &expected[&format!("{name}.sum")]);
            assert_eq!(back.config(), layer.config(), "{name}");
            let table =
                |report: &LoadReport| report.wpe.as_ref().map(|wpe| (wpe.name.clone(), wpe.shape, wpe.first_row));
            assert_eq!((&report.wte.name, table(&report)), (&from.wte.name, table(&from)), "{name}");
            // Written again it is the same.
            let again = folder.path().join("again.safetensors");
            back.save(&again)?;
            assert_bits_eq(&load(&again)?.forward(&ids)?, &expected[&format!("{name}.sum")]);
        }
        let text = |folder: &Path| fs::read_to_string(folder.join("config.json")).unwrap();
        let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
        assert_eq!(json(text(&folder.path().join(name))), json(text(&source)), "{name}");
        let written = candle_core::safetensors::load(folder.path().join(name).join("model.safetensors"), &Device::Cpu)?;
        for (table, tensor) in written {
            assert_eq!(tensor.dims(), stored[&table].dims(), "{name}: {table}");
        }
    }
    // Fewer positions, and names that have to be given: what is written is read without a word.
    let opt = golden("other_models/opt");
    let mut layer = load(&opt)?;
    layer = layer.resize_positions(5, Resize::Crop)?;
    layer.save(folder.path().join("short"))?;
    let back = load(folder.path().join("short"))?;
    assert_eq!((back.config().n_positions, back.config()), (5, layer.config()));
    assert_bits_eq(
        &back.forward_at(&Tensor::new(&[3u32], &Device::Cpu)?, 4)?,
        &layer.forward_at(&Tensor::new(&[3u32], &Device::Cpu)?, 4)?,
    );
    let named = CheckpointOptions::default()
        .with_wte("model.decoder.embed_tokens.weight")
        .with_wpe("model.decoder.embed_positions.weight")
        .with_first_position_row(1);
    let (layer, _) = GptInputLayer::open(
        &Checkpoint::open_with(
            opt.join("model.safetensors"),
            &named.with_config_json(r#"{"model_type": "opt", "vocab_size": 11, "hidden_size": 4}"#),
        )?,
        &OpenOptions::new(DType::F32, &Device::Cpu),
    )?;
    layer.save(folder.path().join("named"))?;
    let ids = Tensor::new(&[3u32, 5], &Device::Cpu)?;
    assert_bits_eq(&load(folder.path().join("named"))?.forward(&ids)?, &layer.forward(&ids)?);
    Ok(())
}

/// GGUF's GPT-2 has no key for it: rows would come back without their factor.
#[test]
fn a_factor_of_rows_is_not_lost_in_gguf() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(9, 5, 4);
    save_tensors(folder.path().join("model.safetensors"), [("wte.weight", &wte), ("wpe.weight", &wpe)], [])?;
    fs::write(folder.path().join("config.json"), r#"{"embedding_multiplier": 3.0}"#).unwrap();
    let layer = load(folder.path())?;
    let text = error_text(layer.save(folder.path().join("a.gguf")));
    assert!(
        text.contains("`embedding_multiplier` is 3, which is not supported: GGUF's GPT-2 has no such key"),
        "{text}"
    );
    layer.save(folder.path().join("b.safetensors"))?;
    let ids = Tensor::new(&[3u32, 5], &Device::Cpu)?;
    assert_bits_eq(&load(folder.path().join("b.safetensors"))?.forward(&ids)?, &layer.forward(&ids)?);
    Ok(())
}
