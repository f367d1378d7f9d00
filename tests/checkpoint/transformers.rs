//! Checkpoints that transformers wrote.

use candle_gpt_input::Error;
use candle_gpt_input::error::CheckpointError;

use super::*;

#[test]
fn a_var_builder_reads_any_tensor_of_a_file_or_of_shards() -> Result<()> {
    let folders = ["gpt2_one_file", "gpt2_sharded"].map(|name| Checkpoint::open(golden(name)));
    let [one_file, sharded] = folders;
    let (one_file, sharded) = (one_file?, sharded?);
    assert_eq!(one_file.config()?, sharded.config()?);
    for dtype in [DType::F32, DType::BF16, DType::F64] {
        let (left, right) = (one_file.var_builder(dtype, &Device::Cpu), sharded.var_builder(dtype, &Device::Cpu));
        for entry in one_file.tensors()? {
            let tensor = left.get(entry.shape.as_slice(), &entry.name)?;
            assert_eq!((tensor.dtype(), tensor.dims()), (dtype, entry.shape.as_slice()));
            assert_bits_eq(&tensor, &right.get(entry.shape.as_slice(), &entry.name)?);
        }
    }
    let expected = candle_core::safetensors::load(golden("gpt2_one_file/model.safetensors"), &Device::Cpu)?;
    let vb = sharded.var_builder(DType::F32, &Device::Cpu).pp("transformer.h.1");
    assert_bits_eq(&vb.get((12, 36), "attn.c_attn.weight")?, &expected["transformer.h.1.attn.c_attn.weight"]);
    assert!(vb.contains_tensor("ln_1.bias") && !vb.contains_tensor("ln_3.bias"));
    let missing = Error::from(vb.get(12, "ln_3.bias").unwrap_err());
    assert!(
        missing
            .to_string()
            .contains("gpt2_sharded: no tensor `transformer.h.1.ln_3.bias` (closest: transformer.h.1.ln_")
    );
    assert!(matches!(missing, Error::Checkpoint(CheckpointError::MissingTensor { .. })));
    let transposed = error_text(vb.get((36, 12), "attn.c_attn.weight"));
    assert!(transposed.ends_with("`transformer.h.1.attn.c_attn.weight` has shape [12, 36], expected [36, 12]"));
    Ok(())
}

#[test]
fn a_var_builder_gives_scalars_and_blocks_and_no_integers() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.safetensors");
    let block = Tensor::new(&[[[1f32, 2.], [3., 4.]], [[5., 6.], [7., 8.]], [[9., 10.], [11., 12.]]], &Device::Cpu)?;
    let (half, scalar) = (block.to_dtype(DType::F16)?, Tensor::new(0.5f64, &Device::Cpu)?);
    let (empty, mask) = (Tensor::zeros((0, 3), DType::F32, &Device::Cpu)?, Tensor::new(&[1u8], &Device::Cpu)?);
    let tensors = [("block", &half), ("scalar", &scalar), ("empty", &empty), ("mask", &mask)];
    save_tensors(&path, tensors, [])?;
    let checkpoint = Checkpoint::open(&path)?;
    let vb = checkpoint.var_builder(DType::F32, &Device::Cpu);
    assert_bits_eq(&vb.get((3, 2, 2), "block")?, &block);
    assert_eq!(vb.get((), "scalar")?.to_scalar::<f32>()?, 0.5);
    assert_eq!(vb.get((0, 3), "empty")?.dims(), [0, 3]);
    assert!(error_text(vb.get(1, "mask")).contains("`mask` holds U8, expected F32, F16, BF16, F64, F8 or blocks of"));
    assert!(error_text(checkpoint.config()).contains("no token table found"));
    Ok(())
}

#[test]
fn transformers_checkpoints_give_the_same_bits() -> Result<()> {
    let golden_outputs = golden_tensors("input_layer.safetensors");
    let (ids, mask) = (&golden_outputs["input_ids"], &golden_outputs["attention_mask"]);
    for folder in ["gpt2_one_file", "gpt2_sharded"] {
        for (dtype, name) in
            [(DType::F32, "float32"), (DType::BF16, "bfloat16"), (DType::F16, "float16"), (DType::F64, "float64")]
        {
            let layer = GptInputLayer::from_pretrained(golden(folder), dtype, &Device::Cpu)?;
            assert_bits_eq(&layer.forward(ids)?, &golden_outputs[&format!("start_0.{name}")]);
            assert_bits_eq(&layer.forward_at(ids, 16)?, &golden_outputs[&format!("start_16.{name}")]);
            let padded = layer.forward_at(ids, Positions::from_mask(mask)?)?;
            assert_bits_eq(&padded, &golden_outputs[&format!("padded.{name}")]);
        }
    }
    Ok(())
}

#[test]
fn the_report_says_what_came_from_where() -> Result<()> {
    let folder = golden("gpt2_sharded");
    let (layer, report) = open(&folder, DType::BF16)?;
    assert_eq!((report.wte.name.as_str(), report.wte.shape), ("transformer.wte.weight", (97, 12)));
    assert_eq!((report.wpe.as_ref().unwrap().stored_dtype, report.dtype), (DType::F32, DType::BF16));
    assert_eq!(report.config_source, ConfigSource::File(folder.join("config.json")));
    assert_eq!((report.padded_vocab, report.unused.len()), (None, 26));
    assert!(report.unused.contains(&"transformer.ln_f.weight".to_string()));
    let text = report.to_string();
    assert!(text.contains("wte = `transformer.wte.weight` [97, 12] F32 -> BF16 from "), "{text}");
    assert!(text.ends_with("config.json; 26 other tensors left"), "{text}");
    assert_eq!((layer.config().n_layer, layer.config().n_head), (2, 3));
    assert_eq!(layer.config().extra::<String>("activation_function")?.as_deref(), Some("gelu_new"));
    Ok(())
}

#[test]
fn only_the_shards_with_tables_are_opened() -> Result<()> {
    let folder = TempDir::new().unwrap();
    copy_files(golden("gpt2_sharded"), folder.path());
    let index = ShardIndex::open(folder.path().join("model.safetensors.index.json"))?;
    let needed = index.shards_of_input_tables();
    assert_eq!(needed.len(), 1, "{needed:?}");
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("model-") && !needed.contains(name) {
            fs::remove_file(path).unwrap();
        }
    }
    drop(load(folder.path())?);
    drop(load(folder.path().join("model.safetensors.index.json"))?);
    // Listing every tensor needs every shard; the error names the missing one.
    let text = error_text(Checkpoint::open(folder.path())?.tensors());
    assert!(text.contains("model-0000") && text.contains("no such file"), "{text}");
    Ok(())
}

#[test]
fn tensors_are_listed_with_their_roles() -> Result<()> {
    let entries = Checkpoint::open(golden("gpt2_sharded"))?.tensors()?;
    assert_eq!(entries.len(), 28);
    let find = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
    let wte = find("transformer.wte.weight");
    assert_eq!((wte.dtype.as_str(), wte.shape.as_slice(), wte.n_bytes), ("F32", &[97, 12][..], 97 * 12 * 4));
    assert_eq!((wte.role, find("transformer.wpe.weight").role), (Role::TokenTable, Role::PositionTable));
    assert_eq!(find("transformer.h.0.ln_1.bias").role, Role::Other);
    assert_eq!(Role::of("lm_head.weight"), Role::OutputHead);
    Ok(())
}
