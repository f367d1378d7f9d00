//! The kernels in plain Candle operations: the fallback on devices without kernels, and the oracle of the tests.

use candle_core::Tensor;

use crate::error::Result;
use crate::kernel::ids::{CheckedIds, Places};

/// Returns rows of `table` `[N, C]`: ids of shape `[..]` give `[.., C]`.
pub(super) fn gather(table: &Tensor, ids: &CheckedIds) -> Result<Tensor> {
    let (_, width) = table.dims2()?;
    let dims: Vec<usize> = ids.dims().iter().copied().chain([width]).collect();
    // Candle launches an empty grid on CUDA and panics on Metal for an empty selection.
    if ids.tensor().elem_count() == 0 && !table.device().is_cpu() {
        return Ok(Tensor::zeros(dims, table.dtype(), table.device())?);
    }
    Ok(table.contiguous()?.index_select(&ids.flat()?, 0)?.reshape(dims)?)
}

/// Returns rows of `wte` for ids `[.., T]` plus rows of `wpe` for their positions: `[.., T, C]`.
pub(super) fn gather_add(wte: &Tensor, ids: &CheckedIds, wpe: &Tensor, places: &Places) -> Result<Tensor> {
    add_rows(&gather(wte, ids)?, &places.rows(wpe, gather)?)
}

/// Returns `x` `[.., T, C]` plus `rows`, which broadcast to it, in the dtype of `x`.
///
/// One rounding in f32 and f64. In half types Candle widens, adds in f32 and rounds once, as PyTorch does
/// (the test `half_sums_round_once` shows it).
pub(crate) fn add_rows(x: &Tensor, rows: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_add(rows)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use half::{bf16, f16};

    use super::add_rows;
    use crate::error::Result;

    /// Every 16-bit pattern against one partner for each high byte (sign and exponent).
    #[test]
    fn half_sums_round_once() -> Result<()> {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let partners: Vec<u16> = (0..256u32).map(|i| (i * 257 + 0x35) as u16).collect();
        let cpu = Device::Cpu;
        for batch in [1usize, 2] {
            for &partner in &partners {
                let dims = (batch, 256, 256);
                let left: Vec<u16> = std::iter::repeat_n(all.clone(), batch).flatten().collect();
                let right = vec![partner; all.len()];
                let as_bf16 = |bits: &[u16]| bits.iter().map(|&b| bf16::from_bits(b)).collect::<Vec<_>>();
                let x = Tensor::from_vec(as_bf16(&left), dims, &cpu)?;
                let rows = Tensor::from_vec(as_bf16(&right), (256, 256), &cpu)?;
                let sums = add_rows(&x, &rows)?.flatten_all()?.to_vec1::<bf16>()?;
                for (&bits, sum) in left.iter().zip(sums) {
                    let exact = bf16::from_bits(bits).to_f32() + bf16::from_bits(partner).to_f32();
                    let expected = bf16::from_f32(exact);
                    // With AVX-512 Candle rounds to bf16 by an instruction that takes subnormals (below 1.2e-38) for
                    // zeros.
                    let is_flushed = exact.is_subnormal() && sum == bf16::ZERO;
                    assert!(
                        sum.to_bits() == expected.to_bits() || (sum.is_nan() && expected.is_nan()) || is_flushed,
                        "bf16 {bits:#06x} + {partner:#06x}: {sum:?}, expected {expected:?}"
                    );
                }
                let as_f16 = |bits: &[u16]| bits.iter().map(|&b| f16::from_bits(b)).collect::<Vec<_>>();
                let x = Tensor::from_vec(as_f16(&left), dims, &cpu)?;
                let rows = Tensor::from_vec(as_f16(&right), (256, 256), &cpu)?;
                let sums = add_rows(&x, &rows)?.flatten_all()?.to_vec1::<f16>()?;
                for (&bits, sum) in left.iter().zip(sums) {
                    let exact = f16::from_bits(bits).to_f32() + f16::from_bits(partner).to_f32();
                    let expected = f16::from_f32(exact);
                    assert!(
                        sum.to_bits() == expected.to_bits() || (sum.is_nan() && expected.is_nan()),
                        "f16 {bits:#06x} + {partner:#06x}: {sum:?}, expected {expected:?}"
                    );
                }
            }
        }
        Ok(())
    }

    #[test]
    fn rows_broadcast_over_the_batch() -> Result<()> {
        let x = Tensor::zeros((2, 3, 4), DType::F32, &Device::Cpu)?;
        let rows = Tensor::arange(0f32, 12f32, &Device::Cpu)?.reshape((3, 4))?;
        let sum = add_rows(&x, &rows)?;
        assert_eq!(sum.get(0)?.to_vec2::<f32>()?, rows.to_vec2::<f32>()?);
        assert_eq!(sum.get(1)?.to_vec2::<f32>()?, rows.to_vec2::<f32>()?);
        Ok(())
    }
}
