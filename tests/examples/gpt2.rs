//! Checks GPT-2 on the layer (`examples/gpt2`) against transformers: logits, gradients, padding, the cache, generation.
//!
//! `tests/golden/generate_gpt2.py` makes the goldens.

// Long because every comparison needs the same small models.

#[path = "../../examples/gpt2/model.rs"]
pub mod model;

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use crate::support::{assert_bits_eq, assert_close, difference, error_text, golden, golden_tensors};
use crate::{example, failure, stdout};
use candle_core::{D, DType, Device, IndexOp, Tensor, Var};
use candle_gpt_input::checkpoint::{Checkpoint, save_tensors};
use candle_gpt_input::data::{PackedDocuments, Tokens};
use candle_gpt_input::lm_head::{LossOptions, Reduction};
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{GptInputConfig, GptInputLayer, LmHead, Positions};
use candle_nn::{VarBuilder, VarMap};
use model::{Gpt2, KvCache, Seen};
use tempfile::TempDir;

/// f32 sums in another order than torch's. 1e-5 of the largest element is some hundred roundings, and far less than any
/// wrong weight, scale or formula causes (here 1e-3 and more, between the two forms of GELU).
pub const SUMS: f64 = 1e-5;

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(golden(name)).unwrap()
}

fn load(checkpoint: &Checkpoint, dtype: DType) -> Gpt2 {
    Gpt2::from_checkpoint(checkpoint, dtype, &Device::Cpu).unwrap()
}

/// Writes the weights of `plain` with another configuration.
fn variant(config: &str, folder: &TempDir) -> Checkpoint {
    let expected = golden_tensors("gpt2_plain.safetensors");
    let weights = expected.iter().filter(|(name, _)| !name.starts_with("golden."));
    save_tensors(folder.path().join("model.safetensors"), weights, []).unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    Checkpoint::open(folder.path()).unwrap()
}

fn metadata(name: &str) -> HashMap<String, String> {
    let bytes = std::fs::read(golden(name)).unwrap();
    safetensors::SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap()
}

#[test]
fn logits_are_those_of_transformers() {
    for name in ["plain", "n_inner", "untied", "no_blocks", "bf16", "f16"] {
        let file = format!("gpt2_{name}.safetensors");
        let expected = golden_tensors(&file);
        let logits = load(&open(&file), DType::F32).forward(&expected["golden.input_ids"], None).unwrap();
        assert_close(name, &logits, &expected["golden.logits"], SUMS);
    }
}

#[test]
fn every_setting_of_the_blocks_counts() {
    let expected = golden_tensors("gpt2_plain.safetensors");
    let folder = TempDir::new().unwrap();
    let metadata = metadata("gpt2_plain.safetensors");
    let variants: Vec<_> =
        metadata.iter().filter_map(|(key, text)| Some((key.strip_prefix("config.")?, text))).collect();
    assert_eq!(variants.len(), 10);
    for (name, config) in variants {
        let logits = load(&variant(config, &folder), DType::F32).forward(&expected["golden.input_ids"], None).unwrap();
        assert_close(name, &logits, &expected[&format!("golden.logits.{name}")], SUMS);
        let from_plain = difference(&logits, &expected["golden.logits"]);
        // These two compute the same as `plain` by another route.
        assert_eq!(from_plain > 1e-4, !["upcast", "gelu_pytorch_tanh"].contains(&name), "{name}: {from_plain:e}");
    }
}

#[test]
fn folders_of_transformers_load_whole_or_in_shards() {
    let expected = golden_tensors("gpt2_folders.safetensors");
    let forward = |name| load(&open(name), DType::F32).forward(&expected["input_ids"], None).unwrap();
    let logits = forward("gpt2_one_file");
    assert_close("one file", &logits, &expected["logits"], SUMS);
    assert_bits_eq(&forward("gpt2_sharded"), &logits);
}

#[test]
fn half_types_stay_near_f32() {
    let expected = golden_tensors("gpt2_plain.safetensors");
    // Every operation rounds to 8 (bf16) or 11 (f16) bits, in two blocks of a dozen operations each.
    for (dtype, bound) in [(DType::BF16, 4e-2), (DType::F16, 5e-3), (DType::F64, SUMS)] {
        let logits = load(&open("gpt2_plain.safetensors"), dtype).forward(&expected["golden.input_ids"], None).unwrap();
        assert_eq!(logits.dtype(), dtype);
        let logits = logits.to_dtype(DType::F32).unwrap();
        assert_close(&format!("{dtype:?}"), &logits, &expected["golden.logits"], bound);
    }
}

