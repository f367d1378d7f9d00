//! The rotation on the CPU, in blocks: some heads at some positions of one sequence.
//!
//! A row of cosines and sines is as long as a row of f32, and every head reads it. One head at a time would therefore
//! move half as many bytes again. Instead a few heads are turned together, position by position, by angles in
//! registers.
//!
//! A task goes from the end of its memory to the beginning. The system clears new memory when it is first touched, 2 MB
//! at a time and starting from the other end. Touched at the end, it is cleared upwards, which is faster. Stores go
//! through the caches, which hold what the system has just cleared and what attention reads next.

use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::Layout;

use super::angles::AngleRows;
use super::turn::{Block, Turn};
use crate::kernel::core::element::Element;
use crate::kernel::core::parallel::{Out, Outside, in_parallel};

/// Heads turned together. Their rows often lie a power of two apart, where a cache has room for eight lines: three that
/// are read, three that are written, and the angles.
const HEADS: usize = 3;
/// Heads turned together if they lie so close that their rows do not compete for a place in the cache.
const CLOSE_HEADS: usize = 8;
/// How close that is.
const CLOSE_BYTES: usize = 2 << 10;
/// Angles of this size stay in a cache while the heads stream by that all read them.
const ANGLE_BYTES: usize = 512 << 10;
/// Positions of a block of strided heads: few, so that the rows of the next heads are still in a cache when their turn
/// comes.
const STRIDED_STEPS: usize = 128;
/// How many positions ahead strided rows are prefetched: they lie too far apart for the CPU's own prefetching.
const STRIDED_AHEAD: usize = 4;
/// With fewer groups of heads per thread, threads share positions instead.
const GROUPS_PER_THREAD: usize = 2;

/// Queries or keys `[B, H, T, D]`, and their output `[B, H, T, D]` without gaps.
pub(super) struct Heads<'a, E> {
    from: &'a [E],
    start: usize,
    dims: [usize; 4],
    /// Strides of batch, head and position.
    strides: [usize; 3],
    to: Out<'a, E>,
    n_bytes: usize,
    /// How many heads are turned together, and how many such groups a sequence has.
    n_together: usize,
    n_groups: usize,
}

impl<'a, E: Element> Heads<'a, E> {
    /// Takes heads whose layout may be strided, except in the last dimension.
    #[inline]
    pub(super) fn new(from: &'a [E], layout: &Layout, to: &'a mut [MaybeUninit<E>]) -> Result<Self, Outside> {
        let (&[b, h, t, d], &[by_batch, by_head, by_step, 1]) = (layout.dims(), layout.stride()) else {
            return Err(Outside);
        };
        let (start, n_bytes) = (layout.start_offset(), size_of_val(to));
        let are_close = size_of::<E>() * by_head.max(t * d) <= CLOSE_BYTES;
        let n_together = if are_close { CLOSE_HEADS } else { HEADS };
        let (dims, strides) = ([b, h, t, d], [by_batch, by_head, by_step]);
        let n_groups = h.div_ceil(n_together);
        Ok(Self { from, start, dims, strides, to: Out::new(to, d), n_bytes, n_together, n_groups })
    }

    /// Returns whether the heads of all sequences are spaced as those of one sequence are.
    fn are_even(&self) -> bool {
        let ([b, h, ..], [by_batch, by_head, _]) = (self.dims, self.strides);
        b == 1 || by_batch == h * by_head
    }

    /// Treats them as the heads of one sequence.
    fn merge(&mut self) {
        let [b, h, t, d] = self.dims;
        self.dims = [1, b * h, t, d];
        self.n_groups = (b * h).div_ceil(self.n_together);
    }
}

