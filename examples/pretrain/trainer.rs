//! Steps of training, and evaluation.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::GptInputLayer;
use candle_gpt_input::data::{Batch, Loader, LoaderConfig, Seeding, Tail, Tokens};
use candle_gpt_input::dropout::dropout;
use candle_gpt_input::lm_head::{LossOptions, Reduction};
use candle_gpt_input::optim::{AdamW, ParamGroup};
use candle_gpt_input::rng::Generator;
use candle_nn::{Optimizer, ParamsAdamW, VarBuilder, VarMap};

use crate::initial;
use crate::model::Gpt2;
use crate::settings::Settings;

/// The prefix of the weights in a Hugging Face checkpoint.
const PREFIX: &str = "transformer";
/// The most batches of the validation split that are evaluated.
const N_EVALUATED: usize = 16;

/// What to do when numbers are no longer finite. Checkpoints are never written with such.
const DIVERGED: &str = "no checkpoint was replaced: begin again with a lower --learning-rate";

/// A model with its optimizer.
pub struct Trainer {
    pub varmap: VarMap,
    pub adamw: AdamW,
    model: Gpt2,
    /// The same weights in the same memory, without recording for gradients.
    evaluated: Gpt2,
    wte: Var,
}

impl Trainer {
    /// Draws fresh weights from `generator`, which dropout then continues.
    pub fn new(settings: &Settings, generator: &Generator, device: &Device) -> Result<Self> {
        let config = settings.config()?;
        let varmap = VarMap::new();
        let vb = initial::seeded(&varmap, generator, device).pp(PREFIX);
        let input = GptInputLayer::load(vb.clone(), &config)?.with_generator(generator);
        let wte = input.vars().into_iter().next().context("wte is a variable")?;
        let model = Gpt2::new(input, vb)?;

        let untracked = named(&varmap).into_iter().map(|(name, var)| (name, var.detach())).collect();
        let vb = VarBuilder::from_tensors(untracked, DType::F32, device).pp(PREFIX);
        let evaluated = Gpt2::new(GptInputLayer::load(vb.clone(), &config)?, vb)?;

        // As in nanoGPT, matrices decay; biases and norms do not.
        let decayed =
            ParamGroup::from_varmap(&varmap, |_, var| var.rank() >= 2).with_weight_decay(settings.weight_decay);
        let others = ParamGroup::from_varmap(&varmap, |_, var| var.rank() < 2).with_weight_decay(0.0);
        let defaults =
            ParamsAdamW { lr: settings.learning_rate, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 };
        let mut adamw = AdamW::with_groups([decayed, others], defaults)?;
        adamw.set_max_grad_norm((settings.grad_clip != 0.0).then_some(settings.grad_clip))?;
        Ok(Self { varmap, adamw, model, evaluated, wte })
    }

    /// Makes one step and returns the loss before it.
    pub fn step(&mut self, batch: &Batch, learning_rate: f64) -> Result<f32> {
        let input = self.model.input();
        // The embeddings are a leaf: the few rows of the batch need no gradient of the whole table.
        let embeds = input.forward_leaf(&batch.input_ids)?;
        let dropped = dropout(&embeds, input.config().embd_pdrop, input.generator())?;
        let hidden_states = self.model.transform(dropped, 0.into(), None, None, true)?;
        let head = self.model.lm_head().loss_and_grads(&hidden_states, &batch.target_ids, &Default::default())?;
        let loss = head.loss.to_scalar::<f32>()?;
        ensure!(loss.is_finite(), "the loss is {loss}: {DIVERGED}");
        let mut grads = (hidden_states * head.hidden_grad)?.sum_all()?.backward()?;
        let embeds_grad = grads.remove(&embeds).context("the embeddings have a gradient")?;
        let rows = input.row_grads(&batch.input_ids, 0, &embeds_grad)?;
        if let Some(wte_grad) = head.wte_grad {
            grads.insert(&self.wte, wte_grad);
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

    /// Computes the mean loss over windows of `validation`: all of them, or the same few in every evaluation if there
    /// are many.
    pub fn evaluate(&self, validation: &Tokens, settings: &Settings) -> Result<f32> {
        let loader = validation_loader(validation, settings, self.wte.device())?;
        let (mut sum, mut n_targets) = (0.0, 0.0);
        for batch in loader.epoch().take(N_EVALUATED) {
            let batch = batch?;
            let mask = batch.loss_mask.as_ref().context("tails that are kept are masked")?;
            let hidden_states = self.evaluated.hidden_states(&batch.input_ids, None, None)?;
            let options = LossOptions::default().with_mask(mask).with_reduction(Reduction::Sum);
            sum += f64::from(
                self.evaluated.lm_head().loss(&hidden_states, &batch.target_ids, &options)?.to_scalar::<f32>()?,
            );
            n_targets += f64::from(mask.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?);
        }
        let loss = (sum / n_targets) as f32;
        ensure!(loss.is_finite(), "the validation loss is {loss}: {DIVERGED}");
        Ok(loss)
    }

    /// Checks that all weights and the state of the optimizer are finite, as a run needs them to go on.
    pub fn check_finite(&self) -> Result<()> {
        for (name, var) in self.weights() {
            let state = self.adamw.state(&var).into_iter().flat_map(|state| [&state.exp_avg, &state.exp_avg_sq]);
            for tensor in state.chain([var.as_tensor()]) {
                ensure!(all_finite(tensor)?, "{name} or its averages in AdamW are not finite: {DIVERGED}");
            }
        }
        Ok(())
    }

    /// Returns all weights, ordered by name.
    pub fn weights(&self) -> Vec<(String, Var)> {
        named(&self.varmap)
    }
}

/// Returns whether no element is NaN or infinite: 0 times such a one is NaN.
pub fn all_finite(tensor: &Tensor) -> Result<bool> {
    let zero = (tensor.detach() * 0.0)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    Ok(zero == 0.0)
}

fn named(varmap: &VarMap) -> Vec<(String, Var)> {
    let vars = varmap.data().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut named: Vec<(String, Var)> = vars.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    named.sort_by(|(left, _), (right, _)| left.cmp(right));
    named
}

/// Makes a loader of whole windows, side by side, in a new order each epoch.
pub fn training_loader(tokens: &Tokens, settings: &Settings, generator: &Generator, device: &Device) -> Result<Loader> {
    let &Settings { batch_size, max_length, .. } = settings;
    let config =
        LoaderConfig::default().with_batch_size(batch_size).with_max_length(max_length).with_stride(max_length);
    Ok(Loader::new(tokens, config, Seeding::Global(generator.clone()), device)?)
}

/// Makes a loader in which every token but the first is a target once.
pub fn validation_loader(tokens: &Tokens, settings: &Settings, device: &Device) -> Result<Loader> {
    let &Settings { batch_size, max_length, .. } = settings;
    let whole = LoaderConfig::default().with_drop_last(false).with_tail(Tail::Keep);
    let config = whole.with_batch_size(batch_size).with_max_length(max_length).with_stride(max_length);
    Ok(Loader::new(tokens, config, Seeding::Explicit(Generator::manual_seed(0)), device)?)
}
