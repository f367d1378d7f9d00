//! Checks positions against the classes of transformers and torch's gradients (`tests/golden/generate_positions.py`).
//!
//! `POSITIONS_GOLDEN=FILE` reads another file, with other seeds and more rounds.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::init::Init;
use candle_gpt_input::position::{
    Alibi, Deberta, DebertaProjections, PositionScheme, Resize, Rotary, Shaw, SinusoidalLayout, T5Bias, TransformerXl,
    sinusoidal,
};
use candle_gpt_input::{GptInputConfig, GptInputLayer};
use candle_nn::Linear;
use serde_json::{Value, json};

use crate::support::{golden, naive::numbers};
use crate::{NEAR, assert_close};

/// A case: its settings and its tensors.
struct Case {
    name: String,
    numbers: Value,
    tensors: HashMap<String, Tensor>,
}

impl Case {
    fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: no {name}", self.name))
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn var(&self, name: &str) -> Var {
        Var::from_tensor(self.get(name)).unwrap()
    }

    fn usize(&self, key: &str) -> usize {
        self.numbers[key].as_u64().unwrap() as usize
    }

    fn ints(&self, name: &str) -> Vec<i64> {
        self.get(name).flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Checks the output, and the gradients of its inputs for the loss `sum(out * weight)`.
    fn check(&self, out: &Tensor, vars: &[(&str, &Var)]) {
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap();
        let out = flat(out);
        assert_close(&out, &flat(self.get("out")), NEAR, &format!("{}: out", self.name));
        let grads = (out * flat(self.get("weight"))).unwrap().sum_all().unwrap().backward().unwrap();
        for (name, var) in vars {
            let grad = grads.get(var).unwrap_or_else(|| panic!("{}: no gradient of {name}", self.name));
            assert_close(grad, self.get(&format!("{name}.grad")), NEAR, &format!("{}: gradient of {name}", self.name));
        }
    }

    /// Checks that values are at most `n` representable ones apart, counted through zero.
    fn check_ulps(&self, ours: &[f32], theirs: &Tensor, n: i64) {
        let theirs = theirs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(ours.len(), theirs.len(), "{}", self.name);
        let place = |x: f32| if x < 0. { -i64::from((-x).to_bits()) } else { i64::from(x.to_bits()) };
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!((place(*ours) - place(theirs)).abs() <= n, "{}: {ours:e} is not {theirs:e}", self.name);
        }
    }
}

fn cases(kind: &str) -> Vec<Case> {
    let path = std::env::var_os("POSITIONS_GOLDEN").map_or(golden("positions.safetensors"), PathBuf::from);
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    let all: Vec<Value> = serde_json::from_str(&metadata["cases"]).unwrap();
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
    let found = all.into_iter().enumerate().filter(|(_, numbers)| numbers["kind"] == kind);
    let found: Vec<Case> = found
        .map(|(index, numbers)| {
            let of_case = |(name, tensor): (&String, &Tensor)| {
                Some((name.strip_prefix(&format!("{index}."))?.to_string(), tensor.clone()))
            };
            Case { name: format!("{numbers}"), tensors: tensors.iter().filter_map(of_case).collect(), numbers }
        })
        .collect();
    assert!(!found.is_empty(), "no cases of {kind}");
    found
}

fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn sinusoidal_tables() {
    for case in cases("sinusoidal") {
        let layout = match case.numbers["layout"].as_str().unwrap() {
            "interleaved" => SinusoidalLayout::Interleaved,
            "halves" => SinusoidalLayout::Halves,
            _ => SinusoidalLayout::Tensor2Tensor,
        };
        let (n, dim) = case.get("table").dims2().unwrap();
        let table = sinusoidal(n, dim, layout, DType::F32, &Device::Cpu).unwrap();
        if layout != SinusoidalLayout::Tensor2Tensor {
            case.check_ulps(&flat(&table), case.get("table"), 2);
            continue;
        }
        // torch's exp may be 1 ulp off. The position multiplies that error, and each side rounds the product once: 2
        // ulp of the angle in all.
        let half = dim / 2;
        for (at, (ours, theirs)) in flat(&table).into_iter().zip(flat(case.get("table"))).enumerate() {
            let exponent = -((at % dim % half) as f64) / (half as f64 - 1.);
            let angle = (at / dim) as f64 * 10000f64.powf(exponent);
            let bound = (2. * f64::from(theirs.abs()) + 2. * angle) * f64::from(f32::EPSILON);
            let apart = (f64::from(ours) - f64::from(theirs)).abs();
            assert!(apart <= bound, "{}: {ours:e} is not {theirs:e} at {at}", case.name);
        }
    }
}

