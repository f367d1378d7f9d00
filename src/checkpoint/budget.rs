//! Bounds the memory and the reading of headers, by the bytes that really exist.
//!
//! Each open file has one [`Budget`], from which its parsers take their memory. So no format needs limits of its own on
//! counts, texts or headers. Claims give no credit: a count or a length in a header, a hole in a sparse file, the
//! length that a server states.
//!
//! | what | limit |
//! | --- | --- |
//! | bytes really there | for a file its length, but at most what its blocks on disk hold (unix); for a remote source the bytes fetched |
//! | memory of opening, listing and inspecting | 64 MB and 24 times the bytes really there |
//! | bytes of headers, in sum | for a file 64 MB and 4 times the bytes really there; for a remote source 256 MB |
//! | dimensions of a tensor | 64 |
//! | nesting of dicts, lists and arrays | 64 |
//! | a text: name, key or class | 65535 bytes |
//! | loading and converting | the requested tensors besides; their size is checked against the file first |

use std::io;
use std::mem::size_of;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::parse::{Parse, ParseError, invalid};
use crate::memory::try_grow;

/// As many dimensions as NumPy's arrays may have.
pub(super) const MAX_DIMS: usize = 64;
/// How deep containers may be nested.
pub(super) const MAX_NESTING: usize = 64;
/// The longest name, key or other text that is kept.
pub(super) const MAX_TEXT_BYTES: u64 = (1 << 16) - 1;

const FREE_MEMORY: u64 = 64 << 20;
const MEMORY_PER_BYTE: u64 = 24;
const FREE_HEADER: u64 = 64 << 20;
const HEADER_PER_BYTE: u64 = 4;
/// More than any header needs: safetensors' own limit is 100 MB, and each storage of a PyTorch file takes a page.
const MAX_HEADER_ELSEWHERE: u64 = 1 << 28;
/// The most that the allocator adds to a block of memory.
const ALLOCATION_BYTES: usize = 32;

/// The memory and the reading that the parsers of a file have left. Threads share it.
#[derive(Debug)]
pub(super) struct Budget {
    /// Bytes really there; those of a remote source grow as they come.
    n_there: AtomicU64,
    /// Memory taken and not given back.
    n_taken: AtomicU64,
    /// Bytes of headers read.
    n_read: AtomicU64,
    is_elsewhere: bool,
}

impl Budget {
    /// Returns the budget of a file.
    pub(super) fn of_file(metadata: &std::fs::Metadata) -> Self {
        Self::new(n_really_there(metadata), false)
    }

    /// Returns the budget of a remote source, of which no byte has come yet.
    pub(super) fn elsewhere() -> Self {
        Self::new(0, true)
    }

    /// Returns the budget of a text in memory.
    pub(super) fn of_text(text: &str) -> Self {
        Self::new(text.len() as u64, false)
    }

    fn new(n_there: u64, is_elsewhere: bool) -> Self {
        let (n_taken, n_read) = Default::default();
        Self { n_there: n_there.into(), n_taken, n_read, is_elsewhere }
    }

    /// Returns the bytes that are really there.
    pub(super) fn n_there(&self) -> u64 {
        self.n_there.load(Relaxed)
    }

    /// Counts bytes that have come from a remote source, or those of another file.
    pub(super) fn came(&self, n_bytes: u64) {
        self.n_there.fetch_add(n_bytes, Relaxed);
    }

    /// Takes `n_bytes` of memory, until they are given back.
    pub(super) fn take(&self, n_bytes: u64) -> Parse<()> {
        let n_there = self.n_there.load(Relaxed);
        let limit = FREE_MEMORY.saturating_add(n_there.saturating_mul(MEMORY_PER_BYTE));
        // Nothing is added that does not fit, so the sum never overflows.
        let fits = |n_taken: u64| n_taken.checked_add(n_bytes).filter(|&sum| sum <= limit);
        match self.n_taken.fetch_update(Relaxed, Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(_) => invalid(format!(
                "reading its header needs more memory than 64 MB and {MEMORY_PER_BYTE} times the {n_there} bytes that are really there: it is damaged or hostile"
            )),
        }
    }

    /// Gives back memory that was taken and is free again.
    pub(super) fn give_back(&self, n_bytes: u64) {
        self.n_taken.fetch_sub(n_bytes, Relaxed);
    }

