//! `Tensor.normal_`: Box-Muller as PyTorch 2.15 does it on x86-64 with AVX2.
//!
//! Tensors below 16 elements use f64 and libm. Larger ones use f32 in blocks of 16, with the single-precision
//! logarithm, sine and cosine of the Cephes library (Stephen L. Moshier). The block path needs only `+ - * sqrt` and a
//! fused multiply-add, so its bits are the same on every machine.

use super::mt19937::Mt19937;
use super::{Generator, GeneratorState};
use crate::error::{Result, RngError};
use std::f64::consts::PI;

/// PyTorch's block: 8 radii in the first half, 8 angles in the second.
const BLOCK: usize = 16;
/// Elements drawn and transformed at a time: 16 KiB stay in the first-level cache.
const SPAN: usize = 256 * BLOCK;

impl Generator {
    /// Fills `out` as `normal_(mean, std)` fills a contiguous f32 tensor.
    ///
    /// Below 16 elements values are drawn in pairs of four words each, and an odd count leaves its second value for the
    /// next small call. From 16 on each element takes one word, and an incomplete last block takes 16 more.
    ///
    /// ```
    /// # use candle_gpt_input::rng::Generator;
    /// let mut out = [0.0; 3];
    /// Generator::manual_seed(123).normal_f32(&mut out, 0.0, 1.0)?;
    /// assert_eq!(format!("{out:.4?}"), "[-0.1115, 0.1204, -0.3696]");
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`RngError::StandardDeviation`] unless `std` is 0 or greater.
    #[doc(alias = "normal_", alias = "torch.randn", alias = "nn.init.normal_")]
    pub fn normal_f32(&self, out: &mut [f32], mean: f64, std: f64) -> Result<()> {
        self.normal_with(out, mean, std, Mt19937::fill_unit_f32)
    }

    /// Fills `out` with the values that `normal_(mean, std)` gives a contiguous bf16 or f16 tensor before the last
    /// rounding. Round each value once.
    ///
    /// The draws differ from those of [`normal_f32`](Self::normal_f32) if `n >= 16` and `n % 16 != 0`: the values that
    /// the tail replaces are not drawn first. Matches PyTorch 2.15; older versions computed in the half type itself.
    ///
    /// ```
    /// # use candle_gpt_input::rng::Generator;
    /// let (mut half, mut single) = ([0.0; 32], [0.0; 32]);
    /// Generator::manual_seed(123).normal_half(&mut half, 0.0, 1.0)?;
    /// Generator::manual_seed(123).normal_f32(&mut single, 0.0, 1.0)?;
    /// assert_eq!(half, single); // 32 is a multiple of 16
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`RngError::StandardDeviation`] unless `std` is 0 or greater.
    pub fn normal_half(&self, out: &mut [f32], mean: f64, std: f64) -> Result<()> {
        self.normal_with(out, mean, std, |_, _| ())
    }

    /// Fills `out`. `draw_rest` decides what happens to the `n % 16` values after the last whole block before the tail
    /// is drawn over them.
    fn normal_with(
        &self,
        out: &mut [f32],
        mean: f64,
        std: f64,
        draw_rest: impl Fn(&mut Mt19937, &mut [f32]),
    ) -> Result<()> {
        check_std(std)?;
        let mut state = self.lock();
        let n = out.len();
        if n < BLOCK {
            for value in out {
                *value = state.next_normal(mean, std) as f32;
            }
            return Ok(());
        }
        let engine = &mut state.engine;
        let (mean, std) = (mean as f32, std as f32);
        let (blocks, rest) = out.split_at_mut(n - n % BLOCK);
        for span in blocks.chunks_mut(SPAN) {
            engine.fill_unit_f32(span);
            box_muller(span, mean, std);
        }
        if !rest.is_empty() {
            draw_rest(engine, rest);
            let tail = &mut out[n - BLOCK..];
            engine.fill_unit_f32(tail);
            box_muller(tail, mean, std);
        }
        Ok(())
    }

    /// Fills `out` as `normal_(mean, std)` fills a contiguous f64 tensor.
    ///
    /// Below 16 elements it draws as [`normal_f32`](Self::normal_f32) does. From 16 on each element takes two words,
    /// and an incomplete last block takes 32 more.
    ///
    /// ```
    /// # use candle_gpt_input::rng::Generator;
    /// let mut out = [0.0; 3];
    /// Generator::manual_seed(123).normal_f64(&mut out, 0.0, 1.0)?;
    /// assert_eq!(format!("{out:.4?}"), "[-0.1115, 0.1204, -0.3696]");
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`RngError::StandardDeviation`] unless `std` is 0 or greater.
    pub fn normal_f64(&self, out: &mut [f64], mean: f64, std: f64) -> Result<()> {
        check_std(std)?;
        let mut state = self.lock();
        let n = out.len();
        if n < BLOCK {
            out.fill_with(|| state.next_normal(mean, std));
            return Ok(());
        }
        let engine = &mut state.engine;
        out.fill_with(|| engine.unit_f64());
        for block in out.chunks_exact_mut(BLOCK) {
            box_muller_f64(block, mean, std);
        }
        if !n.is_multiple_of(BLOCK) {
            let tail = &mut out[n - BLOCK..];
            tail.fill_with(|| engine.unit_f64());
            box_muller_f64(tail, mean, std);
        }
        Ok(())
    }
}

