//! [`Shard`]: one file of ids that is being written, with its index if the format has one.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crc32fast::Hasher;

use super::{AboutFile, CorpusFormat, IdBits, llmc, megatron};
use crate::error::{CheckpointError, CorpusError};
use crate::files::{self, Partial};

pub(super) struct Shard {
    format: CorpusFormat,
    bits: IdBits,
    path: PathBuf,
    /// It has no name until it is complete.
    out: BufWriter<Partial>,
    body: Hasher,
    pub(super) n_tokens: u64,
    /// The ids of each document, for an index, and of one that has not ended.
    lengths: Vec<i32>,
    n_open: u64,
    buffer: Vec<u8>,
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

impl Shard {
    pub(super) fn create(format: CorpusFormat, bits: IdBits, path: PathBuf) -> Result<Self, CorpusError> {
        let io = CorpusError::writing(&path);
        let mut partial = Partial::create(&path).map_err(io)?;
        if format == CorpusFormat::Llmc {
            partial.file().write_all(&llmc::header(bits, 0)).map_err(io)?;
        }
        let (out, body) = (BufWriter::with_capacity(1 << 20, partial), Hasher::new());
        Ok(Self { format, bits, path, out, body, n_tokens: 0, lengths: Vec::new(), n_open: 0, buffer: Vec::new() })
    }

    /// Appends ids of a document, which fit the width.
    pub(super) fn push(&mut self, ids: &[u32]) -> Result<(), CorpusError> {
        self.buffer.resize(ids.len() * self.bits.n_bytes(), 0);
        match self.bits {
            IdBits::Sixteen => {
                let places = self.buffer.as_chunks_mut().0.iter_mut();
                places.zip(ids).for_each(|(place, id)| *place = (*id as u16).to_le_bytes());
            }
            IdBits::ThirtyTwo => {
                let places = self.buffer.as_chunks_mut().0.iter_mut();
                places.zip(ids).for_each(|(place, id)| *place = id.to_le_bytes());
            }
        }
        self.body.update(&self.buffer);
        self.out.write_all(&self.buffer).map_err(CorpusError::writing(&self.path))?;
        self.n_tokens += ids.len() as u64;
        self.n_open += ids.len() as u64;
        Ok(())
    }

    /// Ends a document, for the index.
    pub(super) fn end_document(&mut self) -> Result<(), CorpusError> {
        if self.format == CorpusFormat::Megatron {
            let too_long = |_| CorpusError::TooLarge { path: self.path.clone() };
            self.lengths.push(i32::try_from(self.n_open).map_err(too_long)?);
        }
        self.n_open = 0;
        Ok(())
    }

    /// Completes the file, and then its index. Returns what `corpus.json` is to state.
    pub(super) fn finish(self) -> Result<AboutFile, CorpusError> {
        let Self { format, bits, path, out, body, n_tokens, lengths, .. } = self;
        let io = CorpusError::writing(&path);
        let mut partial = out.into_inner().map_err(|error| io(error.into_error()))?;
        let mut n_bytes = n_tokens * bits.n_bytes() as u64;
        let mut hash = Hasher::new();
        if format == CorpusFormat::Llmc {
            let n_ids = u32::try_from(n_tokens).map_err(|_| CorpusError::TooLarge { path: path.clone() })?;
            let header = llmc::header(bits, n_ids);
            let file = partial.file();
            file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&header)).map_err(io)?;
            hash.update(&header);
            n_bytes += header.len() as u64;
        }
        hash.combine(&body);
        partial.complete().and_then(|()| partial.install()).map_err(io)?;
        let index_crc32 = match format {
            CorpusFormat::Megatron => Some(write_index(&path, &megatron::index(bits, &lengths))?),
            _ => None,
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(AboutFile::new(name, n_bytes, n_tokens, hash.finalize(), index_crc32))
    }
}

fn write_index(path: &Path, index: &[u8]) -> Result<u32, CorpusError> {
    let path = path.with_extension("idx");
    files::write_file(&path, |out| out.write_all(index)).map_err(|error| match error {
        CheckpointError::Io { source, .. } => CorpusError::writing(&path)(source),
        other => CorpusError::writing(&path)(io::Error::other(other)),
    })?;
    Ok(crc32fast::hash(index))
}
