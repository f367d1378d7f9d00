//! Dequantizes rows of GGUF blocks, one row at a time. The two block types that tables mostly have use loops of this
//! file, all others Candle's own code; the bits are the same.

use candle_core::quantized::{GgmlDType, GgmlType, k_quants};
use candle_core::{DType, WithDType};
use half::f16;

use super::element::Element;
use super::parallel::Outside;

/// Calls a loop of this file, compiled for AVX2 if the CPU has it. The loops are functions, since the compiler does not
/// inline every closure into [`super::simd::vectorised`].
macro_rules! vectorised {
    ($name:ident, $from:expr, $to:expr) => {
        match () {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the CPU has AVX2, as just checked.
            () if is_x86_feature_detected!("avx2") => unsafe { avx2::$name($from, $to) },
            () => $name($from, $to),
        }
    };
}

/// A task's buffers for one row.
pub(crate) struct Scratch<E> {
    width: usize,
    numbers: Vec<E>,
    dequantized: Vec<f32>,
    aligned: Vec<u16>,
}

impl<E: Element> Scratch<E> {
    /// Returns empty buffers for rows of `width` elements; they are allocated on first use.
    pub(crate) fn new(width: usize) -> Self {
        Self { width, numbers: Vec::new(), dequantized: Vec::new(), aligned: Vec::new() }
    }

    /// Returns a row to write to.
    #[inline(always)]
    pub(crate) fn numbers(&mut self) -> &mut [E] {
        self.numbers.resize(self.width, E::zero());
        &mut self.numbers
    }

    /// Dequantizes a row in f32 and rounds it once to `E`.
    pub(crate) fn dequantize(&mut self, blocks: GgmlDType, bytes: &[u8]) -> Result<&[E], Outside> {
        self.dequantized.resize(self.width, 0.0);
        dequantize(blocks, bytes, &mut self.dequantized, &mut self.aligned)?;
        if E::DTYPE == DType::F32 {
            // SAFETY: `E` is f32, the only type of element with this `DTYPE`.
            let (_, row, _) = unsafe { self.dequantized.align_to::<E>() };
            return Ok(row);
        }
        self.numbers.resize(self.width, E::zero());
        vectorised!(narrow, &self.dequantized, &mut self.numbers);
        Ok(&self.numbers)
    }
}

/// Returns whether rows of these blocks can be read.
pub(crate) fn can_dequantize(blocks: GgmlDType) -> bool {
    use GgmlDType::*;
    matches!(blocks, Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q2K | Q3K | Q4K | Q5K | Q6K)
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::Element;

    #[target_feature(enable = "avx2")]
    pub(crate) fn narrow<E: Element>(from: &[f32], to: &mut [E]) {
        super::narrow(from, to);
    }

    #[target_feature(enable = "avx2")]
    pub(crate) fn q8_0(bytes: &[u8], to: &mut [f32]) {
        super::q8_0(bytes, to);
    }

    #[target_feature(enable = "avx2")]
    pub(crate) fn q4_0(bytes: &[u8], to: &mut [f32]) {
        super::q4_0(bytes, to);
    }
}

/// Dequantizes the whole blocks of one row. `aligned` is a buffer for blocks at an odd address.
fn dequantize(blocks: GgmlDType, bytes: &[u8], to: &mut [f32], aligned: &mut Vec<u16>) -> Result<(), Outside> {
    if to.len() / blocks.block_size() * blocks.type_size() != bytes.len() {
        return Err(Outside);
    }
    match blocks {
        GgmlDType::Q8_0 => vectorised!(q8_0, bytes, to),
        GgmlDType::Q4_0 => vectorised!(q4_0, bytes, to),
        GgmlDType::Q4_1 => by_candle::<k_quants::BlockQ4_1>(bytes, to, aligned),
        GgmlDType::Q5_0 => by_candle::<k_quants::BlockQ5_0>(bytes, to, aligned),
        GgmlDType::Q5_1 => by_candle::<k_quants::BlockQ5_1>(bytes, to, aligned),
        GgmlDType::Q2K => by_candle::<k_quants::BlockQ2K>(bytes, to, aligned),
        GgmlDType::Q3K => by_candle::<k_quants::BlockQ3K>(bytes, to, aligned),
        GgmlDType::Q4K => by_candle::<k_quants::BlockQ4K>(bytes, to, aligned),
        GgmlDType::Q5K => by_candle::<k_quants::BlockQ5K>(bytes, to, aligned),
        GgmlDType::Q6K => by_candle::<k_quants::BlockQ6K>(bytes, to, aligned),
        _ => return Err(Outside), // `can_dequantize` has refused it before
    }
    Ok(())
}

/// Rounds each value to `E`.
#[inline(always)]
fn narrow<E: Element>(from: &[f32], to: &mut [E]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = E::narrow(E::Wide::from_f64(f64::from(from)));
    }
}

