//! [`DeviceError`]: why a device cannot be used.

use super::shown::Shown;

/// Says why a device cannot be used.
///
/// ```
/// use candle_gpt_input::device::DeviceSpec;
///
/// let error = "gpu".parse::<DeviceSpec>().unwrap_err();
/// assert_eq!(error.to_string(), "`gpu` is not a device: use auto, cpu, cuda, cuda:N, metal or metal:N");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Text that does not name a device.
    #[error("`{text}` is not a device: use auto, cpu, cuda, cuda:N, metal or metal:N", text = Shown::name(text))]
    Unknown {
        /// The text given.
        text: String,
    },
    /// The binary was built without the feature that the device needs.
    #[error(
        "cannot open the device {device}: this binary was built without the feature `{feature}`: \
         build with it, or choose `cpu`"
    , device = Shown::name(device))]
    NotCompiled {
        /// The requested device.
        device: String,
        /// The feature to build with.
        feature: &'static str,
    },
    /// A device that is not there, or whose driver is missing, or older than the CUDA toolkit that compiled the binary.
    /// The source is the back end's error.
    #[error("cannot open the device {device}", device = Shown::name(device))]
    #[non_exhaustive]
    Unavailable {
        /// The requested device.
        device: String,
        /// The back end's error, without a backtrace.
        source: Box<candle_core::Error>,
    },
}
