//! Random access to a file, and sequential access to a header. Every length in a file is checked against the bytes that
//! exist before it is used.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::budget::Budget;
use super::pages::Pages;
pub(super) use super::parse::{Parse, ParseError, invalid};
use crate::error::CheckpointError;
use crate::rows::ByteRanges;

/// How much of a remote header is fetched at first. Then each piece is as long as all before it.
const PIECE_ELSEWHERE: usize = 4 << 20;
/// From here on it costs more to copy bytes than to fetch those again that a page of the header holds already.
const UNCOPIED_FROM: usize = 1 << 20;

/// An open file of known length, read at any offset by any number of threads.
#[derive(Debug)]
pub(crate) struct ByteFile {
    pub(super) path: PathBuf,
    pub(super) n_bytes: u64,
    bytes: Bytes,
    budget: Budget,
}

#[derive(Debug)]
enum Bytes {
    File(File),
    Elsewhere(Pages),
}

impl ByteFile {
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let io = CheckpointError::reading(path);
        let metadata = std::fs::metadata(path).map_err(io)?;
        if metadata.is_dir() {
            return Err(io(io::ErrorKind::IsADirectory.into()));
        }
        if !metadata.is_file() {
            return Err(io(io::Error::other("not a regular file")));
        }
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        let budget = Budget::of_file(&metadata);
        Ok(Self { path: path.to_path_buf(), n_bytes: metadata.len(), bytes: Bytes::File(file), budget })
    }

    /// Wraps a remote source, whose bytes are fetched when they are read.
    pub(super) fn elsewhere(source: Arc<dyn ByteRanges>) -> Self {
        let (path, n_bytes, budget) = (source.name().into(), source.n_bytes(), Budget::elsewhere());
        Self { path, n_bytes, bytes: Bytes::Elsewhere(Pages::new(source)), budget }
    }

    /// Returns what its parsers may spend.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Returns the remote source, or `None` for a file.
    pub(super) fn source(&self) -> Option<&Arc<dyn ByteRanges>> {
        match &self.bytes {
            Bytes::File(_) => None,
            Bytes::Elsewhere(pages) => Some(pages.source()),
        }
    }

    /// Fills `bytes` from `start` on, without moving the file's own position.
    pub(super) fn read_exact_at(&self, bytes: &mut [u8], start: u64) -> io::Result<()> {
        self.reader(start, u64::MAX).read_exact(bytes)
    }

    /// Puts `n` bytes from `start` on into `bytes`, in place of what it holds. Many bytes of a remote source are taken as
    /// they come, without a copy.
    pub(super) fn replace(&self, bytes: &mut Vec<u8>, start: u64, n: usize) -> io::Result<()> {
        if let Bytes::Elsewhere(pages) = &self.bytes
            && n >= UNCOPIED_FROM
        {
            *bytes = Vec::new();
            *bytes = pages.piece(start, n as u64)?;
            self.budget.came(n as u64);
            return Ok(());
        }
        bytes.resize(n, 0);
        self.read_exact_at(bytes, start)
    }

    /// Reads `n` bytes of a header from `start` on; allocates only after checking that they exist.
    pub(super) fn bytes_at(&self, start: u64, n: u64) -> Parse<Vec<u8>> {
        if start.checked_add(n).is_none_or(|end| end > self.n_bytes) {
            return invalid(format!("{n} bytes are needed at {start}, but the file ends at {}", self.n_bytes));
        }
        self.collect(&mut self.header_reader(start, u64::MAX), n)
    }

    /// Reads the next `n` bytes of a header. A file's length is a fact; a remote length is only a claim, so memory
    /// grows with the bytes that have come.
    fn collect(&self, from: &mut impl Read, n: u64) -> Parse<Vec<u8>> {
        // A file may be larger than any address.
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        let is_here = matches!(self.bytes, Bytes::File(_));
        let mut bytes = Vec::new();
        while bytes.len() < n {
            let n_now = bytes.len();
            let n_next = if is_here { n } else { n.min(n_now.max(PIECE_ELSEWHERE).saturating_add(n_now)) };
            self.budget.reserve(&mut bytes, n_next - n_now)?;
            bytes.resize(n_next, 0);
            from.read_exact(&mut bytes[n_now..])?;
        }
        Ok(bytes)
    }

    /// Reads the `N` bytes of a header at `start`.
    pub(super) fn array_at<const N: usize>(&self, start: u64) -> Parse<[u8; N]> {
        let mut bytes = [0; N];
        self.header_reader(start, u64::MAX).read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Returns a stream of the bytes from `start` to `end`.
    pub(super) fn reader(&self, start: u64, end: u64) -> ReadAt<'_> {
        ReadAt { file: self, start, end, is_header: false }
    }

    /// Returns a stream of the bytes of a header, which counts in the file's budget.
    pub(super) fn header_reader(&self, start: u64, end: u64) -> ReadAt<'_> {
        ReadAt { file: self, start, end, is_header: true }
    }

    fn read_at(&self, bytes: &mut [u8], start: u64) -> io::Result<usize> {
        match &self.bytes {
            #[cfg(unix)]
            Bytes::File(file) => std::os::unix::fs::FileExt::read_at(file, bytes, start),
            #[cfg(windows)]
            Bytes::File(file) => std::os::windows::fs::FileExt::seek_read(file, bytes, start),
            #[cfg(not(any(unix, windows)))]
            Bytes::File(file) => seek_and_read(file, bytes, start),
            Bytes::Elsewhere(pages) => pages.read_at(bytes, start, |n_fetched| self.budget.came(n_fetched)),
        }
    }
}

