//! The types of number that the fused loss computes in, and those that it reads.

use candle_core::{CpuStorage, Tensor, WithDType};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::exp;

/// A type that sums are computed in. Sealed by being private: f32 and f64.
pub(super) trait Real: WithDType + Send + Sync {
    const ZERO: Self;
    const ONE: Self;

    /// The largest value, -∞ if there is none; a NaN may be passed over, [`exp_row`](Self::exp_row) keeps it.
    fn row_max(row: &[Self]) -> Self;

    /// Replaces each `x` by `exp(x - shift)`, for `x <= shift`, and returns the sum.
    fn exp_row(row: &mut [Self], shift: Self) -> f64;

    /// `out += factor * row`
    fn add_scaled(out: &mut [Self], factor: Self, row: &[Self]);

    /// `out = factor * row`
    fn set_scaled(out: &mut [Self], factor: Self, row: &[Self]);
}

macro_rules! real {
    ($t:ty, $row_max:path, $exp_row:path) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;

            fn row_max(row: &[Self]) -> Self {
                $row_max(row)
            }

            fn exp_row(row: &mut [Self], shift: Self) -> f64 {
                $exp_row(row, shift)
            }

            fn add_scaled(out: &mut [Self], factor: Self, row: &[Self]) {
                for (out, x) in out.iter_mut().zip(row) {
                    *out += factor * x;
                }
            }

            fn set_scaled(out: &mut [Self], factor: Self, row: &[Self]) {
                for (out, x) in out.iter_mut().zip(row) {
                    *out = factor * x;
                }
            }
        }
    };
}
real!(f32, exp::row_max_f32, exp::exp_row_f32);
real!(f64, exp::row_max_f64, exp::exp_row_f64);

/// A type that hidden states and tables are stored in.
pub(super) trait Element: WithDType + Send + Sync {
    type Real: Real;

    /// The values in the type they are computed in: themselves, or exact copies in `scratch`.
    fn widen<'a>(values: &'a [Self], scratch: &'a mut Vec<Self::Real>) -> &'a [Self::Real];
}

impl Element for f32 {
    type Real = f32;

    fn widen<'a>(values: &'a [f32], _: &'a mut Vec<f32>) -> &'a [f32] {
        values
    }
}

impl Element for f64 {
    type Real = f64;

    fn widen<'a>(values: &'a [f64], _: &'a mut Vec<f64>) -> &'a [f64] {
        values
    }
}

impl Element for bf16 {
    type Real = f32;

    fn widen<'a>(values: &'a [bf16], scratch: &'a mut Vec<f32>) -> &'a [f32] {
        scratch.clear();
        scratch.extend(values.iter().map(|x| f32::from_bits(u32::from(x.to_bits()) << 16)));
        scratch
    }
}

impl Element for f16 {
    type Real = f32;

    fn widen<'a>(values: &'a [f16], scratch: &'a mut Vec<f32>) -> &'a [f32] {
        scratch.resize(values.len(), 0.0);
        values.convert_to_f32_slice(scratch);
        scratch
    }
}

/// Calls `f` with the values of a contiguous tensor on the CPU.
pub(super) fn with_values<S: Element, R>(tensor: &Tensor, f: impl FnOnce(&[S]) -> R) -> candle_core::Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else {
        return Err(candle_core::Error::Msg("the fused loss runs on the CPU only".to_string()));
    };
    let values = CpuStorage::as_slice::<S>(storage)?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(f(&values[start..end])),
        None => Err(candle_core::Error::RequiresContiguous { op: "fused loss" }),
    }
}
