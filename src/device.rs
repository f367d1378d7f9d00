//! Where to compute, chosen at run time: text → [`DeviceSpec`] → [`candle_core::Device`].

use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::error::{DeviceError, Error, Result};
use crate::kernel::{keep_freed_memory, load_kernels};

/// Names a device as a user writes it: `auto`, `cpu`, `cuda`, `cuda:1`, `metal`, `metal:1`. Serde writes the same text.
///
/// Only [`DeviceSpec::Auto`] may fall back. An explicit request that cannot be met is an error that names what is
/// missing.
///
/// ```
/// use candle_gpt_input::DeviceSpec;
///
/// assert_eq!("cuda:1".parse::<DeviceSpec>()?, DeviceSpec::Cuda(1));
/// assert_eq!(DeviceSpec::Cuda(0).to_string(), "cuda:0");
/// assert!(DeviceSpec::Cpu.resolve()?.is_cpu());
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
#[doc(alias = "torch.device", alias = "map_location")]
pub enum DeviceSpec {
    /// The first of CUDA 0, Metal 0 and the CPU that works.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this index.
    Cuda(usize),
    /// The Metal device with this index.
    Metal(usize),
}

impl DeviceSpec {
    /// Opens the device.
    ///
    /// Call this once and clone the result: Candle treats two devices opened from the same index as different ones.
    ///
    /// Candle panics if there is no such Metal device. The panic becomes [`DeviceError::Unavailable`], but the
    /// program's panic hook still sees it (the default one prints to stderr), and a program that aborts on panics ends.
    ///
    /// # Errors
    /// - [`DeviceError::NotCompiled`] if the binary lacks the feature
    /// - [`DeviceError::Unavailable`] if the driver or the device is missing, or the driver is older than the CUDA
    ///   toolkit that compiled the binary
    ///
    /// `auto` and `cpu` cannot fail.
    #[doc(alias = "cuda.is_available", alias = "mps.is_available")]
    pub fn resolve(self) -> Result<Device> {
        Ok(self.resolve_with_report()?.0)
    }

    /// Opens the device as [`resolve`](Self::resolve) does, and reports which device was chosen and which were
    /// rejected.
    ///
    /// ```
    /// # use candle_gpt_input::DeviceSpec;
    /// let (device, report) = DeviceSpec::Cpu.resolve_with_report()?;
    /// assert!(device.is_cpu() && report.rejected.is_empty());
    /// assert_eq!(report.to_string(), "cpu");
    /// let (_, report) = DeviceSpec::Auto.resolve_with_report()?;
    /// println!("{report}"); // such as "cpu (cuda:0: built without the feature `cuda`; metal:0: …)"
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`DeviceError::NotCompiled`] if the binary lacks the feature
    /// - [`DeviceError::Unavailable`] if the driver or the device is missing, or the driver is older than the CUDA
    ///   toolkit that compiled the binary
    pub fn resolve_with_report(self) -> Result<(Device, DeviceReport)> {
        let mut rejected = Vec::new();
        if self == Self::Auto {
            for candidate in [Self::Cuda(0), Self::Metal(0)] {
                match candidate.open() {
                    Ok(device) => return Ok((device, DeviceReport::new(candidate, rejected))),
                    Err(DeviceError::NotCompiled { feature, .. }) => {
                        rejected.push((candidate, format!("built without the feature `{feature}`")));
                    }
                    Err(DeviceError::Unavailable { source, .. }) => rejected.push((candidate, source.to_string())),
                    Err(other) => return Err(other.into()),
                }
            }
            return Ok((Device::Cpu, DeviceReport::new(Self::Cpu, rejected)));
        }
        Ok((self.open()?, DeviceReport::new(self, rejected)))
    }

    /// Opens the device as [`resolve_with_report`](Self::resolve_with_report) does, and lets a CUDA device keep up to
    /// `n_bytes` of freed memory for the next tensors; `u64::MAX` keeps all.
    ///
    /// Otherwise the driver gives freed memory back to the system whenever a stream is waited for, and the next large
    /// tensor waits for it. Kept memory serves all tensors of this process on the device, those of Candle too, and no
    /// other process. Other devices have no such setting, and ignore it.
    ///
    /// ```
    /// # use candle_gpt_input::DeviceSpec;
    /// let (device, report) = DeviceSpec::Cpu.resolve_keeping(u64::MAX)?;
    /// assert!(device.is_cpu() && report.chosen == DeviceSpec::Cpu);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// - those of [`resolve_with_report`](Self::resolve_with_report)
    /// - [`Error::Candle`] if the CUDA device has no memory pool; `auto` takes it nevertheless, and reports it
    #[doc(alias("release threshold", "cudaMemPoolAttrReleaseThreshold"))]
    pub fn resolve_keeping(self, n_bytes: u64) -> Result<(Device, DeviceReport)> {
        let (device, mut report) = self.resolve_with_report()?;
        match keep_freed_memory(&device, n_bytes) {
            Err(error) if self == Self::Auto => report.keeps_nothing = Some(without_backtrace(error).to_string()),
            result => result?,
        }
        Ok((device, report))
    }

    fn open(self) -> std::result::Result<Device, DeviceError> {
        let (feature, compiled, opened) = match self {
            Self::Auto | Self::Cpu => return Ok(Device::Cpu),
            Self::Cuda(n) => ("cuda", cfg!(feature = "cuda"), new_cuda(n)),
            Self::Metal(n) => ("metal", cfg!(feature = "metal"), new_metal(n)),
        };
        opened.map_err(|error| {
            if compiled {
                DeviceError::Unavailable { device: self.to_string(), source: without_backtrace(error).into() }
            } else {
                DeviceError::NotCompiled { device: self.to_string(), feature }
            }
        })
    }
}

