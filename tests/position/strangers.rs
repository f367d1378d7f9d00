//! Configurations whose models do more, or say it in other words, than a `config.json` usually does: what is not obeyed
//! is refused by name.

use std::collections::BTreeMap;

use candle_gpt_input::GptInputConfig;
use candle_gpt_input::embedding::EmbeddingScale;
use candle_gpt_input::position::{PositionScheme, RotaryConfig, SinusoidalConfig};
use serde_json::{Value, json};

use crate::support::{Failures, error_text};

/// A configuration with every dimension that a model needs, and these keys.
fn with(keys: Value) -> String {
    let mut config = json!({"vocab_size": 11, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 4,
        "max_position_embeddings": 2048});
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    config.to_string()
}

/// What a file of these keys comes to; written and read again, it is the same.
fn read(keys: &Value) -> GptInputConfig {
    let config = GptInputConfig::from_json(&with(keys.clone())).unwrap_or_else(|error| panic!("{keys}: {error}"));
    assert_eq!(GptInputConfig::from_json(&config.to_json()).unwrap(), config, "{keys}");
    let written: Value = serde_json::from_str(&config.to_json()).unwrap();
    for (key, value) in serde_json::from_str::<Value>(&with(keys.clone())).unwrap().as_object().unwrap() {
        assert_eq!(written[key], *value, "{keys}: {key}");
    }
    config
}

/// transformers' `no_rope_layers`: 0 for a layer that is not rotated, every `no_rope_layer_interval`th by default.
#[test]
fn layers_without_rotation_are_a_type_of_their_own() {
    let rope = |theta| RotaryConfig::default().with_rope_theta(theta);
    let some = |rotary: RotaryConfig| {
        let by_type = BTreeMap::from([("no_rope".to_string(), None), ("rope".to_string(), Some(rotary))]);
        PositionScheme::RotaryByLayerType(by_type)
    };
    let llama4 = rope(5e5).with_interleaved(true);
    let cases = [
        (json!({"model_type": "smollm3"}), some(rope(2e6))),
        (json!({"model_type": "smollm3", "no_rope_layers": null}), some(rope(2e6))),
        (json!({"model_type": "smollm3", "no_rope_layers": [1, 1, 1, 1]}), PositionScheme::Rotary(rope(2e6))),
        (json!({"model_type": "llama4_text", "head_dim": 16, "no_rope_layers": []}), some(llama4.clone())),
        (json!({"model_type": "llama4_text", "head_dim": 16, "no_rope_layers": [1, 0, 1, 1]}), some(llama4)),
        (json!({"rope_theta": 5e3, "no_rope_layers": [1, 0, 1, 0]}), some(rope(5e3))),
        (json!({"rope_theta": 5e3, "no_rope_layers": [true, false, true, true]}), some(rope(5e3))),
        (json!({"rope_theta": 5e3, "no_rope_layer_interval": 3}), some(rope(5e3))),
        (json!({"rope_theta": 5e3, "no_rope_layers": null}), PositionScheme::Rotary(rope(5e3))),
    ];
    for (keys, expected) in cases {
        let mut config = read(&keys);
        assert_eq!(config.position, expected, "{keys}");
        config.position = PositionScheme::Rotary(rope(7e3));
        assert_eq!(GptInputConfig::from_json(&config.to_json()).unwrap(), config, "{keys}, changed");
    }
    let afmoe = json!({"model_type": "afmoe", "head_dim": 16, "sliding_window": 1024});
    let PositionScheme::RotaryByLayerType(by_type) = read(&afmoe).position else { panic!() };
    assert_eq!((by_type["full_attention"].is_some(), by_type["sliding_attention"].is_some()), (false, true));
}

