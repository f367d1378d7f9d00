//! GGUF's quantized blocks. Their elements are those of Candle's dequantization, bit for bit.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::array::from_fn;

use half::f16;

use super::ints::{Ints, LANES};
use super::kind::Kind;
#[cfg(target_arch = "x86_64")]
use super::x86::ints::{Eight, Sixteen};

/// A type of blocks, decoded by integers in lanes.
///
/// # Safety
/// For both functions: the CPU has what `I` needs.
pub(in super::super) trait GgufBlock: 'static {
    const ELEMENTS: usize;
    const BYTES: usize;
    /// What integers are multiplied by, and what is added.
    type Scales: Copy + Default;

    unsafe fn scales<I: Ints>(block: &[u8]) -> Self::Scales;

    /// Returns elements from `first` on, a multiple of the lanes.
    unsafe fn elements<I: Ints>(block: &[u8], scales: &Self::Scales, first: usize) -> I::Floats;
}

impl<B: GgufBlock> Kind for B {
    const UNIT: usize = B::ELEMENTS;
    const UNIT_BYTES: usize = B::BYTES;
    const IS_WHOLE: bool = true;
    type Scales = B::Scales;

    #[inline(always)]
    unsafe fn scales<I: Ints>(unit: &[u8]) -> Self::Scales {
        // SAFETY: the caller's promise.
        unsafe { B::scales::<I>(&unit[..B::BYTES]) }
    }

