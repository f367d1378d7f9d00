//! The linear layers of [`Gpt2`](super::Gpt2), and GGUF files: llama.cpp's names under Hugging Face's.

use anyhow::{Result, ensure};
use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Module, Shape, Tensor, bail};
use candle_gpt_input::checkpoint::Checkpoint;
use candle_gpt_input::error::CheckpointError;
use candle_gpt_input::input_layer::{OpenOptions, TableStorage};
use candle_gpt_input::nn::{Linear, QuantizedLinear};
use candle_gpt_input::{Error, GptInputLayer};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};

/// The token table.
pub const WTE: &str = "token_embd.weight";

/// The modules of a block: Hugging Face's, and llama.cpp's.
const MODULES: [(&str, &str); 6] = [
    ("ln_1", "attn_norm"),
    ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"),
    ("ln_2", "ffn_norm"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
];

/// Returns llama.cpp's name of a tensor: `blk.0.attn_qkv.bias` for `h.0.attn.c_attn.bias`.
fn theirs(name: &str) -> Option<String> {
    let (module, leaf) = name.rsplit_once('.')?;
    if module == "ln_f" {
        return Some(format!("output_norm.{leaf}"));
    }
    let (i, module) = module.strip_prefix("h.")?.split_once('.')?;
    let (_, theirs) = MODULES.iter().find(|(ours, _)| *ours == module)?;
    Some(format!("blk.{i}.{theirs}.{leaf}"))
}

/// Returns the weight `[out, in]` of a linear layer, such as `h.0.attn.c_attn`, in its blocks, if it is quantized.
pub fn blocks(checkpoint: &Checkpoint, module: &str, (n_in, n_out): (usize, usize)) -> Result<Option<QTensor>> {
    let name = format!("{module}.weight");
    Ok(checkpoint.qtensor((n_out, n_in), &theirs(&name).unwrap_or(name))?)
}

/// Opens the input layer of a GGUF file, with a quantized token table and head in their blocks.
pub fn input_in_blocks(checkpoint: &Checkpoint, dtype: DType, device: &Device) -> Result<GptInputLayer> {
    let dense = OpenOptions::new(dtype, device);
    let (input, report) = match GptInputLayer::open(checkpoint, &dense.clone().with_storage(TableStorage::Quantized)) {
        Err(Error::Checkpoint(CheckpointError::NotQuantized { .. })) => {
            GptInputLayer::open(checkpoint, &dense.with_head_storage(TableStorage::Quantized))?
        }
        opened => opened?,
    };
    ensure!(report.wte.name == WTE, "only a GGUF file of llama.cpp's names can stay quantized");
    Ok(input)
}

/// Returns a builder on the blocks and the final norm, with weights `[in, out]` as in Hugging Face's files.
pub fn var_builder<'a>(checkpoint: &'a Checkpoint, dtype: DType, device: &Device) -> VarBuilder<'a> {
    let renamed = Renamed(checkpoint.var_builder(dtype, device));
    VarBuilder::from_backend(Box::new(renamed), dtype, device.clone())
}

struct Renamed<'a>(VarBuilder<'a>);

impl SimpleBackend for Renamed<'_> {
    fn get(&self, shape: Shape, name: &str, _: Init, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        let Some(stored) = theirs(name) else { bail!("no tensor of a GPT-2 in GGUF is `{name}`") };
        match *shape.dims() {
            [n_in, n_out] => self.0.get((n_out, n_in), &stored)?.t()?.contiguous(),
            _ => self.0.get(shape, &stored),
        }
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        bail!("{name}: whether it is a matrix is not known without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        theirs(name).is_some_and(|stored| self.0.contains_tensor(&stored))
    }
}

/// Returns a weight `[out, in]` in GGUF's blocks, if it is quantized, for the name of its layer and `(in, out)`.
pub type Stored<'a> = &'a dyn Fn(&str, (usize, usize)) -> Result<Option<QTensor>>;

/// A linear layer, dense or in GGUF's blocks.
#[derive(Clone, Debug)]
pub enum Projection {
    /// Of a weight `[in, out]`, as GPT-2's are.
    Dense(Linear),
    Quantized(QuantizedLinear),
}

impl Projection {
    pub fn load((n_in, n_out, stdev): (usize, usize, f64), vb: VarBuilder, stored: Stored) -> Result<Self> {
        let bias = || vb.get_with_hints(n_out, "bias", Init::Const(0.0));
        if let Some(weight) = stored(&vb.prefix(), (n_in, n_out))? {
            return Ok(Self::Quantized(QuantizedLinear::new(&weight, Some(bias()?), vb.dtype(), vb.device())?));
        }
        let weight = vb.get_with_hints((n_in, n_out), "weight", Init::Randn { mean: 0.0, stdev })?;
        Ok(Self::Dense(Linear::conv1d(weight, Some(bias()?))?))
    }

    pub fn is_quantized(&self) -> bool {
        matches!(self, Self::Quantized(_))
    }

    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Dense(linear) => linear.forward(x),
            Self::Quantized(linear) => linear.forward(x),
        }
    }
}
