//! [`missing_gradients`]: which variables a backward pass did not reach.

use candle_core::backprop::GradStore;

use super::ParamGroup;

/// Returns the names of the variables without a gradient: those whose `.grad` is `None` in PyTorch.
///
/// Call it once after the first `loss.backward()`. A name that you meant to train says that something above it cut the
/// graph: a fused operation of `candle_nn` ([`nn`](crate::nn) has others), `detach`, or a table read from a file instead
/// of a [`VarMap`](candle_nn::VarMap). The names are those of the `VarMap`, in their order; variables of a `Vec` are
/// called by their index.
///
/// ```
/// use candle_core::{DType, Device};
/// use candle_gpt_input::optim::missing_gradients;
/// use candle_nn::{Init, VarMap, ops};
///
/// let varmap = VarMap::new();
/// let x = varmap.get(2, "x", Init::Const(1.0), DType::F32, &Device::Cpu)?;
/// let w = varmap.get(2, "w", Init::Const(3.0), DType::F32, &Device::Cpu)?;
/// let cut = (ops::softmax_last_dim(&x)? * &w)?.sum_all()?;
/// assert_eq!(missing_gradients(&cut.backward()?, &varmap), ["x"]);
/// let kept = (candle_gpt_input::nn::softmax(&x, 0)? * &w)?.sum_all()?;
/// assert!(missing_gradients(&kept.backward()?, &varmap).is_empty());
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias("grad is None", "named_parameters"))]
pub fn missing_gradients(grads: &GradStore, vars: impl Into<ParamGroup>) -> Vec<String> {
    let missing = vars.into().vars.into_iter().filter(|(_, var)| grads.get(var).is_none());
    missing.map(|(name, _)| name).collect()
}
