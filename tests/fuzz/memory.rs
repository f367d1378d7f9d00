//! How much memory a thread has at once: an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Larger single requests are refused, as a machine without that much memory would.
const LIMIT: usize = 4 << 30;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Begins to count anew.
pub fn reset() {
    NOW.set(0);
    PEAK.set(0);
}

/// The most bytes that this thread has had at once since [`reset`].
pub fn peak() -> usize {
    usize::try_from(PEAK.get()).unwrap_or(0)
}

fn count(n_bytes: isize) {
    // A thread that ends has no counters any more.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + n_bytes);
        PEAK.set(PEAK.get().max(now.get()));
    });
}

// SAFETY: every call is handed to the system's allocator as it came, or refused with a null pointer.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        if layout.size() > LIMIT {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        if layout.size() > LIMIT {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is the system's.
        unsafe { System.dealloc(start, layout) };
    }
}
