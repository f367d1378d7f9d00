//! Copies to the device that never wait for it, from page-locked memory. A copy from other memory of more than 64 KiB
//! may first wait for everything that the stream was given before.

use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, DevicePtrMut, DeviceRepr, PinnedHostSlice, result, sys,
};
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CudaDevice, CudaStorage, Result, Storage, Tensor};

use super::pool::unwritten;

/// Words of 64 bits of the smallest buffer.
const LEAST_WORDS: usize = 1 << 13;
/// Copies of one thread that may be under way. The next one waits for the oldest: a host far ahead of its device does not
/// lock more and more memory.
const MOST_COPIES: usize = 16;

/// Page-locked memory, who last copied from it, and when that copy is done.
struct Buffer {
    memory: PinnedHostSlice<u64>,
    thread: ThreadId,
    copied: CudaEvent,
}

/// All buffers of this process, by the time of their last copy. Making one takes longer than a copy, so they are kept.
static BUFFERS: Mutex<Vec<Buffer>> = Mutex::new(Vec::new());

fn buffers() -> MutexGuard<'static, Vec<Buffer>> {
    BUFFERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns memory of at least `n_words` from which no copy is under way.
fn memory_of(context: &Arc<CudaContext>, n_words: usize) -> Result<PinnedHostSlice<u64>> {
    let mut buffers = buffers();
    let of_context = |buffer: &Buffer| buffer.memory.context() == context;
    let fits = |memory: &PinnedHostSlice<u64>| memory.len() >= n_words;
    let free =
        buffers.iter().position(|buffer| of_context(buffer) && fits(&buffer.memory) && buffer.copied.is_complete());
    if let Some(index) = free {
        return Ok(buffers.remove(index).memory);
    }
    let is_own = |buffer: &Buffer| of_context(buffer) && buffer.thread == thread::current().id();
    let oldest = buffers.iter().position(is_own);
    if let Some(oldest) = oldest.filter(|_| buffers.iter().filter(|&buffer| is_own(buffer)).count() >= MOST_COPIES) {
        let Buffer { memory, copied, .. } = buffers.remove(oldest);
        drop(buffers); // others need not wait
        copied.synchronize().w()?;
        if fits(&memory) {
            return Ok(memory);
        }
    }
    // SAFETY: only what `upload` writes is read.
    unsafe { context.alloc_pinned(n_words.next_power_of_two().max(LEAST_WORDS)).w() }
}

/// Returns a copy of `n` values on the device.
pub(super) fn upload<T: DeviceRepr>(
    device: &CudaDevice,
    n: usize,
    values: impl IntoIterator<Item = T>,
) -> Result<CudaSlice<T>> {
    const { assert!(align_of::<T>() <= align_of::<u64>()) };
    let stream = device.cuda_stream();
    if stream.capture_status().w()? != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
        // A replay would copy what the buffer holds by then.
        candle_core::bail!("a graph cannot capture a copy from the host: put ids on the device before");
    }
    // SAFETY: the copy below writes every element.
    let mut copy = unsafe { unwritten::<T>(device, n)? };
    let mut memory = memory_of(stream.context(), (n * size_of::<T>()).div_ceil(size_of::<u64>()))?;
    let start: *mut MaybeUninit<T> = memory.as_mut_ptr().w()?.cast();
    // SAFETY: the buffer has `n` elements of this size, aligned for 64 bits, and nobody else has it.
    let staged = unsafe { std::slice::from_raw_parts_mut(start, n) };
    let n_written = staged.iter_mut().zip(values).map(|(to, value)| to.write(value)).count();
    if n_written < n {
        candle_core::bail!("{n_written} values for {n} elements on a device");
    }
    {
        let (to, _to) = copy.device_ptr_mut(&stream);
        // SAFETY: all `n` are written.
        let staged = unsafe { std::slice::from_raw_parts(start.cast::<T>(), n) };
        // SAFETY: `copy` has room for them. The buffer is kept, and not written before `copied` has passed.
        unsafe { result::memcpy_htod_async(to, staged, stream.cu_stream()).w()? };
    }
    let copied = stream.record_event(None).w()?;
    buffers().push(Buffer { memory, thread: thread::current().id(), copied });
    Ok(copy)
}

