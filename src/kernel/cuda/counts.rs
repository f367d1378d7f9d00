//! What a thread has asked of the driver, counted by the stand-in of `tests/cuda_host`.

use std::ffi::{CStr, c_void};

use crate::error::Result;

/// Returns a function of driver.cpp, or `None` on a real device.
fn of_stand_in(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: looks a name up, whatever its type.
    let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if function.is_null() {
        crate::tests::skipped("on CUDA, as only the stand-in counts");
        return None;
    }
    Some(function)
}

/// Returns the result of `work`, which is refused allocations of more than `n_bytes`, or `None` on a real device.
pub(super) fn refusing_above<T>(n_bytes: u64, work: impl FnOnce() -> T) -> Option<T> {
    let function = of_stand_in(c"cuda_host_refuse_above")?;
    // SAFETY: the function of driver.cpp has this type.
    let refuse_above = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(u64)>(function) };
    refuse_above(n_bytes);
    let result = work();
    refuse_above(u64::MAX);
    Some(result)
}

/// What the calling thread has asked for: `Count` of streams.h, in order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) launches: u64,
    pub(super) copies_in: u64,
    pub(super) bytes_in: u64,
    pub(super) copies_out: u64,
    pub(super) bytes_out: u64,
    pub(super) bytes_set: u64,
    pub(super) waits: u64,
    pub(super) longest_chain: u64,
    /// Page-locked memory that was allocated. How often depends on what other threads do.
    pub(super) buffers: u64,
}

impl Counts {
    /// Returns the counts of this thread since the last call, or `None` on a real device.
    pub(super) fn take() -> Option<Self> {
        let function = of_stand_in(c"cuda_host_take_counts")?;
        let mut counts = Self::default();
        // SAFETY: the function of driver.cpp has this type, and writes `N_COUNTS` numbers of 64 bits.
        unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*mut Self)>(function)(&mut counts) };
        Some(counts)
    }

    /// Returns the counts of `work`, and its result.
    pub(super) fn of<T>(work: impl FnOnce() -> Result<T>) -> Result<Option<(Self, T)>> {
        Self::take();
        let result = work()?;
        Ok(Self::take().map(|counts| (Self { longest_chain: 0, buffers: 0, ..counts }, result)))
    }
}
