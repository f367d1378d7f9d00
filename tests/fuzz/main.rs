//! Every parser on damaged files: real files of each format, changed at random, must give tables or one clear error,
//! without a panic and within [bounds](limits) of memory and time.
//!
//! Among the tests each takes about a second. To run longer:
//!
//! ```text
//! FUZZ_SECONDS=900 cargo test --release --features hub --test fuzz fuzz_ -- --nocapture
//! ```
//!
//! Findings are kept in `broken_formats.rs`. Inputs follow from a seed, which a failure prints.

mod bounds;
mod bounds_of_formats;
mod broken_formats;
mod corpora;
#[cfg(feature = "hub")]
mod hub;
mod limits;
mod memory;
mod mutate;
mod pickles;
mod sizes;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "tokenizer")]
mod tokenizers;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_gpt_input::GptInputLayer;
use candle_gpt_input::checkpoint::{Checkpoint, TensorEntry};
use candle_gpt_input::input_layer::{OpenOptions, TableStorage};
use candle_gpt_input::rng::Generator;

use limits::measured;
use mutate::{Field, mutate};
use support::{copy_files, golden};

/// Elements of which no more than this are asked for are loaded, in each way.
const MAX_ELEMENTS: u64 = 1 << 20;

/// Says an error. Its text and those of its causes must be lines without control characters, and none says another.
fn one_line(error: impl std::error::Error + 'static) -> String {
    let chain = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    let texts: Vec<String> = chain.map(|error| error.to_string()).collect();
    for (n, text) in texts.iter().enumerate() {
        shown(text);
        assert!(texts[n + 1..].iter().all(|cause| !text.contains(cause.as_str())), "{texts:?}");
    }
    texts.join(": ")
}

/// Asserts that a text is a line that changes nothing on a terminal.
fn shown(text: &str) {
    let is_hostile = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.is_empty() && !text.contains(is_hostile), "{text:?}");
    assert!(text.len() < 10_000, "{} bytes", text.len());
}

/// Opens and lists a checkpoint, as `inspect_checkpoint` does; errors are fine.
fn inspect(path: &Path) -> Result<(Checkpoint, Vec<TensorEntry>), String> {
    let checkpoint = Checkpoint::open(path).map_err(one_line)?;
    let tensors = checkpoint.tensors().map_err(one_line)?;
    checkpoint.format().map_err(one_line)?;
    checkpoint.unreadable().map_err(one_line)?;
    checkpoint.pickle_report().map(ToString::to_string).filter(|text| !text.is_empty()).inspect(|text| shown(text));
    let _ = checkpoint.config().map_err(one_line);
    Ok((checkpoint, tensors))
}

/// Returns how many elements loading everything asks for.
fn n_asked(checkpoint: &Checkpoint, tensors: &[TensorEntry]) -> u64 {
    let in_file = tensors.iter().map(|tensor| tensor.shape.iter().map(|&dim| dim as u64).product::<u64>());
    // Schemes compute tables too.
    let computed =
        checkpoint.config().map_or(0, |config| (config.n_positions as u64).saturating_mul(config.n_embd as u64));
    in_file.fold(computed, u64::saturating_add)
}

