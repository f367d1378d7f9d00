//! [`AdamState`]: the running averages of one parameter.

use candle_core::Tensor;

/// Adam's state of a parameter.
///
/// The next step continues from these very tensors and changes them in place: copy what is to stay (`Tensor::copy`), do
/// not write to them, and do not read them in another thread while a step runs.
#[derive(Debug)]
#[non_exhaustive]
pub struct AdamState {
    /// The number of steps that the parameter has made.
    pub step: u64,
    /// The running average of the gradient.
    pub exp_avg: Tensor,
    /// The running average of the gradient's square.
    pub exp_avg_sq: Tensor,
}
