//! The names under which checkpoints keep an output head.

use std::collections::HashSet;

use super::keys::{DOTS, module_of, prefix_before, split_last, usual_names};

/// The modules of a weight `[V, C]`. Any prefix may precede them.
const MODULES: [&str; 8] = [
    "lm_head",      // Hugging Face, nanoGPT
    "out_head",     // "Build a Large Language Model From Scratch"
    "output",       // GGUF, llama
    "embed_out",    // GPT-NeoX
    "output_layer", // Megatron
    "to_logits",    // x-transformers
    "unembedding",  // gpt-oss
    "head",         // minGPT of 2020
];
/// Weights `[C, V]`: Flax's, TransformerLens's.
const TRANSPOSED: [&str; 2] = ["lm_head.kernel", "unembed.W_U"];
const TRANSPOSED_BIAS: &str = "unembed.b_U";
/// What changes hidden states before the product with a head: in BERT, RoBERTa, ALBERT, DistilBERT, ModernBERT.
const TRANSFORMS: [&str; 5] = [
    "cls.predictions.transform.dense.weight",
    "lm_head.dense.weight",
    "predictions.dense.weight",
    "vocab_transform.weight",
    "head.dense.weight",
];

/// Returns whether a name is that of the weight of an output head.
pub(super) fn is_head(name: &str) -> bool {
    matches!(Part::of(name), Some((Part::Weight { .. }, _)))
}

/// Lists the usual names, for an error message.
pub(super) fn head_names() -> String {
    usual_names(MODULES.into_iter().chain(TRANSPOSED))
}

/// The names of the parts of an output head in a checkpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadNames {
    /// Its weights; more than one only if it is unclear which is the model's.
    pub(super) weights: Vec<HeadWeight>,
    pub(super) bias: Option<String>,
    pub(super) transform: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeadWeight {
    pub(super) name: String,
    /// Whether it is `[C, V]`.
    pub(super) transposed: bool,
}

impl HeadNames {
    /// Finds the head of the model whose token table is called `wte`: it lies in a module that holds both.
    ///
    /// `given` is the name of its weight, if the caller knows it.
    pub(super) fn find(names: &[&str], wte: &str, given: Option<&str>) -> Self {
        let mut found = Self::default();
        let mut weights: Vec<(HeadWeight, &str)> = Vec::new();
        let mut biases = Vec::new();
        for &name in names {
            if let Some(prefix) = TRANSFORMS.iter().find_map(|suffix| prefix_before(name, suffix))
                && wte.starts_with(prefix)
            {
                found.transform = Some(name.to_string());
            }
            match Part::of(name) {
                Some((Part::Weight { transposed }, prefix)) if given.is_none() && wte.starts_with(prefix) => {
                    weights.push((HeadWeight { name: name.to_string(), transposed }, prefix));
                }
                Some((Part::Bias, prefix)) if wte.starts_with(prefix) => biases.push(name),
                _ => {}
            }
        }
        let nearest = weights.iter().map(|(_, prefix)| prefix.len()).max();
        weights.retain(|(_, prefix)| Some(prefix.len()) == nearest);
        found.weights = weights.into_iter().map(|(weight, _)| weight).collect();
        if let Some(name) = given {
            let transposed = matches!(Part::of(name), Some((Part::Weight { transposed: true }, _)));
            found.weights = vec![HeadWeight { name: name.to_string(), transposed }];
        }
        let modules: HashSet<&str> = found.weights.iter().map(|weight| split_last(&weight.name).0).collect();
        let of_head = |bias: &&str| modules.is_empty() || modules.contains(split_last(bias).0);
        found.bias = biases.into_iter().find(of_head).map(str::to_string);
        found
    }
}

enum Part {
    Weight { transposed: bool },
    Bias,
}

impl Part {
    /// Returns the part of a head that a tensor is, and the prefix of the head's module.
    fn of(name: &str) -> Option<(Self, &str)> {
        let ends = |suffixes: &[&str]| suffixes.iter().find_map(|suffix| prefix_before(name, suffix));
        if let Some(prefix) = ends(&TRANSPOSED) {
            return Some((Self::Weight { transposed: true }, prefix));
        }
        if let Some(prefix) = ends(&[TRANSPOSED_BIAS]) {
            return Some((Self::Bias, prefix));
        }
        let (part, module) = match split_last(name) {
            (module, "bias") => (Self::Bias, module),
            (_, "weight") => (Self::Weight { transposed: false }, module_of(name)?),
            _ => return None,
        };
        let prefix = MODULES.iter().find_map(|known| prefix_before(module, known))?;
        // The output of a block is not the model's.
        let is_in_block =
            prefix.split(DOTS).any(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        (!is_in_block).then_some((part, prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str], wte: &str) -> String {
        let found = HeadNames::find(names, wte, None);
        let weights: Vec<_> = found.weights.iter().map(|weight| weight.name.as_str()).collect();
        format!("{} + {}", weights.join(" "), found.bias.unwrap_or_default())
    }

    #[test]
    fn a_head_lies_in_a_module_that_holds_the_token_table() {
        let cases = [
            (&["lm_head.weight", "lm_head.bias", "other.lm_head.weight"][..], "lm_head.weight + lm_head.bias"),
            (&["_orig_mod.lm_head.weight"][..], " + "),
            (&["transformer.h.0.attn.output.weight", "h.0.output.weight"][..], " + "),
            (&["lm_head.weight", "transformer.lm_head.weight"][..], "transformer.lm_head.weight + "),
            (&["lm_head.modules_to_save.default.weight"][..], "lm_head.modules_to_save.default.weight + "),
            (&["lm_head.original_module.weight", "lm_head.base_layer.weight"][..], "lm_head.base_layer.weight + "),
            (&["lm_head.weight", "out_head.weight"][..], "lm_head.weight out_head.weight + "),
            (&["unembed.W_U", "unembed.b_U"][..], "unembed.W_U + unembed.b_U"),
            (&["lm_head.bias"][..], " + lm_head.bias"),
            (&["xlm_head.weight", "head.dense.weight", "output_norm.weight"][..], " + "),
        ];
        for (names, expected) in cases {
            assert_eq!(found(names, "transformer.wte.weight"), expected);
        }
        assert_eq!(found(&["output.weight", "blk.0.attn_output.weight"], "token_embd.weight"), "output.weight + ");
        assert_eq!(found(&["model/lm_head/kernel"], "model/wte/embedding"), "model/lm_head/kernel + ");
    }
}
