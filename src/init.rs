//! [`Init`]: how new tables are drawn from a generator.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::config::GptInputConfig;
use crate::error::{ConfigError, Error, Result};
use crate::memory::{fits, with_capacity, zeros};
use crate::rng::Generator;

/// The default `initializer_range` of `transformers.GPT2Config`.
const GPT2_STD: f64 = 0.02;

/// Says how new tables are drawn: `wte` first, then `wpe`, each by one call of torch's `normal_`.
///
/// Two `nn.Embedding`s built in this order draw the same values. A seeded `GPT2Model` of transformers does *not*: it
/// draws for its other modules in between.
///
/// In text and serde: `config`, `torch-embedding`, `gpt2:0.02` (or just `gpt2`), `openai`, `zeros`.
///
/// ```
/// use candle_gpt_input::GptInputConfig;
/// use candle_gpt_input::init::Init;
///
/// assert_eq!("gpt2".parse::<Init>()?, Init::Gpt2 { std: 0.02 });
/// let tutorial = GptInputConfig::preset("tutorial")?; // initializer_range 1
/// assert_eq!(Init::default().resolve(&tutorial), Init::Gpt2 { std: 1.0 });
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
#[doc(alias = "nn.init", alias = "_init_weights")]
pub enum Init {
    /// N(0, `initializer_range`²) for both tables, as the configuration says. This is the default.
    ///
    /// Without a configuration, as for a single table, the range is that of [`GptInputConfig::default`], 0.02.
    #[default]
    #[doc(alias = "initializer_range")]
    Config,
    /// N(0, 1), as in `torch.nn.Embedding` and the book.
    TorchEmbedding,
    /// N(0, `std`²) for both tables; transformers and nanoGPT use 0.02 (`initializer_range`).
    Gpt2 {
        /// The standard deviation.
        std: f64,
    },
    /// The standard deviations of OpenAI's own code: 0.02 for `wte`, 0.01 for `wpe` (`model.py` of openai/gpt-2).
    OpenAi,
    /// Zeros; draws nothing.
    Zeros,
}

impl Init {
    /// Replaces [`Config`](Self::Config) by the range that `config` states, and keeps every other variant.
    #[must_use]
    pub fn resolve(self, config: &GptInputConfig) -> Self {
        match self {
            Self::Config => Self::Gpt2 { std: config.initializer_range },
            stated => stated,
        }
    }

    /// Draws a token table `[vocab_size, n_embd]`.
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
    /// [`RngError`](crate::error::RngError) for a standard deviation below 0, [`Error::InitDType`] unless `dtype` is f32,
    /// f64, f16 or bf16, [`Error::TooLarge`] if the table cannot be allocated.
    pub fn wte(
        self,
        vocab_size: usize,
        n_embd: usize,
        generator: &Generator,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        table("wte", (vocab_size, n_embd), self.std(GPT2_STD), generator, dtype, device)
    }

    /// Draws a position table `[n_positions, n_embd]`.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use candle_gpt_input::init::Init;
    /// use candle_gpt_input::rng::Generator;
    ///
    /// // 0.01 times the values of `torch.manual_seed(123); torch.nn.Embedding(6, 3)`
    /// let wpe = Init::OpenAi.wpe(6, 3, &Generator::manual_seed(123), DType::F32, &Device::Cpu)?;
    /// assert_eq!(format!("{:.6?}", wpe.to_vec2::<f32>()?[0]), "[0.003374, -0.001778, -0.001690]");
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`RngError`](crate::error::RngError) for a standard deviation below 0, [`Error::InitDType`] unless `dtype` is f32,
    /// f64, f16 or bf16, [`Error::TooLarge`] if the table cannot be allocated.
    pub fn wpe(
        self,
        n_positions: usize,
        n_embd: usize,
        generator: &Generator,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        table("wpe", (n_positions, n_embd), self.std(0.01), generator, dtype, device)
    }

    /// Returns the standard deviation of a table for which OpenAI's code uses `openai`, or `None` to draw nothing.
    fn std(self, openai: f64) -> Option<f64> {
        match self {
            Self::Config => Some(GPT2_STD),
            Self::TorchEmbedding => Some(1.0),
            Self::Gpt2 { std } => Some(std),
            Self::OpenAi => Some(openai),
            Self::Zeros => None,
        }
    }
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("config"),
            Self::TorchEmbedding => f.write_str("torch-embedding"),
            Self::Gpt2 { std } => write!(f, "gpt2:{std}"),
            Self::OpenAi => f.write_str("openai"),
            Self::Zeros => f.write_str("zeros"),
        }
    }
}

