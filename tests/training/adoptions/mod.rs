//! Models as people write them in Candle, and the same on this crate: few lines change, no logit does, and every
//! parameter gets PyTorch's gradient.
//!
//! `tests/golden/generate_adoptions.py` makes the goldens.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_gpt_input::optim::missing_gradients;
use candle_nn::loss::cross_entropy;
use candle_nn::{VarBuilder, VarMap};

use crate::support::{Failures, difference, golden_tensors};

mod bigcode {
    pub mod after;
    pub mod before;
}
mod book {
    pub mod after;
    pub mod before;
}
mod llama {
    pub mod after;
    pub mod before;
}
mod mingpt {
    pub mod after;
    pub mod before;
}
mod mpt {
    pub mod after;
    pub mod before;
}

/// The sizes of a model, under the book's names.
struct Sizes {
    vocab_size: usize,
    context_length: usize,
    emb_dim: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
}

/// Those of the golden file.
const SIZES: Sizes = Sizes { vocab_size: 29, context_length: 11, emb_dim: 16, n_layers: 1, n_heads: 4, n_kv_heads: 2 };

/// f32 sums in another order than torch's: 1e-5 of the largest element is some hundred roundings.
const SUMS: f64 = 1e-5;

/// Builds a model and computes its logits.
type Logits = fn(VarBuilder, &Tensor) -> Result<Tensor>;

struct Adoption {
    name: &'static str,
    before: Logits,
    after: Logits,
    sources: [&'static str; 2],
}

macro_rules! adoption {
    ($name:ident, $model:ident, $new:ident, |$built:ident, $ids:ident| $forward:expr) => {
        Adoption {
            name: stringify!($name),
            before: |vb, $ids| {
                let $built = $name::before::$model::$new(&SIZES, vb)?;
                $forward
            },
            after: |vb, $ids| {
                let $built = $name::after::$model::$new(&SIZES, vb)?;
                $forward
            },
            sources: [
                include_str!(concat!(stringify!($name), "/before.rs")),
                include_str!(concat!(stringify!($name), "/after.rs")),
            ],
        }
    };
}

fn adoptions() -> [Adoption; 5] {
    [
        adoption!(book, GptModel, new, |model, ids| model.forward(ids)),
        adoption!(mingpt, Gpt, load, |model, ids| model.forward(ids, 0, &mut vec![None; SIZES.n_layers])),
        adoption!(bigcode, GptBigCode, load, |model, ids| model.forward(ids)),
        adoption!(llama, Llama, load, |model, ids| model.forward(ids)),
        adoption!(mpt, Mpt, new, |model, ids| model.forward(ids)),
    ]
}

/// Returns the weights of a model as variables, and a builder of models on them.
fn weights(golden: &HashMap<String, Tensor>, name: &str) -> (VarMap, VarBuilder<'static>) {
    let varmap = VarMap::new();
    let prefix = format!("{name}.weight.");
    let vars = golden.iter().filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?.to_string(), value)));
    varmap.data().lock().unwrap().extend(vars.map(|(key, value)| (key, Var::from_tensor(value).unwrap())));
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    (varmap, vb)
}

#[test]
fn logits_stay_and_every_parameter_gets_pytorchs_gradient() {
    let golden = golden_tensors("adoptions.safetensors");
    let (_, t) = golden["input_ids"].dims2().unwrap();
    let ids = golden["input_ids"].narrow(1, 0, t - 1).unwrap().contiguous().unwrap();
    let targets = golden["input_ids"].narrow(1, 1, t - 1).unwrap().flatten_all().unwrap();
    let mut failures = Failures::default();
    for Adoption { name, before, after, .. } in adoptions() {
        let (varmap, vb) = weights(&golden, name);
        let n_weights = varmap.all_vars().len();
        let logits = after(vb.clone(), &ids).unwrap();
        let of_before = before(vb, &ids).unwrap();
        assert_eq!(varmap.all_vars().len(), n_weights, "{name}: other names than PyTorch's");
        for (what, other) in [("before", &of_before), ("PyTorch's", &golden[&format!("{name}.logits")])] {
            let apart = difference(&logits, other);
            failures.holds(apart <= SUMS, format_args!("{name}: logits are {apart:e} from {what}"));
        }
        let grads =
            |logits: Tensor| cross_entropy(&logits.flatten(0, 1).unwrap(), &targets).unwrap().backward().unwrap();
        let (before, after) = (grads(of_before), grads(logits));
        let missing = missing_gradients(&after, &varmap);
        failures.holds(missing.is_empty(), format_args!("{name}: no gradient reaches {missing:?}"));
        let mut n_wrong_before = 0;
        for (key, var) in varmap.data().lock().unwrap().iter() {
            let torchs = &golden[&format!("{name}.grad.{key}")];
            let apart = after.get(var).map_or(f64::INFINITY, |grad| difference(grad, torchs));
            failures.holds(apart <= SUMS, format_args!("{name}: the gradient of {key} is {apart:e} from PyTorch's"));
            n_wrong_before += usize::from(before.get(var).is_none_or(|grad| difference(grad, torchs) > 1e-3));
        }
        failures.holds(n_wrong_before > 0, format_args!("{name}: nothing was cut before"));
    }
}

#[test]
fn a_cache_changes_no_logit() {
    let golden = golden_tensors("adoptions.safetensors");
    let (_, vb) = weights(&golden, "mingpt");
    let model = mingpt::after::Gpt::load(&SIZES, vb).unwrap();
    let mut cache = vec![None; SIZES.n_layers];
    let (_, t, _) = golden["mingpt.logits"].dims3().unwrap();
    let step = |i| model.forward(&golden["input_ids"].narrow(1, i, 1).unwrap(), i, &mut cache).unwrap();
    let logits = Tensor::cat(&(0..t).map(step).collect::<Vec<_>>(), 1).unwrap();
    assert!(difference(&logits, &golden["mingpt.logits"]) <= SUMS);
}

/// Returns how many lines a diff adds and deletes.
fn changed(before: &str, after: &str) -> (usize, usize) {
    let lines = |text| str::lines(text).filter(|line| !line.starts_with("//!")).collect::<Vec<_>>();
    let (before, after) = (lines(before), lines(after));
    // The longest common subsequence of the lines that are left.
    let mut longest = vec![vec![0; after.len() + 1]; before.len() + 1];
    for (i, old) in before.iter().enumerate().rev() {
        for (j, new) in after.iter().enumerate().rev() {
            longest[i][j] = match old == new {
                true => longest[i + 1][j + 1] + 1,
                false => longest[i + 1][j].max(longest[i][j + 1]),
            };
        }
    }
    (after.len() - longest[0][0], before.len() - longest[0][0])
}

#[test]
fn few_lines_change_as_the_page_says() {
    assert_eq!(changed("a\nb\nc\n", "a\nc\nd\ne\n"), (2, 1));
    let page = include_str!("../../../src/guide/adopting.md");
    for Adoption { name, sources: [before, after], .. } in adoptions() {
        let (added, deleted) = changed(before, after);
        assert!(added < 25, "{name}: {added} added lines");
        let row = format!("tests/training/adoptions/{name}` | {added} | {deleted} |");
        assert!(page.contains(&row), "adopting.md lacks {row}");
    }
}