/// Dequantizes blocks of 32: a scale in f16, then one byte per value.
#[inline(always)]
fn q8_0(bytes: &[u8], to: &mut [f32]) {
    let (blocks, to) = (bytes.as_chunks::<34>().0, to.as_chunks_mut::<32>().0);
    for ([low, high, quants @ ..], to) in blocks.iter().zip(to) {
        let scale = f16::from_le_bytes([*low, *high]).widen();
        for (to, &quant) in to.iter_mut().zip(quants) {
            *to = f32::from(quant.cast_signed()) * scale;
        }
    }
}

/// Dequantizes blocks of 32: a scale in f16, then four bits per value, the first sixteen values in the low ones.
#[inline(always)]
fn q4_0(bytes: &[u8], to: &mut [f32]) {
    let (blocks, to) = (bytes.as_chunks::<18>().0, to.as_chunks_mut::<32>().0);
    for ([low, high, quants @ ..], to) in blocks.iter().zip(to) {
        let scale = f16::from_le_bytes([*low, *high]).widen();
        let (first, second) = to.split_at_mut(16);
        for ((first, second), &quants) in first.iter_mut().zip(second).zip(quants) {
            *first = (f32::from(quants & 15) - 8.0) * scale;
            *second = (f32::from(quants >> 4) - 8.0) * scale;
        }
    }
}

/// Dequantizes by Candle's own code, for its block type `B`.
fn by_candle<B: GgmlType>(bytes: &[u8], to: &mut [f32], aligned: &mut Vec<u16>) {
    const { assert!(align_of::<B>() <= align_of::<u16>()) };
    // SAFETY: a block consists of integers and f16 without gaps (Candle asserts its size), so every bit pattern is
    // valid.
    if let (&[], blocks, &[]) = unsafe { bytes.align_to::<B>() } {
        return B::to_float(blocks, to);
    }
    aligned.clear();
    aligned.extend(bytes.as_chunks::<2>().0.iter().map(|&pair| u16::from_ne_bytes(pair)));
    // SAFETY: as above; blocks take an even number of bytes, and their alignment is at most that of the copy.
    let (_, blocks, _) = unsafe { aligned.align_to::<B>() };
    B::to_float(blocks, to);
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use candle_core::quantized::ggml_file::qtensor_from_ggml;
    use half::bf16;

    use super::*;
    use crate::error::Result;

    /// Any bytes at any address, infinite and NaN scales included.
    #[test]
    fn rows_are_what_candle_makes_of_them() -> Result<()> {
        use GgmlDType::*;
        let mut state = 7u64;
        let mut byte = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as u8
        };
        for blocks in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
            assert!(can_dequantize(blocks));
            for n_blocks in 1..40 {
                let (width, n_bytes) = (n_blocks * blocks.block_size(), n_blocks * blocks.type_size());
                let words: Vec<u64> =
                    (0..n_bytes / 8 + 2).map(|_| u64::from_le_bytes(std::array::from_fn(|_| byte()))).collect();
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                let mut scratch = (Scratch::<f32>::new(width), Scratch::<f64>::new(width), Scratch::<bf16>::new(width));
                for start in [0, 1, 2, 7] {
                    let mut copy = words.clone(); // aligned, as Candle needs it
                    for (to, from) in copy.iter_mut().zip(bytes[start..].chunks(8)) {
                        let mut word = [0; 8];
                        word[..from.len()].copy_from_slice(from);
                        *to = u64::from_ne_bytes(word);
                    }
                    // SAFETY: every bit pattern is a valid byte.
                    let (_, aligned, _) = unsafe { copy.align_to::<u8>() };
                    let theirs = qtensor_from_ggml(blocks, &aligned[..n_bytes], vec![width], &Device::Cpu)?;
                    let theirs = theirs.dequantize(&Device::Cpu)?.to_vec1::<f32>()?;
                    let row = &bytes[start..start + n_bytes];
                    let same = |x: f32, y: f32| x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan());
                    let ours = scratch.0.dequantize(blocks, row).map_err(super::super::storage::changed)?;
                    assert!(ours.iter().zip(&theirs).all(|(&x, &y)| same(x, y)), "{blocks:?} at {start}");
                    let ours = scratch.1.dequantize(blocks, row).map_err(super::super::storage::changed)?;
                    assert!(ours.iter().zip(&theirs).all(|(&x, &y)| same(x as f32, y)), "{blocks:?} at {start}");
                    let ours = scratch.2.dequantize(blocks, row).map_err(super::super::storage::changed)?;
                    let rounded = theirs.iter().map(|&y| bf16::from_f32(y).to_f32());
                    assert!(ours.iter().zip(rounded).all(|(x, y)| same(x.to_f32(), y)), "{blocks:?} at {start}");
                }
                assert!(scratch.0.dequantize(blocks, &bytes[..n_bytes - 1]).is_err());
            }
        }
        Ok(())
    }
}
