//! Products with weights `[in, out]`, whose sums run down the columns: `hidden · weight`.
//!
//! A sum takes the rows of the weight in order, each product fused with the addition where the CPU can. So it depends on
//! its column and its hidden row alone, as sums along rows do.

use std::ops::Range;

use super::kind::Kind;
use super::panel::Hidden;
use super::plain;
use super::rows::{Block, Rows};
use super::sweep::{Take, Vectors};
#[cfg(target_arch = "x86_64")]
use super::x86;
use crate::kernel::core::element::Element;
use crate::kernel::core::parallel::for_each_index;
use crate::kernel::product::exp::FUSED_HERE;

/// Bytes of the weight's rows that are used by one tile of columns after the other, while as many are prefetched.
const BLOCK_BYTES: usize = 96 << 10;
/// Columns of a task: at least and at most.
const TASK_COLUMNS: (usize, usize) = (128, 512);
/// Sums of a task that stay in the second-level cache.
const TASK_SUMS: usize = 1 << 15;
/// Tasks for each thread.
const TASKS_PER_THREAD: usize = 2;
/// Multiplications below which one thread is done before another is awake.
const PARALLEL_FROM: usize = 1 << 17;

/// Multiplies every hidden row by every column of a weight of kind `K`.
pub(in super::super) fn product_by_columns<K: Kind, E: Element<Wide = f32>>(
    hidden: &Hidden<'_, E>,
    weight: &Rows<'_>,
    take: Take<'_>,
) {
    by_columns::<K, E>(Vectors::widest(), hidden, weight, take);
}

pub(super) fn by_columns<K: Kind, E: Element<Wide = f32>>(
    vectors: Vectors,
    hidden: &Hidden<'_, E>,
    weight: &Rows<'_>,
    take: Take<'_>,
) {
    let size = K::UNIT_BYTES / K::UNIT;
    let (n_in, n_out) = (weight.n_rows, weight.row_bytes / size);
    let n_tasks = TASKS_PER_THREAD * rayon::current_num_threads();
    let most = (TASK_SUMS / hidden.n_rows.clamp(1, PASS_ROWS)).clamp(TASK_COLUMNS.0, TASK_COLUMNS.1);
    let width = match hidden.n_rows * n_in * n_out {
        n if n < PARALLEL_FROM => most,
        _ => n_out.div_ceil(n_tasks).next_multiple_of(TASK_COLUMNS.0).min(most / TASK_COLUMNS.0 * TASK_COLUMNS.0),
    };
    let block_rows = (BLOCK_BYTES / (width * size)).max(16);
    for first in (0..hidden.n_rows).step_by(PASS_ROWS) {
        let groups = Groups::new(hidden, first..(first + PASS_ROWS).min(hidden.n_rows), vectors.columns_together());
        for_each_index(n_out.div_ceil(width), &|index| {
            let columns = index * width..((index + 1) * width).min(n_out);
            let n_columns = columns.len();
            let mut sums = vec![0.0; groups.n_rows * n_columns];
            for start in (0..n_in).step_by(block_rows) {
                let taken = start..(start + block_rows).min(n_in);
                let (next, from) = match taken.end < n_in {
                    true => (taken.end..(taken.end + block_rows).min(n_in), columns.start),
                    false => (0..block_rows.min(n_in), columns.end), // where the next task begins
                };
                let n_bytes = (n_out - from).min(width) * size;
                for group in 0..groups.n_groups {
                    let share = |i: usize| next.start + i * next.len() / groups.n_groups;
                    let next = (n_bytes > 0).then(|| (share(group)..share(group + 1), from * size, n_bytes));
                    let block = Block { rows: *weight, taken: taken.clone(), columns: columns.clone(), next };
                    let rows = groups.rows(group);
                    let sums = &mut sums[rows.start * n_columns..rows.end * n_columns];
                    vectors.columns::<K>(&block, rows.len(), groups.values(group, &taken), sums);
                }
            }
            for (row, sums) in sums.chunks(n_columns).enumerate() {
                take(first + row, columns.start, sums);
            }
        });
    }
}

/// Hidden rows of one pass over the weight.
const PASS_ROWS: usize = 128;

impl Vectors {
    fn columns_together(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => x86::COLUMNS_TOGETHER_AVX2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => x86::COLUMNS_TOGETHER_AVX512,
            _ => plain::TOGETHER,
        }
    }

    fn columns<K: Kind>(self, block: &Block<'_>, n_hidden: usize, hidden: &[f32], sums: &mut [f32]) {
        match self {
            Self::Plain => plain::columns::<K, FUSED_HERE>(block, n_hidden, hidden, sums, 0),
            #[cfg(test)]
            Self::Fused => plain::columns::<K, true>(block, n_hidden, hidden, sums, 0),
            // SAFETY: the CPU has the features, as the proof shows.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => unsafe { x86::columns_avx2::<K>(block, n_hidden, hidden, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => unsafe { x86::columns_avx512::<K>(block, n_hidden, hidden, sums) },
        }
    }
}

/// Some rows of hidden states, widened, in groups: of each group the first element of every row, then the second.
struct Groups {
    values: Vec<f32>,
    n_rows: usize,
    n_columns: usize,
    n_groups: usize,
}

impl Groups {
    fn new<E: Element<Wide = f32>>(hidden: &Hidden<'_, E>, rows: Range<usize>, together: usize) -> Self {
        let (n_rows, n_columns) = (rows.len(), hidden.n_columns);
        let n_groups = n_rows.div_ceil(together);
        let mut groups = Self { values: Vec::with_capacity(n_rows * n_columns), n_rows, n_columns, n_groups };
        let (by_row, by_column) = hidden.strides;
        for group in 0..n_groups {
            let in_group = groups.rows(group);
            for column in 0..n_columns {
                let value = |row: usize| hidden.values[(rows.start + row) * by_row + column * by_column].widen();
                groups.values.extend(in_group.clone().map(value));
            }
        }
        groups
    }

    /// Returns the rows of a group, counted from the first row. Groups differ by at most one row.
    fn rows(&self, group: usize) -> Range<usize> {
        let border = |group| group * self.n_rows / self.n_groups;
        border(group)..border(group + 1)
    }

    /// Returns the elements of a group in some columns.
    fn values(&self, group: usize, columns: &Range<usize>) -> &[f32] {
        let rows = self.rows(group);
        let values = &self.values[rows.start * self.n_columns..];
        &values[columns.start * rows.len()..columns.end * rows.len()]
    }
}
