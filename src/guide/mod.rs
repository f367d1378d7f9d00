//! The guide: pages on how to use the crate, beside the documentation of its items.

#[doc = include_str!("adopting.md")]
pub mod adopting {}

#[doc = include_str!("from_0_1.md")]
pub mod from_0_1 {}