impl GeneratorState {
    /// Draws one value of a small tensor. Values come in pairs, of which the second waits here.
    fn next_normal(&mut self, mean: f64, std: f64) -> f64 {
        let z = self.cached_normal.take().unwrap_or_else(|| {
            let theta = 2.0 * PI * self.engine.unit_f64();
            let radius = (-2.0 * (-self.engine.unit_f64()).ln_1p()).sqrt();
            self.cached_normal = Some(radius * theta.sin());
            radius * theta.cos()
        });
        z.mul_add(std, mean)
    }
}

fn check_std(std: f64) -> Result<(), RngError> {
    if std >= 0.0 { Ok(()) } else { Err(RngError::StandardDeviation { std }) }
}

fn box_muller_f64(block: &mut [f64], mean: f64, std: f64) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (a, b) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * (1.0 - *a).ln()).sqrt();
        let theta = 2.0 * PI * *b;
        *a = (radius * theta.cos()).mul_add(std, mean);
        *b = (radius * theta.sin()).mul_add(std, mean);
    }
}

/// Turns the uniforms of each whole block of `out` into normals.
fn box_muller(out: &mut [f32], mean: f32, std: f32) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: `box_muller_avx2` only requires AVX2 and FMA, which the line above has found.
        return unsafe { box_muller_avx2(out, mean, std) };
    }
    box_muller_portable(out, mean, std);
}

/// Runs the portable loop, compiled for wider registers: one source, so the bits cannot differ.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn box_muller_avx2(out: &mut [f32], mean: f32, std: f32) {
    box_muller_portable(out, mean, std);
}

#[inline(always)]
fn box_muller_portable(out: &mut [f32], mean: f32, std: f32) {
    let (blocks, _) = out.as_chunks_mut::<BLOCK>();
    for block in blocks {
        let (radii, angles) = block.split_at_mut(BLOCK / 2);
        for (a, b) in radii.iter_mut().zip(angles) {
            let radius = (-2.0 * ln(1.0 - *a)).sqrt();
            let (sin, cos) = sin_cos(TWO_PI * *b);
            *a = (radius * cos).mul_add(std, mean);
            *b = (radius * sin).mul_add(std, mean);
        }
    }
}

const TWO_PI: f32 = 2.0 * std::f32::consts::PI;

