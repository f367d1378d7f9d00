//! The rotation as a Candle operation, with its gradient.

use std::borrow::{Borrow, Cow};

use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Shape, Storage, Tensor, WithDType};

use super::angles::{AngleRows, Angles};
use super::blocks::Heads;
use super::turn::{Turn, Vectors};
use crate::error::Result;
use crate::kernel::core::element::by_dtype;
use crate::kernel::core::storage::{on_host, slice, written, written_two};

type CandleResult<T> = candle_core::Result<T>;

/// Rotates the first `r` elements of every head of `q` and `k`, `[B, H, T, D]` each, pair by pair. `k` may have fewer
/// heads.
///
/// Pairs are (i, i + r/2), or (2i, 2i + 1) if `interleaved`. In half types the arithmetic is f32, rounded once.
pub(crate) fn rotate(
    q: &Tensor,
    k: &Tensor,
    angles: &Angles,
    rows: AngleRows,
    interleaved: bool,
) -> Result<(Tensor, Tensor)> {
    if !q.device().is_cpu() || !k.device().is_cpu() {
        let each = |x: &Tensor| reference(x, angles, &rows, interleaved);
        return Ok((each(q)?, each(k)?));
    }
    let (q, k) = (&*in_pieces(q)?, &*in_pieces(k)?);
    let vectors = Vectors::widest();
    if q.track_op() || k.track_op() || q.dtype() != k.dtype() {
        let op = Rotate { angles: angles.clone(), rows, interleaved, back: false, vectors };
        let each = |x: &Tensor| if x.track_op() { x.apply_op1(op.clone()) } else { x.apply_op1_no_bwd(&op) };
        return Ok((each(q)?, each(k)?));
    }
    Ok(Rotate { angles, rows, interleaved, back: false, vectors }.both(q, k)?)
}

/// Makes the last dimension contiguous. Heads cut out of a projection are strided only in the others, which costs
/// nothing.
fn in_pieces(x: &Tensor) -> CandleResult<Cow<'_, Tensor>> {
    Ok(if x.stride().last() == Some(&1) { Cow::Borrowed(x) } else { Cow::Owned(x.contiguous()?) })
}

/// Rotates one tensor in plain Candle operations.
pub(super) fn reference(x: &Tensor, angles: &Angles, rows: &AngleRows, interleaved: bool) -> Result<Tensor> {
    let (b, h, t, d) = x.dims4()?;
    let (_, _, n_pairs) = angles.0.dims3()?;
    let wide = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let (cos, sin) = angles.cos_sin(rows, (b, t))?;
    let (cos, sin) = (cos.unsqueeze(1)?.to_dtype(wide)?, sin.unsqueeze(1)?.to_dtype(wide)?);
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

/// The rotation as an operation: it owns its angles if it is recorded, else it borrows them.
#[derive(Clone)]
pub(super) struct Rotate<A> {
    pub(super) angles: A,
    pub(super) rows: AngleRows,
    pub(super) interleaved: bool,
    /// Whether to rotate by the negative angle, as the gradient needs.
    pub(super) back: bool,
    pub(super) vectors: Vectors,
}

impl<A: Borrow<Angles>> Rotate<A> {
    /// Rotates queries and keys in one pass and records nothing.
    pub(super) fn both(&self, q: &Tensor, k: &Tensor) -> CandleResult<(Tensor, Tensor)> {
        let ((q_storage, q_layout), (k_storage, k_layout)) = (q.storage_and_layout(), k.storage_and_layout());
        by_dtype!(q, E => {
            let of = <E as WithDType>::cpu_storage_as_slice;
            let (q_from, k_from) = (of(on_host(&q_storage)?)?, of(on_host(&k_storage)?)?);
            self.with_turn(|turn| {
                let (q_new, k_new) = written_two(q.elem_count(), k.elem_count(), &mut |q_to, k_to| {
                    turn.run::<E>(&mut [Heads::new(q_from, q_layout, q_to)?, Heads::new(k_from, k_layout, k_to)?])
                })?;
                let tensor = |values, like: &Tensor| {
                    let storage = Storage::Cpu(E::to_cpu_storage_owned(values));
                    Tensor::from_storage(storage, like.shape(), BackpropOp::none(), false)
                };
                Ok((tensor(q_new, q), tensor(k_new, k)))
            })
        })
    }

    fn with_turn<R>(&self, run: impl FnOnce(&Turn) -> CandleResult<R>) -> CandleResult<R> {
        let (storage, layout) = self.angles.borrow().0.storage_and_layout();
        let (_, _, n_pairs) = layout.shape().dims3()?;
        let &Self { ref rows, interleaved, back, vectors, .. } = self;
        let angles = slice::<f32>(on_host(&storage)?, layout)?;
        run(&Turn { angles, n_pairs, rows, interleaved, back, vectors })
    }
}

impl CustomOp1 for Rotate<Angles> {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let n = layout.shape().elem_count();
        by_dtype!(storage, E => {
            let from = <E as WithDType>::cpu_storage_as_slice(storage)?;
            self.with_turn(|turn| written(n, &mut |to| turn.run::<E>(&mut [Heads::new(from, layout, to)?])))
        })
        .map(|storage| (storage, layout.shape().clone()))
    }

    fn bwd(&self, _arg: &Tensor, _res: &Tensor, grad: &Tensor) -> CandleResult<Option<Tensor>> {
        Ok(Some(in_pieces(grad)?.apply_op1_no_bwd(&Self { back: !self.back, ..self.clone() })?))
    }
}