impl<'a> Turn<'a> {
    /// Turns all heads of all parts, which agree in B, T and D.
    pub(super) fn run<E: Element>(&self, parts: &mut [Heads<E>]) -> Result<(), Outside> {
        let counted = matches!(self.rows, AngleRows::From(_));
        if counted && parts.iter().all(Heads::are_even) {
            parts.iter_mut().for_each(Heads::merge);
        }
        let Some(&[b, _, t, d]) = parts.first().map(|part| &part.dims) else { return Ok(()) };
        // One by one: comparing arrays would write them to memory first.
        let agree = |&[b_part, _, t_part, d_part]: &[usize; 4]| b_part == b && t_part == t && d_part == d;
        if d == 0 || 2 * self.n_pairs > d || !parts.iter().all(|part| agree(&part.dims)) {
            return Err(Outside);
        }
        let parts = &*parts;
        let n_bytes = parts.iter().map(|part| part.n_bytes).sum();
        let n_groups = parts.iter().map(|part| b * part.n_groups).sum();
        let angle_bytes = 2 * self.n_pairs * size_of::<f32>();
        let is_strided = parts.iter().any(|part| part.strides[2] != d);
        let stay = t.saturating_mul(angle_bytes) <= ANGLE_BYTES;
        if t == 1 || (stay && !is_strided && n_groups >= GROUPS_PER_THREAD * rayon::current_num_threads()) {
            // Group by group, so that new memory is touched in order.
            return in_parallel(n_groups, n_bytes, &|range| {
                let mut offset = 0;
                parts.iter().try_for_each(|part| {
                    let n = b * part.n_groups;
                    let groups =
                        range.start.clamp(offset, offset + n) - offset..range.end.clamp(offset, offset + n) - offset;
                    offset += n;
                    self.groups(part, groups)
                })
            });
        }
        let n_steps = if is_strided { STRIDED_STEPS } else { (ANGLE_BYTES / angle_bytes.max(1)).max(1) };
        in_parallel(b * t, n_bytes, &|range| {
            let mut first = range.start;
            while first < range.end {
                let (batch, step) = (first / t, first % t);
                let n = n_steps.min(range.end - first).min(t - step);
                parts.iter().try_for_each(|part| self.block(part, batch, 0..part.n_groups, step..step + n))?;
                first += n;
            }
            Ok(())
        })
    }

    /// Turns groups of heads, counted through all sequences, at all positions.
    fn groups<E: Element>(&self, part: &Heads<E>, groups: Range<usize>) -> Result<(), Outside> {
        let mut end = groups.end;
        while end > groups.start {
            let (batch, last) = ((end - 1) / part.n_groups, (end - 1) % part.n_groups);
            let n = (last + 1).min(end - groups.start);
            self.block(part, batch, last + 1 - n..last + 1, 0..part.dims[2])?;
            end -= n;
        }
        Ok(())
    }

    /// Turns groups of heads at some positions of a sequence.
    #[inline]
    fn block<E: Element>(
        &self,
        part: &Heads<E>,
        batch: usize,
        groups: Range<usize>,
        steps: Range<usize>,
    ) -> Result<(), Outside> {
        let ([_, h, t, d], [by_batch, by_head, by_step], n_together) = (part.dims, part.strides, part.n_together);
        let head = groups.start * n_together;
        let start = part.start + batch * by_batch + head * by_head + steps.start * by_step;
        let block = Block {
            to: &part.to,
            to_row: (batch * h + head) * t + steps.start,
            to_stride: t,
            from: part.from.get(start..).ok_or(Outside)?,
            from_strides: (by_head, by_step),
            d,
            n_heads: (groups.len() * n_together).min(h - head),
            n_together,
            n_steps: steps.len(),
            n_ahead: if by_step == d { usize::MAX } else { STRIDED_AHEAD },
            first_step: if matches!(self.rows, AngleRows::From(_)) { steps.start } else { batch * t + steps.start },
        };
        #[cfg(target_arch = "x86_64")]
        if self.vectors != super::turn::Vectors::One && super::x86::knows::<E>() {
            return super::x86::turn(self, &block);
        }
        let _ = (self.vectors, block.n_together, block.n_ahead); // used with vectors only
        for step in 0..block.n_steps {
            self.rest(&block, 0..block.n_heads, step, self.angles_of(block.first_step + step)?, 0)?;
        }
        Ok(())
    }
}
