//! The steps on the CPU: parallel, in a fixed order.

use std::ops::Range;

use candle_core::{CpuStorage, Result, Tensor};

use super::gradient::{BatchRows, Gradient, RowSum, SliceRows, Slices, is_frozen};
use super::moments::Moments;
use super::norm::{NormTasks, TASK_ELEMENTS};
use super::rules::{self, AdamStep, AdamWRule, RowRule, Rule, Run};
use crate::kernel::core::element::Element;
use crate::kernel::core::parallel::{each_in_parallel, join, map_in_parallel};
use crate::kernel::core::storage::{inside_mut, on_host, slice};
use crate::memory::zeros;

/// Smaller tensors are updated by the calling thread: the pool costs more than it saves.
const PARALLEL_ELEMENTS: usize = 1 << 15;

pub(super) fn dense_gradient<E: Element>(param: &Tensor, batch: BatchRows) -> Result<Tensor> {
    let (storage, layout) = batch.rows.storage_and_layout();
    let rows = SliceRows::new(batch, slice::<E>(on_host(&storage)?, layout)?);
    let mut dense = zeros::<E>(param.elem_count())?;
    fill_rows(rows, 0..batch.groups.len(), 0, &mut dense, row_width(param));
    Tensor::from_vec(dense, param.shape(), param.device())
}

/// Writes the sums of `groups` into the part of a table that begins at row `first`. Gives halves to other threads.
fn fill_rows<E: Element>(batch: SliceRows<E>, groups: Range<usize>, first: usize, part: &mut [E], width: usize) {
    if let Some(cut) = batch.groups.halve(&groups, TASK_ELEMENTS / width) {
        let row = batch.groups.row(cut);
        let (part, rest) = part.split_at_mut((row - first) * width);
        join(&mut || fill_rows(batch, groups.start..cut, first, part, width), &mut || {
            fill_rows(batch, cut..groups.end, row, rest, width)
        });
        return;
    }
    let mut summed = RowSum::new();
    for group in groups {
        let at = (batch.groups.row(group) - first) * width;
        part[at..at + width].copy_from_slice(summed.sum(batch, group, width, None));
    }
}

pub(super) fn adamw<E: Element>(tensors: Moments, gradient: Gradient, step: &AdamStep) -> Result<()> {
    let rule = AdamWRule::new(step);
    with_slices::<E>(tensors, gradient.dense, gradient.rows, &|[p, m, v], dense, rows| {
        let gradient = Slices { dense, rows, frozen: gradient.frozen };
        // If rows do not matter, any cut will do. Ignoring the shape makes it an even one.
        let width = if gradient.rows.is_none() && gradient.frozen.is_empty() { 1 } else { row_width(tensors.param) };
        let rows_per_task = (TASK_ELEMENTS / width).max(1);
        let n_elements = p.len();
        let task = |index: usize, ((p, m), v): ((&mut [E], &mut [E]), &mut [E])| {
            let first = index * rows_per_task;
            gradient.visit(first..first + p.len() / width, width, |rows, g| {
                let at = (rows.start - first) * width..(rows.end - first) * width;
                Run { p: &mut p[at.clone()], m: &mut m[at.clone()], v: &mut v[at], g }.step(&rule);
            });
        };
        let n = rows_per_task * width;
        let parts = p.chunks_mut(n).zip(m.chunks_mut(n)).zip(v.chunks_mut(n));
        if n_elements < PARALLEL_ELEMENTS {
            parts.enumerate().for_each(|(index, part)| task(index, part));
        } else {
            each_in_parallel(parts, &task);
        }
    })
}

pub(super) fn row_adam<E: Element>(
    tensors: Moments,
    batch: BatchRows,
    frozen: &[Range<usize>],
    step: &AdamStep,
) -> Result<()> {
    let width = row_width(tensors.param);
    let rule = RowRule::new(step);
    with_slices::<E>(tensors, None, Some(batch), &|[p, m, v], _, rows| {
        if let Some(batch) = rows {
            let job = RowJob { rule, batch, frozen, width };
            job.run(0..batch.groups.len(), 0, Run { p, m, v, g: None });
        }
    })
}

struct RowJob<'a, E: Element> {
    rule: RowRule<E::Wide>,
    batch: SliceRows<'a, E>,
    frozen: &'a [Range<usize>],
    width: usize,
}

impl<E: Element> RowJob<'_, E> {
    /// Updates the rows of `groups`, given the part of the table that begins at row `first`. Gives halves to other
    /// threads.
    fn run(&self, groups: Range<usize>, first: usize, table: Run<E>) {
        let (batch, width) = (self.batch, self.width);
        let Run { p, m, v, .. } = table;
        if let Some(cut) = batch.groups.halve(&groups, TASK_ELEMENTS / width) {
            let row = batch.groups.row(cut);
            let at = (row - first) * width;
            let ((p, p_rest), (m, m_rest), (v, v_rest)) = (p.split_at_mut(at), m.split_at_mut(at), v.split_at_mut(at));
            join(&mut || self.run(groups.start..cut, first, Run { p, m, v, g: None }), &mut || {
                self.run(cut..groups.end, row, Run { p: p_rest, m: m_rest, v: v_rest, g: None })
            });
            return;
        }
        let mut summed = RowSum::new();
        for group in groups.filter(|&group| !is_frozen(self.frozen, batch.groups.row(group))) {
            let start = (batch.groups.row(group) - first) * width;
            let at = start..start + width;
            let g = Some(summed.sum(batch, group, width, None));
            Run { p: &mut p[at.clone()], m: &mut m[at.clone()], v: &mut v[at], g }.step(&self.rule);
        }
    }
}

