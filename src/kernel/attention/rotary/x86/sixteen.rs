//! Sixteen pairs at a time, with AVX-512.

use std::any::TypeId;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use half::{bf16, f16};

use super::super::turn::{Block, Turn};
use super::loops::{Rows, loops, steps};
use crate::kernel::core::element::Element;
use crate::kernel::core::parallel::Outside;

pub(super) const LANES: usize = 16;

/// The upper word of every element, as a mask of words.
const UPPER: u32 = 0xAAAA_AAAA;
/// Where each word comes from when halves are widened, and when the upper words are packed.
const EACH_TWICE: [u16; 32] = words_from(1, 0);
const UPPER_ONES: [u16; 32] = words_from(4, 1);

/// Returns `[first, first + step / 2, ..]`, rounded down, among the words of a vector.
const fn words_from(step: u16, first: u16) -> [u16; 32] {
    let mut from = [0; 32];
    let mut i = 0;
    while i < 32 {
        from[i as usize] = (first + i * step / 2) % 32;
        i += 1;
    }
    from
}

#[target_feature(enable = "avx512f")]
#[inline]
fn words(words: &[u16; 32]) -> __m512i {
    // SAFETY: an array of 64 bytes; no alignment is needed.
    unsafe { _mm512_loadu_si512(std::ptr::from_ref(words).cast()) }
}

loops!("avx512f,avx512bw,avx2,f16c", __m512, _mm512_sub_ps, _mm512_add_ps, _mm512_mul_ps, flipped, turned);

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn signs(back: bool) -> __m512 {
    _mm512_set1_ps(if back { -0.0 } else { 0.0 })
}

/// Flips signs. The exclusive or of floats needs AVX-512DQ; that of integers does not.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn flipped(numbers: __m512, sign: __m512) -> __m512 {
    _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(numbers), _mm512_castps_si512(sign)))
}

/// Computes x cos - y sin, y cos + x sin of pairs (x, y).
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn turned(xy: __m512, cos: __m512, sin: __m512) -> __m512 {
    let (same, other) = (_mm512_mul_ps(xy, cos), _mm512_mul_ps(_mm512_permute_ps::<0b10_11_00_01>(xy), sin));
    _mm512_mask_sub_ps(_mm512_add_ps(same, other), 0x5555, same, other)
}

/// Repeats each element: the lower half, then the upper half.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn twice(numbers: __m512) -> (__m512, __m512) {
    let low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    (_mm512_permutexvar_ps(low, numbers), _mm512_permutexvar_ps(high, numbers))
}

/// Loads sixteen elements, widened.
///
/// # Safety
/// `from` is the start of sixteen elements of one slice.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) unsafe fn load<E: Element>(from: *const E) -> __m512 {
    // SAFETY: the caller's promise; no alignment is needed.
    unsafe {
        if TypeId::of::<E>() == TypeId::of::<bf16>() {
            let halves = _mm512_castsi256_si512(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(UPPER, words(&EACH_TWICE), halves))
        } else if TypeId::of::<E>() == TypeId::of::<f16>() {
            _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
        } else {
            _mm512_loadu_ps(from.cast())
        }
    }
}

/// Stores sixteen values, rounded to nearest even.
///
/// # Safety
/// `to` is the start of sixteen elements of one slice; E is f32, bf16 or f16.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) unsafe fn store<E: Element>(to: *mut MaybeUninit<E>, wide: __m512) {
    // SAFETY: the caller's promise; no alignment is needed.
    unsafe {
        if TypeId::of::<E>() == TypeId::of::<bf16>() {
            // As in `eight.rs`: a NaN has a low half of zero.
            let bits = _mm512_castps_si512(wide);
            let is_odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(1 << 16));
            let (down, up) = (_mm512_set1_epi32(0x7FFF), _mm512_set1_epi32(0x8000));
            let rounded = _mm512_add_epi32(bits, _mm512_mask_blend_epi32(is_odd, down, up));
            let packed = _mm512_permutexvar_epi16(words(&UPPER_ONES), rounded);
            _mm256_storeu_si256(to.cast(), _mm512_castsi512_si256(packed));
        } else if TypeId::of::<E>() == TypeId::of::<f16>() {
            _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(wide));
        } else {
            _mm512_storeu_ps(to.cast(), wide);
        }
    }
}

/// Stores both, one after the other.
///
/// # Safety
/// As for [`store`], with 32 elements.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn store_two<E: Element>(to: *mut MaybeUninit<E>, first: __m512, second: __m512) {
    // SAFETY: the caller's promise.
    unsafe {
        store(to, first);
        store(to.add(LANES), second);
    }
}
