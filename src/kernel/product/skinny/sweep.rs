//! One pass over a table: who takes which rows, and when.

use super::kind::{Kind, Lanes};
use super::panel::{Hidden, Panel};
use super::plain;
use super::rows::{Chunk, Rows};
#[cfg(target_arch = "x86_64")]
use super::x86::{
    self,
    features::{HasAvx512, HasFma},
};
use crate::kernel::core::element::Element;
use crate::kernel::core::parallel::for_each_index;
use crate::kernel::product::exp::FUSED_HERE;

/// Hidden rows of one pass over the table: their panel stays in the second-level cache.
const PASS_ROWS: usize = 128;
/// Bytes of the rows that are used by one group of hidden rows after the other, while as many are prefetched.
const CHUNK_BYTES: usize = 144 << 10;
/// Rows of a chunk: whole blocks of every width, and not so many that their sums leave the cache.
const CHUNK_ROWS: (usize, usize) = (24, 192);
/// Chunks that a task takes.
const TASK_CHUNKS: usize = 4;
/// Multiplications below which one thread is done before another is awake.
const PARALLEL_FROM: usize = 1 << 17;

/// Hidden rows up to which plain loops keep up with a library of products.
const PLAIN_ROWS: usize = 16;

/// By which instructions the loops run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vectors {
    Plain,
    /// Plain code with the sums of vectors, whatever it costs.
    #[cfg(test)]
    Fused,
    #[cfg(target_arch = "x86_64")]
    Avx2(HasFma),
    #[cfg(target_arch = "x86_64")]
    Avx512(HasAvx512),
}

impl Vectors {
    /// Returns the widest that the CPU has.
    pub(super) fn widest() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let narrower = || HasFma::seen().map(Self::Avx2);
            HasAvx512::seen().map(Self::Avx512).or_else(narrower).unwrap_or(Self::Plain)
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::Plain
    }

    fn together(self) -> usize {
        match self {
            Self::Plain => plain::TOGETHER,
            #[cfg(test)]
            Self::Fused => plain::TOGETHER,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => x86::TOGETHER_AVX2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => x86::TOGETHER_AVX512,
        }
    }

    fn products<K: Kind>(self, chunk: &Chunk<'_>, n_hidden: usize, hidden: &[Lanes], sums: &mut [f32]) {
        match self {
            Self::Plain => plain::products::<K, FUSED_HERE>(chunk, n_hidden, hidden, sums),
            #[cfg(test)]
            Self::Fused => plain::products::<K, true>(chunk, n_hidden, hidden, sums),
            // SAFETY: the CPU has the features, as the proof shows.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => unsafe { x86::products_avx2::<K>(chunk, n_hidden, hidden, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => unsafe { x86::products_avx512::<K>(chunk, n_hidden, hidden, sums) },
        }
    }
}

/// Returns whether so many hidden rows are multiplied here at least as well as elsewhere.
pub(super) fn reaches(n_hidden: usize) -> bool {
    Vectors::widest() != Vectors::Plain || n_hidden <= PLAIN_ROWS
}

/// Takes the products of a hidden row with some rows of the table, from one of these on. Each is handed over once.
pub(in super::super) type Take<'a> = &'a (dyn Fn(usize, usize, &[f32]) + Sync);

/// [`product`] with a table of some kind.
pub(in super::super) type Product<E> = fn(&Hidden<'_, E>, &Rows<'_>, Take<'_>);

/// Multiplies every hidden row by every row of a table of kind `K`.
pub(in super::super) fn product<K: Kind, E: Element<Wide = f32>>(
    hidden: &Hidden<'_, E>,
    table: &Rows<'_>,
    take: Take<'_>,
) {
    product_by::<K, E>(Vectors::widest(), hidden, table, take);
}

pub(super) fn product_by<K: Kind, E: Element<Wide = f32>>(
    vectors: Vectors,
    hidden: &Hidden<'_, E>,
    table: &Rows<'_>,
    take: Take<'_>,
) {
    let chunk_rows = match CHUNK_BYTES / table.row_bytes.max(1) {
        n if n < CHUNK_ROWS.0 => n.next_multiple_of(6).max(6),
        n => n.min(CHUNK_ROWS.1) / CHUNK_ROWS.0 * CHUNK_ROWS.0,
    };
    for first in (0..hidden.n_rows).step_by(PASS_ROWS) {
        let rows = first..(first + PASS_ROWS).min(hidden.n_rows);
        let n_products = rows.len() * table.n_rows * hidden.n_columns;
        let panel = Panel::new(hidden, rows, vectors.together(), K::UNIT);
        let task_rows = if n_products < PARALLEL_FROM { table.n_rows } else { TASK_CHUNKS * chunk_rows };
        for_each_index(table.n_rows.div_ceil(task_rows), &|index| {
            let end = ((index + 1) * task_rows).min(table.n_rows);
            let mut sums = vec![0.0; vectors.together() * chunk_rows];
            for first in (index * task_rows..end).step_by(chunk_rows) {
                let mut chunk = table.chunk(first..(first + chunk_rows).min(end));
                for group in 0..panel.n_groups() {
                    let rows = panel.rows(group);
                    chunk.turn = (group, panel.n_groups());
                    vectors.products::<K>(&chunk, rows.len(), panel.lanes(group), &mut sums);
                    for (row, sums) in rows.zip(sums.chunks(chunk.n_rows)) {
                        take(row, first, sums);
                    }
                }
            }
        });
    }
}
