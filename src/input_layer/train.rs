//! Variables, dropout, gradients of rows and a step with them.

use candle_core::{Tensor, Var};
use candle_nn::VarMap;

use super::GptInputLayer;
use crate::dropout::dropout;
use crate::error::{Error, OptimError, Result};
use crate::kernel::{DenseTable, IdChecks, new_var};
use crate::optim::{RowGrad, RowOptimizer};
use crate::position::Positions;
use crate::rng::Generator;

/// # Train
impl GptInputLayer {
    /// Sets the generator that dropout draws from. Without this, the layer has a stream of its own, seeded as
    /// `torch.Generator()` is.
    pub fn with_generator(mut self, generator: &Generator) -> Self {
        self.generator = generator.clone();
        self
    }

    /// Sets the probability of dropout.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`](crate::error::ConfigError::OutOfRange) if it is not between 0 and 1.
    pub fn with_embd_pdrop(mut self, embd_pdrop: f64) -> Result<Self> {
        self.config.embd_pdrop = embd_pdrop;
        self.config.validate()?;
        Ok(self)
    }

    /// Returns what dropout draws from; save its state with your training checkpoint.
    pub fn generator(&self) -> &Generator {
        &self.generator
    }

    /// Embeds into a new variable, which is not connected to the tables: `loss.backward()` ends there.
    ///
    /// Its gradient goes to [`backward_step`](Self::backward_step) or [`row_grads`](Self::row_grads), so that no gradient of
    /// a whole table is ever made (the page of [`optim`](crate::optim) has an example).
    ///
    /// # Shapes
    /// As [`forward`](Self::forward).
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_leaf(&self, input_ids: &Tensor) -> Result<Var> {
        self.forward_leaf_at(input_ids, 0)
    }

    /// As [`forward_leaf`](Self::forward_leaf), at given positions.
    ///
    /// # Errors
    /// As [`forward_at`](Self::forward_at).
    pub fn forward_leaf_at(&self, input_ids: &Tensor, positions: impl Into<Positions>) -> Result<Var> {
        let mut dims = input_ids.dims().to_vec();
        dims.push(self.config.n_embd);
        let leaf = Var::zeros(dims, self.dtype(), self.device())?;
        self.forward_into(input_ids, positions, &leaf)?;
        Ok(leaf)
    }

    /// Returns the gradients of the tables' rows, from the gradient of the hidden states: of `wte` and `wpe`, in this order,
    /// where they are variables.
    ///
    /// `padding_idx` and `scale_grad_by_freq` of the table are obeyed. Ids and positions are those of the forward pass.
    ///
    /// # Shapes
    /// - `input_ids`: `[.., T]`
    /// - `grad`: `[.., T, C]`
    ///
    /// # Errors
    /// As [`forward_at`](Self::forward_at), [`Error::ShapeMismatch`] or [`Error::TableMismatch`] for a gradient whose
    /// shape is not that of the ids, and [`OptimError::NotTrainable`] if no table is a variable.
    pub fn row_grads(
        &self,
        input_ids: &Tensor,
        positions: impl Into<Positions>,
        grad: &Tensor,
    ) -> Result<Vec<RowGrad>> {
        let (wte, dims) = (self.wte.dense()?, input_ids.dims());
        let ids = wte.check(input_ids)?;
        let places = self.places(&positions.into(), dims, &IdChecks::default())?;
        let mut rows = Vec::with_capacity(2);
        if let Some(var) = variable(wte.weight()) {
            let of_wte = RowGrad::checked(wte, var, grad, dims, || self.wte.row_groups(&ids))?;
            rows.push(of_wte.with_scale(self.embed_scale().unwrap_or(1.0)));
        }
        if let Some((wpe, places)) = places
            && let wpe = wpe.dense()?
            && let Some(var) = variable(wpe.weight())
        {
            rows.push(RowGrad::checked(wpe, var, grad, dims, || places.groups(dims))?);
        }
        if rows.is_empty() { Err(OptimError::NotTrainable.into()) } else { Ok(rows) }
    }

