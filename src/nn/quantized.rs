//! A linear layer whose weight stays in GGUF's blocks.

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Module, Tensor};

use crate::embedding::TokenTable;
use crate::error::Result;
#[cfg(doc)]
use crate::error::{EmbeddingError, Error};
use crate::kernel::{self, StoredTable, Weight, stored_logits};
use crate::shape::{is_float, outer_dims, same_device, same_dtype, wrong_shape};

/// A linear layer `x · weightᵀ + bias` whose weight stays in GGUF's blocks, in memory and while it is multiplied.
///
/// On the CPU it reads the blocks once for up to 128 rows, on all cores, and dequantizes them in registers. A row has the
/// same result alone and in any batch, on any number of threads, and in f32 the bits of
/// [`Linear::new`](super::Linear::new) on the dequantized weight. (Candle's `QMatMul` rounds `x` to 8 bits first.) In an
/// f16 or bf16 layer weights are widened to f32 and not rounded to halves. On a CPU without AVX2 and FMA this holds up to
/// 16 rows. Beyond them, on other devices, and where `x` or the bias has a history, whose gradient it keeps, the weight is
/// dequantized to the layer's dtype in each call.
///
/// ```
/// use candle_core::quantized::{GgmlDType, QTensor};
/// use candle_core::{DType, Device, Module, Tensor};
/// use candle_gpt_input::nn::QuantizedLinear;
///
/// let row: Vec<f32> = (0..32).map(|i| if i == 0 { 127.0 } else { 1.0 }).collect(); // Q8_0 keeps it: its scale is 1
/// let weight = QTensor::quantize(&Tensor::from_vec(row, (1, 32), &Device::Cpu)?, GgmlDType::Q8_0)?; // [O, I]
/// let bias = Tensor::new(&[1000f32], &Device::Cpu)?;
/// let linear = QuantizedLinear::new(&weight, Some(bias), DType::F32, &Device::Cpu)?;
/// let y = linear.forward(&Tensor::ones((1, 32), DType::F32, &Device::Cpu)?)?;
/// assert_eq!(y.to_vec2::<f32>()?, [[1158.]]); // 127 + 31 + 1000
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
///
/// # Shapes
/// - input: `[.., I]`, of the dtype and device given
/// - output: `[.., O]`
///
/// # Errors
/// Its `forward` is that of [`Module`]: [`Error::ShapeMismatch`] or [`Error::TableMismatch`] inside
/// [`candle_core::Error`].
#[doc(alias("QMatMul", "QLinear"))]
#[derive(Clone, Debug)]
pub struct QuantizedLinear {
    weight: StoredTable,
    bias: Option<Tensor>,
}

impl QuantizedLinear {
    /// Makes a layer for inputs of `dtype` on `device`, of a copy of the blocks of a weight `[O, I]` and, unless it has
    /// none, a bias `[O]`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for other shapes, [`EmbeddingError::BlockType`] if the weight is not quantized or this crate
    /// does not read rows of its type, [`Error::FloatDType`] for another `dtype` than f32, f16, bf16 and f64,
    /// [`Error::TableMismatch`] for a bias of another dtype or device.
    pub fn new(weight: &QTensor, bias: Option<Tensor>, dtype: DType, device: &Device) -> Result<Self> {
        is_float("x", dtype)?;
        let weight = TokenTable::stored_qtensor(weight, dtype, device)?;
        let n_out = weight.rows.n_rows;
        if let Some(bias) = &bias {
            if bias.dims() != [n_out] {
                return Err(wrong_shape("bias", bias.shape(), format!("[{n_out}]")));
            }
            same_dtype(("bias", bias.dtype()), ("weight", dtype))?;
            same_device(("bias", bias.device()), ("weight", device))?;
        }
        Ok(Self { weight, bias })
    }

    /// Returns the bias, `[O]`, if there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }
}

impl Module for QuantizedLinear {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let StoredTable { rows, dtype, device, .. } = &self.weight;
        let outer = outer_dims("x", x, ("weight", rows.width, *dtype))?;
        same_device(("x", x.device()), ("weight", device))?;
        let flat = x.reshape((outer.iter().product::<usize>(), rows.width))?;
        let bias = self.bias.as_ref();
        let has_history = x.track_op() || bias.is_some_and(Tensor::track_op);
        let y = match if has_history { None } else { stored_logits(&flat, rows, bias)? } {
            Some(y) => y,
            None => kernel::linear(&flat, &rows.to_tensor(*dtype, device)?, bias, Weight::OutIn)?,
        };
        y.reshape(outer.iter().copied().chain([rows.n_rows]).collect::<Vec<_>>())
    }
}
