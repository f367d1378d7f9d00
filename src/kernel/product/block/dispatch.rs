//! Chooses between the fused passes and the plain operations.

use candle_core::{DType, Shape, Tensor};

use super::attention_op::{Packed, Separate};
use super::gelu_op::{Approximate, Gelu};
use super::heads::Scores;
use super::linear_op::{Linear, Weight};
use super::norm_op::Norm;
use super::reference::{self, widened};
use super::softmax_op::Softmax;
use crate::kernel::core::locks::let_writers_pass;

type CandleResult<T> = candle_core::Result<T>;

/// Returns whether the fused passes support `x`.
fn is_fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && x.elem_count() > 0
}

/// Computes `f` of the tensors, widened to f32 and rounded once if they are f16 or bf16.
fn rounded_once(tensors: &[&Tensor], f: &dyn Fn(&[&Tensor]) -> CandleResult<Tensor>) -> CandleResult<Tensor> {
    match tensors {
        [x, ..] if matches!(x.dtype(), DType::F16 | DType::BF16) => {
            let wide = tensors.iter().map(|x| widened(x)).collect::<CandleResult<Vec<_>>>()?;
            f(&wide.iter().collect::<Vec<_>>())?.to_dtype(x.dtype())
        }
        _ => f(tensors),
    }
}

/// Returns the parameter, or one of `value` everywhere that a fused pass can take in its place.
fn or_full(parameter: Option<&Tensor>, value: f32, shape: impl Into<Shape>, like: &Tensor) -> CandleResult<Tensor> {
    match parameter {
        Some(parameter) => parameter.contiguous(),
        None => Tensor::full(value, shape, like.device())?.to_dtype(like.dtype()),
    }
}

/// Normalizes the last dimension, `[.., C]`, with weight and bias `[C]`.
pub(crate) fn norm(x: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, norm: Norm) -> CandleResult<Tensor> {
    weight.into_iter().for_each(let_writers_pass);
    let given: Vec<&Tensor> = [Some(x), weight, bias].into_iter().flatten().collect();
    rounded_once(&given, &|given| {
        let mut rest = given.iter().skip(1).copied();
        let (x, weight, bias) = (given[0], weight.and_then(|_| rest.next()), bias.and_then(|_| rest.next()));
        if !is_fused(x) {
            return reference::norm(x, weight, bias, norm);
        }
        let c = x.dims().last().copied().unwrap_or(1);
        x.contiguous()?.apply_op3(&or_full(weight, 1.0, c, x)?, &or_full(bias, 0.0, c, x)?, norm)
    })
}

/// Multiplies by weights: `[N, I] -> [N, O]`, with a bias `[O]`.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, lies: Weight) -> CandleResult<Tensor> {
    let_writers_pass(weight);
    let given: Vec<&Tensor> = [Some(x), Some(weight), bias].into_iter().flatten().collect();
    rounded_once(&given, &|given| {
        let (x, weight, bias) = (given[0], given[1], given.get(2).copied());
        if !is_fused(x) || weight.elem_count() == 0 {
            return reference::linear(x, weight, bias, lies);
        }
        let has_bias = bias.is_some();
        x.apply_op3(weight, &or_full(bias, 0.0, 1, x)?, Linear { weight: lies, has_bias })
    })
}

pub(crate) fn gelu(x: &Tensor, form: Approximate) -> CandleResult<Tensor> {
    rounded_once(&[x], &|given| match given {
        [x] if is_fused(x) => x.contiguous()?.apply_op1(Gelu(form)),
        _ => reference::gelu(given[0], form),
    })
}

/// Computes the softmax over the last dimension. A row of -∞ alone becomes zeros if `masks_rows`, else NaN.
pub(crate) fn softmax(x: &Tensor, masks_rows: bool) -> CandleResult<Tensor> {
    rounded_once(&[x], &|given| match given {
        [x] if is_fused(x) => x.contiguous()?.apply_op1(Softmax { masks_rows }),
        [x] if x.elem_count() == 0 => Ok((*x).clone()),
        _ => reference::softmax(given[0], masks_rows),
    })
}

