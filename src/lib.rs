#![doc = include_str!("../README.md")]

#[doc = include_str!("adopting.md")]
pub mod adopting {}
pub mod checkpoint;
mod config;
pub mod data;
pub mod device;
pub mod dropout;
pub mod embedding;
pub mod error;
pub mod init;
pub mod input_layer;
mod kernel;
pub mod lm_head;
mod memory;
pub mod optim;
pub mod position;
mod ranges;
pub mod rng;
pub mod tokenizer;

pub use config::GptInputConfig;
pub use device::DeviceSpec;
pub use error::{Error, Result};
pub use input_layer::GptInputLayer;
pub use lm_head::TiedLmHead;
pub use position::Positions;
