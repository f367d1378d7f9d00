//! The same loop for AVX-512 and for AVX2.

mod eight;
pub(super) mod features;
pub(super) mod ints;
mod loops;
mod sixteen;
mod sums;

pub(super) use eight::{
    COLUMNS_TOGETHER as COLUMNS_TOGETHER_AVX2, TOGETHER as TOGETHER_AVX2, columns as columns_avx2,
    products as products_avx2,
};
pub(super) use sixteen::{
    COLUMNS_TOGETHER as COLUMNS_TOGETHER_AVX512, TOGETHER as TOGETHER_AVX512, columns as columns_avx512,
    products as products_avx512,
};