/// Names as configurations on the hub spell them; none of these keys changed anything.
#[test]
fn keys_that_speak_of_the_input_are_refused_by_name() {
    let mut failures = Failures::default();
    let cases = [
        (json!({"use_rope": true}), "`use_rope` is true, which is not supported: state `position_embedding_type`"),
        (json!({"pos_emb": "alibi"}), "`pos_emb` is \"alibi\""),
        (json!({"position_encoding": "rotary"}), "`position_encoding` is \"rotary\""),
        (json!({"usePositionEmbeddings": false}), "`usePositionEmbeddings` is false"),
        (json!({"position_biased_input": false}), "`position_biased_input` is false"),
        (json!({"model_type": "deberta-v2", "relative_attention": true}), "`relative_attention` is true"),
        (json!({"model_type": "qwen2", "use_dynamic_ntk": true}), "`use_dynamic_ntk` is true"),
        (json!({"rope_theta": 1e4, "layer_rope_theta": [1e4, 0.0]}), "`layer_rope_theta` is an array"),
        (json!({"rope_theta": 1e4, "rope_ratio": 500}), "`rope_ratio` is 500"),
        (
            json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default", "llama_4_scaling_beta": 0.1}}),
            "`llama_4_scaling_beta` is 0.1",
        ),
        (
            json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default", "rope_interleave": true}}),
            "`rope_interleave` is true, which is not supported: rotate",
        ),
        (
            json!({"rope_parameters": {"full_attention": {"rope_theta": 1e6, "use_dynamic_ntk": true}}}),
            "`use_dynamic_ntk` is true",
        ),
        (json!({"relative_attention_num_buckets": 32}), "no `position_embedding_type`, which `relative_attention_num"),
        (json!({"pe": "RoPE"}), "`pe` is \"RoPE\", which is not supported: state `position_embedding_type`"),
        (json!({"attention_bias_type": "alibi"}), "`attention_bias_type` is \"alibi\""),
        (json!({"attention": {"rope": true}}), "`attention.rope` is true"),
        (json!({"decoder": {"kind": "rotary"}}), "`decoder.kind` is \"rotary\""),
        (json!({"embedding": {"dropout": 0.3}}), "`embedding.dropout` is 0.3"),
        (json!({"emb_drop": 0.1}), "`emb_drop` is 0.1, which is not supported: state `embd_pdrop` in its place"),
        (json!({"dropout_p": 0.1}), "`dropout_p` is 0.1"),
        (json!({"model_type": "esm", "token_dropout": true}), "`token_dropout` is true"),
        (json!({"embed_scale": 8.0}), "`embed_scale` is 8.0, which is not supported: state `embedding_multiplier`"),
        (json!({"normalize_embeddings": true}), "`normalize_embeddings` is true"),
        (json!({"use_mup": true}), "`use_mup` is true"),
        (
            json!({"model_type": "nanochat"}),
            "`model_type` is nanochat, which is not supported: an RMS norm without weights",
        ),
        (json!({"architectures": ["NanoChatForCausalLM"]}), "`model_type` is nanochat"),
        (json!({"model_type": "my-gpt"}), "no `position_embedding_type`, which a model of type my-gpt needs: add it"),
        (json!({"model_type": "marian"}), "no `position_embedding_type`, which a model of type marian needs: add it"),
        (json!({"architectures": ["MyFormer"]}), "no `position_embedding_type`, which a model of type MyFormer needs"),
        (json!({"model_type": "gpt_oss", "head_dim": 16}), "no `rope_parameters`, which a model of type gpt_oss needs"),
        (json!({"model_type": 7}), "`model_type` is 7, expected a name"),
        (json!({"text_config": {"n_embd": 8}, "language_config": {"n_embd": 9}}), "`language_config` is an object"),
    ];
    for (keys, expected) in cases {
        failures.error(GptInputConfig::from_json(&with(keys)), expected);
    }
}

/// Tables narrower than the blocks behind them; dropouts and scales as the classes have them where the file is silent.
#[test]
fn what_a_class_has_of_its_own_is_known() {
    let albert = json!({"model_type": "albert", "embedding_size": 16, "hidden_size": 64});
    let mut config = read(&albert);
    assert_eq!(config.n_embd, 16);
    config.n_embd = 32;
    let again = GptInputConfig::from_json(&config.to_json()).unwrap();
    assert_eq!((again.n_embd, again.extra::<usize>("hidden_size").unwrap()), (32, Some(64)));
    for (model_type, dropout) in
        [("whisper", 0.0), ("rembert", 0.0), ("mobilebert", 0.0), ("biogpt", 0.1), ("altclip_text_model", 0.1)]
    {
        assert_eq!(read(&json!({"model_type": model_type})).embd_pdrop, dropout, "{model_type}");
    }
    assert_eq!(read(&json!({"model_type": "plbart"})).embedding_scale, EmbeddingScale::Root);
}