#[test]
fn rotations_with_every_scaling() {
    for case in cases("rope") {
        let config = json!({"position_embedding_type": "rope", "n_positions": case.numbers["n_positions"], "n_head": 1,
            "rope_parameters": case.numbers["parameters"], "rope_interleave": case.numbers["interleaved"], "vocab_size": 3,
            "n_embd": case.get("q").dim(3).unwrap()});
        let config = GptInputConfig::from_json(&config.to_string()).unwrap();
        let PositionScheme::Rotary(rotary) = &config.position else { panic!("{:?}", config.position) };
        let rope = Rotary::new(rotary, config.n_embd, config.n_positions, &Device::Cpu).unwrap();
        let positions = case.get("positions");
        let seq_len = *case.ints("positions").iter().max().unwrap() as usize + 1;
        let (inv_freq, _) = rope.inv_freq(seq_len);
        case.check_ulps(&inv_freq, case.get("inv_freq"), 2);
        let (cos, sin) = rope.cos_sin(positions, positions.dims2().unwrap()).unwrap();
        // An angle of 2000 is exact to 1e-4 in f32; equal frequencies give equal angles.
        if inv_freq == flat(case.get("inv_freq")) {
            case.check_ulps(&flat(&cos), case.get("cos"), 2);
            case.check_ulps(&flat(&sin), case.get("sin"), 2);
            let (q, k) = (case.var("q"), case.var("k"));
            let (out_q, out_k) = rope.rotate(&q, &k, positions).unwrap();
            let out = Tensor::cat(&[out_q.flatten_all().unwrap(), out_k.flatten_all().unwrap()], 0).unwrap();
            case.check(&out, &[("q", &q), ("k", &k)]);
        }
    }
}

#[test]
fn alibi_slopes_and_biases() {
    for case in cases("alibi") {
        let (n_head, t) = case.get("mpt").dims2().unwrap();
        let alibi = Alibi::new(n_head, &Device::Cpu).unwrap();
        // The last query. MPT multiplies its slopes in f32 as we do. BLOOM's are powers of a rounded base, with up to
        // as many roundings as heads.
        case.check_ulps(&flat(&alibi.attention_bias(1, t, t - 1).unwrap()), case.get("mpt"), 2);
        case.check_ulps(alibi.slopes(), case.get("bloom_slopes"), 2 * n_head as i64);
    }
}

#[test]
fn t5_buckets_and_biases() {
    for case in cases("t5") {
        let table = case.var("table");
        let bidirectional = case.numbers["bidirectional"].as_bool().unwrap();
        let bias = T5Bias::new(table.as_tensor().clone(), case.usize("max_distance"), bidirectional).unwrap();
        for (distance, bucket) in case.ints("distances").into_iter().zip(case.ints("buckets")) {
            assert_eq!(bias.bucket(distance), bucket as usize, "{}: {distance}", case.name);
        }
        let out = bias.attention_bias(case.usize("t_q"), case.usize("t_k"), case.usize("start")).unwrap();
        assert_eq!(flat(&out), flat(case.get("out")), "{}", case.name);
        case.check(&out, &[("table", &table)]);
    }
}

