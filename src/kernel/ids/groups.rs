//! Groups ids by the row that they select, so that one thread can sum each row's gradients in a fixed order.

use std::ops::Range;

use rayon::prelude::*;

use crate::kernel::core::rows::{Ids, row_of};

/// Fewer ids are sorted by the calling thread.
const PARALLEL_IDS: usize = 1 << 14;
/// Stands for an id that was left out.
const LEFT_OUT: i64 = -1;

/// Which rows of a table a batch touched, and by which of its ids.
#[derive(Clone, Debug)]
pub(crate) struct RowGroups {
    /// Each row once, ascending.
    rows: Vec<usize>,
    /// Where each row's places begin, and where the last one's end.
    starts: Vec<usize>,
    /// Places in the batch, by row and then ascending.
    places: Vec<usize>,
    /// How many ids the batch has, those left out included.
    n_ids: usize,
    /// Divide each row's gradient by the number of its places.
    by_frequency: bool,
}

impl RowGroups {
    /// Groups ids that are known to be inside their table, leaving out those of `skipped_row`.
    pub(crate) fn from_ids(ids: &[i64], skipped_row: Option<usize>) -> Self {
        Self::of(Ids::I64(ids), |row| Some(row) != skipped_row)
    }

    /// Groups unchecked ids, leaving out those outside a table of `n_rows`.
    #[cfg(any(feature = "cuda", feature = "metal-kernels"))]
    pub(crate) fn inside(ids: &[i64], n_rows: usize) -> Self {
        Self::of(Ids::I64(ids), |row| row < n_rows)
    }

    /// Groups positions that count from `start` to `start + length` in each of `n_sequences` sequences.
    pub(crate) fn counted(start: usize, length: usize, n_sequences: usize) -> Self {
        let length = if n_sequences == 0 { 0 } else { length };
        Self {
            rows: (start..start + length).collect(),
            starts: (0..=length).map(|step| step * n_sequences).collect(),
            places: (0..length).flat_map(|step| (0..n_sequences).map(move |n| n * length + step)).collect(),
            n_ids: length * n_sequences,
            by_frequency: false,
        }
    }

    /// Groups the ids whose row `is_wanted`.
    pub(crate) fn of(ids: Ids, is_wanted: impl Fn(usize) -> bool) -> Self {
        let row_of = |place: usize| ids.row(place).ok().filter(|&row| is_wanted(row)).map(|row| (row, place));
        let pairs = || (0..ids.len()).filter_map(row_of);
        // A key of 64 bits sorts in about half the time of a pair. Larger rows or places do not fit.
        let packed = |(row, place): (usize, usize)| {
            Some(u64::from(u32::try_from(row).ok()?) << 32 | u64::from(u32::try_from(place).ok()?))
        };
        match pairs().map(packed).collect::<Option<Vec<u64>>>() {
            Some(keys) => Self::sorted(keys, ids.len(), |key| ((key >> 32) as usize, key as u32 as usize)),
            None => Self::sorted(pairs().collect(), ids.len(), |pair| pair),
        }
    }

    /// Makes the groups of keys in any order, each of which `split` parts into row and place.
    fn sorted<K: Ord + Copy + Send>(mut keys: Vec<K>, n_ids: usize, split: impl Fn(K) -> (usize, usize)) -> Self {
        if keys.len() < PARALLEL_IDS {
            keys.sort_unstable()
        } else {
            keys.par_sort_unstable()
        }
        let (mut rows, mut starts, mut places) = (Vec::new(), Vec::new(), Vec::with_capacity(keys.len()));
        for (row, place) in keys.into_iter().map(split) {
            if rows.last() != Some(&row) {
                rows.push(row);
                starts.push(places.len());
            }
            places.push(place);
        }
        starts.push(places.len());
        Self { rows, starts, places, n_ids, by_frequency: false }
    }

    /// Divides each row's gradient by the number of its places, as `scale_grad_by_freq` does.
    pub(crate) fn by_frequency(mut self, by_frequency: bool) -> Self {
        self.by_frequency = by_frequency;
        self
    }

    /// Makes the groups of which [`ids`](Self::ids) returned these.
    pub(crate) fn again(ids: &[i64]) -> Self {
        Self::of(Ids::I64(ids), |row| row != row_of(LEFT_OUT))
    }

