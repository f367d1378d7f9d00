//! Pickle, as far as PyTorch's checkpoints need it. Nothing is ever executed: a class or function is a name, and a call
//! is that name with its arguments.
//!
//! Values live in one list and refer to each other by index. So a value that is used a thousand times is stored once, a
//! value may contain itself, and neither reading nor dropping recurses.
//!
//! Opcodes: <https://github.com/python/cpython/blob/3.13/Lib/pickletools.py>.

mod containers;
mod entries;
mod keys;
mod machine;
mod numbers;
mod seen;
mod texts;
mod value;

use std::collections::BTreeSet;

pub(super) use entries::Key;
use machine::Machine;
pub(super) use seen::Seen;
pub(super) use value::{FROM_TYPE, Id, REBUILD, Value, is_known, makes_tensor};

use crate::checkpoint::budget::Budget;
use crate::checkpoint::bytes::{Header, Parse};

/// How many classes a report names, and how many characters of each.
const MAX_CLASSES: usize = 16;
const MAX_CLASS_CHARS: usize = 100;

/// All values of one pickle.
#[derive(Debug)]
pub(in super::super) struct Pickle {
    values: Vec<Value>,
    root: Id,
    n_taken: u64,
}

impl Pickle {
    /// Reads one pickle, up to its STOP; the next one may follow.
    pub(in super::super) fn read(header: &mut Header) -> Parse<Self> {
        let budget = header.budget();
        let n_before = budget.n_taken();
        let mut machine = Machine::new(budget)?;
        while !machine.step(header)? {}
        let root = machine.pop()?;
        keys::keep_last(budget, &mut machine.values)?;
        Ok(Self { values: machine.values, root, n_taken: budget.n_taken().saturating_sub(n_before) })
    }

    /// Returns the memory that it took from the budget.
    pub(super) fn n_taken(&self) -> u64 {
        self.n_taken
    }

    pub(in super::super) fn root(&self) -> Id {
        self.root
    }

    pub(super) fn values(&self) -> &[Value] {
        &self.values
    }

    pub(super) fn get(&self, id: Id) -> &Value {
        value::get(&self.values, id)
    }

    pub(super) fn str(&self, id: Id) -> Option<&str> {
        if let Value::Str(text) = self.get(id) { Some(text) } else { None }
    }

    pub(in super::super) fn int(&self, id: Id) -> Option<i64> {
        if let Value::Int(number) = self.get(id) { Some(*number) } else { None }
    }

    pub(super) fn global(&self, id: Id) -> Option<&str> {
        if let Value::Global(name) = self.get(id) { Some(name) } else { None }
    }

    /// Returns the elements of a tuple or a list.
    pub(super) fn items(&self, id: Id) -> Option<&[Id]> {
        value::items(&self.values, id)
    }

    /// Returns the pairs of a dict, or of an object whose class extends a dict. Equal keys that are texts have one index.
    pub(super) fn pairs(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(pairs) => Some(pairs),
            Value::Call { set: Some(set), .. } if !set.items.is_empty() => Some(&set.items),
            _ => None,
        }
    }

    /// Returns the pairs whose keys are text.
    pub(in super::super) fn named(&self, id: Id) -> impl Iterator<Item = (&str, Id)> {
        let pairs = self.pairs(id).unwrap_or_default().iter();
        pairs.filter_map(|&(key, value)| Some((self.str(key)?, value)))
    }

    /// Returns the attributes of an object.
    pub(super) fn attributes(&self, id: Id) -> impl Iterator<Item = (&str, Id)> {
        let state = match self.get(id) {
            Value::Call { set: Some(set), .. } => set.state,
            _ => None,
        };
        state.into_iter().flat_map(|state| self.attributes_in(state))
    }

    /// Returns the attributes in the state of an object.
    pub(super) fn attributes_in(&self, state: Id) -> impl Iterator<Item = (&str, Id)> {
        // A class with slots has two dicts: `__dict__` and the slots.
        let parts = self.items(state).unwrap_or_default().iter().copied().take(2);
        std::iter::once(state).chain(parts).flat_map(|part| self.named(part))
    }

    /// Returns whether a pickle sets attributes or items of a call's result.
    pub(super) fn is_changed(&self, id: Id) -> bool {
        matches!(self.get(id), Value::Call { set: Some(_), .. })
    }

    /// Returns the class or function that a call calls or a value names: `module.name`.
    pub(super) fn called(&self, mut id: Id) -> Option<&str> {
        // The result of a call may be called itself.
        for _ in 0..8 {
            match self.get(id) {
                Value::Global(name) => return Some(name),
                Value::Call { function, .. } => id = *function,
                _ => return None,
            }
        }
        None
    }

    /// Returns the number of objects of unknown classes, and the names of some of these classes. Those that are read as
    /// dicts do not count.
    pub(super) fn unknown(&self, budget: &Budget) -> Parse<(usize, Vec<String>)> {
        let is_part_of_call = self.parts_of_calls(budget)?;
        let (mut n_objects, mut classes) = (0, BTreeSet::new());
        for ((id, value), is_part) in (0..).zip(&self.values).zip(is_part_of_call) {
            let class = match value {
                Value::Global(name) if !is_part => Some(&**name),
                Value::Call { .. } if self.pairs(id).is_none() => self.class_of(id),
                _ => None,
            };
            let Some(class) = class.filter(|class| !is_known(class)) else { continue };
            n_objects += 1;
            if classes.len() < MAX_CLASSES {
                classes.insert(short(class));
            }
        }
        Ok((n_objects, classes.into_iter().collect()))
    }

    /// Returns for each value whether it is the function or an argument of a call.
    fn parts_of_calls(&self, budget: &Budget) -> Parse<Vec<bool>> {
        let n_values = self.values.len();
        let (mut parts, mut seen_args) = (Seen::of(budget, n_values)?, Seen::of(budget, n_values)?);
        for value in &self.values {
            let Value::Call { function, args, .. } = value else { continue };
            parts.insert(*function);
            // Many calls may share their arguments.
            if seen_args.insert(*args) {
                for &arg in self.items(*args).unwrap_or_default() {
                    parts.insert(arg);
                }
            }
        }
        seen_args.give_back(budget);
        Ok(parts.into_flags())
    }

    /// Returns the class or function of a call; of a function that makes objects of any class, the class in its
    /// arguments.
    fn class_of(&self, id: Id) -> Option<&str> {
        let called = self.called(id)?;
        let Value::Call { args, .. } = self.get(id) else { return Some(called) };
        // The class is among the first arguments.
        let mut given = self.items(*args).unwrap_or_default().iter().take(2).filter_map(|&arg| self.global(arg));
        if value::is_maker(called) { Some(given.next().unwrap_or(called)) } else { Some(called) }
    }
}

/// Shortens a name for printing.
pub(super) fn short(name: &str) -> String {
    name.chars().take(MAX_CLASS_CHARS).map(|c| if c.is_control() { '?' } else { c }).collect()
}
