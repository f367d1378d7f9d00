//! One row turned by its angles, and the block of rows that a task turns.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::angles::AngleRows;
#[cfg(target_arch = "x86_64")]
use super::x86::features::{HasAvx2, HasAvx512, HasBf16};
use crate::kernel::core::element::Element;
use crate::kernel::core::parallel::{Out, Outside};

/// How rows are turned: by which angles, and where their pairs lie.
pub(super) struct Turn<'a> {
    /// `[P, 2, n_pairs]`, cosines and sines. None is NaN, which the rounding of bf16 relies on.
    pub(super) angles: &'a [f32],
    pub(super) n_pairs: usize,
    pub(super) rows: &'a AngleRows,
    pub(super) interleaved: bool,
    pub(super) back: bool,
    pub(super) vectors: Vectors,
}

/// How many pairs are turned at a time, by the instructions that the CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vectors {
    One,
    #[cfg(target_arch = "x86_64")]
    Eight(HasAvx2),
    #[cfg(target_arch = "x86_64")]
    Sixteen(HasAvx512),
    /// Sixteen, with an instruction that rounds to bf16.
    #[cfg(target_arch = "x86_64")]
    Converting(HasBf16),
}

impl Vectors {
    /// Returns the widest that the CPU has.
    pub(super) fn widest() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let narrower = || HasAvx512::seen().map(Self::Sixteen).or_else(|| HasAvx2::seen().map(Self::Eight));
            HasBf16::seen().map(Self::Converting).or_else(narrower).unwrap_or(Self::One)
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::One
    }
}

/// Some heads at some positions of one sequence.
pub(super) struct Block<'a, E> {
    pub(super) to: &'a Out<'a, E>,
    /// The output row of the first head and position, and the distance in rows to that of the next head.
    pub(super) to_row: usize,
    pub(super) to_stride: usize,
    /// The input from the first row on.
    pub(super) from: &'a [E],
    /// Strides of head and position.
    pub(super) from_strides: (usize, usize),
    pub(super) d: usize,
    pub(super) n_heads: usize,
    pub(super) n_together: usize,
    pub(super) n_steps: usize,
    /// How many positions ahead rows are prefetched, if the block has so many.
    pub(super) n_ahead: usize,
    /// The first position, counted through all sequences of the batch if each has its own.
    pub(super) first_step: usize,
}

impl<'a, E> Block<'a, E> {
    /// Returns a row of the output and that of the input.
    pub(super) fn row(&self, head: usize, step: usize) -> Result<(&'a mut [MaybeUninit<E>], &'a [E]), Outside> {
        let start = head * self.from_strides.0 + step * self.from_strides.1;
        let from = self.from.get(start..start + self.d).ok_or(Outside)?;
        // SAFETY: the rows of a block belong to its task alone.
        Ok((unsafe { self.to.row(self.to_row + head * self.to_stride + step) }, from))
    }
}

impl<'a> Turn<'a> {
    /// Turns what vectors leave of the rows of a position: pairs from `first` on, and the elements after the pairs.
    pub(super) fn rest<E: Element>(
        &self,
        block: &Block<E>,
        mut heads: Range<usize>,
        step: usize,
        angles: &[f32],
        first: usize,
    ) -> Result<(), Outside> {
        heads.try_for_each(|head| {
            let (to, from) = block.row(head, step)?;
            self.row(to, from, angles, first);
            Ok(())
        })
    }

    /// Returns cosines and sines of a position, counted as a block counts them.
    #[inline(always)]
    pub(super) fn angles_of(&self, step: usize) -> Result<&'a [f32], Outside> {
        let row = match self.rows {
            AngleRows::From(start) => start + step,
            AngleRows::Each(rows) => *rows.get(step).ok_or(Outside)? as usize,
        };
        let start = 2 * self.n_pairs * row;
        self.angles.get(start..start + 2 * self.n_pairs).ok_or(Outside)
    }

    /// Turns one row from pair `first` on, and copies the elements after the pairs.
    fn row<E: Element>(&self, to: &mut [MaybeUninit<E>], from: &[E], angles: &[f32], first: usize) {
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
