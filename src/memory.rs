//! Memory for large arrays of numbers.

use candle_core::WithDType;

/// `n` zeros that the system provides: no page of them is touched before it is used.
pub(crate) fn zeros<E: WithDType>(n: usize) -> Vec<E> {
    let Ok(layout) = std::alloc::Layout::array::<E>(n) else { return vec![E::zero(); n] };
    if layout.size() == 0 {
        return Vec::new();
    }
    // SAFETY: the size is not zero; all-zero bytes are the number zero in every type of element; the memory has the layout
    // of a vector with capacity `n`, and is its own.
    unsafe {
        let start = std::alloc::alloc_zeroed(layout).cast::<E>();
        if start.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        ask_for_huge_pages(start, layout.size());
        Vec::from_raw_parts(start, n, n)
    }
}

/// Room for `n` numbers.
pub(crate) fn with_capacity<E>(n: usize) -> Vec<E> {
    let values = Vec::with_capacity(n);
    ask_for_huge_pages(values.as_ptr(), n * size_of::<E>());
    values
}

/// Below this an allocation has hardly a huge page whole.
#[cfg(target_os = "linux")]
const HUGE_PAGES_FROM: usize = 8 << 20;

/// Pages of 2 MB for memory that was just allocated, where the system gives them to who asks (`madvise`, what most
/// distributions set): rows taken from all over a table then miss the address cache once instead of twice each, and a fresh
/// output costs a five-hundredth of the page faults. A wish: what is not granted changes nothing.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages<E>(start: *const E, n_bytes: usize) {
    if n_bytes < HUGE_PAGES_FROM {
        return;
    }
    const PAGE: usize = 4096;
    // Whole pages: what two arrays share must not part them, or the huge page across their border stays small pages.
    let head = start.addr() % PAGE;
    // SAFETY: the pages hold this allocation, and the advice changes nothing that a program can read.
    unsafe {
        libc::madvise(start.cast_mut().wrapping_byte_sub(head).cast(), n_bytes + head, libc::MADV_HUGEPAGE);
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages<E>(_: *const E, _: usize) {}
