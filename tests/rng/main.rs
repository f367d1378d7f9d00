//! From seeds to weights: the generator, and the tables and masks drawn from it.

mod generator;
#[path = "../support/mod.rs"]
mod support;
mod tables;
