//! [`Shard`]: one file of ids that is being written, with its index if the format has one.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::PathBuf;

use crc32fast::Hasher;

use super::{AboutFile, CorpusFormat, IdBits, llmc, megatron, names};
use crate::error::CorpusError;
use crate::files::Partial;

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
        names::must_be_free(&path)?;
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

    /// Completes the file and its index, which have no names yet.
    pub(super) fn close(self) -> Result<Closed, CorpusError> {
        let Self { format, bits, path, out, body, n_tokens, lengths, .. } = self;
        let io = CorpusError::writing(&path);
        let mut ids = out.into_inner().map_err(|error| io(error.into_error()))?;
        let mut n_bytes = n_tokens * bits.n_bytes() as u64;
        let mut hash = Hasher::new();
        if format == CorpusFormat::Llmc {
            let n_ids = u32::try_from(n_tokens).map_err(|_| CorpusError::TooLarge { path: path.clone() })?;
            let header = llmc::header(bits, n_ids);
            let file = ids.file();
            file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&header)).map_err(io)?;
            hash.update(&header);
            n_bytes += header.len() as u64;
        }
        hash.combine(&body);
        ids.file().sync_all().map_err(io)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (mut parts, mut index_crc32) = (Vec::new(), None);
        if format == CorpusFormat::Megatron {
            let (path, bytes) = (path.with_extension("idx"), megatron::index(bits, &lengths));
            index_crc32 = Some(crc32fast::hash(&bytes));
            parts.push(written(path, &bytes)?);
        }
        parts.push((path, ids));
        let file = AboutFile::new(name, n_bytes, n_tokens, hash.finalize(), index_crc32);
        Ok(Closed { file, parts })
    }
}

/// A shard whose files are complete and on disk, but have no names.
pub(super) struct Closed {
    /// What `corpus.json` is to state.
    pub(super) file: AboutFile,
    /// An index comes first, so the ids are there only if it is.
    parts: Vec<(PathBuf, Partial)>,
}

impl Closed {
    /// Gives the files their names.
    pub(super) fn install(self) -> Result<(), CorpusError> {
        for (path, mut part) in self.parts {
            names::must_be_free(&path)?;
            part.complete().and_then(|()| part.install()).map_err(CorpusError::writing(&path))?;
        }
        Ok(())
    }
}

fn written(path: PathBuf, bytes: &[u8]) -> Result<(PathBuf, Partial), CorpusError> {
    let write = || -> io::Result<Partial> {
        let mut part = Partial::create(&path)?;
        part.file().write_all(bytes)?;
        part.file().sync_all()?;
        Ok(part)
    };
    let part = write().map_err(CorpusError::writing(&path))?;
    Ok((path, part))
}
