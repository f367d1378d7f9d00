//! Output heads: tied, of their own, copied, with a bias, in every storage; vocabularies that are padded.

use candle_core::quantized::GgmlDType;
use candle_gpt_input::LmHead;
use candle_gpt_input::embedding::NewRows;
use candle_gpt_input::lm_head::{LossOptions, Reduction};
use candle_nn::VarMap;

use super::*;

/// Sums of 8 or 12 products in another order.
const SUMS: f64 = 1e-6;

fn heads(name: &str) -> PathBuf {
    golden("heads").join(name)
}

fn expected() -> std::collections::HashMap<String, Tensor> {
    golden_tensors("heads/expected.safetensors")
}

/// A file with these tables and a head.
fn with_head(folder: &TempDir, name: &str, head: &Tensor) -> PathBuf {
    let (wte, wpe) = tables(5, 4, 32);
    let path = folder.path().join(name.replace('/', "_") + ".safetensors");
    save_tensors(&path, [("transformer.wte.weight", &wte), ("transformer.wpe.weight", &wpe), (name, head)], [])
        .unwrap();
    path
}

fn own_head(n_rows: usize) -> Tensor {
    (addressed(1., n_rows, 32, &Device::Cpu) / -64.).unwrap()
}

fn weight(head: &LmHead) -> Tensor {
    head.table().as_embedding().unwrap().embeddings().clone()
}

#[test]
fn heads_of_transformers_and_of_the_book() -> Result<()> {
    let expected = expected();
    for (path, name) in
        [("gpt2", "gpt2"), ("gptj", "gptj"), ("gpt_neox", "gpt_neox"), ("model_and_optimizer.pth", "book")]
    {
        for storage in [TableStorage::Dense, TableStorage::Mapped] {
            let options = OpenOptions::new(DType::F32, &Device::Cpu).with_storage(storage);
            let (layer, report) = GptInputLayer::open(&Checkpoint::open(heads(path))?, &options)?;
            assert!(report.lm_head.is_some() && report.has_lm_head, "{name}");
            let logits = layer.lm_head()?.forward(&expected[&format!("{name}.hidden")])?;
            assert_close(name, &logits, &expected[&format!("{name}.logits")], SUMS);
        }
    }
    Ok(())
}

#[test]
fn a_head_is_found_under_every_name() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let head = own_head(5);
    for name in ["lm_head", "out_head", "output", "embed_out", "output_layer", "to_logits", "unembedding", "head"] {
        let path = with_head(&folder, &format!("{name}.weight"), &head);
        assert_bits_eq(&weight(&load(path)?.lm_head()?), &head);
    }
    let transposed = head.t()?.contiguous()?;
    for name in ["unembed.W_U", "lm_head/kernel"] {
        let path = with_head(&folder, name, &transposed);
        assert_bits_eq(&weight(&load(&path)?.lm_head()?), &head);
        let options = OpenOptions::new(DType::F32, &Device::Cpu).with_storage(TableStorage::Mapped);
        let mapped = GptInputLayer::open(&Checkpoint::open(path)?, &options)?.0;
        assert!(error_text(mapped.lm_head()).contains("not stored row after row"));
    }
    let own = CheckpointOptions::default().with_lm_head("mine");
    let checkpoint = Checkpoint::open_with(with_head(&folder, "mine", &head), &own)?;
    let layer = GptInputLayer::open(&checkpoint, &OpenOptions::new(DType::F32, &Device::Cpu))?.0;
    assert_bits_eq(&weight(&layer.lm_head()?), &head);
    Ok(())
}

/// A copy of the token table is the table, unless the configuration says otherwise.
#[test]
fn a_copy_of_the_token_table_is_tied() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, _) = tables(5, 4, 32);
    for (name, head) in [("lm_head.weight", wte.clone()), ("unembed.W_U", wte.t()?.contiguous()?)] {
        let layer = load(with_head(&folder, name, &head))?;
        let layer = layer.trainable(&VarMap::new(), "transformer")?;
        let (vars, of_head) = (layer.vars(), layer.lm_head()?);
        assert_eq!((vars.len(), weight(&of_head).id()), (2, vars[0].id()), "{name}");
    }
    let half = load(with_head(&folder, "lm_head.weight", &wte.to_dtype(DType::BF16)?))?;
    assert_eq!(half.vars().len(), 0);
    assert_bits_eq(&weight(&half.lm_head()?), &wte.to_dtype(DType::BF16)?.to_dtype(DType::F32)?);

    let path = with_head(&folder, "lm_head.weight", &wte);
    let untied = CheckpointOptions::default().with_config_json(r#"{"tie_word_embeddings": false, "n_head": 1}"#);
    let checkpoint = Checkpoint::open_with(path, &untied)?;
    let layer = GptInputLayer::open(&checkpoint, &OpenOptions::new(DType::F32, &Device::Cpu))?.0;
    assert_eq!(layer.trainable(&VarMap::new(), "transformer")?.vars().len(), 3);
    Ok(())
}

