//! What GGUF's keys say of a model, as a `config.json` says it.
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

use serde_json::{Map, Value, json};

use super::super::bytes::{ByteFile, Parse};
use super::super::keys as names;
use super::super::stored::{Contents, Kind, Place, StoredTensor};

/// Keys that every architecture has under its own name, and how they are called in a `config.json`.
const KEYS: [(&str, &str); 14] = [
    ("context_length", "n_positions"),
    ("embedding_length", "n_embd"),
    ("block_count", "n_layer"),
    ("attention.head_count", "n_head"),
    ("attention.key_length", "head_dim"),
    ("attention.sliding_window", "sliding_window"),
    ("vocab_size", "vocab_size"),
    ("unpadded_vocab_size", "unpadded_vocab_size"), // our own
    ("rope.freq_base", "rope_theta"),
    ("rope.freq_base_swa", "rope_local_base_freq"),
    ("rope.dimension_count", "rotary_dim"),
    ("embedding_scale", "embedding_multiplier"),
    ("logit_scale", "logit_scale"),
    ("final_logit_softcapping", "final_logit_softcapping"),
];
/// Keys of which something else is made.
const OTHERS: [&str; 9] = [
    "attention.max_alibi_bias",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.finetuned",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_log_multiplier",
    "rope.scaling.alpha",
];
/// Keys of GPT-2's blocks, and how they are called in its `config.json`.
const OF_GPT2: [(&str, &str); 2] =
    [("feed_forward_length", "n_inner"), ("attention.layer_norm_epsilon", "layer_norm_epsilon")];
const ARCHITECTURE: &str = "general.architecture";
pub(super) const ALIGNMENT: &str = "general.alignment";

/// Architectures whose queries and keys are stored for pairs of neighbours (llama.cpp's `LLAMA_ROPE_TYPE_NORM`), and
/// the type of model that transformers has for them.
const NEIGHBOURS: [(&str, &str); 15] = [
    ("llama", "llama"),
    ("internlm2", "internlm2"),
    ("minicpm", "minicpm"),
    ("xverse", "xverse"),
    ("command-r", "cohere"),
    ("cohere2", "cohere2"),
    ("olmo", "olmo"),
    ("deepseek", "deepseek"),
    ("deepseek2", "deepseek_v2"),
    ("chatglm", "chatglm"),
    ("glm4", "glm4"),
    ("granite", "granite"),
    ("granitemoe", "granitemoe"),
    ("arcee", "arcee"),
    ("ernie4_5", "ernie4_5"),
];
/// The same for pairs that lie half of the rotated width apart (`LLAMA_ROPE_TYPE_NEOX`).
const HALVES: [(&str, &str); 26] = [
    ("falcon", "falcon"),
    ("stablelm", "stablelm"),
    ("bitnet", "bitnet"),
    ("qwen", "qwen"),
    ("qwen2", "qwen2"),
    ("qwen2moe", "qwen2_moe"),
    ("qwen3", "qwen3"),
    ("qwen3moe", "qwen3_moe"),
    ("olmo2", "olmo2"),
    ("olmoe", "olmoe"),
    ("phi2", "phi"),
    ("phi3", "phi3"),
    ("phimoe", "phimoe"),
    ("gemma", "gemma"),
    ("gemma2", "gemma2"),
    ("gemma3", "gemma3_text"),
    ("gemma3n", "gemma3n_text"),
    ("starcoder2", "starcoder2"),
    ("gptneox", "gpt_neox"),
    ("codeshell", "codeshell"),
    ("nemotron", "nemotron"),
    ("exaone", "exaone"),
    ("exaone4", "exaone4"),
    ("gpt-oss", "gpt_oss"),
    ("seed_oss", "seed_oss"),
    ("lfm2", "lfm2"),
];
/// Architectures with ALiBi, whatever their keys say. Others have it if `attention.max_alibi_bias` is not 0.
const ALIBI: [(&str, &str); 3] = [("bloom", "bloom"), ("refact", "gpt_refact"), ("jina-bert-v2", "jina_bert_v2")];

/// Factors of frequencies, which llama.cpp stores as tensors.
const FREQUENCIES: &str = "rope_freqs.weight";
const SHORT: &str = "rope_factors_short.weight";
const LONG: &str = "rope_factors_long.weight";
/// More pairs of dimensions than any head has.
const MAX_PAIRS: u64 = 1 << 16;

/// Returns whether a key is read here.
pub(super) fn is_wanted(key: &str) -> bool {
    let is_renamed = |rest: &str| KEYS.iter().chain(&OF_GPT2).any(|(known, _)| *known == rest);
    let of_architecture = |rest: &str| is_renamed(rest) || OTHERS.contains(&rest);
    [ARCHITECTURE, ALIGNMENT].contains(&key) || key.split_once('.').is_some_and(|(_, rest)| of_architecture(rest))
}