/// Reads on systems without positioned reads: a lock guards the position that all threads share.
#[cfg(not(any(unix, windows)))]
fn seek_and_read(mut file: &File, bytes: &mut [u8], start: u64) -> io::Result<usize> {
    use std::sync::{Mutex, PoisonError};
    static POSITION: Mutex<()> = Mutex::new(());
    let _guard = POSITION.lock().unwrap_or_else(PoisonError::into_inner);
    io::Seek::seek(&mut file, io::SeekFrom::Start(start))?;
    file.read(bytes)
}

/// Part of a file, as a stream.
pub(super) struct ReadAt<'a> {
    file: &'a ByteFile,
    start: u64,
    end: u64,
    is_header: bool,
}

impl Read for ReadAt<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let n_wanted = bytes.len().min(left);
        let n_read = self.file.read_at(&mut bytes[..n_wanted], self.start)?;
        self.start += n_read as u64;
        if self.is_header {
            self.file.budget.read(n_read as u64)?;
        }
        Ok(n_read)
    }
}

/// A header that is read field by field.
pub(super) struct Header<'a> {
    reader: BufReader<ReadAt<'a>>,
    position: u64,
    end: u64,
}

impl<'a> Header<'a> {
    /// Starts at `start` in `file`, and ends at `end` or at the end of the file.
    pub(super) fn new(file: &'a ByteFile, start: u64, end: u64) -> Self {
        let end = end.min(file.n_bytes);
        Self { reader: BufReader::new(file.header_reader(start, end)), position: start, end }
    }

    /// Returns the offset of the next byte in the file.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn n_left(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }

    /// Returns what the parser of this header may spend.
    pub(super) fn budget(&self) -> &'a Budget {
        self.reader.get_ref().file.budget()
    }

    pub(super) fn array<const N: usize>(&mut self) -> Parse<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(bytes)
    }

    pub(super) fn u8(&mut self) -> Parse<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Parse<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Parse<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Parse<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads `n` bytes; allocates only after checking that they exist.
    pub(super) fn bytes(&mut self, n: u64) -> Parse<Vec<u8>> {
        self.must_hold(n)?;
        let file = self.reader.get_ref().file;
        let bytes = file.collect(&mut self.reader, n)?;
        self.position += n;
        Ok(bytes)
    }

    pub(super) fn skip(&mut self, n: u64) -> Parse<()> {
        self.must_hold(n)?;
        // Small steps stay inside the buffer, large ones do not read what they pass.
        let n_buffered = self.reader.buffer().len();
        match usize::try_from(n) {
            Ok(n) if n <= n_buffered => self.reader.consume(n),
            _ => {
                let inner = self.reader.get_ref();
                let (file, end) = (inner.file, inner.end);
                self.reader = BufReader::new(file.header_reader(self.position + n, end));
            }
        }
        self.position += n;
        Ok(())
    }

    /// Returns an error if fewer than `n` bytes are left.
    pub(super) fn must_hold(&self, n: u64) -> Parse<()> {
        match n > self.n_left() {
            true => invalid(format!("{n} bytes are claimed at {}, but {} are left", self.position, self.n_left())),
            false => Ok(()),
        }
    }

    /// Reads up to a line feed, which is dropped.
    pub(super) fn line(&mut self, max: u64) -> Parse<Vec<u8>> {
        match self.line_within(max)? {
            Some(line) => Ok(line),
            None => invalid(format!("a line is longer than {max} bytes")),
        }
    }

    /// Reads up to a line feed, which is dropped; returns `None` for a line of more than `max` bytes.
    pub(super) fn line_within(&mut self, max: u64) -> Parse<Option<Vec<u8>>> {
        let (mut line, mut n_bytes) = (Vec::new(), 0u64);
        loop {
            match self.u8()? {
                b'\n' => return Ok(Some(line).filter(|_| n_bytes <= max)),
                byte if n_bytes < max => line.push(byte),
                _ => {}
            }
            n_bytes += 1;
        }
    }

    /// Reads a line that is a number.
    pub(super) fn decimal(&mut self) -> Parse<u32> {
        const MAX_DIGITS: u64 = 10;
        let line = self.line(MAX_DIGITS)?;
        let number = str::from_utf8(&line).ok().and_then(|digits| digits.parse().ok());
        number.ok_or_else(|| ParseError::Invalid("a line is not a number".to_string()))
    }
}
