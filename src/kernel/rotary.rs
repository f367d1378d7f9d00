//! Pairs of numbers rotated by an angle each: what rotary positions compute.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Shape, Storage, Tensor, WithDType};

use super::cpu::{Out, Outside, in_parallel};
use super::element::{Element, by_dtype};
use super::simd;
use super::storage::{slice, written};
use crate::error::Result;

type CandleResult<T> = candle_core::Result<T>;

/// Cosines and sines `[P, r / 2]` in f32, contiguous: a row for each position, a column for each pair.
#[derive(Clone, Debug)]
pub(crate) struct Angles {
    pub(crate) cos: Tensor,
    pub(crate) sin: Tensor,
}

/// The rows of [`Angles`] that the tokens `[B, T]` of a call take, all of them inside the table.
#[derive(Clone, Debug)]
pub(crate) enum AngleRows {
    /// Token `t` of every sequence takes this row and `t` more.
    From(usize),
    /// One a token, `[B, T]` in a row.
    Each(Arc<[u32]>),
}

/// `x` `[B, H, T, D]` with the first `r` numbers of each head rotated pair by pair, the others as they are.
///
/// Pairs are (i, i + r/2), or (2i, 2i + 1) if `interleaved`. In half types the arithmetic is f32, rounded once.
pub(crate) fn rotate(x: &Tensor, angles: &Angles, rows: AngleRows, interleaved: bool) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return reference(x, angles, &rows, interleaved);
    }
    // Heads cut out of a projection lie strided, which costs nothing as long as each of them is in one piece.
    let in_pieces = x.stride().last() == Some(&1) && x.elem_count() > 0;
    let x = if in_pieces { x.clone() } else { x.contiguous()? };
    let op = Rotate { angles: angles.clone(), rows, interleaved, back: false };
    Ok(if x.track_op() { x.apply_op1(op)? } else { x.apply_op1_no_bwd(&op)? })
}

/// The same in plain Candle operations.
pub(super) fn reference(x: &Tensor, angles: &Angles, rows: &AngleRows, interleaved: bool) -> Result<Tensor> {
    let (b, h, t, d) = x.dims4()?;
    let (_, n_pairs) = angles.cos.dims2()?;
    let factors = |table: &Tensor| -> Result<Tensor> {
        Ok(match rows {
            AngleRows::From(start) => table.narrow(0, *start, t)?,
            AngleRows::Each(ids) => {
                let ids = Tensor::from_slice(ids, ids.len(), table.device())?;
                table.index_select(&ids, 0)?.reshape((b, 1, t, n_pairs))?
            }
        })
    };
    let wide = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let (cos, sin) = (factors(&angles.cos)?.to_dtype(wide)?, factors(&angles.sin)?.to_dtype(wide)?);
    let rotated = x.narrow(D::Minus1, 0, 2 * n_pairs)?.to_dtype(wide)?;
    let (first, second) = if interleaved {
        let pairs = rotated.reshape((b, h, t, n_pairs, 2))?;
        (pairs.narrow(4, 0, 1)?.squeeze(4)?, pairs.narrow(4, 1, 1)?.squeeze(4)?)
    } else {
        (rotated.narrow(3, 0, n_pairs)?, rotated.narrow(3, n_pairs, n_pairs)?)
    };
    let new_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let new_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    let rotated = match interleaved {
        true => Tensor::stack(&[new_first, new_second], 4)?.reshape((b, h, t, 2 * n_pairs))?,
        false => Tensor::cat(&[new_first, new_second], 3)?,
    };
    let rotated = rotated.to_dtype(x.dtype())?;
    if 2 * n_pairs == d {
        return Ok(rotated);
    }
    Ok(Tensor::cat(&[rotated, x.narrow(3, 2 * n_pairs, d - 2 * n_pairs)?], 3)?)
}

struct Rotate {
    angles: Angles,
    rows: AngleRows,
    interleaved: bool,
    /// By the negative angle, as a gradient is.
    back: bool,
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let n: usize = layout.shape().elem_count();
        let (cos, cos_layout) = self.angles.cos.storage_and_layout();
        let (sin, sin_layout) = self.angles.sin.storage_and_layout();
        let (Storage::Cpu(cos), Storage::Cpu(sin)) = (&*cos, &*sin) else {
            return Err(candle_core::Error::Msg("angles are not on the CPU".to_string()).bt());
        };
        let (cos, sin) = (slice::<f32>(cos, cos_layout)?, slice::<f32>(sin, sin_layout)?);
        let (_, n_pairs) = cos_layout.shape().dims2()?;
        by_dtype!(storage, E => {
            let x = <E as candle_core::WithDType>::cpu_storage_as_slice(storage)?;
            written(n, |out| self.run::<E>(out, x, layout, (cos, sin, n_pairs)))
        })
        .map(|storage| (storage, layout.shape().clone()))
    }

    fn bwd(&self, _arg: &Tensor, _res: &Tensor, grad: &Tensor) -> CandleResult<Option<Tensor>> {
        let (angles, rows) = (self.angles.clone(), self.rows.clone());
        let op = Self { angles, rows, interleaved: self.interleaved, back: !self.back };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&op)?))
    }
}

