//! Pickle, as far as PyTorch's checkpoints need it. Nothing is ever executed: a class or function is a name, a call of it
//! is that name beside its arguments, and names that are not on the list of tensors' own end the reading.
//!
//! Values live in one list and refer to each other by index. So a value that is used a thousand times is there once, one
//! that contains itself is nothing special, and nothing nests on the stack, neither here nor when it is dropped.
//! Opcodes: <https://github.com/python/cpython/blob/3.13/Lib/pickletools.py>.

use super::super::bytes::{Header, Parse, invalid};
use super::opcodes::Machine;

/// What a checkpoint's pickle may hold: far more than the tensors of any model need.
const MAX_BYTES: u64 = 1 << 26;
const MAX_STEPS: usize = 1 << 20;

/// Index of a value.
pub(super) type Id = usize;

/// A value. Containers hold indices.
#[derive(Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Str(Box<str>),
    /// Anything whose content is of no interest: a float, bytes, a set, the result of a harmless call.
    Opaque,
    Tuple(Box<[Id]>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// `module.name` of an allowed class or function.
    Global(Box<str>),
    /// A call that is not made.
    Call {
        function: Id,
        args: Id,
    },
    /// What `persistent_load` would be asked for.
    Persistent(Id),
}

/// Classes and functions that make up a saved state dict; those of `torch` itself that are types are allowed by pattern.
const ALLOWED: [&str; 32] = [
    "collections.OrderedDict",
    "collections.defaultdict",
    "collections.Counter",
    "builtins.set",
    "builtins.list",
    "builtins.dict",
    "builtins.frozenset",
    "builtins.bytearray",
    "builtins.complex",
    "__builtin__.set",
    "__builtin__.list",
    "__builtin__.dict",
    "__builtin__.long",
    "_codecs.encode",
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "torch.Size",
    "torch.Tensor",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.storage.TypedStorage",
    "torch.storage._TypedStorage",
    "torch.storage.UntypedStorage",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._tensor._rebuild_from_type_v2",
    "torch.serialization._get_layout",
];

/// The list above, `torch.FloatStorage` and the like, and `torch.float32` and the like.
pub(super) fn is_allowed(global: &str) -> bool {
    let of_torch = |name: &str| {
        !name.contains('.')
            && (name.ends_with("Storage")
                || [
                    "float", "bfloat", "int", "uint", "complex", "bool", "double", "half", "long", "short", "qint",
                    "quint",
                ]
                .iter()
                .any(|kind| name.strip_prefix(kind).is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit()))))
    };
    ALLOWED.contains(&global) || global.strip_prefix("torch.").is_some_and(of_torch)
}

/// All values of one pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<Value>,
    root: Id,
}

impl Pickle {
    /// Reads one pickle, up to its STOP; the next one may follow.
    pub(super) fn read(header: &mut Header) -> Parse<Self> {
        let start = header.position();
        let mut machine = Machine::default();
        let mut n_steps = 0;
        while !machine.step(header)? {
            // No step adds more than one value to anything.
            n_steps += 1;
            if n_steps >= MAX_STEPS || header.position() - start > MAX_BYTES {
                return invalid(format!("its pickle is larger than {MAX_BYTES} bytes or {MAX_STEPS} steps"));
            }
        }
        let root = machine.pop()?;
        Ok(Self { values: machine.values, root })
    }

    pub(super) fn root(&self) -> Id {
        self.root
    }

    pub(super) fn n_values(&self) -> usize {
        self.values.len()
    }

    pub(super) fn get(&self, id: Id) -> &Value {
        self.values.get(id).unwrap_or(&Value::None)
    }

    pub(super) fn str(&self, id: Id) -> Option<&str> {
        if let Value::Str(text) = self.get(id) { Some(text) } else { None }
    }

    pub(super) fn int(&self, id: Id) -> Option<i64> {
        if let Value::Int(number) = self.get(id) { Some(*number) } else { None }
    }

    pub(super) fn global(&self, id: Id) -> Option<&str> {
        if let Value::Global(name) = self.get(id) { Some(name) } else { None }
    }

    /// The elements of a tuple or a list.
    pub(super) fn items(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) => Some(items),
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The pairs of a dict whose keys are text.
    pub(super) fn pairs(&self, id: Id) -> Option<impl Iterator<Item = (&str, Id)>> {
        let Value::Dict(pairs) = self.get(id) else { return None };
        Some(pairs.iter().filter_map(|&(key, value)| Some((self.str(key)?, value))))
    }
}