/// What was tied when the file was written stays so while the table is trained.
#[test]
fn a_copy_is_compared_in_the_file() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, _) = tables(5, 4, 32);
    let layer = load(with_head(&folder, "lm_head.weight", &wte))?
        .replace_rows(&Tensor::new(&[0u32], &Device::Cpu)?, &Tensor::ones((1, 32), DType::F32, &Device::Cpu)?)?;
    assert_bits_eq(&weight(&layer.lm_head()?), layer.wte().as_embedding().unwrap().embeddings());
    Ok(())
}

#[test]
fn a_head_that_is_not_there_is_an_error() -> Result<()> {
    let (wte, wpe) = tables(5, 4, 32);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    save_tensors(&path, [("wte.weight", &wte), ("wpe.weight", &wpe)], []).unwrap();
    fs::write(folder.path().join("config.json"), r#"{"tie_word_embeddings": false, "n_head": 1}"#).unwrap();
    let (layer, report) = open(folder.path(), DType::F32)?;
    assert!(!report.has_lm_head && report.to_string().contains("no output head"));
    for text in [error_text(layer.lm_head()), error_text(layer.save(folder.path().join("saved")))] {
        assert_eq!(
            text,
            "the model has an output head of its own (`tie_word_embeddings` is false), which is not there: give the \
             layer one with `with_lm_head`, or tie it to wte with `tie_lm_head`"
        );
    }
    assert_bits_eq(&weight(&layer.clone().tie_lm_head().lm_head()?), &wte);
    layer.with_lm_head(LmHead::new(own_head(5))?)?.save(folder.path().join("saved"))?;
    assert_bits_eq(&weight(&load(folder.path().join("saved"))?.lm_head()?), &own_head(5));

    let several = folder.path().join("several.safetensors");
    let head = own_head(5);
    let names = [("wte.weight", &wte), ("wpe.weight", &wpe), ("lm_head.weight", &head), ("out_head.weight", &head)];
    save_tensors(&several, names, []).unwrap();
    assert!(error_text(load(&several)?.lm_head()).contains("several output heads: lm_head.weight, out_head.weight"));
    let bert = folder.path().join("bert.safetensors");
    let names = [("wte.weight", &wte), ("wpe.weight", &wpe), ("cls.predictions.transform.dense.weight", &head)];
    save_tensors(&bert, names, []).unwrap();
    let layer = load(&bert)?;
    assert!(error_text(layer.lm_head()).contains("cls.predictions.transform.dense.weight` changes the hidden states"));
    layer.trainable(&VarMap::new(), "")?.save(folder.path().join("saved"))?;
    let narrow = load(with_head(&folder, "lm_head.weight", &own_head(4)))?;
    assert!(error_text(narrow.lm_head()).contains("lm_head has shape [4, 32]"));
    Ok(())
}

#[test]
fn what_was_read_is_saved() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let expected = expected();
    for (name, path) in [("gpt2", "saved"), ("gpt2", "saved.safetensors"), ("gpt2", "saved.gguf"), ("gptj", "j")] {
        let path = folder.path().join(path);
        load(heads(name))?.save(&path)?;
        let checkpoint = Checkpoint::open(&path)?;
        let names: Vec<_> = checkpoint.tensors()?.into_iter().map(|entry| entry.name).collect();
        let head = GptInputLayer::open(&checkpoint, &OpenOptions::new(DType::F32, &Device::Cpu))?.0.lm_head()?;
        assert_close(
            name,
            &head.forward(&expected[&format!("{name}.hidden")])?,
            &expected[&format!("{name}.logits")],
            SUMS,
        );
        match path.extension() {
            Some(extension) if extension == "gguf" => assert!(names.contains(&"output.weight".to_string())),
            _ => assert!(!checkpoint.config()?.tie_word_embeddings(), "{names:?}"),
        }
    }
    // A head that the configuration did not mention.
    load(heads("model_and_optimizer.pth"))?.save(folder.path().join("book"))?;
    let text = fs::read_to_string(folder.path().join("book/config.json")).unwrap();
    assert_eq!(GptInputConfig::from_json(&text)?.extra::<bool>("tie_word_embeddings")?, Some(false));
    Ok(())
}

