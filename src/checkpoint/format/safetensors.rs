//! safetensors: the length of a JSON header, the header, and the bytes of the tensors.

use std::fmt;

use candle_core::DType;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};

use super::super::budget::Budget;
use super::super::bytes::{ByteFile, Parse, ParseError, invalid};
use super::super::float8::Float8;
use super::super::stored::{Contents, Kind, Place, StoredDType, StoredTensor};
use crate::error::{Shown, cause};

/// The format's own limit on the header (safetensors 0.8, `MAX_HEADER_SIZE`).
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The key of texts among the tensors.
pub(in super::super) const METADATA: &str = "__metadata__";
/// The header's length stands before it as a little-endian `u64`.
const LENGTH_BYTES: u64 = 8;

/// Reads the header and checks all that it claims against the file's length; reads no data.
pub(in super::super) fn parse(file: &ByteFile) -> Parse<Contents> {
    let n_bytes = file.n_bytes;
    if n_bytes < LENGTH_BYTES {
        return invalid(format!("it has {n_bytes} bytes, fewer than the {LENGTH_BYTES} of the header's length"));
    }
    let header_bytes = u64::from_le_bytes(file.array_at(0)?);
    if header_bytes > MAX_HEADER_BYTES {
        return invalid(format!("its header claims {header_bytes} bytes, more than the limit of {MAX_HEADER_BYTES}"));
    }
    let data_start = LENGTH_BYTES + header_bytes;
    if data_start > n_bytes {
        return invalid(format!(
            "its header claims {header_bytes} bytes, but the file has {n_bytes}: it is cut or damaged, download it again"
        ));
    }
    let header = file.bytes_at(LENGTH_BYTES, header_bytes)?;
    let mut contents = Contents::default();
    let mut places = Vec::new();
    let mut json = serde_json::Deserializer::from_slice(&header);
    let entries = Entries { budget: file.budget(), contents: &mut contents, places: &mut places };
    (json.deserialize_map(entries).and_then(|()| json.end()))
        .map_err(|error| ParseError::Unparsed("its header cannot be parsed", cause(error)))?;
    let data_bytes = without_gaps(&contents, places)?;
    if data_bytes != n_bytes - data_start {
        return invalid(format!(
            "its header describes {data_bytes} bytes of data, but {} follow: the file has {n_bytes} bytes and needs {}{}",
            n_bytes - data_start,
            data_bytes.saturating_add(data_start),
            if data_bytes > n_bytes - data_start {
                ", as after a download that was cut: download it again"
            } else {
                ""
            }
        ));
    }
    for tensor in contents.tensors.values_mut() {
        if let Place::Plain { start, .. } = &mut tensor.place {
            *start += data_start;
        }
    }
    Ok(contents)
}

/// Returns how many bytes the tensors take together. Each must begin where the one before ends, so that no byte has two
/// meanings or none.
fn without_gaps(contents: &Contents, mut places: Vec<(u64, u64)>) -> Parse<u64> {
    places.sort_unstable();
    let mut end = 0;
    for (start, next) in places {
        if start != end {
            let is_it = |tensor: &StoredTensor| matches!(tensor.place, Place::Plain { start: at, .. } if at == start);
            let name = contents.tensors.iter().find(|(_, tensor)| is_it(tensor)).map_or("", |(name, _)| name);
            return invalid(format!(
                "`{}` has the invalid offset {start}: the tensor before it ends at {end}",
                Shown::name(name)
            ));
        }
        end = next;
    }
    Ok(end)
}

/// Reads the header's JSON entry by entry. The library's own reader first builds a tree of it all, which takes more
/// than twenty times its size.
struct Entries<'a> {
    budget: &'a Budget,
    contents: &'a mut Contents,
    /// Where each tensor begins and ends in the data.
    places: &'a mut Vec<(u64, u64)>,
}

impl Entries<'_> {
    fn add(&mut self, name: String, info: TensorInfo) -> Parse<()> {
        let (start, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        let tensor = StoredTensor::plain(info.shape, stored_dtype(info.dtype), 0, start);
        let StoredTensor { shape, dtype, .. } = &tensor;
        if tensor.extent() != end.checked_sub(start) {
            return invalid(format!(
                "`{}` of shape {shape:?} and dtype {} cannot lie at {start}..{end}",
                Shown::name(&name),
                dtype.name
            ));
        }
        // JSON allows a name twice, and the library takes the last. That they agree is the one case without doubt.
        if let Some(before) = self.contents.tensors.get(&name)
            && (&before.shape, &before.dtype) == (shape, dtype)
            && matches!(before.place, Place::Plain { start: at, .. } if at == start)
        {
            return Ok(());
        }
        self.contents.add(self.budget, name, tensor)?;
        self.budget.push(self.places, (start, end))
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of names to tensors")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                map.next_value_seed(Metadata { budget: self.budget, contents: self.contents })?;
            } else {
                let info = map.next_value()?;
                self.add(name, info).map_err(ParseError::in_json)?;
            }
        }
        Ok(())
    }
}

/// Reads the texts of `__metadata__`, or `null`.
struct Metadata<'a> {
    budget: &'a Budget,
    contents: &'a mut Contents,
}

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of texts")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            self.contents.note(self.budget, &key, value).map_err(ParseError::in_json)?;
        }
        Ok(())
    }
}

fn stored_dtype(dtype: Dtype) -> StoredDType {
    let float = match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F64 => DType::F64,
        other => {
            if let Some(kind) = Float8::named(&other.to_string()) {
                return StoredDType::float8(kind);
            }
            // A dtype of 4 or 6 bits: the fewest elements that take whole bytes.
            let n_bits = other.bitsize();
            let block = (1..=8).find(|block| block * n_bits % 8 == 0).unwrap_or(8);
            let (name, kind) = (other.to_string().into(), Kind::Other);
            return StoredDType { name, kind, block, block_bytes: block * n_bits / 8 };
        }
    };
    StoredDType::float(float)
}
