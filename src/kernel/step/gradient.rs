//! The gradient that an optimizer step is given: dense, as rows of a batch, or both; and the frozen rows.

use std::convert::Infallible;
use std::ops::Range;

use candle_core::{Tensor, WithDType};

use crate::kernel::core::element::Element;
use crate::kernel::core::kept::Kept;
use crate::kernel::core::row_sums::sum_rows;
use crate::kernel::ids::RowGroups;

/// Rows of a batch, `[n_ids, C]` and contiguous, grouped by the rows of the table that they are gradients of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchRows<'a> {
    pub(crate) groups: &'a RowGroups,
    pub(crate) rows: &'a Tensor,
    /// The factor of their sums.
    pub(crate) scale: f64,
    /// What a device keeps of this batch from one kernel of a step to the next.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only kernels of CUDA keep something"))]
    pub(crate) kept: &'a Kept,
}

/// The gradient of a tensor: the sum of both parts, zero where neither is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gradient<'a> {
    /// With the parameter's shape and dtype.
    pub(crate) dense: Option<&'a Tensor>,
    /// Only for a matrix.
    pub(crate) rows: Option<BatchRows<'a>>,
    /// Rows that are not updated: ascending, disjoint ranges. Only for a matrix.
    pub(crate) frozen: &'a [Range<usize>],
}

/// Returns whether a row lies in one of ascending, disjoint ranges.
pub(crate) fn is_frozen(frozen: &[Range<usize>], row: usize) -> bool {
    frozen.get(frozen.partition_point(|frozen| frozen.end <= row)).is_some_and(|frozen| frozen.contains(&row))
}

/// The gradient of a tensor as slices.
pub(crate) struct Slices<'a, E> {
    pub(crate) dense: Option<&'a [E]>,
    pub(crate) rows: Option<SliceRows<'a, E>>,
    pub(crate) frozen: &'a [Range<usize>],
}

pub(crate) struct SliceRows<'a, E> {
    pub(crate) groups: &'a RowGroups,
    rows: &'a [E],
    scale: f64,
}

impl<E> Copy for SliceRows<'_, E> {}

impl<E> Clone for SliceRows<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, E> SliceRows<'a, E> {
    pub(crate) fn new(batch: BatchRows<'a>, rows: &'a [E]) -> Self {
        Self { groups: batch.groups, rows, scale: batch.scale }
    }
}

impl<E: Element> Slices<'_, E> {
    /// Calls `f` with runs of the rows `rows` that are not frozen, in order, and their gradient (`None` for zeros).
    pub(crate) fn visit(&self, rows: Range<usize>, width: usize, mut f: impl FnMut(Range<usize>, Option<&[E]>)) {
        let mut summed = RowSum::new();
        let mut live = |live: Range<usize>| {
            if live.is_empty() {
                return;
            }
            let dense =
                |rows: &Range<usize>| self.dense.map(|g| &g[rows.start * width..(rows.end * width).min(g.len())]);
            let mut row = live.start;
            if let Some(batch) = self.rows {
                for group in batch.groups.within(&live) {
                    let touched = batch.groups.row(group);
                    let (before, at) = (row..touched, touched..touched + 1);
                    if !before.is_empty() {
                        f(before.clone(), dense(&before));
                    }
                    f(at.clone(), Some(summed.sum(batch, group, width, dense(&at))));
                    row = touched + 1;
                }
            }
            let after = row..live.end;
            if !after.is_empty() {
                f(after.clone(), dense(&after));
            }
        };
        let mut row = rows.start;
        let from = self.frozen.partition_point(|frozen| frozen.end <= rows.start);
        for frozen in self.frozen[from..].iter().take_while(|frozen| frozen.start < rows.end) {
            live(row..frozen.start.max(row));
            row = frozen.end.min(rows.end);
        }
        live(row..rows.end);
    }
}

/// Buffers for the sum of one row's gradients: in the type of the arithmetic, and rounded once to the table's dtype.
pub(crate) struct RowSum<E: Element> {
    wide: Vec<E::Wide>,
    part: Vec<E::Wide>,
    rounded: Vec<E>,
}

impl<E: Element> RowSum<E> {
    pub(crate) fn new() -> Self {
        Self { wide: Vec::new(), part: Vec::new(), rounded: Vec::new() }
    }

    /// Returns the sum of a group's rows in the order of [`sum_rows`], rounded, and then plus `dense`, if given, rounded again.
    /// These are the bits of adding a whole table of sums to a whole table `dense`.
    pub(crate) fn sum<'a>(
        &'a mut self,
        batch: SliceRows<'a, E>,
        group: usize,
        width: usize,
        dense: Option<&'a [E]>,
    ) -> &'a [E] {
        let row = |place: usize| &batch.rows[place * width..][..width];
        let factor = batch.scale * batch.groups.factor(group);
        let places = batch.groups.places(group);
        self.rounded.clear();
        if let (&[only], None, true) = (places, dense, factor == 1.0) {
            let zero = E::Wide::default(); // its sum with -0 is 0, as that of more rows is
            self.rounded.extend(row(only).iter().map(|&x| E::narrow(zero + x.widen())));
            return &self.rounded;
        }
        for sums in [&mut self.wide, &mut self.part] {
            sums.resize(width, E::Wide::default());
        }
        let Ok(()) = sum_rows((&mut self.wide, &mut self.part), places, |place| Ok::<_, Infallible>(row(place)));
        let factor = E::Wide::from_f64(factor);
        self.rounded.extend(self.wide.iter().map(|&sum| E::narrow(sum * factor)));
        if let Some(dense) = dense {
            for (sum, dense) in self.rounded.iter_mut().zip(dense) {
                *sum = E::narrow(dense.widen() + sum.widen());
            }
        }
        &self.rounded
    }
}
