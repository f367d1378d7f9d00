//! [`Whole`]: the gradient of a whole variable, in memory that may be written or may not.

use candle_core::{Device, Tensor, WithDType};

use crate::error::Result;
use crate::kernel::{by_dtype, update};

/// The gradient of a whole variable, contiguous.
#[derive(Debug)]
pub(super) struct Whole {
    tensor: Tensor,
    /// Whether nobody else has its memory: a caller may have kept a clone of a tensor.
    is_own: bool,
}

impl Whole {
    /// Takes a tensor of the caller, whose memory is never written.
    pub(super) fn of_caller(tensor: Tensor) -> Self {
        Self { tensor, is_own: false }
    }

    /// Takes a tensor whose memory nobody else has.
    pub(super) fn own(tensor: Tensor) -> Self {
        Self { tensor, is_own: true }
    }

    pub(super) fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    pub(super) fn into_tensor(self) -> Tensor {
        self.tensor
    }

    /// Returns whether its elements may be written in place.
    pub(super) fn is_writable(&self) -> bool {
        self.is_own && self.tensor.device().is_cpu()
    }

    /// Returns the same gradient on the CPU.
    pub(super) fn on_host(self) -> Result<Self> {
        match self.tensor.device() {
            Device::Cpu => Ok(self),
            _ => Ok(Self::own(self.tensor.to_device(&Device::Cpu)?)),
        }
    }

    /// Returns the sum of both, in the memory of either that may be written.
    pub(super) fn add(self, right: Self) -> Result<Self> {
        let (sum, other) = if self.is_writable() { (self, right) } else { (right, self) };
        if !sum.is_writable() {
            return Ok(Self::own((other.tensor + sum.tensor)?));
        }
        by_dtype!(sum.tensor, E => update::<E>(&sum.tensor, Some(&other.tensor), &mut |sum, other| {
            sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += *other);
        }))?;
        Ok(sum)
    }

    /// Returns this gradient times `factor`, in its own memory if that may be written.
    pub(super) fn scaled(self, factor: f64) -> Result<Self> {
        if !self.is_writable() {
            return Ok(Self::own((self.tensor * factor)?));
        }
        by_dtype!(self.tensor, E => update::<E>(&self.tensor, None, &mut |values, _| {
            // As Candle's product has it: what is -0.0 becomes 0.0.
            let (factor, zero) = (E::from_f64(factor), E::from_f64(0.0));
            values.iter_mut().for_each(|value| *value = *value * factor + zero);
        }))?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::kernel::memory_of;

    fn tensor(values: &[f32], dtype: DType) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        let values = tensor.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn sums_and_products_have_the_bits_of_candles_and_write_only_their_own_memory() {
        for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
            let (a, b) = (tensor(&[1.1, -0.0, 3e-5, -7.3], dtype), tensor(&[0.3, -0.0, 1e-5, 7.3], dtype));
            let (sum, product) = (bits(&(&a + &b).unwrap()), bits(&(&a * 0.3).unwrap()));
            let make = |tensor: &Tensor, is_own| match is_own {
                true => Whole::own(tensor.copy().unwrap()),
                false => Whole::of_caller(tensor.clone()),
            };
            for (own_a, own_b) in [(false, false), (true, false), (false, true), (true, true)] {
                let (left, right) = (make(&a, own_a), make(&b, own_b));
                let memories = [&left, &right].map(|whole| memory_of(whole.tensor()));
                let both = left.add(right).unwrap();
                assert_eq!(bits(both.tensor()), sum, "{dtype:?}");
                assert_eq!(memories.contains(&memory_of(both.tensor())), own_a || own_b);
            }
            for is_own in [false, true] {
                assert_eq!(bits(make(&a, is_own).scaled(0.3).unwrap().tensor()), product, "{dtype:?}");
            }
            assert_eq!(bits(&a), bits(&tensor(&[1.1, -0.0, 3e-5, -7.3], dtype)), "a caller's tensor is written");
        }
    }
}
