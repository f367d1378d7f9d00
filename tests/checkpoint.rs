//! Checkpoints in and out: transformers' files, every known name, every way to be broken, and what saving promises.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_gpt_input::checkpoint::{Checkpoint, ConfigSource, Role, ShardIndex, save_tensors};
use candle_gpt_input::{GptInputConfig, GptInputLayer, Positions, Result};
use half::{bf16, f16};
use support::{addressed, assert_bits_eq, bits, error_text, golden, golden_tensors};
use tempfile::TempDir;

fn load(path: impl AsRef<Path>) -> Result<GptInputLayer> {
    GptInputLayer::from_pretrained(path, DType::F32, &Device::Cpu)
}

/// A safetensors file with this header and as many zero bytes of data.
fn file(path: impl AsRef<Path>, header: &str, n_data: u64) -> PathBuf {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    fs::write(&path, &bytes).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(bytes.len() as u64 + n_data).unwrap();
    path.as_ref().to_path_buf()
}

fn tables(v: usize, p: usize, c: usize) -> (Tensor, Tensor) {
    let wpe = (addressed(0., p, c, &Device::Cpu) / 1024.).unwrap();
    (addressed(0., v, c, &Device::Cpu), wpe)
}

fn tables_of(layer: &GptInputLayer) -> [Tensor; 2] {
    let tables = [layer.wte().as_embedding(), layer.wpe().unwrap().as_embedding()];
    tables.map(|table| table.unwrap().embeddings().clone())
}

// ---- what transformers writes ----

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
    // Candle puts a backtrace behind its errors if RUST_BACKTRACE is set.
    let text = |result: candle_core::Result<Tensor>| error_text(result).lines().next().unwrap_or_default().to_string();
    assert!(text(vb.get(12, "ln_3.bias")).ends_with("gpt2_sharded: no tensor `transformer.h.1.ln_3.bias`"));
    let transposed = text(vb.get((36, 12), "attn.c_attn.weight"));
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
    save_tensors(&path, &tensors, &[])?;
    let checkpoint = Checkpoint::open(&path)?;
    let vb = checkpoint.var_builder(DType::F32, &Device::Cpu);
    assert_bits_eq(&vb.get((3, 2, 2), "block")?, &block);
    assert_eq!(vb.get((), "scalar")?.to_scalar::<f32>()?, 0.5);
    assert_eq!(vb.get((0, 3), "empty")?.dims(), [0, 3]);
    assert!(error_text(vb.get(1, "mask")).contains("`mask` holds U8, expected F32, F16, BF16 or F64"));
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
    let (layer, report) = GptInputLayer::from_pretrained_with_report(&folder, DType::BF16, &Device::Cpu)?;
    assert_eq!((report.wte.name.as_str(), report.wte.shape), ("transformer.wte.weight", (97, 12)));
    assert_eq!((report.wpe.as_ref().unwrap().stored_dtype, report.dtype), (DType::F32, DType::BF16));
    assert_eq!(report.config_source, ConfigSource::File(folder.join("config.json")));
    assert_eq!((report.padded_vocab, report.unused.len()), (None, 26));
    assert!(report.unused.contains(&"transformer.ln_f.weight".to_string()));
    let text = report.to_string();
    assert!(text.contains("wte = `transformer.wte.weight` [97, 12] F32 -> BF16 from "), "{text}");
    assert!(text.ends_with("config.json; 26 other tensors left"), "{text}");
    assert_eq!((layer.config().n_layer, layer.config().n_head), (2, 3));
    assert_eq!(layer.config().other["activation_function"], "gelu_new");
    Ok(())
}

