// The README's programs are tests, and they begin with text.
#![cfg_attr(any(not(doctest), feature = "tokenizer"), doc = include_str!("../README.md"))]
#![cfg_attr(docsrs, feature(doc_cfg))]
//! # Features
//!
//! - `tokenizer` (default): [`tokenizer`], with GPT-2's merges compiled in. Without it neither its dependencies nor the 456 kB
//!   of merges are built.
//! - `hub`: `hub`, which opens files of the Hugging Face Hub and of other servers by ranges. Without it nothing here touches
//!   the network.
//! - `cuda`: NVIDIA GPUs, by Candle's kernels and those of this crate; needs `nvcc`.
//! - `metal`: Apple GPUs, by Candle's kernels.
//! - `accelerate`: matrix products on Apple CPUs by Apple's library.
//!
//! Back ends are forwarded to [`candle_core`] and [`candle_nn`]. Other features of theirs (`mkl`, `cudnn`) are turned on where
//! they are, in the `Cargo.toml` of a program: this crate needs nothing of them.
//!
//! # Versions
//!
//! 0.2 of this crate is made for Candle 0.11, whose types are in its signatures: [`candle_core`] and [`candle_nn`] are
//! re-exported, so that a program can take exactly those.

pub mod checkpoint;
mod config;
pub mod data;
pub mod device;
pub mod dropout;
pub mod embedding;
pub mod error;
pub mod guide;
#[cfg(feature = "hub")]
#[cfg_attr(docsrs, doc(cfg(feature = "hub")))]
pub mod hub;
pub mod init;
pub mod input_layer;
mod kernel;
pub mod lm_head;
mod memory;
pub mod optim;
pub mod position;
pub mod rng;
mod rows;
mod shape;
#[cfg(test)]
mod tests;
#[cfg(feature = "tokenizer")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokenizer")))]
pub mod tokenizer;

pub use candle_core;
pub use candle_nn;
pub use config::GptInputConfig;
pub use device::DeviceSpec;
pub use error::{Error, Result};
pub use input_layer::GptInputLayer;
pub use lm_head::LmHead;
pub use position::Positions;
