//! How types of models rotate where no key says it.

/// Which layers of a model are rotated, where these are not all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Rotated {
    All,
    /// Those with a sliding window.
    Sliding,
    /// Those with a sliding window if the configuration states one, else all.
    SlidingIfAny,
    /// All but every fourth, or those that `no_rope_layers` or `no_rope_layer_interval` say.
    ThreeOfFour,
}

/// The rotation of a type of model, by the classes of transformers.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) struct Rotation {
    pub(super) types: &'static [&'static str],
    pub(in crate::config) interleaved: bool,
    pub(in crate::config) theta: f64,
    pub(in crate::config) partial: f64,
    pub(in crate::config) rotary_dim: Option<usize>,
    /// The base in layers of a sliding window, where they have one of their own.
    pub(in crate::config) sliding_theta: Option<f64>,
    pub(in crate::config) rotated: Rotated,
    /// Layers of a sliding window have no scaling.
    pub(in crate::config) only_full_is_scaled: bool,
    /// The class scales, or rotates by layer type, where a configuration states no parameters: they have to be stated.
    pub(in crate::config) is_scaled: bool,
}

impl Rotation {
    /// Of a type that is not known: Llama's.
    pub(in crate::config) const PLAIN: Self = Self {
        types: &[],
        interleaved: false,
        theta: 1e4,
        partial: 1.0,
        rotary_dim: None,
        sliding_theta: None,
        rotated: Rotated::All,
        only_full_is_scaled: false,
        is_scaled: false,
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

    const fn scaled(self) -> Self {
        Self { is_scaled: true, ..self }
    }

    const fn rotated(self, rotated: Rotated) -> Self {
        Self { rotated, ..self }
    }
}

pub(super) const ROTATIONS: [Rotation; 37] = [
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
            "olmoe",
            "granite",
            "granitemoe",
            "granitemoeshared",
            "falcon",
            "RefinedWeb",
            "RefinedWebModel",
            "RW",
            "internlm",
            "internlm2",
            "minicpm",
            "minicpm3",
            "arcee",
            "seed_oss",
            "jetmoe",
            "diffllama",
            "hunyuan_v1_dense",
            "hunyuan_v1_moe",
            "falcon_h1",
            "hyperclovax",
            "eurobert",
        ],
        1e4,
    ),
    Rotation::of(&["gpt_neox", "stablelm"], 1e4).part(0.25),
    Rotation::of(&["gpt_neox_japanese"], 1e4),
    Rotation::of(&["phi", "persimmon", "nemotron", "glm4_moe", "bamba"], 1e4).part(0.5),
    Rotation::of(&["qwen3_next"], 1e4).part(0.25),
    Rotation::of(&["mixtral", "phimoe", "minimax", "solar_open"], 1e6),
    Rotation::of(&["cwm"], 1e6).scaled(),
    Rotation::of(&["minimax_m2"], 5e6),
    Rotation::of(&["bitnet", "flex_olmo", "exaone", "csm", "mllama_text_model", "evolla"], 5e5),
    Rotation::of(&["gpt_oss"], 1.5e5).scaled(),
    Rotation::of(&["apertus"], 1.2e7).scaled(),
    Rotation::of(&["smollm3"], 2e6).rotated(Rotated::ThreeOfFour),
    Rotation::of(&["hy_v3"], 11_158_840.0),
    Rotation::of(&["lfm2", "lfm2_moe"], 1e6),
    Rotation::of(&["gptj", "codegen"], 1e4).neighbours().dims(64),
    Rotation::of(&["cohere", "ernie4_5", "ernie4_5_moe"], 5e5).neighbours(),
    Rotation::of(&["llama4_text", "llama4"], 5e5).neighbours().rotated(Rotated::ThreeOfFour),
    Rotation::of(&["cohere2"], 1e4).neighbours().rotated(Rotated::SlidingIfAny),
    Rotation::of(&["flint"], 1e4).rotated(Rotated::SlidingIfAny),
    Rotation::of(&["exaone4", "exaone4_5", "exaone_moe", "kolibri1"], 1e4).rotated(Rotated::SlidingIfAny),
    Rotation::of(&["afmoe"], 1e4).rotated(Rotated::Sliding),
    Rotation::of(&["glm", "glm4"], 1e4).part(0.5).neighbours(),
    Rotation::of(&["helium"], 1e5).neighbours(),
    Rotation::of(
        &[
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "kimi_k2",
            "axk1",
            "axk2",
            "glm4_moe_lite",
            "glm_moe_dsa",
            "youtu",
            "blt_patcher",
            "glm_ocr_text",
            "glm4v_text",
            "hy_v4_vl_text",
        ],
        1e4,
    )
    .neighbours(),
    Rotation::of(&["mistral4", "dots3_note_text"], 1e4).neighbours().scaled(),
    Rotation::of(&["longcat_flash"], 1e7).neighbours(),
    Rotation::of(&["bailing_hybrid"], 6e6).neighbours(),
    Rotation::of(&["blt_local_encoder", "blt_local_decoder"], 5e5).neighbours(),
    Rotation::of(&["moonshine"], 1e4).part(0.9).neighbours(),
    Rotation::of(&["moonshine_streaming"], 1e4).part(0.8).neighbours(),
    Rotation::of(&["gemma3", "gemma3_text", "gemma3n_text"], 1e6).sliding(1e4),
    Rotation::of(&["modernbert", "modernbert-decoder"], 1.6e5).sliding(1e4),
    Rotation { only_full_is_scaled: true, ..Rotation::of(&["olmo3"], 5e5) },
    Rotation::of(&["recurrent_gemma"], 1e4).part(0.5),
    Rotation::of(&["nomic_bert"], 1e3),
    Rotation::of(&["gte"], 1.6e5),
    Rotation::of(&["jina_embeddings_v3"], 2e4),
];
