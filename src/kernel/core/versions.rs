//! How often the values of a tensor's memory were changed outside of an optimizer's step, which Candle does not count.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;

use super::locks::memory_of;

/// The number of changes by address. A graph keeps the memory that it needs, so an address is not reused before its
/// backward pass.
static CHANGES: Mutex<BTreeMap<usize, u64>> = Mutex::new(BTreeMap::new());

/// Notes that the values of `tensor` were changed in place.
pub(crate) fn note_change(tensor: &Tensor) {
    let mut changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
    *changes.entry(memory_of(tensor)).or_default() += 1;
}

/// Returns the version of the values of `tensor`.
pub(crate) fn version_of(tensor: &Tensor) -> u64 {
    let address = memory_of(tensor);
    CHANGES.lock().unwrap_or_else(PoisonError::into_inner).get(&address).copied().unwrap_or(0)
}
