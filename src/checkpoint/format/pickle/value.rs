//! The values of a pickle, and the names that it may hold.

/// Index of a value.
pub(in super::super) type Id = usize;

/// A value. Containers hold indices.
#[derive(Debug)]
pub(in super::super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Str(Box<str>),
    /// A value whose content does not matter: a float, bytes, a set.
    Opaque,
    Tuple(Box<[Id]>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// `module.name` of an allowed class or function.
    Global(Box<str>),
    /// A call, which is not made.
    Call {
        function: Id,
        args: Id,
    },
    /// The argument of `persistent_load`: a storage.
    Persistent(Id),
}

/// Classes and functions found in saved state dicts. The storages and dtypes of `torch` itself are allowed by pattern.
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

/// Returns whether a name is on the list above, or a storage or dtype such as `torch.FloatStorage` or `torch.float32`.
pub(in super::super) fn is_allowed(global: &str) -> bool {
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
