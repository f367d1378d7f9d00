//! What positions compute inside attention: rotated queries and keys, biases and scores by distance.

mod distance;
mod rotary;

pub(crate) use distance::{Columns, bias_in_runs, by_distance, distances, linear_bias, sum_by_distance};
pub(crate) use rotary::{AngleRows, Angles, rotate};
