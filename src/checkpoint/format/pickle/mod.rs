//! Pickle, as far as PyTorch's checkpoints need it. Nothing is ever executed: a class or function is a name, a call is
//! that name with its arguments, and a name that is not on the list of those found in state dicts is an error.
//!
//! Values live in one list and refer to each other by index. So a value that is used a thousand times is stored once, a
//! value may contain itself, and neither reading nor dropping recurses.
//!
//! Opcodes: <https://github.com/python/cpython/blob/3.13/Lib/pickletools.py>.

mod machine;
mod value;

use machine::Machine;
pub(super) use value::{Id, Value};

use crate::checkpoint::bytes::{Header, Parse, invalid};

/// The limits of a pickle: far more than the tensors of any model need.
const MAX_BYTES: u64 = 1 << 26;
const MAX_STEPS: usize = 1 << 20;

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
            // No step adds more than one value, so this bounds the memory.
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

    /// Returns the elements of a tuple or a list.
    pub(super) fn items(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) => Some(items),
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// Returns the pairs of a dict whose keys are text.
    pub(super) fn pairs(&self, id: Id) -> Option<impl Iterator<Item = (&str, Id)>> {
        let Value::Dict(pairs) = self.get(id) else { return None };
        Some(pairs.iter().filter_map(|&(key, value)| Some((self.str(key)?, value))))
    }
}
