//! The positions of types of models that do not name them.

use super::rotations::{ROTATIONS, Rotation};

/// The positions that a type of model has where no key says it.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) enum Own {
    Learned,
    Rotary(&'static Rotation),
    Alibi,
    None,
}

/// Models whose embeddings are BERT's: dropout of the sum is `hidden_dropout_prob`.
const BERTS: [&str; 47] = [
    "bert",
    "bert-generation",
    "big_bird",
    "camembert",
    "convbert",
    "data2vec-text",
    "deberta",
    "deberta-v2",
    "electra",
    "ernie",
    "fnet",
    "ibert",
    "layoutlm",
    "layoutlmv2",
    "layoutlmv3",
    "layoutxlm",
    "lilt",
    "longformer",
    "luke",
    "mluke",
    "lxmert",
    "markuplm",
    "megatron-bert",
    "mobilebert",
    "mpnet",
    "mra",
    "nystromformer",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "splinter",
    "squeezebert",
    "tapas",
    "vilt",
    "visual_bert",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
    "yoso",
    "dpr",
    "align_text_model",
    "bridgetower_text_model",
    "chinese_clip_text_model",
    "clap_text_model",
    "flava_text_model",
    "git",
];
/// Others with a learned table.
const LEARNED: [&str; 36] = [
    "gpt2",
    "gpt-sw3",
    "openai-gpt",
    "gpt_neo",
    "gpt_bigcode",
    "imagegpt",
    "decision_transformer",
    "opt",
    "bart",
    "mbart",
    "mvp",
    "plbart",
    "blenderbot",
    "blenderbot-small",
    "biogpt",
    "bigbird_pegasus",
    "led",
    "trocr",
    "whisper",
    "albert",
    "distilbert",
    "xlm",
    "flaubert",
    "esm",
    "altclip_text_model",
    "blip_text_model",
    "clip_text_model",
    "clipseg_text_model",
    "groupvit_text_model",
    "metaclip_2_text_model",
    "owlv2_text_model",
    "owlvit_text_model",
    "siglip_text_model",
    "siglip2_text_model",
    "xclip_text_model",
    "aimv2_text_model",
];
const ALIBI: [&str; 3] = ["bloom", "mpt", "gpt_refact"];
/// Models that know the order of tokens by their causal mask or their state alone.
const NONE: [&str; 10] = [
    "mamba",
    "mamba2",
    "falcon_mamba",
    "rwkv",
    "xlstm",
    "jamba",
    "nemotron_h",
    "zamba",
    "kimi_linear",
    "granitemoehybrid",
];
/// Models that are read as no other, and what is not computed of them.
const REFUSED: [(&str, &str); 5] = [
    (
        "nanochat",
        "an RMS norm without weights follows its token rows, and its rotation turns the other way: name another \
         `model_type`, and apply both",
    ),
    ("cohere2_moe", "it rotates some layers by their place: name another `model_type`, and choose the layers"),
    ("ernie4_5_vl_moe_text", "its pairs are those of three kinds of positions: name another `model_type`, and rotate"),
    ("mistral_large4_text", "its rotation depends on the length: name another `model_type`, and rotate"),
    ("deepseek_v4", "it rotates compressed keys on their own: name another `model_type`, and rotate"),
];

/// Returns the positions that a type of model has where no key says it, or `None` for a type that is not known.
pub(in crate::config) fn own_positions(model_type: Option<&str>) -> Option<Own> {
    let Some(model_type) = model_type else { return Some(Own::Learned) };
    if BERTS.contains(&model_type) || LEARNED.contains(&model_type) {
        return Some(Own::Learned);
    }
    if ALIBI.contains(&model_type) {
        return Some(Own::Alibi);
    }
    if NONE.contains(&model_type) {
        return Some(Own::None);
    }
    ROTATIONS.iter().find(|rotation| rotation.types.contains(&model_type)).map(Own::Rotary)
}

pub(super) fn is_bert(model_type: &str) -> bool {
    BERTS.contains(&model_type)
}

/// Returns why models of a type are refused, if they are.
pub(in crate::config) fn refused(model_type: Option<&str>) -> Option<&'static str> {
    REFUSED.iter().find(|(name, _)| model_type == Some(*name)).map(|(_, why)| *why)
}

/// Returns a type of model as it is listed here, whatever the case of its letters and the signs between them.
pub(super) fn known(name: &str) -> Option<&'static str> {
    let letters = |name: &'_ str| name.replace(['-', '_'], "").to_ascii_lowercase();
    let wanted = letters(name);
    let of_lists = [&BERTS[..], &LEARNED, &ALIBI, &NONE].into_iter().flatten();
    let rotated = ROTATIONS.iter().flat_map(|rotation| rotation.types);
    let refused = REFUSED.iter().map(|(name, _)| name);
    of_lists.chain(rotated).chain(refused).copied().find(|known| letters(known) == wanted)
}
