//! Sums of rows: of two, chosen by dtype, whose loops handle bytes only, so that they are compiled once; and of the rows
//! of a batch.

use std::mem::MaybeUninit;

use candle_core::DType;
use half::{bf16, f16};

use super::element::{Element, numbers_of, numbers_of_mut};
use super::simd;

/// Computes `to = left + right` in bytes, and prefetches `next`, a row that is read soon. Bypasses the caches if
/// `stream`.
pub(crate) type AddRows = fn(to: &mut [MaybeUninit<u8>], left: &[u8], right: &[u8], next: &[u8], stream: bool);

/// Returns the function that adds rows of dtype `from` and rounds once to dtype `to`.
pub(crate) fn add_rows(from: DType, to: DType) -> candle_core::Result<AddRows> {
    match (from, to) {
        (DType::F64, DType::F64) => Some(add::<f64, f64> as AddRows),
        (DType::F32, to) => add_to::<f32>(to),
        (DType::F16, to) => add_to::<f16>(to),
        (DType::BF16, to) => add_to::<bf16>(to),
        _ => None,
    }
    .ok_or_else(|| candle_core::Error::UnsupportedDTypeForOp(to, "gather-add").bt())
}

fn add_to<E: Element<Wide = f32>>(to: DType) -> Option<AddRows> {
    match to {
        DType::F32 => Some(add::<E, f32>),
        DType::F16 => Some(add::<E, f16>),
        DType::BF16 => Some(add::<E, bf16>),
        _ => None,
    }
}

fn add<E: Element, O: Element<Wide = E::Wide>>(
    to: &mut [MaybeUninit<u8>],
    left: &[u8],
    right: &[u8],
    next: &[u8],
    stream: bool,
) {
    simd::add::<E, O>(numbers_of_mut(to), numbers_of(left), numbers_of(right), next, stream);
}

/// Rows that are added one after the other. The sum of more is cut.
pub(crate) const PART: usize = 256;

/// Computes `sums` = Σ `row(place)` over places in order, in the wide type; `part` is scratch of the same length.
///
/// The order of additions is the same on every device: places are cut into parts of [`PART`]; each part is summed from
/// zero, in order; then the sums of the parts are added, in order.
pub(crate) fn sum_rows<'a, E: Element, X>(
    (sums, part): (&mut [E::Wide], &mut [E::Wide]),
    places: &[usize],
    row: impl Fn(usize) -> Result<&'a [E], X>,
) -> Result<(), X> {
    let mut parts = places.chunks(PART);
    let add = |sums: &mut [E::Wide], places: &[usize]| -> Result<(), X> {
        sums.fill(E::Wide::default());
        for &place in places {
            simd::accumulate(sums, row(place)?);
        }
        Ok(())
    };
    add(sums, parts.next().unwrap_or_default())?;
    for places in parts {
        add(part, places)?;
        sums.iter_mut().zip(part.iter()).for_each(|(sum, &part)| *sum += part);
    }
    Ok(())
}
