//! Lays out values that depend on the distance between a query and a key, for every pair.

mod bias;
#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, D, Layout, Shape, Tensor};

use crate::error::{Error, Result};
use crate::kernel::core::element::{Element, by_dtype, bytes_of, bytes_of_mut};
use crate::kernel::core::parallel::{Out, Outside, each_in_parallel, in_parallel};
use crate::kernel::core::simd;
use crate::kernel::core::storage::{slice, written};
use crate::memory::{copy_fits, fits, fits_on, zeros};

pub(crate) use bias::{bias_in_runs, linear_bias};

type CandleResult<T> = candle_core::Result<T>;

/// Which column belongs to each distance between `t_q` queries and `t_k` keys.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    t_q: usize,
    t_k: usize,
    /// The column for key `j` and query `i` is at `j + (t_q - 1 - i)`; `t_q + t_k - 1` in all.
    columns: Arc<[u32]>,
    /// Whether they count up from 0, one per distance.
    is_identity: bool,
}

impl Columns {
    /// Takes `column` of each distance (key minus query), with the first query at position `start_pos`.
    pub(crate) fn new(t_q: usize, t_k: usize, start_pos: i64, column: impl Fn(i64) -> u32) -> Result<Self> {
        fits("distances", &[n_distances(t_q, t_k)], size_of::<u32>())?;
        let columns: Arc<[u32]> = distances(t_q, t_k, start_pos).map(column).collect();
        let is_identity = columns.iter().enumerate().all(|(i, &column)| column as usize == i);
        Ok(Self { t_q, t_k, columns, is_identity })
    }

    /// Takes a column of its own for each distance, in the order of [`distances`].
    pub(crate) fn each(t_q: usize, t_k: usize) -> Result<Self> {
        let n = fits("distances", &[n_distances(t_q, t_k)], size_of::<u32>())?;
        let too_many = |_| Error::TooLarge { what: "distances", dims: vec![n], element_bytes: size_of::<u32>() };
        let n = u32::try_from(n).map_err(too_many)?;
        Ok(Self { t_q, t_k, columns: (0..n).collect(), is_identity: true })
    }

    /// Checks that all columns are below `n_columns`, as the kernels rely on.
    fn check(&self, n_columns: usize) -> Result<()> {
        match self.columns.iter().find(|&&column| column as usize >= n_columns) {
            Some(column) => {
                let what = format!("a distance has column {column}, but there are {n_columns} columns");
                Err(candle_core::Error::Msg(what).bt().into())
            }
            None => Ok(()),
        }
    }
}

fn n_distances(t_q: usize, t_k: usize) -> usize {
    t_q.saturating_add(t_k).saturating_sub(1)
}

/// Returns every distance (key minus query) between `t_q` queries from `start_pos` on and `t_k` keys from 0 on,
/// ascending.
pub(crate) fn distances(t_q: usize, t_k: usize, start_pos: i64) -> Range<i64> {
    let least = 1 - start_pos.saturating_add_unsigned(t_q as u64);
    least..least + n_distances(t_q, t_k) as i64
}

/// Computes `out[.., i, j] = x[.., i, column of the distance from query i to key j]`.
///
/// # Shapes
/// - `x`: `[.., T_q, N]`, or `[.., 1, N]` if all queries share a row; every column is below N
/// - returns: `[.., T_q, T_k]`
pub(crate) fn by_distance(x: &Tensor, columns: Columns) -> Result<Tensor> {
    let Columns { t_q, t_k, .. } = columns;
    let shape = || Error::ShapeMismatch {
        what: "x",
        got: x.shape().clone(),
        expected: format!("rows for 1 or {t_q} queries, and a column for each distance"),
    };
    let Some((outer, &[n_rows, n_columns])) = x.dims().split_last_chunk::<2>() else { return Err(shape()) };
    let dims: Vec<usize> = outer.iter().copied().chain([t_q, t_k]).collect();
    if t_q == 0 || t_k == 0 {
        return Ok(Tensor::zeros(dims, x.dtype(), x.device())?);
    }
    copy_fits("x", x)?;
    fits_on(x.device(), "values by distance", &dims, x.dtype().size_in_bytes())?;
    columns.check(n_columns)?;
    if n_rows != t_q && n_rows != 1 {
        return Err(shape());
    }
    if columns.is_identity && t_q == 1 && n_columns == t_k {
        return Ok(x.reshape(dims)?); // one query: its row as it is
    }
    if !x.device().is_cpu() {
        return reference(x, &columns);
    }
    let n_matrices: usize = outer.iter().product();
    let x = x.contiguous()?.reshape((n_matrices, n_rows, n_columns))?;
    let out = if x.track_op() { x.apply_op1(columns)? } else { x.apply_op1_no_bwd(&columns)? };
    Ok(out.reshape(dims)?)
}

