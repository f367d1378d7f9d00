//! Copies, adds and accumulates one row at a time: portable loops that the compiler vectorises, compiled a second time
//! for AVX2. Intrinsics prefetch, and store past the caches.

use std::mem::MaybeUninit;

use super::element::Element;

/// Computes `to = from`, and prefetches `next`, a row that is read soon. Bypasses the caches if `stream`.
#[inline(always)]
pub(crate) fn copy(to: &mut [MaybeUninit<u8>], from: &[u8], next: &[u8], stream: bool) {
    #[cfg(target_arch = "x86_64")]
    if x86::has_avx2() {
        // SAFETY: the CPU has AVX2 (and the other features), as just checked.
        return unsafe { x86::copy(to, from, next, stream) };
    }
    let _ = (next, stream);
    copy_bytes(to, from);
}

#[inline(always)]
fn copy_bytes(to: &mut [MaybeUninit<u8>], from: &[u8]) {
    for (to, &from) in to.iter_mut().zip(from) {
        to.write(from);
    }
}

/// Computes `to = left + right` in the wide type, rounded once. Prefetches and stores as [`copy`] does.
#[inline(always)]
pub(crate) fn add<E: Element, O: Element<Wide = E::Wide>>(
    to: &mut [MaybeUninit<O>],
    left: &[E],
    right: &[E],
    next: &[u8],
    stream: bool,
) {
    #[cfg(target_arch = "x86_64")]
    if x86::has_avx2() {
        // SAFETY: the CPU has AVX2 (and the other features), as just checked.
        return unsafe { x86::add(to, left, right, next, stream) };
    }
    let _ = (next, stream);
    map(to, left, right);
}

#[inline(always)]
fn map<E: Element, O: Element<Wide = E::Wide>>(to: &mut [MaybeUninit<O>], left: &[E], right: &[E]) {
    for ((to, &left), &right) in to.iter_mut().zip(left).zip(right) {
        to.write(O::narrow_sum::<E>(left.widen() + right.widen()));
    }
}

/// Calls `f`, compiled for AVX2 if the CPU has it. Functions that `f` calls are compiled so only if they are
/// `inline(always)`.
#[inline(always)]
pub(crate) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if x86::has_avx2() {
        // SAFETY: the CPU has AVX2 (and the other features), as just checked.
        return unsafe { x86::call(f) };
    }
    f()
}