#[test]
fn only_the_shards_with_tables_are_opened() -> Result<()> {
    let folder = TempDir::new().unwrap();
    for entry in fs::read_dir(golden("gpt2_sharded")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
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
    load(folder.path())?;
    load(folder.path().join("model.safetensors.index.json"))?;
    // Listing every tensor needs every shard, and says which one is missing.
    let text = error_text(Checkpoint::open(folder.path())?.tensors());
    assert!(text.contains("model-0000") && text.contains("No such file"), "{text}");
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

// ---- names, prefixes, configuration ----

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
        save_tensors(&path, &[(wpe_name, &wpe), ("lm_head.weight", &wte), (wte_name, &wte)], &[])?;
        let (layer, report) = GptInputLayer::from_pretrained_with_report(&path, DType::F32, &Device::Cpu)?;
        assert_bits_eq(&tables_of(&layer)[0], &wte);
        assert_bits_eq(&tables_of(&layer)[1], &wpe);
        assert_eq!(
            (report.wte.name.as_str(), report.unused.as_slice()),
            (wte_name, &["lm_head.weight".to_string()][..])
        );
    }
    let both = [("a.wte.weight", &wte), ("a.wpe.weight", &wpe), ("b.wte.weight", &wte), ("b.wpe.weight", &wpe)];
    save_tensors(&path, &both, &[])?;
    assert!(
        error_text(load(&path))
            .ends_with("several input tables: a.wte.weight, b.wte.weight; choose one with `with_prefix`")
    );
    let (_, report) =
        GptInputLayer::from_checkpoint(&Checkpoint::open(&path)?.with_prefix("b"), DType::F32, &Device::Cpu)?;
    assert_eq!(report.wpe.unwrap().name, "b.wpe.weight");
    Ok(())
}

