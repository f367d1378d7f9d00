//! Sixteen lanes in two vectors of AVX2.

use std::arch::x86_64::*;

use super::super::ints::LANES;
use super::super::kind::{Kind, Lanes};
use super::super::plain;
use super::super::rows::{Block, Chunk, last};
use super::ints::Eight;
use super::loops::{Ahead, STEPS, loops, prefetch};

/// The lower eight lanes, and the upper ones.
type Vector = (__m256, __m256);

loops!(
    "avx2,f16c,fma",
    rows: 1 => 4, 2 => 2, 3 => 1, 4 => 1, 5 => 1, most 6 => 1;
    rows in blocks:;
    columns: 1 => 2, 2 => 1, most 3 => 1
);

#[target_feature(enable = "avx2")]
#[inline]
fn zero() -> Vector {
    (_mm256_setzero_ps(), _mm256_setzero_ps())
}

#[target_feature(enable = "avx2")]
#[inline]
fn lanes(lanes: &Lanes) -> Vector {
    let (lower, upper) = lanes.0.split_at(LANES / 2);
    // SAFETY: eight elements each, aligned.
    unsafe { (_mm256_load_ps(lower.as_ptr()), _mm256_load_ps(upper.as_ptr())) }
}

/// # Safety
/// As [`Kind::eight`].
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn load<K: Kind>(unit: *const u8, scales: &K::Scales, at: usize) -> Vector {
    // SAFETY: the caller's promise.
    unsafe { (K::eight(unit, scales, 2 * at), K::eight(unit, scales, 2 * at + 1)) }
}

/// # Safety
/// As [`Kind::eight`].
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn scales<K: Kind>(unit: *const u8) -> K::Scales {
    // SAFETY: the caller's promise.
    unsafe { K::scales::<Eight>(std::slice::from_raw_parts(unit, K::UNIT_BYTES)) }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn fused(x: Vector, y: Vector, sum: Vector) -> Vector {
    (_mm256_fmadd_ps(x.0, y.0, sum.0), _mm256_fmadd_ps(x.1, y.1, sum.1))
}

/// Adds lanes 8 apart.
#[target_feature(enable = "avx2")]
#[inline]
fn halved(x: Vector) -> __m256 {
    _mm256_add_ps(x.0, x.1)
}

#[target_feature(enable = "avx2")]
#[inline]
fn every(x: f32) -> Vector {
    (_mm256_set1_ps(x), _mm256_set1_ps(x))
}

/// # Safety
/// `from` is the start of sixteen elements of one slice.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn sums_at(from: *const f32) -> Vector {
    // SAFETY: the caller's promise; no alignment is needed.
    unsafe { (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(LANES / 2))) }
}

/// # Safety
/// `to` is the start of sixteen elements of one slice.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn put_sums(to: *mut f32, sums: Vector) {
    // SAFETY: the caller's promise; no alignment is needed.
    unsafe {
        _mm256_storeu_ps(to, sums.0);
        _mm256_storeu_ps(to.add(LANES / 2), sums.1);
    }
}
