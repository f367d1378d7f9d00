//! Remote headers: small reads are served from pages, so that each of them is not a request.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use crate::rows::{ByteRanges, read_all};

/// The header of GPT-2's own file fits one page.
const PAGE_BYTES: u64 = 16 << 10;
/// A longer header is read once from front to back, so few pages are read again.
const MAX_PAGES: usize = 64;

/// A remote source, and the pages fetched last.
#[derive(Debug)]
pub(super) struct Pages {
    source: Arc<dyn ByteRanges>,
    pages: Mutex<BTreeMap<u64, Arc<Vec<u8>>>>,
}

impl Pages {
    pub(super) fn new(source: Arc<dyn ByteRanges>) -> Self {
        Self { source, pages: Mutex::default() }
    }

    pub(super) fn source(&self) -> &Arc<dyn ByteRanges> {
        &self.source
    }

    /// Reads some bytes from `start` on, as `std::os::unix::fs::FileExt::read_at` does: none only at the end. Calls
    /// `came` with the number of bytes fetched.
    pub(super) fn read_at(&self, bytes: &mut [u8], start: u64, came: impl Fn(u64)) -> io::Result<usize> {
        let n_left = self.source.n_bytes().saturating_sub(start);
        let n_wanted = (bytes.len() as u64).min(n_left);
        if n_wanted == 0 {
            return Ok(0);
        }
        let first = start - start % PAGE_BYTES;
        let page = match self.page(first) {
            Some(page) => page,
            None if n_wanted >= PAGE_BYTES => {
                let fetched = read_all(&*self.source, std::slice::from_ref(&(start..start + n_wanted)))?;
                came(fetched.len() as u64);
                bytes[..fetched.len()].copy_from_slice(&fetched);
                return Ok(fetched.len());
            }
            None => {
                let page = self.fetch(first)?;
                came(page.len() as u64);
                page
            }
        };
        let page = page.get((start % PAGE_BYTES) as usize..).unwrap_or_default();
        let n = page.len().min(bytes.len());
        bytes[..n].copy_from_slice(&page[..n]);
        Ok(n)
    }

    /// Fetches `n` bytes from `start` on.
    pub(super) fn piece(&self, start: u64, n: u64) -> io::Result<Vec<u8>> {
        match start.checked_add(n).filter(|end| *end <= self.source.n_bytes()) {
            Some(end) => read_all(&*self.source, std::slice::from_ref(&(start..end))),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn page(&self, first: u64) -> Option<Arc<Vec<u8>>> {
        self.pages.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&first).cloned()
    }

    fn fetch(&self, first: u64) -> io::Result<Arc<Vec<u8>>> {
        let end = self.source.n_bytes().min(first.saturating_add(PAGE_BYTES));
        let page = Arc::new(read_all(&*self.source, std::slice::from_ref(&(first..end)))?);
        let mut pages = self.pages.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if pages.len() == MAX_PAGES {
            pages.clear();
        }
        pages.insert(first, page.clone());
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    /// Each byte is the number of its page.
    #[derive(Debug)]
    struct Numbered;

    impl ByteRanges for Numbered {
        fn name(&self) -> String {
            "numbered".to_string()
        }

        fn n_bytes(&self) -> u64 {
            200 * PAGE_BYTES
        }

        fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
            Ok(ranges
                .iter()
                .map(|range| range.clone().map(|at| (at / PAGE_BYTES).to_le_bytes()[0]).collect())
                .collect())
        }
    }

    #[test]
    fn few_pages_are_kept() {
        let pages = Pages::new(Arc::new(Numbered));
        for page in 0..200 {
            let mut byte = [0];
            assert_eq!(pages.read_at(&mut byte, page * PAGE_BYTES + 5, |n| assert_eq!(n, PAGE_BYTES)).ok(), Some(1));
            assert_eq!(u64::from(byte[0]), page);
            assert!(pages.pages.lock().unwrap().len() <= MAX_PAGES);
        }
    }
}
