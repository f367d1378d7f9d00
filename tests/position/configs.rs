//! Compares configurations of many models with what transformers makes of them (`tests/golden/generate_configs.py`),
//! and with themselves once they are written again.

// Long because each kind of configuration is a short test with the same helpers.

use candle_core::{DType, Device, Tensor};
use candle_gpt_input::embedding::EmbeddingScale;
use candle_gpt_input::position::{PositionScheme, Rotary, RotaryConfig, RotaryScaling};
use candle_gpt_input::{GptInputConfig, GptInputLayer, Result};
use serde_json::{Value, json};

use crate::support::{Failures, assert_bits_eq, error_text, golden_json};

fn goldens(kind: &str) -> Vec<Value> {
    golden_json("configs.json")[kind].as_array().unwrap().clone()
}

fn floats(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(values) => values.iter().flat_map(floats).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

fn read(config: &Value) -> Result<GptInputConfig> {
    GptInputConfig::from_json(&config.to_string())
}

/// What a file of this text comes to, and that it is written as it was.
fn round_trip(failures: &mut Failures, text: &Value) -> Option<GptInputConfig> {
    let config = match read(text) {
        Ok(config) => config,
        Err(error) => {
            failures.holds(false, format_args!("{text}: {error}"));
            return None;
        }
    };
    let written: Value = serde_json::from_str(&config.to_json()).unwrap();
    for (key, value) in text.as_object().unwrap() {
        failures.holds(written[key] == *value, format_args!("{text}: written with {key} {}", written[key]));
    }
    let again = GptInputConfig::from_json(&config.to_json());
    failures.holds(again.as_ref().ok() == Some(&config), format_args!("{text}: written, {again:?}"));
    let through_serde = serde_json::from_value::<GptInputConfig>(serde_json::to_value(&config).unwrap());
    failures.holds(through_serde.ok().as_ref() == Some(&config), format_args!("{text}: through serde"));
    Some(config)
}

#[test]
fn rotations_are_those_of_transformers() {
    let mut failures = Failures::default();
    for case in goldens("rotations") {
        let name = &case["name"];
        let Some(config) = round_trip(&mut failures, &case["config"]) else { continue };
        let head_dim = config.head_dim.unwrap_or(config.n_embd / config.n_head);
        for (layer_type, lengths) in case["layers"].as_object().unwrap() {
            let rotary = match &config.position {
                PositionScheme::Rotary(rotary) if layer_type.is_empty() => rotary,
                PositionScheme::RotaryByLayerType(by_type) if !layer_type.is_empty() => {
                    by_type[layer_type].as_ref().unwrap()
                }
                other => {
                    failures.holds(false, format_args!("{name}: {other:?}"));
                    continue;
                }
            };
            let rope = Rotary::new(rotary, head_dim, config.n_positions, &Device::Cpu).unwrap();
            // Longer sequences first: what is kept of them is not used for shorter ones.
            for expected in lengths.as_array().unwrap().iter().rev() {
                let length = expected["length"].as_u64().unwrap() as usize;
                let (inv_freq, scaling) = rope.inv_freq(length);
                let theirs = floats(&expected["inv_freq"]);
                let close = |(ours, theirs): (&f32, &f32)| (ours - theirs).abs() <= 3e-7 * theirs.abs();
                failures.holds(
                    inv_freq.len() == theirs.len() && inv_freq.iter().zip(&theirs).all(close),
                    format_args!("{name}, {layer_type} at {length}: {inv_freq:?} is not {theirs:?}"),
                );
                let theirs = expected["scaling"].as_f64().unwrap() as f32;
                failures.holds(close((&scaling, &theirs)), format_args!("{name}: scaling {scaling} is not {theirs}"));
                let q = floats(&expected["q"]);
                let q = Tensor::from_vec(q, (1, 1, 2, head_dim), &Device::Cpu).unwrap();
                let positions = Tensor::new(&[[3u32, length as u32 - 1]], &Device::Cpu).unwrap();
                let (q, _) = rope.rotate(&q, &q, &positions).unwrap();
                let q = q.squeeze(0).unwrap().squeeze(0).unwrap();
                let products = q.matmul(&q.t().unwrap()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let theirs = floats(&expected["products"]);
                let largest = theirs.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                let near = products.iter().zip(&theirs).all(|(ours, theirs)| (ours - theirs).abs() <= 1e-5 * largest);
                failures.holds(near, format_args!("{name} at {length}: products {products:?} are not {theirs:?}"));
            }
        }
    }
}

/// What the golden's text says of a rotation that differs from Llama's.
fn described(rotary: &RotaryConfig) -> String {
    let part = match rotary.rotary_dim {
        Some(n) => format!(" of {n}"),
        None if rotary.partial_rotary_factor == 1.0 => String::new(),
        None => format!(" of {}", rotary.partial_rotary_factor),
    };
    let pairs = if rotary.interleaved { " neighbours" } else { "" };
    let scaling = match &rotary.scaling {
        RotaryScaling::None => "",
        RotaryScaling::Llama3(_) => " llama3",
        other => panic!("{other:?}"),
    };
    format!("rope {}{part}{pairs}{scaling}", rotary.rope_theta)
}

/// Each file as the class of transformers writes it.
#[test]
fn default_configurations_are_read_as_their_classes_mean_them() {
    let mut failures = Failures::default();
    let cases = goldens("defaults");
    for case in &cases {
        let (text, refused) = (&case["config"], case["refused"].as_str());
        let name = &text["model_type"];
        let Some(expected) = case["positions"].as_str() else {
            failures.error(read(text), &format!("`{}`", refused.unwrap()));
            continue;
        };
        let Some(config) = round_trip(&mut failures, text) else { continue };
        let positions = match &config.position {
            PositionScheme::Rotary(rotary) => described(rotary),
            PositionScheme::RotaryByLayerType(by_type) => {
                let one = |rotary: &Option<RotaryConfig>| rotary.as_ref().map_or("none".to_string(), described);
                by_type.iter().map(|(name, rotary)| format!("{name}: {}", one(rotary))).collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        };
        failures.holds(positions == expected, format_args!("{name}: {positions} is not {expected}"));
        let scale = serde_json::to_value(config.embedding_scale).unwrap();
        let expected = case["scale"].clone();
        let is_same = scale == expected || expected.is_null() && config.embedding_scale == EmbeddingScale::None;
        failures.holds(is_same, format_args!("{name}: {scale} is not {expected}"));
        if config.position == PositionScheme::Learned {
            continue;
        }
        // Few columns of the same model: what becomes of the logits is no matter of size.
        let small = config.with_vocab_size(3).with_n_embd(32).with_n_head(1).with_head_dim(64);
        let wte = Tensor::zeros((3, 32), DType::F32, &Device::Cpu).unwrap();
        match (GptInputLayer::with_scheme(wte, &small).unwrap().tie_lm_head().lm_head(), refused) {
            (Ok(_), None) => {}
            (head, Some(key)) => failures.error(head, &format!("`{key}` is")),
            (Err(error), None) => failures.holds(false, format_args!("{name}: {error}")),
        }
    }
    assert_eq!(cases.len(), 32);
}

#[test]
fn token_rows_are_scaled_as_transformers_scales_them() {
    for case in goldens("scaled") {
        let config = read(&case["config"]).unwrap();
        for (name, dtype) in [("f32", DType::F32), ("bf16", DType::BF16), ("f16", DType::F16)] {
            let tensor = |what: &str, rows: usize| {
                let values = floats(&case[name][what]);
                Tensor::from_vec(values, (rows, 12), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
            };
            let wte = tensor("table", 3);
            let layer = GptInputLayer::with_scheme(wte, &config.clone().with_vocab_size(3)).unwrap();
            let ids = Tensor::arange(0u32, 3, &Device::Cpu).unwrap();
            assert_bits_eq(&layer.forward(&ids).unwrap(), &tensor("rows", 3));
        }
    }
}

/// A configuration with every dimension that a model needs.
fn with(keys: Value) -> Value {
    let mut config = json!({"vocab_size": 11, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1,
        "max_position_embeddings": 2048});
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    config
}

fn rope(config: RotaryConfig) -> PositionScheme {
    PositionScheme::Rotary(config)
}

#[test]
fn alibi_comes_before_the_keys_of_rotary_positions() {
    let mut failures = Failures::default();
    let alibi = PositionScheme::Alibi;
    let cases = [
        (json!({"alibi": true, "rope_theta": 10000.0}), alibi.clone()),
        (json!({"alibi": true, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}), alibi.clone()),
        (json!({"alibi": false, "rope_theta": 500.0}), rope(RotaryConfig::default().with_rope_theta(500.))),
        (
            json!({"model_type": "mpt", "attn_config": {"alibi": true, "alibi_bias_max": 8, "clip_qkv": null}}),
            alibi.clone(),
        ),
        (json!({"model_type": "mpt"}), alibi.clone()),
        (json!({"model_type": "mpt", "attn_config": {"alibi": false}}), PositionScheme::Learned),
        (json!({"model_type": "bloom"}), alibi.clone()),
        (json!({"position_embedding_type": "alibi", "rope_theta": 1e4}), alibi),
        (json!({"model_type": "falcon", "alibi": false}), rope(RotaryConfig::default())),
    ];
    for (keys, scheme) in cases {
        let Some(config) = round_trip(&mut failures, &with(keys.clone())) else { continue };
        failures.holds(config.position == scheme, format_args!("{keys}: {:?}", config.position));
    }
}

#[test]
fn dropout_has_many_names() {
    let mut failures = Failures::default();
    let cases = [
        (json!({"dropout": 0.0, "block_size": 2048}), 0.0),
        (json!({"drop_rate": 0.25}), 0.25),
        (json!({"model_type": "gpt_neo", "embed_dropout": 0.0}), 0.0),
        (json!({"model_type": "starcoder2", "embedding_dropout": 0.3}), 0.3),
        (json!({"model_type": "mpt", "emb_pdrop": 0.2}), 0.2),
        (json!({"model_type": "gpt_neox", "hidden_dropout": 0.2, "rotary_pct": 0.25}), 0.2),
        (json!({"model_type": "bart", "dropout": 0.4}), 0.4),
        (json!({"model_type": "my-gpt", "dropout": 0.4, "position_embedding_type": "learned"}), 0.4),
        (json!({"model_type": "my-bert", "hidden_dropout_prob": 0.4, "position_embedding_type": "learned"}), 0.4),
        (json!({"model_type": "nomic_bert", "hidden_dropout_prob": 0.4}), 0.4),
        // Of its blocks, not of its embeddings.
        (json!({"model_type": "opt", "dropout": 0.4}), 0.0),
        (json!({"model_type": "bloom", "hidden_dropout": 0.4}), 0.0),
        (json!({"model_type": "llama"}), 0.0),
        // The defaults of the classes.
        (json!({"model_type": "gpt2"}), 0.1),
        (json!({}), 0.1),
        (json!({"model_type": "gptj", "rotary_dim": 8}), 0.0),
    ];
    for (keys, dropout) in cases {
        let Some(mut config) = round_trip(&mut failures, &with(keys.clone())) else { continue };
        failures.holds(config.embd_pdrop == dropout, format_args!("{keys}: {}", config.embd_pdrop));
        config.embd_pdrop = 0.5;
        let again = GptInputConfig::from_json(&config.to_json());
        failures.holds(again.ok().as_ref() == Some(&config), format_args!("{keys}: changed, {}", config.to_json()));
    }
    let neo = json!({"model_type": "gpt_neo", "num_layers": 3, "num_heads": 2, "hidden_size": 64, "vocab_size": 11});
    let config = read(&neo).unwrap();
    assert_eq!((config.n_layer, config.n_head), (3, 2));
}

#[test]
fn what_is_read_is_written_unchanged() {
    let mut failures = Failures::default();
    let files = [
        json!({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0, "finetuned": true, "attn_factor": 0.5},
            "rope_theta": 5e5, "position_embedding_type": null, "unknown": {"nested": [1, {"deep": null}]}}),
        json!({"rope_parameters": {"full_attention": {"rope_theta": 1e6, "note": 1}, "sliding_attention": null}}),
        json!({"position_embedding_type": "transfo-xl"}),
        json!({"position_embedding_type": "t5", "is_decoder": true}),
        json!({"position_embedding_type": "absolute", "rope_scaling": null, "head_dim": null}),
        json!({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "vocab_size": 9, "hidden_size": 8,
            "num_attention_heads": 2, "num_hidden_layers": 1, "head_dim": 4}, "vision_config": {"hidden_size": 3}}),
    ];
    for keys in files {
        let Some(mut config) = round_trip(&mut failures, &with(keys.clone())) else { continue };
        // What is changed is changed under the name that it has; everything else stays.
        config.vocab_size = 13;
        config.position = PositionScheme::Alibi;
        let written: Value = serde_json::from_str(&config.to_json()).unwrap();
        let again = GptInputConfig::from_json(&config.to_json());
        failures.holds(again.ok().as_ref() == Some(&config), format_args!("{keys}: changed, {written}"));
        let unchanged = |key: &str| written[key] == with(keys.clone())[key];
        failures.holds(unchanged("hidden_size") && unchanged("unknown") && unchanged("vision_config"), &written);
        failures.holds(written["n_embd"].is_null() || keys["text_config"].is_object(), &written);
    }
}

#[test]
fn numbers_that_json_lacks_are_read_and_written() {
    let text =
        r#"{"vocab_size": 11, "n_embd": 8, "n_head": 2, "mask_value": -Infinity, "x": {"y": [NaN, Infinity, "NaN"]}}"#;
    let config = GptInputConfig::from_json(text).unwrap();
    assert_eq!((config.vocab_size, config.extra::<String>("mask_value").unwrap().as_deref()), (11, Some("-Infinity")));
    let written = config.to_json();
    for line in ["\"mask_value\": -Infinity", "NaN,", "Infinity,", "\"NaN\"\n"] {
        assert!(written.contains(line), "{line} is not in {written}");
    }
    assert_eq!(GptInputConfig::from_json(&written).unwrap(), config);
    let changed = config.with_extra("mask_value", "-Infinity").unwrap().to_json();
    assert!(changed.contains("\"mask_value\": \"-Infinity\""), "{changed}");
    let text = error_text(GptInputConfig::from_json(r#"{"rope_theta": Infinity}"#));
    assert!(text.contains("`rope_theta` is \"Infinity\", expected a number"), "{text}");
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let mut failures = Failures::default();
    let cases = [
        (
            json!({"rope_scaling": {"rope_type": "ntk", "factor": 2.0}}),
            "`rope_type` is ntk, expected default, linear, dynamic",
        ),
        (json!({"rope_scaling": {"factor": 2.0}}), "no `rope_type`, which `factor` in `rope_parameters` needs"),
        (json!({"rope_scaling": {"rope_type": "dynamic", "factor": 1.0, "alpha": 1000.0}}), "`alpha` is 1000"),
        (json!({"rope_theta": 1e4, "rope_ratio": 500}), "`rope_ratio` is 500, which is not supported"),
        (
            json!({"rope_theta": 1e4, "no_rope_layers": [1, 2]}),
            "`no_rope_layers` is an array, expected a list with 0 or",
        ),
        (json!({"rope_theta": 1e4, "no_rope_layer_interval": 0}), "`no_rope_layer_interval` is 0, expected a whole"),
        (
            json!({"rope_parameters": {"a": {"rope_theta": 1.5}, "rope_theta": 3.0}}),
            "`rope_parameters.rope_theta` is 3.0",
        ),
        (
            json!({"rope_parameters": {"factor": 2.0}, "rope_scaling": {"factor": 3.0}}),
            "`rope_parameters` is an object, but",
        ),
        (json!({"position_embedding_type": "absolute", "rope_theta": 1e4}), "is \"absolute\", but `rope_theta`"),
        (json!({"position_embedding_type": "rope", "alibi": true}), "is \"rope\", but `alibi`"),
        (json!({"alibi": "yes"}), "`alibi` is \"yes\", expected true or false"),
        (json!({"attn_config": {"alibi": true, "alibi_bias_max": 16}}), "`attn_config.alibi_bias_max` is 16"),
        (
            json!({"attn_config": {"rope": true, "rope_theta": 5e5}}),
            "`attn_config.rope` is true, which is not supported",
        ),
        (json!({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}), "has no `long_factor`"),
        (
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}}),
            "`short_factor` is 1, which is not as long as there are rotated pairs",
        ),
        (json!({"rotary_dim": 3}), "`rotary_dim` is 3"),
        (json!({"rope_theta": 1e4, "head_dim": 0}), "`head_dim` must be at least 1"),
        (json!({"rope_theta": 1e4, "head_dim": 65538}), "`head_dim` is 65538, which is not at most 65536"),
        (json!({"embedding_multiplier": "big"}), "`embedding_multiplier` is \"big\""),
        (
            json!({"position_embedding_type": "shaw", "num_hidden_layers": 1_000_000_000_000_000u64}),
            "`n_layer` is 1000000000000000",
        ),
        (json!({"num_attention_heads": u64::MAX}), "`n_head` is 1.8446744073709552e19"),
        (
            json!({"position_embedding_type": "shaw", "left_max_position_embeddings": u64::MAX}),
            "`left_max_position_embeddings` is",
        ),
        (
            json!({"position_embedding_type": "sinusoidal", "max_position_embeddings": 1u64 << 60}),
            "`n_positions` is 1.152921504606847e18, which is not few enough for a table of sinusoids",
        ),
        (json!({"position_embedding_type": "t5", "relative_attention_num_buckets": 1u64 << 40}), "_num_buckets` is"),
        (
            json!({"position_embedding_type": "deberta", "position_buckets": -1, "max_relative_positions": 1u64 << 40}),
            "at most",
        ),
    ];
    for (keys, expected) in cases {
        failures.error(read(&with(keys)), expected);
    }
    // A model that is no GPT-2 has none of its dimensions.
    let llama = json!({"model_type": "llama", "vocab_size": 11, "hidden_size": 64});
    failures.error(read(&llama), "no `num_attention_heads`, which a model of type llama needs: add it");
    failures.error(read(&with(json!({"model_type": "qwen3"}))), "no `head_dim`, which a model of type qwen3 needs");
    let scaled = json!({"model_type": "llama", "vocab_size": 11, "hidden_size": 64, "num_attention_heads": 4,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}});
    failures.error(read(&scaled), "no `max_position_embeddings`, which `rope_type` dynamic needs");
}

