//! Names the tensors of a pickle that are outside the state dict.

use std::collections::BTreeSet;

use super::super::super::budget::{Budget, MAX_NESTING};
use super::super::super::bytes::Parse;
use super::super::pickle::{Id, Key, Pickle, Seen};
use super::tensor::TensorCall;

/// How many are named.
const MAX_NAMED: usize = 16;

/// Returns the names of the first tensors that are not among those read, with the keys that lead to them.
pub(super) fn names(budget: &Budget, pickle: &Pickle, read: &BTreeSet<Id>) -> Parse<Vec<String>> {
    let seen = Seen::of(budget, pickle.values().len())?;
    let mut search = Search { pickle, read, seen, keys: Vec::new(), found: Vec::new() };
    search.enter(pickle.root());
    search.seen.give_back(budget);
    Ok(search.found)
}

struct Search<'a> {
    pickle: &'a Pickle,
    read: &'a BTreeSet<Id>,
    /// The values that were looked at.
    seen: Seen,
    /// The keys that lead to where the search is.
    keys: Vec<Key>,
    found: Vec<String>,
}

impl Search<'_> {
    fn enter(&mut self, id: Id) {
        let pickle = self.pickle;
        for (key, value) in pickle.entries(id) {
            if self.found.len() == MAX_NAMED {
                return;
            }
            if !self.seen.insert(value) {
                continue;
            }
            self.keys.push(key);
            match TensorCall::of(pickle, value) {
                Some(call) if self.read.contains(&call.id) => {}
                Some(_) => self.found.push(pickle.path(&self.keys)),
                None if self.keys.len() <= MAX_NESTING => self.enter(value),
                None => {}
            }
            self.keys.pop();
        }
    }
}