/// Returns whether the bias of the scores needs a gradient, which the fused passes do not compute.
fn is_bias_trained(scores: &Scores) -> bool {
    scores.bias.as_ref().is_some_and(Tensor::track_op)
}

/// Computes attention: `q` `[B, H, T_q, D]`, `k` `[B, H_kv, T_k, D]` and `v` `[B, H_kv, T_k, D_v]` make
/// `[B, H, T_q, D_v]`.
///
/// On the CPU halves are widened before and rounded after all of it; on other devices products are in their dtype.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scores: &Scores) -> CandleResult<Tensor> {
    if !q.device().is_cpu() {
        return plain_attention(q, k, v, scores);
    }
    rounded_once(&[q, k, v], &|given| {
        let (q, k, v) = (given[0], given[1], given[2]);
        if !is_fused(q) || v.dim(3)? == 0 || is_bias_trained(scores) {
            return plain_attention(q, k, v, scores);
        }
        let ((b, h, t, _), d) = (q.dims4()?, v.dim(3)?);
        let op = Separate(in_f32(scores)?);
        let out = in_pieces(q)?.apply_op3(&in_pieces(k)?, &in_pieces(v)?, op)?;
        out.reshape((b, t, h, d))?.transpose(1, 2)
    })
}

fn plain_attention(q: &Tensor, k: &Tensor, v: &Tensor, scores: &Scores) -> CandleResult<Tensor> {
    let ((b, h, t, _), d) = (q.dims4()?, v.dim(3)?);
    if q.elem_count() == 0 || v.elem_count() == 0 {
        return reference::nothing(&[q, k, v], (b, h, t, d)); // nothing is seen
    }
    let weights = softmax(&reference::attention_scores(q, k, scores)?, true)?;
    reference::weighted(&weights, v)
}

/// Computes attention of the heads in `[B, T, (H + 2 H_kv) · D]`, all queries, then all keys, then all values. The
/// output is `[B, T, H · D]`.
pub(crate) fn packed_attention(
    qkv: &Tensor,
    (n_head, n_kv_head): (usize, usize),
    scores: &Scores,
) -> CandleResult<Tensor> {
    rounded_once(&[qkv], &|given| {
        if is_fused(given[0]) && !is_bias_trained(scores) {
            let op = Packed { scores: in_f32(scores)?, n_head, n_kv_head };
            return given[0].contiguous()?.apply_op1(op);
        }
        let (q, k, v) = split_heads(given[0], (n_head, n_kv_head))?;
        let (b, h, t, d) = q.dims4()?;
        plain_attention(&q, &k, &v, scores)?.transpose(1, 2)?.reshape((b, t, h * d))
    })
}

/// Returns the heads of `[B, T, (H + 2 H_kv) · D]` as `[B, H, T, D]` and twice `[B, H_kv, T, D]`.
pub(crate) fn split_heads(qkv: &Tensor, (n_head, n_kv_head): (usize, usize)) -> CandleResult<(Tensor, Tensor, Tensor)> {
    let (b, t, width) = qkv.dims3()?;
    let n = n_head + 2 * n_kv_head;
    let all = qkv.reshape((b, t, n, width / n))?;
    let heads = |first, n| all.narrow(2, first, n)?.transpose(1, 2);
    Ok((heads(0, n_head)?, heads(n_head, n_kv_head)?, heads(n_head + n_kv_head, n_kv_head)?))
}

/// Makes the last dimension contiguous: heads cut out of a projection are strided only in the others.
fn in_pieces(x: &Tensor) -> CandleResult<Tensor> {
    if x.stride().last() == Some(&1) { Ok(x.clone()) } else { x.contiguous() }
}

/// Prepares the bias for the fused passes.
fn in_f32(scores: &Scores) -> CandleResult<Scores> {
    let bias = scores.bias.as_ref().map(|bias| bias.to_dtype(DType::F32)?.contiguous()).transpose()?;
    Ok(Scores { bias, ..scores.clone() })
}