/// Returns the logits of `n_new` greedy tokens after the prompt, computed with a cache, and the tokens.
pub fn greedy(model: &Gpt2, input_ids: &Tensor, mask: Option<&Tensor>, n_new: usize) -> (Tensor, Tensor) {
    let (mut cache, mut ids) = (KvCache::default(), input_ids.clone());
    let (mut all_logits, mut tokens) = (Vec::new(), Vec::new());
    for _ in 0..n_new {
        let hidden_states = model.hidden_states(&ids, mask, Some(&mut cache)).unwrap();
        let (_, t, _) = hidden_states.dims3().unwrap();
        let logits =
            model.lm_head().forward(&hidden_states.narrow(1, t - 1, 1).unwrap().contiguous().unwrap()).unwrap();
        ids = logits.argmax(D::Minus1).unwrap().to_dtype(DType::I64).unwrap();
        all_logits.push(logits);
        tokens.push(ids.clone());
    }
    (Tensor::cat(&all_logits, 1).unwrap(), Tensor::cat(&tokens, 1).unwrap())
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let expected = golden_tensors("gpt2_plain.safetensors");
    let model = load(&open("gpt2_plain.safetensors"), DType::F32);
    for (mask, name) in [(None, "greedy"), (Some(&expected["golden.attention_mask"]), "greedy_padded")] {
        let (_, tokens) = greedy(&model, &expected["golden.input_ids"], mask, 64);
        let expected: Vec<Vec<i64>> = expected[&format!("golden.{name}")].to_vec2().unwrap();
        assert_eq!(tokens.to_vec2::<i64>().unwrap(), expected, "{name}");
    }
}

#[test]
fn padding_changes_nothing_in_prefill_and_in_decode() {
    let expected = golden_tensors("gpt2_plain.safetensors");
    let (ids, mask) = (&expected["golden.input_ids"], &expected["golden.attention_mask"]);
    let model = load(&open("gpt2_plain.safetensors"), DType::F32);
    assert_eq!(model.input().config().n_positions, 83);
    let logits = model.forward(ids, Some(mask)).unwrap();
    let (decoded, _) = greedy(&model, ids, Some(mask), 9);
    // A row of padding sees nothing; its logits mean nothing, but they are finite.
    let sum = logits.sum_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(sum.is_finite());
    for (row, n_padding) in [3, 0, 6].into_iter().enumerate() {
        let (tokens, t) = (ids.i((row, n_padding..)).unwrap().unsqueeze(0).unwrap(), 7 - n_padding);
        let padded = logits.i((row, n_padding..)).unwrap().unsqueeze(0).unwrap();
        assert_close("prefill", &padded, &model.forward(&tokens, None).unwrap(), SUMS);
        let theirs = expected["golden.logits_padded"].i((row, n_padding..)).unwrap().unsqueeze(0).unwrap();
        assert_eq!(theirs.dims(), [1, t, 61]);
        assert_close("transformers", &padded, &theirs, SUMS);
        let (unpadded, _) = greedy(&model, &tokens, None, 9);
        assert_close("decode", &decoded.i(row).unwrap().unsqueeze(0).unwrap(), &unpadded, SUMS);
    }
}

