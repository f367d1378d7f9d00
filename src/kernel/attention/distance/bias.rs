//! Biases of attention scores, computed once per distance.

use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{Device, Tensor};

use super::{Columns, by_distance, distances, n_distances};
use crate::error::Result;
use crate::kernel::core::element::{Element, by_dtype};
use crate::kernel::core::simd;
use crate::kernel::core::storage::{on_host, slice, written_two};
use crate::memory::{counted, fits_on};

/// Computes `out[0, h, i, j] = slopes[h] · (j - start_pos - i)`.
///
/// # Shapes
/// - returns: `[1, H, T_q, T_k]`
pub(crate) fn linear_bias(
    slopes: &[f32],
    (t_q, t_k): (usize, usize),
    start_pos: usize,
    device: &Device,
) -> Result<Tensor> {
    let Range { start, end } = distances(t_q, t_k, start_pos as i64);
    let out = laid_out(slopes.len(), (t_q, t_k), device, |head, row| {
        let slope = slopes[head];
        if let (Ok(start), Ok(_)) = (i32::try_from(start), i32::try_from(end)) {
            // The compiler vectorises the conversion of i32.
            for (i, to) in row.iter_mut().enumerate() {
                to.write(slope * (start + i as i32) as f32);
            }
        } else {
            for (i, to) in row.iter_mut().enumerate() {
                to.write(slope * (start + i as i64) as f32);
            }
        }
    });
    Ok(out?)
}

/// Computes `out[0, h, i, j] = table[column of the distance from query i to key j, h]` on the CPU.
///
/// `runs` are columns and how many distances in a row have them, for all [`distances`].
///
/// # Shapes
/// - `table`: `[N, H]`
/// - returns: `[1, H, T_q, T_k]`
pub(crate) fn bias_in_runs(table: &Tensor, runs: &[(usize, usize)], (t_q, t_k): (usize, usize)) -> Result<Tensor> {
    let (n_columns, n_head) = table.dims2()?;
    let n: usize = runs.iter().map(|&(_, n)| n).sum();
    if n != n_distances(t_q, t_k) || runs.iter().any(|&(column, _)| column >= n_columns) {
        let what = format!("runs of {n} distances do not fit {t_q} queries, {t_k} keys and {n_columns} columns");
        return Err(candle_core::Error::Msg(what).bt().into());
    }
    let table = table.contiguous()?;
    let (storage, layout) = table.storage_and_layout();
    Ok(by_dtype!(table, E => {
        let numbers = slice::<E>(on_host(&storage)?, layout)?;
        laid_out(n_head, (t_q, t_k), table.device(), |head, row| {
            simd::fill_runs(row, runs.iter().map(|&(column, n)| (numbers[column * n_head + head], n)));
        })
    })?)
}

/// Lets `write` fill a row per head, with one value per distance, and lays the rows out for all queries.
fn laid_out<E: Element>(
    n_head: usize,
    (t_q, t_k): (usize, usize),
    device: &Device,
    write: impl Fn(usize, &mut [MaybeUninit<E>]),
) -> candle_core::Result<Tensor> {
    fits_on(device, "attention bias", &[n_head, t_q, t_k], size_of::<E>())?;
    if t_q == 0 || t_k == 0 {
        return Tensor::zeros((1, n_head, t_q, t_k), E::DTYPE, device);
    }
    let n = n_distances(t_q, t_k);
    let n_values = counted("values by distance", &[n_head, n], size_of::<E>())?;
    let (values, _) = written_two::<E>(n_values, 0, &mut |rows, _| {
        simd::vectorised(|| {
            for (head, row) in rows.chunks_exact_mut(n).enumerate() {
                write(head, row);
            }
        });
        Ok(())
    })?;
    let rows = Tensor::from_vec(values, (1, n_head, 1, n), device)?;
    if t_q == 1 { Ok(rows) } else { Ok(by_distance(&rows, Columns::each(t_q, t_k)?)?) }
}
