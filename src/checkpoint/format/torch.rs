//! PyTorch's `.pth`, `.pt` and `.bin`: a pickle that describes tensors, and storages that hold their bytes.
//!
//! Since PyTorch 1.6 this is a zip file. Before, it was one file that begins with a pickle (openai-community/gpt2 has
//! such a `pytorch_model.bin`).
//!
//! `torch/serialization.py` and `torch/_utils.py` of PyTorch 2.15.

use std::collections::BTreeMap;

use candle_core::DType;
use serde_json::{Map, Value as Json};

use super::super::bytes::{ByteFile, Header, Parse, ParseError, invalid};
use super::super::names::CONFIG_METADATA;
use super::super::stored::{Contents, Place, StoredDType, StoredTensor};
use super::pickle::{Id, Pickle, Value};
use super::zip::Member;

/// The beginning of an old file: a pickle of the integer 0x1950a86a20f9469cfc6c.
pub(in super::super) const LEGACY_MAGIC: &[u8; 15] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e";
pub(super) const PICKLE: &str = "data.pkl";
/// Keys under which training scripts keep the state dict of their model.
const NESTED: [&str; 4] = ["model", "state_dict", "model_state_dict", "module"];
/// How deep those may be nested, and how many wrappers a tensor may have; both may form cycles.
const MAX_DEPTH: usize = 4;
/// Where nanoGPT keeps the dimensions.
const MODEL_ARGS: &str = "model_args";

/// Dtypes by the storage's name, the name of `torch.dtype`, our name, and bytes.
const DTYPES: [(&str, &str, &str, usize); 11] = [
    ("torch.LongStorage", "torch.int64", "I64", 8),
    ("torch.IntStorage", "torch.int32", "I32", 4),
    ("torch.ShortStorage", "torch.int16", "I16", 2),
    ("torch.CharStorage", "torch.int8", "I8", 1),
    ("torch.ByteStorage", "torch.uint8", "U8", 1),
    ("torch.BoolStorage", "torch.bool", "BOOL", 1),
    ("torch.ComplexFloatStorage", "torch.complex64", "C64", 8),
    ("torch.ComplexDoubleStorage", "torch.complex128", "C128", 16),
    ("", "torch.uint16", "U16", 2),
    ("", "torch.uint32", "U32", 4),
    ("", "torch.uint64", "U64", 8),
];

/// Returns whether a zip file is PyTorch's: whether it has a member `NAME/data.pkl`.
pub(super) fn is_torch(members: &BTreeMap<String, Member>) -> bool {
    prefix_of(members).is_some()
}

/// Returns the folder inside the zip file that holds all its members.
fn prefix_of(members: &BTreeMap<String, Member>) -> Option<&str> {
    members
        .keys()
        .find_map(|name| name.strip_suffix(PICKLE).filter(|before| before.ends_with('/') || before.is_empty()))
}

/// Reads the pickle of a zip file.
pub(super) fn parse_zip(
    file: &ByteFile,
    members: &BTreeMap<String, Member>,
    state_dict: Option<&str>,
) -> Parse<Contents> {
    let prefix = prefix_of(members).unwrap_or_default();
    let member = |name: &str| match members.get(&format!("{prefix}{name}")) {
        Some(member) if member.method != 0 => invalid(format!("its `{name}` is compressed, which PyTorch never does")),
        member => Ok(member),
    };
    let Some(pickle) = member(PICKLE)? else { return invalid("it has no data.pkl") };
    let start = pickle.data_start(file)?;
    let pickle = Pickle::read(&mut Header::new(file, start, start + pickle.n_bytes))?;
    let big_endian = match member("byteorder")? {
        Some(order) => file.bytes_at(order.data_start(file)?, order.n_bytes.min(16))? == b"big",
        None => false,
    };
    let storage = |key: &str| match member(&format!("data/{key}"))? {
        Some(member) => Ok((member.data_start(file)?, member.n_bytes)),
        None => invalid(format!("its storage `{key}` is missing")),
    };
    contents(&pickle, big_endian, state_dict, storage)
}

/// Reads an old file: four pickles after the magic number, the last of which lists the storages' keys, then the
/// storages.
pub(in super::super) fn parse_legacy(file: &ByteFile, state_dict: Option<&str>) -> Parse<Contents> {
    let mut header = Header::new(file, LEGACY_MAGIC.len() as u64, file.n_bytes);
    let _protocol = Pickle::read(&mut header)?;
    let system = Pickle::read(&mut header)?;
    let little = system.pairs(system.root()).into_iter().flatten().find(|(key, _)| *key == "little_endian");
    let big_endian = little.is_some_and(|(_, id)| matches!(system.get(id), Value::Bool(false)));
    let pickle = Pickle::read(&mut header)?;
    let keys = Pickle::read(&mut header)?;
    let sizes = storage_sizes(&pickle)?;
    let mut storages = BTreeMap::new();
    for &key in keys.items(keys.root()).unwrap_or_default() {
        let Some((key, &element)) = keys.str(key).and_then(|key| Some((key, sizes.get(key)?))) else {
            return invalid("its list of storages names one that no tensor has");
        };
        let n_elements = header.u64()?;
        let Some(n_bytes) = n_elements.checked_mul(element) else {
            return invalid(format!("its storage `{key}` claims {n_elements} elements"));
        };
        storages.insert(key, (header.position(), n_bytes));
        header.skip(n_bytes)?;
    }
    contents(&pickle, big_endian, state_dict, |key| match storages.get(key) {
        Some(&place) => Ok(place),
        None => invalid(format!("its storage `{key}` is missing")),
    })
}

