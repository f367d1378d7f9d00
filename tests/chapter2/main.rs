//! Text to batches, seeds to weights: the tokenizer, the loader, the generator and what is drawn from it.

mod data;
mod rng;
#[path = "../support/mod.rs"]
mod support;
mod tables;
mod tokenizer;
