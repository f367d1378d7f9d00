//! [`Init`]: how fresh tables are drawn. A generator in, tensors out.

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::memory::{with_capacity, zeros};
use crate::rng::Generator;

/// The distribution of fresh tables. `wte` is drawn first, then `wpe`, each as one call of torch's `normal_`.
///
/// That is the order of two `nn.Embedding`s built one after the other. A whole `GPT2Model` of transformers draws for its
/// other modules in between, so that a seeded one is *not* reproduced by its input tables alone.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Init {
    /// N(0, 1): `torch.nn.Embedding`, and the book.
    TorchEmbedding,
    /// N(0, `std`²) for both tables; transformers and nanoGPT use 0.02 (`initializer_range`).
    Gpt2 {
        /// The standard deviation.
        std: f64,
    },
    /// What OpenAI's own code does: 0.02 for `wte`, 0.01 for `wpe` (`model.py` of openai/gpt-2).
    OpenAi,
    /// Zeros; draws nothing.
    Zeros,
}

impl Init {
    /// A token table `[vocab_size, n_embd]`.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use candle_gpt_input::init::Init;
    /// use candle_gpt_input::rng::Generator;
    ///
    /// // torch.manual_seed(123); torch.nn.Embedding(6, 3).weight[0]
    /// let wte = Init::TorchEmbedding.wte(6, 3, &Generator::manual_seed(123), DType::F32, &Device::Cpu)?;
    /// assert_eq!(format!("{:.4?}", wte.to_vec2::<f32>()?[0]), "[0.3374, -0.1778, -0.1690]");
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`RngError`](crate::error::RngError) for a standard deviation below 0,
    /// [`Error::InitDType`] if `dtype` is none of f32, f64, f16, bf16.
    pub fn wte(
        self,
        vocab_size: usize,
        n_embd: usize,
        generator: &Generator,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        table((vocab_size, n_embd), self.std(0.02), generator, dtype, device)
    }

    /// A position table `[n_positions, n_embd]`.
    ///
    /// # Errors
    /// As [`wte`](Self::wte).
    pub fn wpe(
        self,
        n_positions: usize,
        n_embd: usize,
        generator: &Generator,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        table((n_positions, n_embd), self.std(0.01), generator, dtype, device)
    }

    /// The standard deviation of a table, `openai` being OpenAI's for it; `None` draws nothing.
    fn std(self, openai: f64) -> Option<f64> {
        match self {
            Self::TorchEmbedding => Some(1.0),
            Self::Gpt2 { std } => Some(std),
            Self::OpenAi => Some(openai),
            Self::Zeros => None,
        }
    }
}

/// One `torch.nn.init.normal_(torch.empty(n_rows, width), std=std)`, drawn on the host whatever the device.
fn table(
    shape: (usize, usize),
    std: Option<f64>,
    generator: &Generator,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let Some(std) = std else { return Ok(Tensor::zeros(shape, dtype, device)?) };
    let n = shape.0 * shape.1;
    let drawn = |fill: &dyn Fn(&mut [f32]) -> Result<()>| -> Result<Vec<f32>> {
        let mut values = zeros::<f32>(n);
        fill(&mut values)?;
        Ok(values)
    };
    let single = || drawn(&|values| generator.normal(values, 0.0, std));
    let half = || drawn(&|values| generator.normal_half(values, 0.0, std));
    let tensor = match dtype {
        DType::F32 => Tensor::from_vec(single()?, shape, device),
        DType::F16 => Tensor::from_vec(narrowed(&half()?, f16::from_f32), shape, device),
        DType::BF16 => Tensor::from_vec(narrowed(&half()?, bf16::from_f32), shape, device),
        DType::F64 => {
            let mut values = zeros::<f64>(n);
            generator.normal_f64(&mut values, 0.0, std)?;
            Tensor::from_vec(values, shape, device)
        }
        dtype => return Err(Error::InitDType { dtype }),
    };
    Ok(tensor?)
}

fn narrowed<T>(values: &[f32], narrow: impl Fn(f32) -> T) -> Vec<T> {
    let mut narrowed = with_capacity(values.len());
    narrowed.extend(values.iter().map(|&value| narrow(value)));
    narrowed
}
