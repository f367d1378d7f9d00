//! The element types of tables: how each is widened for arithmetic and rounded back.
//!
//! Half types are converted with integer arithmetic that the compiler vectorises, bit for bit as the `half` crate does
//! it (except the payload of a NaN).

use std::any::TypeId;
use std::mem::MaybeUninit;

use candle_core::{CpuStorage, DType, WithDType};
use half::{bf16, f16};

/// A type that arithmetic is done in: f32, or f64 for f64.
pub(crate) trait Real: WithDType + Default + Into<f64> + From<f32> {
    fn mul_add(self, factor: Self, summand: Self) -> Self;
    fn sqrt(self) -> Self;
}

macro_rules! real {
    ($type:ty) => {
        impl Real for $type {
            #[inline(always)]
            fn mul_add(self, factor: Self, summand: Self) -> Self {
                <$type>::mul_add(self, factor, summand)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$type>::sqrt(self)
            }
        }
    };
}
real!(f32);
real!(f64);

/// An element of a table. Sums are computed in `Wide` and rounded once, to nearest even.
pub(crate) trait Element: WithDType {
    type Wide: Real;
    fn widen(self) -> Self::Wide;
    fn narrow(wide: Self::Wide) -> Self;
    /// Rounds as `narrow` does, for a sum of two elements of type `E`.
    #[inline(always)]
    fn narrow_sum<E: Element<Wide = Self::Wide>>(wide: Self::Wide) -> Self {
        Self::narrow(wide)
    }
    /// Returns the values themselves if they need no widening.
    fn as_wide(values: &[Self]) -> Option<&[Self::Wide]> {
        let _ = values;
        None
    }
    /// Returns all elements of a storage, if they have this type.
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

impl Element for f32 {
    type Wide = f32;
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(wide: f32) -> Self {
        wide
    }
    fn as_wide(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F32(values) = storage { Some(values) } else { None }
    }
}

impl Element for f64 {
    type Wide = f64;
    #[inline(always)]
    fn widen(self) -> f64 {
        self
    }
    #[inline(always)]
    fn narrow(wide: f64) -> Self {
        wide
    }
    fn as_wide(values: &[Self]) -> Option<&[f64]> {
        Some(values)
    }
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F64(values) = storage { Some(values) } else { None }
    }
}

impl Element for bf16 {
    type Wide = f32;
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn narrow(wide: f32) -> Self {
        let bits = wide.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let nan = (bits >> 16) | 0x40; // quiet, and never rounded into an infinity
        Self::from_bits(if wide.is_nan() { nan } else { rounded } as u16)
    }
    #[inline(always)]
    fn narrow_sum<E: Element<Wide = f32>>(wide: f32) -> Self {
        if TypeId::of::<E>() != TypeId::of::<Self>() {
            return Self::narrow(wide);
        }
        // If one of two bf16 is NaN, the low half of the sum is zero, so rounding keeps it NaN.
        let bits = wide.to_bits();
        Self::from_bits(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) as u16)
    }
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::BF16(values) = storage { Some(values) } else { None }
    }
}

impl Element for f16 {
    type Wide = f32;
    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let magnitude = bits & 0x7fff;
        // The exponents of the two types differ by 112; the product is exact, also for subnormals.
        let finite = (f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23)).to_bits();
        let special = (magnitude << 13) | 0x7f80_0000; // infinity or NaN
        let magnitude = if magnitude >= 0x7c00 { special } else { finite };
        f32::from_bits(magnitude | ((bits & 0x8000) << 16))
    }
    #[inline(always)]
    fn narrow(wide: f32) -> Self {
        let bits = wide.to_bits();
        let magnitude = bits & 0x7fff_ffff;
        // Below 2^-14 the sum with 0.5 leaves the rounded mantissa of a subnormal in the low bits.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let odd = (magnitude >> 13) & 1;
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
        let special = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
        let magnitude = if magnitude >= 0x4780_0000 {
            special // 65536 and above
        } else if magnitude < 0x3880_0000 {
            subnormal
        } else {
            normal // 65520 and above carry into the infinity
        };
        Self::from_bits((magnitude | ((bits >> 16) & 0x8000)) as u16)
    }
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F16(values) = storage { Some(values) } else { None }
    }
}

