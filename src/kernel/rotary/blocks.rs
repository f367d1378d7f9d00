//! The rotation on the CPU, block by block.
//!
//! A block is a run of positions of one head, a piece of output without gaps: long runs are what the processor's own
//! prefetching is made for. Stores go through the caches; past them was no faster, and attention reads the result at once.

use std::mem::MaybeUninit;

use candle_core::Layout;

use super::AngleRows;
use crate::kernel::cpu::{Out, Outside, in_parallel};
use crate::kernel::element::Element;

/// Positions of a block, at most; fewer where heads lie strided, so that the rows of the next head are still in a cache when
/// their turn comes.
const BLOCK_ROWS: usize = 256;
const STRIDED_ROWS: usize = 128;

/// What is done to every row: by which angles, and how its pairs lie.
pub(super) struct Turn<'a> {
    /// `[P, n_pairs]`; all of them numbers (no NaN), which the rounding of bf16 relies on.
    pub(super) cos: &'a [f32],
    pub(super) sin: &'a [f32],
    pub(super) n_pairs: usize,
    pub(super) rows: &'a AngleRows,
    pub(super) interleaved: bool,
    pub(super) back: bool,
    pub(super) vectors: Vectors,
}

/// How many pairs are turned at a time: what the CPU has instructions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vectors {
    One,
    #[cfg(target_arch = "x86_64")]
    Eight(super::x86::HasAvx2),
    #[cfg(target_arch = "x86_64")]
    Sixteen(super::x86::HasAvx512),
}

impl Vectors {
    /// The widest that the CPU has.
    pub(super) fn widest() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let eight = super::x86::HasAvx2::seen().map(Self::Eight);
            super::x86::HasAvx512::seen().map(Self::Sixteen).or(eight).unwrap_or(Self::One)
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::One
    }
}

/// Queries or keys `[B, H, T, D]`, and where they go, `[B, H, T, D]` without gaps.
pub(super) struct Heads<'a, E> {
    from: &'a [E],
    start: usize,
    dims: [usize; 4],
    /// Of batch, head and position.
    strides: [usize; 3],
    to: Out<'a, E>,
    n_bytes: usize,
}

impl<'a, E: Element> Heads<'a, E> {
    /// Their layout may be strided, but for the last dimension.
    pub(super) fn new(from: &'a [E], layout: &Layout, to: &'a mut [MaybeUninit<E>]) -> Result<Self, Outside> {
        let (&[b, h, t, d], &[by_batch, by_head, by_step, 1]) = (layout.dims(), layout.stride()) else {
            return Err(Outside);
        };
        let (start, n_bytes) = (layout.start_offset(), size_of_val(to));
        let strides = [by_batch, by_head, by_step];
        Ok(Self { from, start, dims: [b, h, t, d], strides, to: Out::new(to, d), n_bytes })
    }
}

/// Rows that lie behind one another where they go.
pub(super) struct Block<'a, E> {
    pub(super) to: &'a mut [MaybeUninit<E>],
    /// From the first row on; they are `stride` apart.
    pub(super) from: &'a [E],
    pub(super) stride: usize,
    /// How much further the block begins that is asked from memory meanwhile.
    pub(super) ahead: Option<usize>,
    /// Where the angles of each row begin.
    pub(super) angles: &'a [usize],
}

