//! Tensors for the kernels' tests.

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use crate::error::Result;

/// Returns a table of both signs and many exponents, as a view with rows before and after.
pub(crate) fn table(n_rows: usize, width: usize, dtype: DType, seed: u32) -> Result<Tensor> {
    let value = |i: usize| {
        let bits = (i as u32).wrapping_mul(0x9e37_79b9).wrapping_add(seed);
        f32::from_bits((bits >> 9) | 0x3f00_0000) * [1.0, -1.0, 1e-3, -64.0][bits as usize % 4]
    };
    let values: Vec<f32> = (0..(n_rows + 3) * width).map(value).collect();
    Ok(Tensor::from_vec(values, (n_rows + 3, width), &Device::Cpu)?.to_dtype(dtype)?.narrow(0, 2, n_rows)?)
}

/// Returns a table `[n_rows, width]` that begins `lead` elements into its memory.
#[cfg(any(feature = "cuda", target_os = "linux"))]
pub(crate) fn shifted(n_rows: usize, width: usize, lead: usize, dtype: DType, seed: u32) -> Result<Tensor> {
    let flat = table(lead + n_rows * width, 1, dtype, seed)?.contiguous()?.flatten_all()?;
    // `narrow` after a copy, so that `lead` is all that decides the alignment.
    let flat = flat.force_contiguous()?;
    Ok(flat.narrow(0, lead, n_rows * width)?.reshape((n_rows, width))?)
}

pub(crate) fn bits(tensor: &Tensor) -> Result<Vec<u64>> {
    let flat = tensor.flatten_all()?;
    Ok(match flat.dtype() {
        DType::F32 => flat.to_vec1::<f32>()?.iter().map(|x| u64::from(x.to_bits())).collect(),
        DType::F64 => flat.to_vec1::<f64>()?.iter().map(|x| x.to_bits()).collect(),
        DType::F16 => flat.to_vec1::<f16>()?.iter().map(|x| u64::from(x.to_bits())).collect(),
        _ => flat.to_vec1::<bf16>()?.iter().map(|x| u64::from(x.to_bits())).collect(),
    })
}
