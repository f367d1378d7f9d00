//! The memory pool of a device.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::{CudaDevice, Error, Result};

const THRESHOLD: sys::CUmemPool_attribute = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;

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
    // SAFETY: the device is that of an open context.
    unsafe { result::device::get_mem_pool(device.cuda_stream().context().cu_device()) }.map_err(|error| {
        Error::Msg(format!("no memory pool can keep freed memory ({error}): open the device without it")).bt()
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
            let text = keeping(1).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(text.contains("no memory pool can keep freed memory (DriverError("), "{text}");
            assert!(text.contains("): open the device without it"), "{text}");
            return Ok(());
        }
        for n_bytes in [1 << 40, u64::MAX, 0] {
            let (device, report) = keeping(n_bytes)?;
            assert!(device.is_cuda() && report.rejected.is_empty());
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
