//! Reading and writing checkpoints: every format, every known name, damaged files, and the promises of saving.

mod broken;
mod configs;
mod conversions;
#[cfg(feature = "hub")]
mod downloads;
mod folders;
mod foreign;
mod formats;
mod heads;
#[cfg(feature = "hub")]
mod hostile_hub;
mod incomplete;
mod kills;
mod mapped;
#[cfg(target_os = "linux")]
mod memory;
mod names;
mod options;
mod other_models;
mod pickle_keys;
mod pickles;
mod quantized;
#[cfg(feature = "hub")]
mod remote;
mod repeated;
mod saves;
mod saving;
mod sources;
#[path = "../support/mod.rs"]
mod support;
mod torch_kinds;
mod transformers;
#[cfg(feature = "hub")]
mod unreachable_hub;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_gpt_input::checkpoint::{
    Checkpoint, CheckpointOptions, ConfigSource, Role, SaveFormat, ShardIndex, save_tensors,
};
use candle_gpt_input::input_layer::{OpenOptions, TableStorage};
use candle_gpt_input::{GptInputConfig, GptInputLayer, Positions, Result};
use half::{bf16, f16};
use support::{
    Failures, addressed, apart, assert_bits_eq, assert_close, bits, copy_files, error_text, golden, golden_tensors,
    open, open_as, properties,
};
use tempfile::TempDir;

fn load(path: impl AsRef<Path>) -> Result<GptInputLayer> {
    GptInputLayer::from_pretrained(path, DType::F32, &Device::Cpu)
}

/// Writes a safetensors file with this header and `n_data` zero bytes.
fn file(path: impl AsRef<Path>, header: &str, n_data: u64) -> PathBuf {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    fs::write(&path, &bytes).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(bytes.len() as u64 + n_data).unwrap();
    path.as_ref().to_path_buf()
}

/// Returns the names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

fn tables(v: usize, p: usize, c: usize) -> (Tensor, Tensor) {
    let wpe = (addressed(0., p, c, &Device::Cpu) / 1024.).unwrap();
    (addressed(0., v, c, &Device::Cpu), wpe)
}

fn tables_of(layer: &GptInputLayer) -> [Tensor; 2] {
    let tables = [layer.wte().as_embedding(), layer.wpe().unwrap().as_embedding()];
    tables.map(|table| table.unwrap().embeddings().clone())
}
