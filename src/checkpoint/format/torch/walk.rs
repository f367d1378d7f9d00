//! Collects the tensors of a state dict, whose dicts may be nested.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::super::super::budget::{MAX_NESTING, MAX_TEXT_BYTES};
use super::super::super::bytes::{Parse, invalid};
use super::super::super::stored::{Contents, StoredTensor};
use super::super::pickle::{Id, Key};
use super::in_place::{InPlace, forbidden, is_like_parameter};
use super::state_dict::Chosen;
use super::tensor::{Refused, Stored, TensorCall, may_replace};

const UNNAMED: &str =
    "a key on the way to it is not a text, a number or bytes in UTF-8 of at most 65535 bytes: rename it";
const CHANGED: &str = "a tensor that its pickle changes after making it: save its `.clone()`";

/// The entries of a dict or list that lead to tensors.
type Entries = Rc<[(Key, Id)]>;

/// A walk through a state dict. What many keys or calls share is looked at once.
pub(super) struct Walk<'a> {
    stored: &'a Stored<'a>,
    chosen: &'a Chosen,
    in_place: &'a InPlace<'a>,
    contents: &'a mut Contents,
    /// The calls that were read, and those that make parts of what they make.
    pub(super) read: BTreeSet<Id>,
    /// The tensors, or why they are not read, by what makes them.
    made: BTreeMap<(Id, Id), Result<StoredTensor, String>>,
    /// Whether attributes of a tensor may replace its elements.
    replaced: BTreeMap<Id, bool>,
    entries: BTreeMap<Id, Entries>,
    /// The enclosing dicts and lists: one inside itself is not entered.
    above: Vec<Id>,
    /// How many of the keys that lead here have no text.
    n_unnamed: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        stored: &'a Stored<'a>,
        chosen: &'a Chosen,
        in_place: &'a InPlace<'a>,
        contents: &'a mut Contents,
    ) -> Self {
        let (read, made, replaced, entries, above, n_unnamed) = Default::default();
        Self { stored, chosen, in_place, contents, read, made, replaced, entries, above, n_unnamed }
    }

    /// Adds the tensors of a dict or list, and of those inside it, under `prefix` and their keys.
    pub(super) fn mapping(&mut self, id: Id, prefix: &str) -> Parse<()> {
        let Stored { file, pickle, .. } = *self.stored;
        if self.above.len() > MAX_NESTING {
            return invalid(format!("its state dict nests dicts and lists deeper than {MAX_NESTING}"));
        }
        let entries = self.entries(id)?;
        self.above.push(id);
        for &(key, value) in &*entries {
            let is_unnamed = usize::from(matches!(key, Key::Unnamed(_)));
            let key = pickle.text(key);
            let n_bytes = prefix.len() + key.len();
            if n_bytes as u64 > MAX_TEXT_BYTES {
                return invalid(format!("a tensor's name has {n_bytes} bytes, more than {MAX_TEXT_BYTES}"));
            }
            file.budget().take_text(n_bytes)?;
            self.n_unnamed += is_unnamed;
            match TensorCall::of(pickle, value) {
                Some(call) => self.add(format!("{prefix}{key}"), &call)?,
                None if !self.above.contains(&value) => self.mapping(value, &format!("{prefix}{key}."))?,
                None => {}
            }
            self.n_unnamed -= is_unnamed;
        }
        self.above.pop();
        Ok(())
    }

    /// Returns the entries that lead to tensors. At first the others are looked at too.
    fn entries(&mut self, id: Id) -> Parse<Entries> {
        let Stored { file, pickle, .. } = *self.stored;
        if let Some(entries) = self.entries.get(&id) {
            return Ok(entries.clone());
        }
        let mut entries = Vec::new();
        for (key, value) in pickle.entries(id) {
            if self.chosen.is_inside(value) || TensorCall::of(pickle, value).is_some() {
                file.budget().push(&mut entries, (key, value))?;
                continue;
            }
            let text = if let Key::Of(key) = key { pickle.str(key) } else { None };
            // Inside another dict the name has a dot.
            let is_like = || text.is_some_and(|text| !self.above.is_empty() || is_like_parameter(text));
            if let Some(class) = self.in_place.class(value, is_like) {
                return Err(forbidden(class));
            }
        }
        file.budget().take_text(size_of_val(&*entries))?;
        file.budget().take_node::<(Id, Entries)>()?;
        let entries: Entries = entries.into();
        self.entries.insert(id, entries.clone());
        Ok(entries)
    }

    /// Adds a tensor, or why it is not read.
    fn add(&mut self, name: String, call: &TensorCall) -> Parse<()> {
        let Stored { file, pickle, big_endian, place } = *self.stored;
        let budget = file.budget();
        if self.read.insert(call.id) {
            budget.take_node::<Id>()?;
        }
        if self.n_unnamed > 0 {
            return self.contents.leave(budget, name, UNNAMED.to_string());
        }
        if self.is_changed(call)? {
            return self.contents.leave(budget, name, CHANGED.to_string());
        }
        if !self.made.contains_key(&call.key()) {
            let made = match call.tensor(pickle, big_endian, place) {
                Ok(tensor) => Ok(tensor),
                Err(Refused::File(error)) => return Err(error),
                Err(Refused::Alone(reason)) => {
                    for part in call.parts(pickle) {
                        budget.take_node::<Id>()?;
                        self.read.insert(part);
                    }
                    budget.take_text(reason.len())?;
                    Err(reason)
                }
            };
            budget.take_node::<((Id, Id), Result<StoredTensor, String>)>()?;
            self.made.insert(call.key(), made);
        }
        match self.made.get(&call.key()) {
            Some(Ok(tensor)) => self.contents.add(budget, name, tensor.clone()),
            Some(Err(reason)) => self.contents.leave(budget, name, reason.clone()),
            None => Ok(()),
        }
    }

    /// Returns whether the tensor may be another one than its call makes.
    fn is_changed(&mut self, call: &TensorCall) -> Parse<bool> {
        let Stored { file, pickle, .. } = *self.stored;
        for &attributes in call.states.iter().flatten() {
            let is_replaced = match self.replaced.entry(attributes) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    file.budget().take_node::<(Id, bool)>()?;
                    *new.insert(may_replace(pickle, attributes))
                }
            };
            if is_replaced {
                return Ok(true);
            }
        }
        Ok(call.is_changed)
    }
}
