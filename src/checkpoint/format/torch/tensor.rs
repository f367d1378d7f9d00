//! The tensors that the calls in a pickle would make. `torch/_utils.py` of PyTorch 2.15.

use std::sync::Arc;

use candle_core::DType;

use super::super::super::budget::MAX_DIMS;
use super::super::super::bytes::{ByteFile, Parse, ParseError, invalid};
use super::super::super::float8::Float8;
use super::super::super::stored::{Place, StoredDType, StoredTensor};
use super::super::pickle::{FROM_TYPE, Id, Pickle, REBUILD, Value, short};

/// How many wrappers a tensor may have; they may form cycles.
const MAX_WRAPPERS: usize = 4;

/// Dtypes by the storage's name, the name of `torch.dtype`, our name, and bytes.
const DTYPES: [(&str, &str, &str, usize); 24] = [
    ("torch.LongStorage", "torch.int64", "I64", 8),
    ("torch.IntStorage", "torch.int32", "I32", 4),
    ("torch.ShortStorage", "torch.int16", "I16", 2),
    ("torch.CharStorage", "torch.int8", "I8", 1),
    ("torch.ByteStorage", "torch.uint8", "U8", 1),
    ("torch.BoolStorage", "torch.bool", "BOOL", 1),
    ("torch.ComplexFloatStorage", "torch.complex64", "C64", 8),
    ("torch.ComplexDoubleStorage", "torch.complex128", "C128", 16),
    ("torch.QInt8Storage", "torch.qint8", "QI8", 1),
    ("torch.QUInt8Storage", "torch.quint8", "QU8", 1),
    ("torch.QInt32Storage", "torch.qint32", "QI32", 4),
    ("torch.QUInt4x2Storage", "torch.quint4x2", "QU4X2", 1),
    ("torch.QUInt2x4Storage", "torch.quint2x4", "QU2X4", 1),
    ("", "torch.uint16", "U16", 2),
    ("", "torch.uint32", "U32", 4),
    ("", "torch.uint64", "U64", 8),
    ("", "torch.complex32", "C32", 4),
    ("", "torch.bcomplex32", "BC32", 4),
    ("", "torch.bits8", "BITS8", 1),
    ("", "torch.bits16", "BITS16", 2),
    ("", "torch.bits1x8", "BITS1X8", 1),
    ("", "torch.bits2x4", "BITS2X4", 1),
    ("", "torch.bits4x2", "BITS4X2", 1),
    ("", "torch.float4_e2m1fn_x2", "F4X2", 1),
];

/// Returns where the storage of a key, which is a text, lies, and its bytes.
pub(super) type PlaceOf<'a> = dyn Fn(Id) -> Parse<(u64, u64)> + 'a;

/// A pickle and its storages.
pub(super) struct Stored<'a> {
    pub(super) file: &'a ByteFile,
    pub(super) pickle: &'a Pickle,
    pub(super) big_endian: bool,
    pub(super) place: &'a PlaceOf<'a>,
}

/// Why a tensor is not read.
pub(super) enum Refused {
    /// It is of a kind that is not supported; others are read.
    Alone(String),
    /// The file is damaged.
    File(ParseError),
}

impl From<ParseError> for Refused {
    fn from(error: ParseError) -> Self {
        Self::File(error)
    }
}

fn alone<T>(reason: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Alone(reason.into()))
}

/// A call that makes a tensor.
pub(super) struct TensorCall {
    /// The value that is the call itself.
    pub(super) id: Id,
    function: Id,
    args: Id,
    /// The attributes that each wrapper sets.
    pub(super) states: [Option<Id>; MAX_WRAPPERS],
    /// Whether the pickle sets attributes or elements of its result.
    pub(super) is_changed: bool,
}

impl TensorCall {
    /// Returns the call inside a value's wrappers; `None` for any other value.
    pub(super) fn of(pickle: &Pickle, mut id: Id) -> Option<Self> {
        let (mut states, mut is_changed) = ([None; MAX_WRAPPERS], false);
        for state in &mut states {
            let &Value::Call { mut function, mut args, .. } = pickle.get(id) else { return None };
            is_changed |= pickle.is_changed(id);
            match (pickle.global(function)?, pickle.items(args)?) {
                // A parameter wraps a tensor.
                ("torch._utils._rebuild_parameter", &[inner, ..]) => {
                    id = inner;
                    continue;
                }
                ("torch._utils._rebuild_parameter_with_state", &[inner, _, _, attributes]) => {
                    (id, *state) = (inner, Some(attributes));
                    continue;
                }
                // A tensor's subclass wraps the call that makes it.
                (name, &[inner, _, inner_args, attributes]) if FROM_TYPE.contains(&name) => {
                    (function, args, *state) = (inner, inner_args, Some(attributes));
                }
                _ => {}
            }
            let is_tensor = pickle.global(function)?.starts_with(REBUILD) && pickle.items(args).is_some();
            return is_tensor.then_some(Self { id, function, args, states, is_changed });
        }
        None
    }

