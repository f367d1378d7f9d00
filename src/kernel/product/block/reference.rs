//! The pieces of a block in plain Candle operations, whose gradients are Candle's: for f64 and devices other than the
//! CPU, and the oracle of the fused passes.

use candle_core::{D, DType, Shape, Tensor};

use super::gelu_op::Approximate;
use super::heads::Scores;
use super::linear_op::Weight;
use super::norm_op::Norm;

type CandleResult<T> = candle_core::Result<T>;

pub(super) fn norm(x: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, norm: Norm) -> CandleResult<Tensor> {
    if x.elem_count() == 0 {
        let given: Vec<&Tensor> = [Some(x), weight, bias].into_iter().flatten().collect();
        return nothing(&given, x.shape());
    }
    let x = match norm.is_centred {
        true => x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?,
        false => x.clone(),
    };
    let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
    let mut x = x.broadcast_div(&(variance + norm.eps)?.sqrt()?)?;
    if let Some(weight) = weight {
        x = x.broadcast_mul(weight)?;
    }
    match bias {
        Some(bias) => x.broadcast_add(bias),
        None => Ok(x),
    }
}

pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, lies: Weight) -> CandleResult<Tensor> {
    let weight = if lies == Weight::OutIn { weight.t()? } else { weight.clone() };
    let y = if x.elem_count() == 0 || weight.elem_count() == 0 {
        let given: Vec<&Tensor> = [Some(x), Some(&weight), bias].into_iter().flatten().collect();
        nothing(&given, (x.dim(0)?, weight.dim(1)?))?
    } else {
        x.matmul(&weight)?
    };
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// Returns zeros that depend on `tensors`, some of which are empty. Candle's results of such forget where they come from.
pub(super) fn nothing(tensors: &[&Tensor], shape: impl Into<Shape>) -> CandleResult<Tensor> {
    let of = |x: &&Tensor| (*x - &(*x).clone())?.sum_all(); // Candle follows no factor of 0
    let sums = Tensor::stack(&tensors.iter().map(of).collect::<CandleResult<Vec<_>>>()?, 0)?;
    sums.sum_all()?.broadcast_as(shape)?.contiguous()
}

/// The slopes of Candle's own GELUs have six digits.
pub(super) fn gelu(x: &Tensor, form: Approximate) -> CandleResult<Tensor> {
    let inner = match form {
        Approximate::None => (x * std::f64::consts::FRAC_1_SQRT_2)?.erf()?,
        Approximate::Tanh => {
            let cubic = ((x.sqr()? * 0.044715)? + 1.0)?;
            ((x * cubic)? * (2.0 / std::f64::consts::PI).sqrt())?.tanh()?
        }
    };
    (x * 0.5)? * (inner + 1.0)?
}

/// Computes the softmax over the last dimension. A row of -∞ alone becomes zeros if `masks_rows`, else NaN.
pub(super) fn softmax(x: &Tensor, masks_rows: bool) -> CandleResult<Tensor> {
    // The shift changes nothing, so it needs no gradient.
    let mut max = x.max_keepdim(D::Minus1)?.detach();
    if masks_rows {
        let infinite = max.eq(f64::NEG_INFINITY)?;
        max = infinite.where_cond(&max.zeros_like()?, &max)?;
    }
    let exps = x.broadcast_sub(&max)?.exp()?;
    let mut sums = exps.sum_keepdim(D::Minus1)?;
    if masks_rows {
        sums = (&sums + sums.eq(0.0)?.to_dtype(sums.dtype())?)?;
    }
    exps.broadcast_div(&sums)
}

/// Computes the scores, `[B, H, T_q, T_k]`, in f32 at least.
pub(crate) fn attention_scores(q: &Tensor, k: &Tensor, scores: &Scores) -> CandleResult<Tensor> {
    let ((b, h, t_q, d), (_, n_kv_head, t_k, _)) = (q.dims4()?, k.dims4()?);
    let q = (q * scores.scale)?.reshape((b, n_kv_head, h / n_kv_head * t_q, d))?;
    let found = q.matmul(&k.t()?.contiguous()?)?.reshape((b, h, t_q, t_k))?;
    masked_scores(&found, scores)
}

/// Adds bias and masks to scores, in f32 at least.
pub(crate) fn masked_scores(found: &Tensor, scores: &Scores) -> CandleResult<Tensor> {
    let mut found = widened(found)?;
    let (_, _, t_q, t_k) = found.dims4()?;
    if let Some(bias) = &scores.bias {
        found = found.broadcast_add(&bias.to_dtype(found.dtype())?)?;
    }
    if scores.is_causal && t_q > 1 {
        let row = |query| {
            let end = scores.end_of_seen(query, t_q, t_k);
            (0..t_k).map(move |key| if key < end { 0f32 } else { f32::NEG_INFINITY })
        };
        let mask = Tensor::from_vec((0..t_q).flat_map(row).collect(), (t_q, t_k), found.device())?;
        found = found.broadcast_add(&mask.to_dtype(found.dtype())?)?;
    }
    if let Some(rows) = &scores.documents {
        let (queries, keys) = (document_numbers(rows, t_q, t_k), document_numbers(rows, t_k, t_k));
        let queries = Tensor::from_vec(queries, (rows.len(), 1, t_q, 1), found.device())?;
        let keys = Tensor::from_vec(keys, (rows.len(), 1, 1, t_k), found.device())?;
        let is_seen = queries.broadcast_eq(&keys)?;
        found = found.broadcast_add(&is_seen.to_dtype(found.dtype())?.log()?)?; // the logarithms are 0 and -∞
    }
    Ok(found)
}

/// Returns in which document of its row each of the last `t` of `t_k` tokens lies; before the first, in the first.
fn document_numbers(rows: &[Vec<usize>], t: usize, t_k: usize) -> Vec<u32> {
    let number = |ends: &Vec<usize>, token: usize| {
        let key = (token + t_k).saturating_sub(t);
        ends.partition_point(|&end| end <= key) as u32
    };
    rows.iter().flat_map(|ends| (0..t).map(move |token| number(ends, token))).collect()
}

/// Computes the sums of `v` by `weights`: `[B, H, T_q, T_k]` and `[B, H_kv, T_k, D]` make `[B, H, T_q, D]`.
pub(crate) fn weighted(weights: &Tensor, v: &Tensor) -> CandleResult<Tensor> {
    let ((b, h, t_q, t_k), (_, n_kv_head, _, d)) = (weights.dims4()?, v.dims4()?);
    let weights = weights.to_dtype(v.dtype())?.reshape((b, n_kv_head, h / n_kv_head * t_q, t_k))?;
    weights.matmul(&v.contiguous()?)?.reshape((b, h, t_q, d))
}

/// Widens f16 and bf16 to f32; returns everything else as it is.
pub(super) fn widened(x: &Tensor) -> CandleResult<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}
