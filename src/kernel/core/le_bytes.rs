//! [`LeBytes`]: elements as the bytes that ranks send each other, and their sum.

use candle_core::{DType, Tensor};

use super::element::{AsIf, Element, by_dtype};
use super::storage::{on_host, slice};
use crate::error::Result;
use crate::memory::zeros;

/// An element that ranks send: little-endian.
pub(crate) trait LeBytes: Element {
    fn write(values: &[Self], bytes: &mut [u8]);

    fn read(bytes: &[u8], values: &mut [Self]);

    /// Adds `right` to `left`, element by element, rounding each sum once.
    fn add_to(left: &mut [u8], right: &[u8]);
}

macro_rules! element {
    ($($element:ty, $n_bytes:literal;)+) => {$(
        impl LeBytes for $element {
            fn write(values: &[Self], bytes: &mut [u8]) {
                let (bytes, _) = bytes.as_chunks_mut::<$n_bytes>();
                values.iter().zip(bytes).for_each(|(value, bytes)| *bytes = value.to_le_bytes());
            }

            fn read(bytes: &[u8], values: &mut [Self]) {
                let (bytes, _) = bytes.as_chunks::<$n_bytes>();
                values.iter_mut().zip(bytes).for_each(|(value, bytes)| *value = Self::from_le_bytes(*bytes));
            }

            fn add_to(left: &mut [u8], right: &[u8]) {
                let (left, right) = (left.as_chunks_mut::<$n_bytes>().0, right.as_chunks::<$n_bytes>().0);
                for (left, right) in left.iter_mut().zip(right) {
                    *left = (Self::from_le_bytes(*left) + Self::from_le_bytes(*right)).to_le_bytes();
                }
            }
        }
    )+};
}

element!(f32, 4; f64, 8; half::f16, 2; half::bf16, 2;);

/// Writes elements of a contiguous tensor on the CPU, from `start` on, until `bytes` is full.
pub(crate) fn write_from<E: LeBytes>(tensor: &Tensor, start: usize, bytes: &mut [u8]) -> Result<()> {
    let (storage, layout) = tensor.storage_and_layout();
    let values = slice::<E>(on_host(&storage)?, layout)?;
    E::write(&values[start..start + bytes.len() / size_of::<E>()], bytes);
    Ok(())
}

/// Returns all elements of a contiguous tensor on the CPU as bytes.
pub(crate) fn to_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = vec![0; tensor.elem_count() * tensor.dtype().size_in_bytes()];
    by_dtype!(tensor, E => write_from::<E>(tensor, 0, &mut bytes))?;
    Ok(bytes)
}

/// Makes a tensor `[n, width]` on the CPU of the bytes of its elements.
pub(crate) fn from_bytes(bytes: &[u8], width: usize, dtype: DType) -> Result<Tensor> {
    by_dtype!(AsIf(dtype), E => {
        let mut values = zeros::<E>(bytes.len() / size_of::<E>())?;
        E::read(bytes, &mut values);
        let n = values.len() / width.max(1);
        Ok(Tensor::from_vec(values, (n, width), &candle_core::Device::Cpu)?)
    })
}
