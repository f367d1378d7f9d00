//! Copies to the device that never wait for it, from page-locked memory. A copy from other memory of more than 64 KiB
//! may first wait for everything that the stream was given before.

use std::sync::{Mutex, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaSlice, DevicePtrMut, PinnedHostSlice, result};
use candle_core::{CudaDevice, Result};

/// Words of the smallest buffer.
const LEAST_WORDS: usize = 1 << 14;

/// Page-locked memory, and when the last copy from it is done.
struct Buffer {
    memory: PinnedHostSlice<u32>,
    copied: CudaEvent,
}

/// All buffers of this process: as many as copies were ever under way at a time. Making one takes longer than the copy,
/// so none is freed.
static BUFFERS: Mutex<Vec<Buffer>> = Mutex::new(Vec::new());

/// Returns a copy of `words` on the device.
pub(super) fn upload(device: &CudaDevice, words: &[u32]) -> Result<CudaSlice<u32>> {
    let stream = device.cuda_stream();
    let context = stream.context();
    // SAFETY: the copy below writes every element.
    let mut copy = unsafe { device.alloc::<u32>(words.len())? };
    let mut buffers = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
    let is_free = |buffer: &Buffer| {
        buffer.memory.context() == context && buffer.memory.len() >= words.len() && buffer.copied.is_complete()
    };
    let mut memory = match buffers.iter().position(is_free) {
        Some(index) => buffers.swap_remove(index).memory,
        // SAFETY: only what is written below is read.
        None => unsafe { context.alloc_pinned(words.len().next_power_of_two().max(LEAST_WORDS)).w()? },
    };
    let staged = &mut memory.as_mut_slice().w()?[..words.len()];
    staged.copy_from_slice(words);
    {
        let (to, _to) = copy.device_ptr_mut(&stream);
        // SAFETY: both have the length of `words`. The memory is kept, and not written before `copied` has passed.
        unsafe { result::memcpy_htod_async(to, staged, stream.cu_stream()).w()? };
    }
    buffers.push(Buffer { memory, copied: stream.record_event(None).w()? });
    Ok(copy)
}
