//! Eight or sixteen pairs at a time, with AVX2 or AVX-512: the same loops over the vectors of either.

use std::any::TypeId;
use std::mem::MaybeUninit;

use half::{bf16, f16};

use super::blocks::{Block, Turn, Vectors};
use crate::kernel::cpu::Outside;
use crate::kernel::element::Element;

/// Proof that the CPU has AVX2 and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HasAvx2(());

impl HasAvx2 {
    pub(super) fn seen() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")).then_some(Self(()))
    }
}

/// Proof that the CPU has AVX-512F, and AVX2 and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HasAvx512(());

impl HasAvx512 {
    pub(super) fn seen() -> Option<Self> {
        HasAvx2::seen().filter(|_| is_x86_feature_detected!("avx512f")).map(|_| Self(()))
    }
}

/// Whether vectors are filled with numbers of that type.
pub(super) fn knows<E: Element>() -> bool {
    [TypeId::of::<f32>(), TypeId::of::<bf16>(), TypeId::of::<f16>()].contains(&TypeId::of::<E>())
}

/// Turns a block of f32, bf16 or f16.
pub(super) fn turn<E: Element>(turn: &Turn, block: Block<E>) -> Result<(), Outside> {
    match turn.vectors {
        // SAFETY: the CPU has the features, as the proofs say.
        Vectors::Sixteen(HasAvx512(())) if turn.n_pairs.is_multiple_of(16) => unsafe { sixteen::turn(turn, block) },
        // SAFETY: as above.
        Vectors::Sixteen(_) | Vectors::Eight(HasAvx2(())) => unsafe { eight::turn(turn, block) },
        Vectors::One => Err(Outside),
    }
}

/// One row: the numbers, where they go, and the cosines and sines of the pairs that vectors take.
struct Row<E> {
    to: *mut MaybeUninit<E>,
    from: *const E,
    cos: *const f32,
    sin: *const f32,
    /// How far apart the halves are.
    n_pairs: usize,
    n_whole: usize,
}

/// Calls `vectors` for every row, which turns the first `n_whole` of its pairs; the rest is done here.
#[inline(always)]
fn rows<E: Element>(
    turn: &Turn,
    block: Block<E>,
    pairs_at_a_time: usize,
    vectors: impl Fn(&Row<E>),
) -> Result<(), Outside> {
    let Block { to, from, stride, ahead, angles } = block;
    let (n_pairs, n_rows) = (turn.n_pairs, angles.len());
    let (d, n_angles) = (to.len() / n_rows, turn.cos.len().min(turn.sin.len()));
    let is_inside = (n_rows - 1) * stride + d <= from.len() && 2 * n_pairs <= d;
    if !is_inside || angles.iter().any(|at| at + n_pairs > n_angles) {
        return Err(Outside);
    }
    let n_whole = n_pairs / pairs_at_a_time * pairs_at_a_time;
    for (i, &at) in angles.iter().enumerate() {
        if let Some(next) = ahead.and_then(|ahead| from.get(ahead + i * stride..)).and_then(|next| next.get(..d)) {
            crate::kernel::simd::prefetch(next);
        }
        // SAFETY: row i is inside all four slices, as was just seen.
        let row = unsafe {
            let (cos, sin) = (turn.cos.as_ptr().add(at), turn.sin.as_ptr().add(at));
            Row { to: to.as_mut_ptr().add(i * d), from: from.as_ptr().add(i * stride), cos, sin, n_pairs, n_whole }
        };
        vectors(&row);
        if 2 * n_whole < d {
            let at = at..at + n_pairs;
            let (to, from) = (&mut to[i * d..(i + 1) * d], &from[i * stride..i * stride + d]);
            turn.row(to, from, &turn.cos[at.clone()], &turn.sin[at], n_whole);
        }
    }
    Ok(())
}

/// The loops for one width of vector; the module that calls it has `load`, `store`, `twice` and `LANES`.
macro_rules! loops {
    ($features:literal, $vector:ty, $sub:ident, $add:ident, $mul:ident, $xor:ident, $turned:ident) => {
        #[target_feature(enable = $features)]
        pub(super) fn turn<E: Element>(turn: &Turn, block: Block<E>) -> Result<(), Outside> {
            let sign = signs(turn.back);
            match turn.interleaved {
                true => rows(turn, block, LANES, |row| neighbours(row, sign)),
                false => rows(turn, block, LANES, |row| halves(row, sign)),
            }
        }

        /// Pairs (i, i + n).
        #[target_feature(enable = $features)]
        #[inline]
        fn halves<E: Element>(&Row { to, from, cos, sin, n_pairs, n_whole }: &Row<E>, sign: $vector) {
            for i in (0..n_whole).step_by(LANES) {
                // SAFETY: i + LANES is at most n_whole, which is at most n_pairs; the row has two times those.
                unsafe {
                    let (x, y) = (load(from.add(i)), load(from.add(n_pairs + i)));
                    let (cos, sin) = (load(cos.add(i)), $xor(load(sin.add(i)), sign));
                    store(to.add(i), $sub($mul(x, cos), $mul(y, sin)));
                    store(to.add(n_pairs + i), $add($mul(y, cos), $mul(x, sin)));
                }
            }
        }

        /// Pairs (2i, 2i + 1).
        #[target_feature(enable = $features)]
        #[inline]
        fn neighbours<E: Element>(&Row { to, from, cos, sin, n_whole, .. }: &Row<E>, sign: $vector) {
            for i in (0..n_whole).step_by(LANES) {
                // SAFETY: as in `halves`.
                unsafe {
                    let (cos, sin) = (load(cos.add(i)), $xor(load(sin.add(i)), sign));
                    let ((low_cos, high_cos), (low_sin, high_sin)) = (twice(cos), twice(sin));
                    let (from, to) = (from.add(2 * i), to.add(2 * i));
                    store(to, $turned(load(from), low_cos, low_sin));
                    store(to.add(LANES), $turned(load(from.add(LANES)), high_cos, high_sin));
                }
            }
        }
    };
}

