//! The rotation on the CPU, block by block.
//!
//! A task writes a piece of the output from its beginning to its end, as a copy would: pages of new memory are met one after
//! the other. What every head reads again, the angles, stays in a cache meanwhile. Stores go through the caches; past them was
//! no faster in new memory, which is in a cache when the system has cleared it, and attention reads the result at once.

use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::Layout;

use super::AngleRows;
use crate::kernel::cpu::{Out, Outside, in_parallel};
use crate::kernel::element::Element;

/// Angles of so many bytes stay in a cache while heads stream by, which all read them.
const ANGLE_BYTES: usize = 512 << 10;
/// Positions of a block where heads lie strided: few, so that the rows of the next head are still in a cache when their turn
/// comes.
const STRIDED_ROWS: usize = 128;
/// What is read so many bytes later is asked from memory where rows lie behind one another.
const BYTES_AHEAD: usize = 2 << 10;
/// What has fewer bytes is likely in a cache.
const FAR_BYTES: usize = 1 << 18;

/// What is done to every row: by which angles, and how its pairs lie.
pub(super) struct Turn<'a> {
    /// `[P, 2, n_pairs]`, cosines and sines; all of them numbers (no NaN), which the rounding of bf16 relies on.
    pub(super) angles: &'a [f32],
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
    /// Sixteen, and an instruction that rounds to bf16.
    #[cfg(target_arch = "x86_64")]
    Converting(super::x86::HasBf16),
}

impl Vectors {
    /// The widest that the CPU has.
    pub(super) fn widest() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use super::x86::{HasAvx2, HasAvx512, HasBf16};
            let narrower = || HasAvx512::seen().map(Self::Sixteen).or_else(|| HasAvx2::seen().map(Self::Eight));
            HasBf16::seen().map(Self::Converting).or_else(narrower).unwrap_or(Self::One)
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
    n_rows: usize,
    n_bytes: usize,
    /// How far apart rows lie that lie evenly, and how many of them do: those of a sequence, or all.
    even: Option<(usize, usize)>,
}

impl<'a, E: Element> Heads<'a, E> {
    /// Their layout may be strided, but for the last dimension.
    pub(super) fn new(from: &'a [E], layout: &Layout, to: &'a mut [MaybeUninit<E>]) -> Result<Self, Outside> {
        let (&[b, h, t, d], &[by_batch, by_head, by_step, 1]) = (layout.dims(), layout.stride()) else {
            return Err(Outside);
        };
        let (start, n_bytes, of_sequence) = (layout.start_offset(), size_of_val(to), h * t);
        let stride = if t == 1 { by_head } else { by_step };
        let is_even = h == 1 || by_head == t * stride;
        let are_all = b == 1 || by_batch == of_sequence * stride;
        let even = is_even.then_some((stride, if are_all { b * of_sequence } else { of_sequence }));
        let (dims, strides) = ([b, h, t, d], [by_batch, by_head, by_step]);
        Ok(Self { from, start, dims, strides, to: Out::new(to, d), n_rows: b * of_sequence, n_bytes, even })
    }
}

/// Rows that lie behind one another where they go.
pub(super) struct Block<'a, E> {
    pub(super) to: &'a mut [MaybeUninit<E>],
    /// From the first row on; they are `stride` apart.
    pub(super) from: &'a [E],
    pub(super) stride: usize,
    pub(super) n_rows: usize,
    /// How much further on lies what is asked from memory meanwhile.
    pub(super) ahead: usize,
    pub(super) steps: Steps<'a>,
}

/// The rows of angles that rows take: step by step, and from the first again.
#[derive(Clone, Copy)]
pub(super) struct Steps<'a> {
    rows: &'a AngleRows,
    /// The first token of the sequence.
    first: usize,
    t: usize,
    step: usize,
}

/// Rows whose angles lie evenly.
pub(super) struct Run {
    pub(super) row: usize,
    /// How many rows further on those of the next row lie: 0 or 1.
    pub(super) by: usize,
    pub(super) n: usize,
}

impl Steps<'_> {
    /// The next rows, `n` at most.
    #[inline(always)]
    pub(super) fn next(&mut self, n: usize) -> Result<Run, Outside> {
        let row = match self.rows {
            AngleRows::From(start) => start + self.step,
            AngleRows::Each(rows) => *rows.get(self.first + self.step).ok_or(Outside)? as usize,
        };
        if self.t == 1 {
            return Ok(Run { row, by: 0, n });
        }
        let n = if let AngleRows::From(_) = self.rows { n.min(self.t - self.step) } else { 1 };
        self.step = if self.step + n == self.t { 0 } else { self.step + n };
        Ok(Run { row, by: 1, n })
    }
}

