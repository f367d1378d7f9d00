//! The directory of the zip files in which PyTorch and NumPy keep tensors: where each member's bytes lie.
//!
//! Candle's `zip` crate reads through a cursor. Here offsets are needed, read at random access (also from remote files)
//! and with a bound on the directory. APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.

use std::collections::BTreeMap;

use super::super::bytes::{ByteFile, Parse, ParseError, invalid};

const END: &[u8; 4] = b"PK\x05\x06";
const END_BYTES: usize = 22;
const END_64_LOCATOR: &[u8; 4] = b"PK\x06\x07";
const END_64: &[u8; 4] = b"PK\x06\x06";
const MEMBER: &[u8; 4] = b"PK\x01\x02";
const MEMBER_BYTES: usize = 46;
const LOCAL: &[u8; 4] = b"PK\x03\x04";
const LOCAL_BYTES: usize = 30;
/// The extra field with sizes that do not fit 32 bits.
const ZIP_64: u16 = 1;

/// One member of a zip file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    /// 0 for stored, 8 for deflated.
    pub(super) method: u16,
    pub(super) n_bytes: u64,
    pub(super) n_compressed: u64,
    /// Where its header lies; its data follows.
    header_at: u64,
    /// Where the next member's header lies, or the directory.
    end: u64,
}

impl Member {
    /// Returns where its bytes begin, after checking that they lie inside the file.
    pub(super) fn data_start(&self, file: &ByteFile) -> Parse<u64> {
        if file.n_bytes.checked_sub(LOCAL_BYTES as u64).is_none_or(|last| self.header_at > last) {
            return invalid("a member of the zip lies outside the file");
        }
        let header: [u8; LOCAL_BYTES] = file.array_at(self.header_at)?;
        if !header.starts_with(LOCAL) {
            return invalid(format!("the zip has no member at {}", self.header_at));
        }
        let start =
            self.header_at + LOCAL_BYTES as u64 + u64::from(u16_at(&header, 26)) + u64::from(u16_at(&header, 28));
        if start.checked_add(self.n_compressed).is_none_or(|end| end > file.n_bytes) {
            return invalid(format!("a member of {} bytes at {start} extends beyond the file", self.n_compressed));
        }
        // As CPython's zipfile does: members that share bytes can inflate a small file without bound.
        if start + self.n_compressed > self.end {
            return invalid(format!("its members overlap at {start}"));
        }
        if self.method == 0 && self.n_bytes != self.n_compressed {
            return invalid("a stored member of the zip has two sizes");
        }
        Ok(start)
    }
}

/// Reads the directory: the members by name.
pub(super) fn directory(file: &ByteFile) -> Parse<BTreeMap<String, Member>> {
    let (start, n_bytes) = place_of_directory(file)?;
    let budget = file.budget();
    let bytes = file.bytes_at(start, n_bytes)?;
    let mut left = bytes.as_slice();
    let mut members = BTreeMap::new();
    while left.starts_with(MEMBER) {
        let ends_early = || ParseError::Invalid("its zip directory ends too early".to_string());
        let (header, rest) = left.split_at_checked(MEMBER_BYTES).ok_or_else(ends_early)?;
        let lengths = [28, 30, 32].map(|at| usize::from(u16_at(header, at)));
        let (name, rest) = rest.split_at_checked(lengths[0]).ok_or_else(ends_early)?;
        let (extra, rest) = rest.split_at_checked(lengths[1]).ok_or_else(ends_early)?;
        left = rest.get(lengths[2]..).ok_or_else(ends_early)?;
        let name = String::from_utf8_lossy(name).into_owned();
        if u16_at(header, 8) & 1 != 0 {
            return invalid(format!("`{name}` is encrypted"));
        }
        let mut sizes = [24, 20, 42].map(|at| u64::from(u32_at(header, at)));
        widen(&mut sizes, extra);
        let [n_bytes, n_compressed, header_at] = sizes;
        let member = Member { method: u16_at(header, 10), n_bytes, n_compressed, header_at, end: start };
        budget.take_node::<(String, Member)>()?;
        budget.take_text(name.len())?;
        if members.insert(name.clone(), member).is_some() {
            return invalid(format!("it holds `{name}` twice"));
        }
    }
    if !left.is_empty() {
        return invalid("its zip directory is damaged");
    }
    budget.take((members.len() * size_of::<&mut Member>()) as u64)?;
    let mut in_order: Vec<&mut Member> = members.values_mut().collect();
    in_order.sort_unstable_by_key(|member| std::cmp::Reverse(member.header_at));
    let mut end = start;
    for member in in_order {
        member.end = end;
        end = member.header_at;
    }
    Ok(members)
}

/// Finds the directory: where it begins, and its length.
fn place_of_directory(file: &ByteFile) -> Parse<(u64, u64)> {
    // The last record is followed by a comment of at most 64 KiB.
    let n_tail = file.n_bytes.min(END_BYTES as u64 + u64::from(u16::MAX));
    let tail_start = file.n_bytes - n_tail;
    let tail = file.bytes_at(tail_start, n_tail)?;
    let is_end = |at: &usize| {
        let record = &tail[*at..];
        record.starts_with(END) && record.len() == END_BYTES + usize::from(u16_at(record, 20))
    };
    let Some(at) = (0..=tail.len().saturating_sub(END_BYTES)).rev().find(is_end) else {
        return invalid("its zip directory is missing: the file is truncated or damaged");
    };
    let record = &tail[at..];
    let (start, n_bytes) = (u64::from(u32_at(record, 16)), u64::from(u32_at(record, 12)));
    let Some(locator) = at.checked_sub(20).map(|start| &tail[start..at]).filter(|l| l.starts_with(END_64_LOCATOR))
    else {
        return Ok((start, n_bytes));
    };
    let record = file.bytes_at(u64_at(locator, 8), 56)?;
    match record.starts_with(END_64) {
        true => Ok((u64_at(&record, 48), u64_at(&record, 40))),
        false => invalid("its zip64 record is missing"),
    }
}

/// Replaces the sizes that did not fit 32 bits by those of the zip64 field, which lists only them, in the same order.
fn widen(sizes: &mut [u64; 3], mut extra: &[u8]) {
    while let Some((head, rest)) = extra.split_at_checked(4) {
        let (field, rest) = rest.split_at(usize::from(u16_at(head, 2)).min(rest.len()));
        extra = rest;
        if u16_at(head, 0) == ZIP_64 {
            let wide = field.chunks_exact(8).map(|bytes| u64_at(bytes, 0));
            let narrow = sizes.iter_mut().filter(|size| **size == u64::from(u32::MAX));
            narrow.zip(wide).for_each(|(size, wide)| *size = wide);
        }
    }
}

// Little-endian integers in records whose length has been checked.
fn u16_at(record: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([record[at], record[at + 1]])
}

fn u32_at(record: &[u8], at: usize) -> u32 {
    u32::from(u16_at(record, at)) | u32::from(u16_at(record, at + 2)) << 16
}

fn u64_at(record: &[u8], at: usize) -> u64 {
    u64::from(u32_at(record, at)) | u64::from(u32_at(record, at + 4)) << 32
}
