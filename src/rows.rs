//! Rows of a table in stored form: mapped, in memory, or remote behind [`ByteRanges`].

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device};
use memmap2::Mmap;

/// Reads byte ranges of a random-access source, such as a remote file.
///
/// Implement it to open a checkpoint from a source of your own, by
/// [`Checkpoint::from_ranges`](crate::checkpoint::Checkpoint::from_ranges). The module `hub` (a feature) implements it
/// for files of HTTP servers.
///
/// A layer asks for all the rows that a call needs of a table in one [`read`](Self::read), so that an implementation
/// can join ranges, fetch several at once and cache them. A row is always the same range.
///
/// ```
/// use std::io;
/// use std::ops::Range;
///
/// use candle_gpt_input::checkpoint::ByteRanges;
///
/// #[derive(Debug)]
/// struct InMemory(Vec<u8>);
///
/// impl ByteRanges for InMemory {
///     fn name(&self) -> String {
///         "memory".to_string()
///     }
///
///     fn n_bytes(&self) -> u64 {
///         self.0.len() as u64
///     }
///
///     fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
///         Ok(ranges.iter().map(|range| self.0[range.start as usize..range.end as usize].to_vec()).collect())
///     }
/// }
///
/// let source = InMemory(b"abcdef".to_vec());
/// assert_eq!(source.read(&[0..2, 3..5])?, [b"ab", b"de"]);
/// # Ok::<(), io::Error>(())
/// ```
pub trait ByteRanges: fmt::Debug + Send + Sync {
    /// Returns the name for messages and reports, such as a URL.
    fn name(&self) -> String;

    /// Returns the length in bytes. The bytes must not change while the source is in use.
    fn n_bytes(&self) -> u64;

    /// Returns the bytes of each range, in order. The ranges are ascending, non-empty and disjoint.
    ///
    /// # Errors
    /// Any I/O error. It reaches the caller together with the [`name`](Self::name). A failed read changes nothing in
    /// the library, so the same call can be repeated. A source that must not block can therefore note the ranges that
    /// it lacks, fail with [`WouldBlock`](io::ErrorKind::WouldBlock), and succeed once they have come.
    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>>;
}

/// Reads all ranges into one vector. Refuses an answer whose lengths differ from those asked for.
pub(crate) fn read_all(source: &dyn ByteRanges, ranges: &[Range<u64>]) -> io::Result<Vec<u8>> {
    if ranges.is_empty() {
        return Ok(Vec::new());
    }
    let mut pieces = source.read(ranges)?;
    let wrong = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    if pieces.len() != ranges.len() {
        return Err(wrong(format!("asked for {} ranges, got {}", ranges.len(), pieces.len())));
    }
    for (Range { start, end }, piece) in ranges.iter().zip(&pieces) {
        if end.checked_sub(*start) != u64::try_from(piece.len()).ok() {
            return Err(wrong(format!("asked for bytes {start}..{end}, got {} bytes", piece.len())));
        }
    }
    // A large piece is not copied once more.
    Ok(if pieces.len() == 1 { pieces.remove(0) } else { pieces.concat() })
}

/// Where the rows of a table are stored.
#[derive(Clone)]
pub(crate) enum RowBytes {
    Mapped(Arc<Mmap>),
    /// In memory, in stored form.
    Held(Arc<Vec<u8>>),
    Elsewhere(Arc<dyn ByteRanges>),
}

impl RowBytes {
    /// Returns the bytes in the address space, of which a remote source has none.
    #[inline(always)]
    pub(crate) fn here(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Held(bytes) => bytes,
            Self::Elsewhere(_) => &[],
        }
    }
}

/// How the elements of a table are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowType {
    /// Little-endian f32, f16, bf16 or f64.
    Numbers(DType),
    /// GGUF's quantized blocks; each row consists of whole blocks.
    Blocks(GgmlDType),
}

impl RowType {
    /// Returns the bytes of a row of `width` elements.
    #[inline(always)]
    pub(crate) fn row_bytes(self, width: usize) -> usize {
        match self {
            Self::Numbers(dtype) => width * dtype.size_in_bytes(),
            Self::Blocks(blocks) => width / blocks.block_size() * blocks.type_size(),
        }
    }
}

/// Returns Candle's own tensor of a copy of quantized blocks, on the host.
pub(crate) fn to_qtensor(blocks: &[u8], block_type: GgmlDType, dims: Vec<usize>) -> candle_core::Result<QTensor> {
    // Candle reads the bytes as a slice of blocks, whose alignment is at most that of a `u64`.
    let mut copy = vec![0; blocks.len() + align_of::<u64>()];
    let start = copy.as_ptr().align_offset(align_of::<u64>());
    let aligned = &mut copy[start..start + blocks.len()];
    aligned.copy_from_slice(blocks);
    qtensor_from_ggml(block_type, aligned, dims, &Device::Cpu)
}

/// A table `[n_rows, width]` of little-endian elements or quantized blocks that begins at byte `start`.
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
