//! What a training step takes behind the forward pass: the tied head's loss, and the optimizers.

mod loss;
mod optim;
#[path = "../support/mod.rs"]
mod support;
