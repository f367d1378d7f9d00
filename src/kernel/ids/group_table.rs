//! Groups of a batch as a device reads them: tables of 32 bits, one after the other.

use candle_core::Result;

use super::groups::RowGroups;
use crate::kernel::core::row_sums::PART;

/// The groups of a batch, and how long ones are cut into parts of [`PART`] places.
pub(crate) struct GroupTable {
    /// The tables that [`offsets`](Self::offsets) names.
    pub(crate) words: Vec<u32>,
    pub(crate) n_groups: usize,
    pub(crate) n_places: usize,
    /// Parts of long groups.
    pub(crate) n_parts: usize,
    /// Groups of more than one part.
    pub(crate) n_long: usize,
}

impl GroupTable {
    /// Makes the table. Fails unless the groups are of `n_ids` ids below `n_rows`, and both fit 32 bits.
    pub(crate) fn new(groups: &RowGroups, n_ids: usize, n_rows: usize) -> Result<Self> {
        let [rows, starts, places] = groups.parts();
        if groups.n_ids() != n_ids || rows.last().is_some_and(|&row| row >= n_rows) {
            candle_core::bail!("gradients of {n_ids} rows do not belong to these ids");
        }
        let last = rows.last().copied().unwrap_or(0);
        if u32::try_from(n_ids).is_err() || u32::try_from(last).is_err() {
            candle_core::bail!(
                "gradients of {n_ids} ids up to {last} on a GPU: both must be below {}; split the batch or the table",
                1_u64 << 32
            );
        }
        let (mut parts, mut long_groups, mut first_parts) = (Vec::new(), Vec::new(), vec![0]);
        for group in (0..groups.len()).filter(|&group| groups.places(group).len() > PART) {
            let (first, end) = (starts[group], starts[group + 1]);
            parts.extend((first..end).step_by(PART).flat_map(|start| [start, end.min(start + PART)]));
            long_groups.push(group);
            first_parts.push(parts.len() / 2);
        }
        let all = [rows, starts, places, &parts, &long_groups, &first_parts];
        Ok(Self {
            words: all.into_iter().flatten().map(|&number| number as u32).collect(),
            n_groups: rows.len(),
            n_places: places.len(),
            n_parts: parts.len() / 2,
            n_long: long_groups.len(),
        })
    }

    /// Returns where each table begins in the words: the row of each group, where its places begin (and the last end),
    /// the places, where each part of a long group begins and ends in them, the long groups, and the first part of each
    /// (and behind the last).
    pub(crate) fn offsets(&self) -> [usize; 6] {
        let lengths = [self.n_groups, self.n_groups + 1, self.n_places, 2 * self.n_parts, self.n_long];
        let mut offsets = [0; 6];
        for (i, length) in lengths.into_iter().enumerate() {
            offsets[i + 1] = offsets[i] + length;
        }
        offsets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_groups_are_cut_into_parts() -> Result<()> {
        // Rows 3, 5 and 9 with one, 2 · PART + 1 and PART places.
        let ids: Vec<i64> = [vec![5; 2 * PART], vec![9; PART], vec![3, 5]].concat();
        let table = GroupTable::new(&RowGroups::from_ids(&ids, None), ids.len(), 10)?;
        let part = PART as u32;
        let [rows, starts, places, parts, long_groups, first_parts] = table.offsets();
        assert_eq!(table.words[rows..starts], [3, 5, 9]);
        assert_eq!(table.words[starts..places], [0, 1, 2 + 2 * part, 2 + 3 * part]);
        assert_eq!(table.words[places..][..2], [3 * part, 0]);
        let ends = [1, 1 + part, 1 + 2 * part, 2 + 2 * part];
        assert_eq!(table.words[parts..long_groups], [ends[0], ends[1], ends[1], ends[2], ends[2], ends[3]]);
        assert_eq!(table.words[long_groups..first_parts], [1]);
        assert_eq!(table.words[first_parts..], [0, 3]);
        assert!(GroupTable::new(&RowGroups::from_ids(&ids, None), ids.len(), 9).is_err());
        assert!(GroupTable::new(&RowGroups::from_ids(&ids, None), ids.len() + 1, 10).is_err());
        Ok(())
    }
}
