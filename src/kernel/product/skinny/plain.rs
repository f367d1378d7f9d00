//! The loop without intrinsics, which the compiler vectorises.

use super::ints::LANES;
use super::kind::{Kind, Lanes};
use super::rows::{Block, Chunk, last};
use crate::kernel::product::exp::mul_add;

/// Hidden rows that share the conversion of a table's row.
pub(super) const TOGETHER: usize = 4;

/// Writes the products of the chunk's rows with a group of hidden rows, those of the first hidden row first.
#[inline(always)]
pub(super) fn products<K: Kind, const FUSED: bool>(
    chunk: &Chunk<'_>,
    n_hidden: usize,
    hidden: &[Lanes],
    sums: &mut [f32],
) {
    match n_hidden {
        1 => each_row::<K, FUSED, 1>(chunk, hidden, sums),
        2 => each_row::<K, FUSED, 2>(chunk, hidden, sums),
        3 => each_row::<K, FUSED, 3>(chunk, hidden, sums),
        _ => each_row::<K, FUSED, TOGETHER>(chunk, hidden, sums),
    }
}

#[inline(always)]
fn each_row<K: Kind, const FUSED: bool, const N: usize>(chunk: &Chunk<'_>, hidden: &[Lanes], sums: &mut [f32]) {
    let (hidden, _) = hidden.as_chunks::<N>();
    for at in 0..chunk.n_rows {
        let [row] = chunk.some::<1>(at);
        let mut lanes = [[0.0; LANES]; N];
        let mut units = hidden.chunks(K::UNIT / LANES);
        for unit in row.chunks_exact(K::UNIT_BYTES) {
            multiply::<K, FUSED, N>(unit, units.next(), &mut lanes);
        }
        if chunk.units::<K>().1 {
            multiply::<K, FUSED, N>(&last::<K>(row), units.next(), &mut lanes);
        }
        for (n, lanes) in lanes.iter().enumerate() {
            sums[n * chunk.n_rows + at] = sum(*lanes);
        }
    }
}

#[inline(always)]
fn multiply<K: Kind, const FUSED: bool, const N: usize>(
    unit: &[u8],
    hidden: Option<&[[Lanes; N]]>,
    lanes: &mut [[f32; LANES]; N],
) {
    let scales = scales::<K>(unit);
    for (at, hidden) in hidden.into_iter().flatten().enumerate() {
        let elements = K::plain(unit, &scales, at);
        for (lanes, hidden) in lanes.iter_mut().zip(hidden) {
            for lane in 0..LANES {
                lanes[lane] = mul_add::<FUSED>(elements[lane], hidden.0[lane], lanes[lane]);
            }
        }
    }
}

#[inline(always)]
fn scales<K: Kind>(unit: &[u8]) -> K::Scales {
    // SAFETY: plain integers need nothing.
    unsafe { K::scales::<[i32; LANES]>(unit) }
}

/// Adds lanes 8, 4, 2 and 1 apart.
fn sum(mut lanes: [f32; LANES]) -> f32 {
    for apart in [8, 4, 2, 1] {
        for lane in 0..apart {
            lanes[lane] += lanes[lane + apart];
        }
    }
    lanes[0]
}

/// Adds to the sums of a group of hidden rows the products with the block's columns from `from` on.
#[inline(always)]
pub(super) fn columns<K: Kind, const FUSED: bool>(
    block: &Block<'_>,
    n_hidden: usize,
    hidden: &[f32],
    sums: &mut [f32],
    from: usize,
) {
    let n_columns = block.columns.len();
    if from == n_columns {
        return;
    }
    for (row, hidden) in block.taken.clone().zip(hidden.chunks(n_hidden)) {
        let row = block.row::<K>(row, from);
        for (hidden, sums) in hidden.iter().zip(sums.chunks_mut(n_columns)) {
            let units = row.chunks_exact(K::UNIT_BYTES);
            let last = last::<K>(units.remainder());
            let units = units.chain([&last[..K::UNIT_BYTES]]);
            for (unit, sums) in units.zip(sums[from..].chunks_mut(K::UNIT)) {
                let scales = scales::<K>(unit);
                for (at, sums) in sums.chunks_mut(LANES).enumerate() {
                    let elements = K::plain(unit, &scales, at);
                    sums.iter_mut().zip(elements).for_each(|(sum, x)| *sum = mul_add::<FUSED>(x, *hidden, *sum));
                }
            }
        }
    }
}
