//! Eight pairs at a time, with AVX2 and F16C.

use std::any::TypeId;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use half::{bf16, f16};

use super::super::turn::{Block, Turn};
use super::loops::{Rows, loops, steps};
use crate::kernel::core::element::Element;
use crate::kernel::core::parallel::Outside;

const LANES: usize = 8;

loops!("avx2,f16c", __m256, _mm256_sub_ps, _mm256_add_ps, _mm256_mul_ps, _mm256_xor_ps, turned);

#[target_feature(enable = "avx2")]
#[inline]
fn signs(back: bool) -> __m256 {
    _mm256_set1_ps(if back { -0.0 } else { 0.0 })
}

/// Computes x cos - y sin, y cos + x sin of pairs (x, y).
#[target_feature(enable = "avx2")]
#[inline]
fn turned(xy: __m256, cos: __m256, sin: __m256) -> __m256 {
    let yx = _mm256_permute_ps::<0b10_11_00_01>(xy);
    _mm256_addsub_ps(_mm256_mul_ps(xy, cos), _mm256_mul_ps(yx, sin))
}

/// Repeats each element: the lower half, then the upper half.
#[target_feature(enable = "avx2")]
#[inline]
fn twice(numbers: __m256) -> (__m256, __m256) {
    let low = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    let high = _mm256_add_epi32(low, _mm256_set1_epi32(4));
    (_mm256_permutevar8x32_ps(numbers, low), _mm256_permutevar8x32_ps(numbers, high))
}

/// Loads eight elements, widened.
///
/// # Safety
/// `from` is the start of eight elements of one slice.
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn load<E: Element>(from: *const E) -> __m256 {
    // SAFETY: the caller's promise; no alignment is needed.
    unsafe {
        if TypeId::of::<E>() == TypeId::of::<bf16>() {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
        } else if TypeId::of::<E>() == TypeId::of::<f16>() {
            _mm256_cvtph_ps(_mm_loadu_si128(from.cast()))
        } else {
            _mm256_loadu_ps(from.cast())
        }
    }
}

/// Stores eight values, rounded to nearest even.
///
/// # Safety
/// `to` is the start of eight elements of one slice; E is f32, bf16 or f16.
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn store<E: Element>(to: *mut MaybeUninit<E>, wide: __m256) {
    // SAFETY: the caller's promise; no alignment is needed.
    unsafe {
        if TypeId::of::<E>() == TypeId::of::<bf16>() {
            // A NaN computed from values whose low half is zero has a low half of zero too, so rounding keeps it NaN.
            let bits = _mm256_castps_si256(wide);
            let is_odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), is_odd);
            let upper = _mm256_setr_epi8(
                2, 3, 6, 7, 10, 11, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1, //
                2, 3, 6, 7, 10, 11, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1,
            );
            let packed = _mm256_permute4x64_epi64::<0b10_00>(_mm256_shuffle_epi8(rounded, upper));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
        } else if TypeId::of::<E>() == TypeId::of::<f16>() {
            _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(wide));
        } else {
            _mm256_storeu_ps(to.cast(), wide);
        }
    }
}

/// Stores both, one after the other.
///
/// # Safety
/// As for [`store`], with sixteen elements.
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn store_two<E: Element>(to: *mut MaybeUninit<E>, first: __m256, second: __m256) {
    // SAFETY: the caller's promise.
    unsafe {
        store(to, first);
        store(to.add(LANES), second);
    }
}
