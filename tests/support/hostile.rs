//! Makes small files of each format that claim much.

use std::io::Write;

/// Makes a zip file of members: (name, method, claimed size, bytes).
pub fn zip_of(members: &[(&str, u16, u32, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, method, n_bytes, bytes) in members {
        let start = file.len() as u32;
        let mut sizes = (bytes.len() as u32).to_le_bytes().to_vec();
        sizes.extend(n_bytes.to_le_bytes());
        sizes.extend((name.len() as u16).to_le_bytes());
        sizes.extend(0u16.to_le_bytes());
        let method = method.to_le_bytes();
        file.extend([b"PK\x03\x04\x14\0\0\0", &method[..], &[0; 8], &sizes, name.as_bytes(), bytes].concat());
        let place = start.to_le_bytes();
        directory.extend(
            [b"PK\x01\x02\x14\0\x14\0\0\0", &method[..], &[0; 8], &sizes, &[0; 10], &place, name.as_bytes()].concat(),
        );
    }
    let (start, n) = (file.len() as u32, members.len() as u16);
    file.extend(&directory);
    file.extend([b"PK\x05\x06\0\0\0\0", &n.to_le_bytes()[..], &n.to_le_bytes()].concat());
    file.extend([&(directory.len() as u32).to_le_bytes()[..], &start.to_le_bytes(), &[0, 0]].concat());
    file
}

/// Deflates as well as possible.
pub fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// Makes a NumPy array of this header and data.
pub fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let n_header = u32::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x02\0", &n_header[..], header.as_bytes(), data].concat()
}

/// Makes a GGUF file, up to the end of its header.
pub fn gguf(n_tensors: u64, n_pairs: u64, rest: &[u8]) -> Vec<u8> {
    [b"GGUF", &3u32.to_le_bytes()[..], &n_tensors.to_le_bytes(), &n_pairs.to_le_bytes(), rest].concat()
}

/// Makes the key `k` with an array of `n` elements of this kind.
pub fn gguf_array(kind: u32, n: u64) -> Vec<u8> {
    [&1u64.to_le_bytes()[..], b"k", &9u32.to_le_bytes(), &kind.to_le_bytes(), &n.to_le_bytes()].concat()
}

/// Makes a safetensors file of this header and zeros.
pub fn safetensors(header: &str, n_data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; n_data]].concat()
}

/// Makes the header of an llm.c file of `n_layer` blocks with one channel; returns it, and the length of the whole
/// file.
pub fn llmc(n_layer: u32) -> (Vec<u8>, u64) {
    let numbers = [20_240_326, 3, 1, 1, n_layer, 1, 1, 1];
    (numbers.iter().flat_map(|number| number.to_le_bytes()).collect(), 1024 + 4 * (4 + 25 * u64::from(n_layer)))
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Makes what Snappy inflates to a block of 8 + 64 `n` bytes without entries, from three bytes for each 64.
pub fn snappy_without_entries(n: u32) -> Vec<u8> {
    let n_restarts = (16 * n + 1).to_le_bytes();
    let front = [varint(8 + 64 * u64::from(n)), vec![3 << 2, 0, 0, 0, 0]].concat();
    [front, [(63 << 2) | 2, 4, 0].repeat(n as usize), vec![3 << 2], n_restarts.to_vec()].concat()
}

/// Makes a TensorFlow index of one block of data, compressed by `method`, to which the index points `n_handles` times.
pub fn sstable(data: &[u8], method: u8, n_handles: usize) -> Vec<u8> {
    let mut file = Vec::new();
    let mut block = |entries: &[u8], method: u8| {
        let start = file.len() as u64;
        let mut bytes = entries.to_vec();
        bytes.push(method);
        let sum = checksum(&bytes);
        file.extend([&bytes[..], &sum].concat());
        [varint(start), varint(bytes.len() as u64 - 1)].concat()
    };
    let no_entries = 0u32.to_le_bytes();
    let handle = block(data, method);
    let filters = block(&no_entries, 0);
    let entry = |i: usize| [&[0, 4, handle.len() as u8][..], &(i as u32).to_be_bytes(), &handle].concat();
    let index: Vec<u8> = (0..n_handles).flat_map(entry).chain(no_entries).collect();
    let index = block(&index, 0);
    let mut footer = [filters, index].concat();
    footer.resize(40, 0);
    [&file[..], &footer, &0xdb47_7524_8b80_fb57u64.to_le_bytes()].concat()
}

/// Computes the masked CRC-32C that follows a block and its compression byte.
pub fn checksum(bytes: &[u8]) -> [u8; 4] {
    let crc = !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1)))
    });
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}
