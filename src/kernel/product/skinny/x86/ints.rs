//! Integers in vectors of both widths.

use std::arch::x86_64::*;

use half::f16;

use super::super::ints::Ints;

/// Implements [`Ints`] for a vector of so many lanes.
macro_rules! ints {
    (
        $name:ident, $vector:ty, $floats:ty, $lanes:literal, from $bytes:ident: $unsigned:expr, $signed:expr;
        $set:ident, $and:ident, $or:ident, $minus:ident, $right:ident, $left:ident, $each:ident, $indices:expr,
        $float:ident, $every:ident, $times:ident, $plus:ident, $put:ident
    ) => {
        #[derive(Clone, Copy)]
        pub(in super::super) struct $name($vector);

        // Of all unsafe blocks: the caller promises the instructions, and slices are cut to the length that is read or
        // written; no alignment is needed.
        impl Ints for $name {
            const LANES: usize = $lanes;
            type Floats = $floats;

            #[inline(always)]
            unsafe fn bits(bytes: &[u8], shift: usize, mask: i32) -> Self {
                let $bytes = bytes[..$lanes].as_ptr();
                // SAFETY: see above.
                unsafe { Self($and($right($unsigned, _mm_cvtsi64_si128(shift as i64)), $set(mask))) }
            }

            #[inline(always)]
            unsafe fn signed(bytes: &[u8]) -> Self {
                let $bytes = bytes[..$lanes].as_ptr();
                // SAFETY: see above.
                unsafe { Self($signed) }
            }

            #[inline(always)]
            unsafe fn each_bit(bits: u32) -> Self {
                // SAFETY: see above.
                unsafe { Self($and($each($set(bits.cast_signed()), $indices), $set(1))) }
            }

            #[inline(always)]
            unsafe fn with<const SHIFT: u32>(self, high: Self) -> Self {
                // SAFETY: see above.
                unsafe { Self($or(self.0, $left(high.0, _mm_cvtsi64_si128(i64::from(SHIFT))))) }
            }

            #[inline(always)]
            unsafe fn minus(self, less: i32) -> Self {
                // SAFETY: see above.
                unsafe { Self($minus(self.0, $set(less))) }
            }

            #[inline(always)]
            unsafe fn times(self, factor: f32) -> $floats {
                // SAFETY: see above.
                unsafe { $times($float(self.0), $every(factor)) }
            }

            #[inline(always)]
            unsafe fn plus(floats: $floats, more: f32) -> $floats {
                // SAFETY: see above.
                unsafe { $plus(floats, $every(more)) }
            }

            #[inline(always)]
            unsafe fn put(floats: $floats, to: &mut [f32]) {
                // SAFETY: see above.
                unsafe { $put(to[..$lanes].as_mut_ptr(), floats) }
            }

            #[inline(always)]
            unsafe fn widen(x: f16) -> f32 {
                // SAFETY: see above.
                unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(x.to_bits())))) }
            }
        }
    };
}
ints!(
    Eight, __m256i, __m256, 8,
    from bytes: _mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.cast())), _mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.cast()));
    _mm256_set1_epi32, _mm256_and_si256, _mm256_or_si256, _mm256_sub_epi32, _mm256_srl_epi32, _mm256_sll_epi32,
    _mm256_srlv_epi32, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
    _mm256_cvtepi32_ps, _mm256_set1_ps, _mm256_mul_ps, _mm256_add_ps, _mm256_storeu_ps
);
ints!(
    Sixteen, __m512i, __m512, 16,
    from bytes: _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.cast())), _mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.cast()));
    _mm512_set1_epi32, _mm512_and_si512, _mm512_or_si512, _mm512_sub_epi32, _mm512_srl_epi32, _mm512_sll_epi32,
    _mm512_srlv_epi32, _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    _mm512_cvtepi32_ps, _mm512_set1_ps, _mm512_mul_ps, _mm512_add_ps, _mm512_storeu_ps
);
