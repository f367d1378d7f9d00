//! GGUF: llama.cpp's format. <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 1 to 3.
//!
//! Candle's own reader keeps all metadata, including a vocabulary of 50 000 texts, and refuses a file with a tensor of
//! an unknown block type. This one keeps only the keys of a configuration, lists such tensors, and reads the tokenizer
//! when it is asked for.

use candle_core::DType;
use candle_core::quantized::GgmlDType;
use serde_json::{Map, Value};

use super::super::budget::{MAX_DIMS, MAX_NESTING, MAX_TEXT_BYTES};
use super::super::bytes::{ByteFile, Header, Parse, invalid};
use super::super::names::CONFIG_METADATA;
use super::super::stored::{Contents, Kind, Place, StoredDType, StoredTensor};
use super::{gguf_config, gguf_tokenizer};

pub(in super::super) const MAGIC: &[u8; 4] = b"GGUF";
/// Where tensors begin, unless the file says otherwise.
pub(in super::super) const ALIGNMENT: u64 = 32;
/// The fewest bytes of a tensor's entry and of a key with its value; they bound the counts.
const MIN_TENSOR_BYTES: u64 = 24;
const MIN_PAIR_BYTES: u64 = 9;

/// Longer texts do not name architectures or scalings.
const MAX_VALUE_BYTES: u64 = 64;

/// Reads the header (keys, values and the tensors' entries); reads no data.
pub(in super::super) fn parse(file: &ByteFile) -> Parse<Contents> {
    let (mut reader, n_tensors, n_pairs) = Reader::begin(file)?;
    let mut keys = Map::new();
    for _ in 0..n_pairs {
        let key = reader.string()?;
        if let Some(value) = reader.value(0)?.filter(|_| gguf_config::is_wanted(&key)) {
            file.budget().take_node::<(String, Value)>()?;
            file.budget().take_text(key.len())?;
            keys.insert(key, value);
        }
    }
    let mut contents = Contents::default();
    // Added one by one, so that entries cost memory only as long as their names are new.
    for _ in 0..n_tensors {
        let (name, tensor) = reader.tensor()?;
        contents.add(file.budget(), name, tensor)?;
    }
    let alignment = keys.get(gguf_config::ALIGNMENT).and_then(Value::as_u64).unwrap_or(ALIGNMENT);
    let Some(data_start) = reader.header.position().checked_next_multiple_of(alignment).filter(|_| alignment > 0)
    else {
        return invalid(format!("its alignment {alignment} cannot be used"));
    };
    for (name, tensor) in &mut contents.tensors {
        let Place::Plain { start, .. } = &mut tensor.place else { continue };
        match data_start.checked_add(*start) {
            Some(in_file) => *start = in_file,
            None => return invalid(format!("`{name}` lies beyond any file, at {start}")),
        }
    }
    if let Some(config) = gguf_config::config(&keys, &contents, file)? {
        contents.note(file.budget(), CONFIG_METADATA, config.to_string())?;
    }
    Ok(contents)
}

/// Reads the keys and values that say something of the tokenizer, whole.
pub(in super::super) fn tokenizer_keys(file: &ByteFile) -> Parse<Map<String, Value>> {
    let (mut reader, _, n_pairs) = Reader::begin(file)?;
    let mut keys = Map::new();
    for _ in 0..n_pairs {
        let key = reader.string()?;
        reader.keeps_all = gguf_tokenizer::is_wanted(&key);
        if let Some(value) = reader.value(0)?.filter(|_| reader.keeps_all) {
            keys.insert(key, value);
        }
    }
    Ok(keys)
}

struct Reader<'a> {
    header: Header<'a>,
    /// Whether lengths have 64 bits; in version 1 they have 32.
    wide: bool,
    /// Whether lists and long texts are kept.
    keeps_all: bool,
}

impl<'a> Reader<'a> {
    /// Reads the beginning of a file; returns how many tensors it has, and how many pairs of a key and a value.
    fn begin(file: &'a ByteFile) -> Parse<(Self, u64, u64)> {
        let mut header = Header::new(file, MAGIC.len() as u64, file.n_bytes);
        let version = header.u32()?;
        if version & 0xffff == 0 {
            return invalid("it is big-endian, which is not supported: convert it with `gguf_convert_endian.py`");
        }
        if !(1..=3).contains(&version) {
            return invalid(format!("version {version} is not supported: expected 1 to 3"));
        }
        let mut reader = Self { header, wide: version > 1, keeps_all: false };
        let (n_tensors, n_pairs) = (reader.count(MIN_TENSOR_BYTES)?, reader.count(MIN_PAIR_BYTES)?);
        Ok((reader, n_tensors, n_pairs))
    }

    fn length(&mut self) -> Parse<u64> {
        if self.wide { self.header.u64() } else { self.header.u32().map(u64::from) }
    }

    /// Reads a count of entries of at least `min_bytes` each.
    fn count(&mut self, min_bytes: u64) -> Parse<u64> {
        let count = self.length()?;
        match count > self.header.n_left() / min_bytes {
            true => invalid(format!("it claims {count} entries, but {} bytes are left", self.header.n_left())),
            false => Ok(count),
        }
    }

    fn string(&mut self) -> Parse<String> {
        let n_bytes = self.length()?;
        if n_bytes > MAX_TEXT_BYTES {
            return invalid(format!("a name of {n_bytes} bytes, more than {MAX_TEXT_BYTES}"));
        }
        match String::from_utf8(self.header.bytes(n_bytes)?) {
            Ok(text) => Ok(text),
            Err(_) => invalid("a name that is not UTF-8"),
        }
    }

    /// Reads a value; returns it if it is a number, a flag or a short text, or if all are kept.
    fn value(&mut self, depth: usize) -> Parse<Option<Value>> {
        let kind = self.header.u32()?;
        match kind {
            9 => self.array(depth),
            _ => self.single(kind),
        }
    }