/// Returns the bytes of an element of each storage, by key.
fn storage_sizes(pickle: &Pickle) -> Parse<BTreeMap<&str, u64>> {
    let mut sizes = BTreeMap::new();
    for id in 0..pickle.n_values() {
        if let Value::Persistent(id) = pickle.get(id) {
            let Storage { key, dtype, .. } = storage_of(pickle, *id)?;
            sizes.insert(key, dtype.block_bytes as u64);
        }
    }
    Ok(sizes)
}

/// Collects the tensors of a state dict, and the configuration that the pickle holds.
fn contents(
    pickle: &Pickle,
    big_endian: bool,
    state_dict: Option<&str>,
    place: impl Fn(&str) -> Parse<(u64, u64)>,
) -> Parse<Contents> {
    let mut contents = Contents::default();
    let mut dict = pickle.root();
    if let Some(key) = state_dict {
        let pairs = pickle.pairs(dict).into_iter().flatten();
        let dicts: Vec<_> = pairs.filter(|&(_, value)| pickle.pairs(value).is_some()).collect();
        let Some(&(_, chosen)) = dicts.iter().find(|(name, _)| *name == key) else {
            let names: Vec<_> = dicts.iter().map(|(name, _)| format!("`{name}`")).collect();
            return invalid(format!("it has no state dict under `{key}`; it has: {}", names.join(", ")));
        };
        dict = chosen;
    }
    for depth in 0..MAX_DEPTH {
        let Some(pairs) = pickle.pairs(dict) else {
            return match depth {
                0 => invalid("it holds no dict of tensors: save `model.state_dict()`"),
                _ => Ok(contents),
            };
        };
        let mut nested = None;
        for (name, value) in pairs {
            if let Some(tensor) = tensor_of(pickle, value, big_endian, &place)? {
                contents.tensors.insert(name.to_string(), tensor);
            } else if NESTED.contains(&name) && matches!(pickle.get(value), Value::Dict(_)) {
                nested = Some(value);
            } else if name == MODEL_ARGS && depth == 0 {
                config_of(pickle, value, &mut contents);
            }
        }
        let Some(next) = nested else { return Ok(contents) };
        dict = next;
    }
    Ok(contents)
}

/// Copies the integers among nanoGPT's `model_args` into the metadata.
fn config_of(pickle: &Pickle, args: Id, contents: &mut Contents) {
    const KEYS: [&str; 5] = ["vocab_size", "block_size", "n_embd", "n_layer", "n_head"];
    let mut config = Map::new();
    for (name, value) in pickle.pairs(args).into_iter().flatten() {
        if let Some(number) = pickle.int(value).filter(|_| KEYS.contains(&name)) {
            config.insert(name.to_string(), number.into());
        }
    }
    if !config.is_empty() {
        contents.metadata.insert(CONFIG_METADATA.to_string(), Json::Object(config).to_string());
    }
}

/// Returns the tensor that a call would make; `None` for any other value.
fn tensor_of(
    pickle: &Pickle,
    mut id: Id,
    big_endian: bool,
    place: impl Fn(&str) -> Parse<(u64, u64)>,
) -> Parse<Option<StoredTensor>> {
    for _ in 0..MAX_DEPTH {
        let &Value::Call { function, args } = pickle.get(id) else { return Ok(None) };
        let (Some(function), Some(args)) = (pickle.global(function), pickle.items(args)) else { return Ok(None) };
        match (function, args) {
            // A parameter wraps a tensor; a tensor's subclass wraps the call that makes it.
            ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", &[inner, ..]) => {
                id = inner
            }
            ("torch._tensor._rebuild_from_type_v2", &[function, _, args, ..]) => {
                let (Some(function), Some(args)) = (pickle.global(function), pickle.items(args)) else {
                    return Ok(None);
                };
                return rebuilt(pickle, function, args, big_endian, &place);
            }
            _ => return rebuilt(pickle, function, args, big_endian, &place),
        }
    }
    invalid(format!("its pickle wraps a tensor more than {MAX_DEPTH} times"))
}