/// Computes `out[.., i, n] = Σ x[.., i, j]` over the keys j whose distance from query i has column n: the transpose of
/// [`by_distance`].
///
/// # Shapes
/// - `x`: `[.., T_q, T_k]`
/// - returns: `[.., T_q, n_columns]`
pub(crate) fn sum_by_distance(x: &Tensor, columns: Columns, n_columns: usize) -> Result<Tensor> {
    let Columns { t_q, t_k, .. } = columns;
    let Some((outer, &[rows, keys])) = x.dims().split_last_chunk::<2>().filter(|(_, last)| **last == [t_q, t_k]) else {
        let expected = format!("[.., {t_q}, {t_k}]");
        return Err(Error::ShapeMismatch { what: "attention weights", got: x.shape().clone(), expected });
    };
    let dims: Vec<usize> = outer.iter().copied().chain([t_q, n_columns]).collect();
    if t_q == 0 || t_k == 0 {
        return Ok(Tensor::zeros(dims, x.dtype(), x.device())?);
    }
    copy_fits("attention weights", x)?;
    fits_on(x.device(), "sums by distance", &dims, x.dtype().size_in_bytes())?;
    columns.check(n_columns)?;
    let n_matrices: usize = outer.iter().product();
    let x = x.contiguous()?.reshape((n_matrices, rows, keys))?;
    let op = Gathered { columns, n_rows: t_q, n_columns };
    let sums = match (x.device().is_cpu(), x.track_op()) {
        (false, _) => op.reference(&x)?,
        (true, true) => x.apply_op1(op)?,
        (true, false) => x.apply_op1_no_bwd(&op)?,
    };
    Ok(sums.reshape(dims)?)
}

/// Computes [`by_distance`] in plain Candle operations, by the relative shift of Transformer-XL.
pub(super) fn reference(x: &Tensor, columns: &Columns) -> Result<Tensor> {
    let &Columns { t_q, t_k, .. } = columns;
    let (n, n_rows) = (n_distances(t_q, t_k), x.dim(D::Minus2)?);
    let ids = Tensor::from_slice(&columns.columns, n, x.device())?;
    let outer = x.dims().split_last_chunk::<2>().map_or(vec![], |(outer, _)| outer.to_vec());
    let n_matrices: usize = outer.iter().product();
    let x = x.contiguous()?.index_select(&ids, D::Minus1)?.reshape((n_matrices, n_rows, n))?;
    let dims: Vec<usize> = outer.into_iter().chain([t_q, t_k]).collect();
    if t_q == 1 {
        return Ok(x.reshape(dims)?);
    }
    // In rows that are one shorter, each row begins one further to the left.
    let flat = x.broadcast_as((n_matrices, t_q, n))?.reshape((n_matrices, t_q * n))?;
    let shifted = flat.narrow(1, t_q - 1, t_q * (n - 1))?.reshape((n_matrices, t_q, n - 1))?;
    Ok(shifted.narrow(2, 0, t_k)?.contiguous()?.reshape(dims)?)
}

impl CustomOp1 for Columns {
    fn name(&self) -> &'static str {
        "by-distance"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let (n_matrices, n_rows, n_columns) = layout.shape().dims3()?;
        by_dtype!(storage, E => {
            let x = slice::<E>(storage, layout)?;
            written(n_matrices * self.t_q * self.t_k, &mut |out| self.lay_out::<E>(out, x, n_rows, n_columns))
        })
        .map(|storage| (storage, (n_matrices, self.t_q, self.t_k).into()))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> CandleResult<Option<Tensor>> {
        let (_, n_rows, n_columns) = arg.dims3()?;
        let op = Gathered { columns: self.clone(), n_rows, n_columns };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&op)?))
    }
}

impl Columns {
    /// Returns the columns of query `i`, one per key.
    #[inline(always)]
    fn of(&self, i: usize) -> &[u32] {
        let first = self.t_q - 1 - i;
        &self.columns[first..first + self.t_k]
    }

