//! A training step: the pieces of a block with their gradients, the tied head's loss, the optimizers.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

mod adoptions;
mod head;
mod links;
mod loss;
#[cfg(feature = "mpi")]
mod mpi;
mod nn;
mod optim;
mod packed;
mod quantized_linear;
mod ranks;
mod resize;
mod sharing;
mod sums;
#[path = "../support/mod.rs"]
mod support;
mod vocab_parallel;
mod zero;

/// Counts the bytes that each thread allocates.
struct Counting;

thread_local! {
    static N_BYTES: Cell<usize> = const { Cell::new(0) };
    /// What the thread holds now, and the most that it held.
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(n_bytes: usize) {
    N_BYTES.set(N_BYTES.get() + n_bytes);
    NOW.set(NOW.get().saturating_add_unsigned(n_bytes));
    PEAK.set(PEAK.get().max(NOW.get()));
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        NOW.set(NOW.get().saturating_sub_unsigned(layout.size()));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Returns how many bytes `f` allocates, freed ones included, on this thread, which may not hand work to others.
fn allocated<E: Send>(f: impl FnOnce() -> Result<(), E> + Send) -> Result<usize, E> {
    on_one_thread(|| {
        let before = N_BYTES.get();
        f()?;
        Ok(N_BYTES.get() - before)
    })
}

/// Returns the result of `f`, and the most bytes that were allocated at once while it ran.
fn peak<T: Send>(f: impl FnOnce() -> T + Send) -> (T, usize) {
    on_one_thread(|| {
        let before = NOW.get();
        PEAK.set(before);
        let result = f();
        (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
    })
}

fn on_one_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(f)
}
