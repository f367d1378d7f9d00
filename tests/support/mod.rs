//! Shared by the tests: the devices of this machine, tables whose values are their own addresses, and plain loops.

#![allow(dead_code, unused_imports)] // each test binary uses its own part

pub mod hostile;
#[cfg(feature = "hub")]
pub mod http;
pub mod naive;
#[path = "../../src/tests.rs"]
mod shared;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use candle_gpt_input::GptInputLayer;
use candle_gpt_input::checkpoint::{Checkpoint, LoadReport};
use candle_gpt_input::input_layer::{OpenOptions, TableStorage};
pub use shared::properties;

/// The types of quantized blocks that are read.
pub const BLOCK_TYPES: [GgmlDType; 10] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q2K,
    GgmlDType::Q3K,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];

/// Returns the CPU, and in a build with CUDA its first device.
pub fn devices() -> Vec<Device> {
    [
        Some(Device::Cpu),
        #[cfg(feature = "cuda")]
        shared::cuda(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Returns the devices that have Candle's own kernels, which the stand-in of `tests/cuda_host` lacks.
pub fn complete_devices() -> Vec<Device> {
    #[cfg(feature = "cuda")]
    if std::env::var_os("CUDA_HOST_STAND_IN").is_some() {
        shared::skipped("on the stand-in, which has no kernels of Candle's");
        return vec![Device::Cpu];
    }
    devices()
}

/// Makes a table `[n_rows, width]` of `base + row * 100 + column`, in which a transposed or shifted read shows.
pub fn addressed(base: f32, n_rows: usize, width: usize, device: &Device) -> Tensor {
    let values: Vec<f32> = (0..n_rows * width).map(|i| base + ((i / width) * 100 + i % width) as f32).collect();
    Tensor::from_vec(values, (n_rows, width), device).unwrap()
}

/// Returns the bits of a tensor's elements, for any floating-point dtype.
pub fn bits(tensor: &Tensor) -> Vec<u64> {
    let flat = tensor.flatten_all().unwrap().to_device(&Device::Cpu).unwrap();
    match flat.dtype() {
        DType::F32 => flat.to_vec1::<f32>().unwrap().iter().map(|x| u64::from(x.to_bits())).collect(),
        DType::F64 => flat.to_vec1::<f64>().unwrap().iter().map(|x| x.to_bits()).collect(),
        DType::F16 => flat.to_vec1::<half::f16>().unwrap().iter().map(|x| u64::from(x.to_bits())).collect(),
        DType::BF16 => flat.to_vec1::<half::bf16>().unwrap().iter().map(|x| u64::from(x.to_bits())).collect(),
        other => panic!("no bits of {other:?}"),
    }
}

#[track_caller]
pub fn assert_bits_eq(left: &Tensor, right: &Tensor) {
    assert_eq!((left.dtype(), left.dims()), (right.dtype(), right.dims()));
    let (left, right) = (bits(left), bits(right));
    if let Some(i) = (0..left.len()).find(|&i| left[i] != right[i]) {
        panic!("element {i}: {:#x} is not {:#x}", left[i], right[i]);
    }
}

/// Returns max|left - right|, which is NaN where an element is: `max` of Candle's tensors may skip it.
#[track_caller]
pub fn apart(left: &Tensor, right: &Tensor) -> f64 {
    assert_eq!((left.dims(), left.dtype()), (right.dims(), right.dtype()));
    let (left, right) = (naive::numbers(left), naive::numbers(right));
    let each = left.iter().zip(&right).map(|(x, y)| (x - y).abs());
    each.fold(0.0, |max, x| if x > max || x.is_nan() { x } else { max })
}

/// Returns max|found - expected| / max|expected|, which is 0 where nothing is apart and NaN where an element is.
#[track_caller]
pub fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    let largest = naive::numbers(expected).iter().fold(0.0f64, |max, x| max.max(x.abs()));
    match apart(found, expected) {
        0.0 => 0.0,
        apart => apart / largest,
    }
}

#[track_caller]
pub fn assert_close(what: &str, found: &Tensor, expected: &Tensor, bound: f64) {
    assert_eq!((found.dims(), found.dtype()), (expected.dims(), expected.dtype()), "{what}");
    let difference = difference(found, expected);
    // A NaN is not within the bound.
    assert!(difference <= bound, "{what}: {difference:e} of the largest apart, allowed {bound:e}");
}

/// Returns the text of a call's error and all its causes; fails if there is none.
#[track_caller]
pub fn error_text<T>(result: Result<T, impl Into<anyhow::Error>>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => format!("{:#}", error.into()),
    }
}

/// Opens a checkpoint's layer on the CPU, and returns the report too.
pub fn open(path: impl AsRef<Path>, dtype: DType) -> candle_gpt_input::Result<(GptInputLayer, LoadReport)> {
    open_as(path, dtype, TableStorage::Dense)
}

/// Opens a checkpoint's layer on the CPU with the given storage.
pub fn open_as(
    path: impl AsRef<Path>,
    dtype: DType,
    storage: TableStorage,
) -> candle_gpt_input::Result<(GptInputLayer, LoadReport)> {
    GptInputLayer::open(&Checkpoint::open(path)?, &OpenOptions::new(dtype, &Device::Cpu).with_storage(storage))
}

pub fn golden(name: &str) -> PathBuf {
    // At run time, as the programs may run on another machine than the one that built them.
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&root).join("tests/golden").join(name)
}

/// Copies the files of a folder that has no others in it.
pub fn copy_files(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), to.as_ref().join(entry.file_name())).unwrap();
    }
}

/// Reads the tensors of a golden file, which must name its version of torch.
pub fn golden_tensors(name: &str) -> HashMap<String, Tensor> {
    let bytes = std::fs::read(golden(name)).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap_or_default();
    assert!(metadata.contains_key("torch"), "{name}: run `{:?}`", metadata.get("command"));
    candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap()
}

/// Reads a golden file of JSON.
pub fn golden_json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

/// Returns FNV-1a of 64 bits, in hexadecimal digits.
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> String {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Collects the failures in a table of cases and shows them all at the end, so that the first does not hide the rest.
#[derive(Default)]
pub struct Failures(Vec<String>);

impl Failures {
    /// Notes a call unless it fails with an error whose text contains `expected`.
    pub fn error<T>(&mut self, result: Result<T, impl Into<anyhow::Error>>, expected: &str) {
        let text = result.err().map_or("no error".to_string(), |error| format!("{:#}", error.into()));
        self.holds(text.contains(expected), format_args!("{text}\n  expected {expected}"));
    }

    /// Notes `what` unless it holds.
    pub fn holds(&mut self, holds: bool, what: impl std::fmt::Display) {
        if !holds {
            self.0.push(what.to_string());
        }
    }
}

impl Drop for Failures {
    fn drop(&mut self) {
        assert!(self.0.is_empty() || std::thread::panicking(), "{} failed:\n{}", self.0.len(), self.0.join("\n"));
    }
}