    fn lay_out<E: Element>(
        &self,
        out: &mut [MaybeUninit<E>],
        x: &[E],
        n_rows: usize,
        n_columns: usize,
    ) -> Result<(), Outside> {
        let n_bytes = size_of_val(out);
        // What several queries share is looked up once per distance. Every output row is then a piece of the result.
        let n = self.columns.len();
        let mut expanded: Vec<E> = Vec::new();
        if n_rows == 1 && self.t_q > 1 && !self.is_identity {
            expanded.reserve_exact(x.len() / n_columns * n);
            for x in x.chunks_exact(n_columns) {
                expanded.extend(self.columns.iter().map(|&column| x[column as usize]));
            }
        }
        let (x, width) = if expanded.is_empty() { (x, n_columns) } else { (&expanded[..], n) };
        let in_pieces = self.is_identity || !expanded.is_empty();
        let n_out = out.len() / self.t_k.max(1);
        let out = Out::new(out, self.t_k);
        in_parallel(n_out, n_bytes, &|range| {
            // From the end, as in the rotation: the system clears new memory faster.
            for row in range.rev() {
                let (matrix, i) = (row / self.t_q, row % self.t_q);
                let from = if n_rows == 1 { matrix } else { row };
                let from = x.get(from * width..(from + 1) * width).ok_or(Outside)?;
                // SAFETY: the tasks' ranges do not overlap, so this row is this task's alone.
                let to = unsafe { out.row(row) };
                if in_pieces {
                    let first = self.t_q - 1 - i;
                    simd::copy(bytes_of_mut(to), bytes_of(&from[first..first + self.t_k]), &[], out.stream);
                } else {
                    for (to, &column) in to.iter_mut().zip(self.of(i)) {
                        to.write(from[column as usize]);
                    }
                }
            }
            simd::fence(out.stream);
            Ok(())
        })
    }
}

/// [`sum_by_distance`], and the gradient of [`by_distance`]: argument `[M, T_q, T_k]`; out `[M, n_rows, n_columns]`.
struct Gathered {
    columns: Columns,
    n_rows: usize,
    n_columns: usize,
}

impl Gathered {
    /// Computes the same in plain Candle operations: undoes the relative shift, then sums over the columns.
    fn reference(&self, x: &Tensor) -> Result<Tensor> {
        let Columns { t_q, t_k, ref columns, .. } = self.columns;
        let (n_matrices, _, _) = x.dims3()?;
        let n = columns.len();
        let padded = x.pad_with_zeros(2, 0, n - t_k)?;
        let shifted = if t_q == 1 {
            padded
        } else {
            let flat = padded.narrow(2, 0, n - 1)?.reshape((n_matrices, t_q * (n - 1)))?;
            flat.pad_with_zeros(1, t_q - 1, 1)?.reshape((n_matrices, t_q, n))?
        };
        let ids = Tensor::from_slice(columns, n, x.device())?;
        let zeros = Tensor::zeros((n_matrices, t_q, self.n_columns), x.dtype(), x.device())?;
        Ok(zeros.index_add(&ids, &shifted.contiguous()?, 2)?)
    }
}

impl CustomOp1 for Gathered {
    fn name(&self) -> &'static str {
        "sum-by-distance"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let (n_matrices, t_q, t_k) = layout.shape().dims3()?;
        let (n_rows, n_columns) = (self.n_rows, self.n_columns);
        by_dtype!(storage, E => {
            let grad = slice::<E>(storage, layout)?;
            let rows_each = t_q / n_rows; // all queries for a row that they share, or one
            let mut sums = zeros::<E>(n_matrices * n_rows * n_columns)?;
            let parts = grad.chunks(rows_each * t_k).zip(sums.chunks_mut(n_columns));
            each_in_parallel(parts, &|row, (grad, sums)| self.sum::<E>(grad, row % n_rows, sums));
            Ok(<E as candle_core::WithDType>::to_cpu_storage_owned(sums))
        })
        .map(|storage| (storage, (n_matrices, n_rows, n_columns).into()))
    }

    fn bwd(&self, _arg: &Tensor, _res: &Tensor, grad: &Tensor) -> CandleResult<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&self.columns)?))
    }
}

impl Gathered {
    /// Writes the sums for row `row` of the argument. Those of one distance come first, so that sums stay short.
    fn sum<E: Element>(&self, grad: &[E], row: usize, sums: &mut [E]) {
        let columns = &self.columns;
        let mut by_column = vec![<E::Wide as Default>::default(); self.n_columns];
        if self.n_rows == 1 {
            let mut by_distance = vec![<E::Wide as Default>::default(); columns.columns.len()];
            for (i, grad) in grad.chunks_exact(columns.t_k).enumerate() {
                let first = columns.t_q - 1 - i;
                simd::accumulate(&mut by_distance[first..first + columns.t_k], grad);
            }
            for (&column, sum) in columns.columns.iter().zip(by_distance) {
                by_column[column as usize] += sum;
            }
        } else {
            for (&column, value) in columns.of(row).iter().zip(grad) {
                by_column[column as usize] += value.widen();
            }
        }
        sums.iter_mut().zip(by_column).for_each(|(to, sum)| *to = E::narrow(sum));
    }
}
