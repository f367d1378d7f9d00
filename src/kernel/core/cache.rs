//! [`last_level_bytes`]: how much the largest cache holds.

use std::sync::OnceLock;

/// Where a CPU does not say it.
const UNKNOWN: usize = 8 << 20;

/// Returns the bytes of the largest cache that a core reaches. Unit tests take a small one, which their outputs exceed.
pub(crate) fn last_level_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| stated().filter(|_| !cfg!(test)).unwrap_or(UNKNOWN))
}

/// Asks the CPU: AMD's leaf 0x8000_001d, if it has one, and Intel's leaf 4 have the same fields.
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn stated() -> Option<usize> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let last_of = |leaf: u32, has_leaf: bool| {
        let caches = (0..16).take_while(|_| has_leaf).map(|index| __cpuid_count(leaf, index));
        let bytes = |cache: std::arch::x86_64::CpuidResult| {
            let field = |from: u32, n_bits: u32| u64::from(cache.ebx >> from & ((1 << n_bits) - 1)) + 1;
            let n_sets = u64::from(cache.ecx) + 1;
            usize::try_from(field(22, 10) * field(12, 10) * field(0, 12) * n_sets).ok()
        };
        caches.take_while(|cache| cache.eax & 31 != 0).filter_map(bytes).max()
    };
    // Bit 22: the leaf of caches is there.
    let is_amd = __cpuid(0x8000_0000).eax >= 0x8000_001d && __cpuid(0x8000_0001).ecx >> 22 & 1 == 1;
    last_of(0x8000_001d, is_amd).or_else(|| last_of(4, __cpuid(0).eax >= 4))
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn stated() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux asks the CPU too.
    #[test]
    #[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
    fn the_largest_cache_is_the_one_that_the_system_knows() {
        let sizes = (0..8).filter_map(|index| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
            let text = std::fs::read_to_string(path).ok()?;
            text.trim().strip_suffix('K')?.parse::<usize>().ok()
        });
        let known = sizes.max().map(|kb| kb << 10);
        assert!(known.is_none() || stated() == known, "{:?} {known:?}", stated());
    }
}
