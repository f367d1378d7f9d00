//! The table of sorted keys and values that LevelDB and TensorFlow write.
//!
//! <https://github.com/google/leveldb/blob/main/doc/table_format.md>

use super::super::budget::{Budget, MAX_TEXT_BYTES};
use super::super::bytes::{ByteFile, Parse, ParseError, invalid};

/// The last bytes of such a file.
const MAGIC: [u8; 8] = 0xdb47_7524_8b80_fb57u64.to_le_bytes();
const FOOTER_BYTES: u64 = 48;
/// Each block is followed by its compression method and a checksum.
const TRAILER_BYTES: usize = 5;

pub(super) fn is_sstable(file: &ByteFile) -> Parse<bool> {
    Ok(file.n_bytes >= FOOTER_BYTES && file.array_at::<8>(file.n_bytes - 8)? == MAGIC)
}

/// Calls `each` with all keys, in ascending order, and their values.
pub(super) fn read(file: &ByteFile, mut each: impl FnMut(&[u8], &[u8]) -> Parse<()>) -> Parse<()> {
    let Some(footer_at) = file.n_bytes.checked_sub(FOOTER_BYTES) else { return invalid("it is too short") };
    let footer = file.bytes_at(footer_at, FOOTER_BYTES)?;
    let mut footer = Varints(&footer);
    block(file, footer.next()?, footer.next()?)?; // the filters: unused, but checked for damage
    let index = block(file, footer.next()?, footer.next()?)?;
    let mut last: Option<Vec<u8>> = None;
    entries(file.budget(), &index, |_, handle| {
        let mut handle = Varints(handle);
        let data = block(file, handle.next()?, handle.next()?)?;
        entries(file.budget(), &data, |key, value| {
            match &mut last {
                Some(last) if last.as_slice() >= key => return invalid("its keys are not in order"),
                Some(last) => {
                    last.clear();
                    last.extend_from_slice(key);
                }
                None => last = Some(key.to_vec()),
            }
            each(key, value)
        })?;
        file.budget().give_back(data.capacity() as u64);
        Ok(())
    })
}

/// Reads a block, verifies its checksum and inflates it if it is compressed.
fn block(file: &ByteFile, start: u64, n_bytes: u64) -> Parse<Vec<u8>> {
    let mut bytes = file.bytes_at(start, n_bytes.saturating_add(TRAILER_BYTES as u64))?;
    let trailer = bytes.split_off(bytes.len() - TRAILER_BYTES);
    let stored = u32::from_le_bytes([trailer[1], trailer[2], trailer[3], trailer[4]]);
    if masked(crc32c(bytes.iter().chain(&trailer[..1]))) != stored {
        return invalid(format!("the block at {start} does not match its checksum: the file is damaged"));
    }
    match trailer[0] {
        0 => Ok(bytes),
        1 => {
            let inflated = snappy(file.budget(), &bytes)?;
            file.budget().give_back(bytes.capacity() as u64);
            Ok(inflated)
        }
        kind => invalid(format!("a block's compression method {kind} is not supported, only 0 and 1 (Snappy)")),
    }
}

/// Calls `each` with the entries of a block. A key is stored as the length that it shares with the one before, and the
/// rest.
fn entries(budget: &Budget, block: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Parse<()>) -> Parse<()> {
    let damaged = || ParseError::Invalid("a block is damaged".to_string());
    let n_restarts = block.last_chunk().map(|bytes: &[u8; 4]| u32::from_le_bytes(*bytes)).ok_or_else(damaged)?;
    let n_tail = usize::try_from((u64::from(n_restarts) + 1) * 4).map_err(|_| damaged())?;
    let n_entries = block.len().checked_sub(n_tail).ok_or_else(damaged)?;
    let mut left = Varints(&block[..n_entries]);
    let mut key = Vec::new();
    while !left.0.is_empty() {
        let [n_shared, n_own, n_value] = [left.next()?, left.next()?, left.next()?];
        let n_key = n_shared.saturating_add(n_own);
        if n_key > MAX_TEXT_BYTES {
            return invalid(format!("a key has {n_key} bytes, more than {MAX_TEXT_BYTES}"));
        }
        // Counts like bytes of the file: a few bytes may stand for a long key.
        budget.read(n_key)?;
        let n_shared = usize::try_from(n_shared).ok().filter(|&n| n <= key.len()).ok_or_else(damaged)?;
        key.truncate(n_shared);
        key.extend(left.bytes(n_own)?);
        each(&key, left.bytes(n_value)?)?;
    }
    Ok(())
}