/// Computes `sums += row`.
#[inline(always)]
pub(crate) fn accumulate<E: Element>(sums: &mut [E::Wide], row: &[E]) {
    #[cfg(target_arch = "x86_64")]
    if x86::has_avx2() {
        // SAFETY: the CPU has AVX2 (and the other features), as just checked.
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

/// Appends `ids` as `u32`. Returns the largest one, 0 without any.
pub(crate) fn extend_widened<I: Copy + Into<u32>>(to: &mut Vec<u32>, ids: &[I]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if x86::has_avx2() {
        // SAFETY: the CPU has AVX2 (and the other features), as just checked.
        return unsafe { x86::extend_widened(to, ids) };
    }
    extend_widened_portable(to, ids)
}

#[inline(always)]
fn extend_widened_portable<I: Copy + Into<u32>>(to: &mut Vec<u32>, ids: &[I]) -> u32 {
    let mut largest = 0;
    to.extend(ids.iter().map(|&id| {
        let id = id.into();
        largest = id.max(largest);
        id
    }));
    largest
}

/// Fills `to` with runs of one value each, one after the other.
pub(crate) fn fill_runs<E: Element>(to: &mut [MaybeUninit<E>], runs: impl Iterator<Item = (E, usize)>) {
    #[cfg(target_arch = "x86_64")]
    if x86::has_avx2() {
        // SAFETY: the CPU has AVX2 (and the other features), as just checked.
        return unsafe { x86::fill_runs(to, runs) };
    }
    fill_runs_portable(to, runs);
}

#[inline(always)]
fn fill_runs_portable<E: Element>(to: &mut [MaybeUninit<E>], runs: impl Iterator<Item = (E, usize)>) {
    const VECTOR: usize = 16;
    let mut rest = to;
    for (value, n) in runs {
        let value = MaybeUninit::new(value);
        match rest.first_chunk_mut::<VECTOR>() {
            // Writes a whole vector at once. The next run overwrites the excess.
            Some(vector) if n <= VECTOR => *vector = [value; VECTOR],
            _ => rest[..n].fill(value),
        }
        rest = &mut rest[n..];
    }
    assert!(rest.is_empty(), "the runs do not fill the row");
}

/// Prefetches a row.
#[inline(always)]
pub(crate) fn prefetch<E>(row: &[E]) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch(row);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

/// Makes streamed stores visible to other threads before the task ends.
#[inline(always)]
pub(crate) fn fence(stream: bool) {
    #[cfg(target_arch = "x86_64")]
    if stream {
        x86::fence();
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = stream;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::MaybeUninit;

    use candle_core::DType;

    use super::super::element::{Element, bytes_of, bytes_of_mut};

    /// Bytes of a vector.
    const VECTOR: usize = 32;
    const CACHE_LINE: usize = 64;

    #[inline(always)]
    pub(crate) fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")
    }

    #[target_feature(enable = "avx2,f16c")]
    pub(crate) fn copy(to: &mut [MaybeUninit<u8>], from: &[u8], next: &[u8], stream: bool) {
        // SAFETY: `each_vector` hands out addresses of whole vectors.
        let done = each_vector(to, from, from, next, stream, |from, _| unsafe { load(from) });
        super::copy_bytes(&mut to[done..], &from[done..]);
    }

    /// Computes `to = left + right`, one vector at a time if both sides have the same dtype.
    #[target_feature(enable = "avx2,f16c")]
    pub(crate) fn add<E: Element, O: Element<Wide = E::Wide>>(
        to: &mut [MaybeUninit<O>],
        left: &[E],
        right: &[E],
        next: &[u8],
        stream: bool,
    ) {
        let done = if E::DTYPE == O::DTYPE {
            let (to, left, right) = (bytes_of_mut(to), bytes_of(left), bytes_of(right));
            let n_bytes = match E::DTYPE {
                DType::F32 => sum_f32(to, left, right, next, stream),
                DType::F64 => sum_f64(to, left, right, next, stream),
                DType::BF16 => sum_bf16(to, left, right, next, stream),
                _ => sum_f16(to, left, right, next, stream),
            };
            n_bytes / size_of::<E>()
        } else {
            prefetch(next);
            0
        };
        super::map(&mut to[done..], &left[done..], &right[done..]);
    }

    /// Defines the loop of sums of one dtype.
    macro_rules! sums {
        ($name:ident, $add:ident) => {
            #[target_feature(enable = "avx2,f16c")]
            #[inline]
            fn $name(to: &mut [MaybeUninit<u8>], left: &[u8], right: &[u8], next: &[u8], stream: bool) -> usize {
                // SAFETY: `each_vector` hands out addresses of whole vectors.
                each_vector(to, left, right, next, stream, |left, right| unsafe { $add(load(left), load(right)) })
            }
        };
    }
    sums!(sum_f32, add_f32);
    sums!(sum_f64, add_f64);
    sums!(sum_bf16, add_bf16);
    sums!(sum_f16, add_f16);

    /// Writes `to`, one vector of `combine` at a time, and returns how many bytes it has written: all, or none of a row
    /// that is shorter than two cache lines.
    ///
    /// Vectors of the first and the last line overlap those between them, which are aligned: a store across two lines
    /// takes twice as long, and only whole lines are streamed, since both kinds of store in one line are slow.
    ///
    /// Prefetches `next` along the way, one line at a time: all of it at once would occupy every fill buffer of the
    /// core.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn each_vector(
        to: &mut [MaybeUninit<u8>],
        left: &[u8],
        right: &[u8],
        next: &[u8],
        stream: bool,
        combine: impl Fn(*const u8, *const u8) -> __m256i,
    ) -> usize {
        let n = to.len();
        assert!(left.len() >= n && right.len() >= n);
        if n < 2 * CACHE_LINE {
            prefetch(next);
            return 0;
        }
        let first = to.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE);
        let end = first + (n - first) / CACHE_LINE * CACHE_LINE;
        let mut line = |at: usize, stream: bool| {
            if let Some(byte) = next.get(at) {
                prefetch_line(byte);
            }
            for at in [at, at + VECTOR] {
                // SAFETY: every line ends inside of all three slices, as the calls below show. Streamed vectors are
                // aligned, since they begin a whole number of vectors after the start of a cache line.
                unsafe {
                    let numbers = combine(left.as_ptr().add(at), right.as_ptr().add(at));
                    let to = to.as_mut_ptr().add(at).cast::<__m256i>();
                    if stream { _mm256_stream_si256(to, numbers) } else { _mm256_storeu_si256(to, numbers) }
                }
            }
        };
        if first > 0 {
            line(0, false);
        }
        (first..end).step_by(CACHE_LINE).for_each(|at| line(at, stream));
        if end < n {
            line(n - CACHE_LINE, false);
        }
        n
    }

    /// Loads the 32 bytes from `from` on.
    ///
    /// # Safety
    /// They belong to one slice.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn load(from: *const u8) -> __m256i {
        // SAFETY: the caller's promise; no alignment is needed.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn add_f32(left: __m256i, right: __m256i) -> __m256i {
        _mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(left), _mm256_castsi256_ps(right)))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn add_f64(left: __m256i, right: __m256i) -> __m256i {
        _mm256_castpd_si256(_mm256_add_pd(_mm256_castsi256_pd(left), _mm256_castsi256_pd(right)))
    }

    /// Widens the elements of even and of odd index in place, adds them, and rounds to nearest even.
    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    fn add_bf16(left: __m256i, right: __m256i) -> __m256i {
        let upper = _mm256_set1_epi32(0xFFFF_0000u32 as i32);
        let even = |halves| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves));
        let odd = |halves| _mm256_castsi256_ps(_mm256_and_si256(halves, upper));
        // As in `Element::narrow_sum`, a NaN has a low half of zero.
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
    pub(crate) fn call<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    #[target_feature(enable = "avx2")]
    pub(crate) fn accumulate<E: Element>(sums: &mut [E::Wide], row: &[E]) {
        super::accumulate_portable(sums, row);
    }

    #[target_feature(enable = "avx2")]
    pub(crate) fn extend_widened<I: Copy + Into<u32>>(to: &mut Vec<u32>, ids: &[I]) -> u32 {
        super::extend_widened_portable(to, ids)
    }

    #[target_feature(enable = "avx2")]
    pub(crate) fn fill_runs<E: Element>(to: &mut [MaybeUninit<E>], runs: impl Iterator<Item = (E, usize)>) {
        super::fill_runs_portable(to, runs);
    }

    #[inline(always)]
    pub(crate) fn prefetch<E>(row: &[E]) {
        for number in row.iter().step_by((CACHE_LINE / size_of::<E>()).max(1)) {
            prefetch_line(number);
        }
    }

    /// Prefetches the cache line of `number`.
    #[inline(always)]
    fn prefetch_line<E>(number: &E) {
        // SAFETY: a prefetch reads nothing, and SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(number).cast()) };
    }

    #[inline(always)]
    pub(crate) fn fence() {
        // SAFETY: SSE is part of x86-64.
        unsafe { _mm_sfence() };
    }
}