#[test]
fn token_by_token_is_one_pass() {
    let expected = golden_tensors("gpt2_plain.safetensors");
    let ids = &expected["golden.input_ids"];
    let model = load(&open("gpt2_plain.safetensors"), DType::F32);
    for cuts in [vec![1; 7], vec![4, 1, 1, 1], vec![2, 5], vec![3, 3, 1]] {
        let (mut cache, mut start, mut parts) = (KvCache::default(), 0, Vec::new());
        for t in cuts {
            let hidden_states = model.hidden_states(&ids.narrow(1, start, t).unwrap(), None, Some(&mut cache)).unwrap();
            parts.push(model.lm_head().forward(&hidden_states).unwrap());
            start += t;
        }
        assert_close("cached", &Tensor::cat(&parts, 1).unwrap(), &expected["golden.logits"], SUMS);
        cache.truncate(5);
        let again = model.hidden_states(&ids.narrow(1, 5, 2).unwrap(), None, Some(&mut cache)).unwrap();
        let last = expected["golden.logits"].narrow(1, 5, 2).unwrap();
        assert_close("again", &model.lm_head().forward(&again).unwrap(), &last, SUMS);
    }
    // The position table ends at the same position with and without a cache.
    let mut cache = KvCache::default();
    let ids = Tensor::zeros((1, 83), DType::U32, &Device::Cpu).unwrap();
    model.hidden_states(&ids, None, Some(&mut cache)).unwrap();
    let text = error_text(model.hidden_states(&ids.narrow(1, 0, 1).unwrap(), None, Some(&mut cache)));
    assert!(text.starts_with("the sequence ends at position 84, but the model has 83 positions"), "{text}");
}

/// The logits of a sequence have the same bits alone and beside others, in a prompt and token by token. (A prompt in one
/// pass and token by token differ in last places: sums over the keys are then taken in other orders.)
#[test]
fn sequences_of_a_batch_do_not_change_each_other() {
    let ids: Vec<u32> = (0..3 * 40).map(|i| i * 7 % 50).collect();
    let ids = Tensor::from_vec(ids, (3, 40), &Device::Cpu).unwrap();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let model = load(&open("gpt2_plain.safetensors"), dtype);
        let logits = |ids: &Tensor| {
            let (mut cache, mut all) = (KvCache::default(), Vec::new());
            for (start, t) in [(0, 37), (37, 1), (38, 1), (39, 1)] {
                let hidden = model.hidden_states(&ids.narrow(1, start, t).unwrap(), None, Some(&mut cache)).unwrap();
                all.push(model.lm_head().forward(&hidden).unwrap().to_dtype(DType::F32).unwrap());
            }
            Tensor::cat(&all, 1).unwrap()
        };
        let all = logits(&ids);
        for b in 0..3 {
            let bits = |x: Tensor| -> Vec<u32> {
                x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
            };
            let alone = logits(&ids.narrow(0, b, 1).unwrap());
            assert_eq!(bits(alone), bits(all.narrow(0, b, 1).unwrap()), "{dtype:?} {b}");
        }
    }
}

// ---- gradients ----

/// Returns the model of a golden file with every parameter a variable, and the variables.
fn trainable(name: &str) -> (Gpt2, VarMap) {
    let varmap = VarMap::new();
    let vars = golden_tensors(name).into_iter().filter(|(name, _)| !name.starts_with("golden."));
    varmap.data().lock().unwrap().extend(vars.map(|(name, tensor)| (name, Var::from_tensor(&tensor).unwrap())));
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    let config = open(name).config().unwrap();
    let mut input = GptInputLayer::load(vb.pp("transformer"), &config).unwrap();
    if vb.contains_tensor("lm_head.weight") {
        input = input.with_lm_head(LmHead::load(vb.pp("lm_head"), &config).unwrap()).unwrap();
    }
    (Gpt2::new(input, vb.pp("transformer")).unwrap(), varmap)
}

#[test]
fn every_gradient_is_pytorchs() {
    for (name, n_parameters) in [("gpt2_plain.safetensors", 28), ("gpt2_untied.safetensors", 29)] {
        let expected = golden_tensors(name);
        let (model, varmap) = trainable(name);
        let ids = &expected["golden.input_ids"];
        let logits = model.forward(&ids.i((.., ..6)).unwrap(), None).unwrap();
        let targets = ids.i((.., 1..)).unwrap().flatten_all().unwrap();
        let loss = candle_nn::loss::cross_entropy(&logits.flatten(0, 1).unwrap(), &targets).unwrap();
        assert_close(name, &loss, &expected["golden.loss"], SUMS);
        let grads = loss.backward().unwrap();
        let vars = varmap.data().lock().unwrap();
        assert_eq!(vars.len(), n_parameters);
        for (parameter, var) in vars.iter() {
            let grad = grads.get(var).unwrap_or_else(|| panic!("{parameter} has no gradient"));
            let theirs = &expected[&format!("golden.{parameter}.grad")];
            assert_close(parameter, grad, theirs, SUMS);
        }
    }
}

