//! What a `model_type` says about input and positions where the keys of its `config.json` say nothing.

mod positions;
mod rotations;

use serde_json::Value;

use super::fields::{Object, as_usize};
use super::scale::EmbeddingScale;
pub(super) use positions::{Own, own_positions, refused};
pub(super) use rotations::{Rotated, Rotation};

/// The width of tables that are projected into the blocks.
pub(super) const EMBEDDING_SIZE: &str = "embedding_size";

/// What follows the name of a model in those of its classes, after the last `For`.
const CLASSES: [&str; 6] = ["DoubleHeadsModel", "WithLMHeadModel", "LMHeadModel", "EncoderModel", "TextModel", "Model"];

/// Returns the type of the model that a `config.json` describes: its `model_type`, or else that of its first class in
/// `architectures`. A part for tokens may leave it to what lies `around` it.
///
/// A name that is known but for the case of its letters, or for `-` in place of `_`, is returned as it is known.
pub(super) fn of<'a>(map: &'a Object, around: Option<&'a Object>) -> Option<&'a str> {
    let named = |map: &'a Object| {
        let architecture = || map.get("architectures")?.as_array()?.first()?.as_str();
        match map.get("model_type").and_then(Value::as_str) {
            Some(name) => Some(positions::known(name).unwrap_or(name)),
            None => architecture().map(|class| positions::known(model_of(class)).unwrap_or(class)),
        }
    };
    named(map).or_else(|| named(around?))
}

/// Returns the name of a model in that of a class: `GPT2` in `GPT2LMHeadModel`, `Gemma2` in `Gemma2ForCausalLM`.
fn model_of(class: &str) -> &str {
    let by_task = class.rsplit_once("For").filter(|(_, task)| task.starts_with(|c: char| c.is_ascii_uppercase()));
    let name = by_task.map(|(name, _)| name);
    name.or_else(|| CLASSES.iter().find_map(|end| class.strip_suffix(end))).unwrap_or(class)
}

/// Returns whether GPT-2's defaults apply to what is not stated.
pub(super) fn is_gpt2(model_type: Option<&str>) -> bool {
    matches!(model_type, None | Some("gpt2"))
}

/// Returns the rotation of a type of model that is known to rotate.
pub(super) fn rotation(model_type: Option<&str>) -> Option<&'static Rotation> {
    match own_positions(model_type) {
        Some(Own::Rotary(rotation)) => Some(rotation),
        _ => None,
    }
}

/// Returns whether models of a type ignore the `position_embedding_type: absolute` of their configurations.
pub(super) fn ignores_absolute(model_type: Option<&str>) -> bool {
    matches!(model_type, Some("modernbert" | "modernbert-decoder"))
}

/// Returns whether models of a type rotate only where `position_embedding_type` says so, whatever rotary keys they have
/// besides.
pub(super) fn names_its_scheme(model_type: Option<&str>) -> bool {
    matches!(model_type, Some("esm" | "granitemoehybrid"))
}

/// Returns whether `block_size` of a type of model is a number of positions, not the size of blocks of attention.
pub(super) fn has_block_size(model_type: Option<&str>, states_another: bool) -> bool {
    let is_of_attention = matches!(model_type, Some("big_bird" | "bigbird_pegasus" | "minimax" | "pegasus_x"));
    is_gpt2(model_type) || !is_of_attention && !states_another
}

/// Returns whether the heads of a type of model have a width of their own, not an equal part of the hidden state.
pub(super) fn has_own_head_dim(model_type: Option<&str>) -> bool {
    const TYPES: [&str; 25] = [
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "gemma3n_text",
        "vaultgemma",
        "qwen3",
        "qwen3_next",
        "glm",
        "glm4",
        "ernie4_5",
        "seed_oss",
        "cwm",
        "gpt_oss",
        "hy_v3",
        "llama4_text",
        "llama4",
        "helium",
        "afmoe",
        "flint",
        "kolibri1",
        "solar_open",
        "minimax_m2",
        "hyperclovax",
        "minicpm3",
    ];
    model_type.is_some_and(|model_type| TYPES.contains(&model_type))
}

/// Returns the width of tables that is stated beside that of the blocks behind them.
pub(super) fn width_of_tables(model_type: Option<&str>, map: &Object) -> Option<usize> {
    let is_own = matches!(model_type, Some("albert" | "electra" | "convbert"));
    map.get(EMBEDDING_SIZE).filter(|_| is_own).and_then(as_usize)
}

