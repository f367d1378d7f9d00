//! Sinusoidal positions, which are added to the input, and rows of distances for Transformer-XL.

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};

use crate::config::SinusoidalLayout;
use crate::error::Result;
use crate::kernel::rows_in_parallel;
use crate::memory::{fits, zeros};

/// The base of the frequencies in every published layout.
const BASE: f64 = 10000.0;

/// Computes the table `[n_positions, n_embd]` of sinusoidal positions (Vaswani et al. 2017, arXiv:1706.03762, section
/// 3.5):
///
/// ```text
/// PE(t, 2i)     = sin(t / 10000^(2i / C))
/// PE(t, 2i + 1) = cos(t / 10000^(2i / C))
/// ```
///
/// [`Interleaved`](SinusoidalLayout::Interleaved) (DistilBERT) and [`Halves`](SinusoidalLayout::Halves) (Marian) are
/// computed in f64 and rounded once, as in transformers. [`Tensor2Tensor`](SinusoidalLayout::Tensor2Tensor) (M2M-100,
/// fairseq) has the frequencies `10000^(-i / (C / 2 - 1))` and, as in transformers, angles that are f32 products; with
/// an odd C its last column is zeros.
///
/// ```
/// use candle_core::{DType, Device};
/// use candle_gpt_input::position::{SinusoidalLayout, sinusoidal};
///
/// let table = sinusoidal(2, 4, SinusoidalLayout::Halves, DType::F32, &Device::Cpu)?;
/// assert_eq!(table.to_vec2::<f32>()?, [[0.0, 0.0, 1.0, 1.0], [0.84147096, 0.009999833, 0.5403023, 0.99995]]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
///
/// # Errors
/// [`Error::TooLarge`](crate::Error::TooLarge) and [`Error::Candle`](crate::Error::Candle) if there is no memory for the
/// table.
#[doc(alias("create_sinusoidal_embeddings", "SinusoidalPositionalEmbedding"))]
pub fn sinusoidal(
    n_positions: usize,
    n_embd: usize,
    layout: SinusoidalLayout,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let n_sines = n_embd.div_ceil(2);
    // Column j of the interleaved table has the frequency of pair j / 2.
    let value = |position: usize, j: usize| {
        let angle = position as f64 / BASE.powf((2 * (j / 2)) as f64 / n_embd as f64);
        if j.is_multiple_of(2) { angle.sin() as f32 } else { angle.cos() as f32 }
    };
    let half = n_embd / 2;
    let step = -(BASE.ln() / half.saturating_sub(1) as f64) as f32;
    let tensor2tensor = |position: usize, j: usize| {
        let frequency = f64::from((j % half.max(1)) as f32 * step).exp() as f32;
        let angle = f64::from(position as f32 * frequency);
        if j < half {
            angle.sin() as f32
        } else if j < 2 * half {
            angle.cos() as f32
        } else {
            0.0
        }
    };
    let number = |position: usize, j: usize| match layout {
        SinusoidalLayout::Interleaved => value(position, j),
        SinusoidalLayout::Halves if j < n_sines => value(position, 2 * j),
        SinusoidalLayout::Halves => value(position, 2 * (j - n_sines) + 1),
        SinusoidalLayout::Tensor2Tensor => tensor2tensor(position, j),
    };
    let n = fits("sinusoids", &[n_positions, n_embd], size_of::<f32>().max(dtype.size_in_bytes()))?;
    let mut values = zeros::<f32>(n)?;
    rows_in_parallel(&mut values, n_embd, &|position, row| {
        row.iter_mut().enumerate().for_each(|(j, to)| *to = number(position, j));
    });
    Ok(Tensor::from_vec(values, (n_positions, n_embd), device)?.to_dtype(dtype)?)
}

/// Computes `base^(-2i / dim)` for every pair, in the f32 operations of transformers: a power, then a reciprocal.
pub(super) fn inverse_frequencies(base: f64, dim: usize) -> Vec<f32> {
    powers(base, dim).into_iter().map(|power| 1.0 / power).collect()
}

/// Computes `base^(2i / dim)`; the exponent is a quotient of f32, and the power is rounded once.
pub(super) fn powers(base: f64, dim: usize) -> Vec<f32> {
    let exponents = (0..dim.div_ceil(2)).map(|i| (2 * i) as f32 / dim as f32);
    exponents.map(|exponent| f64::from(base as f32).powf(f64::from(exponent)) as f32).collect()
}

/// Computes cosine and sine of the f32 angle `position · frequency`, each rounded once.
pub(super) fn cos_sin(position: f32, frequency: f32) -> (f32, f32) {
    let (sin, cos) = f64::from(position * frequency).sin_cos();
    (cos as f32, sin as f32)
}

/// Rows sin‖cos of distances, kept for as many distances as were needed so far; clones share them.
#[derive(Clone, Debug)]
pub(super) struct DistanceRows {
    width: usize,
    /// The largest distance `far`, and the rows from it down to `-far`.
    rows: Arc<Mutex<Option<(i64, Tensor)>>>,
}

impl DistanceRows {
    pub(super) fn new(width: usize) -> Self {
        Self { width, rows: Arc::new(Mutex::new(None)) }
    }

    /// Rows are kept for distances up to this. Further away, a call makes only the rows that it needs.
    const KEPT: u64 = 1 << 20;

    /// Returns the rows of `n` distances from `first` downwards, `[n, width]`.
    pub(super) fn down_from(&self, first: i64, n: usize, dtype: DType, device: &Device) -> Result<Tensor> {
        let last = first - n as i64 + 1;
        if first.unsigned_abs().max(last.unsigned_abs()) > Self::KEPT {
            fits("rows of distances", &[n, self.width], size_of::<f32>())?;
            return self.each(&(last..=first).rev().collect::<Vec<_>>(), dtype, device);
        }
        let mut held = self.rows.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let needed = first.abs().max(last.abs());
        let fits =
            |(far, rows): &&(i64, Tensor)| needed <= *far && rows.dtype() == dtype && rows.device().same_device(device);
        let (far, rows) = match held.as_ref().filter(fits) {
            Some(found) => found.clone(),
            None => {
                let far = needed.unsigned_abs().next_power_of_two() as i64;
                let made = (far, self.make(far, dtype, device)?);
                held.insert(made).clone()
            }
        };
        Ok(rows.narrow(0, (far - first) as usize, n)?)
    }

    fn make(&self, far: i64, dtype: DType, device: &Device) -> Result<Tensor> {
        let distances: Vec<i64> = (-far..=far).rev().collect();
        self.each(&distances, dtype, device)
    }

    /// Computes the rows of these distances, `[N, width]`.
    pub(super) fn each(&self, distances: &[i64], dtype: DType, device: &Device) -> Result<Tensor> {
        let frequencies = inverse_frequencies(BASE, self.width);
        let n_cosines = self.width / 2;
        let n = fits("rows of distances", &[distances.len(), self.width], size_of::<f32>())?;
        let mut values = zeros::<f32>(n)?;
        rows_in_parallel(&mut values, self.width, &|number, row| {
            let distance = distances[number];
            let at = |frequency: &f32| cos_sin(distance as f32, *frequency);
            let sines = frequencies.iter().map(|frequency| at(frequency).1);
            let cosines = frequencies[..n_cosines].iter().map(|frequency| at(frequency).0);
            row.iter_mut().zip(sines.chain(cosines)).for_each(|(to, number)| *to = number);
        });
        Ok(Tensor::from_vec(values, (distances.len(), self.width), device)?.to_dtype(dtype)?)
    }
}
