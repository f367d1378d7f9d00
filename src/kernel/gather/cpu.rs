//! The kernels on the CPU: every byte moved once.
//!
//! They are bound by memory bandwidth. Rows are written in parallel and exactly once, into untouched memory. The next
//! row is prefetched while one is written, and an output too large for the caches bypasses them. Every sum is taken in
//! a fixed order, so that the bits do not depend on the number of threads.

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::kernel::core::element::Element;
use crate::kernel::core::parallel::{Out, Outside, in_parallel};
use crate::kernel::core::row_sums::{AddRows, sum_rows};
use crate::kernel::core::rows::{Ids, Rows};
use crate::kernel::core::simd;
use crate::kernel::ids::RowGroups;

/// Positions that are added to the whole batch before the next ones: enough for long runs of stores, few enough that
/// their rows stay cached.
const TILE: usize = 16;

/// Columns of `B × T` with the number of their places: some columns for the whole batch before the next ones, so that
/// their rows of `wpe` are read once and stay in the cache.
struct Tiles {
    columns: Range<usize>,
    batch: usize,
    t: usize,
    tile: Range<usize>,
    row: usize,
    column: usize,
}

impl Tiles {
    fn new(columns: Range<usize>, batch: usize, t: usize) -> Self {
        let tile = columns.start..columns.end.min(columns.start + TILE);
        let columns = if batch == 0 { 0..0 } else { columns };
        Self { column: columns.start, columns, batch, t, tile, row: 0 }
    }
}

impl Iterator for Tiles {
    type Item = (usize, usize);

    #[inline(always)]
    fn next(&mut self) -> Option<(usize, usize)> {
        if self.column >= self.columns.end {
            return None;
        }
        let item = (self.column, self.row * self.t + self.column);
        self.column += 1;
        if self.column == self.tile.end {
            self.row += 1;
            if self.row == self.batch {
                self.row = 0;
                self.tile = self.tile.end..self.columns.end.min(self.tile.end + TILE);
            }
            // Behind the last tile this is the end of the columns.
            self.column = self.tile.start;
        }
        Some(item)
    }
}

/// The position of each row of ids.
#[derive(Clone, Copy)]
pub(super) enum Places<'a> {
    /// Row `n` of `B × T` has position `start + n % t`.
    Counted { start: usize, t: usize },
    /// Row `n` has the position that id `n` states.
    Given(Ids<'a>),
}

/// Computes `out[n] = table[ids[n]]`, in bytes.
pub(super) fn gather(out: &mut [MaybeUninit<u8>], ids: Ids, table: Rows<u8>) -> Result<(), Outside> {
    let n_bytes = out.len();
    let out = Out::new(out, table.width);
    let n_ahead = table.n_ahead();
    in_parallel(ids.len(), n_bytes, &|range| {
        for n in range {
            // SAFETY: the ranges of the tasks do not overlap, so row `n` is this task's alone.
            let to = unsafe { out.row(n) };
            simd::copy(to, table.get(ids.row(n)?)?, table.next(ids.row(n + n_ahead)), out.stream);
        }
        simd::fence(out.stream);
        Ok(())
    })
}

/// Computes `out[n] = wte[ids[n]] + wpe[place of n]`, in bytes: rows have `width` bytes, and `add` adds them.
pub(super) fn gather_add(
    (out, width): (&mut [MaybeUninit<u8>], usize),
    ids: Ids,
    wte: Rows<u8>,
    places: Places,
    wpe: Rows<u8>,
    add: AddRows,
) -> Result<(), Outside> {
    let n_bytes = out.len();
    let out = Out::new(out, width);
    let n_ahead = wte.n_ahead();
    match places {
        Places::Counted { start, t } => {
            let batch = ids.len().checked_div(t).unwrap_or(0);
            in_parallel(t, n_bytes, &|range| {
                let mut ahead = Tiles::new(range.start..t, batch, t).skip(n_ahead);
                for (column, n) in Tiles::new(range, batch, t) {
                    let next = wte.next(ahead.next().ok_or(Outside).and_then(|(_, next)| ids.row(next)));
                    // SAFETY: `n % t` is `column`, and the tasks' ranges of columns do not overlap.
                    let to = unsafe { out.row(n) };
                    add(to, wte.get(ids.row(n)?)?, wpe.get(start + column)?, next, out.stream);
                }
                simd::fence(out.stream);
                Ok(())
            })
        }
        Places::Given(places) => in_parallel(ids.len(), n_bytes, &|range| {
            for n in range {
                let next = wte.next(ids.row(n + n_ahead));
                // SAFETY: the ranges of the tasks do not overlap, so row `n` is this task's alone.
                let to = unsafe { out.row(n) };
                add(to, wte.get(ids.row(n)?)?, wpe.get(places.row(n)?)?, next, out.stream);
            }
            simd::fence(out.stream);
            Ok(())
        }),
    }
}

