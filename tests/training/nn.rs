//! The pieces of a block against PyTorch: values and gradients, in every dtype; what is refused.
//!
//! `tests/golden/generate_nn.py` makes the goldens.

use std::collections::BTreeSet;

use candle_core::{D, DType, Device, Module, Result, Tensor, Var};
use candle_gpt_input::Error;
use candle_gpt_input::nn::{Approximate, Attention, LayerNorm, Linear, RmsNorm, gelu, softmax, split_heads};
use candle_gpt_input::rng::Generator;

use crate::support::{Failures, assert_bits_eq, difference, golden_tensors};

/// f32 sums in another order than torch's: 1e-5 of the largest element is some hundred roundings.
const SUMS: f64 = 1e-5;

/// Heads of queries and of keys in the golden file.
const N_HEAD: usize = 6;
const N_KV_HEAD: usize = 3;

fn padding() -> Tensor {
    Tensor::new(&[[1u32, 1, 1], [0, 0, 0]], &Device::Cpu).unwrap() // keys beyond it are tokens
}

/// Computes a case of the golden file.
fn compute(case: &str, x: &[Tensor]) -> Result<Tensor> {
    let attention = match case {
        "attention_full" => Attention::full().with_scale(0.3),
        "attention_bias" => Attention::causal().with_bias(&x[3]),
        "attention_padded" => Attention::causal().with_padding(&padding())?,
        _ => Attention::causal(),
    };
    match case {
        "layer_norm" => LayerNorm::new(x[1].clone(), Some(x[2].clone()), 1e-5)?.forward(&x[0]),
        "layer_norm_without_bias" => LayerNorm::new(x[1].clone(), None, 1e-2)?.forward(&x[0]),
        "rms_norm" => RmsNorm::new(x[1].clone(), 1e-6)?.forward(&x[0]),
        "softmax" => Ok(softmax(&x[0], 1)?),
        "gelu" => Ok(gelu(&(&x[0] * 4.0)?, Approximate::None)?),
        "gelu_tanh" => Ok(gelu(&(&x[0] * 4.0)?, Approximate::Tanh)?),
        "linear" => Linear::new(x[1].clone(), Some(x[2].clone()))?.forward(&x[0]),
        "linear_without_bias" => Linear::new(x[1].clone(), None)?.forward(&x[0]),
        "conv1d" => Linear::conv1d(x[1].clone(), Some(x[2].clone()))?.forward(&x[0]),
        "attention_packed" => Ok(attention.forward_packed(&x[0], N_HEAD, N_KV_HEAD)?),
        _ => Ok(attention.forward(&x[0], &x[1], &x[2])?),
    }
}

