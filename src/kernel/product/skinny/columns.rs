//! Products with weights `[in, out]`, whose sums run down the columns: `hidden · weight`.
//!
//! A sum takes 128 rows of the weight at a time, in order and each product fused with the addition where the CPU can; these
//! sums are added in order. So it depends on its column and its hidden row alone, as sums along rows do.

use std::ops::Range;

use super::kind::Kind;
use super::panel::Hidden;
use super::plain;
use super::rows::{Block, Rows};
use super::sweep::{Take, Vectors};
#[cfg(target_arch = "x86_64")]
use super::x86;
use crate::kernel::core::element::Element;
use crate::kernel::core::parallel::{for_each_index, map_in_parallel};
use crate::kernel::core::simd::vectorised;
use crate::kernel::product::exp::FUSED_HERE;

/// Rows of the weight that are summed on their own.
const SEGMENT: usize = 128;
/// Bytes of the weight's rows that are used by one tile of columns after the other, while as many are prefetched.
const BLOCK_BYTES: usize = 48 << 10;
/// Columns of a task: at least, at most where it takes a segment, and at most where it takes all of them.
const FEWEST_COLUMNS: usize = 64;
const SEGMENT_COLUMNS: usize = 4096;
const TASK_COLUMNS: usize = 512;
/// Sums of a task that stay in the second-level cache.
const TASK_SUMS: usize = 1 << 15;
/// Hidden rows up to which tasks take segments: memory is read in one go, and the sums of segments are few.
const BY_SEGMENT: usize = 4;
/// Tasks for each thread, at least.
const TASKS_PER_THREAD: usize = 2;
/// Multiplications below which one thread is done before another is awake.
const PARALLEL_FROM: usize = 1 << 17;
/// Hidden rows of one pass over the weight.
const PASS_ROWS: usize = 128;

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
    let n_out = weight.row_bytes * K::UNIT / K::UNIT_BYTES;
    for first in (0..hidden.n_rows).step_by(PASS_ROWS) {
        let rows = first..(first + PASS_ROWS).min(hidden.n_rows);
        let n_segments = weight.n_rows.div_ceil(SEGMENT);
        let by_segment = rows.len() <= BY_SEGMENT;
        let (most, n_steps) = match by_segment {
            true => (SEGMENT_COLUMNS, n_segments),
            false => ((TASK_SUMS / rows.len()).clamp(FEWEST_COLUMNS, TASK_COLUMNS), 1),
        };
        let n_tasks = match rows.len() * weight.n_rows * n_out {
            n if n < PARALLEL_FROM => 1,
            _ => TASKS_PER_THREAD * rayon::current_num_threads(),
        };
        // As many ranges of columns for each thread.
        let n_ranges = n_tasks.div_ceil(n_steps);
        let n_ranges = n_ranges * n_out.div_ceil(n_ranges * most);
        let width = n_out.div_ceil(n_ranges).next_multiple_of(K::UNIT).max(FEWEST_COLUMNS);
        let columns = |range: usize| range * width..((range + 1) * width).min(n_out);
        let n_ranges = n_out.div_ceil(width);
        let pass = Pass { vectors, weight, groups: Groups::new(hidden, rows, vectors.columns_together()) };
        let finish = |range: usize, segments: &mut dyn Iterator<Item = Vec<f32>>| {
            let mut sums = segments.next().unwrap_or_default();
            segments.for_each(|segment| sums.iter_mut().zip(segment).for_each(|(sum, x)| *sum += x));
            let columns = columns(range);
            for (row, sums) in sums.chunks(columns.len()).enumerate() {
                take(first + row, columns.start, sums);
            }
        };
        if by_segment && n_tasks > 1 {
            let sums = |index: usize| pass.segment::<K>(index % n_segments, columns(index / n_segments));
            let mut all = map_in_parallel(n_ranges * n_segments, &sums).into_iter();
            (0..n_ranges).for_each(|range| finish(range, &mut all.by_ref().take(n_segments)));
        } else {
            for_each_index(n_ranges, &|range| {
                finish(range, &mut (0..n_segments).map(|segment| pass.segment::<K>(segment, columns(range))));
            });
        }
    }
}

/// A pass over the weight.
struct Pass<'a> {
    vectors: Vectors,
    weight: &'a Rows<'a>,
    groups: Groups,
}

impl Pass<'_> {
    /// Returns the sums of a segment in some columns, those of the first hidden row first.
    fn segment<K: Kind>(&self, segment: usize, columns: Range<usize>) -> Vec<f32> {
        let (weight, groups, size) = (self.weight, &self.groups, K::UNIT_BYTES / K::UNIT);
        let end = ((segment + 1) * SEGMENT).min(weight.n_rows);
        let block_rows = (BLOCK_BYTES / (columns.len() * size)).clamp(8, SEGMENT);
        let mut sums = vec![0.0; groups.n_rows * columns.len()];
        for start in (segment * SEGMENT..end).step_by(block_rows) {
            let taken = start..(start + block_rows).min(end);
            let next = taken.end..(taken.end + block_rows).min(weight.n_rows);
            for group in 0..groups.n_groups {
                let rows = groups.rows(group);
                let share = |i: usize| next.start + i * next.len() / groups.n_groups;
                let next = (share(group)..share(group + 1), columns.start * size, columns.len() * size);
                let block = Block { rows: *weight, taken: taken.clone(), columns: columns.clone(), next };
                let sums = &mut sums[rows.start * columns.len()..rows.end * columns.len()];
                self.vectors.columns::<K>(&block, rows.len(), groups.values(group, &taken), sums);
            }
        }
        sums
    }
}

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
        let mut groups = Self { values: vec![0.0; n_rows * n_columns], n_rows, n_columns, n_groups };
        let (by_row, by_column) = hidden.strides;
        for in_group in (0..n_groups).map(|group| groups.rows(group)).collect::<Vec<_>>() {
            for (n, row) in in_group.clone().enumerate() {
                let from = &hidden.values[(rows.start + row) * by_row..];
                let to = groups.values[in_group.start * n_columns + n..].iter_mut().step_by(in_group.len());
                let to = to.take(n_columns);
                match by_column {
                    1 => vectorised(|| to.zip(from).for_each(|(to, x)| *to = x.widen())),
                    _ => to.enumerate().for_each(|(i, to)| *to = from[i * by_column].widen()),
                }
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