    #[inline(always)]
    fn plain(unit: &[u8], scales: &Self::Scales, at: usize) -> [f32; LANES] {
        // SAFETY: plain integers need nothing.
        unsafe { B::elements::<[i32; LANES]>(&unit[..B::BYTES], scales, LANES * at) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    unsafe fn eight(unit: *const u8, scales: &Self::Scales, at: usize) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { B::elements::<Eight>(std::slice::from_raw_parts(unit, B::BYTES), scales, 8 * at) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx2,f16c")]
    #[inline]
    unsafe fn sixteen(unit: *const u8, scales: &Self::Scales, at: usize) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { B::elements::<Sixteen>(std::slice::from_raw_parts(unit, B::BYTES), scales, 16 * at) }
    }
}

/// Returns the number that begins at byte `at`.
///
/// # Safety
/// As [`Ints`].
#[inline(always)]
unsafe fn half<I: Ints>(block: &[u8], at: usize) -> f32 {
    // SAFETY: the caller's promise.
    unsafe { I::widen(f16::from_le_bytes([block[at], block[at + 1]])) }
}

/// Returns sixteen integers, of which `ints` returns those from a place on, times a factor.
///
/// # Safety
/// As [`Ints`].
#[inline(always)]
unsafe fn sixteen_times<I: Ints>(ints: impl Fn(usize) -> I, factor: f32) -> [f32; 16] {
    let mut scales = [0.0; 16];
    for first in (0..16).step_by(I::LANES) {
        // SAFETY: the caller's promise.
        unsafe { I::put(ints(first).times(factor), &mut scales[first..]) };
    }
    scales
}

/// Implements [`GgufBlock`] for a type with so many elements and bytes.
macro_rules! block {
    (
        $(#[$doc:meta])* $name:ident, $elements:literal, $bytes:literal, $scales:ty;
        |$block:ident| $get:expr; |$scale:pat_param, $first:ident| $all:expr
    ) => {
        $(#[$doc])*
        pub(in super::super) struct $name;

        // Of both unsafe blocks: the caller has promised what the CPU has.
        impl GgufBlock for $name {
            const ELEMENTS: usize = $elements;
            const BYTES: usize = $bytes;
            type Scales = $scales;

            #[inline(always)]
            unsafe fn scales<I: Ints>($block: &[u8]) -> $scales {
                // SAFETY: see above.
                unsafe { $get }
            }

            #[inline(always)]
            unsafe fn elements<I: Ints>($block: &[u8], $scale: &$scales, $first: usize) -> I::Floats {
                // SAFETY: see above.
                unsafe { $all }
            }
        }
    };
}

/// Returns four bits of each of 32 elements in sixteen bytes, first the low ones.
///
/// # Safety
/// As [`Ints`].
#[inline(always)]
unsafe fn nibbles<I: Ints>(bytes: &[u8], first: usize) -> I {
    // SAFETY: the caller's promise.
    unsafe { I::bits(&bytes[first % 16..], first / 16 * 4, 15) }
}

/// Returns a bit of each of 32 elements.
///
/// # Safety
/// As [`Ints`].
#[inline(always)]
unsafe fn fifth<I: Ints>(bytes: &[u8], first: usize) -> I {
    // SAFETY: the caller's promise.
    unsafe { I::each_bit(u32::from_le_bytes(from_fn(|i| bytes[i])) >> first) }
}

block!(
    /// A scale, then a byte for each.
    Q8_0, 32, 34, f32;
    |block| half::<I>(block, 0);
    |&scale, first| I::signed(&block[2 + first..]).times(scale)
);
block!(
    /// A scale, then four bits for each.
    Q4_0, 32, 18, f32;
    |block| half::<I>(block, 0);
    |&scale, first| nibbles::<I>(&block[2..], first).minus(8).times(scale)
);
block!(
    /// A scale and a minimum, then four bits for each.
    Q4_1, 32, 20, (f32, f32);
    |block| (half::<I>(block, 0), half::<I>(block, 2));
    |&(scale, minimum), first| I::plus(nibbles::<I>(&block[4..], first).times(scale), minimum)
);
block!(
    /// A scale, a fifth bit for each, four bits for each.
    Q5_0, 32, 22, f32;
    |block| half::<I>(block, 0);
    |&scale, first| {
        let five = nibbles::<I>(&block[6..], first).with::<4>(fifth(&block[2..], first));
        five.minus(16).times(scale)
    }
);
block!(
    /// A scale and a minimum, a fifth bit for each, four bits for each.
    Q5_1, 32, 24, (f32, f32);
    |block| (half::<I>(block, 0), half::<I>(block, 2));
    |&(scale, minimum), first| {
        let five = nibbles::<I>(&block[8..], first).with::<4>(fifth(&block[4..], first));
        I::plus(five.times(scale), minimum)
    }
);

/// Scales, and what is added (the negative minimums), of so many elements each.
type Pairs = ([f32; 16], [f32; 16]);

block!(
    /// 16 pairs of scale and minimum in four bits each, two bits for each element, what the pairs are multiplied by.
    Q2K, 256, 84, Pairs;
    |block| (
        sixteen_times(|first| I::bits(&block[first..16], 0, 15), half::<I>(block, 80)),
        sixteen_times(|first| I::bits(&block[first..16], 4, 15), -half::<I>(block, 82)),
    );
    |(scales, minimums), first| {
        let two = I::bits(&block[16 + first / 128 * 32 + first % 32..], first % 128 / 32 * 2, 3);
        I::plus(two.times(scales[first / 16]), minimums[first / 16])
    }
);
block!(
    /// A third bit for each element, two bits for each, 16 scales of six bits, what these are multiplied by.
    Q3K, 256, 110, [f32; 16];
    |block| {
        let six = &block[96..108];
        let ints: [u8; 16] =
            from_fn(|i| ((six[i % 8] >> (i / 8 * 4)) & 15) | (((six[8 + i % 4] >> (i / 4 * 2)) & 3) << 4));
        sixteen_times(|first| I::signed(&ints[first..]).minus(32), half::<I>(block, 108))
    };
    |scales, first| {
        let two = I::bits(&block[32 + first / 128 * 32 + first % 32..], first % 128 / 32 * 2, 3);
        let three = two.with::<2>(I::bits(&block[first % 32..], first / 32, 1));
        three.minus(4).times(scales[first / 16])
    }
);

/// Returns 8 scales, each twice so far apart, and minimums likewise, of six bits, times what they are multiplied by at the
/// start of the block.
///
/// # Safety
/// As [`Ints`].
#[inline(always)]
unsafe fn six_bits<I: Ints>(block: &[u8]) -> Pairs {
    let four = |at: usize| u32::from_le_bytes(from_fn(|i| block[at + i]));
    let (first, second, third) = (four(4), four(8), four(12));
    let low_six = |x: u32| x & 0x3f3f_3f3f;
    let scales = u64::from(low_six(first)) | u64::from((third & 0x0f0f_0f0f) | ((first >> 2) & 0x3030_3030)) << 32;
    let minimums =
        u64::from(low_six(second)) | u64::from(((third >> 4) & 0x0f0f_0f0f) | ((second >> 2) & 0x3030_3030)) << 32;
    let (scales, minimums) = (scales.to_le_bytes(), minimums.to_le_bytes());
    let twice = |eight: [u8; 8]| -> [u8; 16] { from_fn(|i| eight[i % 8]) };
    let (scales, minimums) = (twice(scales), twice(minimums));
    // SAFETY: the caller's promise.
    unsafe {
        (
            sixteen_times(|first| I::signed(&scales[first..]), half::<I>(block, 0)),
            sixteen_times(|first| I::signed(&minimums[first..]), -half::<I>(block, 2)),
        )
    }
}

/// Returns four bits of each of 256 elements, in 32 bytes the low ones of 32 elements and then the high ones.
///
/// # Safety
/// As [`Ints`].
#[inline(always)]
unsafe fn large_nibbles<I: Ints>(bytes: &[u8], first: usize) -> I {
    // SAFETY: the caller's promise.
    unsafe { I::bits(&bytes[first / 64 * 32 + first % 32..], first / 32 % 2 * 4, 15) }
}

block!(
    /// What scales and minimums are multiplied by, 8 of these in six bits each, four bits for each element.
    Q4K, 256, 144, Pairs;
    |block| six_bits::<I>(block);
    |(scales, minimums), first| {
        I::plus(large_nibbles::<I>(&block[16..], first).times(scales[first / 32]), minimums[first / 32])
    }
);
block!(
    /// As `Q4K`, with a fifth bit for each element before the others.
    Q5K, 256, 176, Pairs;
    |block| six_bits::<I>(block);
    |(scales, minimums), first| {
        let fifth = I::bits(&block[16 + first % 32..], first / 32, 1);
        let five = large_nibbles::<I>(&block[48..], first).with::<4>(fifth);
        I::plus(five.times(scales[first / 32]), minimums[first / 32])
    }
);
block!(
    /// Four bits for each element, two more, 16 scales of a byte, what these are multiplied by.
    Q6K, 256, 210, [f32; 16];
    |block| sixteen_times(|first| I::signed(&block[192 + first..]), half::<I>(block, 208));
    |scales, first| {
        let (half, quarter) = (first / 128, first % 128 / 32);
        let low = I::bits(&block[half * 64 + quarter % 2 * 32 + first % 32..], quarter / 2 * 4, 15);
        let six = low.with::<4>(I::bits(&block[128 + half * 32 + first % 32..], quarter * 2, 3));
        six.minus(32).times(scales[first / 16])
    }
);

#[cfg(test)]
mod tests {
    use candle_core::quantized::GgmlDType;

    use super::*;
    use crate::error::Result;
    use crate::kernel::core::dequantize::Scratch;
    use crate::kernel::core::element::bytes_of;
    use crate::kernel::core::samples::table;
    use crate::kernel::product::skinny::panel::Hidden;
    use crate::kernel::product::skinny::rows::Rows;
    use crate::kernel::product::skinny::sweep::{Vectors, product_by};
    use crate::kernel::product::skinny::tests::paths;

    fn products<K: Kind>(path: Vectors, hidden: &Hidden<'_, f32>, table: &Rows<'_>) -> Vec<u32> {
        let found = std::sync::Mutex::new(vec![0; hidden.n_rows * table.n_rows]);
        product_by::<K, f32>(path, hidden, table, &|row, first, sums| {
            let bits = sums.iter().map(|sum| sum.to_bits());
            found.lock().unwrap().iter_mut().skip(row * table.n_rows + first).zip(bits).for_each(|(to, sum)| *to = sum);
        });
        found.into_inner().unwrap()
    }

    /// Compares products of blocks of any bytes with those of their elements as the look-up has them.
    fn assert_same<B: GgufBlock>(blocks: GgmlDType, halves: &[usize]) -> Result<()> {
        assert_eq!((B::ELEMENTS, B::BYTES), (blocks.block_size(), blocks.type_size()));
        for (n, n_rows, n_blocks) in [(1, 3, 1), (2, 9, 2), (7, 4, 1)] {
            let (width, n_bytes) = (n_blocks * B::ELEMENTS, n_blocks * B::BYTES);
            let mut state = 3u64;
            let mut bytes = vec![0; n_rows * n_bytes + 1];
            for byte in &mut bytes {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *byte = (state >> 40) as u8;
            }
            let bytes = &mut bytes[1..]; // at an odd address
            for block in bytes.chunks_mut(B::BYTES) {
                halves.iter().for_each(|&at| block[at + 1] &= !0x40); // finite
            }
            let (mut scratch, mut elements) = (Scratch::<f32>::new(width), Vec::new());
            for row in bytes.chunks(n_bytes) {
                elements
                    .extend_from_slice(scratch.dequantize(blocks, row).map_err(crate::kernel::core::storage::changed)?);
            }
            let values = table(n * width, 1, candle_core::DType::F32, 5)?.flatten_all()?.to_vec1::<f32>()?;
            let hidden = Hidden { values: &values, n_rows: n, n_columns: width, strides: (width, 1) };
            let dense = Rows::new(bytes_of(&elements), n_rows, 4 * width, 4 * width).unwrap();
            let stored = Rows::new(bytes, n_rows, n_bytes, n_bytes).unwrap();
            for path in paths() {
                let (found, expected) = (products::<B>(path, &hidden, &stored), products::<f32>(path, &hidden, &dense));
                assert_eq!(found, expected, "{blocks:?} by {path:?}: {n} {n_rows} {n_blocks}");
            }
        }
        Ok(())
    }

    #[test]
    fn blocks_are_multiplied_as_their_elements() -> Result<()> {
        assert_same::<Q4_0>(GgmlDType::Q4_0, &[0])?;
        assert_same::<Q4_1>(GgmlDType::Q4_1, &[0, 2])?;
        assert_same::<Q5_0>(GgmlDType::Q5_0, &[0])?;
        assert_same::<Q5_1>(GgmlDType::Q5_1, &[0, 2])?;
        assert_same::<Q8_0>(GgmlDType::Q8_0, &[0])?;
        assert_same::<Q2K>(GgmlDType::Q2K, &[80, 82])?;
        assert_same::<Q3K>(GgmlDType::Q3K, &[108])?;
        assert_same::<Q4K>(GgmlDType::Q4K, &[0, 2])?;
        assert_same::<Q5K>(GgmlDType::Q5K, &[0, 2])?;
        assert_same::<Q6K>(GgmlDType::Q6K, &[208])
    }
}