/// GPT-2's default would take the place of a dimension that the file has under a name of its own.
#[test]
fn dimensions_under_other_names_are_refused_by_name() {
    let mut failures = Failures::default();
    for (json, expected) in [
        (
            r#"{"dim": 512, "n_layers": 8, "n_heads": 8, "vocab_size": 32000}"#,
            "`dim` is 512, which is not supported: state `n_embd`",
        ),
        (r#"{"n_embd": 64, "heads": 8}"#, "`heads` is 8, which is not supported: state `n_head`"),
        (r#"{"n_embd": 64, "depth": 3}"#, "`depth` is 3, which is not supported: state `n_layer`"),
        (r#"{"n_embd": 64, "seq_len": 4096}"#, "`seq_len` is 4096, which is not supported: state `n_positions`"),
        (r#"{"model_type": "gpt2", "n_vocab": 9}"#, "`n_vocab` is 9, which is not supported: state `vocab_size`"),
    ] {
        failures.error(GptInputConfig::from_json(json), expected);
    }
    let nested = GptInputConfig::from_json(r#"{"model": {"vocab_size": 9, "n_embd": 64, "n_layer": 2}, "seed": 1}"#);
    failures.error(nested, "`model` is an object, which is not supported: state its keys themselves");
    let both = GptInputConfig::from_json(r#"{"n_embd": 64, "dim": 512, "n_head": 4, "heads": 8}"#).unwrap();
    assert_eq!((both.n_embd, both.n_head), (64, 4));
}

/// The classes have a window of 4096, and only `null` takes it away.
#[test]
fn layers_slide_where_the_file_is_silent() {
    let rotated = |keys: Value| match read(&keys).position {
        PositionScheme::RotaryByLayerType(by_type) => by_type["full_attention"].is_some(),
        PositionScheme::Rotary(_) => true,
        other => panic!("{other:?}"),
    };
    for model_type in ["cohere2", "exaone4"] {
        assert!(!rotated(json!({"model_type": model_type})), "{model_type}");
        assert!(!rotated(json!({"model_type": model_type, "sliding_window": 512})), "{model_type}");
        assert!(rotated(json!({"model_type": model_type, "sliding_window": null})), "{model_type}");
    }
}

/// What says nothing, or speaks of other parts of a model, is no reason to refuse a file.
#[test]
fn keys_that_change_nothing_pass() {
    let cases = [
        json!({"use_rope": false, "pos_emb": null, "rope_ratio": 1, "emb_drop": 0.0, "embed_scale": 1.0, "use_mup": false}),
        json!({"attention_dropout": 0.1, "resid_pdrop": 0.1, "attn_pdrop": 0.1, "classifier_dropout": 0.1, "layerdrop": 0.1}),
        json!({"learned_pos_emb": true, "use_absolute_position_embeddings": true, "max_2d_position_embeddings": 1024}),
        json!({"model_type": "deberta-v2", "relative_attention": false, "max_relative_positions": -1, "pos_att_type": null}),
        json!({"model_type": "distilbert", "sinusoidal_pos_embds": false, "qa_dropout": 0.1}),
        json!({"logit_scale_init_value": 2.6592, "pos_token_id": 3, "positive_label_weight": 10.0, "embedding_size": 64}),
        json!({"model_type": "opt", "dropout": 0.1, "word_embed_proj_dim": 64}),
        json!({"vision_config": {"rope_theta": 1e4, "hidden_size": 8, "num_hidden_layers": 2}, "attention": {"bias": true, "dropout": 0.1}}),
    ];
    for keys in cases {
        assert_eq!(read(&keys).position, PositionScheme::Learned, "{keys}");
    }
}

#[test]
fn a_model_is_known_by_its_class_and_in_any_case() {
    let llama = PositionScheme::Rotary(RotaryConfig::default());
    for keys in [
        json!({"architectures": ["LlamaForCausalLM"]}),
        json!({"model_type": "LLaMA", "architectures": ["GPT2LMHeadModel"]}),
        json!({"model_type": "llama", "architectures": null}),
    ] {
        assert_eq!(read(&keys).position, llama, "{keys}");
    }
    assert_eq!(read(&json!({"model_type": "Gemma", "head_dim": 16})).embedding_scale, EmbeddingScale::RootInDType);
    assert_eq!(read(&json!({"architectures": ["GPT2LMHeadModel"]})).position, PositionScheme::Learned);
    assert_eq!(read(&json!({"model_type": "mamba"})).position, PositionScheme::None);
    assert_eq!(read(&json!({"model_type": "granitemoehybrid", "rope_theta": 1e4})).position, PositionScheme::None);
    let sinusoidal = json!({"model_type": "marian", "position_embedding_type": "sinusoidal"});
    assert_eq!(read(&sinusoidal).position, PositionScheme::Sinusoidal(SinusoidalConfig::default()));
}

#[test]
fn good_files_of_other_models_are_read() {
    for (keys, n_positions) in [
        (json!({"model_type": "big_bird", "block_size": 64}), 2048),
        (json!({"model_type": "minimax", "block_size": 256}), 2048),
        (json!({"model_type": "pegasus_x", "block_size": 512, "position_embedding_type": "sinusoidal"}), 2048),
        (
            json!({"model_type": "my-gpt", "block_size": 512, "max_position_embeddings": null, "position_embedding_type": "learned"}),
            512,
        ),
        (json!({"model_type": "esm", "position_embedding_type": "absolute", "rope_theta": 1e4}), 2048),
        (json!({"model_type": "esm", "rope_theta": 1e4}), 2048),
        (
            json!({"model_type": "mistral4", "head_dim": 128, "qk_rope_head_dim": 16, "rope_theta": 1e4, "rope_scaling":
            {"rope_type": "linear", "factor": 2.0}}),
            2048,
        ),
    ] {
        assert_eq!(read(&keys).n_positions, n_positions, "{keys}");
    }
    let esm = json!({"model_type": "esm", "position_embedding_type": "rotary", "rope_theta": 1e4});
    assert_eq!(read(&esm).position, PositionScheme::Rotary(RotaryConfig::default()));
    // An empty part hides nothing, and one without a type has that of the whole.
    assert_eq!(read(&json!({"text_config": {}, "model_type": "llama"})).position.name(), "rope");
    let inner = json!({"vocab_size": 5, "hidden_size": 8, "num_attention_heads": 2, "head_dim": 4});
    let gemma = read(&json!({"model_type": "gemma3", "text_config": inner}));
    assert_eq!((gemma.vocab_size, gemma.embedding_scale), (5, EmbeddingScale::RootInDType));
    let text = error_text(GptInputConfig::from_json(r#"{"model_type": "llava", "text_config": {"vocab_size": 5}}"#));
    assert!(text.contains("which a model of type llava needs"), "{text}");
}

/// A number that is not kept exactly is another number for the next reader.
#[test]
fn numbers_are_written_as_they_were() {
    // Numbers whose last digit a quicker parser loses.
    const LONG: [&str; 4] =
        ["2.638344616030823e-256", "0.1234567890123456789", "9.355109e-38", "3.5844466002796428e298"];
    let values: Vec<f64> = LONG.iter().map(|text| text.parse().unwrap()).collect();
    let text = with(json!({"layer_norm_epsilon": 1e-5, "embd_pdrop": 0.125, "a_list": 0}));
    let config = GptInputConfig::from_json(&text.replace("\"a_list\":0", &format!("\"a_list\":[{}]", LONG.join(","))));
    let keys: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&config.unwrap().to_json()).unwrap();
    for (kept, value) in keys["a_list"].as_array().unwrap().iter().zip(values) {
        assert_eq!(kept.to_string().parse::<f64>().unwrap().to_bits(), value.to_bits());
    }
    let large =
        text.replace("\"hidden_size\"", "\"model_max_length\": 1000000000000000019884624838656, \"hidden_size\"");
    let config = GptInputConfig::from_json(&large).unwrap();
    assert_eq!(config.embd_pdrop.to_bits(), 0.125f64.to_bits());
    let written = config.to_json();
    for line in ["0.125,", ": 1000000000000000019884624838656,"] {
        assert!(written.contains(line), "{line} is not in {written}");
    }
    assert_eq!(GptInputConfig::from_json(&written).unwrap(), config);
    for wrong in [f64::NAN, f64::INFINITY] {
        let text =
            error_text(GptInputConfig::from_json(&GptInputConfig::default().with_initializer_range(wrong).to_json()));
        assert!(text.contains("`initializer_range` is") && text.contains("expected a number"), "{text}");
    }
}