    /// Returns the row of each place; -1 where the id was left out.
    pub(crate) fn ids(&self) -> Vec<i64> {
        let mut ids = vec![LEFT_OUT; self.n_ids];
        for (i, &row) in self.rows.iter().enumerate() {
            self.places(i).iter().for_each(|&place| ids[place] = row as i64);
        }
        ids
    }

    /// Returns whether each row's gradient is divided by the number of its places.
    pub(crate) fn is_by_frequency(&self) -> bool {
        self.by_frequency
    }

    /// Returns how many rows were touched.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn n_ids(&self) -> usize {
        self.n_ids
    }

    /// Returns the row of group `i`. Rows ascend.
    pub(crate) fn row(&self, i: usize) -> usize {
        self.rows[i]
    }

    /// Returns the places in the batch of group `i`, ascending; at least one.
    pub(crate) fn places(&self, i: usize) -> &[usize] {
        &self.places[self.starts[i]..self.starts[i + 1]]
    }

    /// Returns the factor of group `i`'s gradients.
    pub(crate) fn factor(&self, i: usize) -> f64 {
        if self.by_frequency { 1.0 / self.places(i).len() as f64 } else { 1.0 }
    }

    /// Returns the row of each group, where each begins in the places and the last one ends, and the places.
    #[cfg(any(feature = "cuda", feature = "metal-kernels", test))]
    pub(crate) fn parts(&self) -> [&[usize]; 3] {
        [&self.rows, &self.starts, &self.places]
    }

    /// Returns the groups whose rows lie in `rows`.
    pub(crate) fn within(&self, rows: &Range<usize>) -> Range<usize> {
        let from = self.rows.partition_point(|&row| row < rows.start);
        from..from + self.rows[from..].partition_point(|&row| row < rows.end)
    }

    /// Cuts groups into two parts with about as many places, neither empty. Returns `None` if they have fewer than
    /// `n_worth`.
    pub(crate) fn halve(&self, groups: &Range<usize>, n_worth: usize) -> Option<usize> {
        let (from, to) = (self.starts[groups.start], self.starts[groups.end]);
        if groups.len() < 2 || to - from < n_worth {
            return None;
        }
        let middle = from + (to - from) / 2;
        let cut = groups.start + self.starts[groups.start..groups.end].partition_point(|&start| start < middle);
        Some(cut.clamp(groups.start + 1, groups.end - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(groups: &RowGroups) -> Vec<(usize, Vec<usize>)> {
        (0..groups.len()).map(|i| (groups.row(i), groups.places(i).to_vec())).collect()
    }

    #[test]
    fn groups_are_those_of_a_map() {
        // Rows of 40 bits do not fit beside their place in a key of 64.
        for (n_rows, n_ids) in [(1, 5), (7, 40), (5_000_000, 300), (300, 20_000), (3, 0), (1 << 40, 3000)] {
            let ids: Vec<i64> =
                (0..n_ids as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) as i64 % n_rows).collect();
            for skipped_row in [None, Some(n_rows as usize / 2)] {
                let mut expected = std::collections::BTreeMap::<usize, Vec<usize>>::new();
                for (at, &id) in ids.iter().enumerate() {
                    if Some(id as usize) != skipped_row {
                        expected.entry(id as usize).or_default().push(at);
                    }
                }
                let groups = RowGroups::from_ids(&ids, skipped_row);
                assert_eq!(parts(&RowGroups::again(&groups.ids())), parts(&groups));
                assert_eq!(parts(&groups), expected.into_iter().collect::<Vec<_>>(), "{n_rows} {n_ids}");
                assert_eq!(groups.within(&(0..n_rows as usize)), 0..groups.len());
                assert!(groups.within(&(0..0)).is_empty());
            }
        }
    }

    #[test]
    fn counted_positions_are_those_of_their_ids() {
        for (start, length, n_sequences) in [(3, 4, 2), (0, 1, 5), (2, 0, 3), (2, 3, 0)] {
            let ids: Vec<i64> = (0..n_sequences).flat_map(|_| start as i64..(start + length) as i64).collect();
            let (counted, listed) = (RowGroups::counted(start, length, n_sequences), RowGroups::from_ids(&ids, None));
            assert_eq!(parts(&counted), parts(&listed));
            assert_eq!(counted.n_ids(), ids.len());
        }
    }
}
