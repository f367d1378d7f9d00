//! A training step: the pieces of a block with their gradients, the tied head's loss, the optimizers.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

mod adoptions;
mod head;
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
#[path = "../support/mod.rs"]
mod support;

/// Counts the bytes that each thread allocates.
struct Counting;

thread_local! {
    static N_BYTES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        N_BYTES.set(N_BYTES.get() + layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        N_BYTES.set(N_BYTES.get() + layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Returns how many bytes `f` allocates, freed ones included, on this thread, which may not hand work to others.
fn allocated<E>(f: impl FnOnce() -> Result<(), E> + Send) -> Result<usize, E>
where
    E: Send,
{
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        let before = N_BYTES.get();
        f()?;
        Ok(N_BYTES.get() - before)
    })
}
