//! The loop that both widths of vectors share.

/// Defines the loops for one width.
///
/// The module that calls it has a type `Vector` of sixteen lanes, `zero`, `load`, `lanes`, `fused` and `halved`, and
/// `every`, `sums_at` and `put_sums` for sums by columns. For each number of hidden rows it says how many rows of the
/// table are taken at a time: as many as leave all sums in registers.
macro_rules! loops {
    (
        $features:literal,
        rows: $($n_hidden:literal => $n_rows:literal,)+ most $most:literal => $most_rows:literal;
        rows in blocks: $($block_hidden:literal => $block_rows:literal),*;
        columns: $($columns_hidden:literal => $n_units:literal,)+ most $columns_most:literal => $most_units:literal
    ) => {
        /// Hidden rows that are multiplied together.
        pub(in super::super) const TOGETHER: usize = $most;

        /// Writes the products of the chunk's rows with a group of hidden rows, those of the first hidden row first.
        #[target_feature(enable = $features)]
        pub(in super::super) fn products<K: Kind>(
            chunk: &Chunk<'_>,
            n_hidden: usize,
            hidden: &[Lanes],
            sums: &mut [f32],
        ) {
            match n_hidden {
                // Of rows in halves more are read at once than the core's prefetchers follow.
                1 if !K::IS_WHOLE && K::UNIT_BYTES < 128 => each_block::<K, 1, 1>(chunk, hidden, sums),
                2 if !K::IS_WHOLE && K::UNIT_BYTES < 128 => each_block::<K, 2, 2>(chunk, hidden, sums),
                // The scales of blocks need registers too.
                $($block_hidden if K::IS_WHOLE => each_block::<K, $block_rows, $block_hidden>(chunk, hidden, sums),)*
                $($n_hidden => each_block::<K, $n_rows, $n_hidden>(chunk, hidden, sums),)+
                _ => each_block::<K, $most_rows, $most>(chunk, hidden, sums),
            }
        }

        /// `R` rows of the table, `N` hidden rows.
        #[target_feature(enable = $features)]
        #[inline]
        fn each_block<K: Kind, const R: usize, const N: usize>(chunk: &Chunk<'_>, hidden: &[Lanes], sums: &mut [f32]) {
            let (steps, _) = hidden.as_chunks::<N>();
            let (n_whole, has_last) = chunk.units::<K>();
            let (whole, rest) = steps.split_at(n_whole * (K::UNIT / LANES));
            for first in (0..chunk.n_rows).step_by(R) {
                let rows = chunk.some::<R>(first);
                let mut totals = [[zero(); N]; R];
                let (mut wait, every) = chunk.turn;
                for (unit, hidden) in whole.chunks_exact(K::UNIT / LANES).enumerate() {
                    let units = rows.map(|row| row.as_ptr().wrapping_add(unit * K::UNIT_BYTES));
                    if let Some(ahead) = chunk.ahead {
                        if wait == 0 {
                            wait = every;
                            prefetch::<K, R>(&units, ahead);
                        }
                        wait -= 1;
                    }
                    // SAFETY: `whole` has steps for `n_whole` units, which every row has.
                    unsafe { multiply::<K, R, N>(&units, hidden, &mut totals) };
                }
                if has_last {
                    let lasts = rows.map(last::<K>);
                    // SAFETY: the copies are as long as a unit.
                    unsafe { multiply::<K, R, N>(&lasts.each_ref().map(|unit| unit.as_ptr()), rest, &mut totals) };
                }
                let n_rows = chunk.n_rows;
                for start in (0..R * N).step_by(8) {
                    let mut eight = [_mm256_setzero_ps(); 8];
                    for i in start..(start + 8).min(R * N) {
                        eight[i - start] = halved(totals[i / N][i % N]);
                    }
                    let found = super::sums::sums(eight);
                    for i in start..(start + 8).min(R * N) {
                        if first + i / N < n_rows {
                            sums[i % N * n_rows + first + i / N] = found[i - start];
                        }
                    }
                }
            }
        }

        /// Adds the products of one unit of each row.
        ///
        /// # Safety
        /// Each of `units` is the start of a unit inside one slice.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn multiply<K: Kind, const R: usize, const N: usize>(
            units: &[*const u8; R],
            hidden: &[[Lanes; N]],
            totals: &mut [[Vector; N]; R],
        ) {
            let mut all_scales = [K::Scales::default(); R];
            for (to, &unit) in all_scales.iter_mut().zip(units) {
                // SAFETY: the caller's promise.
                *to = unsafe { scales::<K>(unit) };
            }
            for (at, hidden) in hidden.iter().enumerate().take(K::UNIT / LANES) {
                let mut elements = [zero(); R];
                for ((element, &unit), scales) in elements.iter_mut().zip(units).zip(&all_scales) {
                    // SAFETY: the caller's promise.
                    *element = unsafe { load::<K>(unit, scales, at) };
                }
                for (n, hidden) in hidden.iter().enumerate() {
                    let hidden = lanes(hidden);
                    for (totals, &element) in totals.iter_mut().zip(&elements) {
                        totals[n] = fused(element, hidden, totals[n]);
                    }
                }
            }
        }

        /// Hidden rows that are multiplied together by columns.
        pub(in super::super) const COLUMNS_TOGETHER: usize = $columns_most;

        /// Adds to the sums of a group of hidden rows the products with the block's columns.
        #[target_feature(enable = $features)]
        pub(in super::super) fn columns<K: Kind>(
            block: &Block<'_>,
            n_hidden: usize,
            hidden: &[f32],
            sums: &mut [f32],
        ) {
            let done = match n_hidden {
                $($columns_hidden => tiles::<K, $n_units, $columns_hidden>(block, hidden, sums),)+
                _ => tiles::<K, $most_units, $columns_most>(block, hidden, sums),
            };
            plain::columns::<K, true>(block, n_hidden, hidden, sums, done);
        }

        /// Takes tiles of `U` units of columns, `N` hidden rows, then those of one unit, and returns how many columns
        /// these were.
        #[target_feature(enable = $features)]
        #[inline]
        fn tiles<K: Kind, const U: usize, const N: usize>(
            block: &Block<'_>,
            hidden: &[f32],
            sums: &mut [f32],
        ) -> usize {
            let mut ahead = Ahead::new(block);
            let done = each_tile::<K, U, N>(block, hidden, sums, 0, &mut ahead);
            each_tile::<K, 1, N>(block, hidden, sums, done, &mut ahead)
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn each_tile<K: Kind, const U: usize, const N: usize>(
            block: &Block<'_>,
            hidden: &[f32],
            sums: &mut [f32],
            from: usize,
            ahead: &mut Ahead,
        ) -> usize {
            let (hidden, n_columns) = (hidden.as_chunks::<N>().0, block.columns.len());
            let n_tiled = n_columns - (n_columns - from) % (U * K::UNIT);
            assert!(sums.len() >= N * n_columns);
            for column in (from..n_tiled).step_by(U * K::UNIT) {
                let mut totals = [[[zero(); N]; STEPS]; U];
                for (unit, totals) in totals.iter_mut().enumerate() {
                    for (at, totals) in totals.iter_mut().enumerate() {
                        for (n, total) in totals.iter_mut().enumerate() {
                            let column = column + unit * K::UNIT + at * LANES;
                            // SAFETY: sixteen sums of the tile's columns, which are inside, as just asserted.
                            *total = unsafe { sums_at(sums.as_ptr().add(n * n_columns + column)) };
                        }
                    }
                }
                for (row, hidden) in block.taken.clone().zip(hidden) {
                    ahead.step(U * K::UNIT_BYTES);
                    let from = block.row::<K>(row, column)[..U * K::UNIT_BYTES].as_ptr();
                    for (unit, totals) in totals.iter_mut().enumerate() {
                        // SAFETY: the row has `U` units here, as just cut.
                        let (unit, scales) = unsafe {
                            let unit = from.add(unit * K::UNIT_BYTES);
                            (unit, scales::<K>(unit))
                        };
                        for (at, totals) in totals.iter_mut().enumerate() {
                            // SAFETY: as above.
                            let elements = unsafe { load::<K>(unit, &scales, at) };
                            for (total, &hidden) in totals.iter_mut().zip(hidden) {
                                *total = fused(elements, every(hidden), *total);
                            }
                        }
                    }
                }
                for (unit, totals) in totals.iter().enumerate() {
                    for (at, totals) in totals.iter().enumerate() {
                        for (n, &total) in totals.iter().enumerate() {
                            let column = column + unit * K::UNIT + at * LANES;
                            // SAFETY: as where they were read.
                            unsafe { put_sums(sums.as_mut_ptr().add(n * n_columns + column), total) };
                        }
                    }
                }
            }
            n_tiled
        }
    };
}

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use super::super::kind::Kind;
use super::super::rows::Block;