/// Returns a copy of contiguous ids of the host on the device.
pub(in crate::kernel) fn upload_ids(ids: &Tensor, device: &CudaDevice) -> Result<Tensor> {
    let (storage, layout) = ids.storage_and_layout();
    let contiguous = layout.contiguous_offsets();
    let (start, end) = contiguous.ok_or_else(|| candle_core::Error::RequiresContiguous { op: "upload" }.bt())?;
    let n = end - start;
    let copy = match &*storage {
        Storage::Cpu(CpuStorage::U8(ids)) => {
            CudaStorage::wrap_cuda_slice(upload(device, n, ids[start..end].iter().copied())?, device.clone())
        }
        Storage::Cpu(CpuStorage::U32(ids)) => {
            CudaStorage::wrap_cuda_slice(upload(device, n, ids[start..end].iter().copied())?, device.clone())
        }
        Storage::Cpu(CpuStorage::I64(ids)) => {
            CudaStorage::wrap_cuda_slice(upload(device, n, ids[start..end].iter().copied())?, device.clone())
        }
        _ => candle_core::bail!("ids of {:?} on {:?} cannot be copied", ids.dtype(), ids.device().location()),
    };
    Ok(Tensor::from_storage(Storage::Cuda(copy), ids.shape(), BackpropOp::none(), false))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::error;
    use crate::kernel::core::samples::shifted;
    use crate::kernel::cuda::counts::Counts;
    use crate::kernel::cuda::tests::{on, same};
    use crate::optim::RowGrad;

    /// Tables beyond the 64 KiB that a driver copies at once from any memory: still no wait, from buffers that are
    /// reused only when their copy is done.
    #[test]
    fn large_tables_wait_for_nothing() -> error::Result<()> {
        let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
        let (n_rows, n) = (50_000, 40_000);
        let table = Var::from_tensor(&on(&cuda, &Tensor::zeros((n_rows, 1), DType::F32, &Device::Cpu)?)?)?;
        let rows = shifted(n, 1, 0, DType::F32, 5)?;
        let rows_there = on(&cuda, &rows)?;
        let here = Var::from_tensor(&Tensor::zeros((n_rows, 1), DType::F32, &Device::Cpu)?)?;
        let mut found = Vec::new();
        let steps = || -> error::Result<()> {
            for seed in 0..3u32 {
                let id = |i: u32| (i.wrapping_mul(2_654_435_761) ^ seed) % n_rows as u32;
                let ids = Tensor::from_vec((0..n as u32).map(id).collect::<Vec<_>>(), n, &Device::Cpu)?;
                let dense = |var: &Var, rows: &Tensor| RowGrad::new(var, &ids, rows)?.to_dense();
                found.push((dense(&table, &rows_there)?, dense(&here, &rows)?));
            }
            Ok(())
        };
        // Nothing runs before the counts are taken, so three buffers are under way.
        if let Some((counts, ())) = Counts::of(steps)? {
            assert_eq!((counts.copies_in, counts.waits), (3, 0));
            assert!(counts.bytes_in > 3 << 16, "{counts:?}");
        }
        for (there, here) in found {
            same(&there, &here, "large tables")?;
        }
        Ok(())
    }

    #[test]
    fn a_capture_is_refused() -> error::Result<()> {
        let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
        let device = cuda.as_cuda_device()?;
        let stream = device.cuda_stream();
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).w()?;
        let copied = upload_ids(&Tensor::new(&[1u32, 2], &Device::Cpu)?, device);
        // Of an empty graph there is nothing to run.
        let _ = stream.end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
        let text = copied.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains("a graph cannot capture a copy from the host"), "{text}");
        Ok(())
    }

    /// Copies that are done leave their buffers to the next ones. Of those under way there are only so many.
    #[test]
    fn buffers_are_few() -> error::Result<()> {
        let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
        let device = cuda.as_cuda_device()?;
        let n_rounds = 200;
        for is_done in [true, false] {
            Counts::take();
            for _ in 0..n_rounds {
                let copy = upload(device, 1000, 0..1000u32)?;
                if is_done {
                    device.clone_dtoh(&copy)?;
                }
            }
            let Some(counts) = Counts::take() else { return Ok(()) };
            // Tests in other threads take some of the free ones.
            assert!(counts.buffers <= n_rounds / 2, "{is_done} {counts:?}");
            let waits = if is_done { n_rounds } else { n_rounds - MOST_COPIES as u64 };
            assert_eq!(counts.waits, waits, "{is_done}");
        }
        Ok(())
    }
}
