//! State dicts wherever they lie in a pickle, and what lies beside them: files that PyTorch wrote
//! (`generate_pickles.py`).

use candle_gpt_input::embedding::EmbeddingScale;
use candle_gpt_input::position::{PositionScheme, RotaryConfig};
use serde_json::json;

use super::*;

const V: usize = 5;
const P: usize = 3;
const C: usize = 4;

pub fn pickle(name: &str) -> PathBuf {
    golden("pickles").join(name)
}

/// The tables of the files, larger by `more`.
pub fn expected(more: f64) -> [Tensor; 2] {
    let (wte, wpe) = tables(V, P, C);
    [wte, wpe].map(|table| (table + more).unwrap())
}

#[track_caller]
pub fn assert_tables(name: &str, options: &CheckpointOptions, expected: &[Tensor; 2]) {
    let checkpoint = Checkpoint::open_with(pickle(name), options).unwrap_or_else(|error| panic!("{error:?}"));
    let (layer, _) = GptInputLayer::open(&checkpoint, &OpenOptions::new(DType::F32, &Device::Cpu))
        .unwrap_or_else(|error| panic!("{name}: {error:?}"));
    for (ours, expected) in tables_of(&layer).iter().zip(expected) {
        assert_bits_eq(ours, expected);
    }
}

pub fn names(name: &str, options: &CheckpointOptions) -> Vec<String> {
    let checkpoint = Checkpoint::open_with(pickle(name), options).unwrap();
    checkpoint.tensors().unwrap().into_iter().map(|tensor| tensor.name).collect()
}

pub fn state_dict(key: &str) -> CheckpointOptions {
    CheckpointOptions::default().with_state_dict(key)
}

#[test]
fn dicts_pickled_by_their_items_are_dicts() {
    for name in ["items.bin", "items.pt", "items_tuples.pt", "items_nested.pt", "python_2.bin", "python_2.pt"] {
        assert_tables(name, &CheckpointOptions::default(), &expected(0.));
        assert_eq!(names(name, &CheckpointOptions::default()), ["ln_f.weight", "wpe.weight", "wte.weight"], "{name}");
    }
}

#[test]
fn a_state_dict_is_found_under_any_key() {
    for (name, path) in
        [("weights.pt", "weights"), ("deep.pt", "trainer.nets.0.gpt"), ("parts.pt", "input"), ("model_ema.pt", "model")]
    {
        assert_tables(name, &CheckpointOptions::default(), &expected(0.));
        assert_eq!(names(name, &CheckpointOptions::default()), ["ln_f.weight", "wpe.weight", "wte.weight"], "{name}");
        assert_tables(name, &state_dict(path), &expected(0.));
        let checkpoint = Checkpoint::open(pickle(name)).unwrap();
        assert_eq!(checkpoint.pickle_report().unwrap().state_dict, path);
    }
    let others =
        |name: &str| Checkpoint::open(pickle(name)).unwrap().pickle_report().unwrap().other_state_dicts.clone();
    assert_eq!(others("parts.pt"), ["blocks"], "nothing is left out without a word");
    assert_eq!(others("model_ema.pt"), ["ema"]);
    let outside = |name: &str| Checkpoint::open(pickle(name)).unwrap().pickle_report().unwrap().n_other_tensors;
    assert_eq!((outside("weights.pt"), outside("parts.pt"), outside("deep.pt")), (1, 1, 9));
    assert!(others("weights.pt").is_empty() && others("deep.pt").is_empty());
}

#[test]
fn dicts_in_a_state_dict_are_parts_of_its_names() -> Result<()> {
    assert_eq!(
        names("megatron.pt", &CheckpointOptions::default()),
        [
            "language_model.embedding.position_embeddings.weight",
            "language_model.embedding.word_embeddings.weight",
            "language_model.encoder.final_norm.weight",
            "language_model.encoder.layers.0.input_norm.weight",
        ]
    );
    let embedding = "language_model.embedding";
    let named = CheckpointOptions::default()
        .with_wte(format!("{embedding}.word_embeddings.weight"))
        .with_wpe(format!("{embedding}.position_embeddings.weight"));
    assert_tables("megatron.pt", &named, &expected(0.));
    // A dict for each part of a name, and tables that are known by both parts together.
    assert_eq!(
        names("split.pt", &CheckpointOptions::default()),
        ["net.ln_f.weight", "net.wpe.weight", "net.wte.weight"]
    );
    assert_tables("split.pt", &CheckpointOptions::default(), &expected(0.));
    assert_eq!(names("split.pt", &state_dict("net")), ["ln_f.weight", "wpe.weight", "wte.weight"]);
    Ok(())
}

