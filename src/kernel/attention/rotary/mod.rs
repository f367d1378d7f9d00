//! Pairs of numbers rotated by an angle each: what rotary positions compute.

mod angles;
mod blocks;
mod rotate;
#[cfg(test)]
mod tests;
mod turn;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use angles::{AngleRows, Angles};
pub(crate) use rotate::rotate;
