//! Configurations beside weights and inside of them: GGUF's keys, and files that ask for more than there is.

use std::time::Instant;

use candle_gpt_input::embedding::EmbeddingScale;
use candle_gpt_input::position::{LongRopeScaling, PositionScheme, Rotary, RotaryConfig, RotaryScaling, YarnScaling};

use super::*;

fn gguf(name: &str) -> PathBuf {
    golden("gguf").join(format!("{name}.gguf"))
}

/// `tests/golden/generate_gguf.py`.
#[test]
fn the_keys_of_gguf_say_how_a_model_rotates() -> Result<()> {
    let rope = |theta| RotaryConfig::default().with_rope_theta(theta);
    let longrope = |short: [f64; 4], long: [f64; 4], attention_factor| {
        let longrope =
            LongRopeScaling::new(short.to_vec(), long.to_vec()).with_factor(1.).with_attention_factor(attention_factor);
        RotaryScaling::from(longrope)
    };
    let with_length = |scaling: RotaryScaling, n: usize| match scaling {
        RotaryScaling::LongRope(longrope) => longrope.with_original_max_position_embeddings(n).into(),
        other => other,
    };
    let factors = [1., 1., 2.5, 8.];
    let (short, long) = ([1., 1.25, 1.5, 1.75], [2., 4., 8., 16.]);
    let yarn = YarnScaling::new(4.).with_original_max_position_embeddings(1024);
    let cases = [
        // Pairs of neighbours in the architectures whose rows llama.cpp's converter permutes.
        ("llama", rope(5e5).with_interleaved(true).with_rotary_dim(8)),
        ("linear", rope(1e6).with_scaling(RotaryScaling::Linear { factor: 4. })),
        ("yarn", rope(1e6).with_scaling(yarn.into())),
        ("part", rope(1e4).with_partial_rotary_factor(0.25).with_rotary_dim(4)),
        (
            "llama3",
            rope(5e5)
                .with_interleaved(true)
                .with_rotary_dim(8)
                .with_scaling(with_length(longrope(factors, factors, 1.), 4096)),
        ),
        ("phi3", rope(1e4).with_rotary_dim(8).with_scaling(with_length(longrope(short, long, 1.1875), 1024))),
        ("granite", rope(1e4).with_interleaved(true)),
    ];
    for (name, rotary) in cases {
        let layer = load(gguf(name))?;
        assert_eq!(layer.config().position, PositionScheme::Rotary(rotary), "{name}");
        let config = GptInputConfig::from_json(&layer.config().to_json())?;
        assert_eq!((&config, config.n_positions, config.n_embd), (layer.config(), 4096, 16), "{name}");
    }
    let config = load(gguf("llama3"))?.config().clone();
    let PositionScheme::Rotary(rotary) = &config.position else { panic!("{:?}", config.position) };
    let (scaled, _) = Rotary::new(rotary, 8, 4096, &Device::Cpu)?.inv_freq(10);
    let (plain, _) = Rotary::new(&RotaryConfig::default().with_rope_theta(5e5), 8, 4096, &Device::Cpu)?.inv_freq(10);
    for ((scaled, plain), factor) in scaled.iter().zip(plain).zip(factors) {
        assert!(
            (f64::from(*scaled) * factor / f64::from(plain) - 1.).abs() < 3e-7,
            "{scaled} is not {plain} / {factor}"
        );
    }
    assert_eq!(load(gguf("yarn"))?.config().head_dim, Some(16));
    for name in ["bloom", "mpt"] {
        assert_eq!(load(gguf(name))?.config().position, PositionScheme::Alibi, "{name}");
    }
    let granite = load(gguf("granite"))?;
    assert_eq!(granite.config().embedding_scale, EmbeddingScale::Factor(12.));
    let text = error_text(granite.lm_head());
    assert!(text.contains("`logits_scaling` is 8.0, which is not supported"), "{text}");
    let gemma = load(gguf("gemma3"))?;
    assert_eq!(gemma.config().embedding_scale, EmbeddingScale::RootInDType);
    let PositionScheme::RotaryByLayerType(by_type) = &gemma.config().position else { panic!() };
    let thetas: Vec<_> =
        by_type.iter().map(|(name, rotary)| (name.as_str(), rotary.as_ref().unwrap().rope_theta)).collect();
    assert_eq!(thetas, [("full_attention", 1e6), ("sliding_attention", 1e4)]);
    Ok(())
}

