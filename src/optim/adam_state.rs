//! [`AdamState`]: the running averages of one parameter.

use candle_core::Tensor;

/// What Adam remembers of a parameter's gradients. The tensors are those the next step goes on with: do not write to
/// them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AdamState {
    /// How many steps the parameter has made.
    pub step: u64,
    /// The running average of the gradient.
    pub exp_avg: Tensor,
    /// The running average of the gradient's square.
    pub exp_avg_sq: Tensor,
}
