//! The case of products with few rows, whose limits are reading the weights once and the multiplications.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use candle_core::{CpuStorage, Storage, Tensor};
use candle_gpt_input::LmHead;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::cases::{Contender, Inputs, contender};

/// Logits of `batch` rows: ours, Candle's product, and a sum over the table's bytes in the place of a copy.
pub fn head(inputs: &Inputs) -> Result<Vec<Contender>> {
    let (wte, hidden) = (inputs.wte.clone(), inputs.hidden.clone());
    let head = LmHead::new(wte.clone())?;
    let mut all = vec![contender("ours", {
        let hidden = hidden.clone();
        move || Ok((None, vec![head.forward(&hidden)?]))
    })?];
    all.push(contender("candle", {
        let wte = wte.clone();
        move || {
            let (n, length, _) = hidden.dims3()?;
            Ok((None, vec![hidden.flatten_to(1)?.matmul(&wte.t()?)?.reshape((n, length, ()))?]))
        }
    })?);
    if wte.device().is_cpu() {
        all.push(reading(vec![wte])?);
    }
    Ok(all)
}

/// Reads every byte of the weights once, on all cores.
fn reading(weights: Vec<Tensor>) -> Result<Contender> {
    contender("copy", move || {
        for weight in &weights {
            let (storage, _) = weight.storage_and_layout();
            match &*storage {
                Storage::Cpu(CpuStorage::F32(values)) => {
                    sum(values, |part| part.iter().fold(0, |sum: u32, x| sum.wrapping_add(x.to_bits())))
                }
                Storage::Cpu(CpuStorage::F16(values)) => sum(values.reinterpret_cast(), sum_of_words),
                Storage::Cpu(CpuStorage::BF16(values)) => sum(values.reinterpret_cast(), sum_of_words),
                _ => anyhow::bail!("no such memory is read"),
            }
        }
        Ok((None, Vec::new()))
    })
}

fn sum_of_words(part: &[u16]) -> u32 {
    u32::from(part.iter().fold(0, |sum: u16, &x| sum.wrapping_add(x)))
}

/// Sums parts of 256 kB and more.
fn sum<T: Sync>(values: &[T], of_part: fn(&[T]) -> u32) {
    let sums = values.par_chunks(1 << 17).map(of_part);
    black_box(sums.reduce(|| 0, u32::wrapping_add));
}

/// Measures the machine's two limits: multiplications and additions in f32, and reading memory, on all cores.
pub fn limits(quick: bool) -> Value {
    let (n_steps, n_words) = if quick { (1000, 1 << 16) } else { (20_000_000, 1 << 25) };
    let words = vec![1u32; n_words];
    let least = |run: &mut dyn FnMut() -> f64| (0..7).map(|_| run()).fold(f64::INFINITY, f64::min);
    let n_threads = rayon::current_num_threads();
    let fma = least(&mut || {
        let start = Instant::now();
        let sums = (0..n_threads).into_par_iter().with_max_len(1).map(|_| fused::all(n_steps / 7));
        black_box(sums.sum::<f32>());
        start.elapsed().as_secs_f64()
    });
    let read = least(&mut || {
        let start = Instant::now();
        sum(&words, |part| part.iter().fold(0, |sum: u32, &x| sum.wrapping_add(x)));
        start.elapsed().as_secs_f64()
    });
    let flops = (n_threads * (n_steps / 7) * fused::FLOPS) as f64;
    json!({ "fma_gflops": flops / fma / 1e9, "reading_gb_per_s": (4 * n_words) as f64 / read / 1e9 })
}

/// Says how near each product came to the two limits, by the least times.
pub fn summary(limits: &Value, rows: &[Value]) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let (gflops, gb) = (number(&limits["fma_gflops"]), number(&limits["reading_gb_per_s"]));
    let mut text = format!("{gflops:.0} GFLOP/s of f32, {gb:.1} GB/s read; by the least times:");
    for row in rows.iter().filter(|row| row["ours_min_ms"].is_number()) {
        let (ours, read) = (number(&row["ours_min_ms"]), number(&row["copy_min_ms"]));
        let n = number(&row["batch"]);
        let arithmetic = 2e-6 * n * number(&row["n_weights"]) / gflops;
        let (case, dtype) = (row["case"].as_str().unwrap_or(""), row["dtype"].as_str().unwrap_or(""));
        let _ = write!(
            text,
            "\n{case} {n} {dtype}: {ours:.2} ms; {:.2} of reading in {read:.2}, {:.2} of arithmetic in {arithmetic:.2}",
            read / ours,
            arithmetic / ours
        );
    }
    text
}

/// Fused multiplications and additions as fast as the CPU does them.
mod fused {
    use std::hint::black_box;

    /// Sums that do not wait for each other.
    const CHAINS: usize = 12;
    /// Operations in a step.
    pub const FLOPS: usize = 2 * 16 * CHAINS;

    /// Does `n` steps.
    pub fn all(n: usize) -> f32 {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F, as just checked.
            return unsafe { sixteen(n) };
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has AVX2 and FMA, as just checked.
            return unsafe { eight(n) };
        }
        plain(n, |x, y, sum| x * y + sum)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn sixteen(n: usize) -> f32 {
        use std::arch::x86_64::*;
        let (factor, mut sums) = (_mm512_set1_ps(black_box(0.5)), [_mm512_set1_ps(black_box(1.0)); CHAINS]);
        for _ in 0..n {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, factor);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn eight(n: usize) -> f32 {
        plain(n, f32::mul_add)
    }

    /// In a form that the compiler vectorises.
    #[inline(always)]
    fn plain(n: usize, fused: impl Fn(f32, f32, f32) -> f32) -> f32 {
        let (factor, mut sums) = (black_box(0.5), [black_box(1f32); 16 * CHAINS]);
        for _ in 0..n {
            for sum in &mut sums {
                *sum = fused(*sum, factor, factor);
            }
        }
        sums.iter().sum()
    }
}
