//! A counting allocator: the memory that the process holds at once, in all threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Larger single requests are refused, as a machine without that much memory would.
const LIMIT: usize = 1 << 30;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Calls `f`, and returns its result and the most bytes that the process held at once, beyond those held before.
///
/// Calls wait for each other, so that a test counts only its own input.
pub fn peak<T>(f: impl FnOnce() -> T) -> (T, usize) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = f();
    (result, PEAK.load(Relaxed).saturating_sub(before))
}

/// Returns whether to request `n_bytes` from the system. A refused request counts in the peak.
fn granted(n_bytes: usize) -> bool {
    let granted = n_bytes <= LIMIT;
    let now = if granted { NOW.fetch_add(n_bytes, Relaxed) } else { NOW.load(Relaxed) };
    PEAK.fetch_max(now.saturating_add(n_bytes), Relaxed);
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
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of the system's allocator.
        unsafe { System.dealloc(start, layout) };
    }
}