/// Returns a model drawn from `seed`, and its parameters by name.
fn drawn(config: &GptInputConfig, seed: u64, dtype: DType) -> (Gpt2, Vec<(String, Var)>) {
    let (device, varmap) = (Device::Cpu, VarMap::new());
    let vb = VarBuilder::from_varmap(&varmap, dtype, &device);
    let generator = Generator::manual_seed(seed);
    let input = GptInputLayer::load(vb.clone(), config).unwrap().with_generator(&generator);
    let model = Gpt2::new(input, vb).unwrap();
    let vars = varmap.data().lock().unwrap();
    let mut vars: Vec<_> = vars.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    vars.sort_by(|(left, _), (right, _)| left.cmp(right));
    for (name, var) in &vars {
        let mut values = vec![0.0; var.elem_count()];
        generator.normal_f32(&mut values, if name.contains("ln_") { 1.0 } else { 0.0 }, 0.3).unwrap();
        let values = Tensor::from_vec(values, var.shape(), &device).unwrap();
        var.set(&values.to_dtype(dtype).unwrap()).unwrap();
    }
    (model, vars)
}

/// Returns the loss of a model drawn from `seed`, and all its gradients by name, in one dtype.
fn loss_and_gradients(
    config: &GptInputConfig,
    (b, t): (usize, usize),
    seed: u64,
    dtype: DType,
) -> Vec<(String, Tensor)> {
    let (device, (model, vars)) = (Device::Cpu, drawn(config, seed, dtype));
    let ids: Vec<u32> = (0..b * (t + 1)).map(|i| (i * i * 7 % config.vocab_size) as u32).collect();
    let ids = Tensor::from_vec(ids, (b, t + 1), &device).unwrap();
    let embeds = model.input().forward(&ids.i((.., ..t)).unwrap()).unwrap();
    let hidden_states = model.transform(embeds, 0.into(), Seen::default(), None, true).unwrap();
    let loss = model.lm_head().loss(&hidden_states, &ids.i((.., 1..)).unwrap(), &Default::default()).unwrap();
    let grads = loss.backward().unwrap();
    let named = vars.iter().map(|(name, var)| (name.to_string(), grads.get(var).expect(name).clone()));
    std::iter::once(("loss".to_string(), loss.clone())).chain(named).collect()
}

/// The hidden states of packed documents, or of rows without any.
fn states(model: &Gpt2, ids: &Tensor, documents: Option<&PackedDocuments>) -> Tensor {
    let positions = match documents {
        Some(documents) => Positions::from(documents.position_ids(&Device::Cpu).unwrap()),
        None => 0.into(),
    };
    let embeds = model.input().forward_at(ids, positions.clone()).unwrap();
    model.transform(embeds, positions, Seen { documents, ..Seen::default() }, None, false).unwrap()
}