#[test]
fn a_separate_head_follows_every_change() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let head = own_head(5);
    let layer = load(with_head(&folder, "lm_head.weight", &head))?;
    let grown = layer.resize_vocab(7, NewRows::CopyOf(2))?;
    let rows = weight(&grown.lm_head()?);
    assert_bits_eq(&rows.narrow(0, 0, 5)?, &head);
    assert_bits_eq(&rows.narrow(0, 5, 2)?, &Tensor::cat(&[head.get(2)?, head.get(2)?], 0)?.reshape((2, 32))?);
    assert_eq!(layer.resize_vocab(3, NewRows::Mean)?.lm_head()?.table().dims(), (3, 32));
    for fresh in [&layer, &load(folder.path().join("lm_head.weight.safetensors"))?] {
        // Read already, and not read yet.
        let half = fresh.to_dtype(DType::BF16)?;
        assert_bits_eq(&weight(&half.lm_head()?), &head.to_dtype(DType::BF16)?);
    }
    let (quantized, _) = layer.quantize(GgmlDType::Q8_0)?;
    assert_eq!(quantized.lm_head()?.table().block_type(), Some(GgmlDType::Q8_0));
    assert!(quantized.to_dense()?.lm_head()?.table().as_embedding().is_some());

    let varmap = VarMap::new();
    let trained = layer.trainable(&varmap, "model.transformer")?;
    let vars = trained.vars();
    assert_eq!(varmap.data().lock().unwrap()["model.lm_head.weight"].id(), vars[2].id());
    assert_eq!(weight(&trained.lm_head()?).id(), vars[2].id());
    let resized = trained.resize_vocab(6, NewRows::Mean)?;
    resized.update_varmap(&trained, &varmap);
    assert_eq!(varmap.data().lock().unwrap()["model.lm_head.weight"].dims(), [6, 32]);
    assert!(error_text(layer.trainable(&varmap, "model.other")).contains("model.lm_head.weight"));
    Ok(())
}

/// A head that nobody asks for is not read: not even its damage is noticed.
#[test]
fn a_head_is_read_when_it_is_asked_for() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(5, 4, 32);
    save_tensors(folder.path().join("one.safetensors"), [("wte.weight", &wte), ("wpe.weight", &wpe)], []).unwrap();
    let index = r#"{"weight_map": {"wte.weight": "one.safetensors", "wpe.weight": "one.safetensors",
        "lm_head.weight": "two.safetensors"}}"#;
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    let layer = load(folder.path())?;
    assert!(error_text(layer.lm_head()).contains("two.safetensors"));
    save_tensors(folder.path().join("two.safetensors"), [("lm_head.weight", &own_head(5))], []).unwrap();
    assert_bits_eq(&weight(&layer.lm_head()?), &own_head(5));
    fs::remove_file(folder.path().join("two.safetensors")).unwrap();
    assert_bits_eq(&weight(&layer.lm_head()?), &own_head(5));
    Ok(())
}

#[test]
fn quantized_heads_keep_their_blocks() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let layer = load(with_head(&folder, "lm_head.weight", &own_head(5)))?;
    layer.quantize(GgmlDType::Q8_0)?.0.save(&path)?;
    let options = OpenOptions::new(DType::F32, &Device::Cpu).with_storage(TableStorage::Quantized);
    let (read, _) = GptInputLayer::open(&Checkpoint::open(&path)?, &options)?;
    let head = read.lm_head()?;
    assert_eq!(head.table().block_type(), Some(GgmlDType::Q8_0));
    let dense = head.table().to_dense()?;
    assert_bits_eq(&weight(&load(&path)?.lm_head()?), dense.as_embedding().unwrap().embeddings());
    Ok(())
}

// ---- Padding ----

/// llm.c's header: padding rows are zero, and the logits of tokens negative.
#[test]
fn padding_takes_no_part_in_argmax_or_loss() -> Result<()> {
    let expected = expected();
    let (dense, report) = open(heads("llmc_padded.bin"), DType::F32)?;
    let padded = report.padded_vocab.map(|padded| (padded.vocab_size, padded.padded_to));
    assert_eq!((padded, dense.config().vocab_size, dense.config().n_token_rows()), (Some((97, 128)), 97, 128));
    assert!(report.to_string().contains("padded vocabulary: 128 rows for 97 tokens; padding has no logits"));
    let mapped = OpenOptions::new(DType::F32, &Device::Cpu).with_storage(TableStorage::Mapped);
    let mapped = GptInputLayer::open(&Checkpoint::open(heads("llmc_padded.bin"))?, &mapped)?.0;
    let trainable = dense.trainable(&VarMap::new(), "")?;
    for layer in [&dense, &mapped, &trainable] {
        let head = layer.lm_head()?;
        let hidden = layer.forward(&expected["llmc.input_ids"])?;
        let logits = head.forward(&hidden)?;
        assert_close("logits", &logits, &expected["llmc.logits"], SUMS);
        assert_eq!(logits.argmax(2)?.to_vec2::<u32>()?, [[90; 4]]);
        let targets = &expected["llmc.target_ids"];
        let loss = head.loss(&hidden, targets, &LossOptions::default())?.to_scalar::<f32>()?;
        assert_eq!(format!("{loss:.4}"), "4.8734");
        let each = head.loss(&hidden, targets, &LossOptions::default().with_reduction(Reduction::None))?;
        assert_close("losses", &each.flatten_all()?, &expected["llmc.losses"], 1e-5);
        let in_padding = Tensor::new(&[[97u32, 0, 0, 0]], &Device::Cpu)?;
        assert_eq!(
            error_text(head.loss(&hidden, &in_padding, &LossOptions::default())),
            "token id 97 at [0, 0] is outside the vocabulary of 97 (valid ids: 0 to 96)"
        );
    }
    let (head, hidden) = (trainable.lm_head()?, trainable.forward(&expected["llmc.input_ids"])?.detach());
    let grads = head.loss_and_grads(&hidden, &expected["llmc.target_ids"], &LossOptions::default())?;
    let through = head.loss(&hidden, &expected["llmc.target_ids"], &LossOptions::default())?.backward()?;
    let through = through.get(&trainable.vars()[0]).unwrap();
    assert_bits_eq(&grads.wte_grad.unwrap(), through);
    assert_bits_eq(&through.narrow(0, 97, 31)?, &Tensor::zeros((31, 12), DType::F32, &Device::Cpu)?);
    Ok(())
}