#[test]
fn layers_of_two_types_are_asked_for_by_type() -> Result<()> {
    let config = read(&with(json!({"rope_parameters": {"full_attention": {"rope_theta": 1e6},
        "sliding_attention": {"rope_theta": 1e4}, "no_attention": null}})))?;
    let wte = Tensor::zeros((11, 64), DType::F32, &Device::Cpu)?;
    let layer = GptInputLayer::with_scheme(wte.clone(), &config)?;
    let positions = layer.positions();
    assert_eq!(positions.layer_types(), ["full_attention", "no_attention", "sliding_attention"]);
    let q = crate::normal((1, 4, 3, 16), 1);
    let text = error_text(positions.rotate(&q, &q, 2));
    assert!(text.contains("(full_attention, no_attention, sliding_attention): choose with `of_layer_type"), "{text}");
    for (layer_type, theta) in [("full_attention", 1e6), ("sliding_attention", 1e4)] {
        let rope = Rotary::new(&RotaryConfig::default().with_rope_theta(theta), 16, 2048, &Device::Cpu)?;
        let (ours, _) = positions.of_layer_type(layer_type)?.rotate(&q, &q, 2)?;
        assert_bits_eq(&ours, &rope.rotate(&q, &q, 2)?.0);
    }
    let text = error_text(positions.of_layer_type("no_attention")?.rotate(&q, &q, 2));
    assert!(text.contains("there are none; call nothing"), "{text}");
    let text = error_text(positions.of_layer_type("full"));
    assert!(
        text.contains("no layer type `full`: the model has rope positions for full_attention, no_attention"),
        "{text}"
    );
    // Types that do not differ need no choice, and neither do models of one type.
    for keys in
        [json!({"rope_parameters": {"a": {"rope_theta": 1e6}, "b": {"rope_theta": 1e6}}}), json!({"rope_theta": 1e6})]
    {
        let layer = GptInputLayer::with_scheme(wte.clone(), &read(&with(keys))?)?;
        let (left, _) = layer.positions().rotate(&q, &q, 2)?;
        assert_bits_eq(&left, &layer.positions().of_layer_type("a")?.rotate(&q, &q, 2)?.0);
    }
    Ok(())
}

