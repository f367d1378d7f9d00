//! The arithmetic of the layers. Private; most of the crate's `unsafe` code is here.
//!
//! Folders import only lower ones: `core` < `ids` < `gather`, `stored`, `product`, `step`, `attention`, of which none
//! imports another. `cuda` and `metal` are imported by at most one file of each.
//!
//! Every id passes [`CheckedIds`] first. An operation that has a kernel on a device (the CPU, CUDA, Metal by the feature
//! `metal-kernels`) runs there; all others run as plain Candle operations.

mod attention;
mod core;
#[cfg(feature = "cuda")]
mod cuda;
mod gather;
mod ids;
#[cfg(any(feature = "metal-kernels", all(test, target_os = "linux")))]
mod metal;
mod product;
mod step;
mod stored;

pub(crate) use attention::{
    AngleRows, Angles, Columns, bias_in_runs, by_distance, distances, linear_bias, rotate, sum_by_distance,
};
pub(crate) use core::dequantize::can_dequantize;
pub(crate) use core::element::{AsIf, by_dtype};
pub(crate) use core::in_place::update;
pub(crate) use core::kept::Kept;
pub(crate) use core::le_bytes::{LeBytes, from_bytes, to_bytes, write_from};
pub(crate) use core::locks::{apart, let_writers_pass, memory_of};
pub(crate) use core::parallel::{map_in_parallel, rows_in_parallel};
pub(crate) use core::simd::{extend_widened, prefetch};
pub(crate) use core::storage::{copy_of, new_var, on_host, slice, unwritten_var, zeros_like};
pub(crate) use core::versions::note_change;
pub(crate) use gather::{
    DenseTable, add_rows, copy_into, gather_add, gather_add_into, gather_into, keep_freed_memory, load_kernels,
};
pub use ids::IdCheck;
pub(crate) use ids::{CheckedIds, IdChecks, Places, RowGroups, Table, to_host, unravel};
pub use product::Approximate;
pub(crate) use product::{
    Best, Counted, CrossEntropy, HeadLoss, HeadTable, Norm, Scores, Split, Wanted, Weight, attach, attach_each,
    attention, attention_scores, best, gelu, linear, logits, masked_scores, norm, packed_attention, softmax,
    split_heads, stored_logits, vocab_share, weighted,
};
pub(crate) use step::{
    AdamStep, BatchRows, Gradient, Moments, adamw, dense_gradient, prepare, row_adam, row_sums_of_squares,
    sum_of_row_sums, sum_of_squares,
};
pub(crate) use stored::{StoredTable, Wpe};
