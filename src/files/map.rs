//! Maps files into memory.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a file for reading, as bytes.
///
/// Whoever asks for a map promises that the file is neither changed nor truncated while it is mapped, which a process
/// cannot enforce: a page that a truncated file no longer has ends the process by SIGBUS. The public functions that map
/// document that.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is only read, as bytes. The caller promises that the file stays as it is.
    unsafe { Mmap::map(file) }
}

/// Returns little-endian integers of 16 bits in place; `None` if they are not aligned, or on a big-endian machine.
pub(crate) fn as_u16(bytes: &[u8]) -> Option<&[u16]> {
    // SAFETY: every two bytes are an integer.
    let (before, ids, after) = unsafe { bytes.align_to() };
    is_whole(before, after).then_some(ids)
}

/// Returns little-endian integers of 32 bits in place; `None` if they are not aligned, or on a big-endian machine.
pub(crate) fn as_u32(bytes: &[u8]) -> Option<&[u32]> {
    // SAFETY: every four bytes are an integer.
    let (before, ids, after) = unsafe { bytes.align_to() };
    is_whole(before, after).then_some(ids)
}

fn is_whole(before: &[u8], after: &[u8]) -> bool {
    cfg!(target_endian = "little") && before.is_empty() && after.is_empty()
}