#[test]
fn scales_are_read_under_the_names_of_their_models() {
    let mut failures = Failures::default();
    let cases = [
        (json!({"scale_emb": 12}), EmbeddingScale::Factor(12.)),
        (json!({"embedding_multiplier": 1.0}), EmbeddingScale::None),
        (json!({"scale_embedding": true}), EmbeddingScale::Root),
        (json!({"model_type": "biogpt", "scale_embedding": false}), EmbeddingScale::None),
        (json!({"model_type": "biogpt"}), EmbeddingScale::Root),
        (json!({"model_type": "gemma2", "head_dim": 16}), EmbeddingScale::RootInDType),
        (json!({"model_type": "recurrent_gemma"}), EmbeddingScale::RootInBf16),
        (json!({"model_type": "llama"}), EmbeddingScale::None),
    ];
    for (keys, scale) in cases {
        let Some(mut config) = round_trip(&mut failures, &with(keys.clone())) else { continue };
        failures.holds(config.embedding_scale == scale, format_args!("{keys}: {:?}", config.embedding_scale));
        for scale in [
            EmbeddingScale::None,
            EmbeddingScale::Factor(3.),
            EmbeddingScale::Root,
            EmbeddingScale::RootInDType,
            EmbeddingScale::RootInBf16,
        ] {
            config.embedding_scale = scale;
            let again = GptInputConfig::from_json(&config.to_json());
            failures
                .holds(again.ok().as_ref() == Some(&config), format_args!("{keys} as {scale:?}: {}", config.to_json()));
        }
    }
}