pub(super) fn sum_of_squares<E: Element>(param: &Tensor, gradient: Gradient) -> Result<f64> {
    with_gradient(gradient, |slices: Slices<E>| {
        let cut = NormTasks::new(param);
        let NormTasks { n_rows, width, rows_per_task } = cut;
        let task = |index: usize| {
            let first = index * rows_per_task;
            let mut sum = 0.0;
            slices.visit(first..(first + rows_per_task).min(n_rows), width, |_, g| {
                if let Some(g) = g {
                    g.chunks(width).for_each(|row| sum += rules::sum_of_squares(row));
                }
            });
            sum
        };
        let sums: Vec<f64> = if param.elem_count() < PARALLEL_ELEMENTS {
            (0..cut.len()).map(task).collect()
        } else {
            map_in_parallel(cut.len(), &task)
        };
        sums.iter().sum()
    })
}

/// Returns the sum of squares of each row of a matrix, 0 for one that has no gradient.
pub(super) fn row_sums_of_squares<E: Element>(param: &Tensor, gradient: Gradient) -> Result<Vec<f64>> {
    with_gradient(gradient, |slices: Slices<E>| {
        let NormTasks { n_rows, width, rows_per_task } = NormTasks::new(param);
        let mut sums = vec![0.0; n_rows];
        each_in_parallel(sums.chunks_mut(rows_per_task), &|index, sums| {
            let first = index * rows_per_task;
            slices.visit(first..first + sums.len(), width, |rows, g| {
                for (row, g) in rows.zip(g.into_iter().flat_map(|g| g.chunks(width))) {
                    sums[row - first] = rules::sum_of_squares(g);
                }
            });
        });
        sums
    })
}

/// Calls `f` with the elements of a gradient.
fn with_gradient<E: Element, R>(gradient: Gradient, f: impl FnOnce(Slices<E>) -> R) -> Result<R> {
    let batch = gradient.rows;
    let (dense, rows) = (gradient.dense.map(Tensor::storage_and_layout), batch.map(|b| b.rows.storage_and_layout()));
    let dense = match (&dense, gradient.dense) {
        (Some((storage, _)), Some(tensor)) => Some(slice::<E>(on_host(storage)?, tensor.layout())?),
        _ => None,
    };
    let rows = match (&rows, batch) {
        (Some((storage, _)), Some(batch)) => {
            Some(SliceRows::new(batch, slice::<E>(on_host(storage)?, batch.rows.layout())?))
        }
        _ => None,
    };
    Ok(f(Slices { dense, rows, frozen: gradient.frozen }))
}

/// Returns the width of the rows that a tensor is cut into: a matrix's own, else 1.
fn row_width(param: &Tensor) -> usize {
    match *param.dims() {
        [_, width] => width.max(1),
        _ => 1,
    }
}

/// Returns the elements of a contiguous tensor of type `E` in its storage.
fn typed_mut<'a, E: Element>(storage: &'a mut CpuStorage, tensor: &Tensor) -> Result<&'a mut [E]> {
    match E::slice_mut(storage) {
        Some(values) => inside_mut(values, tensor.layout()),
        None => Err(candle_core::Error::UnsupportedDTypeForOp(tensor.dtype(), "optimizer step").bt()),
    }
}

/// A step on elements: parameter, `exp_avg` and `exp_avg_sq`, the dense gradient, the rows of a batch.
type OnSlices<'f, E> = dyn Fn([&mut [E]; 3], Option<&[E]>, Option<SliceRows<E>>) + 'f;

/// Calls `f` with the elements of all tensors: parameter, `exp_avg`, `exp_avg_sq`, dense gradient, rows of the batch.
fn with_slices<E: Element>(
    tensors: Moments,
    dense: Option<&Tensor>,
    rows: Option<BatchRows>,
    f: &OnSlices<'_, E>,
) -> Result<()> {
    let sources: Vec<&Tensor> = dense.into_iter().chain(rows.map(|batch| batch.rows)).collect();
    tensors.write(&sources, &mut |[p, m, v]: [&mut CpuStorage; 3], storages| {
        let mut slices = Vec::with_capacity(storages.len());
        for (storage, tensor) in storages.iter().zip(&sources) {
            slices.push(slice::<E>(storage, tensor.layout())?);
        }
        let mut slices = slices.into_iter();
        let dense = dense.and_then(|_| slices.next());
        let rows = rows.zip(slices.next()).map(|(batch, rows)| SliceRows::new(batch, rows));
        let Moments { param, exp_avg, exp_avg_sq } = tensors;
        f([typed_mut(p, param)?, typed_mut(m, exp_avg)?, typed_mut(v, exp_avg_sq)?], dense, rows);
        Ok(())
    })
}
