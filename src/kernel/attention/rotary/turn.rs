//! One row turned by its angles, and the block of rows that a task turns.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::angles::AngleRows;
#[cfg(target_arch = "x86_64")]
use super::x86::features::{HasAvx2, HasAvx512, HasBf16};
use crate::kernel::core::element::Element;
use crate::kernel::core::parallel::{Out, Outside};

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
    Eight(HasAvx2),
    #[cfg(target_arch = "x86_64")]
    Sixteen(HasAvx512),
    /// Sixteen, and an instruction that rounds to bf16.
    #[cfg(target_arch = "x86_64")]
    Converting(HasBf16),
}

impl Vectors {
    /// The widest that the CPU has.
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
    /// The row of the first head and position where it goes, and how many rows further on that of the next head lies.
    pub(super) to_row: usize,
    pub(super) to_stride: usize,
    /// From the first row on.
    pub(super) from: &'a [E],
    /// Of head and position.
    pub(super) from_strides: (usize, usize),
    pub(super) d: usize,
    pub(super) n_heads: usize,
    pub(super) n_together: usize,
    pub(super) n_steps: usize,
    /// Meanwhile the rows so many positions before are asked from memory, if the block has so many.
    pub(super) n_ahead: usize,
    /// The first position, counted through all sequences of the batch where each has its own.
    pub(super) first_step: usize,
}

impl<'a, E> Block<'a, E> {
    /// A row and where it goes.
    pub(super) fn row(&self, head: usize, step: usize) -> Result<(&'a mut [MaybeUninit<E>], &'a [E]), Outside> {
        let start = head * self.from_strides.0 + step * self.from_strides.1;
        let from = self.from.get(start..start + self.d).ok_or(Outside)?;
        // SAFETY: the rows of a block are of its task alone.
        Ok((unsafe { self.to.row(self.to_row + head * self.to_stride + step) }, from))
    }
}

impl<'a> Turn<'a> {
    /// What vectors leave of the rows of a position: pairs from `first` on, and what is behind the pairs.
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

    /// Cosines and sines of a position, counted as a block counts them.
    #[inline(always)]
    pub(super) fn angles_of(&self, step: usize) -> Result<&'a [f32], Outside> {
        let row = match self.rows {
            AngleRows::From(start) => start + step,
            AngleRows::Each(rows) => *rows.get(step).ok_or(Outside)? as usize,
        };
        let start = 2 * self.n_pairs * row;
        self.angles.get(start..start + 2 * self.n_pairs).ok_or(Outside)
    }

    /// One row from pair `first` on, and what is behind the pairs.
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