/// Runs `check` on the output and each gradient of every case: computed in `dtype` on views whose dimensions `layout`
/// reorders in memory, and PyTorch's.
fn each_case(dtype: DType, layout: &dyn Fn(&Tensor) -> Tensor, check: &mut dyn FnMut(&str, &Tensor, &Tensor)) {
    let golden = golden_tensors("nn.safetensors");
    let cases: BTreeSet<&str> = golden.keys().map(|name| name.split('.').next().unwrap()).collect();
    assert_eq!(cases.len(), 15);
    for case in cases {
        let n = (0..).take_while(|i| golden.contains_key(&format!("{case}.in.{i}"))).count();
        let inputs: Vec<&Tensor> = (0..n).map(|i| &golden[&format!("{case}.in.{i}")]).collect();
        let vars: Vec<Var> =
            inputs.iter().map(|x| Var::from_tensor(&layout(&x.to_dtype(dtype).unwrap())).unwrap()).collect();
        let of = |key: &str| &golden[&format!("{case}.{key}")];
        let views: Vec<Tensor> = vars.iter().map(|var| layout(var)).collect();
        let out = compute(case, &views).unwrap();
        assert_eq!(out.dtype(), dtype, "{case}");
        check(&format!("{case}.out"), &out, of("out"));
        let grads = (out * of("out_grad").to_dtype(dtype).unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
        for (i, var) in vars.iter().enumerate() {
            let grad = grads.get(var).unwrap_or_else(|| panic!("{case}: input {i} has no gradient"));
            check(&format!("{case}.grad.{i}"), &layout(grad), of(&format!("grad.{i}")));
        }
    }
}

/// Checks all cases to within `bound` of the largest element.
fn assert_torchs(dtype: DType, bound: f64, layout: &dyn Fn(&Tensor) -> Tensor) {
    let mut failures = Failures::default();
    each_case(dtype, layout, &mut |what, ours, torchs| {
        let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
        let apart = difference(&wide(ours), &wide(torchs));
        failures.holds(apart <= bound, format_args!("{what}, {dtype:?}: {apart:e} of the largest apart"));
    });
}

#[test]
fn values_and_gradients_are_pytorchs() {
    // f32 is fused, f64 is not.
    for dtype in [DType::F32, DType::F64] {
        assert_torchs(dtype, SUMS, &Tensor::clone);
    }
}

#[test]
fn views_compute_what_contiguous_tensors_do() {
    // The last two dimensions, or the elements of a vector, in the other order in memory.
    let turned = |x: &Tensor| if x.rank() < 2 { x.clone() } else { x.transpose(x.rank() - 2, x.rank() - 1).unwrap() };
    for dtype in [DType::F32, DType::F64] {
        assert_torchs(dtype, SUMS, &turned);
    }
}

#[test]
fn halves_stay_near_pytorchs_f32() {
    // Inputs are rounded to 8 (bf16) or 11 (f16) bits, and so are the gradients on their way.
    assert_torchs(DType::BF16, 3e-2, &Tensor::clone);
    assert_torchs(DType::F16, 4e-3, &Tensor::clone);
}

#[test]
fn a_second_use_adds_its_gradient() -> Result<()> {
    let x = Var::new(&[[1f32, 2., 4.]], &Device::Cpu)?;
    let once = |x: &Tensor| softmax(x, D::Minus1)?.narrow(1, 0, 1)?.sum_all();
    let single = once(&x)?.backward()?.get(&x).unwrap().clone();
    let double = (once(&x)? + once(&x)?)?.backward()?.get(&x).unwrap().clone();
    assert_bits_eq(&double, &(single * 2.0)?);
    Ok(())
}

#[test]
fn broadcast_keys_add_up_over_the_heads_that_share_them() -> Result<()> {
    let golden = golden_tensors("nn.safetensors");
    let [q, k, v] = [0, 1, 2].map(|i| golden[&format!("attention_causal.in.{i}")].clone());
    let (k, v) = (Var::from_tensor(&k)?, Var::from_tensor(&v)?);
    // `repeat_kv` of transformers, as a view.
    let repeated = |x: &Tensor| {
        let (b, h, t, d) = x.dims4()?;
        x.unsqueeze(2)?.broadcast_as((b, h, N_HEAD / N_KV_HEAD, t, d))?.reshape((b, N_HEAD, t, d))
    };
    let out = Attention::causal().forward(&q, &repeated(&k)?, &repeated(&v)?)?;
    let grads = (&out * &golden["attention_causal.out_grad"])?.sum_all()?.backward()?;
    assert!(difference(&out, &golden["attention_causal.out"]) <= SUMS);
    assert!(difference(grads.get(&k).unwrap(), &golden["attention_causal.grad.1"]) <= SUMS);
    assert!(difference(grads.get(&v).unwrap(), &golden["attention_causal.grad.2"]) <= SUMS);
    Ok(())
}

#[test]
fn rows_of_padding_are_zero_and_get_no_gradient() {
    let golden = golden_tensors("nn.safetensors");
    for dtype in [DType::F32, DType::F64, DType::BF16] {
        let inputs = [0, 1, 2].map(|i| golden[&format!("attention_padded.in.{i}")].to_dtype(dtype).unwrap());
        let vars = inputs.map(|x| Var::from_tensor(&x).unwrap());
        let out = compute("attention_padded", &vars.each_ref().map(|var| var.as_tensor().clone())).unwrap();
        let grads = out.sum_all().unwrap().backward().unwrap();
        for x in [&out, grads.get(&vars[0]).unwrap()] {
            let rows = x.narrow(0, 1, 1).unwrap().narrow(2, 0, 3).unwrap().to_dtype(DType::F32).unwrap();
            assert_eq!(rows.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
        }
    }
}

#[test]
fn a_cache_changes_nothing() -> Result<()> {
    let golden = golden_tensors("nn.safetensors");
    let [q, k, v] = [0, 1, 2].map(|i| golden[&format!("attention_causal.in.{i}")].clone());
    let (_, _, t, _) = q.dims4()?;
    for step in [1, 5, 32] {
        let parts = (0..t).step_by(step).map(|start| {
            let end = t.min(start + step);
            let q = q.narrow(2, start, end - start)?;
            Ok(Attention::causal().forward(&q, &k.narrow(2, 0, end)?, &v.narrow(2, 0, end)?)?)
        });
        let out = Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 2)?;
        assert!(difference(&out, &golden["attention_causal.out"]) <= SUMS, "{step}");
    }
    Ok(())
}

#[test]
fn dropout_draws_the_masks_of_torch() -> Result<()> {
    // Scores of zero: each weight of query t is 1/(t + 1) before dropout, so that the output shows which were dropped.
    let (t, p) = (4, 0.5);
    let zeros = Tensor::zeros((1, 1, t, 1), DType::F32, &Device::Cpu)?;
    let v = Tensor::eye(t, DType::F32, &Device::Cpu)?.reshape((1, 1, t, t))?;
    let attention = Attention::causal().with_dropout(p, &Generator::manual_seed(123));
    let out = attention.forward(&zeros, &zeros, &v)?.reshape((t, t))?;
    let kept = candle_gpt_input::dropout::dropout(&out.ones_like()?, p, &Generator::manual_seed(123))?;
    let weights = Attention::causal().forward(&zeros, &zeros, &v)?.reshape((t, t))?;
    assert_bits_eq(&out, &(weights * kept)?);
    // One draw for each weight, packed or not; none with p = 0.
    let qkv = Tensor::cat(&[&zeros, &zeros, &zeros], 3)?.reshape((1, t, 3))?;
    let (left, right) = (Generator::manual_seed(1), Generator::manual_seed(1));
    Attention::causal().with_dropout(p, &left).forward_packed(&qkv, 1, 1)?;
    let (q, k, v) = split_heads(&qkv, 1, 1)?;
    Attention::causal().with_dropout(p, &right).with_dropout(0.0, &right).forward(&q, &k, &v)?;
    Attention::causal().with_dropout(p, &right).forward(&q, &k, &v)?;
    assert_eq!(left.state(), right.state());
    Ok(())
}

#[test]
fn what_does_not_fit_is_named() {
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let halves = |dims: &[usize]| Tensor::zeros(dims, DType::BF16, &Device::Cpu).unwrap();
    let ids = Tensor::zeros((1, 2), DType::U32, &Device::Cpu).unwrap();
    let mut failures = Failures::default();
    failures.error(LayerNorm::new(zeros(&[2, 2]), None, 1e-5), "weight has shape [2, 2], expected [C]");
    failures.error(LayerNorm::new(zeros(&[2]), Some(zeros(&[3])), 1e-5), "bias has shape [3], expected [2]");
    failures.error(RmsNorm::new(ids.clone(), 1e-5), "weight must be f32, f64, f16 or bf16, not U32");
    let norm = RmsNorm::new(zeros(&[2]), 1e-5).unwrap();
    failures.error(norm.forward(&zeros(&[4, 3])), "x has shape [4, 3], expected [.., 2]");
    failures.error(norm.forward(&halves(&[4, 2])), "x has dtype BF16, but weight has F32");
    failures.error(Linear::new(zeros(&[2]), None), "weight has shape [2], expected a matrix");
    failures.error(Linear::new(zeros(&[2, 3]), Some(zeros(&[3]))), "bias has shape [3], expected [2]");
    failures.error(Linear::conv1d(zeros(&[2, 3]), Some(halves(&[3]))), "bias has dtype BF16, but weight has F32");
    let linear = Linear::conv1d(zeros(&[2, 3]), None).unwrap();
    failures.error(linear.forward(&zeros(&[5, 3])), "x has shape [5, 3], expected [.., 2]");
    failures.error(gelu(&ids, Approximate::None), "x must be f32, f64, f16 or bf16, not U32");
    failures.error(softmax(&ids, 0), "x must be f32, f64, f16 or bf16, not U32");
    failures.error(softmax(&zeros(&[2]), 1), "dimension index 1 out of range");
    let causal = Attention::causal;
    let (q, k) = (zeros(&[2, 4, 3, 5]), zeros(&[2, 2, 3, 5]));
    failures.error(causal().forward(&zeros(&[4, 3, 5]), &k, &k), "q has shape [4, 3, 5], expected [B, H, T_q, D]");
    failures
        .error(causal().forward(&q, &zeros(&[2, 3, 3, 5]), &k), "expected [2, H_k, T_k, 5], with H_k a divisor of 4");
    failures
        .error(causal().forward(&q, &k, &zeros(&[2, 2, 4, 5])), "v has shape [2, 2, 4, 5], expected [2, 2, 3, D_v]");
    failures.error(causal().forward(&q, &halves(&[2, 2, 3, 5]), &k), "k has dtype BF16, but q has F32");
    failures.error(
        causal().with_bias(&zeros(&[3, 3, 3])).forward(&q, &k, &k),
        "bias has shape [3, 3, 3], expected [2, 4, 3, 3]",
    );
    failures.error(causal().with_padding(&zeros(&[2, 3])), "attention_mask must be u8, u32 or i64, not F32");
    failures.error(
        causal().with_padding(&Tensor::new(&[[1u8, 2]], &Device::Cpu).unwrap()),
        "attention_mask holds 2 at [0, 1]",
    );
    failures.error(
        causal().with_padding(&ids).unwrap().forward(&q, &k, &k),
        "attention_mask has shape [1, 2], expected [2, M]",
    );
    failures.error(causal().forward_packed(&zeros(&[1, 2, 10]), 2, 1), "expected [B, T, (2 + 2 · 1) · D]");
    failures.error(causal().forward_packed(&zeros(&[1, 2, 10]), 3, 2), "qkv has shape [1, 2, 10]");
    failures.error(split_heads(&zeros(&[1, 2, 10]), 1, 0), "qkv has shape [1, 2, 10]");
    failures.error(causal().weights(&zeros(&[2, 2])), "scores has shape [2, 2], expected [B, H, T_q, T_k]");
    // A `Module` returns Candle's error, which still holds ours.
    let typed = Error::from(norm.forward(&zeros(&[4, 3])).unwrap_err());
    failures.holds(matches!(typed, Error::ShapeMismatch { what: "x", .. }), "a typed error");
}
