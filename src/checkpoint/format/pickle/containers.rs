//! Builds the containers of a pickle: tuples, lists, dicts and calls.

use super::machine::Machine;
use super::value::{Id, Set, Value, get, is_dict, items};
use crate::checkpoint::budget::Budget;
use crate::checkpoint::bytes::{Parse, ParseError, invalid};

impl Machine<'_> {
    /// Replaces the values above the stack's `height` by a tuple of them.
    pub(super) fn tuple_above(&mut self, height: usize) -> Parse<()> {
        let items = self.stack.get(height..).unwrap_or_default();
        self.budget.take_text(size_of_val(items))?;
        let items = Box::from(items);
        self.stack.truncate(height);
        self.push(Value::Tuple(items))
    }

    /// Replaces the last `n` values by a tuple of them.
    pub(super) fn tuple_of(&mut self, n: usize) -> Parse<()> {
        self.below(n).and_then(|height| self.tuple_above(height))
    }

    /// Appends the values above the stack's `height` to the list below them.
    pub(super) fn extend_list(&mut self, height: usize) -> Parse<()> {
        let items = &self.stack[height..];
        match at(&mut self.values, height.checked_sub(1).map(|below| self.stack[below]))? {
            Value::List(list) => self.budget.extend(list, items)?,
            Value::Opaque | Value::Call { .. } => {}
            _ => return invalid("its pickle appends to something that is not a list"),
        }
        self.stack.truncate(height);
        Ok(())
    }

    /// Sets the keys and values above the stack's `height` in the dict below them.
    pub(super) fn extend_dict(&mut self, height: usize) -> Parse<()> {
        let items = &self.stack[height..];
        let budget = self.budget;
        let pairs = match at(&mut self.values, height.checked_sub(1).map(|below| self.stack[below]))? {
            Value::Dict(pairs) => Some(pairs),
            Value::Call { set, .. } => Some(&mut set_of(set, budget)?.items),
            Value::Opaque => None,
            _ => return invalid("its pickle sets an item of something that is not a dict"),
        };
        if let Some(pairs) = pairs {
            budget.reserve(pairs, items.len() / 2)?;
            pairs.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        }
        self.stack.truncate(height);
        Ok(())
    }

    /// Sets the attributes of an object. Skips those of other values, such as the `_metadata` of a state dict.
    pub(super) fn build(&mut self) -> Parse<()> {
        let state = self.pop()?;
        let object = self.top()?;
        if let Value::Call { set, .. } = at(&mut self.values, Some(object))? {
            set_of(set, self.budget)?.state = Some(state);
        }
        Ok(())
    }

    pub(super) fn global(&mut self, module: &str, name: &str) -> Parse<()> {
        self.budget.take_text(module.len() + name.len() + 1)?;
        self.push(Value::Global(format!("{module}.{name}").into()))
    }

    /// Replaces a function and its arguments by a call, which is not made; a dict's class becomes a dict.
    pub(super) fn call(&mut self) -> Parse<()> {
        let (args, function) = (self.pop()?, self.pop()?);
        let value = match get(&self.values, function) {
            Value::Global(name) if is_dict(name) => {
                let n_first = usize::from(name.ends_with("defaultdict"));
                Value::Dict(self.pairs_of(args, n_first)?)
            }
            Value::Global(name) if &**name == "_codecs.encode" => {
                self.encoded(args)?.unwrap_or(Value::Call { function, args, set: None })
            }
            Value::Global(_) | Value::Call { .. } => Value::Call { function, args, set: None },
            _ => return Err(ParseError::Forbidden("a call of something that is not a function".to_string())),
        };
        self.push(value)
    }

    /// Replaces a class, its arguments and those by name by a call. One with arguments by name is of no known kind: it
    /// has no tuple of arguments.
    pub(super) fn call_by_name(&mut self) -> Parse<()> {
        let by_name = self.pop()?;
        if !matches!(get(&self.values, by_name), Value::Dict(pairs) if pairs.is_empty()) {
            self.pop()?;
            self.push_id(by_name)?;
        }
        self.call()
    }

    /// Returns the items of a new dict: none, those of another dict, or a list of pairs (as Python 2 pickles
    /// `OrderedDict`).
    fn pairs_of(&self, args: Id, n_first: usize) -> Parse<Vec<(Id, Id)>> {
        let refused = || invalid("its pickle makes a dict from something that is neither a dict nor pairs");
        let mut pairs = Vec::new();
        let Value::Tuple(args) = get(&self.values, args) else { return refused() };
        let Some(&of) = args.get(n_first) else { return Ok(pairs) };
        match get(&self.values, of) {
            Value::Dict(others) => self.budget.extend(&mut pairs, others)?,
            Value::List(_) | Value::Tuple(_) => {
                let of_list = items(&self.values, of).unwrap_or_default();
                self.budget.reserve(&mut pairs, of_list.len())?;
                for &item in of_list {
                    let Some(&[key, value]) = items(&self.values, item) else { return refused() };
                    pairs.push((key, value));
                }
            }
            _ => return refused(),
        }
        Ok(pairs)
    }

    /// Replaces the values above `height` and the class below them by a call.
    pub(super) fn object_above(&mut self, height: usize) -> Parse<()> {
        self.tuple_above(height)?;
        self.call()
    }
}

/// Returns a value to change.
fn at(values: &mut [Value], id: Option<Id>) -> Parse<&mut Value> {
    let id = id.and_then(|id| usize::try_from(id).ok());
    id.and_then(|id| values.get_mut(id)).ok_or_else(|| ParseError::Invalid(super::machine::EMPTY.to_string()))
}

fn set_of<'a>(set: &'a mut Option<Box<Set>>, budget: &Budget) -> Parse<&'a mut Set> {
    if set.is_none() {
        budget.take_node::<Set>()?;
    }
    Ok(set.get_or_insert_default())
}
