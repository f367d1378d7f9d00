//! Tells objects in the place of a tensor from objects that may lie anywhere.

use super::super::super::budget::Budget;
use super::super::super::bytes::{Parse, ParseError};
use super::super::super::role::Role;
use super::super::pickle::{Id, Pickle, Value, is_known, makes_tensor, short};
use super::tensor::TensorCall;

/// What the items of a tuple or list are.
#[derive(Clone, Copy, Default)]
struct Holds {
    /// One is a storage or a tensor.
    parts: bool,
    /// One is a tuple or list with such an item.
    below: bool,
}

/// The tuples and lists of a pickle, each looked through once, however many calls share it.
pub(super) struct InPlace<'a> {
    pickle: &'a Pickle,
    holds: Vec<Holds>,
}

impl<'a> InPlace<'a> {
    pub(super) fn of(budget: &Budget, pickle: &'a Pickle) -> Parse<Self> {
        let holds = budget.filled(Holds::default(), pickle.values().len())?;
        let mut of = Self { pickle, holds };
        let ids = || (0..).take(pickle.values().len());
        let is_part = |&id: &Id| matches!(pickle.get(id), Value::Persistent(_)) || TensorCall::of(pickle, id).is_some();
        for id in ids() {
            let parts = pickle.items(id).unwrap_or_default().iter().any(is_part);
            of.set(id, |holds| holds.parts = parts);
        }
        for id in ids() {
            let below = pickle.items(id).unwrap_or_default().iter().any(|&item| of.holds(item).parts);
            of.set(id, |holds| holds.below = below);
        }
        Ok(of)
    }

    fn holds(&self, id: Id) -> Holds {
        usize::try_from(id).ok().and_then(|id| self.holds.get(id)).copied().unwrap_or_default()
    }

    fn set(&mut self, id: Id, change: impl FnOnce(&mut Holds)) {
        if let Some(holds) = usize::try_from(id).ok().and_then(|id| self.holds.get_mut(id)) {
            change(holds);
        }
    }

    /// Returns the class or function of an object in the place of a tensor: its key is like a parameter's name, or its
    /// arguments hold a storage or a tensor.
    pub(super) fn class(&self, value: Id, is_like_parameter: impl FnOnce() -> bool) -> Option<&'a str> {
        let class = self.pickle.called(value)?;
        let is_tensors = makes_tensor(class);
        if is_known(class) && !is_tensors {
            return None;
        }
        let args = match self.pickle.get(value) {
            Value::Call { args, .. } => Some(*args),
            _ => None,
        };
        let is_made_of_tensors = args.map(|args| self.holds(args)).is_some_and(|holds| holds.parts || holds.below);
        if !is_tensors && !is_made_of_tensors && !is_like_parameter() {
            return None;
        }
        if !is_known(class) {
            return Some(class);
        }
        // A known wrapper is not to blame, but what it wraps.
        let items = args.and_then(|args| self.pickle.items(args)).unwrap_or_default();
        items.iter().filter_map(|&arg| self.pickle.called(arg)).find(|class| !is_known(class)).or(Some(class))
    }
}

/// Returns whether a key in a dict is like a parameter's name.
pub(super) fn is_like_parameter(key: &str) -> bool {
    key.contains('.') || Role::of(key) != Role::Other
}

/// Returns the error of an object of an unknown class in the place of a tensor or a state dict.
pub(super) fn forbidden(class: &str) -> ParseError {
    ParseError::Forbidden(format!("`{}`", short(class)))
}
