//! Products with tables in the memory of tensors.

use candle_core::{CpuStorage, Layout};
use half::{bf16, f16};

use super::kind::Kind;
use super::panel::Hidden;
use super::rows::Rows;
use super::sweep::{product, reaches};
use crate::kernel::core::element::{Element, bytes_of};
use crate::kernel::core::parallel::Out;
use crate::kernel::core::simd::vectorised;
use crate::kernel::core::storage::written;

type CandleResult<T> = candle_core::Result<T>;
pub(in super::super) type Memory<'a> = (&'a CpuStorage, &'a Layout);

/// Returns `hidden · tableᵀ` for `hidden` `[N, C]` and `table` `[V, C]`, each sum rounded once. `None` for other dtypes
/// than f32, f16 and bf16, for tables whose rows are not contiguous, and for more rows than are worth it.
pub(in super::super) fn dense(hidden: Memory<'_>, table: Memory<'_>) -> CandleResult<Option<CpuStorage>> {
    match hidden.0 {
        CpuStorage::F32(_) => typed::<f32>(hidden, table),
        CpuStorage::F16(_) => typed::<f16>(hidden, table),
        CpuStorage::BF16(_) => typed::<bf16>(hidden, table),
        _ => Ok(None),
    }
}

fn typed<E: Element<Wide = f32> + Kind>(hidden: Memory<'_>, table: Memory<'_>) -> CandleResult<Option<CpuStorage>> {
    let Some((hidden, rows)) = operands::<E>(hidden, table)? else { return Ok(None) };
    let product = written(hidden.n_rows * rows.n_rows, &mut |out: &mut [_]| {
        let out = Out::new(out, rows.n_rows);
        product::<E, E>(&hidden, &rows, &|row, first, sums| {
            // SAFETY: each product is handed over once.
            let part = unsafe { out.part(row, first..first + sums.len()) };
            vectorised(|| part.iter_mut().zip(sums).for_each(|(to, &sum)| _ = to.write(E::narrow(sum))));
        });
        Ok(())
    })?;
    Ok(Some(product))
}

/// Returns the operands of [`product`], if they have elements `E` and it is to multiply them.
pub(in super::super) fn operands<'a, E: Element>(
    hidden: Memory<'a>,
    table: Memory<'a>,
) -> CandleResult<Option<(Hidden<'a, E>, Rows<'a>)>> {
    Ok(hidden_of::<E>(hidden)?.zip(rows_of::<E>(table)?))
}

fn hidden_of<'a, E: Element>((storage, layout): Memory<'a>) -> CandleResult<Option<Hidden<'a, E>>> {
    let (n_rows, n_columns) = layout.shape().dims2()?;
    let &[by_row, by_column] = layout.stride() else { return Ok(None) };
    let values = &E::cpu_storage_as_slice(storage)?[layout.start_offset()..];
    Ok(reaches(n_rows).then_some(Hidden { values, n_rows, n_columns, strides: (by_row, by_column) }))
}

fn rows_of<'a, E: Element>((storage, layout): Memory<'a>) -> CandleResult<Option<Rows<'a>>> {
    let (n_rows, n_columns) = layout.shape().dims2()?;
    let &[stride, by_column] = layout.stride() else { return Ok(None) };
    if by_column != 1 && n_columns != 1 {
        return Ok(None);
    }
    let bytes = bytes_of(&E::cpu_storage_as_slice(storage)?[layout.start_offset()..]);
    Ok(Rows::new(bytes, n_rows, n_columns * size_of::<E>(), stride * size_of::<E>()))
}
