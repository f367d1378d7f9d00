//! The two passes over a row of logits: its maximum, and the exponentials with their sum.
//!
//! One source, also compiled for AVX2 with fused multiply-add and chosen at run time. In f32 the exponential is the
//! polynomial of the Cephes library (`expf`, Stephen L. Moshier) after Cody and Waite's reduction. It is within 2 units
//! in the last place of the exact value, and 0 where that is below the smallest normal value (`x < -87.33`).

/// Values summed at a time in f32 before they go into the f64 sum; also the number of parallel lanes times their depth.
const SPAN: usize = 256;
const LANES: usize = 32;

/// Below this the exponential is smaller than the smallest normal f32.
const UNDERFLOW: f32 = -87.336_54;

/// Whether a multiply-add is one instruction in code that is compiled here without further checks.
pub(super) const FUSED_HERE: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// Returns whether the code compiled for AVX2 and FMA can run.
#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Returns the largest value, or -∞ if there is none. Skips NaN.
pub(super) fn row_max_f32(row: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: `row_max_avx2` only requires AVX2 and FMA, which `has_avx2` has found.
        return unsafe { row_max_avx2(row) };
    }
    row_max(row)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn row_max_avx2(row: &[f32]) -> f32 {
    row_max(row)
}

#[inline(always)]
fn row_max(row: &[f32]) -> f32 {
    let (blocks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max })
}

/// Replaces each `x` by `exp(x - shift)` and returns the sum. `shift` is the row's maximum.
pub(super) fn exp_row_f32(row: &mut [f32], shift: f32) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: `exp_row_avx2` only requires AVX2 and FMA, which `has_avx2` has found.
        return unsafe { exp_row_avx2(row, shift) };
    }
    exp_row::<FUSED_HERE>(row, shift)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn exp_row_avx2(row: &mut [f32], shift: f32) -> f64 {
    exp_row::<true>(row, shift)
}

#[inline(always)]
fn exp_row<const FUSED: bool>(row: &mut [f32], shift: f32) -> f64 {
    let mut sum = 0.0;
    for span in row.chunks_mut(SPAN) {
        let (blocks, rest) = span.as_chunks_mut::<LANES>();
        let mut lanes = [0.0; LANES];
        for block in blocks {
            for (lane, x) in lanes.iter_mut().zip(block) {
                *x = exp::<FUSED>(*x - shift);
                *lane += *x;
            }
        }
        for x in &mut *rest {
            *x = exp::<FUSED>(*x - shift);
        }
        sum += lanes.iter().chain(&*rest).map(|&x| f64::from(x)).sum::<f64>();
    }
    sum
}

/// Computes `exp(x)` for `x <= 0`; NaN stays NaN.
#[allow(clippy::excessive_precision, reason = "the constants as Cephes prints them")]
#[inline(always)]
fn exp<const FUSED: bool>(x: f32) -> f32 {
    /// 1.5 · 2^23: adding it rounds to a whole number, which then stands in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    let fma = mul_add::<FUSED>;
    let rounded = fma(x, std::f32::consts::LOG2_E, ROUNDER);
    let power = rounded - ROUNDER;
    let r = fma(power, 2.12194440e-4, fma(power, -0.693359375, x));
    let p = 1.9875691500E-4;
    let p = fma(p, r, 1.3981999507E-3);
    let p = fma(p, r, 8.3334519073E-3);
    let p = fma(p, r, 4.1665795894E-2);
    let p = fma(p, r, 1.6666665459E-1);
    let p = fma(p, r, 5.0000001201E-1);
    let p = fma(p, r * r, r) + 1.0;
    // 2^power: `power` is -126 to 0 wherever the result is used.
    let scale = f32::from_bits(rounded.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127) << 23);
    if x < UNDERFLOW { 0.0 } else { p * scale }
}

#[inline(always)]
pub(super) fn mul_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

pub(super) fn row_max_f64(row: &[f64]) -> f64 {
    row.iter().fold(f64::NEG_INFINITY, |max, &x| if x > max { x } else { max })
}

/// Does as [`exp_row_f32`], with the standard library's exponential.
pub(super) fn exp_row_f64(row: &mut [f64], shift: f64) -> f64 {
    row.iter_mut().fold(0.0, |sum, x| {
        *x = (*x - shift).exp();
        sum + *x
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns every 2^10th f32 from -0 down to -∞, and those around each multiple of ln 2 / 2, where the reduction
    /// changes over.
    fn arguments() -> Vec<f32> {
        let mut found: Vec<f32> = (0x8000_0000u32..=0xFF80_0000).step_by(1 << 10).map(f32::from_bits).collect();
        for k in 0..256 {
            let edge = (-f64::from(k) * std::f64::consts::LN_2 / 2.0) as f32;
            found.extend([edge.next_down(), edge, edge.next_up().min(0.0)]);
        }
        found
    }

    #[test]
    fn the_exponential_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for x in arguments() {
            let exact = f64::from(x).exp();
            for y in [exp::<true>(x), exp::<false>(x)] {
                if exact < f64::from(f32::MIN_POSITIVE) * (1.0 + 1e-5) {
                    assert!(y == 0.0 || exact > f64::from(f32::MIN_POSITIVE) * (1.0 - 1e-5), "exp({x}) = {y}");
                    continue;
                }
                let ulp =
                    f64::from((exact as f32).next_up() - (exact as f32)).max(f64::from(f32::EPSILON) / 2.0 * exact);
                worst = worst.max((f64::from(y) - exact).abs() / ulp);
            }
        }
        assert!(worst < 2.0, "{worst} units in the last place");
        assert_eq!(exp::<true>(0.0), 1.0);
        assert!(exp::<true>(f32::NAN).is_nan());
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
    }

    /// Every length around the lanes and spans, against plain loops.
    #[test]
    fn rows_of_any_length() {
        for n in (0..70).chain([255, 256, 257, 300, 511, 512, 1000]) {
            let row: Vec<f32> = (0..n).map(|i| ((i * 7919) % 1009) as f32 / 50.0 - 9.0).collect();
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(row_max_f32(&row), max);
            let mut out = row.clone();
            let sum = exp_row_f32(&mut out, max);
            let exact: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
            assert!((sum - exact).abs() <= 1e-6 * exact, "{n}: {sum} against {exact}");
            for (&x, &y) in row.iter().zip(&out) {
                let exact = f64::from(x - max).exp();
                assert!((f64::from(y) - exact).abs() <= 3e-7 * exact);
            }
        }
    }

    #[test]
    fn a_nan_reaches_the_sum() {
        for at in [0, 31, 32, 299] {
            let mut row = vec![0.5f32; 300];
            row[at] = f32::NAN;
            assert!(exp_row_f32(&mut row, 1.0).is_nan());
        }
    }
}
