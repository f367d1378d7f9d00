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
        "device {device}: this binary was built without `--features {feature}`; build with it, or use --device cpu"
    )]
    NotCompiled {
        /// The device asked for.
        device: String,
        /// The feature to build with.
        feature: &'static str,
    },
    /// The feature is there; the library or the device is not.
    #[error("device {device}: {reason}")]
    Unavailable {
        /// The device asked for.
        device: String,
        /// The first line of what the back end says.
        reason: String,
    },
}
