//! The gradient that an optimizer step is given: dense, as rows of a batch, or both; and the frozen rows.

use std::convert::Infallible;
use std::ops::Range;

use candle_core::{Tensor, WithDType};

use crate::kernel::core::element::Element;
use crate::kernel::core::kept::Kept;
use crate::kernel::core::parallel::join;
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
    /// What a device keeps of the frozen rows from one kernel of a step to the next.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only kernels of CUDA keep something"))]
    pub(crate) kept: &'a Kept,
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

/// Sums of this many elements are shared by threads.
const SHARED_ELEMENTS: usize = 1 << 16;
/// Columns that a thread takes at least.
const COLUMNS: usize = 128;

/// Computes the sums of [`sum_rows`] of columns from `first` on. Gives halves to other threads if there are many columns
/// of many rows.
fn sum_columns<'a, E: Element>(
    (sums, part): (&mut [E::Wide], &mut [E::Wide]),
    places: &[usize],
    first: usize,
    row: &(impl Fn(usize) -> &'a [E] + Sync),
) {
    let n = sums.len();
    if n < 2 * COLUMNS || n * places.len() < SHARED_ELEMENTS {
        let Ok(()) = sum_rows((sums, part), places, |place| Ok::<_, Infallible>(&row(place)[first..first + n]));
        return;
    }
    let middle = n / 2;
    let ((sums, more_sums), (part, more_part)) = (sums.split_at_mut(middle), part.split_at_mut(middle));
    join(&mut || sum_columns((&mut *sums, &mut *part), places, first, row), &mut || {
        sum_columns((&mut *more_sums, &mut *more_part), places, first + middle, row)
    });
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
        sum_columns((&mut self.wide, &mut self.part), places, 0, &row);
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

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::error::Result;
    use crate::kernel::core::samples::table;

    /// A row that comes up often, at widths with and without columns for several threads: the bits of one thread.
    #[test]
    fn threads_share_a_long_sum() -> Result<()> {
        let n = 700;
        for width in [3, 255, 256, 257, 1031] {
            let rows: Vec<f32> = table(n, width, DType::F32, 3)?.flatten_all()?.to_vec1()?;
            let ids: Vec<i64> = (0..n as i64).map(|i| if i % 9 == 4 { 2 } else { 5 }).collect();
            let (groups, kept) = (RowGroups::from_ids(&ids, None), Kept::default());
            let tensor = Tensor::new(0f32, &candle_core::Device::Cpu)?;
            let batch = BatchRows { groups: &groups, rows: &tensor, scale: 0.5, kept: &kept };
            let batch = SliceRows::new(batch, &rows);
            let (mut sums, mut part) = (vec![0f32; width], vec![0f32; width]);
            let row = |place: usize| Ok::<_, Infallible>(&rows[place * width..][..width]);
            let Ok(()) = sum_rows((&mut sums, &mut part), groups.places(1), row);
            let expected: Vec<u32> = sums.iter().map(|sum| (sum * 0.5).to_bits()).collect();
            let mut summed = RowSum::new();
            let found: Vec<u32> = summed.sum(batch, 1, width, None).iter().map(|sum| sum.to_bits()).collect();
            assert_eq!(found, expected, "{width}");
        }
        Ok(())
    }
}