/// What llama.cpp does where a key is absent or 0, or switches the rotation off.
#[test]
fn what_gguf_leaves_out_is_what_llama_cpp_takes() -> Result<()> {
    let minicpm = load(gguf("minicpm"))?;
    assert_eq!(minicpm.config().embedding_scale, EmbeddingScale::Factor(12.));
    let text = error_text(minicpm.lm_head());
    assert!(text.contains("`logit_scale` is 16.0"), "{text}"); // 256 of 16 columns
    let plain = load(gguf("minicpm_plain"))?;
    assert_eq!(plain.config().embedding_scale, EmbeddingScale::None);
    plain.lm_head()?;
    assert_eq!(load(gguf("granite_nope"))?.config().position, PositionScheme::None);
    let olmo = load(gguf("olmo3"))?;
    let PositionScheme::RotaryByLayerType(by_type) = &olmo.config().position else { panic!("{:?}", olmo.config()) };
    let scaled = |name: &str| by_type[name].as_ref().unwrap().scaling != RotaryScaling::None;
    assert_eq!((scaled("full_attention"), scaled("sliding_attention")), (true, false));
    Ok(())
}

/// Values that stand in llama.cpp's code, not in a file, and a bias of 0 that switches ALiBi off.
#[test]
fn what_llama_cpp_has_in_its_code_is_obeyed_or_refused() -> Result<()> {
    for name in ["mpt_learned", "starcoder"] {
        let layer = load(gguf(name))?;
        assert_eq!((&layer.config().position, layer.config().n_positions), (&PositionScheme::Learned, 4), "{name}");
        let ids = Tensor::new(&[2u32, 0], &Device::Cpu)?;
        let rows = layer.forward(&ids)?.to_vec2::<f32>()?;
        // Row 2 of the tokens with position 0; row 0 with position 1.
        assert_eq!(rows[0], (0..16).map(|c| (2 * 16 + c + c) as f32).collect::<Vec<_>>(), "{name}");
        assert_eq!(rows[1], (0..16).map(|c| (c + 16 + c) as f32).collect::<Vec<_>>(), "{name}");
    }
    for name in ["jais", "jina", "bloom"] {
        assert_eq!(load(gguf(name))?.config().position, PositionScheme::Alibi, "{name}");
    }
    let gemma = load(gguf("gemma2"))?;
    assert_eq!(gemma.config().embedding_scale, EmbeddingScale::RootInDType);
    let cohere = load(gguf("cohere2"))?;
    let PositionScheme::RotaryByLayerType(by_type) = &cohere.config().position else { panic!("{:?}", cohere.config()) };
    assert_eq!((by_type["full_attention"].is_some(), by_type["sliding_attention"].is_some()), (false, true));
    let mut failures = Failures::default();
    failures.error(gemma.lm_head(), "`final_logit_softcapping` is 30");
    failures.error(cohere.lm_head(), "`logit_scale` is 0.25");
    for name in ["grok", "smollm3"] {
        failures
            .error(load(gguf(name)), &format!("`general.architecture` is \"{name}\", which is not supported: state"));
    }
    // What it does, stated.
    let json = r#"{"position_embedding_type": "rope", "n_head": 2, "embedding_multiplier": 78.38367176906169}"#;
    let grok = Checkpoint::open_with(gguf("grok"), &CheckpointOptions::default().with_config_json(json))?;
    let scale = grok.config()?.embedding_scale;
    assert_eq!(scale, EmbeddingScale::Factor(78.38367176906169));
    Ok(())
}

