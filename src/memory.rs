//! Memory for large arrays.

use candle_core::WithDType;

/// Returns `n` zeros. The system provides them, so no page is touched before it is used.
pub(crate) fn zeros<E: WithDType>(n: usize) -> Vec<E> {
    let Ok(layout) = std::alloc::Layout::array::<E>(n) else { return vec![E::zero(); n] };
    if layout.size() == 0 {
        return Vec::new();
    }
    // SAFETY: the size is not zero. All-zero bytes are the value zero in every element type. The memory has the layout
    // of a vector with capacity `n`, and nothing else owns it.
    unsafe {
        let start = std::alloc::alloc_zeroed(layout).cast::<E>();
        if start.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        ask_for_huge_pages(start, layout.size());
        Vec::from_raw_parts(start, n, n)
    }
}

/// Returns an empty vector with room for `n` elements.
pub(crate) fn with_capacity<E>(n: usize) -> Vec<E> {
    let values = Vec::with_capacity(n);
    ask_for_huge_pages(values.as_ptr(), n * size_of::<E>());
    values
}

/// Returns an empty vector with room for `n` elements, or an error where [`with_capacity`] would abort.
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

/// Smaller allocations hardly contain a whole huge page.
#[cfg(target_os = "linux")]
const HUGE_PAGES_FROM: usize = 8 << 20;

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
