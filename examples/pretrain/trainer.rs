//! Steps of training, and evaluation.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::data::Batch;
use candle_gpt_input::dropout::dropout;
use candle_gpt_input::lm_head::{LossOptions, Reduction};
use candle_gpt_input::optim::{AdamW, ParamGroup};
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{GptInputConfig, GptInputLayer, LmHead, Positions};
use candle_nn::{Optimizer, ParamsAdamW, VarBuilder, VarMap};

use crate::feed::{validation_loader, with_targets};
use crate::freeze::Frozen;
use crate::model::{Gpt2, Seen};
use crate::settings::Settings;
use crate::texts::Part;

/// The prefix of the weights in a Hugging Face checkpoint.
pub const PREFIX: &str = "transformer";
/// The weights of an output head that is not the token table, and its bias.
pub const HEAD: &str = "lm_head.weight";
const HEAD_BIAS: &str = "lm_head.bias";
/// The most batches of a text or corpus that are evaluated.
const N_EVALUATED: usize = 16;

/// What to do when numbers are no longer finite. Checkpoints are never written with such.
const DIVERGED: &str = "no checkpoint was replaced: begin again with a lower --learning-rate";

/// A model with its optimizer.
pub struct Trainer {
    pub adamw: AdamW,
    weights: BTreeMap<String, Var>,
    model: Gpt2,
    /// The same weights in the same memory, without recording for gradients.
    evaluated: Gpt2,
    /// Whether gradients are needed as far down as the tables.
    trains_tables: bool,
}

impl Trainer {
    /// Trains the weights of `varmap` that are not frozen. Dropout draws from `generator`.
    pub fn new(
        varmap: &VarMap,
        config: &GptInputConfig,
        settings: &Settings,
        generator: &Generator,
        device: &Device,
    ) -> Result<Self> {
        let weights = named(varmap);
        let frozen = Frozen::new(&settings.freeze, &weights.keys().map(|name| short(name)).collect::<Vec<_>>())?;
        let trains = |name: &str| !frozen.holds(short(name));
        // Without recording, nothing is computed for the gradients of weights that are frozen.
        let tracked = |(name, var): (&String, &Var)| {
            (name.clone(), if trains(name) { var.as_tensor().clone() } else { var.as_detached_tensor() })
        };
        let model = assembled(weights.iter().map(tracked).collect(), config, generator, device)?;
        let untracked = weights.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
        let evaluated = assembled(untracked, config, generator, device)?;
        let tables = ["wte.weight", "wpe.weight"].map(|table| format!("{PREFIX}.{table}"));
        let trains_tables = tables.iter().any(|name| weights.contains_key(name) && trains(name));

        // As in nanoGPT, matrices decay; biases and norms do not.
        let decayed = ParamGroup::from_varmap(varmap, |name, var| trains(name) && var.rank() >= 2);
        let others = ParamGroup::from_varmap(varmap, |name, var| trains(name) && var.rank() < 2);
        let groups = [decayed.with_weight_decay(settings.weight_decay), others.with_weight_decay(0.0)];
        let defaults =
            ParamsAdamW { lr: settings.learning_rate, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 };
        let mut adamw = AdamW::with_groups(groups, defaults)?;
        adamw.set_max_grad_norm((settings.grad_clip != 0.0).then_some(settings.grad_clip))?;
        Ok(Self { adamw, weights, model, evaluated, trains_tables })
    }

    /// Makes one step and returns the loss before it.
    pub fn step(&mut self, batch: &Batch, learning_rate: f64) -> Result<f32> {
        let (input, positions, seen) = (self.model.input(), positions(batch), seen(batch));
        // The embeddings are a leaf: the few rows of the batch need no gradient of the whole table.
        let leaf =
            self.trains_tables.then(|| input.forward_leaf_at(&batch.input_ids, positions.clone())).transpose()?;
        let embeds = match &leaf {
            Some(leaf) => leaf.as_tensor().clone(),
            None => input.forward_at(&batch.input_ids, positions.clone())?,
        };
        let dropped = dropout(&embeds, input.config().embd_pdrop, input.generator())?;
        let hidden_states = self.model.transform(dropped, positions.clone(), seen, None, true)?;
        let head = self.model.lm_head().loss_and_grads(&hidden_states, &batch.target_ids, &counted(batch))?;
        let loss = head.loss.to_scalar::<f32>()?;
        ensure!(loss.is_finite(), "the loss is {loss}: {DIVERGED}");
        let mut grads = (hidden_states * head.hidden_grad)?.sum_all()?.backward()?;
        let rows = match &leaf {
            Some(leaf) => {
                let grad = grads.remove(leaf).context("the embeddings have a gradient")?;
                input.row_grads(&batch.input_ids, positions, &grad)?
            }
            None => Vec::new(),
        };
        let of_head = self.weights.get(HEAD).or_else(|| self.weights.get(&format!("{PREFIX}.wte.weight")));
        for (var, grad) in [(of_head, head.wte_grad), (self.weights.get(HEAD_BIAS), head.bias_grad)] {
            if let (Some(var), Some(grad)) = (var, grad) {
                grads.insert(var, grad);
            }
        }
        self.adamw.set_learning_rate(learning_rate);
        self.adamw.step_with_rows(&grads, &rows)?;
        let missing = self.adamw.missing_gradients();
        ensure!(missing.is_empty(), "no gradient reaches {}", missing.join(", "));
        if let Some(norm) = self.adamw.grad_norm() {
            ensure!(norm.is_finite(), "the norm of the gradients is {norm}: {DIVERGED}");
        }
        Ok(loss)
    }

