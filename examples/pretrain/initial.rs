//! Fresh weights: GPT-2's distributions, drawn from a seed.

use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use candle_gpt_input::rng::Generator;
use candle_nn::{Init, VarBuilder, VarMap, var_builder::SimpleBackend};

/// Makes each variable as the model asks for it, in `varmap`: N(mean, stdev²) from `generator`, one torch `normal_`
/// each, in the order of construction. (A `VarMap` by itself draws from a stream that cannot be seeded on the CPU.)
pub fn seeded(varmap: &VarMap, generator: &Generator, device: &Device) -> VarBuilder<'static> {
    let backend = Seeded { varmap: varmap.clone(), generator: generator.clone() };
    VarBuilder::from_backend(Box::new(backend), DType::F32, device.clone())
}

struct Seeded {
    varmap: VarMap,
    generator: Generator,
}

impl SimpleBackend for Seeded {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = match init {
            Init::Randn { mean, stdev } => {
                let mut values = vec![0f32; shape.elem_count()];
                self.generator.normal_f32(&mut values, mean, stdev)?;
                Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?
            }
            Init::Const(value) => Tensor::full(value as f32, shape, device)?.to_dtype(dtype)?,
            other => bail!("cannot draw {name} from {other:?} with a seed"),
        };
        let var = Var::from_tensor(&tensor)?;
        let mut vars = self.varmap.data().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if vars.insert(name.to_string(), var.clone()).is_some() {
            bail!("{name} is asked for twice");
        }
        Ok(var.as_tensor().clone())
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("{name}: a fresh weight needs a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
