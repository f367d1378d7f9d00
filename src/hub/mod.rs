//! Opens files of the Hugging Face Hub, or of any server that supports ranges, without downloading them.
//!
//! Needs the feature `hub`.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use candle_core::{DType, Device};
//! use candle_gpt_input::checkpoint::{ByteRanges, Checkpoint, CheckpointOptions};
//! use candle_gpt_input::input_layer::{OpenOptions, TableStorage};
//! use candle_gpt_input::{GptInputLayer, hub::Repo};
//!
//! let repo = Repo::from_env("openai-community/gpt2")?;
//! let files = repo.input_tables()?.into_iter().map(|file| Arc::new(file) as Arc<dyn ByteRanges>);
//! let mut about = CheckpointOptions::default();
//! about.config_json = repo.text("config.json")?;
//! let checkpoint = Checkpoint::from_shards(files.collect(), &about)?;
//! let options = OpenOptions::new(DType::F32, &Device::Cpu).with_storage(TableStorage::Mapped);
//! let (layer, _) = GptInputLayer::open(&checkpoint, &options)?; // calls fetch just their rows
//! # Ok::<(), candle_gpt_input::Error>(())
//! ```

mod cache;
mod file;
mod repo;
mod request;

pub use file::{Client, RemoteFile};
pub use repo::Repo;