/// Prefetches into the second-level cache the units that stand `ahead` bytes behind `units`.
#[inline(always)]
pub(super) fn prefetch<K: Kind, const R: usize>(units: &[*const u8; R], ahead: usize) {
    for unit in units {
        for line in (0..K::UNIT_BYTES).step_by(CACHE_LINE) {
            // SAFETY: a prefetch reads nothing, and SSE is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(unit.wrapping_add(ahead + line).cast()) };
        }
    }
}

pub(super) use loops;

/// Vectors of a unit of columns.
pub(super) const STEPS: usize = 2;
const CACHE_LINE: usize = 64;

/// Prefetches a block's next rows line by line, as they lie in memory.
pub(super) struct Ahead {
    /// The start of the row, how far apart rows are, how many are left.
    row: *const u8,
    stride: usize,
    n_left: usize,
    n_bytes: usize,
    done: usize,
}

impl Ahead {
    #[inline(always)]
    pub(super) fn new(block: &Block<'_>) -> Self {
        let (rows, from, n_bytes) = block.next.clone();
        let row = match rows.is_empty() {
            true => std::ptr::null(),
            false => block.rows.row(rows.start)[from..].as_ptr(),
        };
        Self { row, stride: block.rows.stride, n_left: rows.len(), n_bytes, done: 0 }
    }

    /// Prefetches so many bytes.
    #[inline(always)]
    pub(super) fn step(&mut self, n_bytes: usize) {
        if self.n_left == 0 {
            return;
        }
        for line in (0..n_bytes).step_by(CACHE_LINE) {
            // SAFETY: a prefetch reads nothing, and SSE is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.row.wrapping_add(self.done + line).cast()) };
        }
        self.done += n_bytes;
        if self.done >= self.n_bytes {
            self.done = 0;
            self.row = self.row.wrapping_add(self.stride);
            self.n_left -= 1;
        }
    }
}