/// Does all else that can be done with a checkpoint; errors are fine.
fn load(checkpoint: &Checkpoint, tensors: &[TensorEntry], out: &Path) -> Result<(), String> {
    let vb = checkpoint.var_builder(DType::F32, &Device::Cpu);
    for tensor in tensors {
        let _ = vb.get_unchecked(&tensor.name);
    }
    if let Ok(written) = checkpoint.convert(out, None, None).map_err(one_line) {
        assert!(checkpoint.unreadable().map_err(one_line)?.is_empty(), "a tensor was lost");
        let converted = Checkpoint::open(&written[0]).map_err(one_line)?.tensors().map_err(one_line)?;
        assert!(converted.iter().map(|tensor| &tensor.name).eq(tensors.iter().map(|tensor| &tensor.name)));
    }
    let options = OpenOptions::new(DType::F64, &Device::Cpu);
    let (layer, _) = GptInputLayer::open(checkpoint, &options).map_err(one_line)?;
    let (rows, width) = layer.wte().dims();
    // Rows beyond the vocabulary pad it.
    assert!(layer.config().vocab_size <= rows && layer.config().n_embd == width);
    let ids = Tensor::new(&[[rows as i64 - 1, 0]], &Device::Cpu).map_err(|error| error.to_string())?;
    let expected = numbers(layer.embed_tokens(&ids).map_err(Into::into).and_then(|rows| rows.i((0, 0))));
    for stored in [
        GptInputLayer::open(checkpoint, &options.clone().with_storage(TableStorage::Mapped)),
        GptInputLayer::open(checkpoint, &options.with_storage(TableStorage::Quantized)),
    ] {
        let Ok((layer, _)) = stored.map_err(one_line) else { continue };
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

/// Lays out a damaged checkpoint in an empty folder, and returns the path to open.
type Layout = fn(&Path, &[u8], &Generator) -> PathBuf;

/// Damages `seeds` for `FUZZ_SECONDS`, and opens each as `layout` lays it out.
fn fuzz_in(target: &str, seeds: &[Vec<u8>], fields: &[Field], layout: Layout) {
    fuzz_with(target, seeds, fields, |bytes, generator| {
        let folder = folder_in_memory();
        let path = layout(folder.path(), bytes, generator);
        let tried = try_one(folder.path(), &path);
        tried.map_err(|finding| format!("{finding}; kept as {}", folder.keep().display()))
    });
}

/// Damages `seeds` for `FUZZ_SECONDS`, and tries each, which says whether it was read whole, or what is wrong.
fn fuzz_with(
    target: &str,
    seeds: &[Vec<u8>],
    fields: &[Field],
    try_it: impl Fn(&[u8], &Generator) -> Result<bool, String>,
) {
    let (time, seed) = (variable("FUZZ_SECONDS"), variable("FUZZ_SEED"));
    let generator = Generator::manual_seed(seed);
    let (mut n_files, mut n_read, start) = (0u64, 0u64, Instant::now());
    while start.elapsed() < Duration::from_secs(time) {
        for _ in 0..16 {
            match try_it(&mutate(seeds, fields, &generator), &generator) {
                Ok(read) => n_read += u64::from(read),
                Err(finding) => panic!("file {n_files} of seed {seed} of {target}: {finding}"),
            }
            n_files += 1;
        }
    }
    println!("{target}: {n_files} files in {:.0?}, of which {n_read} were read whole", start.elapsed());
    assert!(n_read < n_files, "nothing was damaged");
    assert!(n_read > 0 || time < 10, "nothing was read whole");
}

/// Returns the number in an environment variable, 1 without it.
fn variable(name: &str) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Makes an empty folder. A conversion waits until a disk has its bytes, which in memory takes no time.
fn folder_in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Opens, lists and loads within the bounds; returns whether it was read whole, or what is wrong.
fn try_one(folder: &Path, path: &Path) -> Result<bool, String> {
    let n_there = limits::n_there(folder);
    let (inspected, spent) = measured(|| catch_unwind(AssertUnwindSafe(|| inspect(path))));
    spent.check(n_there, 0)?;
    let Ok((checkpoint, tensors)) = inspected.map_err(|_| "opening it panicked".to_string())? else { return Ok(false) };
    let n_asked = n_asked(&checkpoint, &tensors);
    if n_asked > MAX_ELEMENTS {
        return Ok(false);
    }
    let out = folder.join("out");
    let (loaded, spent) = measured(|| catch_unwind(AssertUnwindSafe(|| load(&checkpoint, &tensors, &out))));
    // Three layers of f64 and a tensor are in memory at once; files are opened once more.
    spent.check(2 * n_there, 32 * n_asked)?;
    Ok(loaded.map_err(|_| "loading it panicked".to_string())?.is_ok())
}

/// Damages files, whose paths begin at `tests/golden/formats`, and opens each under a name that says nothing.
fn fuzz(target: &str, seeds: &[&str], fields: &[Field]) {
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|seed| fs::read(golden("formats").join(seed)).unwrap()).collect();
    fuzz_in(target, &seeds, fields, |folder, bytes, _| {
        let path = folder.join("x");
        fs::write(&path, bytes).unwrap();
        path
    });
}

#[test]
fn fuzz_safetensors() {
    fuzz("safetensors", &["tables.safetensors"], &[Field::Json]);
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
        "../torch/kinds.pt",
        "../torch/protocol_0.pt",
        "../torch/protocol_5.pt",
    ];
    fuzz("torch", &seeds, &[Field::Zip, Field::Pickle]);
}

