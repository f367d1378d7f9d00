//! Bytes that JavaScript fetches: a read that lacks some notes which, fails, and is repeated when they have come.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_gpt_input::checkpoint::ByteRanges;

/// A file of which only some pieces have come.
#[derive(Debug)]
pub struct Fetched {
    name: String,
    n_bytes: u64,
    /// By their first byte.
    pieces: Mutex<BTreeMap<u64, Vec<u8>>>,
    missing: Mutex<Vec<Range<u64>>>,
}

impl Fetched {
    pub fn new(name: String, n_bytes: u64) -> Self {
        Self { name, n_bytes, pieces: Mutex::default(), missing: Mutex::default() }
    }

    /// Adds a piece that came.
    pub fn put(&self, start: u64, bytes: Vec<u8>) {
        lock(&self.pieces).insert(start, bytes);
    }

    /// Returns the ranges that reads lacked since the last call, ascending and disjoint: neighbours are one.
    pub fn take_missing(&self) -> Vec<Range<u64>> {
        let mut missing = std::mem::take(&mut *lock(&self.missing));
        missing.sort_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in missing {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        joined
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ByteRanges for Fetched {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    fn read(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
        let pieces = lock(&self.pieces);
        let piece = |range: &Range<u64>| {
            let (start, bytes) = pieces.range(..=range.start).next_back()?;
            let from = usize::try_from(range.start - start).ok()?;
            let to = usize::try_from(range.end - start).ok()?;
            Some(bytes.get(from..to)?.to_vec())
        };
        let found: Vec<Option<Vec<u8>>> = ranges.iter().map(piece).collect();
        let lacks = ranges.iter().zip(&found).filter(|(_, piece)| piece.is_none()).map(|(range, _)| range.clone());
        lock(&self.missing).extend(lacks);
        found.into_iter().collect::<Option<_>>().ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_notes_what_it_lacks_and_succeeds_when_that_came() {
        let fetched = Fetched::new("x".to_string(), 100);
        fetched.put(0, (0..10).collect());
        let ranges = [2..4, 8..12, 12..20, 50..51];
        assert_eq!(fetched.read(&ranges).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(fetched.take_missing(), [8..20, 50..51]);
        assert_eq!(fetched.take_missing(), []);
        fetched.put(8, (8..20).collect());
        fetched.put(50, vec![50]);
        let expected: Vec<Vec<u8>> = ranges.iter().map(|range| range.clone().map(|at| at as u8).collect()).collect();
        assert_eq!(fetched.read(&ranges).unwrap(), expected);
        assert_eq!(fetched.take_missing(), []);
    }
}