/// A row that is looked up this often is summed by several tasks, each its own columns.
const HEAVY: usize = 64;
/// Columns of such a task.
const COLUMNS: usize = 256;

/// Computes `out[id] = Σ grad[n]` over all n with ids[n] = id, in the order of [`sum_rows`]. Rows without an id
/// stay as they are (zeros).
///
/// Sums are taken in the wide type and rounded once.
pub(super) fn scatter_add<E: Element>(out: &mut [MaybeUninit<E>], ids: Ids, grad: Rows<E>) -> Result<(), Outside> {
    let groups = RowGroups::of(ids, |_| true);
    let width = grad.width;
    let out = Out::new(out, width);
    if groups.len().checked_sub(1).is_some_and(|last| groups.row(last) >= out.n_rows) {
        return Err(Outside);
    }
    // One task a group, or several if it is long.
    let mut tasks = Vec::new();
    for group in 0..groups.len() {
        if groups.places(group).len() < HEAVY {
            tasks.push((group, 0..width));
        } else {
            tasks.extend((0..width).step_by(COLUMNS).map(|c| (group, c..(c + COLUMNS).min(width))));
        }
    }
    in_parallel(tasks.len(), size_of_val(grad.values), &|range| {
        let (mut sums, mut part) = (vec![E::Wide::default(); width], vec![E::Wide::default(); width]);
        for (group, columns) in &tasks[range] {
            let (sums, part) = (&mut sums[columns.clone()], &mut part[columns.clone()]);
            sum_rows((sums, part), groups.places(*group), |place| Ok(&grad.get(place)?[columns.clone()]))?;
            // SAFETY: every group has a row of its own, and tasks of one group have columns of their own.
            let to = unsafe { out.part(groups.row(*group), columns.clone()) };
            narrow(to, sums);
        }
        Ok(())
    })
}

fn narrow<E: Element>(to: &mut [MaybeUninit<E>], sums: &[E::Wide]) {
    for (to, &sum) in to.iter_mut().zip(sums) {
        to.write(E::narrow(sum));
    }
}

/// Computes `out[start + column] = Σ grad[row * t + column]` over the rows of the batch, in the order of
/// [`sum_rows`]. Other rows stay as they are.
pub(super) fn sum_batch<E: Element>(
    out: &mut [MaybeUninit<E>],
    start: usize,
    t: usize,
    grad: Rows<E>,
) -> Result<(), Outside> {
    let width = grad.width;
    let batch = grad.values.len().checked_div(width * t).unwrap_or(0);
    let out = Out::new(out, width);
    if start.checked_add(t).is_none_or(|end| end > out.n_rows) {
        return Err(Outside);
    }
    in_parallel(t, size_of_val(grad.values), &|range| {
        let (mut sums, mut part) = (vec![E::Wide::default(); width], vec![E::Wide::default(); width]);
        for column in range {
            let places: Vec<usize> = (0..batch).map(|row| row * t + column).collect();
            sum_rows((&mut sums, &mut part), &places, |place| grad.get(place))?;
            // SAFETY: the tasks' ranges of columns do not overlap.
            narrow(unsafe { out.row(start + column) }, &sums);
        }
        Ok(())
    })
}