    /// Computes the mean of the losses of texts or corpora, by their weights.
    pub fn evaluate(&self, validation: &[Part], settings: &Settings) -> Result<f32> {
        let weights: f64 = validation.iter().map(|part| part.weight).sum();
        let mut loss = 0.0;
        for part in validation {
            loss += part.weight / weights * self.evaluate_one(part, settings)?;
        }
        let loss = loss as f32;
        ensure!(loss.is_finite(), "the validation loss is {loss}: {DIVERGED}");
        Ok(loss)
    }

    /// Computes the mean loss over windows: all of them, or the same few in every evaluation if there are many.
    fn evaluate_one(&self, part: &Part, settings: &Settings) -> Result<f64> {
        let input = self.evaluated.input();
        let loader = validation_loader(&part.tokens, settings, input.device())?;
        let (mut sum, mut n_targets) = (0.0, 0.0);
        for batch in with_targets(loader.epoch()).take(N_EVALUATED) {
            let batch = batch?;
            let mask = batch.loss_mask.as_ref().context("tails that are kept are masked")?;
            let embeds = input.forward_at(&batch.input_ids, positions(&batch))?;
            let hidden_states = self.evaluated.transform(embeds, positions(&batch), seen(&batch), None, false)?;
            let options = counted(&batch).with_reduction(Reduction::Sum);
            sum += f64::from(
                self.evaluated.lm_head().loss(&hidden_states, &batch.target_ids, &options)?.to_scalar::<f32>()?,
            );
            n_targets += f64::from(mask.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?);
        }
        Ok(sum / n_targets)
    }

    /// Checks that all weights and the state of the optimizer are finite, as a run needs them to go on.
    pub fn check_finite(&self) -> Result<()> {
        check_finite(&self.weights, DIVERGED)?;
        for (name, var) in &self.weights {
            let state = self.adamw.state(var).into_iter().flat_map(|state| [&state.exp_avg, &state.exp_avg_sq]);
            for tensor in state {
                ensure!(all_finite(tensor)?, "the averages of {name} in AdamW are not finite: {DIVERGED}");
            }
        }
        Ok(())
    }

    /// Returns all weights, ordered by name.
    pub fn weights(&self) -> &BTreeMap<String, Var> {
        &self.weights
    }
}

/// Returns the positions of a batch, which restart at each document that it marks.
fn positions(batch: &Batch) -> Positions {
    batch.position_ids.as_ref().map_or(0.into(), Positions::from)
}

/// Returns what the tokens of a batch see.
fn seen(batch: &Batch) -> Seen<'_> {
    Seen { documents: batch.documents.as_ref(), ..Seen::default() }
}

/// Returns which targets of a batch count.
fn counted(batch: &Batch) -> LossOptions {
    batch.loss_mask.iter().fold(LossOptions::default(), LossOptions::with_mask)
}

/// Checks that weights are finite. An error gives `advice`.
pub fn check_finite(weights: &BTreeMap<String, Var>, advice: &str) -> Result<()> {
    for (name, var) in weights {
        ensure!(all_finite(var)?, "{name} has NaN or infinite elements: {advice}");
    }
    Ok(())
}

/// Returns whether no element is NaN or infinite: 0 times such a one is NaN.
pub fn all_finite(tensor: &Tensor) -> Result<bool> {
    let zero = (tensor.detach() * 0.0)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    Ok(zero == 0.0)
}

/// Returns the variables with their names.
pub fn named(varmap: &VarMap) -> BTreeMap<String, Var> {
    let vars = varmap.data().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    vars.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
}

/// Returns the name of a weight inside the model.
fn short(name: &str) -> &str {
    name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name)
}

/// Puts a model together whose weights are these tensors.
fn assembled(
    weights: HashMap<String, Tensor>,
    config: &GptInputConfig,
    generator: &Generator,
    device: &Device,
) -> Result<Gpt2> {
    let (has_head, head_bias) = (weights.contains_key(HEAD), weights.get(HEAD_BIAS).cloned());
    let root = VarBuilder::from_tensors(weights, DType::F32, device);
    let vb = root.pp(PREFIX);
    let mut input = GptInputLayer::load(vb.clone(), config)?.with_generator(generator);
    if has_head {
        input = input.with_lm_head(LmHead::load(root.pp("lm_head"), config)?)?;
    } else if let Some(bias) = head_bias {
        let tied = LmHead::new(input.wte().clone())?.with_bias(bias)?;
        input = input.with_lm_head(tied)?;
    }
    Gpt2::new(input, vb)
}