/// Widens each of a row's elements.
#[inline(always)]
pub(crate) fn widen_row<E: Element>(to: &mut [E::Wide], from: &[E]) {
    to.iter_mut().zip(from).for_each(|(to, x)| *to = x.widen());
}

/// Returns the bytes of elements.
pub(crate) fn bytes_of<E: Element>(numbers: &[E]) -> &[u8] {
    // SAFETY: an element has no gaps, so all its bytes are initialized.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

/// Returns the bytes of elements, to write to.
pub(crate) fn bytes_of_mut<E: Element>(numbers: &mut [MaybeUninit<E>]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: as above; whatever bytes are written, every bit pattern is a valid element.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers)) }
}

/// Returns the elements of which [`bytes_of`] returned the bytes.
#[inline(always)]
pub(crate) fn numbers_of<E: Element>(bytes: &[u8]) -> &[E] {
    let start = bytes.as_ptr().cast::<E>();
    assert!(start.is_aligned() && bytes.len().is_multiple_of(size_of::<E>()), "not elements of that type");
    // SAFETY: aligned and whole, as just checked; every bit pattern is valid in each of the four element types.
    unsafe { std::slice::from_raw_parts(start, bytes.len() / size_of::<E>()) }
}

/// Returns the elements of which [`bytes_of_mut`] returned the bytes.
#[inline(always)]
pub(crate) fn numbers_of_mut<E: Element>(bytes: &mut [MaybeUninit<u8>]) -> &mut [MaybeUninit<E>] {
    let start = bytes.as_mut_ptr().cast::<MaybeUninit<E>>();
    assert!(start.is_aligned() && bytes.len().is_multiple_of(size_of::<E>()), "not elements of that type");
    // SAFETY: aligned and whole, as just checked; uninitialized bytes are an uninitialized element.
    unsafe { std::slice::from_raw_parts_mut(start, bytes.len() / size_of::<E>()) }
}

/// Evaluates `$call` with `$E` as the element type of `$storage`, which is anything with a `dtype()`.
macro_rules! by_dtype {
    ($storage:expr, $E:ident => $call:expr) => {
        match $storage.dtype() {
            candle_core::DType::F32 => {
                type $E = f32;
                $call
            }
            candle_core::DType::F64 => {
                type $E = f64;
                $call
            }
            candle_core::DType::F16 => {
                type $E = half::f16;
                $call
            }
            candle_core::DType::BF16 => {
                type $E = half::bf16;
                $call
            }
            dtype => Err(candle_core::Error::UnsupportedDTypeForOp(dtype, "table of rows").bt().into()),
        }
    };
}

pub(crate) use by_dtype;

/// Passes a bare dtype to [`by_dtype`].
pub(crate) struct AsIf(pub(crate) DType);

impl AsIf {
    pub(crate) fn dtype(&self) -> DType {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_number_widens_as_the_library_does() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (Element::widen(f16::from_bits(bits)), f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "f16 {bits:#x}");
            let (ours, theirs) = (Element::widen(bf16::from_bits(bits)), bf16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "bf16 {bits:#x}");
        }
    }

    #[test]
    fn every_exponent_and_border_narrows_as_the_library_does() {
        // All signs and exponents with the upper mantissa bits, and every way the rounding can go below them.
        for high in 0..=u16::MAX {
            for low in [0u32, 1, 0x0fff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let wide = f32::from_bits((u32::from(high) << 16) | low);
                let (ours, theirs) = (<f16 as Element>::narrow(wide), f16::from_f32(wide));
                assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "f16 {wide:e}");
                let (ours, theirs) = (<bf16 as Element>::narrow(wide), bf16::from_f32(wide));
                assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "bf16 {wide:e}");
            }
        }
    }
}
