//! Groups ids by the row that they select, so that one thread can sum each row's gradients in a fixed order.

use std::ops::Range;

use rayon::prelude::*;

use crate::kernel::core::rows::Ids;

/// Which rows of a table a batch touched, and by which of its ids.
#[derive(Clone, Debug)]
pub(crate) struct RowGroups {
    /// (row, place in the batch), sorted by row and then by place.
    occurrences: Vec<(usize, usize)>,
    /// Where each row's occurrences begin, and where the last one's end.
    starts: Vec<usize>,
    /// How many ids the batch has, those left out included.
    n_ids: usize,
    /// Divide each row's gradient by the number of its occurrences.
    by_frequency: bool,
}

impl RowGroups {
    /// Groups ids that are known to be inside their table, leaving out those of `skipped_row`.
    pub(crate) fn from_ids(ids: &[i64], skipped_row: Option<usize>) -> Self {
        let mut occurrences = group(Ids::I64(ids));
        if let Some(skipped_row) = skipped_row {
            occurrences.retain(|&(row, _)| row != skipped_row);
        }
        Self::of(occurrences, ids.len())
    }

    /// Groups unchecked ids, leaving out those outside a table of `n_rows`.
    #[cfg(feature = "cuda")]
    pub(crate) fn inside(ids: &[i64], n_rows: usize) -> Self {
        let mut occurrences = group(Ids::I64(ids));
        occurrences.retain(|&(row, _)| row < n_rows);
        Self::of(occurrences, ids.len())
    }

    /// Groups positions that count from `start` to `start + length` in each of `n_sequences` sequences.
    pub(crate) fn counted(start: usize, length: usize, n_sequences: usize) -> Self {
        let places = |step| (0..n_sequences).map(move |sequence| (start + step, sequence * length + step));
        Self::of((0..length).flat_map(places).collect(), length * n_sequences)
    }

    fn of(occurrences: Vec<(usize, usize)>, n_ids: usize) -> Self {
        let mut starts = vec![0];
        for run in occurrences.chunk_by(|left, right| left.0 == right.0) {
            starts.push(starts.last().map_or(0, |start| start + run.len()));
        }
        Self { occurrences, starts, n_ids, by_frequency: false }
    }

    /// Divides each row's gradient by the number of its occurrences, as `scale_grad_by_freq` does.
    pub(crate) fn by_frequency(mut self, by_frequency: bool) -> Self {
        self.by_frequency = by_frequency;
        self
    }

    /// Returns how many rows were touched.
    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub(crate) fn n_ids(&self) -> usize {
        self.n_ids
    }

    /// Returns the row of group `i`. Rows ascend.
    pub(crate) fn row(&self, i: usize) -> usize {
        self.occurrences[self.starts[i]].0
    }

    /// Returns the row and the places in the batch of group `i`, ascending; at least one.
    pub(crate) fn occurrences(&self, i: usize) -> &[(usize, usize)] {
        &self.occurrences[self.starts[i]..self.starts[i + 1]]
    }

    /// Returns the factor of group `i`'s gradients.
    pub(crate) fn factor(&self, i: usize) -> f64 {
        if self.by_frequency { 1.0 / self.occurrences(i).len() as f64 } else { 1.0 }
    }

    /// Returns the groups whose rows lie in `rows`.
    pub(crate) fn within(&self, rows: &Range<usize>) -> Range<usize> {
        let starts = &self.starts[..self.len()];
        let from = starts.partition_point(|&start| self.occurrences[start].0 < rows.start);
        from..from + starts[from..].partition_point(|&start| self.occurrences[start].0 < rows.end)
    }

    /// Cuts groups into two parts with about as many occurrences, neither empty. Returns `None` if they have fewer than
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

/// Returns (id, n) of every id, sorted by id and then by n.
pub(crate) fn group(ids: Ids) -> Vec<(usize, usize)> {
    let mut groups: Vec<(usize, usize)> = (0..ids.len()).filter_map(|n| Some((ids.row(n).ok()?, n))).collect();
    if groups.len() < 1 << 14 {
        groups.sort_unstable();
    } else {
        groups.par_sort_unstable();
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(groups: &RowGroups) -> Vec<(usize, Vec<usize>)> {
        let places = |i| groups.occurrences(i).iter().map(|&(_, place)| place).collect();
        (0..groups.len()).map(|i| (groups.row(i), places(i))).collect()
    }

    #[test]
    fn groups_are_those_of_a_map() {
        for (n_rows, n_ids) in [(1, 5), (7, 40), (5_000_000, 300), (300, 20_000), (3, 0)] {
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