#[test]
fn fuzz_torch_legacy() {
    let seeds = [
        "legacy.bin",
        "strided_legacy.pth",
        "../pickles/objects.bin",
        "../pickles/python_2.bin",
        "../torch/kinds.bin",
        "../torch/protocol_0.bin",
        "../torch/protocol_1.bin",
        "../torch/protocol_4.bin",
    ];
    fuzz("torch_legacy", &seeds, &[Field::Pickle]);
}

#[test]
fn fuzz_gguf() {
    fuzz("gguf", &["f32.gguf", "q8_0.gguf", "q4_0.gguf", "q5_1.gguf"], &[]);
}

#[test]
fn fuzz_npz() {
    fuzz("npz", &["stored.npz", "deflated.npz", "fortran.npz", "fortran_deflated.npz"], &[Field::Zip]);
}

#[test]
fn fuzz_llmc() {
    fuzz("llmc", &["llmc_f32.bin", "llmc_bf16.bin"], &[]);
}

#[test]
fn fuzz_tensorflow() {
    let seeds = [fs::read(golden("formats/openai/model.ckpt.index")).unwrap()];
    fuzz_in("tensorflow", &seeds, &[Field::SsTable], |folder, bytes, _| {
        let data = "model.ckpt.data-00000-of-00001";
        fs::copy(golden("formats/openai").join(data), folder.join(data)).unwrap();
        let path = folder.join("model.ckpt.index");
        fs::write(&path, bytes).unwrap();
        path
    });
}

#[test]
fn fuzz_index() {
    let seeds = [fs::read(golden("formats/sharded/pytorch_model.bin.index.json")).unwrap()];
    fuzz_in("index", &seeds, &[Field::Json], |folder, bytes, _| {
        copy_files(golden("formats/sharded"), folder);
        fs::write(folder.join("pytorch_model.bin.index.json"), bytes).unwrap();
        folder.to_path_buf()
    });
}

/// Shards under an index that is whole.
#[test]
fn fuzz_shards() {
    let shards = [1, 2, 3, 4].map(|i| format!("model-{i:05}-of-00004.safetensors"));
    let seeds = shards.map(|shard| fs::read(golden("gpt2_sharded").join(shard)).unwrap());
    fuzz_in("shards", &seeds, &[Field::Json], |folder, bytes, generator| {
        copy_files(golden("gpt2_sharded"), folder);
        let number = generator.randint(1, 5, 1).unwrap()[0];
        fs::write(folder.join(format!("model-{number:05}-of-00004.safetensors")), bytes).unwrap();
        folder.to_path_buf()
    });
}

/// A configuration beside weights that are whole.
#[test]
fn fuzz_config() {
    let more = [
        r#"{"model_type": "bloom", "n_head": 4, "n_layer": 2, "alibi": true, "layer_norm_epsilon": 1e-5}"#,
        r#"{"num_hidden_layers": 2, "num_attention_heads": 3, "rope_theta": 10000.0, "head_dim": 4, "partial_rotary_factor": 0.5,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "beta_fast": 32}}"#,
        r#"{"n_head": 3, "n_layer": 2, "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}}"#,
        r#"{"position_embedding_type": "shaw", "n_layer": 2, "n_head": 3, "left_max_position_embeddings": 4}"#,
        r#"{"position_embedding_type": "sinusoidal", "n_positions": 23, "n_embd": 12, "scale_embedding": true}"#,
        r#"{"position_embedding_type": "t5", "relative_attention_num_buckets": 32, "n_head": 3}"#,
        r#"{"position_embedding_type": "deberta", "position_buckets": 4, "n_layer": 2, "n_head": 3}"#,
        r#"{"position_embedding_type": "transformer-xl", "n_layer": 2, "n_head": 3, "n_embd": 12}"#,
    ];
    let mut seeds = vec![fs::read(golden("gpt2_one_file/config.json")).unwrap()];
    seeds.extend(more.map(|text| text.as_bytes().to_vec()));
    fuzz_in("config", &seeds, &[Field::Json], |folder, bytes, _| {
        copy_files(golden("gpt2_one_file"), folder);
        fs::write(folder.join("config.json"), bytes).unwrap();
        folder.to_path_buf()
    });
}
