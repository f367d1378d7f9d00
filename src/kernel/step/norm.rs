//! How the sum of squares of a tensor is cut into tasks, on every device.

use candle_core::Tensor;

/// Elements that one task updates: 64 KiB of each f32 operand.
pub(super) const TASK_ELEMENTS: usize = 1 << 14;

fn rows_per_task(width: usize) -> usize {
    (TASK_ELEMENTS / width.max(1)).max(1)
}

/// Returns the sum of squares of a matrix, with the bits of its tasks, from the sums of its rows.
pub(crate) fn sum_of_row_sums(rows: &[f64], width: usize) -> f64 {
    let tasks: Vec<f64> =
        rows.chunks(rows_per_task(width)).map(|rows| rows.iter().fold(0.0, |sum, row| sum + row)).collect();
    tasks.iter().sum()
}

/// How the sum of squares of a tensor is cut: rows first, then runs of rows, each of which one task adds.
pub(crate) struct NormTasks {
    pub(crate) n_rows: usize,
    pub(crate) width: usize,
    pub(crate) rows_per_task: usize,
}

impl NormTasks {
    pub(crate) fn new(param: &Tensor) -> Self {
        let (n_rows, width) = match *param.dims() {
            [n_rows, width] if width > 0 => (n_rows, width),
            // A tensor that is not a matrix is cut into rows of one task each.
            _ => (param.elem_count().div_ceil(TASK_ELEMENTS), TASK_ELEMENTS),
        };
        Self { n_rows, width, rows_per_task: rows_per_task(width) }
    }

    /// Returns how many tasks there are.
    pub(crate) fn len(&self) -> usize {
        self.n_rows.div_ceil(self.rows_per_task)
    }
}
