//! Hidden states, widened and laid out in the order in which the loops read them.

use std::ops::Range;

use super::ints::LANES;
use super::kind::Lanes;
use crate::kernel::core::element::{Element, widen_row};
use crate::kernel::core::simd::vectorised;

/// Rows of hidden states, of any strides.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Hidden<'a, E> {
    /// The elements from the first one on.
    pub(in super::super) values: &'a [E],
    pub(in super::super) n_rows: usize,
    pub(in super::super) n_columns: usize,
    pub(in super::super) strides: (usize, usize),
}

/// Some rows of hidden states in groups, and of each group lane after lane: sixteen elements of its first row, the same of
/// its second, and so on. Elements behind the end of a row are 0.
pub(super) struct Panel {
    lanes: Vec<Lanes>,
    first: usize,
    n_rows: usize,
    n_groups: usize,
    /// Lanes of one row.
    n_lanes: usize,
}

impl Panel {
    /// Takes rows in groups of at most `together`, whose elements fill units of `unit`.
    pub(super) fn new<E: Element<Wide = f32>>(
        hidden: &Hidden<'_, E>,
        rows: Range<usize>,
        together: usize,
        unit: usize,
    ) -> Self {
        let &Hidden { values, n_columns, strides: (by_row, by_column), .. } = hidden;
        let n_lanes = n_columns.next_multiple_of(unit) / LANES;
        let lanes = vec![Lanes::default(); rows.len() * n_lanes];
        let n_groups = rows.len().div_ceil(together);
        let mut panel = Self { lanes, first: rows.start, n_rows: rows.len(), n_groups, n_lanes };
        for group in 0..n_groups {
            let rows = panel.rows(group);
            let to = &mut panel.lanes[(rows.start - panel.first) * n_lanes..];
            for (n, row) in rows.clone().enumerate() {
                let from = &values[row * by_row..];
                if by_column == 1 {
                    let steps = from[..n_columns].chunks(LANES).zip(to[n..].iter_mut().step_by(rows.len()));
                    vectorised(|| steps.for_each(|(from, to)| widen_row(&mut to.0, from)));
                } else {
                    for (step, start) in (0..n_columns).step_by(LANES).enumerate() {
                        let to = &mut to[step * rows.len() + n].0;
                        to.iter_mut().zip(start..n_columns).for_each(|(to, i)| *to = from[i * by_column].widen());
                    }
                }
            }
        }
        panel
    }

    pub(super) fn n_groups(&self) -> usize {
        self.n_groups
    }

    /// Returns the rows of a group. Groups differ by at most one row.
    pub(super) fn rows(&self, group: usize) -> Range<usize> {
        let border = |group| self.first + group * self.n_rows / self.n_groups;
        border(group)..border(group + 1)
    }

    pub(super) fn lanes(&self, group: usize) -> &[Lanes] {
        let rows = self.rows(group);
        &self.lanes[(rows.start - self.first) * self.n_lanes..(rows.end - self.first) * self.n_lanes]
    }
}
