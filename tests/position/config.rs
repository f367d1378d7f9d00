//! Schemes in a `config.json`: read under the names that models use, written back, and refused where invalid.

use candle_gpt_input::position::{
    DebertaConfig, Llama3Scaling, PositionScheme, RotaryConfig, RotaryScaling, ShawConfig, SinusoidalConfig,
    SinusoidalLayout, T5Config, YarnScaling,
};
use candle_gpt_input::{GptInputConfig, Result};
use serde_json::{Value, json};

use crate::support::{Failures, error_text};

fn read(mut config: Value) -> Result<GptInputConfig> {
    config["vocab_size"] = 10.into();
    if config["n_embd"].is_null() {
        config["n_embd"] = 24.into();
    }
    if config["n_head"].is_null() {
        config["n_head"] = 3.into();
    }
    GptInputConfig::from_json(&config.to_string())
}

/// Checks that each configuration is read as the scheme beside it, and again after writing.
fn assert_read(cases: &[(Value, PositionScheme)]) {
    let mut failures = Failures::default();
    for (text, scheme) in cases {
        let config = match read(text.clone()) {
            Ok(config) => config,
            Err(error) => {
                failures.holds(false, format_args!("{text}: {error}"));
                continue;
            }
        };
        failures.holds(config.position == *scheme, format_args!("{text}: {:?}", config.position));
        let again = GptInputConfig::from_json(&config.to_json());
        failures.holds(again.as_ref().ok() == Some(&config), format_args!("{text}: written, {again:?}"));
    }
}

#[test]
fn every_scheme_is_read_and_written_back() {
    assert_read(&[
        (json!({}), PositionScheme::Learned),
        (json!({"position_embedding_type": "absolute"}), PositionScheme::Learned),
        (
            json!({"position_embedding_type": "sinusoidal", "sinusoidal_layout": "halves"}),
            PositionScheme::Sinusoidal(SinusoidalConfig::default().with_layout(SinusoidalLayout::Halves)),
        ),
        (json!({"position_embedding_type": "none"}), PositionScheme::None),
        (json!({"position_embedding_type": "transfo-xl"}), PositionScheme::TransformerXl),
        (json!({"alibi": true}), PositionScheme::Alibi),
        (
            json!({"position_embedding_type": "t5", "relative_attention_max_distance": 77, "is_decoder": false}),
            PositionScheme::T5(T5Config::default().with_max_distance(77).with_bidirectional(true)),
        ),
        (
            json!({"position_embedding_type": "relative_key", "left_max_position_embeddings": 64,
                "right_max_position_embeddings": 8}),
            PositionScheme::Shaw(ShawConfig::default().with_left(64).with_right(8).with_values(false)),
        ),
        (
            json!({"position_embedding_type": "deberta", "position_buckets": -1, "max_relative_positions": 20,
                "pos_att_type": "p2c"}),
            PositionScheme::Deberta(
                DebertaConfig::default().with_position_buckets(None).with_max_relative_positions(20).with_c2p(false),
            ),
        ),
        (
            json!({"position_embedding_type": "deberta", "pos_att_type": ["p2c", "c2p"]}),
            PositionScheme::Deberta(DebertaConfig::default()),
        ),
    ]);
}

#[test]
fn every_kind_of_rotation_is_read_and_written_back() {
    let rope = |scaling| PositionScheme::Rotary(RotaryConfig::default().with_rope_theta(5e5).with_scaling(scaling));
    assert_read(&[
        (json!({"rope_theta": 500000.0}), rope(RotaryScaling::None)),
        (json!({"rope_theta": 500000.0, "rope_scaling": null}), rope(RotaryScaling::None)),
        (
            json!({"rope_theta": 500000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}),
            rope(RotaryScaling::Linear { factor: 2. }),
        ),
        (
            json!({"rope_parameters": {"rope_type": "dynamic", "factor": 2.5, "rope_theta": 5e5}}),
            rope(RotaryScaling::Dynamic { factor: 2.5 }),
        ),
        (
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5,
                "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192}}),
            rope(Llama3Scaling::new(8.).with_original_max_position_embeddings(8192).into()),
        ),
        (
            json!({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5e5, "mscale": 1.0,
                "mscale_all_dim": 0.5, "beta_fast": 16}}),
            rope(YarnScaling::new(4.).with_mscale(1.).with_mscale_all_dim(0.5).with_beta_fast(16.).into()),
        ),
        (
            json!({"position_embedding_type": "rotary", "rotary_pct": 0.25, "rope_interleave": true, "n_embd": 48}),
            PositionScheme::Rotary(RotaryConfig::default().with_interleaved(true).with_partial_rotary_factor(0.25)),
        ),
    ]);
}

