//! The examples as programs, and the GPT-2 among them as a model.

mod dataloader;
mod explore;
mod gpt2;
mod pretrain;
mod programs;
#[path = "../support/mod.rs"]
mod support;
