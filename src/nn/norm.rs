//! Layer norm and RMS norm.

use candle_core::{Module, Tensor};
use candle_nn::{Init, VarBuilder};

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::kernel::{self, Norm};
use crate::shape::{is_float, like_weight, outer_dims, same_device, wrong_shape};

/// Layer norm over the last dimension: `(x - mean) / sqrt(variance + eps) · weight + bias`, PyTorch's `nn.LayerNorm`.
///
/// It has the gradients that [`candle_nn::LayerNorm`] cuts, and takes its place with the same names.
///
/// ```
/// use candle_core::{DType, Device, Module, Tensor};
/// use candle_gpt_input::nn::LayerNorm;
/// use candle_nn::{VarBuilder, VarMap};
///
/// let varmap = VarMap::new();
/// let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
/// let ln_1 = LayerNorm::load(vb.pp("ln_1"), 2, 0.0)?; // candle_nn::layer_norm(2, 0.0, vb.pp("ln_1"))
/// let x = Tensor::new(&[[1f32, 3.], [5., 1.]], &Device::Cpu)?;
/// assert_eq!(ln_1.forward(&x)?.to_vec2::<f32>()?, [[-1., 1.], [1., -1.]]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
///
/// # Shapes
/// - input: `[.., C]`, of the weight's dtype and device
/// - output: the same
///
/// # Errors
/// Its `forward` is that of [`Module`]: [`Error::ShapeMismatch`] or [`Error::TableMismatch`] inside
/// [`candle_core::Error`].
#[doc(alias("nn.LayerNorm", "layer_norm", "F.layer_norm"))]
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
}

impl LayerNorm {
    /// Makes a norm of a weight `[C]` and, unless it has none, a bias `[C]`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] unless both are `[C]`, [`Error::TableMismatch`] if their dtypes or devices differ,
    /// [`Error::FloatDType`] for integers.
    pub fn new(weight: Tensor, bias: Option<Tensor>, eps: f64) -> Result<Self> {
        vector("weight", &weight)?;
        if let Some(bias) = &bias {
            like_weight("bias", bias, weight.dim(0)?, &weight)?;
        }
        Ok(Self { weight, bias, eps })
    }

    /// Loads `weight` and `bias` `[n_embd]`; a fresh [`VarMap`](candle_nn::VarMap) gets ones and zeros.
    ///
    /// # Errors
    /// [`Error::Candle`] if `vb` does not have them in this shape.
    pub fn load(vb: VarBuilder, n_embd: usize, eps: f64) -> Result<Self> {
        let weight = vb.get_with_hints(n_embd, "weight", Init::Const(1.0))?;
        Self::new(weight, Some(vb.get_with_hints(n_embd, "bias", Init::Const(0.0))?), eps)
    }

    /// Loads `weight` `[n_embd]` alone: PyTorch's `bias=False`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_without_bias(vb: VarBuilder, n_embd: usize, eps: f64) -> Result<Self> {
        Self::new(vb.get_with_hints(n_embd, "weight", Init::Const(1.0))?, None, eps)
    }

    /// Returns the weight, `[C]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Returns the bias, `[C]`, if there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        fits(x, &self.weight)?;
        kernel::norm(x, Some(&self.weight), self.bias.as_ref(), Norm { eps: self.eps, is_centred: true })
    }
}

/// RMS norm over the last dimension: `x / sqrt(mean(x²) + eps) · weight`, PyTorch's `nn.RMSNorm`.
///
/// It has the gradients that [`candle_nn::RmsNorm`] cuts. Halves are rounded once, after the weight.
///
/// ```
/// use candle_core::{Device, Module, Tensor};
/// use candle_gpt_input::nn::RmsNorm;
///
/// let norm = RmsNorm::new(Tensor::new(&[1f32, 10.], &Device::Cpu)?, 0.0)?;
/// let x = Tensor::new(&[[1f32, 7.]], &Device::Cpu)?; // the mean of the squares is 25
/// assert_eq!(format!("{:.3?}", norm.forward(&x)?.to_vec2::<f32>()?), "[[0.200, 14.000]]");
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
///
/// # Shapes
/// - input: `[.., C]`, of the weight's dtype and device
/// - output: the same
///
/// # Errors
/// Its `forward` is that of [`Module`]: [`Error::ShapeMismatch`] or [`Error::TableMismatch`] inside
/// [`candle_core::Error`].
#[doc(alias("nn.RMSNorm", "rms_norm", "LlamaRMSNorm"))]
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Makes a norm of a weight `[C]`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] unless it is `[C]`, [`Error::FloatDType`] for integers.
    pub fn new(weight: Tensor, eps: f64) -> Result<Self> {
        vector("weight", &weight)?;
        Ok(Self { weight, eps })
    }

    /// Loads `weight` `[n_embd]`; a fresh [`VarMap`](candle_nn::VarMap) gets ones.
    ///
    /// # Errors
    /// [`Error::Candle`] if `vb` does not have it in this shape.
    pub fn load(vb: VarBuilder, n_embd: usize, eps: f64) -> Result<Self> {
        Self::new(vb.get_with_hints(n_embd, "weight", Init::Const(1.0))?, eps)
    }

    /// Returns the weight, `[C]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        fits(x, &self.weight)?;
        kernel::norm(x, Some(&self.weight), None, Norm { eps: self.eps, is_centred: false })
    }
}

fn vector(what: &'static str, weight: &Tensor) -> Result<()> {
    is_float(what, weight.dtype())?;
    match weight.dims() {
        [n] if *n > 0 => Ok(()),
        _ => Err(wrong_shape(what, weight.shape(), "[C], with C at least 1")),
    }
}

/// Checks that `x` is `[.., C]` where the weight is `[C]`.
fn fits(x: &Tensor, weight: &Tensor) -> Result<()> {
    outer_dims("x", x, ("weight", weight.dim(0)?, weight.dtype()))?;
    same_device(("x", x.device()), ("weight", weight.device()))
}
