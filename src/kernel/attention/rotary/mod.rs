//! Turns pairs of elements by an angle each, as rotary positions do.

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
