// Links of the README: in the documentation to items, in the repository, by its own definitions, to files. The first
// win.
#![cfg_attr(feature = "tokenizer", doc = include_str!("guide/links.md"))]
// The README's programs are tests, and they begin with text.
#![cfg_attr(any(not(doctest), feature = "tokenizer"), doc = include_str!("../README.md"))]
#![cfg_attr(docsrs, feature(doc_cfg))]
//! # Guide
//!
//! The pages of [`guide`] go on from here: [from PyTorch](guide::from_pytorch), [adopting](guide::adopting) the layer
//! in an existing model, [the id contract](guide::id_contract), [what is exact](guide::exactness),
//! [positions](guide::positions), [formats](guide::formats), [the hub](guide::hub),
//! [corpora](guide::corpora), [training](guide::training), [more than one machine](guide::machines), [GPU](guide::gpu)
//! and [from 0.1](guide::from_0_1).
//!
//! # Features
//!
//! - `tokenizer` (default): builds [`tokenizer`], with GPT-2's merges compiled in (456 kB).
//! - `hub`: builds `hub`, which downloads files of the Hugging Face Hub, or opens them by ranges. Nothing else in the
//!   crate touches the network.
//! - `mpi`: builds `ranks::Mpi`, for training on several machines. Needs an MPI library, such as Open MPI.
//! - `cuda`: runs on NVIDIA GPUs, by Candle's kernels and those of this crate. Needs `nvcc`.
//! - `metal`: runs on Apple GPUs, by Candle's kernels.
//! - `metal-kernels`: does the same, with the look-up, the sum and their gradients by kernels of this crate, which have
//!   never run on hardware.
//! - `accelerate`: computes matrix products on Apple CPUs by Apple's library.
//!
//! `cuda`, `metal` and `accelerate` turn on the same feature of [`candle_core`] and [`candle_nn`]. For their other
//! features, such as `mkl` and `cudnn`, name Candle in your own `Cargo.toml`.
//!
//! # Versions
//!
//! Version 0.2 needs Candle 0.11.1 or a later 0.11. Candle's types are in the signatures here, so the crate re-exports
//! [`candle_core`] and [`candle_nn`]: a program that uses these has the right version.
//!
//! # Letters
//!
//! Shapes are written with these: B sequences in a batch, T tokens in a sequence, C channels (`n_embd`), V tokens in
//! the vocabulary, P positions, H heads, D dimensions of a head.
//!
//! # Map of the code
//!
//! ```text
//! text ─tokenizer─▶ ids ─data─▶ batch ─▶ input_layer: embedding + position ─▶ hidden states ─▶ your blocks ─▶ lm_head
//!                                            ▲ kernel: id contract, look-up, sum
//!         checkpoint, init ──────────────────┘      config, device, error below all of them
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`input_layer`] | [`GptInputLayer`]: ids to hidden states |
//! | [`lm_head`] | [`LmHead`] and its loss |
//! | [`nn`] | pieces of a block that keep gradients: norms, softmax, GELU, linear layers, attention |
//! | [`embedding`] | the token table: dense, mapped or quantized |
//! | [`position`] | positions of a call, and nine position schemes |
//! | [`optim`] | AdamW, Adam over rows, clipping, saved state |
//! | [`data`] | ids to windows to batches |
//! | [`init`], [`dropout`] | tensors drawn from a generator |
//! | [`ranks`] | the processes of a job on several machines |
//! | [`vocab_parallel`] | a token table of which each rank holds a share |
//! | [`rng`] | torch's generator |
//! | [`checkpoint`] | files of weights: read, converted, saved |
//! | `hub` (feature) | repositories of the Hugging Face Hub, downloaded or by ranges |
//! | [`tokenizer`] (feature) | text to ids and back |
//! | [`GptInputConfig`] | dimensions and settings, as a `config.json` has them |
//! | [`device`], [`error`] | devices chosen at run time; everything that can fail |
//! | [`guide`] | pages on how to use all this |
//!
//! Private are `kernel` (the id contract and the arithmetic), `memory` (huge pages), `rows` (rows that are read from
//! bytes) and `shape` (checks of shapes, dtypes and devices). Unsafe code is in `kernel`, `memory`, and one file each
//! of `files` and `rng`. A module imports only modules of a strictly lower level, and no two files import each
//! other in a circle; a test enforces both.

pub mod checkpoint;
mod config;
pub mod data;
pub mod device;
pub mod dropout;
pub mod embedding;
pub mod error;
mod files;
pub mod guide;
#[cfg(feature = "hub")]
#[cfg_attr(docsrs, doc(cfg(feature = "hub")))]
pub mod hub;
pub mod init;
pub mod input_layer;
mod kernel;
pub mod lm_head;
mod memory;
pub mod nn;
pub mod optim;
pub mod position;
pub mod ranks;
pub mod rng;
mod rows;
mod shape;
#[cfg(test)]
mod tests;
#[cfg(feature = "tokenizer")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokenizer")))]
pub mod tokenizer;
pub mod vocab_parallel;

pub use candle_core;
pub use candle_nn;
pub use config::GptInputConfig;
pub use device::DeviceSpec;
pub use error::{Error, Result};
pub use input_layer::GptInputLayer;
pub use lm_head::LmHead;
pub use position::Positions;
