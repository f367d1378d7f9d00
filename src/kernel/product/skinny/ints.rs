//! Integers in lanes: what blocks are decoded with.

use std::array::from_fn;

use half::f16;

use crate::kernel::core::element::Element;

/// How many sums of a row stand side by side, whatever the width of the CPU's vectors.
pub(super) const LANES: usize = 16;

/// Integers of 32 bits, one for each lane.
///
/// # Safety
/// The CPU has what the type needs. Each function reads and writes inside of its slice, or panics.
pub(in super::super) trait Ints: Copy {
    const LANES: usize;
    /// As many f32.
    type Floats: Copy;

    /// Returns the bits of each byte that `mask` keeps, after a shift to the right.
    unsafe fn bits(bytes: &[u8], shift: usize, mask: i32) -> Self;
    /// Returns each byte, with its sign.
    unsafe fn signed(bytes: &[u8]) -> Self;
    /// Returns one bit for each lane, the lowest first.
    unsafe fn each_bit(bits: u32) -> Self;
    /// Adds higher bits.
    unsafe fn with<const SHIFT: u32>(self, high: Self) -> Self;
    unsafe fn minus(self, less: i32) -> Self;
    unsafe fn times(self, factor: f32) -> Self::Floats;
    unsafe fn plus(floats: Self::Floats, more: f32) -> Self::Floats;
    unsafe fn put(floats: Self::Floats, to: &mut [f32]);
    unsafe fn widen(x: f16) -> f32;
}

impl Ints for [i32; LANES] {
    const LANES: usize = LANES;
    type Floats = [f32; LANES];

    #[inline(always)]
    unsafe fn bits(bytes: &[u8], shift: usize, mask: i32) -> Self {
        let bytes = &bytes[..LANES];
        from_fn(|lane| (i32::from(bytes[lane]) >> shift) & mask)
    }

    #[inline(always)]
    unsafe fn signed(bytes: &[u8]) -> Self {
        let bytes = &bytes[..LANES];
        from_fn(|lane| i32::from(bytes[lane].cast_signed()))
    }

    #[inline(always)]
    unsafe fn each_bit(bits: u32) -> Self {
        from_fn(|lane| ((bits >> lane) & 1).cast_signed())
    }

    #[inline(always)]
    unsafe fn with<const SHIFT: u32>(self, high: Self) -> Self {
        from_fn(|lane| self[lane] | (high[lane] << SHIFT))
    }

    #[inline(always)]
    unsafe fn minus(self, less: i32) -> Self {
        self.map(|x| x - less)
    }

    #[inline(always)]
    unsafe fn times(self, factor: f32) -> [f32; LANES] {
        self.map(|x| x as f32 * factor)
    }

    #[inline(always)]
    unsafe fn plus(floats: [f32; LANES], more: f32) -> [f32; LANES] {
        floats.map(|x| x + more)
    }

    #[inline(always)]
    unsafe fn put(floats: [f32; LANES], to: &mut [f32]) {
        to[..LANES].copy_from_slice(&floats);
    }

    #[inline(always)]
    unsafe fn widen(x: f16) -> f32 {
        x.widen()
    }
}
