//! Sixteen pairs of bf16 at a time, rounded by AVX-512BF16.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::super::turn::{Block, Turn};
use super::loops::{Rows, loops, steps};
use super::sixteen::{LANES, flipped, load, signs, store, turned, twice};
use crate::kernel::core::element::Element;
use crate::kernel::core::parallel::Outside;

loops!(
    "avx512f,avx512bw,avx512dq,avx512bf16,avx2,f16c",
    __m512,
    _mm512_sub_ps,
    _mm512_add_ps,
    _mm512_mul_ps,
    flipped,
    turned
);

/// Stores both, one after the other.
///
/// The instruction rounds to nearest even, but takes subnormals for zero. If there are any, it is not used.
///
/// # Safety
/// `to` is the start of 32 elements of one slice of bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
#[inline]
unsafe fn store_two<E: Element>(to: *mut MaybeUninit<E>, first: __m512, second: __m512) {
    const SUBNORMAL: i32 = 0x20;
    let subnormal = _mm512_fpclass_ps_mask::<SUBNORMAL>(first) | _mm512_fpclass_ps_mask::<SUBNORMAL>(second);
    // SAFETY: the caller's promise; a vector of 32 bf16 is one of 64 bytes.
    unsafe {
        if subnormal == 0 {
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(to.cast(), both);
        } else {
            store(to, first);
            store(to.add(LANES), second);
        }
    }
}
