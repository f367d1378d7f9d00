//! The memory of a device, and the pool that it comes from.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr, result, sys};
use candle_core::{CudaDevice, Error, Result};

const THRESHOLD: sys::CUmemPool_attribute = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;

/// Returns memory for at least `n` elements.
///
/// # Safety
/// Whatever it holds is not read before it is written.
pub(super) unsafe fn unwritten<T: DeviceRepr>(device: &CudaDevice, n: usize) -> Result<CudaSlice<T>> {
    // A device without a pool refuses to allocate nothing.
    // SAFETY: the caller's promise.
    unsafe { device.alloc::<T>(n.max(1)) }
}

/// Lets the pool keep up to `n_bytes` of freed memory when a stream is waited for.
///
/// # Errors
/// If the device has no pool.
pub(in crate::kernel) fn keep_freed_memory(device: &CudaDevice, n_bytes: u64) -> Result<()> {
    let mut value = n_bytes;
    // SAFETY: the attribute is a number of 64 bits.
    unsafe { result::mem_pool::set_attribute(pool(device)?, THRESHOLD, (&raw mut value).cast()).w() }
}

fn pool(device: &CudaDevice) -> Result<sys::CUmemoryPool> {
    let context = device.cuda_stream().context().clone();
    // SAFETY: the device is that of an open context.
    unsafe { result::device::get_mem_pool(context.cu_device()) }.map_err(|error| {
        let device = context.ordinal();
        Error::Msg(format!("cuda:{device} has no memory pool that keeps freed memory ({error}): open it by `resolve`"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceSpec;

    #[test]
    fn the_pool_keeps_what_is_said() -> crate::error::Result<()> {
        let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
        let keeping = |n_bytes| DeviceSpec::Cuda(0).resolve_keeping(n_bytes);
        if std::env::var_os("CUDA_HOST_POOLS").is_some_and(|n| n == "0") {
            let is_why = |text: &str| {
                text.starts_with("cuda:0 has no memory pool that keeps freed memory (DriverError(")
                    && text.ends_with("): open it by `resolve`")
            };
            let text = keeping(1).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(is_why(&text), "{text}");
            let (device, report) = DeviceSpec::Auto.resolve_keeping(1)?;
            assert!(device.is_cuda() && report.keeps_nothing.as_deref().is_some_and(is_why), "{report}");
            assert!(report.to_string().starts_with("cuda:0 (cuda:0 has no memory pool"), "{report}");
            return Ok(());
        }
        for n_bytes in [1 << 40, u64::MAX, 0] {
            let (device, report) = keeping(n_bytes)?;
            assert!(device.is_cuda() && report.rejected.is_empty() && report.keeps_nothing.is_none());
            let mut found = 1u64;
            // SAFETY: as above.
            unsafe {
                result::mem_pool::get_attribute(pool(cuda.as_cuda_device()?)?, THRESHOLD, (&raw mut found).cast())
                    .w()?;
            }
            assert_eq!(found, n_bytes);
        }
        Ok(())
    }
}
