//! NumPy's `.npz`: a zip file of arrays, stored (`np.savez`) or deflated (`np.savez_compressed`).
//!
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>, versions 1 to 3.

use std::collections::BTreeMap;
use std::io::{self, Read};

use candle_core::DType;
use flate2::read::DeflateDecoder;

use super::super::bytes::{ByteFile, Parse, ParseError, invalid};
use super::super::stored::{Contents, Kind, Place, StoredDType, StoredTensor};
use super::zip::Member;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// A header holds a dtype and a shape; NumPy itself refuses more than 10000 characters.
const MAX_HEADER_BYTES: usize = 1 << 16;
/// The size to which any deflated array may grow. A larger one may be `MAX_GROWTH` times its size in the file: weights
/// hardly compress.
const MAX_FREE_BYTES: u64 = 64 << 20;
const MAX_GROWTH: u64 = 64;

/// Reads the headers of the arrays in a zip file.
pub(super) fn parse(file: &ByteFile, members: &BTreeMap<String, Member>) -> Parse<Contents> {
    let mut contents = Contents::default();
    for (member_name, member) in members {
        let name = member_name.strip_suffix(".npy").unwrap_or(member_name);
        let at_name = |error| match error {
            ParseError::Invalid(reason) => ParseError::Invalid(format!("`{name}`: {reason}")),
            other => other,
        };
        contents.add(file.budget(), name.to_string(), array(file, member).map_err(at_name)?)?;
    }
    Ok(contents)
}

fn array(file: &ByteFile, member: &Member) -> Parse<StoredTensor> {
    let start = member.data_start(file)?;
    let end = start + member.n_compressed;
    let (header, skip) = match member.method {
        0 => header(&mut file.header_reader(start, end), |_| Ok(()))?,
        8 if member.n_bytes > MAX_FREE_BYTES.max(member.n_compressed.saturating_mul(MAX_GROWTH)) => {
            return invalid(format!(
                "{} bytes claim to inflate to {}, more than weights do: save it with `np.savez`",
                member.n_compressed, member.n_bytes
            ));
        }
        // What a header inflates to counts like bytes of the file: it takes as long to parse.
        8 => header(&mut DeflateDecoder::new(file.header_reader(start, end)), |n| file.budget().read(n))?,
        method => return invalid(format!("compression method {method} is not supported, only 0 and 8 (deflated)")),
    };
    let (dtype, big_endian) = dtype(header.descr)?;
    let strides = if header.fortran_order { Some(column_major(&header.shape)?) } else { None };
    let place = match member.method {
        0 => Place::Plain { file: 0, start: start + skip },
        _ => Place::Deflated { start, n_compressed: member.n_compressed, skip },
    };
    let tensor =
        StoredTensor { shape: header.shape.into(), dtype, place, strides: strides.map(Into::into), big_endian };
    let n_expected = tensor.extent().and_then(|n| n.checked_add(skip));
    if tensor.dtype.kind != Kind::Other && n_expected != Some(member.n_bytes) {
        let StoredTensor { shape, dtype, .. } = &tensor;
        return invalid(format!("{} bytes cannot hold shape {shape:?} of {}", member.n_bytes, dtype.name));
    }
    Ok(tensor)
}

struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// Reads the header at the front of an array, and returns how many bytes it takes. `count` may refuse to read as many.
fn header(bytes: &mut dyn Read, count: impl Fn(u64) -> io::Result<()>) -> Parse<(Header, u64)> {
    let mut front = [0; 10];
    bytes.read_exact(&mut front)?;
    if !front.starts_with(MAGIC) {
        return invalid("not a NumPy array");
    }
    let short = u16::from_le_bytes([front[8], front[9]]);
    let (n_header, n_front) = match front[6] {
        1 => (usize::from(short), 10),
        2 | 3 => {
            let mut high = [0; 2];
            bytes.read_exact(&mut high)?;
            (usize::from(short) | usize::from(u16::from_le_bytes(high)) << 16, 12)
        }
        version => return invalid(format!("version {version} of NumPy's format is not supported: expected 1 to 3")),
    };
    if n_header > MAX_HEADER_BYTES {
        return invalid(format!("a header of {n_header} bytes, more than {MAX_HEADER_BYTES}"));
    }
    count(n_header as u64)?;
    let mut text = vec![0; n_header];
    bytes.read_exact(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    match header_of(&text) {
        Some(header) => Ok((header, (n_front + n_header) as u64)),
        None => {
            invalid(format!("a header that cannot be parsed: {}", text.chars().take(80).collect::<String>().trim()))
        }
    }
}

/// Parses a header such as `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn header_of(text: &str) -> Option<Header> {
    let after = |key: &str| Some(text.split_once(key)?.1.trim_start().strip_prefix(':')?.trim_start());
    let descr = after("'descr'")?;
    let descr = match descr.strip_prefix('\'') {
        Some(descr) => descr.split_once('\'')?.0.to_string(),
        None => "|V".to_string(), // a record
    };
    let fortran_order = match after("'fortran_order'")? {
        order if order.starts_with("False") => false,
        order if order.starts_with("True") => true,
        _ => return None,
    };
    let (dims, _) = after("'shape'")?.strip_prefix('(')?.split_once(')')?;
    let dims = dims.split(',').map(str::trim).filter(|dim| !dim.is_empty());
    let shape = dims.map(|dim| dim.trim_end_matches('L').parse().ok()).collect::<Option<Vec<usize>>>()?;
    Some(Header { descr, fortran_order, shape })
}

/// Parses a dtype such as `<f4`: byte order, letter, size.
fn dtype(descr: String) -> Parse<(StoredDType, bool)> {
    let kind = descr.trim_start_matches(['<', '>', '=', '|']);
    let float = match kind {
        "f4" => DType::F32,
        "f2" => DType::F16,
        "f8" => DType::F64,
        _ => {
            let name = match kind {
                "b1" => "BOOL".to_string(),
                _ => match kind.split_at_checked(1) {
                    Some((letter @ ("i" | "u"), n)) => {
                        format!("{}{}", letter.to_uppercase(), n.parse::<usize>().unwrap_or(0).saturating_mul(8))
                    }
                    _ => descr.clone(),
                },
            };
            let n_bytes = kind.get(1..).and_then(|n| n.parse::<u16>().ok()).unwrap_or(0);
            return Ok((StoredDType::other(name, usize::from(n_bytes)), descr.starts_with('>')));
        }
    };
    Ok((StoredDType::float(float), descr.starts_with('>')))
}

fn column_major(shape: &[usize]) -> Parse<Vec<usize>> {
    let reversed: Vec<usize> = shape.iter().rev().copied().collect();
    match StoredTensor::row_major(&reversed) {
        Some(strides) => Ok(strides.into_iter().rev().collect()),
        None => invalid(format!("shape {shape:?} is too large")),
    }
}
