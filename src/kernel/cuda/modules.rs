//! Files of kernels, and a driver that is too old for them.

use std::ffi::c_int;
use std::fmt;

use candle_core::cuda_backend::CudaError;
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, DriverError, sys};
use candle_core::{CudaDevice, Error, Result, WithDType};

/// A file of kernels: its name, and its PTX.
pub(super) type Module = (&'static str, &'static str);

/// Names the module of a source file.
macro_rules! module {
    ($name:literal) => {
        (concat!("gpt-input-", $name), include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx")))
    };
}
pub(super) use module;

pub(super) const GATHER_ADD: Module = module!("gather_add");

/// Loads the kernels of the look-up, so that a driver that cannot is known when the device is opened.
///
/// # Errors
/// If the driver is older than the toolkit that compiled them, with both versions and what to do.
pub(in crate::kernel) fn load_kernels(device: &CudaDevice) -> Result<()> {
    function::<f32>(device, GATHER_ADD, "gather_add").map(drop)
}

/// Returns the kernel `name` for elements of type `E`, whose module is loaded first if it is not.
pub(super) fn function<E: WithDType>(device: &CudaDevice, (module, ptx): Module, name: &str) -> Result<CudaFunction> {
    let name = format!("{name}_{}", E::DTYPE.as_str());
    let loaded = device.get_or_load_custom_func(&name, module, ptx);
    loaded.map(|function| function.into_cuda_function()).map_err(|error| explained(error, ptx))
}

/// Returns the error of loading a module, which says what to do if the driver is too old for its PTX.
fn explained(error: Error, ptx: &str) -> Error {
    match driver_error(&error) {
        Some(sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION) => too_new(ptx),
        _ => error,
    }
}

fn driver_error(error: &Error) -> Option<sys::CUresult> {
    match error {
        Error::WithBacktrace { inner, .. } => driver_error(inner),
        Error::Cuda(error) => match error.downcast_ref()? {
            CudaError::Cuda(DriverError(code)) => Some(*code),
            _ => None,
        },
        _ => None,
    }
}

fn too_new(ptx: &str) -> Error {
    let toolkit = after(ptx, "release ", ',').unwrap_or("of an unknown version");
    let version = after(ptx, "\n.version ", '\n').unwrap_or("of an unknown version");
    let driver = DriverVersion::read();
    let text = format!(
        "CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the kernels are PTX {version} of CUDA toolkit {toolkit}, which is newer \
         than the driver, for CUDA {driver}: update the driver, or build with a toolkit up to {driver}, after \
         `cargo clean -p candle-kernels -p candle-gpt-input`"
    );
    Error::Msg(text).bt()
}

/// Returns what stands in the head of PTX between a word and a delimiter.
fn after<'a>(ptx: &'a str, word: &str, end: char) -> Option<&'a str> {
    let (_, rest) = ptx.split_once(word)?;
    Some(rest.split_once(end)?.0.trim())
}

/// The CUDA version that a driver supports: the one that `nvidia-smi` shows.
struct DriverVersion(c_int);

impl DriverVersion {
    fn read() -> Self {
        let mut version = 0;
        // SAFETY: the driver writes one number, before which it may refuse: then it stays zero.
        let _ = unsafe { sys::cuDriverGetVersion(&mut version) };
        Self(version)
    }
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use crate::GptInputLayer;

    /// A device that was opened by Candle is told from its first launch on that its driver is too old.
    #[test]
    fn a_launch_explains_an_old_driver() -> crate::error::Result<()> {
        let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
        let table = Tensor::zeros((3, 4), DType::F32, &Device::Cpu)?.to_device(&cuda)?;
        let layer = GptInputLayer::new(table.clone(), table)?;
        let error = layer.forward(&Tensor::new(&[[1u32, 2]], &Device::Cpu)?).err().map(|error| error.to_string());
        match std::env::var_os("CUDA_HOST_DRIVER") {
            Some(_) => {
                let text = error.unwrap_or_default();
                assert!(text.contains("the kernels are PTX 8.7 of CUDA toolkit 12.8, which is newer than"), "{text}");
            }
            None => assert_eq!(error, None),
        }
        Ok(())
    }
}