impl Rotate {
    fn run<E: Element>(
        &self,
        out: &mut [std::mem::MaybeUninit<E>],
        x: &[E],
        layout: &Layout,
        (cos, sin, n_pairs): (&[f32], &[f32], usize),
    ) -> Result<(), Outside> {
        let (&[_, h, t, d], &[b_stride, h_stride, t_stride, _]) = (layout.dims(), layout.stride()) else {
            return Err(Outside);
        };
        if d == 0 || 2 * n_pairs > d {
            return Err(Outside);
        }
        let n_bytes = size_of_val(out);
        let out = Out::new(out, d);
        in_parallel(layout.shape().elem_count() / d, n_bytes, |range| {
            simd::vectorised(|| {
                for n in range {
                    let (batch, head, step) = (n / t / h, n / t % h, n % t);
                    let start = layout.start_offset() + batch * b_stride + head * h_stride + step * t_stride;
                    let from = x.get(start..start + d).ok_or(Outside)?;
                    let row = match &self.rows {
                        AngleRows::From(start) => start + step,
                        AngleRows::Each(rows) => *rows.get(batch * t + step).ok_or(Outside)? as usize,
                    };
                    let at = row * n_pairs..(row + 1) * n_pairs;
                    let (cos, sin) = (cos.get(at.clone()).ok_or(Outside)?, sin.get(at).ok_or(Outside)?);
                    // SAFETY: the tasks' ranges do not overlap, so row `n` is this task's alone.
                    let to = unsafe { out.row(n) };
                    match (self.interleaved, self.back) {
                        (false, false) => halves(to, from, cos, sin, |sin| sin),
                        (false, true) => halves(to, from, cos, sin, |sin| -sin),
                        (true, false) => neighbours(to, from, cos, sin, |sin| sin),
                        (true, true) => neighbours(to, from, cos, sin, |sin| -sin),
                    }
                }
                Ok(())
            })
        })
    }
}

type Uninit<E> = std::mem::MaybeUninit<E>;

/// The pair (x, y) by the angle.
#[inline(always)]
fn pair<E: Element>(x: E, y: E, cos: f32, sin: f32) -> (E, E) {
    let (x, y) = (x.widen(), y.widen());
    let (cos, sin) = (E::Wide::from_f64(f64::from(cos)), E::Wide::from_f64(f64::from(sin)));
    (E::narrow(x * cos - y * sin), E::narrow(y * cos + x * sin))
}

#[inline(always)]
fn halves<E: Element>(to: &mut [Uninit<E>], from: &[E], cos: &[f32], sin: &[f32], sign: impl Fn(f32) -> f32) {
    let n = cos.len();
    let ((to_low, to_high), to_rest) = split_mut(to, n);
    let ((low, high), rest) = (from[..2 * n].split_at(n), &from[2 * n..]);
    let sin = &sin[..n];
    for i in 0..n {
        let (x, y) = pair(low[i], high[i], cos[i], sign(sin[i]));
        to_low[i].write(x);
        to_high[i].write(y);
    }
    simd::copy(to_rest, rest, &[], false);
}

#[inline(always)]
fn neighbours<E: Element>(to: &mut [Uninit<E>], from: &[E], cos: &[f32], sin: &[f32], sign: impl Fn(f32) -> f32) {
    let n = cos.len();
    let (to, to_rest) = to.split_at_mut(2 * n);
    let (from, rest) = from.split_at(2 * n);
    for (((to, from), &cos), &sin) in to.chunks_exact_mut(2).zip(from.chunks_exact(2)).zip(cos).zip(sin) {
        let (x, y) = pair(from[0], from[1], cos, sign(sin));
        to[0].write(x);
        to[1].write(y);
    }
    simd::copy(to_rest, rest, &[], false);
}

/// Twice `n` elements, and the rest.
#[inline(always)]
fn split_mut<T>(all: &mut [T], n: usize) -> ((&mut [T], &mut [T]), &mut [T]) {
    let (both, rest) = all.split_at_mut(2 * n);
    (both.split_at_mut(n), rest)
}
