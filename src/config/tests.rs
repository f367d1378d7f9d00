use serde_json::Value;

use super::GptInputConfig;
use super::input::GPT2_SIZES;
use crate::error::{ConfigError, Result};

fn error(text: &str) -> String {
    GptInputConfig::from_json(text).err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn presets_are_the_four_gpt2s_and_the_tutorial() -> Result<()> {
    for (name, n_layer, n_head, n_embd) in GPT2_SIZES {
        let config = GptInputConfig::preset(name)?;
        assert_eq!((config.vocab_size, config.n_positions, config.n_embd), (50257, 1024, n_embd));
        assert_eq!((config.n_layer, config.n_head), (n_layer, n_head));
        config.validate()?;
    }
    let tutorial = GptInputConfig::preset("tutorial")?;
    assert_eq!((tutorial.vocab_size, tutorial.n_positions, tutorial.n_embd), (50257, 4, 256));
    let unknown = GptInputConfig::preset("gpt3").err().map(|e| e.to_string()).unwrap_or_default();
    assert_eq!(unknown, "no preset `gpt3`: there are gpt2, gpt2-medium, gpt2-large, gpt2-xl, tutorial");
    Ok(())
}

#[test]
fn every_key_survives_a_round_trip() -> Result<()> {
    let text = r#"{"activation_function": "gelu_new", "n_ctx": 77, "vocab_size": 500, "n_positions": 64,
        "n_embd": 48, "n_head": 4, "n_layer": 2, "embd_pdrop": 0.0, "initializer_range": 0.013,
        "task_specific_params": {"text-generation": {"do_sample": true}}, "n_inner": null}"#;
    let config = GptInputConfig::from_json(text)?;
    assert_eq!(config.extra.len(), 4);
    let text_as_number = config.extra::<u64>("activation_function").err().map(|error| error.to_string());
    assert_eq!(text_as_number.as_deref(), Some("config: `activation_function` is \"gelu_new\", expected u64"));
    assert_eq!(config.clone().with_extra("n_inner", 7)?.extra::<u64>("n_inner")?, Some(7));
    assert_eq!(GptInputConfig::from_json(&config.to_json())?, config);
    let expected: Value = serde_json::from_str(text).map_err(|e| ConfigError::Json { source: e.into() })?;
    assert_eq!(Value::Object(config.keys()), expected);
    Ok(())
}

#[test]
fn aliases_may_repeat_a_field_but_not_contradict_it() -> Result<()> {
    let config = GptInputConfig::from_json(r#"{"hidden_size": 8, "n_embd": 8, "max_position_embeddings": 5}"#)?;
    assert_eq!((config.vocab_size, config.n_positions, config.n_embd), (50257, 5, 8));
    assert_eq!(
        error(r#"{"n_embd": 8, "emb_dim": 9}"#),
        "config: `n_embd` is 8, but `emb_dim`, another name for it, is 9"
    );
    Ok(())
}

#[test]
fn bad_values_are_named() {
    assert_eq!(error(r#"{"vocab_size": 0}"#), "config: `vocab_size` must be at least 1");
    assert_eq!(error(r#"{"n_embd": -1}"#), "config: `n_embd` is -1, expected a whole number");
    assert_eq!(error(r#"{"n_positions": "1024"}"#), "config: `n_positions` is \"1024\", expected a whole number");
    assert_eq!(
        error(r#"{"embd_pdrop": 1.5}"#),
        "config: `embd_pdrop` is 1.5, which is not a probability between 0 and 1"
    );
    assert_eq!(
        error(r#"{"initializer_range": -0.1}"#),
        "config: `initializer_range` is -0.1, which is not a finite number of at least 0"
    );
    assert_eq!(error("[1]"), "config: expected a JSON object, found an array");
    assert_eq!(error("{"), "config: not valid JSON");
}