    /// Counts `n_bytes` of a header as read.
    pub(super) fn read(&self, n_bytes: u64) -> io::Result<()> {
        let n_there = self.n_there.load(Relaxed);
        let (n_read, limit) = match self.is_elsewhere {
            true => (n_there, MAX_HEADER_ELSEWHERE),
            false => (
                self.n_read.fetch_add(n_bytes, Relaxed).saturating_add(n_bytes),
                FREE_HEADER.saturating_add(n_there.saturating_mul(HEADER_PER_BYTE)),
            ),
        };
        match n_read > limit {
            // The kind that becomes a `ParseError::Invalid`.
            true => Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!(
                    "its header does not end within {limit} bytes, the most that are read: it is damaged or hostile"
                ),
            )),
            false => Ok(()),
        }
    }

    /// Takes the memory of a value in a map or behind a pointer.
    pub(super) fn take_node<T>(&self) -> Parse<()> {
        // The nodes of a B-tree are at least half full.
        self.take((2 * size_of::<T>() + ALLOCATION_BYTES) as u64)
    }

    /// Takes the memory of a text of `n_bytes`.
    pub(super) fn take_text(&self, n_bytes: usize) -> Parse<()> {
        self.take(n_bytes.saturating_add(ALLOCATION_BYTES) as u64)
    }

    /// Reserves room for `n` more elements; returns an error where `Vec` would abort.
    pub(super) fn reserve<T>(&self, values: &mut Vec<T>, n: usize) -> Parse<()> {
        let n_free = values.capacity() - values.len();
        if n <= n_free {
            return Ok(());
        }
        let n_before = values.capacity();
        // Doubling makes repeated calls linear.
        let n_after = values.len().saturating_add(n).max(n_before.saturating_mul(2)).max(4);
        let n_bytes = |n: usize| (n as u64).saturating_mul(size_of::<T>() as u64);
        self.take(n_bytes(n_after).saturating_add(ALLOCATION_BYTES as u64))?;
        try_grow(values, n_after).map_err(|error| ParseError::Invalid(error.to_string()))?;
        if n_before > 0 {
            self.give_back(n_bytes(n_before) + ALLOCATION_BYTES as u64);
        }
        Ok(())
    }

    /// Returns `n` elements that are equal.
    pub(super) fn filled<T: Clone>(&self, value: T, n: usize) -> Parse<Vec<T>> {
        let mut values = Vec::new();
        self.reserve(&mut values, n)?;
        values.resize(n, value);
        Ok(values)
    }

    /// Appends one element.
    pub(super) fn push<T>(&self, values: &mut Vec<T>, value: T) -> Parse<()> {
        self.reserve(values, 1)?;
        values.push(value);
        Ok(())
    }

    /// Appends several elements.
    pub(super) fn extend<T: Copy>(&self, values: &mut Vec<T>, more: &[T]) -> Parse<()> {
        self.reserve(values, more.len())?;
        values.extend_from_slice(more);
        Ok(())
    }

    /// Returns how much memory is taken now.
    pub(super) fn n_taken(&self) -> u64 {
        self.n_taken.load(Relaxed)
    }
}

/// Returns the bytes of a file that are on disk, without holes.
#[cfg(unix)]
fn n_really_there(metadata: &std::fs::Metadata) -> u64 {
    /// The unit of `st_blocks` on every file system.
    const BLOCK_BYTES: u64 = 512;
    match std::os::unix::fs::MetadataExt::blocks(metadata) {
        // The file system does not say. A file that is one hole has no header anyway.
        0 => metadata.len(),
        n_blocks => metadata.len().min(n_blocks.saturating_mul(BLOCK_BYTES)),
    }
}

#[cfg(not(unix))]
fn n_really_there(metadata: &std::fs::Metadata) -> u64 {
    metadata.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: u64 = FREE_MEMORY;

    #[test]
    fn memory_follows_the_bytes_that_are_there() {
        let budget = Budget::new(10, false);
        assert!(budget.take(FREE + 240).is_ok());
        let refused = format!("{:?}", budget.take(1));
        assert!(refused.contains("64 MB and 24 times the 10 bytes that are really there"), "{refused}");
        budget.give_back(100);
        assert!(budget.take(100).is_ok() && budget.take(u64::MAX).is_err());
        assert_eq!(budget.n_taken(), FREE + 240, "what is refused is not taken");
    }

    #[test]
    fn what_comes_from_elsewhere_counts_once_it_is_here() {
        let budget = Budget::elsewhere();
        assert!(budget.take(FREE).is_ok() && budget.take(1).is_err());
        budget.came(100);
        assert!(budget.take(2400).is_ok() && budget.take(1).is_err());
        assert!(budget.read(1).is_ok());
        budget.came(MAX_HEADER_ELSEWHERE);
        assert!(budget.read(1).is_err());
    }

    #[test]
    fn headers_end_somewhere() {
        let budget = Budget::new(10, false);
        assert!(budget.read(FREE_HEADER + 40).is_ok());
        let refused = format!("{:?}", budget.read(1));
        assert!(refused.contains("does not end within 67108904 bytes"), "{refused}");
    }

    #[test]
    fn a_vector_costs_its_capacity() {
        let budget = Budget::new(0, false);
        let mut values = Vec::new();
        for i in 0..1000u64 {
            assert!(budget.push(&mut values, i).is_ok());
        }
        let capacity = (values.capacity() * size_of::<u64>()) as u64;
        assert!(budget.n_taken() >= capacity && budget.n_taken() < capacity + 100, "{}", budget.n_taken());
        assert!(budget.reserve(&mut values, usize::MAX).is_err() && values.len() == 1000);
    }

    /// Twenty bytes, and a hole of a gigabyte behind them.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_hole_gives_no_credit() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 30).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 20], 0).unwrap();
        let there = n_really_there(&file.metadata().unwrap());
        assert!((20..1 << 20).contains(&there), "{there}");
    }
}
