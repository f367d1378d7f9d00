//! The tensors that the calls in a pickle would make. `torch/_utils.py` of PyTorch 2.15.

use std::sync::Arc;

use candle_core::DType;

use super::super::super::budget::MAX_DIMS;
use super::super::super::bytes::{Parse, ParseError, invalid};
use super::super::super::float8::Float8;
use super::super::super::stored::{Place, StoredDType, StoredTensor};
use super::super::pickle::{Id, Pickle, Value, is_known, short};

/// How many wrappers a tensor may have; they may form cycles.
const MAX_WRAPPERS: usize = 4;

/// Dtypes by the storage's name, the name of `torch.dtype`, our name, and bytes.
const DTYPES: [(&str, &str, &str, usize); 19] = [
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
    ("", "torch.complex32", "C32", 4),
    ("", "torch.bcomplex32", "BC32", 4),
    ("", "torch.bits8", "BITS8", 1),
    ("", "torch.bits16", "BITS16", 2),
    ("", "torch.bits1x8", "BITS1X8", 1),
    ("", "torch.bits2x4", "BITS2X4", 1),
    ("", "torch.bits4x2", "BITS4X2", 1),
    ("", "torch.float4_e2m1fn_x2", "F4X2", 1),
];

/// Returns where the storage of a key lies, and its bytes.
pub(super) type PlaceOf<'a> = dyn Fn(&str) -> Parse<(u64, u64)> + 'a;

/// A call that makes a tensor.
pub(super) struct TensorCall<'a> {
    /// The value that is the call itself.
    pub(super) id: Id,
    function: &'a str,
    args: &'a [Id],
}

impl<'a> TensorCall<'a> {
    /// Returns the call inside a value's wrappers; `None` for any other value.
    pub(super) fn of(pickle: &'a Pickle, mut id: Id) -> Option<Self> {
        for _ in 0..MAX_WRAPPERS {
            let &Value::Call { function, args, .. } = pickle.get(id) else { return None };
            let (mut function, mut args) = (pickle.global(function)?, pickle.items(args)?);
            match (function, args) {
                // A parameter wraps a tensor.
                ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", &[inner, ..]) => {
                    id = inner;
                    continue;
                }
                // A tensor's subclass wraps the call that makes it.
                ("torch._tensor._rebuild_from_type_v2", &[inner, _, inner_args, ..]) => {
                    (function, args) = (pickle.global(inner)?, pickle.items(inner_args)?);
                }
                _ => {}
            }
            return (function.starts_with("torch._utils._rebuild_tensor") && is_known(function)).then_some(Self {
                id,
                function,
                args,
            });
        }
        None
    }

    /// Returns the tensor that the call would make: `_rebuild_tensor_v2(storage, storage_offset, size, stride, …)`.
    /// Version 3 has the dtype as its seventh argument.
    pub(super) fn tensor(&self, pickle: &Pickle, big_endian: bool, place: &PlaceOf) -> Parse<StoredTensor> {
        let malformed = || ParseError::Invalid("its pickle describes an impossible tensor".to_string());
        let &[storage, offset, shape, strides, ..] = self.args else { return Err(malformed()) };
        let &Value::Persistent(storage) = pickle.get(storage) else { return Err(malformed()) };
        let mut storage = storage_of(pickle, storage)?;
        if let (true, Some(&dtype)) = (self.function.ends_with("_v3"), self.args.get(6)) {
            storage.dtype = stored_dtype(pickle.global(dtype).unwrap_or_default())?;
        }
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
            &Value::Call { args, .. } => numbers(*pickle.items(args).and_then(<[Id]>::first).ok_or_else(malformed)?)?,
            _ => numbers(shape)?,
        };
        let strides = numbers(strides)?;
        let offset = pickle.int(offset).and_then(|n| u64::try_from(n).ok()).ok_or_else(malformed)?;
        let (start, n_bytes) = place(storage.key)?;
        let element = storage.dtype.block_bytes as u64;
        let strides = Some(strides).filter(|strides| !is_row_major(&shape, strides));
        let skipped = offset.checked_mul(element).filter(|&skipped| skipped <= n_bytes).ok_or_else(malformed)?;
        let place = Place::Plain { file: 0, start: start + skipped };
        let tensor = StoredTensor { shape, dtype: storage.dtype, place, strides, big_endian };
        match tensor.extent() {
            Some(extent) if extent <= n_bytes - skipped => Ok(tensor),
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

pub(super) struct Storage<'a> {
    pub(super) key: &'a str,
    pub(super) dtype: StoredDType,
}

/// Reads `('storage', torch.FloatStorage, '0', 'cpu', 4)`; in old files a view may follow.
pub(super) fn storage_of(pickle: &Pickle, id: Id) -> Parse<Storage<'_>> {
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
            return match (known, Float8::named(name)) {
                (Some(&(_, _, ours, n_bytes)), _) => Ok(StoredDType::other(ours, n_bytes)),
                (None, Some(kind)) => Ok(StoredDType::float8(kind)),
                // Each element takes a byte.
                (None, None) if matches!(small_int(name), Some(1..=7)) => Ok(StoredDType::other("INT", 1)),
                (None, None) => invalid(format!("a storage of the unknown dtype `{}`", short(name))),
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
