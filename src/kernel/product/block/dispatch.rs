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
use crate::kernel::product::skinny::is_multiplied;

type CandleResult<T> = candle_core::Result<T>;

/// Returns whether the fused passes support `x`.
fn is_fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && x.elem_count() > 0
}

/// Widens halves on the CPU. Other devices multiply them in their own dtype.
fn wide_on_cpu(x: &Tensor) -> CandleResult<Tensor> {
    if x.device().is_cpu() { widened(x) } else { Ok(x.clone()) }
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
    let (wide, weight, bias) = (widened(x)?, weight.map(widened).transpose()?, bias.map(widened).transpose()?);
    let (weight, bias) = (weight.as_ref(), bias.as_ref());
    let y = if is_fused(&wide) {
        let c = wide.dims().last().copied().unwrap_or(1);
        wide.contiguous()?.apply_op3(&or_full(weight, 1.0, c, &wide)?, &or_full(bias, 0.0, c, &wide)?, norm)?
    } else {
        reference::norm(&wide, weight, bias, norm)?
    };
    y.to_dtype(x.dtype())
}

/// Multiplies by weights: `[N, I] -> [N, O]`, with a bias `[O]`.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, lies: Weight) -> CandleResult<Tensor> {
    let_writers_pass(weight);
    let has_elements = x.elem_count() > 0 && weight.elem_count() > 0;
    let fused = Linear { weight: lies, has_bias: bias.is_some() };
    if x.device().is_cpu() && has_elements && is_multiplied(x, weight) {
        return x.apply_op3(weight, &or_full(bias, 0.0, 1, x)?, fused);
    }
    let (wide, weight, bias) = (wide_on_cpu(x)?, wide_on_cpu(weight)?, bias.map(wide_on_cpu).transpose()?);
    let bias = bias.as_ref();
    let y = if is_fused(&wide) && has_elements {
        wide.apply_op3(&weight, &or_full(bias, 0.0, 1, &wide)?, fused)?
    } else {
        reference::linear(&wide, &weight, bias, lies)?
    };
    y.to_dtype(x.dtype())
}

pub(crate) fn gelu(x: &Tensor, form: Approximate) -> CandleResult<Tensor> {
    let wide = widened(x)?;
    let y = if is_fused(&wide) { wide.contiguous()?.apply_op1(Gelu(form))? } else { reference::gelu(&wide, form)? };
    y.to_dtype(x.dtype())
}

/// Computes the softmax over the last dimension. A row of -∞ alone becomes zeros if `masks_rows`, else NaN.
pub(crate) fn softmax(x: &Tensor, masks_rows: bool) -> CandleResult<Tensor> {
    let wide = widened(x)?;
    let weights = if is_fused(&wide) {
        wide.contiguous()?.apply_op1(Softmax { masks_rows })?
    } else if wide.elem_count() == 0 {
        wide
    } else {
        reference::softmax(&wide, masks_rows)?
    };
    weights.to_dtype(x.dtype())
}

/// Returns whether the bias of the scores needs a gradient, which the fused passes do not compute.
fn is_bias_trained(scores: &Scores) -> bool {
    scores.bias.as_ref().is_some_and(Tensor::track_op)
}

/// Computes attention: `q` `[B, H, T_q, D]`, `k` `[B, H_kv, T_k, D]` and `v` `[B, H_kv, T_k, D_v]` make
/// `[B, H, T_q, D_v]`.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scores: &Scores) -> CandleResult<Tensor> {
    let ((b, h, t, _), d) = (q.dims4()?, v.dim(3)?);
    let is_known = matches!(q.dtype(), DType::F32 | DType::F16 | DType::BF16) && q.device().is_cpu();
    let out = if is_known && q.elem_count() > 0 && d > 0 && !is_bias_trained(scores) {
        let op = Separate(in_f32(scores)?);
        let rows = in_pieces(q)?.apply_op3(&in_pieces(k)?, &in_pieces(v)?, op)?;
        rows.reshape((b, t, h, d))?.transpose(1, 2)?
    } else {
        plain_attention(&wide_on_cpu(q)?, &wide_on_cpu(k)?, &wide_on_cpu(v)?, scores)?
    };
    out.to_dtype(q.dtype())
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
    let wide = wide_on_cpu(qkv)?;
    let out = if is_fused(&wide) && !is_bias_trained(scores) {
        wide.contiguous()?.apply_op1(Packed { scores: in_f32(scores)?, n_head, n_kv_head })?
    } else {
        let (q, k, v) = split_heads(&wide, (n_head, n_kv_head))?;
        let (b, h, t, d) = q.dims4()?;
        plain_attention(&q, &k, &v, scores)?.transpose(1, 2)?.reshape((b, t, h * d))?
    };
    out.to_dtype(qkv.dtype())
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
