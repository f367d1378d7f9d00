//! Softmax and GELU.

use candle_core::Tensor;
use candle_core::shape::Dim;

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::kernel;
pub use crate::kernel::Approximate;
use crate::shape::is_float;

/// Computes the softmax over dimension `dim`: `torch.nn.functional.softmax`.
///
/// A row of -∞ alone becomes NaN, as in PyTorch. [`Attention`](super::Attention) makes it zeros.
///
/// ```
/// use candle_core::{D, Device, Tensor};
/// use candle_gpt_input::nn::softmax;
///
/// let x = Tensor::new(&[[0f32, 0.], [0., f32::NEG_INFINITY]], &Device::Cpu)?;
/// assert_eq!(softmax(&x, D::Minus1)?.to_vec2::<f32>()?, [[0.5, 0.5], [1.0, 0.0]]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
///
/// # Shapes
/// - `x`: any of at least one dimension
/// - returns: the same
///
/// # Errors
/// [`Error::FloatDType`] for integers, [`Error::Candle`] for a dimension that `x` does not have.
#[doc(alias("softmax_last_dim", "F.softmax", "nn.Softmax"))]
pub fn softmax(x: &Tensor, dim: impl Dim) -> Result<Tensor> {
    is_float("x", x.dtype())?;
    let dim = dim.to_index(x.shape(), "softmax")?;
    let last = x.rank() - 1;
    if dim == last {
        return Ok(kernel::softmax(x, false)?);
    }
    Ok(kernel::softmax(&x.transpose(dim, last)?, false)?.transpose(dim, last)?)
}

/// Computes GELU: `torch.nn.functional.gelu(x, approximate=…)`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::nn::{Approximate, gelu};
///
/// let x = Tensor::new(&[0f32, 1., 2.], &Device::Cpu)?;
/// let rounded = |form| candle_core::Result::Ok(format!("{:.4?}", gelu(&x, form)?.to_vec1::<f32>()?));
/// assert_eq!(rounded(Approximate::None)?, "[0.0000, 0.8413, 1.9545]"); // 0.8413 = Φ(1)
/// assert_eq!(rounded(Approximate::Tanh)?, "[0.0000, 0.8412, 1.9546]");
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
///
/// # Shapes
/// - `x`: any
/// - returns: the same
///
/// # Errors
/// [`Error::FloatDType`] for integers.
#[doc(alias("F.gelu", "nn.GELU", "gelu_new", "gelu_pytorch_tanh"))]
pub fn gelu(x: &Tensor, approximate: Approximate) -> Result<Tensor> {
    is_float("x", x.dtype())?;
    Ok(kernel::gelu(x, approximate)?)
}
