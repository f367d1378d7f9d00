//! Writes the two tables as GGUF: as floating-point elements, or as unchanged quantized blocks.

use std::io::{self, Write};
use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};

use super::format::gguf::{ALIGNMENT, MAGIC, number_of, number_of_blocks};
use super::keys;
use super::save::{replace, write_elements};
use crate::config::GptInputConfig;
use crate::error::{CheckpointError, Result};

/// A token table to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TableData<'a> {
    Numbers(&'a Tensor),
    /// The quantized blocks of `[n_rows, width]` elements.
    Blocks {
        block_type: GgmlDType,
        dims: (usize, usize),
        bytes: &'a [u8],
    },
}

/// The tables of a layer, to be written into GGUF.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SavedBlocks<'a> {
    pub(crate) wte: TableData<'a>,
    pub(crate) wpe: &'a Tensor,
    /// The weight of an output head of its own.
    pub(crate) head: Option<TableData<'a>>,
    pub(crate) bias: Option<&'a Tensor>,
}

impl TableData<'_> {
    fn dims(&self) -> Vec<usize> {
        match self {
            Self::Numbers(table) => table.dims().to_vec(),
            Self::Blocks { dims, .. } => vec![dims.0, dims.1],
        }
    }

    fn number(&self) -> Result<u32, CheckpointError> {
        match self {
            Self::Numbers(table) => {
                let dtype = table.dtype();
                number_of(dtype).ok_or(CheckpointError::UnsupportedDType { dtype })
            }
            // No table of other blocks can be made.
            Self::Blocks { block_type, .. } => {
                number_of_blocks(*block_type).ok_or(CheckpointError::UnsupportedDType { dtype: DType::F32 })
            }
        }
    }

    fn n_bytes(&self) -> u64 {
        match self {
            Self::Numbers(table) => (table.elem_count() * table.dtype().size_in_bytes()) as u64,
            Self::Blocks { bytes, .. } => bytes.len() as u64,
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Numbers(table) => write_elements(out, table),
            Self::Blocks { bytes, .. } => out.write_all(bytes),
        }
    }
}

/// Writes version 3 with the dimensions of `config` under llama.cpp's keys for GPT-2. The format has no keys for the
/// rest of the configuration.
pub(crate) fn save_gguf(path: &Path, tables: SavedBlocks<'_>, config: &GptInputConfig) -> Result<()> {
    let mut tables: Vec<(&str, TableData<'_>)> = [
        (keys::GGUF.0, Some(tables.wte)),
        (keys::GGUF.1, Some(TableData::Numbers(tables.wpe))),
        (keys::GGUF_HEAD.0, tables.head),
        (keys::GGUF_HEAD.1, tables.bias.map(TableData::Numbers)),
    ]
    .into_iter()
    .filter_map(|(name, table)| Some((name, table?)))
    .collect();
    let on_host = |table: &TableData<'_>| match table {
        TableData::Numbers(table) => table.to_device(&Device::Cpu)?.contiguous().map(Some),
        TableData::Blocks { .. } => Ok(None),
    };
    let dense = tables.iter().map(|(_, table)| on_host(table)).collect::<candle_core::Result<Vec<_>>>()?;
    for ((_, table), dense) in tables.iter_mut().zip(&dense) {
        *table = dense.as_ref().map_or(*table, TableData::Numbers);
    }
    let header = header_of(path, &tables, config)?;
    replace(path, |out| {
        out.write_all(&header)?;
        for (_, table) in &tables {
            table.write(out)?;
            out.write_all(&padding(table.n_bytes()))?;
        }
        Ok(())
    })?;
    Ok(())
}

/// Returns everything in front of the tables, padded.
fn header_of(path: &Path, tables: &[(&str, TableData<'_>)], config: &GptInputConfig) -> Result<Vec<u8>> {
    const VERSION: u32 = 3;
    const TEXT: u32 = 8;
    const U32: u32 = 4;
    let mut numbers = vec![
        ("context_length", config.n_positions),
        ("embedding_length", config.n_embd),
        ("block_count", config.n_layer),
        ("attention.head_count", config.n_head),
        ("vocab_size", config.n_token_rows()),
    ];
    if config.padded_vocab_size.is_some() {
        numbers.push(("unpadded_vocab_size", config.vocab_size));
    }
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend((tables.len() as u64).to_le_bytes());
    header.extend((numbers.len() as u64 + 1).to_le_bytes());
    text(&mut header, "general.architecture");
    header.extend(TEXT.to_le_bytes());
    text(&mut header, "gpt2");
    for (key, number) in numbers {
        text(&mut header, &format!("gpt2.{key}"));
        header.extend(U32.to_le_bytes());
        let number = u32::try_from(number).map_err(|_| CheckpointError::CannotReadBack {
            path: path.to_path_buf(),
            reason: format!("its {key} would be {number}, more than the 32 bits of GGUF"),
        })?;
        header.extend(number.to_le_bytes());
    }
    let mut start = 0u64;
    for (name, table) in tables {
        let dims = table.dims();
        text(&mut header, name);
        header.extend(u32::try_from(dims.len()).unwrap_or(u32::MAX).to_le_bytes());
        dims.iter().rev().for_each(|&dim| header.extend((dim as u64).to_le_bytes())); // the innermost comes first
        header.extend(table.number()?.to_le_bytes());
        header.extend(start.to_le_bytes());
        start += table.n_bytes().next_multiple_of(ALIGNMENT);
    }
    header.extend(padding(header.len() as u64));
    Ok(header)
}

fn text(header: &mut Vec<u8>, text: &str) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend(text.as_bytes());
}

/// Returns the zeros that pad `n_bytes` to a multiple of the alignment, which is a power of two.
fn padding(n_bytes: u64) -> Vec<u8> {
    vec![0; (n_bytes.wrapping_neg() % ALIGNMENT) as usize]
}