#[test]
fn a_packed_document_is_a_document_alone() {
    let lengths = [vec![5usize, 1, 34], vec![33, 7]];
    let documents = PackedDocuments::from_lengths(&lengths).unwrap();
    let t = documents.row_length();
    let texts = Tokens::from_documents(
        lengths
            .concat()
            .iter()
            .enumerate()
            .map(|(i, &length)| (0..length).map(|at| ((at * at * 7 + 13 * i) % 61) as u32).collect::<Vec<_>>()),
    );
    let packed: Vec<u32> = texts.documents().flat_map(|ids| ids.to_vec()).collect();
    let packed = Tensor::from_vec(packed, (2, t), &Device::Cpu).unwrap();
    let places = lengths.iter().enumerate().flat_map(|(row, lengths)| {
        lengths.iter().scan(0, move |start, &length| {
            *start += length;
            Some((row, *start - length, length))
        })
    });
    let places: Vec<(usize, usize, usize)> = places.collect();
    let in_scores = ["shaw", "deberta", "transformer-xl"];
    let fused = ["learned", "sinusoidal", "rope", "alibi", "t5", "none"].map(|scheme| (scheme, 16));
    for (scheme, n_embd) in fused.into_iter().chain(in_scores.map(|scheme| (scheme, 16))).chain([("learned", 192)]) {
        let config = GptInputConfig::new(61, t, n_embd).with_n_layer(2).with_n_head(2);
        let config = config.with_position(scheme.parse().unwrap());
        let (model, vars) = drawn(&config, 3, DType::F32);
        let together = states(&model, &packed, Some(&documents));
        let cut = |x: &Tensor, &(row, start, length): &(usize, usize, usize)| {
            x.narrow(0, row, 1).unwrap().narrow(1, start, length).unwrap()
        };
        // The loss of all targets is the sum of the documents' losses, and so are its gradients.
        let sum = LossOptions::default().with_reduction(Reduction::Sum);
        let loss = |states: &Tensor, ids: &Tensor, mask: Option<&Tensor>| {
            let n = ids.dim(1).unwrap() - 1;
            let options = mask.map_or(sum.clone(), |mask| sum.clone().with_mask(mask));
            let states = states.narrow(1, 0, n).unwrap().contiguous().unwrap();
            model.lm_head().loss(&states, &ids.narrow(1, 1, n).unwrap().contiguous().unwrap(), &options).unwrap()
        };
        let mask = documents.position_ids(&Device::Cpu).unwrap().narrow(1, 1, t - 1).unwrap().ne(0u32).unwrap();
        let all = loss(&together, &packed, Some(&mask.contiguous().unwrap()));
        let all_grads = all.backward().unwrap();
        let mut alone_losses = Vec::new();
        for place in &places {
            let ids = cut(&packed, place).contiguous().unwrap();
            let alone = states(&model, &ids, None);
            // Schemes that act in the scores sum over whole rows.
            match in_scores.contains(&scheme) {
                true => assert_close(scheme, &cut(&together, place), &alone, SUMS),
                false => assert_bits_eq(&cut(&together, place), &alone),
            }
            if place.2 > 1 {
                alone_losses.push(loss(&alone, &ids, None));
            }
        }
        let alone = Tensor::stack(&alone_losses, 0).unwrap().sum_all().unwrap();
        let alone_grads = alone.backward().unwrap();
        assert_close(scheme, &all, &alone, SUMS);
        for (name, var) in &vars {
            if name.ends_with("pos_key_proj.bias") {
                continue; // it moves all scores of a query alike, so its gradient is rounding alone
            }
            let (all, alone) = (all_grads.get(var).expect(name), alone_grads.get(var).expect(name));
            assert_close(&format!("{scheme}, {name}"), all, alone, SUMS);
        }
    }
}

#[test]
fn the_fused_operations_compute_what_the_plain_ones_do() {
    // f32 takes the former, f64 the latter. Sequences are shorter than, equal to and longer than the rows of a task;
    // widths fill no vector. All schemes take part, since those that act in the scores leave out the fused attention.
    let mut cases =
        vec![("learned", 0.0, (3, 70), 2, 20), ("learned", 0.0, (2, 32), 1, 48), ("none", 0.0, (1, 1), 2, 3)];
    cases.extend([("sinusoidal", 0.0, (2, 33), 3, 6), ("learned", 0.2, (2, 40), 2, 6)]);
    cases.extend(["rope", "alibi", "t5", "shaw", "deberta", "transformer-xl"].map(|name| (name, 0.0, (2, 35), 2, 8)));
    for (seed, (scheme, dropout, (b, t), n_head, d)) in cases.into_iter().enumerate() {
        let mut config = GptInputConfig::new(61, t, n_head * d)
            .with_n_layer(2)
            .with_n_head(n_head)
            .with_position(scheme.parse().unwrap());
        for name in ["attn_pdrop", "resid_pdrop"] {
            config = config.with_extra(name, dropout).unwrap();
        }
        let [fused, plain] =
            [DType::F32, DType::F64].map(|dtype| loss_and_gradients(&config, (b, t), seed as u64, dtype));
        assert_eq!(fused.len(), plain.len());
        for ((name, fused), (_, plain)) in fused.iter().zip(&plain) {
            if name.ends_with("pos_key_proj.bias") {
                continue; // it moves all scores of a query alike, so its gradient is rounding alone
            }
            let fused = fused.to_dtype(DType::F64).unwrap();
            assert_close(&format!("{scheme}, {b} x {t}, {name}"), &fused, plain, SUMS);
        }
    }
}