    fn single(&mut self, kind: u32) -> Parse<Option<Value>> {
        match kind {
            4 => Ok(Some(self.header.u32()?.into())),
            5 => Ok(Some(i32::from_le_bytes(self.header.u32()?.to_le_bytes()).into())),
            6 => Ok(Some(f64::from(f32::from_bits(self.header.u32()?)).into())),
            7 => Ok(Some((self.header.bytes(1)? != [0]).into())),
            10 => Ok(Some(self.header.u64()?.into())),
            11 => Ok(Some(i64::from_le_bytes(self.header.u64()?.to_le_bytes()).into())),
            12 => Ok(Some(f64::from_bits(self.header.u64()?).into())),
            8 => {
                let n_bytes = self.length()?;
                if n_bytes > MAX_VALUE_BYTES && !self.keeps_all {
                    return self.header.skip(n_bytes).map(|()| None);
                }
                Ok(String::from_utf8(self.header.bytes(n_bytes)?).ok().map(Value::from))
            }
            _ => self.header.skip(scalar_bytes(kind)?).map(|()| None),
        }
    }

    /// Reads a list; returns it if all are kept. What is neither a number, a flag nor a text is `null` there.
    fn array(&mut self, depth: usize) -> Parse<Option<Value>> {
        if depth >= MAX_NESTING {
            return invalid(format!("arrays nested deeper than {MAX_NESTING}"));
        }
        let kind = self.header.u32()?;
        let count = self.count(1)?;
        let mut kept = self.keeps_all.then(Vec::new);
        for _ in 0..count {
            let value = match (kind, &kept) {
                (9, _) => self.array(depth + 1)?,
                (_, Some(_)) => self.single(kind)?,
                (8, None) => {
                    let n_bytes = self.length()?;
                    self.header.skip(n_bytes)?;
                    None
                }
                (_, None) => {
                    let n_bytes = count.saturating_mul(scalar_bytes(kind)?);
                    self.header.skip(n_bytes)?;
                    break;
                }
            };
            if let Some(kept) = &mut kept {
                let value = value.unwrap_or_default();
                self.header.budget().take_text(size_of::<Value>() + value.as_str().map_or(0, str::len))?;
                kept.push(value);
            }
        }
        Ok(kept.map(Value::from))
    }

    /// Reads a tensor's entry. Its place counts from the start of the data, which is not known yet.
    fn tensor(&mut self) -> Parse<(String, StoredTensor)> {
        let name = self.string()?;
        let n_dims = self.header.u32()?;
        if n_dims as usize > MAX_DIMS {
            return invalid(format!("`{name}` has {n_dims} dimensions, more than {MAX_DIMS}"));
        }
        let mut shape = Vec::new();
        for _ in 0..n_dims {
            let dim = self.length()?;
            match usize::try_from(dim) {
                Ok(dim) => shape.push(dim),
                Err(_) => return invalid(format!("`{name}` has a dimension of {dim}")),
            }
        }
        shape.reverse(); // the format begins with the innermost dimension
        let dtype = stored_dtype(self.header.u32()?, &name)?;
        Ok((name, StoredTensor::plain(shape, dtype, 0, self.header.u64()?)))
    }
}

fn scalar_bytes(kind: u32) -> Parse<u64> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => invalid(format!("a value of the unknown kind {kind}")),
    }
}

/// Dtypes by number: <https://github.com/ggml-org/ggml/blob/master/include/ggml.h>, `enum ggml_type`.
const FLOATS: [(u32, DType); 4] = [(0, DType::F32), (1, DType::F16), (28, DType::F64), (30, DType::BF16)];
const BLOCKS: [(u32, GgmlDType); 10] = [
    (2, GgmlDType::Q4_0),
    (3, GgmlDType::Q4_1),
    (6, GgmlDType::Q5_0),
    (7, GgmlDType::Q5_1),
    (8, GgmlDType::Q8_0),
    (10, GgmlDType::Q2K),
    (11, GgmlDType::Q3K),
    (12, GgmlDType::Q4K),
    (13, GgmlDType::Q5K),
    (14, GgmlDType::Q6K),
];

pub(in super::super) fn number_of(dtype: DType) -> Option<u32> {
    FLOATS.iter().find(|(_, known)| *known == dtype).map(|&(number, _)| number)
}

pub(in super::super) fn number_of_blocks(block_type: GgmlDType) -> Option<u32> {
    BLOCKS.iter().find(|(_, known)| *known == block_type).map(|&(number, _)| number)
}

fn stored_dtype(number: u32, name: &str) -> Parse<StoredDType> {
    if let Some(&(_, dtype)) = FLOATS.iter().find(|(known, _)| *known == number) {
        return Ok(StoredDType::float(dtype));
    }
    if let Some(&(_, blocks)) = BLOCKS.iter().find(|(known, _)| *known == number) {
        let (block, block_bytes) = (blocks.block_size(), blocks.type_size());
        return Ok(StoredDType { name: format!("{blocks:?}").into(), kind: Kind::Blocks(blocks), block, block_bytes });
    }
    match OTHER_TYPES.iter().find(|(known, ..)| *known == number) {
        Some(&(_, name, block, block_bytes)) => {
            Ok(StoredDType { name: name.into(), kind: Kind::Other, block, block_bytes })
        }
        None => invalid(format!("`{name}` has the unknown dtype {number}")),
    }
}

/// Dtypes that are only listed, as Candle does not dequantize them: number, name, elements and bytes of a block.
const OTHER_TYPES: [(u32, &str, usize, usize); 19] = [
    (9, "Q8_1", 32, 36),
    (15, "Q8K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
];
