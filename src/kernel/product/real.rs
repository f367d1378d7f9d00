//! The types that fused passes compute in.

use super::exp;
use crate::kernel::core::element;
use crate::kernel::core::le_bytes::LeBytes;

/// Operations on rows of the type that sums are computed in: f32 or f64.
pub(super) trait Real: element::Real + LeBytes {
    const ZERO: Self;
    const ONE: Self;

    /// Returns the largest value, or -∞ if there is none. It may skip a NaN, which [`exp_row`](Self::exp_row) keeps.
    fn row_max(row: &[Self]) -> Self;

    /// Replaces each `x` by `exp(x - shift)`, for `x <= shift`, and returns the sum.
    fn exp_row(row: &mut [Self], shift: Self) -> f64;

    /// Computes `out += factor * row`.
    fn add_scaled(out: &mut [Self], factor: Self, row: &[Self]);

    /// Computes `out = factor * row`.
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