mod eight {
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    use super::*;

    const LANES: usize = 8;

    loops!("avx2,f16c", __m256, _mm256_sub_ps, _mm256_add_ps, _mm256_mul_ps, _mm256_xor_ps, turned);

    #[target_feature(enable = "avx2")]
    #[inline]
    fn signs(back: bool) -> __m256 {
        _mm256_set1_ps(if back { -0.0 } else { 0.0 })
    }

    /// x cos - y sin, y cos + x sin of pairs (x, y).
    #[target_feature(enable = "avx2")]
    #[inline]
    fn turned(xy: __m256, cos: __m256, sin: __m256) -> __m256 {
        let yx = _mm256_permute_ps::<0b10_11_00_01>(xy);
        _mm256_addsub_ps(_mm256_mul_ps(xy, cos), _mm256_mul_ps(yx, sin))
    }

    /// Each number twice: the lower half, the upper half.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn twice(numbers: __m256) -> (__m256, __m256) {
        let low = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
        let high = _mm256_add_epi32(low, _mm256_set1_epi32(4));
        (_mm256_permutevar8x32_ps(numbers, low), _mm256_permutevar8x32_ps(numbers, high))
    }

    /// # Safety
    /// Eight numbers from there on belong to one slice.
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

    /// Rounded to nearest even.
    ///
    /// # Safety
    /// Eight numbers from there on belong to one slice; E is f32, bf16 or f16.
    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    unsafe fn store<E: Element>(to: *mut MaybeUninit<E>, wide: __m256) {
        // SAFETY: the caller's promise; no alignment is needed.
        unsafe {
            if TypeId::of::<E>() == TypeId::of::<bf16>() {
                // A NaN of numbers with no low half has none either: it is not rounded into anything else.
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
}

mod sixteen {
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    use super::*;

    const LANES: usize = 16;

    loops!("avx512f,avx2,f16c", __m512, _mm512_sub_ps, _mm512_add_ps, _mm512_mul_ps, flipped, turned);

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn signs(back: bool) -> __m512 {
        _mm512_set1_ps(if back { -0.0 } else { 0.0 })
    }

    /// The exclusive or of numbers needs AVX-512DQ; that of integers does not.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn flipped(numbers: __m512, sign: __m512) -> __m512 {
        _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(numbers), _mm512_castps_si512(sign)))
    }

    /// x cos - y sin, y cos + x sin of pairs (x, y).
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn turned(xy: __m512, cos: __m512, sin: __m512) -> __m512 {
        let (same, other) = (_mm512_mul_ps(xy, cos), _mm512_mul_ps(_mm512_permute_ps::<0b10_11_00_01>(xy), sin));
        _mm512_mask_sub_ps(_mm512_add_ps(same, other), 0x5555, same, other)
    }

    /// Each number twice: the lower half, the upper half.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn twice(numbers: __m512) -> (__m512, __m512) {
        let low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
        (_mm512_permutexvar_ps(low, numbers), _mm512_permutexvar_ps(high, numbers))
    }

    /// # Safety
    /// Sixteen numbers from there on belong to one slice.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load<E: Element>(from: *const E) -> __m512 {
        // SAFETY: the caller's promise; no alignment is needed.
        unsafe {
            if TypeId::of::<E>() == TypeId::of::<bf16>() {
                let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
            } else if TypeId::of::<E>() == TypeId::of::<f16>() {
                _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
            } else {
                _mm512_loadu_ps(from.cast())
            }
        }
    }

    /// Rounded to nearest even.
    ///
    /// # Safety
    /// Sixteen numbers from there on belong to one slice; E is f32, bf16 or f16.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn store<E: Element>(to: *mut MaybeUninit<E>, wide: __m512) {
        // SAFETY: the caller's promise; no alignment is needed.
        unsafe {
            if TypeId::of::<E>() == TypeId::of::<bf16>() {
                // As eight are: NaN has no low half.
                let bits = _mm512_castps_si512(wide);
                let is_odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), is_odd);
                _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded)));
            } else if TypeId::of::<E>() == TypeId::of::<f16>() {
                _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(wide));
            } else {
                _mm512_storeu_ps(to.cast(), wide);
            }
        }
    }
}