/// Computes Cephes `logf` for 0 < x <= 1, fused where gcc fuses PyTorch's.
#[allow(clippy::excessive_precision, reason = "the constants as Cephes prints them")]
#[inline(always)]
fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let e = ((bits >> 23) as i32 - 126) as f32;
    let m = f32::from_bits((bits & 0x007F_FFFF) | 0x3F00_0000);
    let (e, m) = if m < std::f32::consts::FRAC_1_SQRT_2 { (e - 1.0, (m - 1.0) + m) } else { (e, m - 1.0) };
    let z = m * m;
    let y = 7.0376836292E-2_f32
        .mul_add(m, -1.1514610310E-1)
        .mul_add(m, 1.1676998740E-1)
        .mul_add(m, -1.2420140846E-1)
        .mul_add(m, 1.4249322787E-1)
        .mul_add(m, -1.6668057665E-1)
        .mul_add(m, 2.0000714765E-1)
        .mul_add(m, -2.4999993993E-1)
        .mul_add(m, 3.3333331174E-1);
    let y = (y * m).mul_add(z, e * -2.12194440E-4) - 0.5 * z;
    e.mul_add(0.693359375, m + y)
}

/// Computes Cephes `sinf` and `cosf` for x >= 0, fused where gcc fuses PyTorch's.
#[allow(clippy::excessive_precision, reason = "the constants as Cephes prints them")]
#[inline(always)]
fn sin_cos(x: f32) -> (f32, f32) {
    // The nearest even multiple of pi/4, subtracted in three parts.
    let octant = ((x * 1.27323954473516) as i32 + 1) & !1;
    let j = octant as f32;
    let t = j.mul_add(-0.78515625, x);
    let t = j.mul_add(-2.4187564849853515625E-4, t);
    let t = j.mul_add(-3.77489497744594108E-8, t);
    let z = t * t;

    let c = 2.443315711809948E-5_f32.mul_add(z, -1.388731625493765E-3).mul_add(z, 4.166664568298827E-2);
    let c = (c * z).mul_add(z, -(0.5 * z)) + 1.0;
    let s = (-1.9515295891E-4_f32).mul_add(z, 8.3321608736E-3).mul_add(z, -1.6666654611E-1);
    let s = (s * z).mul_add(t, t);

    let (sin, cos) = if octant & 2 == 0 { (s, c) } else { (c, s) };
    let sin_sign = (octant as u32 & 4) << 29;
    let cos_sign = (!(octant - 2) as u32 & 4) << 29;
    (f32::from_bits(sin.to_bits() ^ sin_sign), f32::from_bits(cos.to_bits() ^ cos_sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With AVX2 and FMA this compares the two compilations, otherwise one with itself.
    #[test]
    fn wide_and_portable_loops_agree() {
        // Where a branch or a rounding could go the other way: both ends of the range, each eighth of a turn, and a
        // neighbour on either side.
        let ulp = 1.0 / (1 << 24) as f32;
        let mut edges = vec![0.0, ulp, 1.0 - ulp, 1.0 - std::f32::consts::FRAC_1_SQRT_2];
        for k in 1..8 {
            let turn = k as f32 / 8.0;
            edges.extend([turn - ulp, turn, turn + ulp]);
        }
        let mut uniforms = Vec::new();
        for &a in &edges {
            for &b in &edges {
                uniforms.extend([a; BLOCK / 2]);
                uniforms.extend([b; BLOCK / 2]);
            }
        }
        for seed in 0..50 {
            let mut drawn = vec![0.0; BLOCK * (1 + seed as usize)];
            Mt19937::new(seed).fill_unit_f32(&mut drawn);
            uniforms.extend(drawn);
        }
        for (mean, std) in [(0.0, 1.0), (0.5, 0.02), (-3.0, 7.5)] {
            let (mut wide, mut portable) = (uniforms.clone(), uniforms.clone());
            box_muller(&mut wide, mean, std);
            box_muller_portable(&mut portable, mean, std);
            let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|x| x.to_bits()).collect() };
            assert_eq!(bits(&wide), bits(&portable), "mean {mean}, std {std}");
            assert!(wide.iter().all(|x| x.is_finite()));
        }
    }
}
