//! Products with tables that stay in their stored form.

use candle_core::quantized::GgmlDType;
use candle_core::{CpuStorage, DType};
use half::{bf16, f16};

use super::blocks::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use super::dense::{Memory, hidden_of, products};
use super::panel::Hidden;
use super::rows::Rows;
use super::sweep::{Product, product};
use crate::kernel::core::element::Element;
use crate::kernel::core::storage::slice;
use crate::rows::{RowType, StoredRows};

type CandleResult<T> = candle_core::Result<T>;
/// A product and its operands.
type Multiplied<'a, E> = (Product<E>, Hidden<'a, E>, Rows<'a>);

/// Returns `hidden · tableᵀ`, plus the bias if there is one, for `hidden` `[N, C]` and a stored table `[V, C]`, each sum
/// rounded once. `None` where [`product_of`] has no way.
pub(in super::super) fn stored(
    hidden: Memory<'_>,
    table: &StoredRows,
    bias: Option<Memory<'_>>,
) -> CandleResult<Option<CpuStorage>> {
    match hidden.0 {
        CpuStorage::F32(_) => typed::<f32>(hidden, table, bias),
        CpuStorage::F16(_) => typed::<f16>(hidden, table, bias),
        CpuStorage::BF16(_) => typed::<bf16>(hidden, table, bias),
        _ => Ok(None),
    }
}

fn typed<E: Element<Wide = f32>>(
    hidden: Memory<'_>,
    table: &StoredRows,
    bias: Option<Memory<'_>>,
) -> CandleResult<Option<CpuStorage>> {
    let Some((product, hidden, rows)) = product_of::<E>(hidden, table)? else { return Ok(None) };
    let bias = bias.map(|(storage, layout)| slice::<E>(storage, layout)).transpose()?;
    products((hidden.n_rows, rows.n_rows), bias, &|take| product(&hidden, &rows, take)).map(Some)
}

/// Returns the product of hidden states with a stored table, and its operands. `None` for rows that are not in memory, for
/// elements that a dense table of the dtype of the hidden states would round, and for more hidden states than are worth
/// it.
///
/// Elements of blocks are in f32, whatever the dtype.
pub(in super::super) fn product_of<'a, E: Element<Wide = f32>>(
    hidden: Memory<'a>,
    table: &'a StoredRows,
) -> CandleResult<Option<Multiplied<'a, E>>> {
    use GgmlDType as Blocks;
    let product: Product<E> = match table.stored {
        RowType::Numbers(dtype) if cfg!(target_endian = "big") || ![dtype, DType::F32].contains(&E::DTYPE) => {
            return Ok(None);
        }
        RowType::Numbers(DType::F32) => product::<f32, E>,
        RowType::Numbers(DType::F16) => product::<f16, E>,
        RowType::Numbers(DType::BF16) => product::<bf16, E>,
        RowType::Blocks(Blocks::Q4_0) => product::<Q4_0, E>,
        RowType::Blocks(Blocks::Q4_1) => product::<Q4_1, E>,
        RowType::Blocks(Blocks::Q5_0) => product::<Q5_0, E>,
        RowType::Blocks(Blocks::Q5_1) => product::<Q5_1, E>,
        RowType::Blocks(Blocks::Q8_0) => product::<Q8_0, E>,
        RowType::Blocks(Blocks::Q2K) => product::<Q2K, E>,
        RowType::Blocks(Blocks::Q3K) => product::<Q3K, E>,
        RowType::Blocks(Blocks::Q4K) => product::<Q4K, E>,
        RowType::Blocks(Blocks::Q5K) => product::<Q5K, E>,
        RowType::Blocks(Blocks::Q6K) => product::<Q6K, E>,
        RowType::Numbers(_) | RowType::Blocks(_) => return Ok(None),
    };
    let Some(hidden) = hidden_of::<E>(hidden)?.filter(|hidden| hidden.n_columns == table.width) else {
        return Ok(None);
    };
    let bytes = table.bytes.here().get(table.start..).unwrap_or_default();
    let n_bytes = table.stored.row_bytes(table.width);
    Ok(Rows::new(bytes, table.n_rows, n_bytes, n_bytes).map(|rows| (product, hidden, rows)))
}
