//! The loop that both widths of vectors share.

/// Defines the loop for one width. The module that calls it has a type `Vector` of sixteen lanes, `zero`, `load`, `lanes`,
/// `fused` and `halved`. For each number of hidden rows it says how many rows of the table are taken at a time: as many
/// as leave all sums in registers.
macro_rules! loops {
    ($features:literal, $($n_hidden:literal => $n_rows:literal,)+ most $most:literal => $most_rows:literal) => {
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
            for (at, hidden) in hidden.iter().enumerate().take(K::UNIT / LANES) {
                let mut elements = [zero(); R];
                for (element, &unit) in elements.iter_mut().zip(units) {
                    // SAFETY: the caller's promise.
                    *element = unsafe { load::<K>(unit, at) };
                }
                for (n, hidden) in hidden.iter().enumerate() {
                    let hidden = lanes(hidden);
                    for (totals, &element) in totals.iter_mut().zip(&elements) {
                        totals[n] = fused(element, hidden, totals[n]);
                    }
                }
            }
        }
    };
}

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use super::super::kind::Kind;

/// Prefetches into the second-level cache the units that stand `ahead` bytes behind `units`.
#[inline(always)]
pub(super) fn prefetch<K: Kind, const R: usize>(units: &[*const u8; R], ahead: usize) {
    const CACHE_LINE: usize = 64;
    for unit in units {
        for line in (0..K::UNIT_BYTES).step_by(CACHE_LINE) {
            // SAFETY: a prefetch reads nothing, and SSE is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(unit.wrapping_add(ahead + line).cast()) };
        }
    }
}

pub(super) use loops;
