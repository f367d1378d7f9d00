//! Damages files: bytes, integers, pieces. Repairs checksums, so that the damage reaches the parsers.

use candle_gpt_input::rng::Generator;

use crate::support::hostile::checksum;

/// The damage that suits a format.
#[derive(Clone, Copy, PartialEq)]
pub enum Field {
    /// A zip file: its directory and headers are hit more often than the tensors.
    Zip,
    /// A pickle: opcodes are swapped for other opcodes.
    Pickle,
    /// A table whose blocks have checksums, which are repaired.
    SsTable,
    /// JSON, or a header of it: values are swapped for values of other kinds, and keys repeated.
    Json,
}

/// Integers at which parsers go wrong.
const NUMBERS: [u64; 14] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    1 << 60,
    u64::MAX / 2,
    u64::MAX - 7,
    u64::MAX,
];
/// Every opcode that the machine knows, and some that it does not.
const OPCODES: &[u8] = b"(.012NJKMGXUTBC]})tldaesucRbQqrhj\x80\x81\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96ioPVSpg";

/// Values that JSON allows where others are expected.
const VALUES: [&str; 22] = [
    "null",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "0.5",
    "-0.0",
    "1e308",
    "-1e400",
    "NaN",
    "Infinity",
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "1099511627776",
    "100000",
    "\"\"",
    "\"\\u001b\"",
    "[]",
    "{}",
    "[[1, 2], {\"a\": null}]",
];

/// Swaps the value after a colon for another. The length before the header of a safetensors file follows.
fn swap_value(bytes: &mut Vec<u8>, generator: &Generator) {
    let header = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).filter(|_| bytes.get(8) == Some(&b'{'));
    let end = header.map_or(bytes.len(), |n| usize::try_from(n).unwrap_or(0).saturating_add(8).min(bytes.len()));
    let colons: Vec<usize> = (0..end).filter(|&at| bytes[at] == b':').collect();
    let Some(&colon) = colons.get(below(colons.len(), generator)) else { return };
    let at = colon + 1;
    let n = bytes[at..].iter().position(|byte| b",}\n".contains(byte)).unwrap_or(0);
    let value = VALUES[below(VALUES.len(), generator)];
    bytes.splice(at..at + n, value.bytes());
    if let Some(n_header) = header {
        let n_header = n_header.wrapping_add(value.len() as u64).wrapping_sub(n as u64);
        bytes[..8].copy_from_slice(&n_header.to_le_bytes());
    }
}

fn below(n: usize, generator: &Generator) -> usize {
    generator.randint(0, n.max(1) as i64, 1).unwrap()[0] as usize
}

/// Returns one of `seeds`, damaged in one to eight places.
pub fn mutate(seeds: &[Vec<u8>], fields: &[Field], generator: &Generator) -> Vec<u8> {
    let mut bytes = seeds[below(seeds.len(), generator)].clone();
    for _ in 0..=below(8, generator) {
        if bytes.is_empty() {
            break;
        }
        // The ends hold headers and directories; the middle holds mostly elements.
        let at = match below(4, generator) {
            0 => below(bytes.len().min(400), generator),
            1 => bytes.len() - 1 - below(bytes.len().min(600), generator),
            _ => below(bytes.len(), generator),
        };
        match below(9, generator) {
            0..=3 if fields.contains(&Field::Json) && below(2, generator) > 0 => swap_value(&mut bytes, generator),
            0 => bytes[at] ^= 1 << below(8, generator),
            1 => bytes[at] = below(256, generator) as u8,
            2 | 3 => {
                let number = NUMBERS[below(NUMBERS.len(), generator)].to_le_bytes();
                let n = [1, 2, 4, 8][below(4, generator)].min(bytes.len() - at);
                bytes[at..at + n].copy_from_slice(&number[..n]);
            }
            4 => bytes.truncate(at),
            5 => {
                let end = (at + below(64, generator)).min(bytes.len());
                bytes.drain(at..end);
            }
            6 => {
                let end = (at + below(64, generator)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = below(bytes.len(), generator);
                bytes.splice(to..to, piece);
            }
            7 if fields.contains(&Field::Pickle) => bytes[at] = OPCODES[below(OPCODES.len(), generator)],
            7 => {
                // A digit of JSON or of a shape.
                if let Some(digit) = bytes[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
                    *digit = b'0' + below(10, generator) as u8;
                }
            }
            _ => bytes[at] = bytes[at].wrapping_add(1),
        }
    }
    if fields.contains(&Field::SsTable) && below(8, generator) > 0 {
        repair_checksums(&mut bytes);
    }
    bytes
}

/// Recomputes the checksums of a small table's blocks: the data from byte 0 on, and the two that the footer names.
fn repair_checksums(bytes: &mut [u8]) {
    let Some(footer) = bytes.len().checked_sub(48) else { return };
    let mut numbers = Vec::new();
    let mut at = footer;
    for _ in 0..4 {
        let (mut number, mut shift) = (0u64, 0);
        while at < bytes.len() && shift < 63 {
            let byte = bytes[at];
            at += 1;
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        numbers.push(number as usize);
    }
    let handles = [(numbers[0], numbers[1]), (numbers[2], numbers[3]), (0, numbers[0].saturating_sub(5))];
    for (start, n_bytes) in handles {
        let Some(end) = start.checked_add(n_bytes).filter(|end| *end < footer && end + 5 <= footer) else { continue };
        let checksum = checksum(&bytes[start..=end]);
        bytes[end + 1..end + 5].copy_from_slice(&checksum);
    }
}
