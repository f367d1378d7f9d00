//! Gives equal keys of dicts one index, and drops all but the last value of each, as Python does.

use super::value::{Id, OPAQUE, Value};
use crate::checkpoint::budget::Budget;
use crate::checkpoint::bytes::Parse;

/// Drops the pairs of each dict whose key, a text, stands again in a later pair.
///
/// Each text is compared once, however many dicts have it as a key.
pub(super) fn keep_last(budget: &Budget, values: &mut [Value]) -> Parse<()> {
    let n_before = budget.n_taken();
    let first_equal = first_equal(budget, values)?;
    // For each key the last dict that had it, and the place there.
    let mut seen: Vec<(usize, usize)> = budget.filled((0, 0), values.len())?;
    let dicts = values.iter_mut().filter_map(|value| match value {
        Value::Dict(pairs) => Some(pairs),
        Value::Call { set: Some(set), .. } => Some(&mut set.items),
        _ => None,
    });
    for (dict, pairs) in (1..).zip(dicts) {
        let mut n_kept = 0;
        for i in 0..pairs.len() {
            let (key, value) = pairs[i];
            let key = usize::try_from(key).ok().and_then(|key| first_equal.get(key)).copied().unwrap_or(key);
            // Opaque values share an index, but need not be equal.
            match usize::try_from(key).ok().filter(|_| key != OPAQUE).and_then(|key| seen.get_mut(key)) {
                Some(&mut (in_dict, place)) if in_dict == dict => {
                    pairs[place].1 = value;
                    continue;
                }
                Some(last) => *last = (dict, n_kept),
                None => {}
            }
            pairs[n_kept] = (key, value);
            n_kept += 1;
        }
        pairs.truncate(n_kept);
    }
    budget.give_back(budget.n_taken().saturating_sub(n_before));
    Ok(())
}

/// Returns for each value the index of a text that is equal to it; the value's own if it is no text.
fn first_equal(budget: &Budget, values: &[Value]) -> Parse<Vec<Id>> {
    let (mut first_equal, mut texts) = (Vec::new(), Vec::new());
    budget.reserve(&mut first_equal, values.len())?;
    for (id, value) in (0..).zip(values) {
        first_equal.push(id);
        if let Value::Str(text) = value {
            budget.push(&mut texts, (&**text, id))?;
        }
    }
    texts.sort_unstable();
    for equal in texts.chunk_by(|(left, _), (right, _)| left == right) {
        for &(_, id) in equal {
            if let (Ok(at), Some(&(_, first))) = (usize::try_from(id), equal.first()) {
                first_equal[at] = first;
            }
        }
    }
    Ok(first_equal)
}
