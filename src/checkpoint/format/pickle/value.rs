//! The values of a pickle, and the names that a state dict is made of.

/// Index of a value.
pub(in super::super) type Id = u32;

/// A value. Containers hold indices.
#[derive(Debug)]
pub(in super::super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Box<str>),
    /// Bytes that are UTF-8, which may be a key.
    Bytes(Box<str>),
    /// A value whose content does not matter: other bytes, a set, a long text.
    Opaque,
    Tuple(Box<[Id]>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// `module.name` of a class or function.
    Global(Box<str>),
    /// A call, which is not made.
    Call {
        function: Id,
        args: Id,
        /// The attributes and items of its result.
        set: Option<Box<Set>>,
    },
    /// The argument of `persistent_load`: a storage.
    Persistent(Id),
}

/// What a pickle sets on an object.
#[derive(Debug, Default)]
pub(in super::super) struct Set {
    /// Its attributes, set by BUILD.
    pub(in super::super) state: Option<Id>,
    /// Its items, set by SETITEM.
    pub(in super::super) items: Vec<(Id, Id)>,
}

/// Shared values, which exist from the start.
pub(super) const NONE: Id = 0;
pub(super) const TRUE: Id = 1;
pub(super) const FALSE: Id = 2;
pub(super) const OPAQUE: Id = 3;
/// The integers of one byte follow.
pub(super) const ZERO: Id = 4;

/// Returns the values of these indices.
pub(super) fn constants() -> impl Iterator<Item = Value> {
    [Value::None, Value::Bool(true), Value::Bool(false), Value::Opaque].into_iter().chain((0..=255).map(Value::Int))
}

/// Returns a value by its index; one that no value has stands for `None`.
pub(super) fn get(values: &[Value], id: Id) -> &Value {
    usize::try_from(id).ok().and_then(|id| values.get(id)).unwrap_or(&Value::None)
}

/// Returns the elements of a tuple or a list.
pub(super) fn items(values: &[Value], id: Id) -> Option<&[Id]> {
    match get(values, id) {
        Value::Tuple(items) => Some(items),
        Value::List(items) => Some(items),
        _ => None,
    }
}

/// Returns whether a class is a dict. A `defaultdict` takes one more argument before the items.
pub(super) fn is_dict(global: &str) -> bool {
    matches!(global, "collections.OrderedDict" | "collections.defaultdict" | "builtins.dict" | "__builtin__.dict")
}

/// Classes and functions found in saved state dicts. The storages and dtypes of `torch` itself are known by pattern.
const KNOWN: [&str; 17] = [
    "collections.OrderedDict",
    "collections.defaultdict",
    "collections.Counter",
    "_codecs.encode",
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "torch.Size",
    "torch.Tensor",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
    "torch.storage.TypedStorage",
    "torch.storage._TypedStorage",
    "torch.storage.UntypedStorage",
    "torch.serialization._get_layout",
];

/// Plain values of Python's own, in `builtins` or in Python 2's `__builtin__`.
const BUILTINS: [&str; 14] = [
    "set",
    "list",
    "dict",
    "frozenset",
    "tuple",
    "bytearray",
    "complex",
    "int",
    "long",
    "slice",
    "range",
    "xrange",
    "Ellipsis",
    "NotImplemented",
];

/// Functions that make an object of the class in their arguments, which is the one to name.
const MAKERS: [&str; 7] = [
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "copyreg.__newobj__",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "builtins.object",
    "__builtin__.object",
];

/// The functions of PyTorch that make tensors begin so.
pub(in super::super) const REBUILD: &str = "torch._utils._rebuild_";

/// Those that make a tensor of a subclass.
pub(in super::super) const FROM_TYPE: [&str; 3] =
    ["torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type", "torch.tensor._rebuild_from_type"];

/// Returns whether a function makes tensors.
pub(in super::super) fn makes_tensor(function: &str) -> bool {
    function.starts_with(REBUILD) || FROM_TYPE.contains(&function)
}

/// Returns whether a name is on the list above, that of a function that makes tensors, or a storage or dtype such as
/// `torch.FloatStorage` or `torch.float32`.
pub(in super::super) fn is_known(global: &str) -> bool {
    const TYPES: [&str; 13] = [
        "float", "bfloat", "int", "uint", "complex", "bool", "double", "half", "long", "short", "qint", "quint", "bits",
    ];
    let of_torch = |name: &str| {
        let is_number = |rest: &str| rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_digit());
        !name.contains('.')
            && (name.ends_with("Storage") || TYPES.iter().any(|kind| name.strip_prefix(kind).is_some_and(is_number)))
    };
    let builtin = global.strip_prefix("builtins.").or_else(|| global.strip_prefix("__builtin__."));
    KNOWN.contains(&global)
        || makes_tensor(global)
        || builtin.is_some_and(|name| BUILTINS.contains(&name))
        || global.strip_prefix("torch.").is_some_and(of_torch)
}

/// Returns whether a function is on the list above.
pub(super) fn is_maker(global: &str) -> bool {
    MAKERS.contains(&global)
}
