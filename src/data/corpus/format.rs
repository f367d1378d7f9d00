//! [`CorpusFormat`]: the kinds of files of ids, recognised by their content.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{ConfigError, CorpusError, Error, ForeignFormat, N_HEAD, Result, foreign_head};

/// llm.c's ids of 16 bits, of version 1.
pub(super) const LLMC_NARROW: u32 = 20_240_520;
/// llm.c's ids of 32 bits, of version 7.
pub(super) const LLMC_WIDE: u32 = 20_240_801;
/// llm.c's examples for evaluation.
const LLMC_EVALUATION: u32 = 20_240_522;
pub(super) const MEGATRON_MAGIC: &[u8; 9] = b"MMIDIDX\0\0";

/// Names a kind of corpus.
///
/// ```
/// use candle_gpt_input::data::corpus::CorpusFormat;
///
/// assert_eq!("llmc".parse::<CorpusFormat>()?, CorpusFormat::Llmc);
/// assert_eq!(CorpusFormat::NanoGpt.to_string(), "nanogpt");
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CorpusFormat {
    /// nanoGPT's `train.bin` and `val.bin`: bare ids. Each file is a document, or ends one by each end of text.
    NanoGpt,
    /// llm.c's shards, such as those of FineWeb: a header of 1024 bytes, then ids. A document may go on in the next
    /// shard.
    Llmc,
    /// Megatron's `.bin` and `.idx`: ids, and where documents begin.
    Megatron,
    /// Texts in UTF-8, which are tokenized on opening and stay in memory. Each file is a document, and ends with the
    /// end of text if one is stated.
    Text,
}

impl fmt::Display for CorpusFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NanoGpt => "nanogpt",
            Self::Llmc => "llmc",
            Self::Megatron => "megatron",
            Self::Text => "text",
        })
    }
}

impl FromStr for CorpusFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(ConfigError::one_of(
            "format",
            [Self::NanoGpt, Self::Llmc, Self::Megatron, Self::Text],
            "nanogpt, llmc, megatron or text",
            text,
        )?)
    }
}

/// Extensions of files of JSON, which are no texts.
const JSON_NAMES: [&str; 3] = ["json", "jsonl", "ndjson"];

impl CorpusFormat {
    /// Recognises a file that is not part of a Megatron corpus: by its first bytes, then by its name.
    pub(super) fn of_file(path: &Path) -> Result<Self, CorpusError> {
        let mut head = Vec::new();
        let io = CorpusError::reading(path);
        let n_read =
            File::open(path).and_then(|file| file.take(N_HEAD as u64 + 1).read_to_end(&mut head)).map_err(io)?;
        let path = path.to_path_buf();
        if n_read == 0 {
            return Err(CorpusError::Empty { path });
        }
        if let Some(first) = head.first_chunk() {
            let (little, big) = (u32::from_le_bytes(*first), u32::from_be_bytes(*first));
            match little {
                LLMC_NARROW | LLMC_WIDE => return Ok(Self::Llmc),
                LLMC_EVALUATION => return Err(CorpusError::Evaluation { path }),
                _ => {}
            }
            if [LLMC_NARROW, LLMC_WIDE, LLMC_EVALUATION].contains(&big) {
                return Err(CorpusError::BigEndian { path, format: "llm.c's ids" });
            }
        }
        if is_bare(&path) {
            return Ok(Self::NanoGpt);
        }
        if begins_an_object(&head) || JSON_NAMES.iter().any(|name| path.extension().is_some_and(|found| found == *name))
        {
            return Err(CorpusError::JsonLines { path });
        }
        match foreign_head(&head[..n_read.min(N_HEAD)], n_read > N_HEAD) {
            None if head.contains(&0) => Err(CorpusError::Binary { path }),
            None | Some(ForeignFormat::Text { .. } | ForeignFormat::Config | ForeignFormat::Json) => Ok(Self::Text),
            Some(format) => Err(CorpusError::Foreign { path, format }),
        }
    }
}

/// Returns whether a text begins with an object of JSON that has a key.
fn begins_an_object(head: &[u8]) -> bool {
    let inside = head.trim_ascii_start().strip_prefix(b"{");
    inside.is_some_and(|inside| inside.trim_ascii_start().starts_with(b"\""))
}

/// Returns whether a file has the name of one with nothing but ids, which can have any bytes.
fn is_bare(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["bin", "u16", "u32"].iter().any(|bare| extension == *bare))
}
