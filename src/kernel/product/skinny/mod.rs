//! Skinny products: some rows of hidden states with all rows of a table, `hidden · tableᵀ`. The table is read once, by
//! all cores, in the type that it is stored in.
//!
//! # The order of a sum
//! A row's element `i` is multiplied into lane `i % 16`, in order and fused with the addition where the CPU can; then
//! lanes 8 apart are added, 4 apart, 2 apart, 1 apart. So every sum depends on its two rows alone: not on how many
//! hidden states there are, on which other rows stand beside it, or on threads. AVX-512, AVX2 with FMA and plain code
//! with fused additions have the same bits. Sums down the columns of a weight `[in, out]` have an order of their own
//! (`columns`).
//!
//! `vdpbf16ps` is left out. It doubles the arithmetic of bf16, which counts from eight rows on only, but takes subnormals
//! for zero, and its order of sums would cost other CPUs as much.
//!
//! # A new kind of element
//! implements [`Kind`]: how many bytes a unit of 32 elements takes, and how sixteen of them become f32 in plain code and
//! in vectors of both widths. GGUF's blocks are kinds of their own, each one formula on integers in lanes (`blocks`). [`product`] takes rows as
//! bytes ([`Rows`]), so it does not matter where they lie.

mod blocks;
mod columns;
mod dense;
mod ints;
mod kind;
mod panel;
mod plain;
mod rows;
mod stored;
mod sweep;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use dense::{Memory, dense, is_multiplied, operands};
pub(super) use kind::Kind;
pub(super) use stored::{product_of, stored};
pub(super) use sweep::{Product, product};