/// Makes the configuration of the wanted keys and the tensors; `None` if they state nothing.
pub(super) fn config(keys: &Map<String, Value>, contents: &Contents, file: &ByteFile) -> Parse<Option<Value>> {
    let architecture = keys.get(ARCHITECTURE).and_then(Value::as_str).unwrap_or_default();
    let of = |key: &str| {
        // Files of no architecture are read by the ends of their keys.
        let found = keys.iter().find(|(name, _)| name.split_once('.').is_some_and(|(_, rest)| rest == key));
        keys.get(&format!("{architecture}.{key}")).or(found.map(|(_, value)| value))
    };
    let mut config = Map::new();
    for (key, name) in KEYS {
        if let Some(value) = of(key) {
            config.insert(name.to_string(), value.clone());
        }
    }
    let type_among = |list: &[(&'static str, &'static str)]| {
        list.iter().find(|(known, _)| *known == architecture).map(|(_, model_type)| *model_type)
    };
    let rotary = type_among(&NEIGHBOURS).map(|name| (name, true)).or(type_among(&HALVES).map(|name| (name, false)));
    let always = type_among(&ALIBI);
    let max_bias = of("attention.max_alibi_bias").filter(|max| always.is_none() && max.as_f64() != Some(0.0));
    if let Some(model_type) = always.or((architecture == "mpt").then_some("mpt")) {
        config.insert("model_type".to_string(), model_type.into());
        config.insert("alibi".to_string(), (always.is_some() || max_bias.is_some()).into());
    }
    if let Some(max) = max_bias {
        config.insert("attn_config".to_string(), json!({"alibi": true, "alibi_bias_max": max}));
    } else if always.is_some() || architecture == "mpt" {
        config.retain(|key, _| !is_of_rotation(key));
    } else if let Some((model_type, interleaved)) = rotary {
        config.insert("model_type".to_string(), model_type.into());
        config.insert("rope_interleave".to_string(), interleaved.into());
        config.entry("rope_theta").or_insert(json!(10000.0));
        if !config.contains_key("rotary_dim") {
            config.insert("partial_rotary_factor".to_string(), json!(1.0));
        }
        if architecture == "deepseek2" {
            // A head's rotated part lies apart from the rest of it.
            if let Some(n) = config.remove("rotary_dim") {
                config.insert("head_dim".to_string(), n);
                config.insert("partial_rotary_factor".to_string(), json!(1.0));
            }
        }
        if let Some(scaling) = scaling(&of, &config, contents, file)? {
            config.insert("rope_scaling".to_string(), scaling);
        }
    } else if config.keys().any(|key| is_of_rotation(key))
        || !["", "gpt2"].contains(&architecture)
            && !contents.tensors.keys().any(|name| names::is_known_position_table(name))
    {
        // What its positions are is not known: refused where they are asked for.
        config.insert(ARCHITECTURE.to_string(), architecture.into());
    }
    // A factor of 0 is none for llama.cpp.
    for key in ["embedding_multiplier", "logit_scale"] {
        if config.get(key).is_some_and(|scale| scale.as_f64() == Some(0.0)) {
            config.insert(key.to_string(), json!(1.0));
        }
    }
    match architecture {
        "gpt2" => {
            config.insert("model_type".to_string(), "gpt2".into());
            for (key, name) in OF_GPT2 {
                if let Some(value) = of(key) {
                    config.insert(name.to_string(), decimal(value));
                }
            }
        }
        // What llama.cpp takes for files that state no scales.
        "minicpm" => {
            config.entry("embedding_multiplier").or_insert(json!(12.0));
            let width = config.get("n_embd").and_then(Value::as_f64).filter(|width| *width > 0.0);
            config.entry("logit_scale").or_insert(json!(width.map(|width| 256.0 / width)));
        }
        // Only what has full attention is scaled.
        "olmo2" if config.contains_key("sliding_window") => {
            config.insert("model_type".to_string(), "olmo3".into());
        }
        // The larger of the two, whose file may leave out its window.
        "exaone4" if of("block_count").and_then(Value::as_u64) == Some(64) => {
            config.entry("sliding_window").or_insert(json!(4096));
        }
        // llama.cpp has no window where the file has none.
        "exaone4" => {
            config.entry("sliding_window").or_insert(Value::Null);
        }
        // Granite's switch for its rotation.
        "granite" | "granitemoe" if of("rope.scaling.finetuned").and_then(Value::as_bool) == Some(false) => {
            config.retain(|key, _| !is_of_rotation(key));
            config.insert("position_embedding_type".to_string(), "none".into());
        }
        _ => {}
    }
    if let Some(scale) = config.remove("logit_scale") {
        // Granite divides by it.
        let name = if architecture.starts_with("granite") { "logits_scaling" } else { "logit_scale" };
        config.insert(name.to_string(), scale);
    }
    // A head that is not there is tied, whatever the type of model.
    let is_tied = contents.tensors.contains_key(names::GGUF.0) && !contents.tensors.contains_key(names::GGUF_HEAD.0);
    if is_tied && !config.is_empty() {
        config.insert("tie_word_embeddings".to_string(), true.into());
    }
    Ok((!config.is_empty()).then(|| config.into()))
}

