//! What a `model_type` says about input and positions where the keys of its `config.json` say nothing.

use serde_json::Value;

use super::fields::Object;
use super::scale::EmbeddingScale;

/// The rotation of a type of model, by the classes of transformers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    types: &'static [&'static str],
    pub(super) interleaved: bool,
    pub(super) theta: f64,
    pub(super) partial: f64,
    pub(super) rotary_dim: Option<usize>,
    /// The base in layers of a sliding window, where they have one of their own.
    pub(super) sliding_theta: Option<f64>,
    /// Layers of full attention are not rotated, if there is a window.
    pub(super) only_sliding: bool,
    /// Layers of a sliding window have no scaling.
    pub(super) only_full_is_scaled: bool,
}

impl Rotation {
    /// Of a type that is not known: Llama's.
    pub(super) const PLAIN: Self = Self {
        types: &[],
        interleaved: false,
        theta: 1e4,
        partial: 1.0,
        rotary_dim: None,
        sliding_theta: None,
        only_sliding: false,
        only_full_is_scaled: false,
    };

    const fn of(types: &'static [&'static str], theta: f64) -> Self {
        Self { types, theta, ..Self::PLAIN }
    }

    const fn part(self, partial: f64) -> Self {
        Self { partial, ..self }
    }

    const fn neighbours(self) -> Self {
        Self { interleaved: true, ..self }
    }

    const fn dims(self, rotary_dim: usize) -> Self {
        Self { rotary_dim: Some(rotary_dim), ..self }
    }

    const fn sliding(self, theta: f64) -> Self {
        Self { sliding_theta: Some(theta), ..self }
    }
}

const ROTATIONS: [Rotation; 22] = [
    Rotation::of(
        &[
            "llama",
            "mistral",
            "ministral",
            "gemma",
            "gemma2",
            "vaultgemma",
            "phi3",
            "qwen2",
            "qwen2_moe",
            "qwen3",
            "qwen3_moe",
            "starcoder2",
            "olmo",
            "olmo2",
            "granite",
            "granitemoe",
            "granitemoeshared",
            "falcon",
            "RefinedWeb",
            "RefinedWebModel",
            "internlm",
            "internlm2",
            "minicpm",
            "arcee",
            "seed_oss",
            "nanochat",
        ],
        1e4,
    ),
    Rotation::of(&["gpt_neox", "stablelm"], 1e4).part(0.25),
    Rotation::of(&["phi", "persimmon", "nemotron"], 1e4).part(0.5),
    Rotation::of(&["mixtral", "phimoe", "cwm"], 1e6),
    Rotation::of(&["bitnet", "flex_olmo", "exaone"], 5e5),
    Rotation::of(&["gpt_oss"], 1.5e5),
    Rotation::of(&["apertus"], 1.2e7),
    Rotation::of(&["smollm3"], 2e6),
    Rotation::of(&["hy_v3"], 11_158_840.0),
    Rotation::of(&["lfm2", "lfm2_moe"], 1e6),
    Rotation::of(&["gptj", "codegen"], 1e4).neighbours().dims(64),
    Rotation::of(&["cohere", "ernie4_5", "ernie4_5_moe", "llama4_text"], 5e5).neighbours(),
    Rotation { only_sliding: true, ..Rotation::of(&["cohere2"], 1e4).neighbours() },
    Rotation { only_sliding: true, ..Rotation::of(&["exaone4"], 1e4) },
    Rotation::of(&["glm", "glm4"], 1e4).part(0.5).neighbours(),
    Rotation::of(&["helium"], 1e5).neighbours(),
    Rotation::of(&["deepseek_v2", "deepseek_v3"], 1e4).neighbours(),
    Rotation::of(&["gemma3", "gemma3_text", "gemma3n_text"], 1e6).sliding(1e4),
    Rotation::of(&["modernbert", "modernbert-decoder"], 1.6e5).sliding(1e4),
    Rotation { only_full_is_scaled: true, ..Rotation::of(&["olmo3"], 5e5) },
    Rotation::of(&["recurrent_gemma"], 1e4).part(0.5),
    Rotation::of(&["nomic_bert"], 1e3),
];

/// Returns the `model_type` among the keys of a `config.json`.
pub(super) fn of(map: &Object) -> Option<&str> {
    map.get("model_type").and_then(Value::as_str)
}

