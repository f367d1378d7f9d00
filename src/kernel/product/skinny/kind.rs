//! The kinds of elements of a table, and how they become f32.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::{bf16, f16};

use super::ints::{Ints, LANES};
use crate::kernel::core::element::Element;

/// One element for each lane.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
pub(super) struct Lanes(pub(super) [f32; LANES]);

/// A kind of elements. Rows consist of units; where a last one need not be whole, it is filled up with zero bytes.
pub(in super::super) trait Kind: 'static {
    /// Elements in a unit, a multiple of the lanes.
    const UNIT: usize = 32;
    /// Bytes of a unit.
    const UNIT_BYTES: usize;
    /// Whether rows consist of whole units.
    const IS_WHOLE: bool = false;
    /// What all elements of a unit need.
    type Scales: Copy + Default;

    /// Returns the scales of a unit.
    ///
    /// # Safety
    /// The CPU has what `I` needs.
    unsafe fn scales<I: Ints>(unit: &[u8]) -> Self::Scales;

    /// Returns elements `16 * at..16 * at + 16` of a unit.
    fn plain(unit: &[u8], scales: &Self::Scales, at: usize) -> [f32; LANES];

    /// Returns elements `8 * at..8 * at + 8` of a unit.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C, and `unit` is the start of a unit inside one slice.
    #[cfg(target_arch = "x86_64")]
    unsafe fn eight(unit: *const u8, scales: &Self::Scales, at: usize) -> __m256;

    /// Returns elements `16 * at..16 * at + 16` of a unit.
    ///
    /// # Safety
    /// The CPU has AVX-512F, AVX-512VL, AVX2 and F16C, and `unit` is the start of a unit inside one slice.
    #[cfg(target_arch = "x86_64")]
    unsafe fn sixteen(unit: *const u8, scales: &Self::Scales, at: usize) -> __m512;
}

/// Implements [`Kind`] for a type whose vectors are loaded at a pointer.
macro_rules! kind {
    ($element:ty, $from:ident => $eight:expr, $sixteen:expr) => {
        impl Kind for $element {
            const UNIT_BYTES: usize = Self::UNIT * size_of::<Self>();
            type Scales = ();

            #[inline(always)]
            unsafe fn scales<I: Ints>(_: &[u8]) {}

            #[inline(always)]
            fn plain(unit: &[u8], (): &(), at: usize) -> [f32; LANES] {
                let (elements, _) = unit.as_chunks::<{ size_of::<Self>() }>();
                let sixteen = &elements[LANES * at..][..LANES];
                std::array::from_fn(|lane| Self::from_ne_bytes(sixteen[lane]).widen())
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,f16c")]
            #[inline]
            unsafe fn eight(unit: *const u8, (): &(), at: usize) -> __m256 {
                // SAFETY: the caller's promise: a unit has four times eight elements. No alignment is needed.
                unsafe {
                    let $from = unit.add(8 * at * size_of::<Self>());
                    $eight
                }
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx2,f16c")]
            #[inline]
            unsafe fn sixteen(unit: *const u8, (): &(), at: usize) -> __m512 {
                // SAFETY: the caller's promise: a unit has twice sixteen elements. No alignment is needed.
                unsafe {
                    let $from = unit.add(16 * at * size_of::<Self>());
                    $sixteen
                }
            }
        }
    };
}
kind!(f32, from => _mm256_loadu_ps(from.cast()), _mm512_loadu_ps(from.cast()));
kind!(
    f16, from =>
    _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
    _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
);
kind!(
    bf16, from =>
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())))),
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))))
);