/// Returns the shortest decimal that rounds to a value of f32, as a `config.json` has it: 1e-5, not 9.99999974e-6.
fn decimal(value: &Value) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "the value was widened from f32")]
    let narrow = value.as_f64().filter(|_| value.is_f64()).map(|wide| wide as f32);
    let shortest = narrow.and_then(|narrow| narrow.to_string().parse::<f64>().ok());
    shortest.map_or(value.clone(), Value::from)
}

/// Returns whether a key of the configuration is of a rotation.
fn is_of_rotation(key: &str) -> bool {
    key.starts_with("rope_") || key.contains("rotary")
}

/// Makes the `rope_scaling` of keys and tensors.
fn scaling<'a>(
    of: &impl Fn(&str) -> Option<&'a Value>,
    config: &Map<String, Value>,
    contents: &Contents,
    file: &ByteFile,
) -> Parse<Option<Value>> {
    let trained_on = of("rope.scaling.original_context_length").or(config.get("n_positions"));
    let attention_factor = of("rope.scaling.attn_factor").cloned().unwrap_or(json!(1.0));
    let by_pair = |short: Value, long: Value, attention_factor: Value| {
        json!({"rope_type": "longrope", "short_factor": short, "long_factor": long,
            "original_max_position_embeddings": trained_on, "attention_factor": attention_factor, "factor": 1.0})
    };
    if let Some(factors) = tensor(FREQUENCIES, contents, file)? {
        return Ok(Some(by_pair(factors.clone(), factors, json!(1.0))));
    }
    if let Some((short, long)) = tensor(SHORT, contents, file)?.zip(tensor(LONG, contents, file)?) {
        return Ok(Some(by_pair(short, long, attention_factor)));
    }
    let kind = of("rope.scaling.type").and_then(Value::as_str);
    let factor = of("rope.scaling.factor").or(of("rope.scale_linear"));
    Ok(match (kind, factor) {
        (None | Some("none"), None) => None,
        (Some("none"), _) => None,
        (None, Some(factor)) if factor.as_f64() == Some(1.0) => None,
        (None | Some("linear"), _) => Some(json!({"rope_type": "linear", "factor": factor})),
        (Some("yarn"), _) => {
            let mut yarn =
                json!({"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": trained_on});
            if of("rope.scaling.yarn_log_multiplier").is_some() {
                // What the attention multiplies its scores by takes the rotation's part.
                yarn["attention_factor"] = json!(1.0);
            } else if let (Some(attention), Some(factor)) =
                (of("rope.scaling.attn_factor").and_then(Value::as_f64), factor.and_then(Value::as_f64))
            {
                yarn["attention_factor"] = json!(attention * (0.1 * factor.max(1.0).ln() + 1.0));
            }
            Some(yarn)
        }
        (Some(other), _) => Some(json!({"rope_type": other, "factor": factor, "alpha": of("rope.scaling.alpha")})),
    })
}

/// Returns the elements of a small tensor as a list, or the tensor's name if it has no such elements: where a list is
/// wanted, a text is refused.
fn tensor(name: &str, contents: &Contents, file: &ByteFile) -> Parse<Option<Value>> {
    let Some(tensor) = contents.tensors.get(name) else { return Ok(None) };
    let (StoredTensor { place: Place::Plain { start, .. }, .. }, n_bytes) = (tensor, tensor.n_bytes() as u64) else {
        return Ok(Some(name.into()));
    };
    if !matches!(tensor.dtype.kind, Kind::Float(candle_core::DType::F32)) || n_bytes > 4 * MAX_PAIRS {
        return Ok(Some(name.into()));
    }
    let bytes = file.bytes_at(*start, n_bytes)?;
    let numbers = bytes.chunks_exact(4).map(|four| match four.try_into() {
        Ok(four) => f64::from(f32::from_le_bytes(four)),
        Err(_) => f64::NAN,
    });
    Ok(Some(numbers.collect()))
}