#[test]
fn a_missing_config_is_inferred_from_the_shapes() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(9, 5, 128);
    let block = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
    let path = folder.path().join("model.safetensors");
    save_tensors(&path, &[("wte.weight", &wte), ("wpe.weight", &wpe), ("h.2.ln_1.bias", &block)], &[])?;
    for path in [path.as_path(), folder.path()] {
        let (layer, report) = GptInputLayer::from_pretrained_with_report(path, DType::F32, &Device::Cpu)?;
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
    save_tensors(folder.path().join("model.safetensors"), &[("wte.weight", &wte), ("wpe.weight", &wpe)], &[])?;
    let with = |config: &str| {
        fs::write(folder.path().join("config.json"), config).unwrap();
        load(folder.path())
    };
    // What the file does not state is read off the tables.
    let layer = with(r#"{"embd_pdrop": 0.25}"#)?;
    assert_eq!((layer.config().n_positions, layer.config().embd_pdrop), (5, 0.25));
    for (config, expected) in [
        (r#"{"vocab_size": 10}"#, "the config says `vocab_size` is 10, but the table `wte.weight` says 9"),
        (r#"{"n_embd": 4}"#, "the config says `n_embd` is 4, but the table `wte.weight` says 3"),
        (r#"{"block_size": 6}"#, "the config says `n_positions` is 6, but the table `wpe.weight` says 5"),
        (r#"{"n_embd": "3"}"#, "config.json: config: `n_embd` is \"3\", expected a whole number"),
        (r#"{"embd_pdrop": -1}"#, "`embd_pdrop` is -1, which is not a probability between 0 and 1"),
        ("nonsense", "config.json: config: expected ident at line 1 column 2"),
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
        save_tensors(folder.path().join("model.safetensors"), &[("wte.weight", &wte), ("wpe.weight", &wpe)], &[])?;
        fs::write(folder.path().join("config.json"), format!(r#"{{"vocab_size": {vocab_size}}}"#)).unwrap();
        let loaded = GptInputLayer::from_pretrained_with_report(folder.path(), DType::F32, &Device::Cpu);
        if !padded && vocab_size != n_rows {
            assert!(error_text(loaded).contains(&format!("`vocab_size` is {vocab_size}")));
            continue;
        }
        let (layer, report) = loaded?;
        assert_eq!(report.padded_vocab, padded.then_some((vocab_size, n_rows)));
        assert_eq!(report.to_string().contains("padded vocabulary"), padded);
        assert_eq!(layer.config().vocab_size, n_rows);
        layer.forward(&Tensor::new(&[n_rows as u32 - 1], &Device::Cpu)?)?;
    }
    Ok(())
}

#[test]
fn a_folder_with_one_other_safetensors_file_is_a_checkpoint() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(9, 5, 3);
    let save =
        |name: &str| save_tensors(folder.path().join(name), &[("tok_emb.weight", &wte), ("pos_emb.weight", &wpe)], &[]);
    assert!(error_text(load(folder.path())).ends_with("found none)"));
    save("gpt2-small-124M.safetensors")?;
    fs::write(folder.path().join("config.json"), r#"{"n_layer": 7}"#).unwrap();
    assert_eq!(load(folder.path())?.config().n_layer, 7);
    // A lone file may lie beside a config of something else.
    assert_eq!(load(folder.path().join("gpt2-small-124M.safetensors"))?.config().n_layer, 0);
    save("gpt2-medium-355M.safetensors")?;
    let text = error_text(load(folder.path()));
    assert!(text.ends_with("found gpt2-medium-355M.safetensors, gpt2-small-124M.safetensors)"), "{text}");
    Ok(())
}

// ---- hostile and broken files ----

#[test]
fn broken_files_are_named_errors() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let tensor = |name: &str, dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let wpe = tensor("wpe.weight", "F32", "[2,4]", 0, 32);
    let cases = [
        // (header, bytes of data, what the error says)
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[3,4]", 32, 80)),
            79,
            "describes 80 bytes of data, but 79 follow",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[3,4]", 32, 80)),
            81,
            "describes 80 bytes of data, but 81 follow",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[3,4]", 16, 64)),
            64,
            "not a valid safetensors file: invalid offset",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[3,4]", 40, 88)),
            88,
            "not a valid safetensors file: invalid offset",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[3,4]", 32, 1 << 60)),
            80,
            "not a valid safetensors file",
        ),
        (format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[3,5]", 32, 80)), 80, "not a valid safetensors file"),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[4294967296,4294967296,4294967296]", 32, 80)),
            80,
            "not a valid safetensors file",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "I32", "[3,4]", 32, 80)),
            80,
            "`wte.weight` holds I32, expected F32, F16, BF16 or F64",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[12]", 32, 80)),
            80,
            "`wte.weight` has shape [12], expected two dimensions",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[3,2,2]", 32, 80)),
            80,
            "`wte.weight` has shape [3, 2, 2], expected",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[0,4]", 32, 32)),
            32,
            "`wte.weight` has shape [0, 4], expected",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[6,2]", 32, 80)),
            80,
            "`wte.weight` is 2 wide, but `wpe.weight` is 4 wide",
        ),
        (
            format!("{{{wpe}}}"),
            32,
            "no token table found (looked for wte.weight, tok_emb.weight under any prefix); closest: wpe.weight",
        ),
        (
            format!("{{{}}}", tensor("wte.weight", "F32", "[3,4]", 0, 48)),
            48,
            "no position table found (looked for wpe.weight",
        ),
        ("{}".to_string(), 0, "no token table found"),
        ("{\"a\":".to_string(), 0, "not a valid safetensors file: EOF"),
        ("[]".to_string(), 0, "not a valid safetensors file"),
        ("\u{7f}".repeat(9), 0, "not a valid safetensors file"),
        ("[".repeat(100_000), 0, "not a valid safetensors file"),
    ];
    for (header, n_data, expected) in cases {
        let text = error_text(load(file(&path, &header, n_data)));
        assert!(text.contains(expected), "{text}\nexpected {expected}");
        assert!(text.starts_with(&path.display().to_string()), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    for (bytes, expected) in [
        (vec![], "it has 0 bytes, fewer than the 8 of the header's length"),
        (vec![1, 2, 3], "it has 3 bytes, fewer than the 8"),
        (100u64.to_le_bytes().to_vec(), "its header claims 100 bytes, but the file has 8"),
        (100_000_001u64.to_le_bytes().to_vec(), "its header claims 100000001 bytes, more than the limit of 100000000"),
        (u64::MAX.to_le_bytes().to_vec(), "more than the limit"),
        (b"\x04\0\0\0\0\0\0\0\xff\xfe{}".to_vec(), "not a valid safetensors file"),
    ] {
        fs::write(&path, bytes).unwrap();
        let text = error_text(load(&path));
        assert!(text.contains(expected), "{text}\nexpected {expected}");
    }
    Ok(())
}

#[test]
fn broken_folders_are_named_errors() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("nothing-here");
    assert_eq!(error_text(load(&missing)), format!("{}: no such file or folder", missing.display()));
    let index = folder.path().join("model.safetensors.index.json");
    let with = |text: &str| {
        fs::write(&index, text).unwrap();
        error_text(load(folder.path()))
    };
    let map = |shard: &str| format!(r#"{{"weight_map":{{"wte.weight":"{shard}","wpe.weight":"{shard}"}}}}"#);
    for (text, expected) in [
        ("{", "not a valid shard index: EOF"),
        ("{}", "not a valid shard index: missing field `weight_map`"),
        (r#"{"weight_map":{}}"#, "its weight_map is empty"),
        (r#"{"weight_map":{"x":"y.safetensors"}}"#, "no token table found"),
        (&map("../secret.safetensors"), "`../secret.safetensors` is not a plain file name"),
        (&map("/etc/passwd"), "`/etc/passwd` is not a plain file name"),
        (&map(".."), "`..` is not a plain file name"),
        (&map("a.safetensors"), "a.safetensors: No such file or directory"),
    ] {
        let error = with(text);
        assert!(error.contains(expected), "{error}\nexpected {expected}");
    }
    // An index that names a tensor which its shard does not hold.
    let (wte, _) = tables(9, 5, 3);
    save_tensors(folder.path().join("a.safetensors"), &[("wte.weight", &wte)], &[])?;
    assert!(with(&map("a.safetensors")).ends_with("the index says that tensor `wpe.weight` is here, but it is not"));
    Ok(())
}

#[test]
fn types_that_tables_cannot_have_are_refused() -> Result<()> {
    let result = GptInputLayer::from_pretrained(golden("gpt2_one_file"), DType::U8, &Device::Cpu);
    assert_eq!(
        error_text(result),
        "U8 is not supported here: tables are f32, f16, bf16 or f64, other tensors also u8, u32 or i64"
    );
    Ok(())
}

// ---- conversions ----

#[test]
fn types_convert_as_in_pytorch() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let values =
        [1.0f64, -2.5, 65504.0, 65520.0, 1e-8, 6.1e-5, 1.00048828125, 3.3895314e38, 1e300, 0.1, f64::INFINITY, -0.0];
    let wte = Tensor::new(&[values], &Device::Cpu)?;
    let save = |dtype: DType| -> Result<()> {
        let wte = wte.to_dtype(dtype)?;
        save_tensors(&path, &[("wte.weight", &wte), ("wpe.weight", &wte)], &[])
    };
    let table = |dtype: DType| -> Result<Tensor> {
        Ok(tables_of(&GptInputLayer::from_pretrained(&path, dtype, &Device::Cpu)?)[0].clone())
    };
    let narrowed: Vec<f32> = values.iter().map(|&x| x as f32).collect();
    save(DType::F64)?; // through f32, as `tensor.to(torch.bfloat16)` of a double does
    assert_bits_eq(&table(DType::F64)?, &wte);
    assert_eq!(table(DType::F32)?.flatten_all()?.to_vec1::<f32>()?, narrowed);
    let halves: Vec<f16> = narrowed.iter().map(|&x| f16::from_f32(x)).collect();
    assert_eq!(table(DType::F16)?.flatten_all()?.to_vec1::<f16>()?, halves);
    let brains: Vec<bf16> = narrowed.iter().map(|&x| bf16::from_f32(x)).collect();
    assert_eq!(table(DType::BF16)?.flatten_all()?.to_vec1::<bf16>()?, brains);
    for stored in [DType::F16, DType::BF16] {
        save(stored)?;
        let widened = wte.to_dtype(stored)?.to_dtype(DType::F32)?;
        assert_bits_eq(&table(DType::F32)?, &widened);
        assert_bits_eq(&table(DType::F64)?, &widened.to_dtype(DType::F64)?);
        assert_bits_eq(&table(stored)?, &wte.to_dtype(stored)?);
    }
    Ok(())
}

#[test]
fn tables_larger_than_a_piece_are_read_whole() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    // 1.5 MB and some: more than one piece of a megabyte, and no multiple of one.
    let (wte, wpe) = tables(12_345, 7, 31);
    save_tensors(&path, &[("wpe.weight", &wpe), ("wte.weight", &wte)], &[])?;
    assert_bits_eq(&tables_of(&load(&path)?)[0], &wte);
    Ok(())
}

// ---- saving ----

fn awkward_config() -> GptInputConfig {
    let mut config = GptInputConfig::new(9, 5, 3);
    (config.n_layer, config.n_head, config.embd_pdrop, config.initializer_range) = (3, 1, 0.37, 0.0123);
    config.other.insert("n_inner".to_string(), serde_json::Value::Null);
    config.other.insert("quotes \"and\" \u{1F917}".to_string(), "\u{0}\n".into());
    config
}

#[test]
fn save_and_load_give_back_every_bit_and_the_whole_config() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source");
    let config = awkward_config();
    fs::create_dir(&source).unwrap();
    fs::write(source.join("config.json"), config.to_json()).unwrap();
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        // NaNs with a payload, infinities, subnormals: bits, not values.
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
        save_tensors(source.join("model.safetensors"), &[("wte.weight", &wte), ("wpe.weight", &wpe)], &[])?;
        let layer = GptInputLayer::from_pretrained(&source, dtype, &Device::Cpu)?;
        assert_eq!(layer.config(), &config);
        for target in [folder.path().join("one.safetensors"), folder.path().join("a folder")] {
            layer.save(&target)?;
            let (back, report) = GptInputLayer::from_pretrained_with_report(&target, dtype, &Device::Cpu)?;
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
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["out.safetensors"]);
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
    assert!(error_text(layer.save(&nowhere)).starts_with(&nowhere.display().to_string()));
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
    save_tensors(&path, &[("u8", &ids), ("i64", &wide), ("u32", &ids.to_dtype(DType::U32)?)], &[])?;
    let back = candle_core::safetensors::load(&path, &Device::Cpu)?;
    assert_eq!(back["i64"].to_vec2::<i64>()?, [[1, 2]]);
    assert_eq!((back["u8"].to_vec2::<u8>()?, back["u32"].to_vec2::<u32>()?), (vec![vec![1, 2]], vec![vec![1, 2]]));
    assert!(
        error_text(save_tensors(&path, &[("x", &ids.to_dtype(DType::I16)?)], &[])).starts_with("I16 is not supported")
    );
    Ok(())
}

// ---- memory ----

/// Two tables of GPT-2 small in a file of half a gigabyte: loading them in a process of its own needs little more than
/// the tables.
#[cfg(target_os = "linux")]
#[test]
fn only_the_tables_are_read_into_memory() -> Result<()> {
    const PATH: &str = "CHECKPOINT_TO_LOAD";
    if let Ok(path) = std::env::var(PATH) {
        let layer = load(path)?;
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap().to_string();
        println!("loaded {} {peak}", layer.config().vocab_size);
        return Ok(());
    }
    let folder = TempDir::new().unwrap();
    let tables = (50257 + 1024) * 768 * 4u64;
    let (wte, rest) = (50257 * 768 * 4u64, 500_000_000 - tables);
    let header = format!(
        r#"{{"wte.weight":{{"dtype":"F32","shape":[50257,768],"data_offsets":[0,{wte}]}},"wpe.weight":{{"dtype":"F32","shape":[1024,768],"data_offsets":[{wte},{tables}]}},"rest":{{"dtype":"U8","shape":[{rest}],"data_offsets":[{tables},500000000]}}}}"#
    );
    let path = file(folder.path().join("model.safetensors"), &header, 500_000_000);
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "only_the_tables_are_read_into_memory", "--nocapture"])
        .env(PATH, path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("loaded 50257")).unwrap_or_else(|| panic!("{text}"));
    let peak_kb: u64 = line.split_whitespace().rev().nth(1).unwrap().parse().unwrap();
    let beyond = peak_kb * 1024 - tables;
    assert!(beyond < 60_000_000, "{beyond} bytes more than the tables");
    Ok(())
}