impl<'a> Turn<'a> {
    /// Turns all heads of all parts, which agree in B, T and D.
    pub(super) fn run<E: Element>(&self, parts: &[Heads<E>]) -> Result<(), Outside> {
        let Some(&[b, _, t, d]) = parts.first().map(|part| &part.dims) else { return Ok(()) };
        let agree =
            |part: &Heads<E>| matches!(part.dims, [b_part, _, t_part, d_part] if [b_part, t_part, d_part] == [b, t, d]);
        if d == 0 || 2 * self.n_pairs > d || !parts.iter().all(agree) {
            return Err(Outside);
        }
        let n_bytes = parts.iter().map(|part| part.n_bytes).sum();
        let angle_bytes = 2 * self.n_pairs * size_of::<f32>();
        if t.saturating_mul(angle_bytes) <= ANGLE_BYTES && parts.iter().all(|part| part.even.is_some()) {
            return in_parallel(parts.iter().map(|part| part.n_rows).sum(), n_bytes, |range| {
                let mut offset = 0;
                parts.iter().try_for_each(|part| {
                    let rows = range.start.max(offset) - offset..range.end.max(offset) - offset;
                    offset += part.n_rows;
                    self.rows(part, rows.start..rows.end.min(part.n_rows))
                })
            });
        }
        let is_strided = parts.iter().any(|part| part.strides[2] != d);
        let n_rows = if is_strided { STRIDED_ROWS } else { (ANGLE_BYTES / angle_bytes.max(1)).max(1) };
        in_parallel(b * t, n_bytes, |range| {
            let mut first = range.start;
            while first < range.end {
                let step = first % t;
                let n = n_rows.min(range.end - first).min(t - step);
                for part in parts {
                    self.positions(part, first / t, step..step + n)?;
                }
                first += n;
            }
            Ok(())
        })
    }

    /// Rows of a part that lie evenly, heads and sequences behind one another.
    fn rows<E: Element>(&self, part: &Heads<E>, rows: Range<usize>) -> Result<(), Outside> {
        let ([_, n_head, t, d], Some((stride, n_even))) = (part.dims, part.even) else { return Err(Outside) };
        let of_sequence = n_head * t;
        let n_even = if matches!(self.rows, AngleRows::From(_)) { n_even } else { of_sequence };
        let mut first = rows.start;
        while first < rows.end {
            let run = first / n_even;
            let in_run = first - run * n_even;
            let (batch, n_rows) = (run * (n_even / of_sequence), (n_even - in_run).min(rows.end - first));
            let from = part.from.get(part.start + batch * part.strides[0] + in_run * stride..).ok_or(Outside)?;
            // SAFETY: these rows are of this task alone.
            let to = unsafe { part.to.rows(first, n_rows) };
            let is_far = stride == d && part.n_bytes >= FAR_BYTES;
            let ahead = if is_far { BYTES_AHEAD / size_of::<E>() } else { 0 };
            let steps = Steps { rows: self.rows, first: batch * t, t, step: in_run % t };
            self.block(Block { to, from, stride, n_rows, ahead, steps })?;
            first += n_rows;
        }
        Ok(())
    }

    /// Every head of a part at some positions of one sequence.
    fn positions<E: Element>(&self, part: &Heads<E>, batch: usize, range: Range<usize>) -> Result<(), Outside> {
        let ([_, n_head, t, d], [by_batch, by_head, stride]) = (part.dims, part.strides);
        let ahead = if stride == d { BYTES_AHEAD / size_of::<E>() } else { by_head };
        let n_rows = range.len();
        let steps = Steps { rows: self.rows, first: batch * t, t, step: range.start };
        for head in 0..n_head {
            let start = part.start + batch * by_batch + head * by_head + range.start * stride;
            let from = part.from.get(start..).ok_or(Outside)?;
            // SAFETY: these positions are of this task alone, and so are their rows in every head.
            let to = unsafe { part.to.rows((batch * n_head + head) * t + range.start, n_rows) };
            self.block(Block { to, from, stride, n_rows, ahead, steps })?;
        }
        Ok(())
    }

    fn block<E: Element>(&self, block: Block<E>) -> Result<(), Outside> {
        if block.n_rows == 0 {
            return Ok(());
        }
        #[cfg(target_arch = "x86_64")]
        if self.vectors != Vectors::One && super::x86::knows::<E>() {
            return super::x86::turn(self, block);
        }
        let Block { to, from, stride, n_rows, ahead, mut steps } = block;
        let _ = (self.vectors, ahead); // for those who have vectors
        let d = to.len() / n_rows;
        for (i, to) in to.chunks_exact_mut(d).enumerate() {
            let from = from.get(i * stride..i * stride + d).ok_or(Outside)?;
            self.row(to, from, self.angles_of(&steps.next(1)?)?, 0);
        }
        Ok(())
    }

    /// Cosines and sines of the first row, and as far as the other rows need them.
    #[inline(always)]
    pub(super) fn angles_of(&self, run: &Run) -> Result<&'a [f32], Outside> {
        let n_rows = 1 + (run.n - 1) * run.by;
        let (start, n) = (2 * self.n_pairs * run.row, 2 * self.n_pairs * n_rows);
        self.angles.get(start..start + n).ok_or(Outside)
    }

    /// One row from pair `first` on, and what is behind the pairs.
    pub(super) fn row<E: Element>(&self, to: &mut [MaybeUninit<E>], from: &[E], angles: &[f32], first: usize) {
        let n = self.n_pairs;
        let (cos, sin) = angles[..2 * n].split_at(n);
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