    /// Takes one step of the tables, from the gradient of the hidden states that [`forward_leaf`](Self::forward_leaf) gave.
    ///
    /// With [`RowAdamW`](crate::optim::RowAdamW) only the rows of the batch are read and written. With
    /// [`AdamW`](crate::optim::AdamW) every row takes its step; to take it together with the rest of the model (one norm for
    /// clipping, a tied head), pass [`row_grads`](Self::row_grads) to
    /// [`AdamW::step_with_rows`](crate::optim::AdamW::step_with_rows).
    ///
    /// # Errors
    /// As [`row_grads`](Self::row_grads), and [`OptimError::UnknownVar`] if a table that is a variable is none of the
    /// optimizer's parameters; nothing is changed then.
    pub fn backward_step(
        &self,
        input_ids: &Tensor,
        positions: impl Into<Positions>,
        grad: &Tensor,
        optimizer: &mut impl RowOptimizer,
    ) -> Result<()> {
        optimizer.step_rows(&self.row_grads(input_ids, positions, grad)?)
    }

    /// Embeds, with dropout of `embd_pdrop` when `train`; [`ModuleT`](candle_core::ModuleT) calls this.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_t(&self, input_ids: &Tensor, train: bool) -> Result<Tensor> {
        self.forward_at_t(input_ids, 0, train)
    }

    /// [`forward_at`](Self::forward_at), with dropout of `embd_pdrop` when `train`.
    ///
    /// The mask is the one that torch draws on the CPU from the same state of the [`generator`](Self::generator), on every
    /// device.
    ///
    /// # Errors
    /// As [`forward_at`](Self::forward_at).
    pub fn forward_at_t(&self, input_ids: &Tensor, positions: impl Into<Positions>, train: bool) -> Result<Tensor> {
        let hidden_states = self.forward_at(input_ids, positions)?;
        if train { dropout(&hidden_states, self.config.embd_pdrop, &self.generator) } else { Ok(hidden_states) }
    }

    /// Returns the layer with its tables as variables `{prefix}.wte.weight` and `{prefix}.wpe.weight` of `varmap` (with other
    /// positions, under the names of [`PositionEncoding::tables`](crate::position::PositionEncoding::tables)).
    ///
    /// Tables that are variables already are shared; others are copied. An empty prefix gives the bare names.
    ///
    /// # Errors
    /// [`Error::VarExists`] if `varmap` has one of the names already; nothing is changed then.
    #[doc(alias = "requires_grad_")]
    pub fn trainable(&self, varmap: &VarMap, prefix: &str) -> Result<Self> {
        let mut vars = varmap.data().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let dot = if prefix.is_empty() { "" } else { "." };
        let full = |name: &str| format!("{prefix}{dot}{name}");
        let names = ["wte.weight"].into_iter().chain(self.positions.tables().iter().map(|(name, _)| name.as_str()));
        if let Some(name) = names.map(full).find(|name| vars.contains_key(name)) {
            return Err(Error::VarExists { name });
        }
        let wte = new_var(self.wte.dense()?.weight())?;
        let mut made = vec![(full("wte.weight"), wte.clone())];
        let layer = self.with_tables(wte.as_tensor().clone(), |name, table| {
            let var = new_var(table)?;
            made.push((full(name), var.clone()));
            Ok(var.as_tensor().clone())
        })?;
        vars.extend(made);
        Ok(layer)
    }

    /// Returns the tables that are variables, `wte` first: the parameters for an optimizer of this layer alone.
    #[doc(alias = "parameters")]
    pub fn vars(&self) -> Vec<Var> {
        let positional = self.positions.tables().iter().map(|(_, table)| table);
        let wte = self.wte.dense().ok().map(DenseTable::weight);
        wte.into_iter().chain(positional).filter_map(variable).collect()
    }
}

fn variable(weight: &Tensor) -> Option<Var> {
    if weight.is_variable() { Var::from_tensor(weight).ok() } else { None }
}
