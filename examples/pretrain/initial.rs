//! The weights that a run begins with: drawn from a seed, or read from a checkpoint.

use anyhow::Result;
use candle_core::{DType, Device, Shape, Tensor, Var, bail};
use candle_gpt_input::checkpoint::Checkpoint;
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{GptInputConfig, GptInputLayer};
use candle_nn::{Init, VarBuilder, VarMap, var_builder::SimpleBackend};
use serde_json::{Value, json};

use crate::model::Gpt2;
use crate::trainer::{HEAD, PREFIX, check_finite, named};

/// Draws GPT-2's distributions: N(mean, stdev²) from `generator`, one torch `normal_` for each variable, in the order
/// of construction. (A `VarMap` by itself draws from a stream that cannot be seeded on the CPU.)
pub fn draw(config: &GptInputConfig, generator: &Generator, device: &Device) -> Result<VarMap> {
    let varmap = VarMap::new();
    let vb = variables(&varmap, device, |name, shape, init| match init {
        Init::Randn { mean, stdev } => {
            let mut values = vec![0f32; shape.elem_count()];
            generator.normal_f32(&mut values, mean, stdev)?;
            Tensor::from_vec(values, shape, device)
        }
        Init::Const(value) => Tensor::full(value as f32, shape, device),
        other => bail!("cannot draw {name} from {other:?} with a seed"),
    });
    Gpt2::new(GptInputLayer::load(vb.clone(), config)?, vb)?;
    Ok(varmap)
}

/// Reads the weights of a whole GPT-2 in f32, and the configuration to save them with.
pub fn read(checkpoint: &Checkpoint, device: &Device) -> Result<(VarMap, GptInputConfig)> {
    let varmap = VarMap::new();
    let (input, blocks) = Gpt2::parts(checkpoint, DType::F32, device)?;
    let input = input.trainable(&varmap, PREFIX)?;
    Gpt2::new(input.clone(), variables(&varmap, device, |name, shape, init| blocks.get_with_hints(shape, name, init)))?;
    check_finite(&named(&varmap), "a model that is damaged cannot be trained")?;
    let mut config = input.config().clone();
    // Files that are not Hugging Face's leave out what transformers asks for.
    for (key, value) in [("model_type", json!("gpt2")), ("architectures", json!(["GPT2LMHeadModel"]))] {
        if config.extra::<Value>(key)?.is_none_or(|stated| stated.is_null()) {
            config = config.with_extra(key, value)?;
        }
    }
    // A head that differs from the table is the model's, whatever the configuration said.
    if named(&varmap).contains_key(HEAD) {
        config = config.with_extra("tie_word_embeddings", false)?;
    }
    Ok((varmap, config))
}

/// Returns a builder that keeps what `make` returns for a name as a variable of `varmap`.
fn variables<'a, F>(varmap: &VarMap, device: &Device, make: F) -> VarBuilder<'a>
where
    F: Fn(&str, Shape, Init) -> candle_core::Result<Tensor> + Send + Sync + 'a,
{
    VarBuilder::from_backend(Box::new(Variables { varmap: varmap.clone(), make }), DType::F32, device.clone())
}

struct Variables<F> {
    varmap: VarMap,
    make: F,
}

impl<F> SimpleBackend for Variables<F>
where
    F: Fn(&str, Shape, Init) -> candle_core::Result<Tensor> + Send + Sync,
{
    fn get(&self, shape: Shape, name: &str, init: Init, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        let var = Var::from_tensor(&(self.make)(name, shape, init)?)?;
        let mut vars = self.varmap.data().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if vars.insert(format!("{PREFIX}.{name}"), var.clone()).is_some() {
            bail!("{name} is asked for twice");
        }
        Ok(var.as_tensor().clone())
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        bail!("{name}: a weight needs a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
