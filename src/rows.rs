//! Rows of a table that lie somewhere in bytes: mapped, held in memory, or behind [`ByteRanges`].

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use candle_core::DType;
use candle_core::quantized::GgmlDType;
use memmap2::Mmap;

/// A file that is not on this machine, or not a file at all: its length, and its bytes at places.
///
/// [`Checkpoint::from_ranges`](crate::checkpoint::Checkpoint::from_ranges) takes one; the module `hub` (a feature) has one
/// for files of HTTP servers. What a call needs is asked for in one [`read`](Self::read), so that an implementation can coalesce ranges, fetch several at once and keep them by their places:
/// a row of a table is always the same range.
pub trait ByteRanges: fmt::Debug + Send + Sync {
    /// What it is called in messages and reports: a URL, for one.
    fn name(&self) -> String;

    /// How many bytes it has; they stay the same while it is used.
    fn n_bytes(&self) -> u64;

    /// The bytes of each range, in the order of the ranges, which are ascending, not empty and do not overlap.
    ///
    /// # Errors
    /// Whatever kept the bytes away; it reaches the caller with the [`name`](Self::name).
    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>>;
}

/// The bytes of the ranges, one behind the other; an answer of other lengths than were asked for is refused.
pub(crate) fn read_all(source: &dyn ByteRanges, ranges: &[Range<u64>]) -> io::Result<Vec<u8>> {
    if ranges.is_empty() {
        return Ok(Vec::new());
    }
    let pieces = source.read(ranges)?;
    let wrong = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    if pieces.len() != ranges.len() {
        return Err(wrong(format!("{} ranges were asked for, but {} came", ranges.len(), pieces.len())));
    }
    for (Range { start, end }, piece) in ranges.iter().zip(&pieces) {
        if end.checked_sub(*start) != u64::try_from(piece.len()).ok() {
            return Err(wrong(format!("bytes {start} to {end} were asked for, but {} bytes came", piece.len())));
        }
    }
    Ok(pieces.concat())
}

/// Where the rows of a table are read.
#[derive(Clone)]
pub(crate) enum RowBytes {
    Mapped(Arc<Mmap>),
    /// In memory, as they are stored.
    Held(Arc<Vec<u8>>),
    Elsewhere(Arc<dyn ByteRanges>),
}

impl RowBytes {
    /// The bytes that are in the address space; of those that are elsewhere none.
    #[inline(always)]
    pub(crate) fn here(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Held(bytes) => bytes,
            Self::Elsewhere(_) => &[],
        }
    }
}

/// What the rows of a table are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowType {
    /// Little-endian f32, f16, bf16 or f64.
    Numbers(DType),
    /// GGUF's quantized blocks; a row is made of whole ones.
    Blocks(GgmlDType),
}

impl RowType {
    /// Bytes of a row of `width` numbers.
    #[inline(always)]
    pub(crate) fn row_bytes(self, width: usize) -> usize {
        match self {
            Self::Numbers(dtype) => width * dtype.size_in_bytes(),
            Self::Blocks(blocks) => width / blocks.block_size() * blocks.type_size(),
        }
    }
}

/// A table `[n_rows, width]` of little-endian numbers or quantized blocks that begins at byte `start`.
#[derive(Clone)]
pub(crate) struct StoredRows {
    pub(crate) bytes: RowBytes,
    pub(crate) start: usize,
    pub(crate) n_rows: usize,
    pub(crate) width: usize,
    pub(crate) stored: RowType,
}

impl fmt::Debug for StoredRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredRows([{}, {}] {:?})", self.n_rows, self.width, self.stored)
    }
}