/// `config.json` counts the rows for transformers, and says how many are tokens.
#[test]
fn padding_survives_a_save() -> Result<()> {
    let folder = TempDir::new().unwrap();
    for name in ["saved", "saved.safetensors", "saved.gguf"] {
        let path = folder.path().join(name);
        load(heads("llmc_padded.bin"))?.save(&path)?;
        let config = Checkpoint::open(&path)?.config()?;
        assert_eq!((config.vocab_size, config.padded_vocab_size), (97, Some(128)), "{name}");
        assert_eq!(load(&path)?.lm_head()?.vocab_size(), 97);
    }
    let text = fs::read_to_string(folder.path().join("saved/config.json")).unwrap();
    assert!(text.contains("\"vocab_size\": 128") && text.contains("\"unpadded_vocab_size\": 97"), "{text}");
    Ok(())
}

#[test]
fn rows_of_padding_become_new_rows() -> Result<()> {
    let layer = load(heads("llmc_padded.bin"))?;
    let cut = layer.resize_vocab(97, NewRows::Mean)?;
    assert_eq!((cut.wte().dims(), cut.config().padded_vocab_size), ((97, 12), None));
    let grown = layer.resize_vocab(99, NewRows::CopyOf(3))?;
    let row = |id: u32| grown.embed_tokens(&Tensor::new(id, &Device::Cpu)?);
    assert_bits_eq(&row(98)?, &row(3)?);
    assert_eq!(grown.lm_head()?.vocab_size(), 99);
    let padded = cut.pad_vocab(64, NewRows::Mean)?;
    assert_eq!((padded.wte().dims(), padded.config().vocab_size, padded.lm_head()?.vocab_size()), ((128, 12), 97, 97));
    Ok(())
}

/// 50304 rows, and nothing that says how many are tokens.
#[test]
fn a_vocabulary_that_nothing_states_is_said() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(128, 4, 32);
    let path = folder.path().join("model.safetensors");
    save_tensors(&path, [("wte.weight", &wte), ("wpe.weight", &wpe)], []).unwrap();
    for config in ["", r#"{"vocab_size": 128, "n_embd": 32, "n_positions": 4, "n_head": 1}"#] {
        let mut options = CheckpointOptions::default();
        options.config_json = (!config.is_empty()).then(|| config.to_string());
        let open_as = OpenOptions::new(DType::F32, &Device::Cpu);
        let (layer, report) = GptInputLayer::open(&Checkpoint::open_with(&path, &options)?, &open_as)?;
        assert!(!report.is_vocab_size_known);
        assert!(report.to_string().contains("all 128 rows of wte are taken for tokens"), "{report}");
        assert_eq!(layer.lm_head()?.vocab_size(), 128);

        let given = options.clone().with_vocab_size(100);
        let (layer, report) = GptInputLayer::open(&Checkpoint::open_with(&path, &given)?, &open_as)?;
        assert!(report.is_vocab_size_known);
        assert_eq!((layer.config().vocab_size, layer.lm_head()?.vocab_size()), (100, 100));
        let given = options.clone().with_vocab_size(128);
        let (_, report) = GptInputLayer::open(&Checkpoint::open_with(&path, &given)?, &open_as)?;
        assert!(report.is_vocab_size_known && report.padded_vocab.is_none());
        let text = error_text(Checkpoint::open_with(&path, &options.with_vocab_size(129))?.config());
        assert!(text.contains("the config says `vocab_size` is 129, but the table `wte.weight` says 128"), "{text}");
    }
    Ok(())
}
