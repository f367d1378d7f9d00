//! What the tests share: the devices of this machine, tables whose values are their own addresses, and plain loops.

#![allow(dead_code)] // each test binary uses its own part

#[cfg(feature = "hub")]
pub mod http;
pub mod naive;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};

/// The CPU, and a CUDA device where this build and this machine have one.
pub fn devices() -> Vec<Device> {
    let mut devices = vec![Device::Cpu];
    if cfg!(feature = "cuda") {
        match Device::new_cuda(0) {
            Ok(device) => devices.push(device),
            Err(error) => eprintln!("skipped on CUDA: {error}"),
        }
    }
    devices
}

/// Those with kernels of Candle's own, which the stand-in of `tests/cuda_host` has not.
pub fn complete_devices() -> Vec<Device> {
    let has_all = |device: &Device| device.is_cpu() || std::env::var_os("CUDA_HOST_STAND_IN").is_none();
    devices().into_iter().filter(has_all).collect()
}

/// A table `[n_rows, width]` whose value is `base + row * 100 + column`: a transposed or shifted read cannot pass.
pub fn addressed(base: f32, n_rows: usize, width: usize, device: &Device) -> Tensor {
    let values: Vec<f32> = (0..n_rows * width).map(|i| base + ((i / width) * 100 + i % width) as f32).collect();
    Tensor::from_vec(values, (n_rows, width), device).unwrap()
}

/// The bits of a tensor's values, whatever its floating-point type.
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

/// The text of the error that a call must end in.
#[track_caller]
pub fn error_text<T>(result: Result<T, impl std::fmt::Display>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.to_string(),
    }
}

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The tensors of a golden file, which must say which torch it comes from.
pub fn golden_tensors(name: &str) -> HashMap<String, Tensor> {
    let bytes = std::fs::read(golden(name)).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap_or_default();
    assert!(metadata.contains_key("torch"), "{name}: run `{:?}`", metadata.get("command"));
    candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap()
}

/// An example's program. `cargo test --test NAME` builds no examples, so that an old one could be found: this builds them,
/// once a process, with the features and the profile of the test.
pub fn example(name: &str) -> Command {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--offline", "--examples"]);
        // What cargo tells a test about its package would make build scripts (ours, ring's) run again.
        let of_cargo = ["CARGO_PKG_", "CARGO_MANIFEST_", "OUT_DIR", "LD_LIBRARY_PATH"];
        for (key, _) in std::env::vars_os() {
            if key.to_str().is_some_and(|key| of_cargo.iter().any(|start| key.starts_with(start))) {
                build.env_remove(key);
            }
        }
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        for (enabled, feature) in [(cfg!(feature = "hub"), "hub"), (cfg!(feature = "cuda"), "cuda")] {
            if enabled {
                build.args(["--features", feature]);
            }
        }
        assert!(build.status().unwrap().success(), "the examples do not build");
    });
    let test = std::env::current_exe().unwrap();
    let mut command = Command::new(test.parent().unwrap().parent().unwrap().join("examples").join(name));
    command.current_dir(std::env::temp_dir()); // defaults must not depend on where they are run
    command
}
