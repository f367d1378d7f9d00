//! Every parser on damaged files: real files of each format, changed at random, must give tables or one clear error,
//! without a panic and within bounded memory.
//!
//! Among the tests each takes about a second. To run longer:
//!
//! ```text
//! FUZZ_SECONDS=600 cargo test --release --features hub --test fuzz fuzz_ -- --nocapture
//! ```
//!
//! Findings are kept in `broken_formats.rs`. Inputs follow from a seed, which a failure prints.

mod bounds;
mod broken_formats;
mod memory;
mod mutate;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_gpt_input::GptInputLayer;
use candle_gpt_input::checkpoint::Checkpoint;
use candle_gpt_input::input_layer::{OpenOptions, TableStorage};
use candle_gpt_input::rng::Generator;

use mutate::{Field, mutate};
use support::golden;

/// More than any of the small files needs for its tables in f64 and the parsers' buffers.
const MAX_BYTES: usize = 48 << 20;

/// Does all that can be done with a checkpoint; errors are fine.
fn use_checkpoint(path: &Path) -> Result<(), String> {
    let one_line = |error: &dyn std::fmt::Display| {
        let text = error.to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    };
    let checkpoint = Checkpoint::open(path).map_err(|error| one_line(&error))?;
    let tensors = checkpoint.tensors().map_err(|error| one_line(&error))?;
    let vb = checkpoint.var_builder(DType::F32, &Device::Cpu);
    for tensor in &tensors {
        let _ = vb.get_unchecked(&tensor.name);
    }
    let options = OpenOptions::new(DType::F64, &Device::Cpu);
    let (layer, _) = GptInputLayer::open(&checkpoint, &options).map_err(|error| one_line(&error))?;
    let (rows, width) = layer.wte().dims();
    assert_eq!((layer.config().vocab_size, layer.config().n_embd), (rows, width));
    let ids = Tensor::new(&[[rows as i64 - 1, 0]], &Device::Cpu).map_err(|error| error.to_string())?;
    let expected = numbers(layer.embed_tokens(&ids).map_err(Into::into).and_then(|rows| rows.i((0, 0))));
    for stored in [
        GptInputLayer::open(&checkpoint, &options.clone().with_storage(TableStorage::Mapped)),
        GptInputLayer::open(&checkpoint, &options.with_storage(TableStorage::Quantized)),
    ] {
        let Ok((layer, _)) = stored.inspect_err(|error| drop(one_line(error))) else { continue };
        let found = numbers(layer.embed_tokens(&ids).map_err(Into::into).and_then(|rows| rows.i((0, 0))));
        // Not every conversion keeps the payload of a NaN.
        let same = |(x, y): (&f64, &f64)| x == y || (x.is_nan() && y.is_nan());
        assert!(found.iter().zip(&expected).all(same) && found.len() == expected.len(), "{found:?} {expected:?}");
    }
    Ok(())
}

fn numbers(row: candle_core::Result<Tensor>) -> Vec<f64> {
    row.and_then(|row| row.to_vec1()).unwrap()
}

/// Damages `seeds` (paths from `tests/golden/formats` on) for `FUZZ_SECONDS`, and opens each as a file called `name`.
fn fuzz(target: &str, seeds: &[&str], name: &str, fields: &[Field]) {
    let time = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|seed| fs::read(golden("formats").join(seed)).unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    // The file that an index refers to.
    fs::copy(
        golden("formats/openai/model.ckpt.data-00000-of-00001"),
        folder.path().join("model.ckpt.data-00000-of-00001"),
    )
    .unwrap();
    let generator = Generator::manual_seed(seed);
    let (mut n_files, mut n_read, start) = (0u64, 0u64, Instant::now());
    while start.elapsed() < Duration::from_secs(time) {
        for _ in 0..64 {
            let bytes = mutate(&seeds, fields, &generator);
            fs::write(&path, &bytes).unwrap();
            let (result, n_bytes) = memory::peak(|| catch_unwind(AssertUnwindSafe(|| use_checkpoint(&path))));
            if result.is_err() || n_bytes > MAX_BYTES {
                let kept = std::env::temp_dir().join(format!("fuzz_{target}_{seed}_{n_files}"));
                fs::write(&kept, &bytes).unwrap();
                panic!("file {n_files} of seed {seed}: {n_bytes} bytes allocated; kept as {}", kept.display());
            }
            n_files += 1;
            n_read += u64::from(matches!(result, Ok(Ok(()))));
        }
    }
    println!("{target}: {n_files} files in {:.0?}, of which {n_read} were read whole", start.elapsed());
    assert!(n_read < n_files, "nothing was damaged");
}

#[test]
fn fuzz_safetensors() {
    fuzz("safetensors", &["tables.safetensors"], "x", &[]);
}

#[test]
fn fuzz_torch() {
    let seeds = [
        "state_dict.pth",
        "float16.pt",
        "nanogpt.pt",
        "strided.pth",
        "../pickles/deep.pt",
        "../pickles/float8_e5m2.pt",
        "../pickles/items_nested.pt",
        "../pickles/megatron.pt",
        "../pickles/objects_4.pt",
        "../pickles/script.pt",
    ];
    fuzz("torch", &seeds, "x", &[Field::Zip, Field::Pickle]);
}

#[test]
fn fuzz_torch_legacy() {
    let seeds = ["legacy.bin", "strided_legacy.pth", "../pickles/objects.bin", "../pickles/python_2.bin"];
    fuzz("torch_legacy", &seeds, "x", &[Field::Pickle]);
}

#[test]
fn fuzz_gguf() {
    fuzz("gguf", &["f32.gguf", "q8_0.gguf", "q4_0.gguf", "q5_1.gguf"], "x", &[]);
}

#[test]
fn fuzz_npz() {
    fuzz("npz", &["stored.npz", "deflated.npz", "fortran.npz", "fortran_deflated.npz"], "x", &[Field::Zip]);
}

#[test]
fn fuzz_llmc() {
    fuzz("llmc", &["llmc_f32.bin", "llmc_bf16.bin"], "x", &[]);
}

#[test]
fn fuzz_tensorflow() {
    fuzz("tensorflow", &["openai/model.ckpt.index"], "model.ckpt.index", &[Field::SsTable]);
}

#[test]
fn fuzz_index() {
    fuzz("index", &["sharded/pytorch_model.bin.index.json"], "x", &[]);
}