    /// Returns what decides which tensor it makes, wrappers aside.
    pub(super) fn key(&self) -> (Id, Id) {
        (self.function, self.args)
    }

    /// Returns the calls that make the parts of a tensor: the indices and values of a sparse one.
    pub(super) fn parts(&self, pickle: &Pickle) -> impl Iterator<Item = Id> {
        const MAX_PARTS: usize = 8;
        let items = |id: Id| pickle.items(id).unwrap_or_default().iter().copied().take(MAX_PARTS);
        let args = items(self.args).flat_map(move |arg| std::iter::once(arg).chain(items(arg)));
        args.filter_map(|id| TensorCall::of(pickle, id)).map(|call| call.id)
    }

    /// Returns the tensor that the call would make: `_rebuild_tensor_v2(storage, storage_offset, size, stride,
    /// requires_grad, backward_hooks, metadata)`. Version 3 has the dtype before the metadata.
    pub(super) fn tensor(&self, pickle: &Pickle, big_endian: bool, place: &PlaceOf) -> Result<StoredTensor, Refused> {
        let malformed = || ParseError::Invalid("its pickle describes an impossible tensor".to_string());
        let function = pickle.global(self.function).unwrap_or_default();
        let args = pickle.items(self.args).unwrap_or_default();
        let (n_args, dtype) = match function.strip_prefix(REBUILD) {
            Some("tensor") => (4, None),
            Some("tensor_v2") => (6, None),
            Some("tensor_v3") => (7, args.get(6)),
            _ => return alone(kind_of(function)),
        };
        let &[storage, offset, shape, strides, ..] = args else { return Err(malformed().into()) };
        match args.get(n_args..).unwrap_or_default() {
            [] => {}
            &[metadata] if n_args > 4 => plain(pickle, metadata)?,
            _ => return alone(format!("made by `{function}` with {} arguments, too many", args.len())),
        }
        let &Value::Persistent(storage) = pickle.get(storage) else { return Err(malformed().into()) };
        let (key, of_storage) = storage_of(pickle, storage)?;
        let dtype = stored_dtype(dtype.map_or(of_storage, |&dtype| pickle.global(dtype).unwrap_or_default()))?;
        let numbers = |id: Id| -> Parse<Arc<[usize]>> {
            let items = pickle.items(id).ok_or_else(malformed)?;
            if items.len() > MAX_DIMS {
                return invalid(format!("its pickle has a tensor of {} dimensions, more than {MAX_DIMS}", items.len()));
            }
            let number = |&id: &Id| pickle.int(id).and_then(|n| usize::try_from(n).ok()).ok_or_else(malformed);
            items.iter().map(number).collect()
        };
        // `torch.Size` is a call with one argument, a tuple.
        let shape = match pickle.get(shape) {
            &Value::Call { args, .. } if pickle.called(shape) == Some("torch.Size") => {
                numbers(*pickle.items(args).and_then(<[Id]>::first).ok_or_else(malformed)?)?
            }
            _ => numbers(shape)?,
        };
        let strides = numbers(strides)?;
        let offset = pickle.int(offset).and_then(|n| u64::try_from(n).ok()).ok_or_else(malformed)?;
        let (start, n_bytes) = place(key)?;
        let element = dtype.block_bytes as u64;
        let strides = Some(strides).filter(|strides| !is_row_major(&shape, strides));
        let skipped = offset.checked_mul(element).filter(|&skipped| skipped <= n_bytes).ok_or_else(malformed)?;
        let place = Place::Plain { file: 0, start: start + skipped };
        let tensor = StoredTensor { shape, dtype, place, strides, big_endian };
        match tensor.extent() {
            Some(extent) if extent <= n_bytes - skipped => Ok(tensor),
            Some(extent) => Err(ParseError::Invalid(format!(
                "a tensor of shape {:?} takes {extent} bytes at {skipped} of storage `{}`, which has {n_bytes}",
                tensor.shape,
                short(pickle.str(key).unwrap_or_default())
            ))
            .into()),
            None => alone(format!(
                "a view of shape {:?}{} with more elements than its storage: save its `.clone()`",
                tensor.shape,
                tensor.strides.map(|strides| format!(" and strides {strides:?}")).unwrap_or_default()
            )),
        }
    }
}

/// Returns whether attributes that are set on a tensor may replace its elements.
pub(super) fn may_replace(pickle: &Pickle, attributes: Id) -> bool {
    let is_plain = match pickle.get(attributes) {
        Value::None | Value::Dict(_) => true,
        Value::Tuple(parts) => parts.len() == 2,
        _ => false,
    };
    !is_plain || pickle.attributes_in(attributes).any(|(name, _)| ["data", "real", "imag"].contains(&name))
}

