//! Memory for large arrays, and for arrays of any size that a caller asks for.

use std::alloc::Layout;

use candle_core::{Device, Tensor, WithDType};

use crate::error::{Error, Result};

/// From here on an allocation is tried before another library makes it. A smaller one fails only where nothing works.
const TRIED_FROM: usize = 64 << 20;

/// Returns how many elements an array of shape `dims` has, if they and their bytes can be counted.
pub(crate) fn counted(what: &'static str, dims: &[usize], element_bytes: usize) -> Result<usize> {
    if dims.contains(&0) {
        return Ok(0);
    }
    let n = dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
    n.filter(|n| n.checked_mul(element_bytes).is_some_and(|n_bytes| n_bytes <= isize::MAX as usize))
        .ok_or_else(|| Error::TooLarge { what, dims: dims.to_vec(), element_bytes })
}

/// Returns how many elements an array of shape `dims` has, if they can be counted and allocated on the host.
///
/// Call it before memory is asked for by a number that a caller has given, above all before Candle does, which aborts.
/// It relies on the allocator: on Linux a single allocation is refused if it is larger than memory and swap together,
/// or than a limit of the process; smaller ones may be granted and yet not be there when they are used.
pub(crate) fn fits(what: &'static str, dims: &[usize], element_bytes: usize) -> Result<usize> {
    let n = counted(what, dims, element_bytes)?;
    match n * element_bytes < TRIED_FROM || can_allocate(n * element_bytes) {
        true => Ok(n),
        false => Err(Error::TooLarge { what, dims: dims.to_vec(), element_bytes }),
    }
}

/// Returns how many elements a tensor has, if a contiguous copy of it can be allocated. It may repeat its elements.
pub(crate) fn copy_fits(what: &'static str, tensor: &Tensor) -> Result<usize> {
    fits_on(tensor.device(), what, tensor.dims(), tensor.dtype().size_in_bytes())
}

/// Does what [`fits`] does for a tensor on `device`. Other devices than the CPU say themselves that memory is short.
pub(crate) fn fits_on(device: &Device, what: &'static str, dims: &[usize], element_bytes: usize) -> Result<usize> {
    if device.is_cpu() { fits(what, dims, element_bytes) } else { counted(what, dims, element_bytes) }
}

fn can_allocate(n_bytes: usize) -> bool {
    let mut bytes = Vec::<u8>::new();
    let is_granted = bytes.try_reserve_exact(n_bytes).is_ok();
    // Else the compiler may leave out an allocation that nobody uses, and call it granted.
    std::hint::black_box(&bytes);
    is_granted
}

/// Returns `n` zeros. The system provides them, so no page is touched before it is used.
pub(crate) fn zeros<E: WithDType>(n: usize) -> Result<Vec<E>> {
    let too_large = || Error::TooLarge { what: "an array", dims: vec![n], element_bytes: size_of::<E>() };
    let layout = Layout::array::<E>(n).map_err(|_| too_large())?;
    if layout.size() == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the size is not zero. All-zero bytes are the value zero in every element type. The memory has the layout
    // of a vector with capacity `n`, and nothing else owns it.
    unsafe {
        let start = std::alloc::alloc_zeroed(layout).cast::<E>();
        if start.is_null() {
            return Err(too_large());
        }
        ask_for_huge_pages(start, layout.size());
        Ok(Vec::from_raw_parts(start, n, n))
    }
}

/// Returns an empty vector with room for `n` elements.
pub(crate) fn with_capacity<E>(n: usize) -> Result<Vec<E>> {
    room_for("an array", n)
}

/// Collects `n` items that `make` returns one after the other.
pub(crate) fn collected<E>(what: &'static str, n: usize, mut make: impl FnMut() -> E) -> Result<Vec<E>> {
    let mut items = room_for(what, n)?;
    items.extend((0..n).map(|_| make()));
    Ok(items)
}

/// Returns an empty vector with room for `n` elements, which an error calls `what`.
pub(crate) fn room_for<E>(what: &'static str, n: usize) -> Result<Vec<E>> {
    let too_large = |_| Error::TooLarge { what, dims: vec![n], element_bytes: size_of::<E>() };
    try_with_capacity(n).map_err(too_large)
}

/// Returns an empty vector with room for `n` elements, or an error of the kind that readers of files have.
pub(crate) fn try_with_capacity<E>(n: usize) -> std::io::Result<Vec<E>> {
    let mut values = Vec::new();
    try_grow(&mut values, n)?;
    ask_for_huge_pages(values.as_ptr(), n * size_of::<E>());
    Ok(values)
}

/// Makes room for `n` elements in all.
pub(crate) fn try_grow<E>(values: &mut Vec<E>, n: usize) -> std::io::Result<()> {
    values.try_reserve_exact(n.saturating_sub(values.len())).map_err(|_| {
        let n_bytes = n as u128 * size_of::<E>() as u128;
        let text = format!("{n_bytes} bytes are needed at once, more than this machine's memory holds");
        std::io::Error::new(std::io::ErrorKind::OutOfMemory, text)
    })
}

/// Smaller allocations hold no whole huge page.
#[cfg(target_os = "linux")]
const HUGE_PAGES_FROM: usize = 2 << 20;

/// Asks for 2 MB pages for new memory, if the system grants them on request (`madvise`, the default of most
/// distributions).
///
/// Random rows of a table then miss the TLB less often, and writing a new output takes 512 times fewer page faults. If
/// the system refuses, nothing changes.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages<E>(start: *const E, n_bytes: usize) {
    if n_bytes < HUGE_PAGES_FROM {
        return;
    }
    const PAGE: usize = 4096;
    // Includes a first page that another array shares: a gap between the advice for both would keep small pages across
    // their border.
    let head = start.addr() % PAGE;
    // SAFETY: the pages hold this allocation, and the advice changes nothing that a program can read.
    unsafe {
        libc::madvise(start.cast_mut().wrapping_byte_sub(head).cast(), n_bytes + head, libc::MADV_HUGEPAGE);
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages<E>(_: *const E, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_counted_or_allocated_is_refused() {
        for (dims, n) in [(vec![], 1), (vec![3, 4], 12), (vec![usize::MAX, 0, usize::MAX], 0)] {
            assert_eq!(fits("x", &dims, 4).unwrap(), n);
        }
        for dims in [vec![(1 << 62) + 1, 4], vec![1 << 62], vec![1 << 61], vec![1 << 50], vec![1 << 31, 1 << 31, 4]] {
            let error = fits("wte", &dims, 4).unwrap_err().to_string();
            let start = format!("wte of shape {dims:?} in elements of 4 bytes is more than this machine can hold");
            assert!(error.starts_with(&start), "{error}");
        }
        assert!(zeros::<f32>(1 << 61).is_err() && zeros::<f32>(1 << 50).is_err() && zeros::<f32>(0).is_ok());
        assert!(collected("draws", usize::MAX, || 0u8).is_err());
        assert_eq!(collected("draws", 2, || 7u8).unwrap(), [7, 7]);
    }
}
