//! llm.c's `.bin`: 256 integers, then every parameter in a fixed order.
//!
//! `write_model` of <https://github.com/karpathy/llm.c/blob/master/train_gpt2.py>; versions 3 (f32) and 5 (bf16).

use candle_core::DType;
use serde_json::json;

use super::super::budget::Budget;
use super::super::bytes::{ByteFile, Parse, ParseError, invalid};
use super::super::names::CONFIG_METADATA;
use super::super::stored::{Contents, StoredDType, StoredTensor};
use crate::config::PADDED_VOCAB;

pub(in super::super) const MAGIC: [u8; 4] = 20_240_326u32.to_le_bytes();
const HEADER_BYTES: u64 = 1024;

/// Reads the header and places the parameters, named as in llm.c's `train_gpt2.py` and nanoGPT.
pub(in super::super) fn parse(file: &ByteFile) -> Parse<Contents> {
    let header = file.bytes_at(0, HEADER_BYTES)?;
    let mut numbers = header.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).skip(1);
    let mut next = || numbers.next().unwrap_or(0);
    let dtype = match next() {
        3 => DType::F32,
        5 => DType::BF16,
        version => return invalid(format!("version {version} is not supported: expected 3 (f32) or 5 (bf16)")),
    };
    let mut dims = [0usize; 6];
    for (dim, name) in dims.iter_mut().zip(["max_seq_len", "vocab_size", "num_layers", "num_heads", "channels"]) {
        let stated = next();
        *dim = usize::try_from(stated).map_err(|_| ParseError::Invalid(format!("{name} is {stated}")))?;
    }
    let padded = next();
    dims[5] = usize::try_from(padded).map_err(|_| ParseError::Invalid(format!("padded_vocab_size is {padded}")))?;
    let [p, v, n_layer, n_head, c, padded_v] = dims;
    if v > padded_v {
        return invalid(format!("a vocabulary of {v} cannot be padded to {padded_v}"));
    }
    // A block has 12 C² elements in its matrices and 13 C in its vectors.
    let wide = |n: usize| n as u128;
    let n_block = 12 * wide(c) * wide(c) + 13 * wide(c);
    let n_parameters = (wide(padded_v) + wide(p) + 2) * wide(c) + wide(n_layer).saturating_mul(n_block);
    let n_bytes = n_parameters.saturating_mul(wide(dtype.size_in_bytes())).saturating_add(u128::from(HEADER_BYTES));
    if n_bytes != u128::from(file.n_bytes) || c == 0 {
        return invalid(format!("its header describes {n_bytes} bytes, but the file has {}", file.n_bytes));
    }
    let mut layout = Layout { budget: file.budget(), contents: Contents::default(), dtype, at: HEADER_BYTES };
    layout.add("transformer.wte.weight".to_string(), &[padded_v, c])?;
    layout.add("transformer.wpe.weight".to_string(), &[p, c])?;
    let block: [(&str, &[usize]); 12] = [
        ("ln_1.weight", &[c]),
        ("ln_1.bias", &[c]),
        ("attn.c_attn.weight", &[3 * c, c]),
        ("attn.c_attn.bias", &[3 * c]),
        ("attn.c_proj.weight", &[c, c]),
        ("attn.c_proj.bias", &[c]),
        ("ln_2.weight", &[c]),
        ("ln_2.bias", &[c]),
        ("mlp.c_fc.weight", &[4 * c, c]),
        ("mlp.c_fc.bias", &[4 * c]),
        ("mlp.c_proj.weight", &[c, 4 * c]),
        ("mlp.c_proj.bias", &[c]),
    ];
    // All blocks' values of one parameter lie together.
    for (name, shape) in block {
        for i in 0..n_layer {
            layout.add(format!("transformer.h.{i}.{name}"), shape)?;
        }
    }
    layout.add("transformer.ln_f.weight".to_string(), &[c])?;
    layout.add("transformer.ln_f.bias".to_string(), &[c])?;
    let config = json!({
        "vocab_size": v, "n_positions": p, "n_embd": c, "n_layer": n_layer, "n_head": n_head, PADDED_VOCAB: padded_v,
    });
    layout.contents.note(file.budget(), CONFIG_METADATA, config.to_string())?;
    Ok(layout.contents)
}

struct Layout<'a> {
    budget: &'a Budget,
    contents: Contents,
    dtype: DType,
    /// Where the next parameter begins.
    at: u64,
}

impl Layout<'_> {
    fn add(&mut self, name: String, shape: &[usize]) -> Parse<()> {
        let tensor = StoredTensor::plain(shape.to_vec(), StoredDType::float(self.dtype), 0, self.at);
        self.at += tensor.n_bytes() as u64;
        self.contents.add(self.budget, name, tensor)
    }
}