#[test]
fn scales_of_logits_are_refused_by_the_head_alone() -> Result<()> {
    let mut failures = Failures::default();
    let wte = Tensor::zeros((11, 64), DType::F32, &Device::Cpu)?;
    let cases = [
        (json!({"logits_scaling": 8.0}), Some("`logits_scaling` is 8.0")),
        (json!({"model_type": "cohere", "logit_scale": 0.0625}), Some("`logit_scale` is 0.0625")),
        (json!({"model_type": "cohere"}), Some("`logit_scale` is 0.0625, as models of type cohere have it")),
        (
            json!({"model_type": "gemma2", "head_dim": 16, "final_logit_softcapping": 30.0}),
            Some("`final_logit_softcapping` is 30.0"),
        ),
        (json!({"model_type": "minicpm", "dim_model_base": 256}), Some("`dim_model_base` is 256")),
        (
            json!({"model_type": "mpt", "logit_scale": "inv_sqrt_d_model"}),
            Some("`logit_scale` is \"inv_sqrt_d_model\""),
        ),
        (json!({"model_type": "gemma2", "head_dim": 16, "final_logit_softcapping": null}), None),
        (json!({"logits_scaling": 1, "logit_scale": null, "dim_model_base": 64}), None),
        (json!({"rope_theta": 1e4}), None),
    ];
    for (keys, refused) in cases {
        let config = read(&with(keys.clone()))?.with_position(PositionScheme::None);
        let layer = GptInputLayer::with_scheme(wte.clone(), &config)?;
        match (layer.lm_head(), refused) {
            (Ok(_), None) => {}
            (head, Some(expected)) => failures.error(head, expected),
            (Err(error), None) => failures.holds(false, format_args!("{keys}: {error}")),
        }
        assert_eq!(layer.lm_head_unscaled()?.vocab_size(), layer.config().vocab_size);
    }
    Ok(())
}

#[test]
fn dynamic_and_long_sequences_keep_their_own_frequencies() -> Result<()> {
    let scaling = RotaryScaling::Dynamic { factor: 2.0 };
    let rope = Rotary::new(&RotaryConfig::default().with_scaling(scaling), 8, 4, &Device::Cpu)?;
    let q = crate::normal((1, 1, 3, 8), 1);
    let first = rope.rotate(&q, &q, 0)?.0;
    rope.rotate(&q, &q, 100)?;
    assert_bits_eq(&rope.rotate(&q, &q, 0)?.0, &first);
    Ok(())
}
