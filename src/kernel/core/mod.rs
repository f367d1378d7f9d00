//! What all folders of the kernel use: element types, memory of tensors, parallel output, SIMD, stored rows.

mod cache;
pub(crate) mod dequantize;
pub(crate) mod element;
pub(crate) mod in_place;
pub(crate) mod kept;
pub(crate) mod le_bytes;
pub(crate) mod locks;
pub(crate) mod parallel;
pub(crate) mod row_sums;
pub(crate) mod rows;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod simd;
pub(crate) mod storage;
mod stored_rows;
mod team;
pub(crate) mod versions;
