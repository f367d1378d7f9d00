//! The arithmetic under the layers. Private, and the wing with the `unsafe` code.
//!
//! `core` < `ids` < `gather`, `stored`, `product`, `step`, `attention`, which do not know each other; `cuda` is called by one
//! dispatch file of each. Every id passes [`CheckedIds`] first, so that nothing below it meets a bad one unprepared. What has
//! a kernel of its own on a device (the CPU, CUDA) runs there; everything else runs as plain Candle operations, with the same
//! bits.

mod attention;
mod core;
#[cfg(feature = "cuda")]
mod cuda;
mod gather;
mod ids;
mod product;
mod step;
mod stored;

pub(crate) use attention::{
    AngleRows, Angles, Columns, bias_in_runs, by_distance, distances, linear_bias, rotate, sum_by_distance,
};
pub(crate) use core::dequantize::can_dequantize;
pub(crate) use core::parallel::{each_in_parallel, map_in_parallel};
pub(crate) use core::simd::{extend_widened, prefetch};
pub(crate) use core::storage::{new_var, zeros_like};
pub(crate) use gather::{DenseTable, add_rows, copy_into, gather_add, gather_add_into, gather_into};
pub use ids::IdCheck;
pub(crate) use ids::{CheckedIds, IdChecks, Places, RowGroups, Table, to_host, unravel};
pub(crate) use product::{Counted, CrossEntropy, HeadTable, LossParts, Wanted, attach};
pub(crate) use step::{AdamStep, BatchRows, Gradient, Moments, adamw, dense_gradient, row_adam, sum_of_squares};
pub(crate) use stored::{StoredTable, Wpe};
