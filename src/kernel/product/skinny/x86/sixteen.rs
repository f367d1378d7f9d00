//! Sixteen lanes in one vector of AVX-512.

use std::arch::x86_64::*;

use super::super::ints::LANES;
use super::super::kind::{Kind, Lanes};
use super::super::plain;
use super::super::rows::{Block, Chunk, last};
use super::ints::Sixteen;
use super::loops::{Ahead, STEPS, loops, prefetch};

type Vector = __m512;

loops!(
    "avx512f,avx512vl,avx2,f16c,fma",
    rows: 1 => 8, 2 => 8, 3 => 6, 4 => 6, 5 => 4, 6 => 4, 7 => 3, most 8 => 3;
    rows in blocks: 2 => 6, 3 => 5, 4 => 4;
    columns: 1 => 4, 2 => 4, 3 => 2, 4 => 2, 5 => 2, 6 => 2, 7 => 1, most 8 => 1
);

#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
fn zero() -> Vector {
    _mm512_setzero_ps()
}

#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
fn lanes(lanes: &Lanes) -> Vector {
    // SAFETY: sixteen elements, aligned.
    unsafe { _mm512_load_ps(lanes.0.as_ptr()) }
}

/// # Safety
/// As [`Kind::sixteen`].
#[target_feature(enable = "avx512f,avx512vl,avx2,f16c")]
#[inline]
unsafe fn load<K: Kind>(unit: *const u8, scales: &K::Scales, at: usize) -> Vector {
    // SAFETY: the caller's promise.
    unsafe { K::sixteen(unit, scales, at) }
}

/// # Safety
/// As [`Kind::sixteen`].
#[target_feature(enable = "avx512f,avx512vl,avx2,f16c")]
#[inline]
unsafe fn scales<K: Kind>(unit: *const u8) -> K::Scales {
    // SAFETY: the caller's promise.
    unsafe { K::scales::<Sixteen>(std::slice::from_raw_parts(unit, K::UNIT_BYTES)) }
}

#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
fn fused(x: Vector, y: Vector, sum: Vector) -> Vector {
    _mm512_fmadd_ps(x, y, sum)
}

/// Adds lanes 8 apart.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
fn halved(x: Vector) -> __m256 {
    let upper = _mm512_castpd_ps(_mm512_castpd256_pd512(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(x))));
    _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_castps512_ps256(upper))
}

#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
fn every(x: f32) -> Vector {
    _mm512_set1_ps(x)
}

/// # Safety
/// `from` is the start of sixteen elements of one slice.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
unsafe fn sums_at(from: *const f32) -> Vector {
    // SAFETY: the caller's promise; no alignment is needed.
    unsafe { _mm512_loadu_ps(from) }
}

/// # Safety
/// `to` is the start of sixteen elements of one slice.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
unsafe fn put_sums(to: *mut f32, sums: Vector) {
    // SAFETY: the caller's promise; no alignment is needed.
    unsafe { _mm512_storeu_ps(to, sums) }
}