/// The text that is wrong is blamed, not the file of the weights beside it.
#[test]
fn a_configuration_is_blamed_where_it_stands() {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(11, 4, 8);
    let path = folder.path().join("model.safetensors");
    save_tensors(&path, [("wte.weight", &wte), ("wpe.weight", &wpe)], []).unwrap();
    let given = "cannot use the configuration in `CheckpointOptions::config_json`";
    for (json, cause) in [("{", "not valid JSON"), (r#"{"use_rope": true}"#, "`use_rope` is true")] {
        let open = || {
            let checkpoint = Checkpoint::open_with(&path, &CheckpointOptions::default().with_config_json(json))?;
            GptInputLayer::open(&checkpoint, &OpenOptions::new(DType::F32, &Device::Cpu))
        };
        let text = error_text(open());
        assert!(text.contains(given) && text.contains(cause) && !text.contains("model.safetensors"), "{text}");
        fs::write(folder.path().join("config.json"), json).unwrap();
        let text = error_text(load(&path));
        assert!(text.contains("config.json") && text.contains(cause), "{text}");
    }
}

/// What is refused is listed all the same.
#[test]
fn what_gguf_says_and_nobody_knows_is_refused_where_it_is_asked_for() -> Result<()> {
    let cases = [
        ("unknown", "`general.architecture` is \"jamba\", which is not supported"),
        ("mpt_16", "`attn_config.alibi_bias_max` is 16.0, which is not supported"),
    ];
    for (name, expected) in cases {
        let checkpoint = Checkpoint::open(gguf(name))?;
        assert_eq!(checkpoint.tensors()?[0].name, "token_embd.weight");
        for result in [checkpoint.config().map(drop), load(gguf(name)).map(drop)] {
            let text = error_text(result);
            assert!(text.contains(expected) && text.contains(name), "{name}: {text}");
        }
    }
    Ok(())
}

/// Each of these took minutes, or the memory of the machine.
#[test]
fn a_few_digits_take_neither_time_nor_memory() {
    let folder = TempDir::new().unwrap();
    let (wte, wpe) = tables(11, 4, 8);
    save_tensors(folder.path().join("model.safetensors"), [("wte.weight", &wte), ("wpe.weight", &wpe)], []).unwrap();
    let start = Instant::now();
    let cases = [
        (r#"{"position_embedding_type": "shaw", "n_layer": 1000000000000000, "n_head": 1}"#, "`n_layer` is"),
        (
            r#"{"position_embedding_type": "transformer-xl", "n_layer": 18446744073709551615, "n_head": 1}"#,
            "`n_layer` is",
        ),
        (r#"{"position_embedding_type": "deberta", "n_layer": 100000, "n_head": 1}"#, "`n_layer` is"),
        (r#"{"position_embedding_type": "shaw", "n_layer": 10000, "n_head": 1}"#, "h.0.attn.distance_embedding.weight"),
        (
            r#"{"position_embedding_type": "shaw", "n_layer": 1, "n_head": 1, "left_max_position_embeddings": 18446744073709551615}"#,
            "`left_max_position_embeddings` is",
        ),
        (r#"{"position_embedding_type": "sinusoidal", "n_positions": 1152921504606846976}"#, "`n_positions` is"),
        (r#"{"position_embedding_type": "sinusoidal", "n_positions": 100000000}"#, "`n_positions` is"),
        (r#"{"position_embedding_type": "alibi", "n_head": 9223372036854775808, "head_dim": 1}"#, "`n_head` is"),
    ];
    let mut failures = Failures::default();
    for (config, expected) in cases {
        fs::write(folder.path().join("config.json"), config).unwrap();
        failures.error(load(folder.path()), expected);
    }
    // A hole of 3 GB behind a brace.
    fs::write(folder.path().join("config.json"), "{").unwrap();
    let file = fs::OpenOptions::new().write(true).open(folder.path().join("config.json")).unwrap();
    file.set_len(3 << 30).unwrap();
    failures.error(load(folder.path()), "larger than 2097152 bytes");
    failures.holds(start.elapsed().as_secs() < 20, format_args!("{:?}", start.elapsed()));
}

#[test]
fn a_folder_as_python_writes_it_opens_and_is_written_back() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let (wte, _) = tables(11, 4, 8);
    let head = (&wte * 2.)?;
    save_tensors(folder.path().join("model.safetensors"), [("wte.weight", &wte), ("lm_head.weight", &head)], [])?;
    let config = r#"{"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "mask": -Infinity,
        "max_position_embeddings": 64, "rope_scaling": {"rope_type": "linear", "factor": 2.0, "note": NaN}, "vocab_size": 11}"#;
    fs::write(folder.path().join("config.json"), config).unwrap();
    let layer = load(folder.path())?;
    let out = TempDir::new().unwrap();
    layer.save(out.path())?;
    let written = fs::read_to_string(out.path().join("config.json")).unwrap();
    for key in ["\"mask\": -Infinity", "\"note\": NaN", "\"hidden_size\": 8", "\"rope_scaling\""] {
        assert!(written.contains(key), "{key} is not in {written}");
    }
    assert!(!written.contains("n_embd"), "{written}");
    assert_eq!(load(out.path())?.config(), layer.config());
    Ok(())
}