/// Returns further names under which a type of model states the dropout of its embeddings, and the probability where
/// none of them is stated.
pub(super) fn dropout(model_type: Option<&str>) -> (&'static [&'static str], f64) {
    const ANY: &[&str] = &["dropout", "drop_rate", "hidden_dropout_prob", "hidden_dropout", "dropout_rate"];
    match model_type {
        // nanoGPT and the book have no types.
        None => (&["dropout", "drop_rate"], 0.1),
        Some("gpt2" | "openai-gpt" | "gpt_bigcode" | "ctrl" | "imagegpt" | "decision_transformer" | "gpt-sw3") => {
            (&[], 0.1)
        }
        Some("gpt_neox") => (&["hidden_dropout"], 0.0),
        Some(
            "bart" | "mbart" | "marian" | "pegasus" | "pegasus_x" | "blenderbot" | "blenderbot-small" | "m2m_100"
            | "xglm" | "xlnet" | "xlm" | "fsmt" | "transfo-xl" | "distilbert" | "flaubert" | "mvp" | "plbart"
            | "bigbird_pegasus" | "led" | "trocr" | "nllb-moe" | "prophetnet",
        ) => (&["dropout"], 0.1),
        Some("whisper") => (&["dropout"], 0.0),
        Some("albert" | "nomic_bert" | "mobilebert" | "rembert" | "vilt" | "flava" | "flava_text_model") => {
            (&["hidden_dropout_prob"], 0.0)
        }
        Some("gte" | "jina_embeddings_v3" | "biogpt" | "altclip" | "altclip_text_model") => {
            (&["hidden_dropout_prob"], 0.1)
        }
        Some("t5" | "mt5" | "umt5") => (&["dropout_rate"], 0.1),
        Some("bloom" | "mpt" | "opt" | "gptj" | "codegen" | "gpt_neo" | "dbrx") => (&[], 0.0),
        // What they have is not applied to the sum.
        Some("esm") => (&[], 0.0),
        Some(known) if positions::is_bert(known) => (&["hidden_dropout_prob"], 0.1),
        known => match own_positions(known) {
            Some(Own::Rotary(_) | Own::None | Own::Alibi) => (&[], 0.0),
            Some(Own::Learned) | None => (ANY, 0.0),
        },
    }
}

/// Returns the factor of token rows of a type of model where no key states it.
pub(super) fn embedding_scale(model_type: Option<&str>) -> EmbeddingScale {
    match model_type {
        Some(
            "gemma"
            | "gemma2"
            | "gemma3"
            | "gemma3_text"
            | "gemma3n_text"
            | "gemma4"
            | "gemma4_text"
            | "vaultgemma"
            | "t5gemma"
            | "t5gemma2"
            | "t5gemma2_text"
            | "t5gemma2_decoder"
            | "gemma4_unified_text"
            | "diffusion_gemma_text"
            | "embedding_gemma2_text",
        ) => EmbeddingScale::RootInDType,
        Some("recurrent_gemma") => EmbeddingScale::RootInBf16,
        Some(
            "ctrl"
            | "biogpt"
            | "plbart"
            | "xglm"
            | "fsmt"
            | "m2m_100"
            | "pegasus_x"
            | "bigbird_pegasus"
            | "nllb-moe"
            | "speech_to_text"
            | "kosmos_2_text_model"
            | "kosmos_2_5_text_model",
        ) => EmbeddingScale::Root,
        Some("minicpm3" | "granite_docling_text") => EmbeddingScale::Factor(12.0),
        Some("hrm_text") => EmbeddingScale::Factor(50.0),
        _ => EmbeddingScale::None,
    }
}

/// Returns what a type of model does to its logits where no key states otherwise: the key and its default.
pub(super) fn logits(model_type: Option<&str>) -> Option<(&'static str, f64)> {
    match model_type {
        Some("cohere" | "cohere2" | "cohere2_moe") => Some(("logit_scale", 0.0625)),
        Some(
            "gemma2"
            | "vaultgemma"
            | "gemma3n_text"
            | "beam"
            | "t5gemma"
            | "inkling2_text"
            | "inkling2_loop_text"
            | "mistral_large4_text",
        ) => Some(("final_logit_softcapping", 30.0)),
        Some("muse_glimmer_text" | "muse_spark_text") => Some(("final_logit_softcapping", 20.0)),
        Some("nanochat") => Some(("final_logit_softcapping", 15.0)),
        Some("recurrent_gemma") => Some(("logits_soft_cap", 30.0)),
        Some("inkling_text") => Some(("logits_mup_width_multiplier", 24.0)),
        Some("granite_docling_text") => Some(("logits_scaling", 4.0)),
        Some("minicpm3") => Some(("dim_model_base", 256.0)),
        Some("xlstm") => Some(("output_logit_soft_cap", 30.0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_names_the_type_of_its_model() {
        for (class, expected) in [
            ("GPT2LMHeadModel", "gpt2"),
            ("LlamaForCausalLM", "llama"),
            ("Gemma2ForCausalLM", "gemma2"),
            ("GPTNeoXForCausalLM", "gpt_neox"),
            ("XLMRobertaForMaskedLM", "xlm-roberta"),
            ("OpenAIGPTLMHeadModel", "openai-gpt"),
            ("BertModel", "bert"),
            ("BlenderbotSmallForConditionalGeneration", "blenderbot-small"),
            ("RWForCausalLM", "RW"),
            ("MyFormer", "MyFormer"),
        ] {
            let map = Object::from_iter([("architectures".to_string(), Value::from(vec![class]))]);
            assert_eq!(of(&map, None), Some(expected), "{class}");
        }
    }

    #[test]
    fn types_are_known_whatever_the_case() {
        let map = |name: &str| Object::from_iter([("model_type".to_string(), Value::from(name))]);
        for (name, expected) in [("Gemma", "gemma"), ("gpt-neox", "gpt_neox"), ("GPT2", "gpt2"), ("Mine", "Mine")] {
            assert_eq!(of(&map(name), None), Some(expected));
        }
        assert_eq!(of(&Object::new(), Some(&map("LLaMA"))), Some("llama"));
        assert_eq!(of(&map("bert"), Some(&map("llama"))), Some("bert"));
    }
}
