//! Why a device cannot be used.

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Text that names no device.
    #[error("`{text}` is no device: use auto, cpu, cuda, cuda:N, metal or metal:N")]
    Unknown {
        /// The text given.
        text: String,
    },
    /// The binary was built without the feature that the device needs.
    #[error(
        "cannot open the device {device}: this binary was built without the feature `{feature}`: build with it, or choose `cpu`"
    )]
    NotCompiled {
        /// The device asked for.
        device: String,
        /// The feature to build with.
        feature: &'static str,
    },
    /// A device whose driver or hardware is missing. The source is what the back end says.
    #[error("cannot open the device {device}")]
    #[non_exhaustive]
    Unavailable {
        /// The device asked for.
        device: String,
        /// What the back end says, without a backtrace.
        source: Box<candle_core::Error>,
    },
}
