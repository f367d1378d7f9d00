//! The loops that all widths of vectors share.

use std::mem::MaybeUninit;

use super::super::turn::{Block, Turn};
use crate::kernel::core::element::Element;
use crate::kernel::core::parallel::Outside;
use crate::kernel::core::simd::prefetch;

/// The rows of one position: their input and output, and the cosines and sines of the pairs that vectors take.
pub(super) struct Rows<E> {
    pub(super) to: *mut MaybeUninit<E>,
    pub(super) from: *const E,
    pub(super) n_rows: usize,
    /// How far apart rows are in the output and in the input.
    pub(super) strides: (usize, usize),
    pub(super) cos: *const f32,
    pub(super) sin: *const f32,
    /// Where the halves begin. Swapped, they are turned back.
    pub(super) halves: (usize, usize),
    pub(super) n_whole: usize,
}

/// Rows of a single position that one vector of angles turns before the next: few, so that they stay in the first-level
/// cache.
const SAME_ROWS: usize = 32;

/// Calls `turn_rows` for all positions, to turn the first `n_whole` pairs of their rows, and turns the rest itself.
#[inline(always)]
pub(super) fn steps<E: Element>(
    turn: &Turn,
    block: &Block<E>,
    pairs_at_a_time: usize,
    turn_rows: impl Fn(&Rows<E>),
) -> Result<(), Outside> {
    let &Block { to, to_row, to_stride, from, from_strides: (by_head, by_step), d, .. } = block;
    let &Block { n_heads, n_together, n_steps, n_ahead, first_step, .. } = block;
    let (Some(last_head), Some(last_step)) = (n_heads.checked_sub(1), n_steps.checked_sub(1)) else { return Ok(()) };
    let n_pairs = turn.n_pairs;
    if last_head * by_head + last_step * by_step + d > from.len() || 2 * n_pairs > d {
        return Err(Outside);
    }
    // Panics unless the last row is inside too.
    let (to_start, _) = (to.at(to_row), to.at(to_row + last_head * to_stride + last_step));
    let n_whole = n_pairs / pairs_at_a_time * pairs_at_a_time;
    let halves = if turn.back { (n_pairs, 0) } else { (0, n_pairs) };
    let n_together = if n_steps == 1 { SAME_ROWS } else { n_together };
    let mut head = n_heads;
    while head > 0 {
        let n_rows = n_together.min(head);
        head -= n_rows;
        for step in (0..n_steps).rev() {
            let angles = turn.angles_of(first_step + step)?;
            if let Some(next) = step.checked_sub(n_ahead) {
                for head in head..head + n_rows {
                    prefetch(&from[head * by_head + next * by_step..][..d]);
                }
            }
            // SAFETY: the rows are inside both arrays, as just checked; sines follow the cosines.
            turn_rows(&unsafe {
                let to = to_start.add((head * to_stride + step) * d);
                let from = from.as_ptr().add(head * by_head + step * by_step);
                let (cos, sin) = (angles.as_ptr(), angles.as_ptr().add(n_pairs));
                Rows { to, from, n_rows, strides: (to_stride * d, by_head), cos, sin, halves, n_whole }
            });
            if 2 * n_whole < d {
                turn.rest(block, head..head + n_rows, step, angles, n_whole)?;
            }
        }
    }
    Ok(())
}

/// Defines the loops for one width of vector. The module that calls it has `load`, `store`, `store_two`, `signs`,
/// `twice` and `LANES`.
macro_rules! loops {
    ($features:literal, $vector:ty, $sub:ident, $add:ident, $mul:ident, $xor:ident, $turned:ident) => {
        #[target_feature(enable = $features)]
        pub(super) fn turn<E: Element>(turn: &Turn, block: &Block<E>) -> Result<(), Outside> {
            let sign = signs(turn.back);
            match turn.interleaved {
                true => steps(turn, block, LANES, |rows| neighbours(rows, sign)),
                false => steps(turn, block, LANES, |rows| halves(rows)),
            }
        }

        /// Turns pairs (i, i + n).
        #[target_feature(enable = $features)]
        #[inline]
        fn halves<E: Element>(rows: &Rows<E>) {
            let &Rows { to, from, n_rows, strides, cos, sin, halves: (first, second), n_whole } = rows;
            let mut i = 0;
            while i < n_whole {
                // SAFETY: i + LANES, or i + 2 LANES in the second branch, is at most n_whole, which is at most the
                // number of pairs. A row has twice as many elements.
                unsafe {
                    let (cos_0, sin_0) = (load(cos.add(i)), load(sin.add(i)));
                    if n_whole - i < 2 * LANES {
                        for row in (0..n_rows).rev() {
                            let (from, to) = (from.add(row * strides.1 + i), to.add(row * strides.0 + i));
                            let (x, y) = (load(from.add(first)), load(from.add(second)));
                            store(to.add(first), $sub($mul(x, cos_0), $mul(y, sin_0)));
                            store(to.add(second), $add($mul(y, cos_0), $mul(x, sin_0)));
                        }
                    } else {
                        let (cos_1, sin_1) = (load(cos.add(i + LANES)), load(sin.add(i + LANES)));
                        for row in (0..n_rows).rev() {
                            let (from, to) = (from.add(row * strides.1 + i), to.add(row * strides.0 + i));
                            let (x_0, y_0) = (load(from.add(first)), load(from.add(second)));
                            let (x_1, y_1) = (load(from.add(first + LANES)), load(from.add(second + LANES)));
                            let new_x_0 = $sub($mul(x_0, cos_0), $mul(y_0, sin_0));
                            let new_x_1 = $sub($mul(x_1, cos_1), $mul(y_1, sin_1));
                            store_two(to.add(first), new_x_0, new_x_1);
                            let new_y_0 = $add($mul(y_0, cos_0), $mul(x_0, sin_0));
                            let new_y_1 = $add($mul(y_1, cos_1), $mul(x_1, sin_1));
                            store_two(to.add(second), new_y_0, new_y_1);
                        }
                    }
                }
                i += 2 * LANES;
            }
        }

        /// Turns pairs (2i, 2i + 1).
        #[target_feature(enable = $features)]
        #[inline]
        fn neighbours<E: Element>(rows: &Rows<E>, sign: $vector) {
            for i in (0..rows.n_whole).step_by(LANES) {
                // SAFETY: i + LANES is at most n_whole, which is at most the number of pairs. A row has twice as many
                // elements.
                unsafe {
                    let (cos, sin) = (load(rows.cos.add(i)), $xor(load(rows.sin.add(i)), sign));
                    let ((low_cos, high_cos), (low_sin, high_sin)) = (twice(cos), twice(sin));
                    for row in (0..rows.n_rows).rev() {
                        let from = rows.from.add(row * rows.strides.1 + 2 * i);
                        let to = rows.to.add(row * rows.strides.0 + 2 * i);
                        let low = $turned(load(from), low_cos, low_sin);
                        store_two(to, low, $turned(load(from.add(LANES)), high_cos, high_sin));
                    }
                }
            }
        }
    };
}

pub(super) use loops;