#[test]
fn transformer_xl_scores() {
    for case in cases("transformer-xl") {
        let vars = ["q", "k", "r_net", "u", "v"].map(|name| (name, case.var(name)));
        let [(_, q), (_, k), (_, r_net), (_, u), (_, v)] = &vars;
        let tensor = |var: &Var| var.as_tensor().clone();
        let xl = TransformerXl::new(tensor(r_net), tensor(u), tensor(v)).unwrap();
        let out = xl.attention_scores(q, k, case.usize("start")).unwrap();
        case.check(&out, &vars.each_ref().map(|(name, var)| (*name, var)));
    }
}

#[test]
fn shaw_scores_and_values() {
    for case in cases("shaw") {
        let vars = ["q", "k", "v", "keys", "values"].map(|name| (name, case.var(name)));
        let [(_, q), (_, k), (_, v), (_, keys), (_, values)] = &vars;
        let (left, start) = (case.usize("left"), case.usize("start"));
        let shaw = Shaw::new(keys.as_tensor().clone(), Some(values.as_tensor().clone()), left).unwrap();
        let scores = shaw.attention_scores(q, k, start).unwrap();
        assert_close(&scores, case.get("scores"), NEAR, &case.name);
        let weights = candle_nn::ops::softmax(&scores, 3).unwrap();
        let output = shaw.attention_output(&weights, v, start).unwrap();
        assert_close(&output, case.get("output"), NEAR, &case.name);
        let out = Tensor::cat(&[scores.flatten_all().unwrap(), output.flatten_all().unwrap()], 0).unwrap();
        case.check(&out, &vars.each_ref().map(|(name, var)| (*name, var)));
    }
}

#[test]
fn deberta_buckets_and_scores() {
    for case in cases("deberta") {
        let mut vars: Vec<(&str, Var)> = ["q", "k", "rel"].map(|name| (name, case.var(name))).into();
        let mut projection = |weight: &'static str, bias: &'static str| {
            case.has(weight).then(|| {
                let (weight, bias) = ((weight, case.var(weight)), (bias, case.var(bias)));
                let linear = Linear::new(weight.1.as_tensor().clone(), Some(bias.1.as_tensor().clone()));
                vars.extend([weight, bias]);
                linear
            })
        };
        let projections = DebertaProjections {
            pos_key_proj: projection("c2p.weight", "c2p.bias"),
            pos_query_proj: projection("p2c.weight", "p2c.bias"),
        };
        let buckets = case.numbers["position_buckets"].as_i64().unwrap();
        let buckets = (buckets > 0).then_some(buckets as usize);
        let rel = vars[2].1.as_tensor().clone();
        let deberta = Deberta::new(rel, projections, buckets, case.usize("max_relative_positions")).unwrap();
        for (distance, bucket) in case.ints("distances").into_iter().zip(case.ints("buckets")) {
            assert_eq!(deberta.bucket(distance), bucket, "{}: {distance}", case.name);
        }
        let out = deberta.attention_scores(&vars[0].1, &vars[1].1, 0).unwrap();
        let vars: Vec<(&str, &Var)> = vars.iter().map(|(name, var)| (*name, var)).collect();
        case.check(&out, &vars);
    }
}

#[test]
fn interpolated_tables() {
    for case in cases("interpolate") {
        let table = case.get("table");
        let layer = GptInputLayer::new(table.clone(), table.clone()).unwrap();
        let n = case.get("resized").dim(0).unwrap();
        let layer = layer.resize_positions(n, Resize::Interpolate).unwrap();
        let (_, ours) = &layer.positions().tables()[0];
        // torch computes the places in f32.
        assert_close(ours, case.get("resized"), NEAR, &case.name);
        assert_eq!(layer.config().n_positions, n);
        let longer = layer.resize_positions(n + 3, Resize::Extend(Init::Zeros)).unwrap();
        let (_, longer) = &longer.positions().tables()[0];
        assert_eq!(numbers(&longer.narrow(0, 0, n).unwrap()), numbers(ours));
        assert_eq!(numbers(&longer.narrow(0, n, 3).unwrap()), vec![0.; 3 * table.dim(1).unwrap()]);
    }
}