/// Names a tensor by the function that makes it, and says what to do.
fn kind_of(function: &str) -> String {
    let kind = match function.strip_prefix(REBUILD).unwrap_or_default() {
        "sparse_tensor" | "sparse_csr_tensor" => "a sparse tensor: save its `.to_dense()`",
        "qtensor" => "a quantized tensor: save its `.dequantize()`",
        "meta_tensor_no_storage" => "a meta tensor, which has no elements: save it after it is initialized",
        "nested_tensor" => "a nested tensor: save its parts, `.unbind()`",
        "device_tensor_from_cpu_tensor" | "device_tensor_from_numpy" | "xla_tensor" => {
            "a tensor of a device that PyTorch saves in its own way: save its `.cpu()`"
        }
        "wrapper_subclass" => "a tensor of a subclass without elements of its own: save the tensors that it wraps",
        _ => return format!("made by `{}`, which is not supported: save its `.clone()`", short(function)),
    };
    kind.to_string()
}

/// Refuses a tensor whose metadata change what its storage holds, or may do so.
fn plain(pickle: &Pickle, metadata: Id) -> Result<(), Refused> {
    const MAX_KEYS: usize = 16;
    let unknown = |what: &str| alone(format!("a tensor with unknown metadata ({what}): save its `.clone()`"));
    let pairs = match pickle.get(metadata) {
        Value::None => return Ok(()),
        Value::Dict(pairs) if pairs.len() <= MAX_KEYS => pairs,
        _ => return unknown("not a small dict"),
    };
    for &(key, value) in pairs {
        match (pickle.str(key), pickle.get(value)) {
            (Some("neg" | "conj"), Value::Bool(false)) => {}
            (Some("neg"), Value::Bool(true)) => {
                return alone("a negated view (`neg` in its metadata): save its `.resolve_neg()`");
            }
            (Some("conj"), Value::Bool(true)) => {
                return alone("a conjugated view (`conj` in its metadata): save its `.resolve_conj()`");
            }
            (key, _) => return unknown(&format!("`{}`", short(key.unwrap_or_default()))),
        }
    }
    Ok(())
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

/// Returns the key and the dtype's name in `('storage', torch.FloatStorage, '0', 'cpu', 4)`; in old files a view may
/// follow.
pub(super) fn storage_of(pickle: &Pickle, id: Id) -> Parse<(Id, &str)> {
    let parts = match pickle.items(id) {
        Some(&[kind, dtype, key, _, _, ref view @ ..]) if pickle.str(kind) == Some("storage") => {
            let viewed = view.first().is_some_and(|&view| !matches!(pickle.get(view), Value::None));
            if viewed {
                return invalid("a storage is a view of another one: save it again with PyTorch 1.6 or later");
            }
            pickle.global(dtype).filter(|_| pickle.str(key).is_some()).map(|dtype| (key, dtype))
        }
        _ => None,
    };
    parts.ok_or_else(|| ParseError::Invalid("its pickle asks for something that is not a storage".to_string()))
}

pub(super) fn stored_dtype(name: &str) -> Result<StoredDType, Refused> {
    let float = match name {
        "torch.FloatStorage" | "torch.float32" => DType::F32,
        "torch.HalfStorage" | "torch.float16" => DType::F16,
        "torch.BFloat16Storage" | "torch.bfloat16" => DType::BF16,
        "torch.DoubleStorage" | "torch.float64" => DType::F64,
        "torch.storage.UntypedStorage" | "torch.UntypedStorage" => return Ok(StoredDType::other("U8", 1)),
        name => {
            let known =
                DTYPES.iter().find(|(storage, dtype, ..)| !name.is_empty() && (name == *storage || name == *dtype));
            return match (known, Float8::named(name)) {
                (Some(&(_, _, ours, n_bytes)), _) => Ok(StoredDType::other(ours, n_bytes)),
                (None, Some(kind)) => Ok(StoredDType::float8(kind)),
                // Each element takes a byte.
                (None, None) if matches!(small_int(name), Some(1..=7)) => Ok(StoredDType::other("INT", 1)),
                (None, None) => alone(format!("of the unknown dtype `{}`: save it as another one", short(name))),
            };
        }
    };
    Ok(StoredDType::float(float))
}

/// Returns the bits of a dtype such as `torch.int4` or `torch.uint3`.
fn small_int(name: &str) -> Option<u8> {
    let kind = name.strip_prefix("torch.")?;
    kind.strip_prefix("int").or_else(|| kind.strip_prefix("uint"))?.parse().ok()
}
