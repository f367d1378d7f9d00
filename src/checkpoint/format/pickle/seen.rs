//! Which values of a pickle were seen.

use super::value::Id;
use crate::checkpoint::budget::Budget;
use crate::checkpoint::bytes::Parse;

/// A flag for each value.
pub(in super::super) struct Seen(Vec<bool>);

impl Seen {
    /// Takes the memory for `n` values, none of which was seen.
    pub(in super::super) fn of(budget: &Budget, n: usize) -> Parse<Self> {
        budget.filled(false, n).map(Self)
    }

    /// Marks a value as seen, and returns whether it is seen for the first time. An index that no value has never is.
    pub(in super::super) fn insert(&mut self, id: Id) -> bool {
        let seen = usize::try_from(id).ok().and_then(|id| self.0.get_mut(id));
        seen.is_some_and(|seen| !std::mem::replace(seen, true))
    }

    /// Returns the flags, whose memory stays taken.
    pub(super) fn into_flags(self) -> Vec<bool> {
        self.0
    }

    /// Gives the memory back.
    pub(in super::super) fn give_back(self, budget: &Budget) {
        budget.give_back(self.0.capacity() as u64);
    }
}