#[test]
fn several_state_dicts_are_the_callers_choice() {
    let mut failures = Failures::default();
    let open = |name: &str, options: &CheckpointOptions| Checkpoint::open_with(pickle(name), options);
    for (name, listed) in [
        (
            "net_ema.pt",
            "it holds several state dicts: `ema`, `nets.net.0`; choose one with `CheckpointOptions::with_state_dict`",
        ),
        ("moments.pt", "it holds several state dicts: `weights`, `optimizer.exp_avg`, `optimizer.exp_avg_sq`; choose"),
        ("no_names.pt", "it holds several state dicts: `left`, `right`; choose"),
    ] {
        failures.error(open(name, &CheckpointOptions::default()), listed);
    }
    failures
        .error(open("net_ema.pt", &state_dict("net.0")), "no state dict under `net.0`; it has: `ema`, `nets.net.0`");
    drop(failures);
    for (name, path, more) in [
        ("net_ema.pt", "ema", 0.5),
        ("net_ema.pt", "nets.net.0", 0.),
        ("moments.pt", "optimizer.exp_avg", 0.5),
        ("moments.pt", "weights", 0.),
        ("model_ema.pt", "ema", 0.5),
    ] {
        assert_tables(name, &state_dict(path), &expected(more));
    }
    assert_eq!(names("no_names.pt", &state_dict("right")), ["a.weight"]);
}

#[test]
fn objects_beside_the_weights_are_reported_and_never_made() -> Result<()> {
    for name in ["objects.pt", "objects_4.pt"] {
        assert_tables(name, &CheckpointOptions::default(), &expected(0.));
        let checkpoint = Checkpoint::open(pickle(name))?;
        let report = checkpoint.pickle_report().unwrap();
        let classes = report.classes.join(" ");
        for class in ["__main__.Precision", "__main__.Slots", "__main__.Module"] {
            assert!(classes.contains(class), "{class}: {report:?}");
        }
        assert!(classes.contains("datetime.datetime") && classes.contains("numpy.ndarray"), "{report:?}");
        assert_eq!(
            report.n_objects, 6,
            "a path, a time, an array, an enum, an object with slots, a class; not what is a dict"
        );
        let (_, report) = open(pickle(name), DType::F32)?;
        let line = "state dict `state_dict`; 6 objects skipped, of `__main__.Module`, ";
        assert!(report.to_string().contains(line), "{report}");
    }
    assert!(!classes_of("objects.pt")?.contains("AttributeDict"), "what was read as a dict is not skipped");
    // In the state dict itself, and in an old file.
    assert_tables("objects.bin", &CheckpointOptions::default(), &expected(0.));
    let checkpoint = Checkpoint::open(pickle("objects.bin"))?;
    assert_eq!(checkpoint.pickle_report().unwrap().classes, ["__main__.GPTConfig"]);
    Ok(())
}

fn classes_of(name: &str) -> Result<String> {
    Ok(Checkpoint::open(pickle(name))?.pickle_report().unwrap().classes.join(" "))
}

#[test]
fn an_object_in_a_place_of_a_tensor_is_refused() {
    let mut failures = Failures::default();
    for (name, expected) in [
        ("packed.pt", "its pickle holds `__main__.rebuild_packed`, which is never part of a state dict"),
        ("module.pt", "its pickle holds `__main__.Module`"),
        ("script.pt", "script.pt: this is TorchScript, as torch.jit.save"),
    ] {
        failures.error(Checkpoint::open(pickle(name)), expected);
    }
}

/// All of its keys are read, as those of a `config.json`.
#[test]
fn pickled_settings_are_obeyed_or_refused_by_name() -> Result<()> {
    let config = Checkpoint::open(pickle("args_llama.pt"))?.config()?;
    let rotary = RotaryConfig::default().with_rope_theta(5e5);
    assert_eq!((config.position.clone(), config.n_positions), (PositionScheme::Rotary(rotary), P));
    assert_eq!(config.embedding_scale, EmbeddingScale::Factor(12.));
    assert_eq!(config.extra::<serde_json::Value>("nested")?.unwrap()["dtype"], "torch.bfloat16");
    assert_eq!(config.extra::<Vec<serde_json::Value>>("betas")?.unwrap(), [json!(0.9), json!("NaN")]);
    let text = error_text(Checkpoint::open(pickle("args_unknown.pt"))?.config());
    assert!(text.contains("args_unknown.pt") && text.contains("`use_rope` is true, which is not supported"), "{text}");
    Ok(())
}

