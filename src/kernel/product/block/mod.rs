//! The pieces of a transformer block, each in one pass forward and one backward: f32 on the CPU, and f16 and bf16 there,
//! widened before and rounded once after it. Everything else takes the plain Candle operations of `reference`.
//!
//! Callers have checked shapes, dtypes and devices. Every sum has a fixed order: the bits do not depend on the number of
//! threads.

mod attention_op;
mod dispatch;
mod gelu_op;
mod heads;
mod linear_op;
mod norm_op;
mod reference;
mod rows;
mod softmax_op;
#[cfg(test)]
mod tests;

pub(crate) use dispatch::{attention, gelu, linear, norm, packed_attention, softmax, split_heads};
pub use gelu_op::Approximate;
pub(crate) use heads::Scores;
pub(crate) use linear_op::Weight;
pub(crate) use norm_op::Norm;
pub(crate) use reference::{attention_scores, masked_scores, weighted};
