//! A counting allocator: the memory that a thread holds at once.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Larger single requests are refused, as a machine without that much memory would.
const LIMIT: usize = 1 << 30;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// What the thread holds now, and the most that it held. Another thread may free what this one has allocated.
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Calls `f`, and returns its result and the most bytes that its thread held at once, beyond those held before.
///
/// Other threads do not count: they prepare the inputs of other tests.
pub fn peak<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let result = f();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}

/// Returns whether to request `n_bytes` from the system. A refused request counts in the peak.
fn granted(n_bytes: usize) -> bool {
    let granted = n_bytes <= LIMIT;
    let now = NOW.get().saturating_add_unsigned(n_bytes);
    if granted {
        NOW.set(now);
    }
    PEAK.set(PEAK.get().max(now));
    granted
}

// SAFETY: every call is passed unchanged to the system's allocator, or refused with a null pointer.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !granted(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps the contract of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !granted(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps the contract of the system's allocator.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        NOW.set(NOW.get().saturating_sub_unsigned(layout.size()));
        // SAFETY: the caller keeps the contract of the system's allocator.
        unsafe { System.dealloc(start, layout) };
    }
}
