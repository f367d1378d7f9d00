//! Products with tables in the memory of tensors.

use candle_core::{CpuStorage, DType, Layout, Tensor};
use half::{bf16, f16};

use super::columns::product_by_columns;
use super::kind::Kind;
use super::panel::Hidden;
use super::rows::Rows;
use super::sweep::{Take, product, reaches};
use crate::kernel::core::element::{Element, bytes_of};
use crate::kernel::core::parallel::Out;
use crate::kernel::core::simd::vectorised;
use crate::kernel::core::storage::{slice, written};

type CandleResult<T> = candle_core::Result<T>;
pub(in super::super) type Memory<'a> = (&'a CpuStorage, &'a Layout);

/// Returns `hidden · tableᵀ + bias` for `hidden` `[N, C]`, `table` `[V, C]` and `bias` `[V]`, each sum rounded once.
///
/// The sums of a table that is itself a transposed one run down its columns. `None` for other dtypes than f32, f16 and
/// bf16, for tables contiguous in no dimension, and for more rows than are worth it.
pub(in super::super) fn dense(
    hidden: Memory<'_>,
    table: Memory<'_>,
    bias: Option<Memory<'_>>,
) -> CandleResult<Option<CpuStorage>> {
    match hidden.0 {
        CpuStorage::F32(_) => typed::<f32>(hidden, table, bias),
        CpuStorage::F16(_) => typed::<f16>(hidden, table, bias),
        CpuStorage::BF16(_) => typed::<bf16>(hidden, table, bias),
        _ => Ok(None),
    }
}

/// Returns whether [`dense`] multiplies tensors of these dtypes and shapes.
pub(in super::super) fn is_multiplied(hidden: &Tensor, table: &Tensor) -> bool {
    let is_known = matches!(hidden.dtype(), DType::F32 | DType::F16 | DType::BF16);
    is_known && hidden.dims().first().is_some_and(|&n| reaches(n)) && table.stride().contains(&1)
}

fn typed<E: Element<Wide = f32> + Kind>(
    hidden: Memory<'_>,
    table: Memory<'_>,
    bias: Option<Memory<'_>>,
) -> CandleResult<Option<CpuStorage>> {
    let Some(hidden) = hidden_of::<E>(hidden)? else { return Ok(None) };
    let bias = bias.map(|(storage, layout)| slice::<E>(storage, layout)).transpose()?;
    let (n_columns, _) = table.1.shape().dims2()?;
    let by = |multiply: &dyn Fn(Take<'_>)| products((hidden.n_rows, n_columns), bias, multiply).map(Some);
    if let Some(rows) = rows_of::<E>(table.0, table.1)? {
        return by(&|take| product::<E, E>(&hidden, &rows, take));
    }
    match rows_of::<E>(table.0, &table.1.transpose(0, 1)?)? {
        Some(rows) => by(&|take| product_by_columns::<E, E>(&hidden, &rows, take)),
        None => Ok(None),
    }
}

/// Returns the products `[N, V]` that `multiply` finds, plus a bias `[V]`, in new memory.
pub(super) fn products<E: Element<Wide = f32>>(
    (n_rows, n_columns): (usize, usize),
    bias: Option<&[E]>,
    multiply: &dyn Fn(Take<'_>),
) -> CandleResult<CpuStorage> {
    written(n_rows * n_columns, &mut |out: &mut [_]| {
        let out = Out::new(out, n_columns);
        multiply(&|row, first, sums| {
            // SAFETY: each product is handed over once.
            let part = unsafe { out.part(row, first..first + sums.len()) };
            vectorised(|| match bias {
                Some(bias) => {
                    let sums = sums.iter().zip(&bias[first..]).map(|(&sum, bias)| sum + bias.widen());
                    part.iter_mut().zip(sums).for_each(|(to, sum)| _ = to.write(E::narrow(sum)));
                }
                None => part.iter_mut().zip(sums).for_each(|(to, &sum)| _ = to.write(E::narrow(sum))),
            });
        });
        Ok(())
    })
}

/// Returns the operands of [`product`], if they have elements `E` and it is to multiply them.
pub(in super::super) fn operands<'a, E: Element>(
    hidden: Memory<'a>,
    table: Memory<'a>,
) -> CandleResult<Option<(Hidden<'a, E>, Rows<'a>)>> {
    Ok(hidden_of::<E>(hidden)?.zip(rows_of::<E>(table.0, table.1)?))
}

pub(super) fn hidden_of<'a, E: Element>((storage, layout): Memory<'a>) -> CandleResult<Option<Hidden<'a, E>>> {
    let (n_rows, n_columns) = layout.shape().dims2()?;
    let &[by_row, by_column] = layout.stride() else { return Ok(None) };
    let values = &E::cpu_storage_as_slice(storage)?[layout.start_offset()..];
    Ok(reaches(n_rows).then_some(Hidden { values, n_rows, n_columns, strides: (by_row, by_column) }))
}

fn rows_of<'a, E: Element>(storage: &'a CpuStorage, layout: &Layout) -> CandleResult<Option<Rows<'a>>> {
    let (n_rows, n_columns) = layout.shape().dims2()?;
    let &[stride, by_column] = layout.stride() else { return Ok(None) };
    if by_column != 1 && n_columns != 1 {
        return Ok(None);
    }
    let bytes = bytes_of(&E::cpu_storage_as_slice(storage)?[layout.start_offset()..]);
    Ok(Rows::new(bytes, n_rows, n_columns * size_of::<E>(), stride * size_of::<E>()))
}
