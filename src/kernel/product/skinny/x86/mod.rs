//! The same loop for AVX-512 and for AVX2.

mod eight;
pub(super) mod features;
mod loops;
mod sixteen;
mod sums;

pub(super) use eight::{TOGETHER as TOGETHER_AVX2, products as products_avx2};
pub(super) use sixteen::{TOGETHER as TOGETHER_AVX512, products as products_avx512};