/// Reads `_rebuild_tensor_v2(storage, storage_offset, size, stride, …)`; version 3 has the dtype as its seventh
/// argument.
fn rebuilt(
    pickle: &Pickle,
    function: &str,
    args: &[Id],
    big_endian: bool,
    place: impl Fn(&str) -> Parse<(u64, u64)>,
) -> Parse<Option<StoredTensor>> {
    if !function.starts_with("torch._utils._rebuild_tensor") {
        return Ok(None);
    }
    let malformed = || ParseError::Invalid("its pickle describes an impossible tensor".to_string());
    let &[storage, offset, shape, strides, ..] = args else { return Err(malformed()) };
    let &Value::Persistent(storage) = pickle.get(storage) else { return Err(malformed()) };
    let mut storage = storage_of(pickle, storage)?;
    if let (true, Some(&dtype)) = (function.ends_with("_v3"), args.get(6)) {
        storage.dtype = stored_dtype(pickle.global(dtype).unwrap_or_default())?;
    }
    let numbers = |id: Id| -> Parse<Vec<usize>> {
        let items = pickle.items(id).ok_or_else(malformed)?.iter();
        items.map(|&id| pickle.int(id).and_then(|n| usize::try_from(n).ok()).ok_or_else(malformed)).collect()
    };
    // `torch.Size` is a call with one argument, a tuple.
    let shape: Vec<usize> = match pickle.get(shape) {
        &Value::Call { args, .. } => numbers(*pickle.items(args).and_then(<[Id]>::first).ok_or_else(malformed)?)?,
        _ => numbers(shape)?,
    };
    let strides: Vec<usize> = numbers(strides)?;
    let offset = pickle.int(offset).and_then(|n| u64::try_from(n).ok()).ok_or_else(malformed)?;
    let (start, n_bytes) = place(storage.key)?;
    let element = storage.dtype.block_bytes as u64;
    let strides = Some(strides).filter(|strides| !is_row_major(&shape, strides));
    let skipped = offset.checked_mul(element).filter(|&skipped| skipped <= n_bytes).ok_or_else(malformed)?;
    let place = Place::Plain { file: 0, start: start + skipped };
    let tensor = StoredTensor { shape, dtype: storage.dtype, place, strides, big_endian };
    match tensor.extent() {
        Some(extent) if extent <= n_bytes - skipped => Ok(Some(tensor)),
        Some(extent) => invalid(format!(
            "a tensor of shape {:?} takes {extent} bytes at {skipped} of storage `{}`, which has {n_bytes}",
            tensor.shape, storage.key
        )),
        None => invalid(format!(
            "a tensor of shape {:?} and strides {:?} has more elements than its storage: save a `.clone()`",
            tensor.shape, tensor.strides
        )),
    }
}

/// Returns whether elements lie in row-major order; the stride of a dimension of size 1 does not matter.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let expected = StoredTensor::row_major(shape).unwrap_or_default();
    strides.len() == shape.len()
        && (shape.contains(&0)
            || shape
                .iter()
                .zip(strides)
                .zip(&expected)
                .all(|((&dim, stride), expected)| dim == 1 || stride == expected))
}

struct Storage<'a> {
    key: &'a str,
    dtype: StoredDType,
}

/// Reads `('storage', torch.FloatStorage, '0', 'cpu', 4)`; in old files a view may follow.
fn storage_of(pickle: &Pickle, id: Id) -> Parse<Storage<'_>> {
    let parts = match pickle.items(id) {
        Some(&[kind, dtype, key, _, _, ref view @ ..]) if pickle.str(kind) == Some("storage") => {
            let viewed = view.first().is_some_and(|&view| !matches!(pickle.get(view), Value::None));
            if viewed {
                return invalid("a storage is a view of another one: save it again with PyTorch 1.6 or later");
            }
            pickle.global(dtype).zip(pickle.str(key))
        }
        _ => None,
    };
    match parts {
        Some((dtype, key)) => Ok(Storage { key, dtype: stored_dtype(dtype)? }),
        None => invalid("its pickle asks for something that is not a storage"),
    }
}

fn stored_dtype(name: &str) -> Parse<StoredDType> {
    let float = match name {
        "torch.FloatStorage" | "torch.float32" => DType::F32,
        "torch.HalfStorage" | "torch.float16" => DType::F16,
        "torch.BFloat16Storage" | "torch.bfloat16" => DType::BF16,
        "torch.DoubleStorage" | "torch.float64" => DType::F64,
        "torch.storage.UntypedStorage" | "torch.UntypedStorage" => return Ok(StoredDType::other("U8", 1)),
        name => {
            let known =
                DTYPES.iter().find(|(storage, dtype, ..)| !name.is_empty() && (name == *storage || name == *dtype));
            return match known {
                Some(&(_, _, ours, n_bytes)) => Ok(StoredDType::other(ours, n_bytes)),
                None if name.starts_with("torch.float8") => Ok(StoredDType::other("F8", 1)),
                None => invalid(format!("a storage of the unknown dtype `{name}`")),
            };
        }
    };
    Ok(StoredDType::float(float))
}