impl Turn<'_> {
    /// Turns all heads of all parts, which agree in B, T and D.
    pub(super) fn run<E: Element>(&self, parts: &[Heads<E>]) -> Result<(), Outside> {
        let Some(&[b, _, t, d]) = parts.first().map(|part| &part.dims) else { return Ok(()) };
        let agree =
            |part: &Heads<E>| matches!(part.dims, [b_part, _, t_part, d_part] if [b_part, t_part, d_part] == [b, t, d]);
        if d == 0 || 2 * self.n_pairs > d || !parts.iter().all(agree) {
            return Err(Outside);
        }
        let in_order = parts.iter().all(|part| part.strides[2] == d);
        let n_rows = if in_order { BLOCK_ROWS } else { STRIDED_ROWS };
        in_parallel(b * t, parts.iter().map(|part| part.n_bytes).sum(), |range| {
            let mut angles = [0; BLOCK_ROWS];
            let mut first = range.start;
            while first < range.end {
                let (batch, step) = (first / t, first % t);
                let n = n_rows.min(range.end - first).min(t - step);
                for (i, angles) in angles[..n].iter_mut().enumerate() {
                    let row = match self.rows {
                        AngleRows::From(start) => start + step + i,
                        AngleRows::Each(rows) => *rows.get(first + i).ok_or(Outside)? as usize,
                    };
                    *angles = row * self.n_pairs;
                }
                for part in parts {
                    if t == 1 {
                        angles = [angles[0]; BLOCK_ROWS];
                        self.heads(part, batch, &angles)?;
                    } else {
                        self.positions(part, batch, step, &angles[..n])?;
                    }
                }
                first += n;
            }
            Ok(())
        })
    }

    /// Every head of a part at some positions of one sequence, from `step` on.
    fn positions<E: Element>(
        &self,
        part: &Heads<E>,
        batch: usize,
        step: usize,
        angles: &[usize],
    ) -> Result<(), Outside> {
        let ([_, n_head, t, d], [by_batch, by_head, by_step]) = (part.dims, part.strides);
        let ahead = (by_step != d).then_some(by_head);
        for head in 0..n_head {
            let start = part.start + batch * by_batch + head * by_head + step * by_step;
            let from = part.from.get(start..).ok_or(Outside)?;
            // SAFETY: these positions are of this task alone, and so are their rows in every head.
            let to = unsafe { part.to.rows((batch * n_head + head) * t + step, angles.len()) };
            self.block(Block { to, from, stride: by_step, ahead, angles })?;
        }
        Ok(())
    }

    /// Every head of a part at the only position of one sequence: heads take the place of positions.
    fn heads<E: Element>(&self, part: &Heads<E>, batch: usize, angles: &[usize]) -> Result<(), Outside> {
        let ([_, n_head, ..], [by_batch, by_head, _]) = (part.dims, part.strides);
        for head in (0..n_head).step_by(angles.len()) {
            let n = angles.len().min(n_head - head);
            let from = part.from.get(part.start + batch * by_batch + head * by_head..).ok_or(Outside)?;
            // SAFETY: this sequence is of this task alone, and so are its rows.
            let to = unsafe { part.to.rows(batch * n_head + head, n) };
            self.block(Block { to, from, stride: by_head, ahead: None, angles: &angles[..n] })?;
        }
        Ok(())
    }

    fn block<E: Element>(&self, block: Block<E>) -> Result<(), Outside> {
        #[cfg(target_arch = "x86_64")]
        if self.vectors != Vectors::One && super::x86::knows::<E>() {
            return super::x86::turn(self, block);
        }
        let Block { to, from, stride, angles, .. } = block;
        let d = to.len() / angles.len();
        for (i, (to, &at)) in to.chunks_exact_mut(d).zip(angles).enumerate() {
            let from = from.get(i * stride..i * stride + d).ok_or(Outside)?;
            let at = at..at + self.n_pairs;
            self.row(to, from, self.cos.get(at.clone()).ok_or(Outside)?, self.sin.get(at).ok_or(Outside)?, 0);
        }
        Ok(())
    }

    /// One row from pair `first` on, and what is behind the pairs.
    pub(super) fn row<E: Element>(
        &self,
        to: &mut [MaybeUninit<E>],
        from: &[E],
        cos: &[f32],
        sin: &[f32],
        first: usize,
    ) {
        let n = cos.len();
        for i in first..n {
            let (left, right) = if self.interleaved { (2 * i, 2 * i + 1) } else { (i, i + n) };
            let (x, y) = (from[left].widen(), from[right].widen());
            let sin = if self.back { -sin[i] } else { sin[i] };
            let (cos, sin) = (E::Wide::from(cos[i]), E::Wide::from(sin));
            to[left].write(E::narrow(x * cos - y * sin));
            to[right].write(E::narrow(y * cos + x * sin));
        }
        for (to, &from) in to[2 * n..].iter_mut().zip(&from[2 * n..]) {
            to.write(from);
        }
    }
}