#[test]
fn a_dataclass_is_a_configuration() -> Result<()> {
    let config = Checkpoint::open(pickle("dataclass.pt"))?.config()?;
    assert_eq!((config.n_layer, config.n_head, config.n_positions, config.vocab_size), (7, 2, P, V));
    let config = Checkpoint::open(pickle("model_args.pt"))?.config()?;
    assert_eq!((config.n_layer, config.n_head, config.embd_pdrop), (2, 2, 0.0));
    Ok(())
}

#[test]
fn nothing_comes_of_a_file_without_tensors() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let empty = file(folder.path().join("empty.safetensors"), "{}", 0);
    let mut failures = Failures::default();
    for (path, beside) in [
        (
            pickle("optimizer.pt"),
            " (9 other tensors: `state.0.step`, `state.0.exp_avg`, `state.0.exp_avg_sq`, `state.1.step` and 5 more)",
        ),
        (pickle("numbers.pt"), ""),
        (empty, ""),
    ] {
        let checkpoint = Checkpoint::open(&path)?;
        assert!(checkpoint.tensors()?.is_empty());
        let expected = &format!("it holds no tensor under a name{beside}: save `model.state_dict()`");
        failures.error(checkpoint.config(), expected);
        failures.error(load(&path), expected);
        for to in ["out.safetensors", "out"] {
            failures.error(checkpoint.convert(folder.path().join(to), None, None), expected);
            assert!(!folder.path().join(to).exists());
        }
    }
    failures.error(Checkpoint::open(pickle("tensor.pt")), "it holds no dict of tensors: save `model.state_dict()`");
    Ok(())
}

#[test]
fn eight_bits_are_read_as_any_type() -> Result<()> {
    let small = golden_small();
    for name in ["float8_e4m3fn.pt", "float8_e5m2.pt", "float8_e4m3fnuz.pt", "float8_e5m2fnuz.pt", "float8.safetensors"]
    {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
            let (layer, report) = open(pickle(name), dtype)?;
            let [wte, wpe] = tables_of(&layer);
            assert_bits_eq(&wte, &small[0].to_dtype(dtype)?);
            assert_bits_eq(&wpe, &small[1].to_dtype(dtype)?);
            assert!(report.wte.stored_name.starts_with("F8_E"), "{report}");
        }
        assert!(
            error_text(open_as(pickle(name), DType::F32, TableStorage::Mapped))
                .contains("cannot map `wte.weight`, which is of an 8-bit floating-point dtype")
        );
    }
    let text = error_text(load(pickle("float8_scaled.safetensors")));
    assert!(text.contains("`wte.weight` holds F8_E4M3 with scales in `wte.weight_scale_inv`: dequantize"), "{text}");
    Ok(())
}

fn golden_small() -> [Tensor; 2] {
    let tensors = candle_core::safetensors::load(pickle("small.safetensors"), &Device::Cpu).unwrap();
    [tensors["wte.weight"].clone(), tensors["wpe.weight"].clone()]
}

#[test]
fn eight_bits_keep_nobody_from_the_others() -> Result<()> {
    let folder = TempDir::new().unwrap();
    for name in ["other_float8.pt", "other_float8.safetensors"] {
        assert_tables(name, &CheckpointOptions::default(), &expected(0.));
        let checkpoint = Checkpoint::open(pickle(name))?;
        let types = |checkpoint: &Checkpoint| -> Vec<_> {
            checkpoint.tensors().unwrap().into_iter().map(|tensor| tensor.dtype).collect()
        };
        assert_eq!(types(&checkpoint), ["F8_E4M3", "F32", "F32", "F32"]);
        let to = folder.path().join("out.safetensors");
        checkpoint.convert(&to, None, None)?;
        assert_eq!(types(&Checkpoint::open(&to)?), ["F8_E4M3", "F32", "F32", "F32"], "as they are");
        checkpoint.convert(&to, Some(DType::BF16), None)?;
        assert_eq!(types(&Checkpoint::open(&to)?), ["BF16"; 4]);
        let ones = candle_core::safetensors::load(&to, &Device::Cpu)?["h.0.mlp.c_fc.weight"].to_dtype(DType::F32)?;
        assert_eq!(ones.flatten_all()?.to_vec1::<f32>()?, [1.; 32]);
    }
    // Eight bits with scales make sense together alone.
    let to = folder.path().join("scaled.safetensors");
    Checkpoint::open(pickle("float8_scaled.safetensors"))?.convert(&to, Some(DType::BF16), None)?;
    let types: Vec<_> = Checkpoint::open(&to)?.tensors()?.into_iter().map(|tensor| tensor.dtype).collect();
    assert_eq!(types, ["BF16", "F8_E4M3", "BF16"]);
    Ok(())
}