/// Reads integers in groups of seven bits, and the bytes between them.
pub(super) struct Varints<'a>(pub(super) &'a [u8]);

impl<'a> Varints<'a> {
    pub(super) fn next(&mut self) -> Parse<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let Some((&byte, rest)) = self.0.split_first() else { break };
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        invalid("an integer is truncated")
    }

    pub(super) fn bytes(&mut self, n: u64) -> Parse<&'a [u8]> {
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        let Some((bytes, rest)) = self.0.split_at_checked(n) else {
            return invalid(format!("{n} bytes are claimed, but {} are left", self.0.len()));
        };
        self.0 = rest;
        Ok(bytes)
    }
}

/// Inflates Snappy without its framing: <https://github.com/google/snappy/blob/main/format_description.txt>.
fn snappy(budget: &Budget, compressed: &[u8]) -> Parse<Vec<u8>> {
    let mut left = Varints(compressed);
    let claimed = left.next()?;
    // A copy of 64 bytes takes 3 bytes, so nothing shrinks by more than a factor of 64.
    let max = compressed.len().saturating_mul(64);
    let Some(n_bytes) = usize::try_from(claimed).ok().filter(|&n| n <= max) else {
        return invalid(format!("a block claims to inflate to {claimed} bytes"));
    };
    // What it inflates to counts like bytes of the file.
    budget.read(claimed)?;
    let mut out = Vec::new();
    budget.reserve(&mut out, n_bytes)?;
    while let [tag, ..] = *left.0 {
        left.bytes(1)?;
        let high = usize::from(tag >> 2);
        let mut number = |n: u64| -> Parse<usize> {
            Ok(left.bytes(n)?.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
        };
        let (n, distance) = match tag & 3 {
            0 => (if high < 60 { high } else { number(high as u64 - 59)? }.saturating_add(1), None),
            1 => ((high & 7) + 4, Some(number(1)? | (high >> 3) << 8)),
            2 => (high + 1, Some(number(2)?)),
            _ => (high + 1, Some(number(4)?)),
        };
        if n > n_bytes - out.len() {
            return invalid(format!("a block inflates to more than {n_bytes} bytes"));
        }
        let Some(distance) = distance else {
            out.extend(left.bytes(n as u64)?);
            continue;
        };
        let Some(start) = out.len().checked_sub(distance).filter(|_| distance > 0) else {
            return invalid("a block copies from before its start");
        };
        for i in start..start + n {
            out.push(out[i]);
        }
    }
    match out.len() == n_bytes {
        true => Ok(out),
        false => invalid(format!("a block inflates to {} bytes, not {n_bytes}", out.len())),
    }
}

/// Computes CRC-32C (Castagnoli), bit by bit: an index has a few kilobytes.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc: u32, _| crc >> 1 ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1)))
    })
}

/// Masks a checksum as the format stores it: a checksum of data that contains checksums would be weak.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283);
        assert_eq!(crc32c([0u8; 32].iter()), 0x8a91_36aa);
    }

    #[test]
    fn snappy_blocks_inflate() {
        // A literal, a copy that overlaps itself, and one of each longer form.
        let compressed = [12, 2 << 2, b'a', b'b', b'c', 1 | (2 << 2), 3, (2 << 2) | 2, 9, 0];
        assert_eq!(snappy(&Budget::of_text(""), &compressed).ok().as_deref(), Some(&b"abcabcabcabc"[..]));
        for (broken, reason) in [
            (&[200, 1, 0, b'a'][..], "inflates to 1 bytes, not 200"),
            (&[4, 1, 0][..], "copies from before its start"),
            (&[255, 255, 255, 255, 15][..], "claims to inflate"),
            (&[4, 60 << 2][..], "1 bytes are claimed, but 0 are left"),
            (&[2, 2 << 2, b'a', b'b', b'c'][..], "inflates to more than 2 bytes"),
        ] {
            let error = format!("{:?}", snappy(&Budget::of_text(""), broken));
            assert!(error.contains(reason), "{error}");
        }
    }
}