/// Returns the rotation of a type of model that is known to rotate.
pub(super) fn rotation(model_type: Option<&str>) -> Option<&'static Rotation> {
    ROTATIONS.iter().find(|rotation| model_type.is_some_and(|model_type| rotation.types.contains(&model_type)))
}

/// Returns whether a type of model has ALiBi without a key that says so.
pub(super) fn has_alibi(model_type: Option<&str>) -> bool {
    matches!(model_type, Some("bloom" | "mpt" | "gpt_refact"))
}

/// Returns whether models of a type ignore the `position_embedding_type: absolute` of their configurations.
pub(super) fn ignores_absolute(model_type: Option<&str>) -> bool {
    matches!(model_type, Some("modernbert" | "modernbert-decoder"))
}

/// Returns whether the heads of a type of model have a width of their own, not an equal part of the hidden state.
pub(super) fn has_own_head_dim(model_type: Option<&str>) -> bool {
    matches!(
        model_type,
        Some(
            "gemma"
                | "gemma2"
                | "gemma3"
                | "gemma3_text"
                | "gemma3n_text"
                | "vaultgemma"
                | "qwen3"
                | "qwen3_moe"
                | "glm"
                | "glm4"
                | "ernie4_5"
                | "seed_oss"
                | "cwm"
                | "gpt_oss"
                | "hy_v3"
                | "llama4_text"
                | "helium"
        )
    )
}

/// Returns whether GPT-2's defaults apply to what is not stated.
pub(super) fn is_gpt2(model_type: Option<&str>) -> bool {
    matches!(model_type, None | Some("gpt2"))
}

/// Returns further names under which a type of model states the dropout of its embeddings, and the probability where
/// none of them is stated.
pub(super) fn dropout(model_type: Option<&str>) -> (&'static [&'static str], f64) {
    match model_type {
        // nanoGPT and the book have no types.
        None => (&["dropout", "drop_rate"], 0.1),
        Some("gpt2" | "openai-gpt" | "gpt_bigcode" | "ctrl" | "imagegpt" | "decision_transformer") => (&[], 0.1),
        Some("gpt_neox") => (&["hidden_dropout"], 0.0),
        Some(
            "bart" | "mbart" | "marian" | "pegasus" | "pegasus_x" | "blenderbot" | "m2m_100" | "xglm" | "xlnet" | "xlm"
            | "fsmt" | "transfo-xl" | "distilbert" | "flaubert" | "mvp" | "plbart",
        ) => (&["dropout"], 0.1),
        Some("bert" | "roberta" | "xlm-roberta" | "albert" | "electra" | "deberta" | "deberta-v2" | "biogpt") => {
            (&["hidden_dropout_prob"], 0.1)
        }
        Some("t5" | "mt5" | "umt5") => (&["dropout_rate"], 0.1),
        Some("bloom" | "mpt" | "opt" | "gptj" | "codegen" | "gpt_neo" | "dbrx") => (&[], 0.0),
        known if rotation(known).is_some() => (&[], 0.0),
        Some(_) => (&["dropout", "drop_rate"], 0.0),
    }
}

/// Returns the factor of token rows of a type of model where no key states it.
pub(super) fn embedding_scale(model_type: Option<&str>) -> EmbeddingScale {
    match model_type {
        Some(
            "gemma" | "gemma2" | "gemma3" | "gemma3_text" | "gemma3n_text" | "gemma4" | "gemma4_text" | "vaultgemma"
            | "t5gemma" | "t5gemma2",
        ) => EmbeddingScale::RootInDType,
        Some("recurrent_gemma") => EmbeddingScale::RootInBf16,
        Some("ctrl" | "biogpt" | "xglm" | "fsmt" | "m2m_100" | "pegasus_x") => EmbeddingScale::Root,
        _ => EmbeddingScale::None,
    }
}

/// Returns what a type of model does to its logits where no key states otherwise: the key and its default.
pub(super) fn logits(model_type: Option<&str>) -> Option<(&'static str, f64)> {
    match model_type {
        Some("cohere" | "cohere2") => Some(("logit_scale", 0.0625)),
        Some("gemma2" | "vaultgemma") => Some(("final_logit_softcapping", 30.0)),
        Some("nanochat") => Some(("final_logit_softcapping", 15.0)),
        Some("xlstm") => Some(("output_logit_soft_cap", 30.0)),
        _ => None,
    }
}