impl FromStr for Init {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let std = text.strip_prefix("gpt2:").and_then(|std| std.parse().ok());
        Ok(match (text, std) {
            ("config", _) => Self::Config,
            ("torch-embedding", _) => Self::TorchEmbedding,
            ("gpt2", _) => Self::Gpt2 { std: GPT2_STD },
            (_, Some(std)) => Self::Gpt2 { std },
            ("openai", _) => Self::OpenAi,
            ("zeros", _) => Self::Zeros,
            _ => {
                let expected = "config, torch-embedding, gpt2, gpt2:STD, openai or zeros";
                return Err(ConfigError::FieldType { key: "init".to_string(), got: text.to_string(), expected }.into());
            }
        })
    }
}

impl From<Init> for String {
    fn from(init: Init) -> Self {
        init.to_string()
    }
}

impl TryFrom<String> for Init {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// Draws `torch.nn.init.normal_(torch.empty(n_rows, width), std=std)` on the host, for any device.
fn table(
    what: &'static str,
    shape: (usize, usize),
    std: Option<f64>,
    generator: &Generator,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    if !matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
        return Err(Error::InitDType { dtype });
    }
    let n = fits(what, &[shape.0, shape.1], dtype.size_in_bytes())?;
    let Some(std) = std else { return Ok(Tensor::zeros(shape, dtype, device)?) };
    let drawn = |fill: &dyn Fn(&mut [f32]) -> Result<()>| -> Result<Vec<f32>> {
        let mut values = zeros::<f32>(n)?;
        fill(&mut values)?;
        Ok(values)
    };
    let single = || drawn(&|values| generator.normal_f32(values, 0.0, std));
    let half = || drawn(&|values| generator.normal_half(values, 0.0, std));
    let tensor = match dtype {
        DType::F32 => Tensor::from_vec(single()?, shape, device),
        DType::F16 => Tensor::from_vec(narrowed(&half()?, f16::from_f32)?, shape, device),
        DType::BF16 => Tensor::from_vec(narrowed(&half()?, bf16::from_f32)?, shape, device),
        DType::F64 => {
            let mut values = zeros::<f64>(n)?;
            generator.normal_f64(&mut values, 0.0, std)?;
            Tensor::from_vec(values, shape, device)
        }
        dtype => return Err(Error::InitDType { dtype }),
    };
    Ok(tensor?)
}

fn narrowed<T>(values: &[f32], narrow: impl Fn(f32) -> T) -> Result<Vec<T>> {
    let mut narrowed = with_capacity(values.len())?;
    narrowed.extend(values.iter().map(|&value| narrow(value)));
    Ok(narrowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_serde_round_trip() -> Result<()> {
        for text in ["config", "torch-embedding", "gpt2:0.5", "openai", "zeros"] {
            let init: Init = text.parse()?;
            assert_eq!(init.to_string(), text);
            let json = serde_json::to_value(init).ok();
            assert_eq!(json, Some(text.into()));
            assert_eq!(json.and_then(|json| serde_json::from_value(json).ok()), Some(init));
        }
        for dtype in [DType::U8, DType::U32, DType::I64] {
            let drawn = [Init::Zeros, Init::Config]
                .map(|init| init.wte(2, 2, &Generator::manual_seed(1), dtype, &Device::Cpu).is_err());
            assert_eq!(drawn, [true, true]);
        }
        for text in ["", "gpt2:", "gpt2:x", "normal"] {
            let error = text.parse::<Init>().err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with(&format!("config: `init` is {text}, expected config")), "{text}: {error}");
        }
        Ok(())
    }

    #[test]
    fn the_configuration_is_obeyed_unless_something_else_is_stated() {
        let config = GptInputConfig::default().with_initializer_range(0.5);
        assert_eq!(Init::Config.resolve(&config), Init::Gpt2 { std: 0.5 });
        for stated in [Init::TorchEmbedding, Init::Gpt2 { std: 0.1 }, Init::OpenAi, Init::Zeros] {
            assert_eq!(stated.resolve(&config), stated);
        }
        assert_eq!(GptInputConfig::default().initializer_range, GPT2_STD);
    }
}
