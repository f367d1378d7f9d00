//! A linear layer whose weight lies either way.

use candle_core::{Module, Tensor};

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::kernel::{self, Weight};
use crate::shape::{is_float, like_weight, outer_dims, same_device, wrong_shape};

/// A linear layer, `x · weightᵀ + bias`: PyTorch's `nn.Linear`, or the `Conv1D` of GPT-2.
///
/// [`candle_nn::Linear`] has gradients too. This one adds the bias and its gradient in one pass, rounds halves once, and
/// takes GPT-2's weights as they lie in its files.
///
/// On the CPU a weight in f32, f16 or bf16 is read once for up to 128 rows, in its own dtype, by all cores. The output of
/// a row is the same, bit for bit, alone and in any batch, with the exceptions of
/// [`LmHead::forward`](crate::LmHead::forward). The same weight in the other layout is summed in another order.
///
/// ```
/// use candle_core::{Device, Module, Tensor};
/// use candle_gpt_input::nn::Linear;
///
/// let weight = Tensor::new(&[[1f32, 0.], [2., 3.], [0., 1.]], &Device::Cpu)?; // [O, I] = [3, 2]
/// let bias = Tensor::new(&[0f32, 0., 100.], &Device::Cpu)?;
/// let x = Tensor::new(&[[[1f32, 10.]]], &Device::Cpu)?; // [B, T, I]
/// let y = Linear::new(weight.clone(), Some(bias.clone()))?.forward(&x)?;
/// assert_eq!(y.to_vec3::<f32>()?, [[[1., 32., 110.]]]);
/// let conv1d = Linear::conv1d(weight.t()?, Some(bias))?; // [I, O]
/// assert_eq!(conv1d.forward(&x)?.to_vec3::<f32>()?, [[[1., 32., 110.]]]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
///
/// # Shapes
/// - input: `[.., I]`, of the weight's dtype and device
/// - output: `[.., O]`
///
/// # Errors
/// Its `forward` is that of [`Module`]: [`Error::ShapeMismatch`] or [`Error::TableMismatch`] inside
/// [`candle_core::Error`].
#[doc(alias("nn.Linear", "F.linear", "addmm"))]
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    lies: Weight,
}

impl Linear {
    /// Makes a layer of a weight `[O, I]` and, unless it has none, a bias `[O]`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for other shapes, [`Error::TableMismatch`] if dtypes or devices differ,
    /// [`Error::FloatDType`] for integers.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Self::checked(weight, bias, Weight::OutIn)
    }

    /// Makes a layer of a weight `[I, O]`, as GPT-2 stores it, and, unless it has none, a bias `[O]`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    #[doc(alias = "Conv1D")]
    pub fn conv1d(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Self::checked(weight, bias, Weight::InOut)
    }

    fn checked(weight: Tensor, bias: Option<Tensor>, lies: Weight) -> Result<Self> {
        is_float("weight", weight.dtype())?;
        let &[rows, columns] = weight.dims() else {
            return Err(wrong_shape("weight", weight.shape(), "a matrix"));
        };
        if let Some(bias) = &bias {
            let n_out = if lies == Weight::OutIn { rows } else { columns };
            like_weight("bias", bias, n_out, &weight)?;
        }
        Ok(Self { weight, bias, lies })
    }

    /// Returns the weight, the way it was given.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Returns the bias, `[O]`, if there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (rows, columns) = self.weight.dims2()?;
        let (n_in, n_out) = if self.lies == Weight::OutIn { (columns, rows) } else { (rows, columns) };
        let outer = outer_dims("x", x, ("weight", n_in, self.weight.dtype()))?;
        same_device(("x", x.device()), ("weight", self.weight.device()))?;
        let flat = x.reshape((outer.iter().product::<usize>(), n_in))?;
        let y = kernel::linear(&flat, &self.weight, self.bias.as_ref(), self.lies)?;
        y.reshape(outer.iter().copied().chain([n_out]).collect::<Vec<_>>())
    }
}
