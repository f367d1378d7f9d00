//! Training: variables, dropout, row gradients, and a step with them.

use candle_core::{Tensor, Var};
use candle_nn::VarMap;

use super::GptInputLayer;
use crate::dropout::dropout;
use crate::error::{Error, OptimError, Result};
use crate::kernel::{DenseTable, IdChecks, new_var, unwritten_var};
use crate::memory::fits_on;
use crate::optim::{RowGrad, RowOptimizer};
use crate::position::Positions;
use crate::rng::Generator;

/// # Train
impl GptInputLayer {
    /// Sets the generator that dropout draws from. By default a layer has a stream of its own, seeded as
    /// `torch.Generator()` is.
    pub fn with_generator(mut self, generator: &Generator) -> Self {
        self.generator = generator.clone();
        self
    }

    /// Sets the probability of dropout.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    ///
    /// let table = Tensor::ones((1, 8), DType::F32, &Device::Cpu)?;
    /// let layer = GptInputLayer::new(table.clone(), table)?.with_embd_pdrop(0.5)?;
    /// let ids = Tensor::new(&[0u32], &Device::Cpu)?;
    /// assert_eq!(layer.forward_t(&ids, false)?.to_vec2::<f32>()?, [[2.; 8]]); // 1 + 1
    /// let dropped = layer.forward_t(&ids, true)?.flatten_all()?.to_vec1::<f32>()?;
    /// assert!(dropped.iter().all(|&x| x == 0.0 || x == 4.0)); // what is left is divided by 1 - 0.5
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`](crate::error::ConfigError::OutOfRange) if it is not between 0 and 1.
    pub fn with_embd_pdrop(mut self, embd_pdrop: f64) -> Result<Self> {
        self.config.embd_pdrop = embd_pdrop;
        self.config.validate()?;
        Ok(self)
    }

    /// Returns the generator of dropout masks; save its state with your training checkpoint.
    pub fn generator(&self) -> &Generator {
        &self.generator
    }

    /// Embeds into a new variable that is not connected to the tables: `loss.backward()` ends there.
    ///
    /// Pass its gradient to [`backward_step`](Self::backward_step) or [`row_grads`](Self::row_grads): no gradient of a
    /// whole table is ever made. The page of [`optim`](crate::optim) has an example.
    ///
    /// # Shapes
    /// - `input_ids`: `[.., T]`
    /// - returns: `[.., T, C]` in the tables' dtype
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`] if an id is not below V, [`Error::SequenceTooLong`] if T is more than P,
    /// [`Error::IdDType`] if the ids have another dtype.
    pub fn forward_leaf(&self, input_ids: &Tensor) -> Result<Var> {
        self.forward_leaf_at(input_ids, 0)
    }

    /// Embeds into a new variable as [`forward_leaf`](Self::forward_leaf) does, at given positions.
    ///
    /// # Errors
    /// - [`Error::TokenOutOfRange`] if an id is not below V
    /// - [`Error::SequenceTooLong`] or [`Error::PositionOutOfRange`] for positions beyond P
    /// - [`Error::ShapeMismatch`] if position ids or a mask do not fit the ids
    /// - [`Error::IdDType`] if ids or position ids have another dtype
    pub fn forward_leaf_at(&self, input_ids: &Tensor, positions: impl Into<Positions>) -> Result<Var> {
        let mut dims = input_ids.dims().to_vec();
        dims.push(self.config.n_embd);
        fits_on(self.device(), "hidden states", &dims, self.dtype().size_in_bytes())?;
        let leaf = unwritten_var(&dims, self.dtype(), self.device())?;
        self.forward_into(input_ids, positions, &leaf)?;
        Ok(leaf)
    }

    /// Returns the gradients of the rows of `wte` and `wpe`, in this order, from the gradient of the hidden states. A
    /// table that is not a variable is left out.
    ///
    /// Pass the ids and positions of the forward pass. The table's `padding_idx` and `scale_grad_by_freq` apply.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    /// use candle_nn::VarMap;
    ///
    /// let table = Tensor::new(&[[0f32], [0.], [0.]], &Device::Cpu)?;
    /// let layer = GptInputLayer::new(table.clone(), table)?.trainable(&VarMap::new(), "")?;
    /// let (ids, grad) = (Tensor::new(&[2u32, 2], &Device::Cpu)?, Tensor::new(&[[1f32], [10.]], &Device::Cpu)?);
    /// let grads = layer.row_grads(&ids, 0, &grad)?;
    /// assert_eq!(grads[0].to_dense()?.to_vec2::<f32>()?, [[0.], [0.], [11.]]); // wte: both positions hold token 2
    /// assert_eq!(grads[1].to_dense()?.to_vec2::<f32>()?, [[1.], [10.], [0.]]); // wpe
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `input_ids`: `[.., T]`
    /// - `grad`: `[.., T, C]`
    ///
    /// # Errors
    /// - [`Error::TokenOutOfRange`] if an id is not below V
    /// - [`Error::SequenceTooLong`] or [`Error::PositionOutOfRange`] for positions beyond P
    /// - [`Error::ShapeMismatch`] for positions or a gradient that do not fit the ids
    /// - [`Error::TableMismatch`] for a gradient of another dtype or device than the tables
    /// - [`Error::IdDType`] if ids or position ids have another dtype
    /// - [`OptimError::NotTrainable`] if no table is a variable
    pub fn row_grads(
        &self,
        input_ids: &Tensor,
        positions: impl Into<Positions>,
        grad: &Tensor,
    ) -> Result<Vec<RowGrad>> {
        let (wte, dims) = (self.wte.dense()?, input_ids.dims());
        let checks = IdChecks::on_host();
        let ids = wte.check_as(input_ids, &checks)?;
        let places = self.places(&positions.into(), dims, &checks)?;
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

    /// Makes one step of the tables, from the gradient of the hidden states that [`forward_leaf`](Self::forward_leaf)
    /// returned.
    ///
    /// With [`RowAdamW`](crate::optim::RowAdamW) only the rows of the batch are read and written; with
    /// [`AdamW`](crate::optim::AdamW) every row takes its step. To step them together with the rest of the model, for
    /// one clipping norm or a tied head, pass [`row_grads`](Self::row_grads) to
    /// [`AdamW::step_with_rows`](crate::optim::AdamW::step_with_rows).
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    /// use candle_gpt_input::optim::RowAdamW;
    /// use candle_nn::VarMap;
    ///
    /// let table = Tensor::new(&[[1f32], [2.]], &Device::Cpu)?;
    /// let layer = GptInputLayer::new(table.clone(), table)?.trainable(&VarMap::new(), "")?;
    /// let mut optimizer = RowAdamW::new(layer.vars(), 0.5)?;
    /// let (ids, grad) = (Tensor::new(&[1u32], &Device::Cpu)?, Tensor::new(&[[3f32]], &Device::Cpu)?);
    /// layer.backward_step(&ids, 0, &grad, &mut optimizer)?; // Adam's first step has the length of the learning rate
    /// assert_eq!(format!("{:.2?}", layer.vars()[0].to_vec2::<f32>()?), "[[1.00], [1.50]]");
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::TokenOutOfRange`], [`Error::SequenceTooLong`], [`Error::PositionOutOfRange`] or [`Error::IdDType`]
    ///   for ids and positions
    /// - [`Error::ShapeMismatch`] or [`Error::TableMismatch`] for a gradient that does not fit the ids and the tables
    /// - [`OptimError::NotTrainable`] if no table is a variable
    /// - [`OptimError::UnknownVar`] if a table that is a variable is not a parameter of the optimizer; nothing is
    ///   changed then
    pub fn backward_step(
        &self,
        input_ids: &Tensor,
        positions: impl Into<Positions>,
        grad: &Tensor,
        optimizer: &mut impl RowOptimizer,
    ) -> Result<()> {
        optimizer.step_rows(&self.row_grads(input_ids, positions, grad)?)
    }

    /// Embeds ids that start a sequence, with dropout of `embd_pdrop` if `train`; [`ModuleT`](candle_core::ModuleT)
    /// calls this. [`with_embd_pdrop`](Self::with_embd_pdrop) has an example.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`] if an id is not below V, [`Error::SequenceTooLong`] if T is more than P,
    /// [`Error::IdDType`] if the ids have another dtype.
    pub fn forward_t(&self, input_ids: &Tensor, train: bool) -> Result<Tensor> {
        self.forward_at_t(input_ids, 0, train)
    }

    /// Embeds ids at given positions, with dropout of `embd_pdrop` if `train`.
    ///
    /// The mask is the one that torch draws on the CPU from the same state of the [`generator`](Self::generator), on
    /// every device.
    ///
    /// # Errors
    /// - [`Error::TokenOutOfRange`] if an id is not below V
    /// - [`Error::SequenceTooLong`] or [`Error::PositionOutOfRange`] for positions beyond P
    /// - [`Error::ShapeMismatch`] if position ids or a mask do not fit the ids
    /// - [`Error::IdDType`] if ids or position ids have another dtype
    pub fn forward_at_t(&self, input_ids: &Tensor, positions: impl Into<Positions>, train: bool) -> Result<Tensor> {
        let hidden_states = self.forward_at(input_ids, positions)?;
        if train { dropout(&hidden_states, self.config.embd_pdrop, &self.generator) } else { Ok(hidden_states) }
    }

    /// Returns the layer with its tables as variables `{prefix}.wte.weight` and `{prefix}.wpe.weight` of `varmap`; with
    /// other positions, under the names of [`PositionEncoding::tables`](crate::position::PositionEncoding::tables).
    ///
    /// Tables that are variables already are shared; others are copied. An empty prefix gives the bare names. A head of
    /// its own is read, and becomes `lm_head.weight` and `lm_head.bias`, beside the module `prefix`.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    /// use candle_nn::VarMap;
    ///
    /// let varmap = VarMap::new();
    /// let table = Tensor::new(&[[1f32], [2.]], &Device::Cpu)?;
    /// let layer = GptInputLayer::new(table.clone(), table)?.trainable(&varmap, "transformer")?;
    /// assert_eq!(layer.vars().len(), 2);
    /// assert!(varmap.data().lock().unwrap().contains_key("transformer.wte.weight"));
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::VarExists`] if `varmap` has one of the names already, and nothing is changed then;
    /// [`Error::NotInMemory`] or [`Error::Quantized`] for a table that is not dense.
    #[doc(alias = "requires_grad_")]
    pub fn trainable(&self, varmap: &VarMap, prefix: &str) -> Result<Self> {
        let mut vars = varmap.data().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let dot = if prefix.is_empty() { "" } else { "." };
        let full = |name: &str| format!("{prefix}{dot}{name}");
        let names = ["wte.weight"].into_iter().chain(self.positions.tables().iter().map(|(name, _)| name.as_str()));
        let around = prefix.rsplit_once('.').map(|(around, _)| format!("{around}.")).unwrap_or_default();
        let of_head = |(name, _): (&str, &Tensor)| format!("{around}lm_head.{name}");
        let head = self.head.resolved()?;
        let names = names.map(full).chain(head.tensors().into_iter().map(of_head));
        if let Some(name) = names.into_iter().find(|name| vars.contains_key(name)) {
            return Err(Error::VarExists { name });
        }
        let variable_of = |tensor: &Tensor| Ok(new_var(tensor)?.as_tensor().clone());
        let head = head.map(|table| table.with_weight(variable_of(table.dense()?.weight())?), variable_of)?;
        let wte = variable_of(self.wte.dense()?.weight())?;
        let mut made = vec![(full("wte.weight"), wte.clone())];
        made.extend(head.tensors().into_iter().map(|(name, tensor)| (of_head((name, tensor)), tensor.clone())));
        let layer = self.with_tables(wte, head, |name, table| {
            let table = variable_of(table)?;
            made.push((full(name), table.clone()));
            Ok(table)
        })?;
        vars.extend(made.into_iter().filter_map(|(name, tensor)| Some((name, variable(&tensor)?))));
        Ok(layer)
    }

    /// Returns the tables that are variables, `wte` first and a head of its own last: the parameters for an optimizer of this layer alone.
    #[doc(alias = "parameters")]
    pub fn vars(&self) -> Vec<Var> {
        let positional = self.positions.tables().iter().map(|(_, table)| table);
        let wte = self.wte.dense().ok().map(DenseTable::weight);
        let of_head = self.head.tensors().into_iter().map(|(_, tensor)| tensor);
        wte.into_iter().chain(positional).chain(of_head).filter_map(variable).collect()
    }
}

fn variable(weight: &Tensor) -> Option<Var> {
    if weight.is_variable() { Var::from_tensor(weight).ok() } else { None }
}
