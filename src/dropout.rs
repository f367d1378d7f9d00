//! [`dropout`] with torch's mask.

use candle_core::{DType, Device, Tensor};

use crate::error::Result;
use crate::memory::fits;
use crate::rng::Generator;

/// Returns `torch.nn.functional.dropout(x, p, training=True)`: each element is 0 with probability `p`, and is otherwise
/// multiplied by 1 / (1 − p).
///
/// On every device the mask is torch's CPU mask for the generator's state. p = 0 and empty tensors draw nothing.
/// [`GptInputLayer`](crate::input_layer::GptInputLayer) applies it to its sum; blocks on top draw from the same
/// generator.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_gpt_input::dropout::dropout;
/// use candle_gpt_input::rng::Generator;
///
/// // torch.manual_seed(123); F.dropout(torch.ones(6), 0.5)
/// let x = Tensor::ones(6, DType::F32, &Device::Cpu)?;
/// let dropped = dropout(&x, 0.5, &Generator::manual_seed(123))?;
/// assert_eq!(dropped.to_vec1::<f32>()?, [2., 2., 0., 2., 2., 0.]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
///
/// # Shapes
/// - `x`: any
/// - returns: the same
///
/// # Errors
/// [`RngError::Probability`](crate::error::RngError::Probability) unless `p` is between 0 and 1,
/// [`Error::TooLarge`](crate::Error::TooLarge) for more elements than memory holds, such as those of a broadcast tensor.
#[doc(alias = "F.dropout", alias = "nn.Dropout", alias = "embd_pdrop")]
pub fn dropout(x: &Tensor, p: f64, generator: &Generator) -> Result<Tensor> {
    let scale = Generator::dropout_scale(p)?;
    if p == 0.0 || x.elem_count() == 0 {
        return Ok(x.clone());
    }
    let n = fits("dropout", x.dims(), size_of::<f64>())?;
    let kept = generator.dropout_mask(n, p)?;
    // torch multiplies by a tensor of zeros and 1 / (1 - p). The latter is computed in f32 (f64 for f64) and rounded to
    // the dtype.
    let noise = if x.dtype() == DType::F64 {
        let scale = if p < 1.0 { 1.0 / (1.0 - p) } else { 0.0 };
        let noise: Vec<f64> = kept.into_iter().map(|kept| if kept { scale } else { 0.0 }).collect();
        Tensor::from_vec(noise, x.shape(), &Device::Cpu)?
    } else {
        let noise: Vec<f32> = kept.into_iter().map(|kept| if kept { scale } else { 0.0 }).collect();
        Tensor::from_vec(noise, x.shape(), &Device::Cpu)?.to_dtype(x.dtype())?
    };
    Ok((x * noise.to_device(x.device())?)?)
}
