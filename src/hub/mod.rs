//! Downloads files of the Hugging Face Hub, or reads them by ranges.
//!
//! Needs the feature `hub`. The page [`guide::hub`](crate::guide::hub) tells more.
//!
//! ```no_run
//! use candle_core::{DType, Device};
//! use candle_gpt_input::GptInputLayer;
//!
//! let layer = GptInputLayer::from_hub("openai-community/gpt2", DType::F32, &Device::Cpu)?; // downloads once
//! # Ok::<(), candle_gpt_input::Error>(())
//! ```

mod address;
mod answer;
mod cache;
mod content;
mod download;
mod environment;
mod file;
mod layout;
mod lock;
mod progress;
mod remote;
mod repo;
mod request;
mod snapshot;

pub use file::{Client, RemoteFile};
pub use progress::{Dropped, Progress};
pub use repo::Repo;
pub use snapshot::Snapshot;

/// Well above the size of any known configuration, index or tokenizer.
const MAX_TEXT_BYTES: u64 = 64 << 20;
