//! The tensors that a step updates.

use candle_core::Tensor;

/// A parameter and its state, three tensors of one shape, type and device; the state shares memory with nothing else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments<'a> {
    pub(crate) param: &'a Tensor,
    pub(crate) exp_avg: &'a Tensor,
    pub(crate) exp_avg_sq: &'a Tensor,
}
