//! Sums of two rows, chosen by dtype. Loops over rows handle bytes only, so that they are compiled once.

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
