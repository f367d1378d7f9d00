//! One row at a time: copied, added, accumulated. Portable loops that the compiler vectorises, compiled a second time for
//! AVX2; and what no portable loop can say, prefetching and stores that go past the caches.

use std::mem::MaybeUninit;

use super::element::Element;

/// `to = from`.
#[inline(always)]
pub(super) fn copy<E: Element>(to: &mut [MaybeUninit<E>], from: &[E], stream: bool) {
    map(to, from, from, stream, |value, _| value);
}

/// `to = left + right`, in the wide type, rounded once.
#[inline(always)]
pub(super) fn add<E: Element, O: Element<Wide = E::Wide>>(
    to: &mut [MaybeUninit<O>],
    left: &[E],
    right: &[E],
    stream: bool,
) {
    #[cfg(target_arch = "x86_64")]
    if x86::has_avx2() {
        // SAFETY: the CPU has AVX2 (and the other features), as was just seen.
        return unsafe { x86::add(to, left, right, stream) };
    }
    map(to, left, right, stream, sum::<E, O>);
}

#[inline(always)]
fn sum<E: Element, O: Element<Wide = E::Wide>>(left: E, right: E) -> O {
    O::narrow_sum::<E>(left.widen() + right.widen())
}

#[inline(always)]
fn map<E: Element, O: Element>(
    to: &mut [MaybeUninit<O>],
    left: &[E],
    right: &[E],
    stream: bool,
    combine: impl Fn(E, E) -> O + Copy,
) {
    #[cfg(target_arch = "x86_64")]
    if x86::has_avx2() {
        // SAFETY: the CPU has AVX2 (and the other features), as was just seen.
        return unsafe { x86::map(to, left, right, stream, combine) };
    }
    map_in_cache(to, left, right, combine);
    let _ = stream;
}

#[inline(always)]
fn map_in_cache<E: Element, O: Element>(
    to: &mut [MaybeUninit<O>],
    left: &[E],
    right: &[E],
    combine: impl Fn(E, E) -> O,
) {
    for ((to, &left), &right) in to.iter_mut().zip(left).zip(right) {
        to.write(combine(left, right));
    }
}

/// `sums += row`.
#[inline(always)]
pub(super) fn accumulate<E: Element>(sums: &mut [E::Wide], row: &[E]) {
    #[cfg(target_arch = "x86_64")]
    if x86::has_avx2() {
        // SAFETY: the CPU has AVX2 (and the other features), as was just seen.
        return unsafe { x86::accumulate(sums, row) };
    }
    accumulate_portable(sums, row);
}

#[inline(always)]
fn accumulate_portable<E: Element>(sums: &mut [E::Wide], row: &[E]) {
    for (sum, &value) in sums.iter_mut().zip(row) {
        *sum += value.widen();
    }
}

/// Appends `ids`, twice as wide.
pub(crate) fn extend_widened(to: &mut Vec<u32>, ids: &[u16]) {
    #[cfg(target_arch = "x86_64")]
    if x86::has_avx2() {
        // SAFETY: the CPU has AVX2 (and the other features), as was just seen.
        return unsafe { x86::extend_widened(to, ids) };
    }
    extend_widened_portable(to, ids);
}

#[inline(always)]
fn extend_widened_portable(to: &mut Vec<u32>, ids: &[u16]) {
    to.extend(ids.iter().map(|&id| u32::from(id)));
}

/// Asks for a row that will be read next.
#[inline(always)]
pub(crate) fn prefetch<E>(row: &[E]) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch(row);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