/// Opens a CUDA device whose driver loads this crate's kernels.
fn new_cuda(ordinal: usize) -> candle_core::Result<Device> {
    // Candle would open the device with the last 32 bits of the number.
    if i32::try_from(ordinal).is_err() {
        return Err(candle_core::Error::Msg(format!("there is no CUDA device {ordinal}")));
    }
    let device = Device::new_cuda(ordinal)?;
    load_kernels(&device)?;
    Ok(device)
}

/// Opens a Metal device.
///
/// `Device::new_metal` panics if there is no such device (candle-core 0.11.1, metal_backend/mod.rs:2025), and Candle
/// exports nothing that counts them.
fn new_metal(ordinal: usize) -> candle_core::Result<Device> {
    std::panic::catch_unwind(|| Device::new_metal(ordinal))
        .unwrap_or_else(|_| Err(candle_core::Error::Msg(format!("there is no Metal device {ordinal}"))))
}

/// Removes the backtrace that Candle adds to an error's text if `RUST_BACKTRACE` is set.
fn without_backtrace(error: candle_core::Error) -> candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => without_backtrace(*inner),
        other => other,
    }
}

impl FromStr for DeviceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || DeviceError::Unknown { text: text.to_string() };
        let (kind, ordinal) = match text.split_once(':') {
            Some((kind, ordinal)) => (kind, Some(ordinal.parse::<usize>().map_err(|_| unknown())?)),
            None => (text, None),
        };
        match (kind, ordinal) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("cuda", n) => Ok(Self::Cuda(n.unwrap_or(0))),
            ("metal", n) => Ok(Self::Metal(n.unwrap_or(0))),
            _ => Err(unknown().into()),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
            Self::Metal(n) => write!(f, "metal:{n}"),
        }
    }
}

impl From<DeviceSpec> for String {
    fn from(spec: DeviceSpec) -> Self {
        spec.to_string()
    }
}

impl TryFrom<String> for DeviceSpec {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// Reports what [`DeviceSpec::resolve_with_report`] chose, and why it rejected the devices before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceReport {
    /// The device that was opened.
    pub chosen: DeviceSpec,
    /// The devices that `auto` tried before, each with the reason for its rejection.
    pub rejected: Vec<(DeviceSpec, String)>,
    /// Why [`DeviceSpec::resolve_keeping`] could not let the device of `auto` keep freed memory.
    pub keeps_nothing: Option<String>,
}

impl DeviceReport {
    fn new(chosen: DeviceSpec, rejected: Vec<(DeviceSpec, String)>) -> Self {
        Self { chosen, rejected, keeps_nothing: None }
    }
}

