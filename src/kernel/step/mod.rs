//! Optimizer steps in place: AdamW, Adam by rows, the norm of gradients.

mod cpu;
mod dispatch;
mod gradient;
mod moments;
mod norm;
mod reference;
mod rules;

pub(crate) use dispatch::{adamw, dense_gradient, prepare, row_adam, row_sums_of_squares, sum_of_squares};
pub(crate) use gradient::{BatchRows, Gradient};
pub(crate) use moments::Moments;
pub(crate) use norm::sum_of_row_sums;
pub(crate) use rules::AdamStep;
#[cfg(feature = "cuda")]
pub(crate) use {
    norm::NormTasks,
    rules::{AdamWRule, LANES, RowRule, Rule},
};
