//! Reads stored rows, one at a time: as they are, converted or dequantized, aligned or not.

use std::ops::Range;

use candle_core::{DType, Device, Tensor, WithDType};

use super::dequantize::Scratch;
use super::element::{AsIf, Element, by_dtype};
use super::parallel::Outside;
use super::simd;
use crate::rows::{RowType, StoredRows};

/// Rows are prefetched this many bytes ahead: further than those of a table on huge pages, since their addresses must
/// be looked up too.
const BYTES_AHEAD: usize = 24 << 10;

impl StoredRows {
    /// Returns all rows as one tensor.
    pub(crate) fn to_tensor(&self, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let dims = (self.n_rows, self.width);
        let rows = by_dtype!(AsIf(dtype), E => {
            let mut scratch = Scratch::<E>::new(self.width);
            let mut values = crate::memory::with_capacity::<E>(self.n_rows * self.width)?;
            for row in 0..self.n_rows {
                values.extend_from_slice(self.row(row, &mut scratch).map_err(super::storage::changed)?);
            }
            Tensor::from_vec(values, dims, &Device::Cpu)
        })?;
        rows.to_device(device)
    }

    /// Writes rows `first..first + n` to `to`, one after the other, in the type of their sums.
    pub(crate) fn widen_rows<E: Element>(&self, first: usize, n: usize, to: &mut Vec<E::Wide>) {
        let mut scratch = Scratch::<E>::new(self.width);
        to.clear();
        for row in first..first + n {
            match self.row(row, &mut scratch) {
                Ok(row) => to.extend(row.iter().map(|x| x.widen())),
                // No row of the table is outside. If one were, it would be NaN.
                Err(Outside) => to.extend(std::iter::repeat_n(E::Wide::from_f64(f64::NAN), self.width)),
            }
        }
    }

    pub(crate) fn range(&self, row: usize) -> Range<usize> {
        let n_bytes = self.stored.row_bytes(self.width);
        let start = self.start.saturating_add(row.saturating_mul(n_bytes));
        start..start.saturating_add(n_bytes)
    }

    fn row_bytes(&self, row: usize) -> Result<&[u8], Outside> {
        self.bytes.here().get(self.range(row)).filter(|_| row < self.n_rows).ok_or(Outside)
    }

    /// Returns how many rows ahead to prefetch.
    pub(crate) fn n_ahead(&self) -> usize {
        (2 * BYTES_AHEAD / self.stored.row_bytes(self.width).max(1)).clamp(2, 64)
    }

    /// Returns a row to prefetch, or nothing if it is outside.
    #[inline(always)]
    pub(crate) fn next(&self, row: Result<usize, Outside>) -> &[u8] {
        row.and_then(|row| self.row_bytes(row)).unwrap_or_default()
    }

    /// Returns row `row` as elements of `E`: those in the file if they can be used as they are, else converted in
    /// `scratch`.
    #[inline(always)]
    pub(crate) fn row<'a, E: Element>(&'a self, row: usize, scratch: &'a mut Scratch<E>) -> Result<&'a [E], Outside> {
        let bytes = self.row_bytes(row)?;
        if self.stored == RowType::Numbers(E::DTYPE) && cfg!(target_endian = "little") {
            // SAFETY: every bit pattern is valid in each of the four element types.
            if let (&[], numbers, &[]) = unsafe { bytes.align_to::<E>() } {
                return Ok(numbers);
            }
        }
        self.converted(bytes, scratch)
    }

    #[inline(never)]
    fn converted<'a, E: Element>(&self, bytes: &[u8], scratch: &'a mut Scratch<E>) -> Result<&'a [E], Outside> {
        let stored = match self.stored {
            RowType::Numbers(stored) => stored,
            RowType::Blocks(blocks) => return scratch.dequantize(blocks, bytes),
        };
        let to = scratch.numbers();
        match stored {
            DType::F32 => simd::vectorised(|| convert::<f32, E, 4>(bytes, to, f32::from_le_bytes)),
            DType::F64 => simd::vectorised(|| convert::<f64, E, 8>(bytes, to, f64::from_le_bytes)),
            DType::F16 => simd::vectorised(|| convert::<half::f16, E, 2>(bytes, to, half::f16::from_le_bytes)),
            _ => simd::vectorised(|| convert::<half::bf16, E, 2>(bytes, to, half::bf16::from_le_bytes)),
        }
        Ok(to)
    }
}

/// Converts through f32 into any type but f64's own, with one rounding per step, as PyTorch and loading do.
#[inline(always)]
fn convert<S: Element, E: Element, const N: usize>(bytes: &[u8], to: &mut [E], from_le: impl Fn([u8; N]) -> S) {
    for (to, bytes) in to.iter_mut().zip(bytes.as_chunks::<N>().0) {
        let wide: f64 = from_le(*bytes).widen().into();
        *to = E::narrow(E::Wide::from_f64(wide));
    }
}