#[test]
fn the_input_path_alone_trains_both_tables() {
    // With the head untied, only the blocks lead back to the tables: a norm without gradient would cut that off.
    let (model, varmap) = trainable("gpt2_untied.safetensors");
    let ids = Tensor::new(&[[1u32, 2, 3]], &Device::Cpu).unwrap();
    let grads = model.forward(&ids, None).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
    for table in ["transformer.wte.weight", "transformer.wpe.weight"] {
        let grad = grads.get(&varmap.data().lock().unwrap()[table]).unwrap().abs().unwrap();
        let rows = grad.sum(1).unwrap().to_vec1::<f32>().unwrap();
        let trained = if table.contains("wte") { [1, 2, 3] } else { [0, 1, 2] };
        for (row, sum) in rows.iter().enumerate() {
            assert_eq!(*sum > 0.0, trained.contains(&row), "{table}, row {row}");
        }
    }
}

// ---- what is refused ----

#[test]
fn what_is_not_supported_is_named() {
    let config = &metadata("gpt2_plain.safetensors")["gpt_input_config"];
    let folder = TempDir::new().unwrap();
    let refusal = |from: &str, to: &str| {
        assert!(config.contains(from), "{config}");
        let checkpoint = variant(&config.replace(from, to), &folder);
        let error = Gpt2::from_checkpoint(&checkpoint, DType::F32, &Device::Cpu).unwrap_err();
        format!("{error:#}").lines().next().unwrap().to_string() // Candle may append a backtrace
    };
    let text = refusal(r#""activation_function": "gelu_new""#, r#""activation_function": "mish""#);
    assert!(text.starts_with("config: unknown variant `mish`, expected one of `gelu_"), "{text}");
    let text = refusal(r#""add_cross_attention": false"#, r#""add_cross_attention": true"#);
    assert_eq!(text, "config: add_cross_attention is not supported");
    let text = refusal(r#""model_type": "gpt2""#, r#""model_type": "gpt_bigcode""#);
    assert_eq!(text, "config: model_type `gpt_bigcode` is not gpt2");
    let text = refusal(r#""n_head": 3"#, r#""n_head": 5"#);
    assert_eq!(text, "config: n_embd 12 is not a multiple of n_head 5");
    let text = refusal(r#""tie_word_embeddings": true"#, r#""tie_word_embeddings": false"#);
    assert!(text.starts_with("the model has an output head of its own (`tie_word_embeddings` is false)"), "{text}");
    let text = refusal(r#""n_layer": 2"#, r#""n_layer": 3"#);
    assert!(text.contains(": no tensor `transformer.h.2.attn.c_attn.weight` (closest: "), "{text}");
    let text = refusal(r#""n_inner": null"#, r#""n_inner": 47"#);
    assert!(text.ends_with("`transformer.h.0.mlp.c_fc.weight` has shape [12, 48], expected [12, 47]"), "{text}");
}

#[test]
fn a_head_that_differs_is_not_tied_whatever_the_config_says() {
    let expected = golden_tensors("gpt2_untied.safetensors");
    let config = metadata("gpt2_untied.safetensors")["gpt_input_config"].clone();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let weights = expected.iter().filter(|(name, _)| !name.starts_with("golden."));
    let mut weights: Vec<(&str, &Tensor)> = weights.map(|(name, tensor)| (name.as_str(), tensor)).collect();
    std::fs::write(folder.path().join("config.json"), config.replace(r#"embeddings": false"#, r#"embeddings": true"#))
        .unwrap();
    save_tensors(&path, weights.iter().copied(), []).unwrap();
    let forward = |path: &Path| {
        load(&Checkpoint::open(path).unwrap(), DType::F32).forward(&expected["golden.input_ids"], None).unwrap()
    };
    assert_close("differs", &forward(folder.path()), &expected["golden.logits"], SUMS);
    // Names without `transformer.`, and the extra buffers of old checkpoints.
    let ones = Tensor::ones((1, 1, 83, 83), DType::U8, &Device::Cpu).unwrap();
    weights.iter_mut().for_each(|(name, _)| *name = name.strip_prefix("transformer.").unwrap_or(name));
    weights.push(("h.0.attn.bias", &ones));
    save_tensors(&path, weights, []).unwrap();
    assert_close("no prefix", &forward(folder.path()), &expected["golden.logits"], SUMS);
}

// ---- the example as a user runs it ----

fn gpt2(weights: &Path) -> Command {
    let mut command = example("gpt2");
    command.args(["--device", "cpu", "--weights"]).arg(weights);
    command
}

fn join(ids: Vec<i64>) -> String {
    ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn the_example_writes_logits_and_generates_what_transformers_does() {
    let expected = golden_tensors("gpt2_plain.safetensors");
    let row = |name: &str| expected[&format!("golden.{name}")].to_vec2::<i64>().unwrap().swap_remove(0);
    let ids = join(row("input_ids"));
    let path = golden("gpt2_plain.safetensors");
    let folder = TempDir::new().unwrap();
    let output = folder.path().join("logits.safetensors");
    let text = stdout(gpt2(&path).args(["--ids", &ids, "--max-new-tokens", "0", "--logits-output"]).arg(&output));
    assert!(text.contains("logits [1, 7, 61]"), "{text}");
    let written = candle_core::safetensors::load(&output, &Device::Cpu).unwrap();
    assert_close("written", &written["logits"], &expected["golden.logits"].i(..1).unwrap(), SUMS);

    for (name, options) in [
        ("greedy", &[][..]),
        ("sampled", &["--temperature", "1", "--seed", "123"]),
        ("sampled_cold_top_5", &["--temperature", "0.7", "--top-k", "5", "--seed", "123"]),
    ] {
        let text = stdout(gpt2(&path).args(["--ids", &ids, "--max-new-tokens", "64"]).args(options));
        assert!(text.contains(&format!("\n{}\n64 tokens in ", join(row(name)))), "{name}: {text}");
        assert!(text.contains(" tokens/s"), "{text}");
    }
}

/// Writes a model of GPT-2's vocabulary whose head always says the same: after each token comes the next id.
fn counting(folder: &TempDir, n_positions: usize) {
    let cpu = Device::Cpu;
    // One-hot rows for the ids 256 to 270 ("\u{120}t" and so on), a head that is `wte` shifted by one row.
    let (vocab_size, n_embd, first) = (50257, 16, 256);
    let one_hot = |shift: usize| {
        let mut values = vec![0f32; vocab_size * n_embd];
        (0..n_embd).for_each(|column| values[(first + column + shift) * n_embd + column] = 1.0);
        Tensor::from_vec(values, (vocab_size, n_embd), &cpu).unwrap()
    };
    let wpe = Tensor::zeros((n_positions, n_embd), DType::F32, &cpu).unwrap();
    let (ones, zeros) =
        (Tensor::ones(n_embd, DType::F32, &cpu).unwrap(), Tensor::zeros(n_embd, DType::F32, &cpu).unwrap());
    let tensors = [
        ("wte.weight", &one_hot(0)),
        ("wpe.weight", &wpe),
        ("ln_f.weight", &ones),
        ("ln_f.bias", &zeros),
        ("lm_head.weight", &one_hot(1)),
    ];
    save_tensors(folder.path().join("model.safetensors"), tensors, []).unwrap();
    let config = GptInputConfig::new(vocab_size, n_positions, n_embd).with_n_layer(0).with_n_head(1);
    std::fs::write(folder.path().join("config.json"), config.to_json()).unwrap();
}

#[test]
fn the_example_streams_text_and_pads_a_batch() {
    let folder = TempDir::new().unwrap();
    counting(&folder, 12);
    let text = |ids: std::ops::Range<u32>| {
        candle_gpt_input::tokenizer::Tokenizer::gpt2().decode(&ids.collect::<Vec<_>>()).unwrap()
    };
    let prompts = [text(256..257), text(256..258)];
    let one = stdout(gpt2(folder.path()).args(["--prompt", &prompts[0], "--max-new-tokens", "5"]));
    assert!(one.contains(&format!("\n{}\n5 tokens in ", text(257..262))), "{one}");
    let output = folder.path().join("logits.safetensors");
    let both = stdout(
        gpt2(folder.path())
            .args(["--prompt", &prompts[0], "--prompt", &prompts[1], "--max-new-tokens", "4", "--logits-output"])
            .arg(&output),
    );
    assert!(both.contains(&format!("\n[0] {}\n[1] {}\n8 tokens in ", text(257..261), text(258..262))), "{both}");
    let written = candle_core::safetensors::load(&output, &Device::Cpu).unwrap();
    assert_eq!(written["logits"].dims(), [2, 2, 50257]);
    assert_eq!(written["attention_mask"].to_vec2::<u8>().unwrap(), [[0, 1], [1, 1]]);
}

#[test]
fn the_example_refuses_before_it_works() {
    let folder = TempDir::new().unwrap();
    counting(&folder, 12);
    // The last new token is not embedded: 3 + 10 fit 12 positions, 3 + 11 do not.
    stdout(gpt2(folder.path()).args(["--ids", "256,257,258", "--max-new-tokens", "10"]));
    let text = failure(gpt2(folder.path()).args(["--ids", "256,257,258", "--max-new-tokens", "11"]), 1);
    assert!(
        text.starts_with("error: 3 tokens of prompt and 11 new ones: the sequence ends at position 13, but"),
        "{text}"
    );
    let text = failure(gpt2(folder.path()).args(["--ids", "50257", "--max-new-tokens", "1"]), 1);
    assert!(text.starts_with("error: token id 50257 at [0, 0] is outside the vocabulary of 50257"), "{text}");
    let text = failure(gpt2(folder.path()).args(["--prompt", ""]), 1);
    assert!(text.contains("an empty prompt"), "{text}");
    let text = failure(&mut gpt2(Path::new("/nowhere")), 1);
    assert_eq!(text, "error: cannot open /nowhere: no such file or folder");
    let tables = TempDir::new().unwrap();
    GptInputLayer::new(
        Tensor::zeros((7, 4), DType::F32, &Device::Cpu).unwrap(),
        Tensor::zeros((90, 4), DType::F32, &Device::Cpu).unwrap(),
    )
    .unwrap()
    .save(tables.path())
    .unwrap();
    let text = failure(gpt2(tables.path()).args(["--ids", "1"]), 1);
    assert!(
        text.ends_with(": no ln_f.weight or output_norm.weight: not a whole GPT-2; embed takes input tables alone"),
        "{text}"
    );
}

#[test]
fn the_smallest_training_loop_learns() {
    let source = include_str!("../../examples/train_minimal/main.rs");
    assert!(source.lines().count() <= 60);
    let text = stdout(&mut example("train_minimal"));
    let losses: Vec<f32> =
        text.split("loss ").skip(1).map(|rest| rest.lines().next().unwrap().parse().unwrap()).collect();
    assert!(losses.windows(2).all(|pair| pair[1] < pair[0]), "{text}");
    // Candle draws the blocks' weights without a seed, so the bound is loose.
    assert!(losses[losses.len() - 1] < 0.8 * losses[0], "{text}");
    assert!(text.contains("before: [") && text.contains("after: ["), "{text}");
}

// ---- adoption ----

#[path = "adopting/after.rs"]
mod after;
#[path = "adopting/before.rs"]
mod before;

#[test]
fn adopting_the_layer_changes_no_logit() {
    let config = GptInputConfig::new(13, 9, 6).with_n_layer(1);
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    let before = before::Gpt::load(vb.clone(), &config).unwrap();
    let names = || varmap.data().lock().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>();
    let n_before = names();
    let after = after::Gpt::load(vb, &config).unwrap();
    assert_eq!(names(), n_before, "the same keys");
    let ids = Tensor::new(&[[12u32, 0, 5], [1, 1, 7]], &Device::Cpu).unwrap();
    for start_pos in [0, 6] {
        assert_bits_eq(&after.forward(&ids, start_pos).unwrap(), &before.forward(&ids, start_pos).unwrap());
    }
}

#[test]
fn the_page_shows_the_difference_that_is_tested() {
    let page = include_str!("../../src/guide/adopting.md");
    let diff = page.split("```diff\n").nth(1).unwrap().split("```").next().unwrap();
    let shown = |sign| diff.lines().filter_map(|line| line.strip_prefix(sign)).collect::<Vec<_>>();
    let lines = |text: &'static str| text.lines().filter(|line| !line.starts_with("//!")).collect::<Vec<_>>();
    let (before, after) = (lines(include_str!("adopting/before.rs")), lines(include_str!("adopting/after.rs")));
    let only = |left: &[&'static str], right: &[&str]| {
        left.iter().filter(|line| !right.contains(line)).copied().collect::<Vec<_>>()
    };
    assert_eq!(shown('-'), only(&before, &after));
    assert_eq!(shown('+'), only(&after, &before));
}
