//! Sums of vectors.

use std::arch::x86_64::*;

/// Returns the sum of each vector: lanes 4 apart, 2 apart, 1 apart.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn sums(x: [__m256; 8]) -> [f32; 8] {
    let [a, b, c, d] = [four_apart(x[0], x[1]), four_apart(x[2], x[3]), four_apart(x[4], x[5]), four_apart(x[6], x[7])];
    let (ab, cd) = (two_apart(a, b), two_apart(c, d));
    let sums = _mm256_add_ps(_mm256_shuffle_ps::<0b10_00_10_00>(ab, cd), _mm256_shuffle_ps::<0b11_01_11_01>(ab, cd));
    // The lower half has the sums of even index.
    let in_order = _mm256_permutevar8x32_ps(sums, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    let mut array = [0.0; 8];
    // SAFETY: the array has room for eight elements; no alignment is needed.
    unsafe { _mm256_storeu_ps(array.as_mut_ptr(), in_order) };
    array
}

/// Returns four sums of `x` and four of `y`.
#[target_feature(enable = "avx2")]
#[inline]
fn four_apart(x: __m256, y: __m256) -> __m256 {
    _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(x, y), _mm256_permute2f128_ps::<0x31>(x, y))
}

/// Returns, for each half of `x`, then of `y`, the sums of its lanes 2 apart.
#[target_feature(enable = "avx2")]
#[inline]
fn two_apart(x: __m256, y: __m256) -> __m256 {
    _mm256_add_ps(_mm256_shuffle_ps::<0b01_00_01_00>(x, y), _mm256_shuffle_ps::<0b11_10_11_10>(x, y))
}