impl fmt::Display for DeviceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.chosen)?;
        let rejected = self.rejected.iter().map(|(spec, reason)| format!("{spec}: {reason}"));
        let reasons: Vec<String> = rejected.chain(self.keeps_nothing.clone()).collect();
        if reasons.is_empty() { Ok(()) } else { write!(f, " ({})", reasons.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() -> Result<()> {
        for text in ["auto", "cpu", "cuda:0", "cuda:7", "metal:0", "metal:2"] {
            let spec: DeviceSpec = text.parse()?;
            assert_eq!(spec.to_string(), text);
            let json = serde_json::to_value(spec).ok();
            assert_eq!(json, Some(text.into()));
            assert_eq!(json.and_then(|json| serde_json::from_value(json).ok()), Some(spec));
        }
        assert_eq!("cuda".parse::<DeviceSpec>()?, DeviceSpec::Cuda(0));
        assert_eq!("metal".parse::<DeviceSpec>()?, DeviceSpec::Metal(0));
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "auto:1", "CUDA"] {
            let error = text.parse::<DeviceSpec>().err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.starts_with(&format!("`{text}` is not a device")), "{text}: {error}");
        }
        Ok(())
    }

    /// Runs on the stand-in of `tests/cuda_host` and on any machine: `auto` takes a device if there is one, and else
    /// says why not.
    #[cfg(feature = "cuda")]
    #[test]
    fn auto_takes_what_there_is() -> Result<()> {
        let (device, report) = DeviceSpec::Auto.resolve_with_report()?;
        match DeviceSpec::Cuda(0).resolve() {
            Ok(_) => assert!(device.is_cuda() && report.rejected.is_empty(), "{report}"),
            Err(error) => {
                assert!(device.is_cpu());
                let expected =
                    matches!(&error, Error::Device(DeviceError::Unavailable { device, .. }) if device == "cuda:0");
                assert!(expected, "{error}");
                let [(spec, reason), _] = &report.rejected[..] else { panic!("{report}") };
                assert_eq!(*spec, DeviceSpec::Cuda(0));
                match std::env::var("CUDA_HOST_DRIVER") {
                    Ok(version) => assert_eq!(*reason, too_old(&version)),
                    Err(_) => assert!(reason.contains("NO_DEVICE"), "{reason}"),
                }
            }
        }
        let beyond = DeviceSpec::Cuda(1 << 32).resolve();
        let text = beyond.err().and_then(|error| std::error::Error::source(&error).map(|source| source.to_string()));
        assert_eq!(text.as_deref(), Some("there is no CUDA device 4294967296"));
        let is_without = ["CUDA_HOST_DEVICES", "CUDA_HOST_DRIVER"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(device.is_cpu() || !is_without);
        Ok(())
    }

    /// Returns the reason on the stand-in, whose toolkit is 12.8, with a driver for an older version of CUDA.
    #[cfg(feature = "cuda")]
    fn too_old(driver: &str) -> String {
        format!(
            "CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the kernels are PTX 8.7 of CUDA toolkit 12.8, which is newer than the \
             driver, for CUDA {driver}: update the driver, or build with a toolkit up to {driver}, after \
             `cargo clean -p candle-kernels -p candle-gpt-input`"
        )
    }

    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    #[test]
    fn an_explicit_request_never_falls_back() -> Result<()> {
        for (spec, feature) in [(DeviceSpec::Cuda(0), "cuda"), (DeviceSpec::Metal(1), "metal")] {
            let error = spec.resolve().err().map(|e| e.to_string()).unwrap_or_default();
            assert_eq!(
                error,
                format!(
                    "cannot open the device {spec}: this binary was built without the feature `{feature}`: \
                     build with it, or choose `cpu`"
                )
            );
        }
        let (device, report) = DeviceSpec::Auto.resolve_with_report()?;
        assert!(device.is_cpu());
        assert_eq!(report.chosen, DeviceSpec::Cpu);
        let tried: Vec<_> = report.rejected.iter().map(|(spec, _)| *spec).collect();
        assert_eq!(tried, [DeviceSpec::Cuda(0), DeviceSpec::Metal(0)]);
        assert_eq!(
            report.to_string(),
            "cpu (cuda:0: built without the feature `cuda`; metal:0: built without the feature `metal`)"
        );
        Ok(())
    }
}
