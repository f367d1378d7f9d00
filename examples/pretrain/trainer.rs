//! Steps of training, and evaluation.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::data::Batch;
use candle_gpt_input::dropout::dropout;
use candle_gpt_input::error::{Error, OptimError};
use candle_gpt_input::lm_head::{LossOptions, Reduction};
use candle_gpt_input::optim::{AdamW, GradSum, ParamGroup, RowGrad};
use candle_gpt_input::ranks::{Parts, Ranks, agree};
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
    /// Those that are not frozen.
    trained: ParamGroup,
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
        let trained = ParamGroup::from_varmap(varmap, |name, _| trains(name));
        let mut adamw = AdamW::with_groups(groups, defaults)?;
        adamw.set_max_grad_norm((settings.grad_clip != 0.0).then_some(settings.grad_clip))?;
        Ok(Self { adamw, weights, trained, model, evaluated, trains_tables })
    }

    /// Makes one step over the micro-batches of all ranks, of which `batch` has this one's, and returns the loss before
    /// it. Without a target in any of them there is no step.
    pub fn step(
        &mut self,
        batch: candle_gpt_input::Result<Batch>,
        learning_rate: f64,
        settings: &Settings,
        ranks: &dyn Ranks,
    ) -> Result<Option<f32>> {
        let sum = batch.map_err(Into::into).and_then(|batch| self.sum(&batch, settings, ranks));
        let step = match agree(ranks, sum)?.finish(ranks) {
            Err(Error::Optim(OptimError::NoTargets)) => return Ok(None),
            step => step?,
        };
        let loss = step.loss as f32;
        ensure!(loss.is_finite(), "the loss is {loss}: {DIVERGED}");
        self.adamw.set_learning_rate(learning_rate);
        self.adamw.step_with_rows(&step.grads, &step.rows)?;
        let missing = self.adamw.missing_gradients();
        ensure!(missing.is_empty(), "no gradient reaches {}", missing.join(", "));
        if let Some(norm) = self.adamw.grad_norm() {
            ensure!(norm.is_finite(), "the norm of the gradients is {norm}: {DIVERGED}");
        }
        Ok(Some(loss))
    }

    /// Adds up the gradients of this rank's micro-batches.
    fn sum(&self, batch: &Batch, settings: &Settings, ranks: &dyn Ranks) -> Result<GradSum> {
        let mut sum = GradSum::new(self.trained.clone())?;
        if settings.micro_batches == 1 {
            // Divided by its targets already, it counts as one.
            let (grads, rows, loss, n_counted) = self.grads(batch, Reduction::Mean)?;
            sum.add(grads, rows, loss, n_counted.min(1))?;
            return Ok(sum);
        }
        // Each micro-batch has a stream of dropout of its own, the same on whichever rank it is.
        let generator = self.model.input().generator();
        let seeds: Vec<u64> = (0..settings.micro_batches).map(|_| generator.random_u64()).collect();
        let after = generator.state();
        let first = ranks.rank() * (settings.micro_batches / ranks.size());
        for (micro, seed) in batch.split(settings.batch_size)?.iter().zip(&seeds[first..]) {
            generator.reseed(*seed);
            let (mut grads, rows, loss, n_counted) = self.grads(micro, Reduction::Sum)?;
            let n_ids = micro.input_ids.elem_count();
            // As many rows as their table has, or more, travel as a whole gradient.
            let is_whole = |rows: &RowGrad| is_small(rows.var(), n_ids) && grads.get(rows.var()).is_none();
            let (many, few): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_whole);
            for rows in many {
                grads.insert(rows.var(), rows.to_dense()?);
            }
            sum.add(grads, few, loss, n_counted)?;
        }
        generator.set_state(&after);
        Ok(sum)
    }

    /// Computes the gradients of a micro-batch: whole ones, rows, its loss, and how many targets counted.
    fn grads(&self, batch: &Batch, reduction: Reduction) -> Result<(GradStore, Vec<RowGrad>, f64, usize)> {
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
        let options = counted(batch).with_reduction(reduction);
        let head = self.model.lm_head().loss_and_grads(&hidden_states, &batch.target_ids, &options)?;
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
        Ok((grads, rows, f64::from(head.loss.to_scalar::<f32>()?), head.n_counted))
    }

    /// Computes the mean of the losses of texts or corpora, by their weights.
    pub fn evaluate(&self, validation: &[Part], settings: &Settings, ranks: &dyn Ranks) -> Result<f32> {
        let weights: f64 = validation.iter().map(|part| part.weight).sum();
        let mut loss = 0.0;
        for part in validation {
            loss += part.weight / weights * self.evaluate_one(part, settings, ranks)?;
        }
        let loss = loss as f32;
        ensure!(loss.is_finite(), "the validation loss is {loss}: {DIVERGED}");
        Ok(loss)
    }

    /// Computes the mean loss over windows: all of them, or the same few in every evaluation if there are many. The ranks
    /// take turns with the batches.
    fn evaluate_one(&self, part: &Part, settings: &Settings, ranks: &dyn Ranks) -> Result<f64> {
        let loader = validation_loader(&part.tokens, settings, self.evaluated.input().device())?;
        let own = with_targets(loader.epoch()).take(N_EVALUATED).skip(ranks.rank()).step_by(ranks.size());
        let own = own.map(|batch| self.evaluate_batch(&batch?)).collect::<Result<Vec<_>>>();
        let own: Vec<u8> = agree(ranks, own)?.into_iter().flatten().flat_map(f64::to_le_bytes).collect();
        let mut all = Parts::default();
        ranks.all_gather(&own, &mut all)?;
        let (mut sum, mut n_targets) = (0.0, 0.0);
        for nth in 0..N_EVALUATED {
            let of_rank = all.get(nth % ranks.size()).as_chunks::<8>().0.as_chunks::<2>().0;
            if let Some(&[loss, n]) = of_rank.get(nth / ranks.size()) {
                sum += f64::from_le_bytes(loss);
                n_targets += f64::from_le_bytes(n);
            }
        }
        Ok(sum / n_targets)
    }

    /// Computes the sum of the losses of a batch, and how many there are.
    fn evaluate_batch(&self, batch: &Batch) -> Result<[f64; 2]> {
        let mask = batch.loss_mask.as_ref().context("tails that are kept are masked")?;
        let embeds = self.evaluated.input().forward_at(&batch.input_ids, positions(batch))?;
        let hidden_states = self.evaluated.transform(embeds, positions(batch), seen(batch), None, false)?;
        let options = counted(batch).with_reduction(Reduction::Sum);
        let loss = self.evaluated.lm_head().loss(&hidden_states, &batch.target_ids, &options)?.to_scalar::<f32>()?;
        Ok([loss, mask.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?].map(f64::from))
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

/// Returns whether a table has no more rows than a batch has ids.
fn is_small(table: &Var, n_ids: usize) -> bool {
    table.dims().first().is_some_and(|&n_rows| n_rows <= n_ids)
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
