//! Sums over rows in a fixed order, and how rows are dealt to tasks.

use crate::kernel::core::parallel::each_in_parallel;

/// Rows for each task.
pub(super) const ROWS: usize = 32;
/// Elements summed side by side: a few vector registers full.
const LANES: usize = 16;

/// Sums `f(x, y)` in lanes.
#[inline(always)]
pub(super) fn sum(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (x, y) in x.iter().zip(y) {
        for lane in 0..LANES {
            lanes[lane] += f(x[lane], y[lane]);
        }
    }
    x_rest.iter().zip(y_rest).fold(lanes.iter().sum(), |sum, (&x, &y)| sum + f(x, y))
}

#[inline(always)]
pub(super) fn add(sums: &mut [f32], row: &[f32]) {
    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
}

/// Calls `task` with every [`ROWS`] rows of `width` elements, and the index of the first element.
pub(super) fn each_rows(values: &mut [f32], width: usize, task: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    each_in_parallel(values.chunks_mut(ROWS * width), &|index, rows| task(index * ROWS * width, rows));
}

/// Adds up the tasks' sums, in the order of the tasks.
pub(super) fn total(tasks: &[Vec<f32>]) -> Vec<f32> {
    let mut sums = vec![0.0; tasks.first().map_or(0, Vec::len)];
    tasks.iter().for_each(|task| add(&mut sums, task));
    sums
}