/// Makes streamed stores visible to other threads before the task ends.
#[inline(always)]
pub(super) fn fence(stream: bool) {
    #[cfg(target_arch = "x86_64")]
    if stream {
        x86::fence();
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = stream;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::any::TypeId;
    use std::arch::x86_64::*;
    use std::mem::MaybeUninit;

    use half::{bf16, f16};

    use super::super::element::Element;

    /// Bytes of a vector, and of what is computed before it is streamed.
    const VECTOR: usize = 32;
    const BLOCK: usize = 256;
    const CACHE_LINE: usize = 64;

    #[inline(always)]
    pub(super) fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")
    }

    /// A block of numbers on the stack, aligned for vectors.
    #[repr(align(32))]
    struct Block([u8; BLOCK]);

    #[target_feature(enable = "avx2")]
    pub(super) fn map<E: Element, O: Element>(
        to: &mut [MaybeUninit<O>],
        left: &[E],
        right: &[E],
        stream: bool,
        combine: impl Fn(E, E) -> O + Copy,
    ) {
        // Only whole cache lines are streamed: a line that is stored to both ways costs as much as dozens of others.
        let head = to.as_ptr().align_offset(CACHE_LINE);
        if !stream || to.len() < head {
            return super::map_in_cache(to, left, right, combine);
        }
        let (to_head, to) = to.split_at_mut(head);
        super::map_in_cache(to_head, left, right, combine);
        let (left, right) = (&left[head..], &right[head..]);
        let n_streamed = stream_blocks::<E, O, BLOCK>(to, left, right, combine);
        let (to, left, right) = (&mut to[n_streamed..], &left[n_streamed..], &right[n_streamed..]);
        let n_streamed = stream_blocks::<E, O, CACHE_LINE>(to, left, right, combine);
        super::map_in_cache(&mut to[n_streamed..], &left[n_streamed..], &right[n_streamed..], combine);
    }

    /// Streams whole blocks of `N` bytes, at most `BLOCK`, to memory that begins with a cache line; how many numbers.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn stream_blocks<E: Element, O: Element, const N: usize>(
        to: &mut [MaybeUninit<O>],
        left: &[E],
        right: &[E],
        combine: impl Fn(E, E) -> O + Copy,
    ) -> usize {
        let per_block = N / size_of::<O>();
        let mut block = Block([0; BLOCK]);
        let n_blocks = to.len() / per_block;
        for (i, to) in to.chunks_exact_mut(per_block).enumerate() {
            let at = i * per_block..(i + 1) * per_block;
            // SAFETY: the block has room for `per_block` numbers of any type of element, and is aligned for them; every
            // bit pattern is allowed in a `MaybeUninit`.
            let numbers = unsafe { std::slice::from_raw_parts_mut(block.0.as_mut_ptr().cast(), per_block) };
            super::map_in_cache::<E, O>(numbers, &left[at.clone()], &right[at], combine);
            for vector in 0..N / VECTOR {
                // SAFETY: both addresses are inside their blocks of `N` bytes, and aligned: the block by its type, the output
                // because it begins with a cache line and a block is a whole number of vectors.
                unsafe {
                    let from = block.0.as_ptr().cast::<__m256i>().add(vector);
                    _mm256_stream_si256(to.as_mut_ptr().cast::<__m256i>().add(vector), _mm256_load_si256(from));
                }
            }
        }
        n_blocks * per_block
    }

    /// `to = left + right`. Half types are summed sixteen at a time, which the compiler does not find by itself.
    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn add<E: Element, O: Element<Wide = E::Wide>>(
        to: &mut [MaybeUninit<O>],
        left: &[E],
        right: &[E],
        stream: bool,
    ) {
        let is = |half: TypeId| TypeId::of::<E>() == half && TypeId::of::<O>() == half;
        let is_bf16 = is(TypeId::of::<bf16>());
        if !is_bf16 && !is(TypeId::of::<f16>()) {
            return map(to, left, right, stream, super::sum);
        }
        assert!(left.len() >= to.len() && right.len() >= to.len());
        let head = to.as_ptr().align_offset(CACHE_LINE).min(to.len());
        // Only whole cache lines are streamed.
        let lines = head..head + (to.len() - head) / 32 * 32;
        super::map_in_cache(&mut to[..lines.start], left, right, super::sum);
        for at in lines.clone().step_by(16) {
            // SAFETY: sixteen halves from `at` on are inside all three slices, and aligned for a vector in `to`: `lines`
            // begins with a cache line.
            unsafe {
                let (left, right) = (load(&left[at]), load(&right[at]));
                let sum = if is_bf16 { add_bf16(left, right) } else { add_f16(left, right) };
                let to = to.as_mut_ptr().add(at).cast::<__m256i>();
                if stream { _mm256_stream_si256(to, sum) } else { _mm256_store_si256(to, sum) }
            }
        }
        super::map_in_cache(&mut to[lines.end..], &left[lines.end..], &right[lines.end..], super::sum);
    }

    /// The 32 bytes from there on.
    ///
    /// # Safety
    /// They belong to one slice.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn load<E>(from: *const E) -> __m256i {
        // SAFETY: the caller's promise; no alignment is needed.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    /// The halves of even and those of odd index are widened where they stand, summed, and rounded to nearest even.
    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    fn add_bf16(left: __m256i, right: __m256i) -> __m256i {
        let upper = _mm256_set1_epi32(0xFFFF_0000u32 as i32);
        let even = |halves| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves));
        let odd = |halves| _mm256_castsi256_ps(_mm256_and_si256(halves, upper));
        // As `Element::narrow_sum`: a NaN has a low half of zero.
        let rounded = |sum| {
            let bits = _mm256_castps_si256(sum);
            let is_odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), is_odd)
        };
        let even = rounded(_mm256_add_ps(even(left), even(right)));
        let odd = rounded(_mm256_add_ps(odd(left), odd(right)));
        _mm256_blend_epi16::<0b1010_1010>(_mm256_srli_epi32::<16>(even), odd)
    }

    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    fn add_f16(left: __m256i, right: __m256i) -> __m256i {
        let low = |halves| _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
        let high = |halves| _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves));
        let rounded = |sum| _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(sum);
        let low_sum = rounded(_mm256_add_ps(low(left), low(right)));
        let high_sum = rounded(_mm256_add_ps(high(left), high(right)));
        _mm256_set_m128i(high_sum, low_sum)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn accumulate<E: Element>(sums: &mut [E::Wide], row: &[E]) {
        super::accumulate_portable(sums, row);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn extend_widened(to: &mut Vec<u32>, ids: &[u16]) {
        super::extend_widened_portable(to, ids);
    }

    #[inline(always)]
    pub(super) fn prefetch<E>(row: &[E]) {
        let start = row.as_ptr().cast::<i8>();
        for offset in (0..size_of_val(row)).step_by(CACHE_LINE) {
            // SAFETY: the address is inside `row`; a prefetch reads nothing, and SSE is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.add(offset)) };
        }
    }

    #[inline(always)]
    pub(super) fn fence() {
        // SAFETY: SSE is part of x86-64.
        unsafe { _mm_sfence() };
    }
}
