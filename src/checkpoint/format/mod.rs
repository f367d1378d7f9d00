//! The formats of weights, recognised by a file's content, never by its name.

pub(super) mod foreign;
pub(super) mod gguf;
mod gguf_config;
pub(super) mod gguf_tokenizer;
pub(super) mod llmc;
mod npz;
mod pickle;
pub(super) mod safetensors;
mod sstable;
pub(super) mod tensorflow;
pub(super) mod torch;
mod zip;

use std::fmt;

use super::bytes::{ByteFile, Parse, ParseError, invalid};
use super::stored::Contents;
pub(super) use pickle::Pickle;

/// Names a format of weights. [`Checkpoint::format`](super::Checkpoint::format) returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Hugging Face's safetensors.
    Safetensors,
    /// PyTorch's `.pth`, `.pt` and `.bin`, a zip file since PyTorch 1.6.
    Torch,
    /// PyTorch's files from before 1.6.
    TorchLegacy,
    /// llama.cpp's GGUF.
    Gguf,
    /// NumPy's zip of arrays.
    Npz,
    /// llm.c's `.bin`.
    LlmC,
    /// The index of a TensorFlow checkpoint; its data lies in files beside it.
    TensorFlow,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Format {
    /// Returns the name used in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Torch | Self::TorchLegacy => "PyTorch",
            Self::Gguf => "GGUF",
            Self::Npz => "NumPy .npz",
            Self::LlmC => "llm.c",
            Self::TensorFlow => "TensorFlow index",
        }
    }

    /// Recognises a file's format; `None` if it has no known beginning or end.
    ///
    /// `WeightsFile` takes such a file for safetensors, which has no magic number.
    pub(super) fn of(file: &ByteFile) -> Parse<Option<Self>> {
        let mut head = [0; torch::LEGACY_BYTES];
        let n_head = usize::try_from(file.n_bytes).unwrap_or(usize::MAX).min(head.len());
        file.read_exact_at(&mut head[..n_head], 0)?;
        if head.starts_with(b"PK\x03\x04") {
            // The directory says what a zip file holds. If it is damaged, a pickle at the front means PyTorch.
            let is_torch = match zip::directory(file) {
                Ok(members) => torch::is_torch(&members),
                Err(error @ ParseError::Io(_)) => return Err(error),
                Err(_) => {
                    let front = file.bytes_at(0, file.n_bytes.min(256))?;
                    front.windows(torch::PICKLE.len()).any(|window| window == torch::PICKLE.as_bytes())
                }
            };
            return Ok(Some(if is_torch { Self::Torch } else { Self::Npz }));
        }
        Ok(match head {
            _ if torch::is_legacy(&head) => Some(Self::TorchLegacy),
            _ if head.starts_with(gguf::MAGIC) => Some(Self::Gguf),
            _ if head.starts_with(&llmc::MAGIC) => Some(Self::LlmC),
            // A header's length, at most 100 MB, and the brace that begins the header.
            _ if head[4..8] == [0; 4] && head[8] == b'{' => Some(Self::Safetensors),
            // The only format that is recognised by its end, which costs a second read.
            _ if sstable::is_sstable(file)? => Some(Self::TensorFlow),
            _ => None,
        })
    }

    /// Returns whether one file may hold several state dicts.
    pub(super) fn has_state_dicts(self) -> bool {
        matches!(self, Self::Torch | Self::TorchLegacy)
    }

    /// Reads the contents of a file of this format, or only those of the state dict under the given key.
    ///
    /// An index of other files is refused here.
    pub(super) fn parse(self, file: &ByteFile, state_dict: Option<&str>) -> Parse<Contents> {
        match self {
            Self::Safetensors => safetensors::parse(file),
            Self::Torch | Self::Npz => {
                let members = zip::directory(file)?;
                let parsed = match self {
                    Self::Torch => torch::parse_zip(file, &members, state_dict),
                    _ => npz::parse(file, &members),
                };
                match parsed {
                    Err(error @ ParseError::Io(_)) => Err(error),
                    Ok(contents) if !contents.tensors.is_empty() => Ok(contents),
                    other => foreign::of_zip(&members).map_or(other, |format| Err(ParseError::Foreign(format))),
                }
            }
            Self::TorchLegacy => torch::parse_legacy(file, state_dict),
            Self::Gguf => gguf::parse(file),
            Self::LlmC => llmc::parse(file),
            Self::TensorFlow => invalid("it is an index of other files"),
        }
    }
}