#[test]
fn every_name_of_a_scheme_is_one() -> Result<()> {
    for name in PositionScheme::NAMES {
        let scheme: PositionScheme = name.parse()?;
        assert_eq!((scheme.name(), scheme.to_string().as_str()), (name, name));
        let config = GptInputConfig::new(10, 16, 24).with_position(scheme).with_n_head(3);
        assert_eq!(GptInputConfig::from_json(&config.to_json())?, config);
        assert_eq!(config.to_json().contains("position_embedding_type"), name != "learned");
    }
    Ok(())
}

#[test]
fn a_scheme_set_back_to_learned_leaves_no_name() -> Result<()> {
    let mut config = read(json!({"alibi": false, "position_embedding_type": "t5"}))?;
    config.position = PositionScheme::Learned;
    assert_eq!(GptInputConfig::from_json(&config.to_json())?.position, PositionScheme::Learned);
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused() {
    let cases = [
        (json!({"position_embedding_type": "rop"}), "config: `position_embedding_type` is \"rop\", expected learned"),
        (json!({"position_embedding_type": "rope", "n_embd": 9}), "`head_dim` is 3"),
        (json!({"position_embedding_type": "alibi", "n_head": 5}), "`n_head` is 5"),
        (json!({"rope_theta": "big"}), "`rope_theta` is \"big\", expected a number"),
        (json!({"rope_parameters": 3}), "`rope_parameters` is 3, expected an object"),
        (json!({"rope_parameters": {"rope_type": "yarn"}}), "has no `factor`"),
        (json!({"rope_parameters": {"rope_type": "longrope"}}), "of type longrope has no `short_factor`"),
        (json!({"rope_parameters": {"rope_type": "linear", "factor": 0.5}}), "`factor` is 0.5"),
        (json!({"rope_parameters": {"partial_rotary_factor": 2.0}}), "`partial_rotary_factor` is 2"),
        (
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 1.0}}),
            "`high_freq_factor` is 1",
        ),
        (json!({"position_embedding_type": "t5", "relative_attention_num_buckets": 1}), "_num_buckets` is 1"),
        (json!({"position_embedding_type": "t5", "relative_attention_max_distance": 16}), "_max_distance` is 16"),
        (json!({"position_embedding_type": "deberta", "max_relative_positions": 9}), "`max_relative_positions` is 9"),
        (json!({"position_embedding_type": "deberta", "pos_att_type": 1}), "`pos_att_type` is 1"),
        (json!({"position_embedding_type": "sinusoidal", "sinusoidal_layout": "x"}), "`sinusoidal_layout` is \"x\""),
    ];
    let mut failures = Failures::default();
    for (config, expected) in cases {
        failures.error(read(config), expected);
    }
    let text = error_text("rop".parse::<PositionScheme>());
    assert!(
        text.starts_with("no position scheme `rop`: there are learned, sinusoidal, transformer-xl, rope"),
        "{text}"
    );
}

#[test]
fn every_scheme_goes_through_serde() -> Result<()> {
    for name in PositionScheme::NAMES {
        let scheme: PositionScheme = name.parse()?;
        let json = serde_json::to_value(&scheme).unwrap();
        let written = json.as_str().or(json.as_object().and_then(|map| map.keys().next()).map(String::as_str));
        assert_eq!(written, Some(name));
        assert_eq!(serde_json::from_value::<PositionScheme>(json).unwrap(), scheme);
    }
    let yarn = YarnScaling::new(4.).with_attention_factor(0.5);
    let scalings =
        [RotaryScaling::None, RotaryScaling::Linear { factor: 2. }, yarn.into(), Llama3Scaling::new(8.).into()];
    for (scaling, name) in scalings.into_iter().zip(["default", "linear", "yarn", "llama3"]) {
        let config = RotaryConfig::default().with_scaling(scaling);
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(json["scaling"]["rope_type"], name);
        assert_eq!(serde_json::from_value::<RotaryConfig>(json).unwrap(), config);
    }
    for layout in ["interleaved", "halves", "tensor2tensor"] {
        assert_eq!(layout.parse::<SinusoidalLayout>()?.to_string(), layout);
    }
    assert!(error_text("x".parse::<SinusoidalLayout>()).contains("`sinusoidal_layout` is x, expected interleaved"));
    Ok(())
}
