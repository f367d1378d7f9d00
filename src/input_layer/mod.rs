//! [`GptInputLayer`]: token ids in, the tensor that enters the first transformer block out.

mod files;
mod quantized;
mod training;
mod vocabulary;

use candle_core::{DType, Device, Module, ModuleT, Tensor};

use crate::config::GptInputConfig;
use crate::embedding::{IdCheck, TokenTable};
use crate::error::{Error, Result};
use crate::init::Init;
use crate::kernel::{IdChecks, Places, Table, Wpe, add_rows, copy_into, gather_add, gather_add_into, gather_into};
use crate::lm_head::LmHead;
use crate::position::{PositionEncoding, PositionScheme, PositionTable, Positions, Resize, resized};
use crate::rng::Generator;
use crate::shape::{outer_dims, same_device};

/// `hidden_states = wte[input_ids] + wpe[position_ids]`: the input layer of GPT-2 (`transformer.wte`, `transformer.wpe`).
///
/// [`GptInputConfig::position`] can choose other positions. Those that are added to the input are added here; with those
/// that act inside attention (and with none) `hidden_states = wte[input_ids]`, and [`positions`](Self::positions) is what
/// an attention layer calls.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::GptInputLayer;
///
/// let wte = Tensor::new(&[[0f32, 1.], [10., 11.], [20., 21.]], &Device::Cpu)?; // V = 3, C = 2
/// let wpe = Tensor::new(&[[0.5f32, 0.5], [0.25, 0.25]], &Device::Cpu)?; //        P = 2
/// let layer = GptInputLayer::new(wte, wpe)?;
/// let hidden_states = layer.forward(&Tensor::new(&[[2u32, 0]], &Device::Cpu)?)?; // [B, T] -> [B, T, C]
/// assert_eq!(hidden_states.to_vec3::<f32>()?, [[[20.5, 21.5], [0.25, 1.25]]]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GptInputLayer {
    wte: TokenTable,
    positions: PositionEncoding,
    config: GptInputConfig,
    /// What dropout draws from.
    generator: Generator,
    id_checks: IdChecks,
}

impl GptInputLayer {
    /// A layer of two tables, each a [`candle_nn::Embedding`], a [`Tensor`] or one of this crate's tables.
    ///
    /// The configuration is read off their shapes; there is no dropout. Tables that are [`Var`](candle_core::Var)s (those of a [`VarMap`](candle_nn::VarMap),
    /// for one) stay what they are: the layer sees every step of an optimizer.
    ///
    /// # Shapes
    /// - `wte`: `[V, C]`
    /// - `wpe`: `[P, C]`
    ///
    /// # Errors
    /// [`Error::InvalidTable`] if one is no matrix of floating-point numbers, [`Error::TableMismatch`] if their widths,
    /// types or devices differ.
    pub fn new(wte: impl Into<TokenTable>, wpe: impl Into<PositionTable>) -> Result<Self> {
        let (wte, wpe) = (wte.into(), wpe.into());
        let (vocab_size, n_embd) = wte.dims()?;
        let (n_positions, _) = wpe.dims()?;
        let config = GptInputConfig { embd_pdrop: 0.0, ..GptInputConfig::new(vocab_size, n_positions, n_embd) };
        let positions = PositionEncoding::learned(&config, wpe);
        Self::with_config(wte, positions, config)
    }

    fn with_config(wte: TokenTable, positions: PositionEncoding, config: GptInputConfig) -> Result<Self> {
        wte.dims()?;
        if let Some(wpe) = positions.input_table() {
            agree_on_all(&wte, wpe)?;
        }
        Ok(Self { wte, positions, config, generator: Generator::default(), id_checks: IdChecks::default() })
    }

    /// The same layer on other tensors: the token table, and each table of the positions by its name.
    fn with_tables(&self, wte: Tensor, map: impl FnMut(&str, &Tensor) -> Result<Tensor>) -> Result<Self> {
        let wte = self.wte.with_weight(wte);
        let positions = self.positions.map_tables(&self.config, wte.dtype(), wte.device(), map)?;
        let tables = Self::with_config(wte, positions, self.config.clone())?;
        tables.with_generator(&self.generator).with_id_check(self.id_checks.when())
    }

    /// Fresh tables: `wte` is drawn first, then `wpe` or what else the positions have, each as torch's `normal_` draws it
    /// (biases are zeros).
    ///
    /// The layer keeps a handle onto `generator` for its dropout, as all of torch draws from one global stream.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::init::Init;
    /// use candle_gpt_input::rng::Generator;
    /// use candle_gpt_input::{GptInputConfig, GptInputLayer};
    ///
    /// // torch.manual_seed(123); torch.nn.Embedding(50257, 256); torch.nn.Embedding(4, 256)
    /// let config = GptInputConfig::preset("tutorial")?;
    /// let generator = Generator::manual_seed(123);
    /// let layer = GptInputLayer::init(&config, Init::TorchEmbedding, &generator, DType::F32, &Device::Cpu)?;
    /// let x = layer.forward(&Tensor::new(&[[40u32, 367, 2885, 1464]], &Device::Cpu)?)?;
    /// assert_eq!(format!("{:.4}", x.get(0)?.get(0)?.get(0)?.to_scalar::<f32>()?), "0.4784");
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`](crate::error::ConfigError) if the configuration makes no sense, and as [`Init::wte`].
    pub fn init(
        config: &GptInputConfig,
        init: Init,
        generator: &Generator,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        let wte = init.wte(config.vocab_size, config.n_embd, generator, dtype, device)?;
        let positions = PositionEncoding::build(config, dtype, device, |spec| match *spec.shape {
            [n_rows, width] if spec.drawn => init.wpe(n_rows, width, generator, dtype, device),
            _ => Ok(Tensor::zeros(&*spec.shape, dtype, device)?),
        })?;
        Ok(Self::with_config(wte.into(), positions, config.clone())?.with_generator(generator))
    }

    /// The same layer with dropout that draws from `generator`; without one it has a stream of its own, seeded as
    /// `torch.Generator()` is.
    pub fn with_generator(mut self, generator: &Generator) -> Self {
        self.generator = generator.clone();
        self
    }

    /// The same layer with another probability of dropout.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`](crate::error::ConfigError::OutOfRange) if it is not between 0 and 1.
    pub fn with_embd_pdrop(mut self, embd_pdrop: f64) -> Result<Self> {
        self.config.embd_pdrop = embd_pdrop;
        self.config.validate()?;
        Ok(self)
    }

    /// The same layer with another moment at which ids that lie on a CUDA device are checked; others are checked in every
    /// call. Clones of the layer share what was noted.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    /// use candle_gpt_input::embedding::IdCheck;
    ///
    /// # let device = Device::Cpu;
    /// # let table = Tensor::zeros((4, 2), candle_core::DType::F32, &device)?;
    /// let layer = GptInputLayer::new(table.clone(), table)?.with_id_check(IdCheck::Deferred)?;
    /// for step in 0..3u32 {
    ///     let input_ids = Tensor::new(&[step], &device)?; // say, what sampling has left on the device
    ///     layer.forward(&input_ids)?; // does not wait for the device
    /// }
    /// layer.check_ids()?; // waits, once
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Candle`] if the device has no memory for what is noted.
    pub fn with_id_check(mut self, id_check: IdCheck) -> Result<Self> {
        self.id_checks = IdChecks::new(id_check, self.device())?;
        Ok(self)
    }

    /// With [`IdCheck::Deferred`]: waits for the device, and reports the first bad id of the first call that had one since
    /// this was asked last. Costs one synchronisation; without deferred checks nothing.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`] or [`Error::PositionOutOfRange`], as the call itself would have reported it.
    pub fn check_ids(&self) -> Result<()> {
        self.id_checks.take()
    }

    /// What dropout draws from; its state belongs into a checkpoint of a training run.
    pub fn generator(&self) -> &Generator {
        &self.generator
    }

    /// The same layer with its tables in another type (f32, f16, bf16 or f64).
    ///
    /// # Errors
    /// [`Error::Candle`] if the device cannot convert.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let wte = self.wte.dense()?.weight().to_dtype(dtype)?;
        self.with_tables(wte, |_, table| Ok(table.to_dtype(dtype)?))
    }

    /// Embeds ids that start a sequence, without dropout.
    ///
    /// # Shapes
    /// - `input_ids`: `[B, T]` (or `[T]`, or more dimensions before T), `u8`, `u32` or `i64`, any stride, empty allowed
    /// - returns: `[B, T, C]` in the tables' type
    ///
    /// # Errors
    /// - [`Error::TokenOutOfRange`] if an id is not below V
    /// - [`Error::SequenceTooLong`] if T is more than P
    /// - [`Error::IdDType`] if the ids are of another type
    pub fn forward(&self, input_ids: &Tensor) -> Result<Tensor> {
        self.forward_at(input_ids, 0)
    }

    /// Embeds ids at given positions: `start_pos` with a key/value cache, a tensor of position ids, or
    /// [`Positions::from_mask`].
    ///
    /// # Shapes
    /// - `input_ids`: `[.., T]`
    /// - position ids, if given: any shape that broadcasts to it
    /// - returns: `[.., T, C]`
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and [`Error::PositionOutOfRange`] or [`Error::ShapeMismatch`] for position ids.
    pub fn forward_at(&self, input_ids: &Tensor, positions: impl Into<Positions>) -> Result<Tensor> {
        let places = self.places(&positions.into(), input_ids.dims(), &self.id_checks)?;
        let ids = self.wte.check_as(input_ids, &self.id_checks)?;
        let Some((wpe, places)) = places else { return self.wte.forward_checked(&ids) };
        if self.wte.is_plain() {
            match (self.wte.stored(), wpe.stored()) {
                (None, None) => return gather_add(self.wte.dense()?.weight(), &ids, wpe.dense()?.weight(), &places),
                (Some(wte), Some(wpe)) => return wte.gather_add(&ids, Wpe::Stored(wpe), &places),
                (Some(wte), None) if wte.can_add(wpe.dense()?.weight()) => {
                    return wte.gather_add(&ids, Wpe::Dense(wpe.dense()?.weight()), &places);
                }
                _ => {}
            }
        }
        add_rows(&self.wte.forward_checked(&ids)?, &wpe.rows_at(&places)?)
    }

    /// [`forward_at`](Self::forward_at) into a buffer that is there already: nothing is allocated for contiguous ids at a
    /// start position, and nothing is recorded for gradients.
    ///
    /// The buffer may be of another type than the tables: the sum is taken in f32 and rounded once to it (an f64 buffer
    /// goes with f64 tables only). With mapped or quantized tables it must be of their type, and its content is copied.
    ///
    /// # Shapes
    /// - `input_ids`: `[.., T]`
    /// - `buffer`: `[.., T, C]`, contiguous, not a variable
    ///
    /// # Errors
    /// As [`forward_at`](Self::forward_at), and [`Error::ShapeMismatch`] or [`Error::Candle`] for a buffer that does not fit.
    pub fn forward_into(&self, input_ids: &Tensor, positions: impl Into<Positions>, buffer: &Tensor) -> Result<()> {
        if self.wte.stored().or(self.wpe().ok().and_then(PositionTable::stored)).is_some() {
            return copy_into(buffer, &self.forward_at(input_ids, positions)?);
        }
        let places = self.places(&positions.into(), input_ids.dims(), &self.id_checks)?;
        let ids = self.wte.check_as(input_ids, &self.id_checks)?;
        if !self.wte.is_plain() {
            self.wte.forward_checked(&ids)?; // for what `max_norm` does to the table
        }
        let weight = self.wte.dense()?.weight();
        match places {
            Some((wpe, places)) => gather_add_into(buffer, weight, &ids, wpe.dense()?.weight(), &places),
            None => gather_into(buffer, weight, &ids),
        }
    }

    /// The first half: token embeddings without positions, for ids of any rank (a scalar gives `[C]`).
    ///
    /// # Shapes
    /// - `input_ids`: `[..]`
    /// - returns: `[.., C]`
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`], [`Error::IdDType`].
    pub fn embed_tokens(&self, input_ids: &Tensor) -> Result<Tensor> {
        self.wte.forward_checked(&self.wte.check_as(input_ids, &self.id_checks)?)
    }

    /// The second half: adds the positions' rows to embeddings of your own (`inputs_embeds`, token types, soft prompts).
    ///
    /// # Shapes
    /// - `inputs_embeds`: `[.., T, C]`
    /// - returns: the same
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the last dimension is not C, [`Error::TableMismatch`] if the type is not the tables',
    /// and the errors of positions as in [`forward_at`](Self::forward_at).
    pub fn add_positions(&self, inputs_embeds: &Tensor, positions: impl Into<Positions>) -> Result<Tensor> {
        let ids_dims =
            outer_dims("inputs_embeds", inputs_embeds, (Table::Positions.name(), self.config.n_embd, self.dtype()))?;
        match self.places(&positions.into(), ids_dims, &self.id_checks)? {
            Some((wpe, places)) => add_rows(inputs_embeds, &wpe.rows_at(&places)?),
            None => Ok(inputs_embeds.clone()),
        }
    }

    /// The table that is added to the input, and where ids of shape `ids_dims` stand in it; `None` if nothing is added.
    fn places(
        &self,
        positions: &Positions,
        ids_dims: &[usize],
        checks: &IdChecks,
    ) -> Result<Option<(&PositionTable, Places)>> {
        match self.positions.input_table() {
            Some(wpe) => Ok(Some((wpe, wpe.places(positions, ids_dims, checks)?))),
            None => {
                positions.resolve(ids_dims, usize::MAX)?; // what does not go with the ids is an error all the same
                Ok(None)
            }
        }
    }

    /// The same layer with `n_positions` positions.
    ///
    /// A learned table is copied into a new one, which is no variable (see [`trainable`](Self::trainable)); a sinusoidal one
    /// is computed. Schemes without a table only note the length, which dynamic scaling of rotary positions asks for.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    /// use candle_gpt_input::position::Resize;
    ///
    /// let wpe = Tensor::new(&[[0f32], [2.]], &Device::Cpu)?;
    /// let layer = GptInputLayer::new(Tensor::zeros_like(&wpe)?, wpe)?;
    /// let longer = layer.resize_positions(5, Resize::Interpolate)?;
    /// let x = longer.forward(&Tensor::new(&[0u32, 0, 0, 0, 0], &Device::Cpu)?)?;
    /// assert_eq!(x.squeeze(1)?.to_vec1::<f32>()?, [0.0, 0.5, 1.0, 1.5, 2.0]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`PositionError::Resize`](crate::error::PositionError::Resize) to crop to more rows or to extend to fewer, and as
    /// [`Init::wpe`].
    pub fn resize_positions(&self, n_positions: usize, how: Resize) -> Result<Self> {
        let config = GptInputConfig { n_positions, ..self.config.clone() };
        config.validate()?;
        let is_learned = config.position == PositionScheme::Learned;
        let positions =
            self.positions.map_tables(&config, self.dtype(), self.device(), |_, table| match is_learned {
                true => resized(table, n_positions, how, &self.generator),
                false => Ok(table.clone()),
            })?;
        Ok(Self { positions, config, ..self.clone() })
    }

    /// A view that implements [`Module`]: [`forward`](Self::forward), never dropout.
    ///
    /// The layer itself implements only [`ModuleT`]: Candle gives every `Module` a `ModuleT` that ignores `train`, so
    /// that dropout would be lost without a word.
    pub fn eval(&self) -> EvalInputLayer<'_> {
        EvalInputLayer { layer: self }
    }

    /// The output head on the same token table: `[B, T, C] -> [B, T, V]`.
    ///
    /// # Errors
    /// [`Error::NotInMemory`] for a table whose bytes are elsewhere.
    pub fn lm_head(&self) -> Result<LmHead> {
        LmHead::new(self.wte.clone())
    }

    /// The token table.
    pub fn wte(&self) -> &TokenTable {
        &self.wte
    }

    /// The position table that is added to the input: learned, or sinusoidal.
    ///
    /// # Errors
    /// [`PositionError::WrongPlace`](crate::error::PositionError::WrongPlace) with positions that add nothing to the input.
    pub fn wpe(&self) -> Result<&PositionTable> {
        self.positions.input_table().ok_or_else(|| self.positions.wrong_place("add nothing to the input"))
    }

    /// The positions: what an attention layer calls for schemes that act there.
    pub fn positions(&self) -> &PositionEncoding {
        &self.positions
    }

    /// Dimensions and settings.
    pub fn config(&self) -> &GptInputConfig {
        &self.config
    }

    /// The type of the tables and of what the layer returns.
    pub fn dtype(&self) -> DType {
        self.wte.dtype()
    }

    /// Where the tables live and the layer computes.
    pub fn device(&self) -> &Device {
        self.wte.device()
    }
}

fn agree_on_all(wte: &TokenTable, wpe: &PositionTable) -> Result<()> {
    let ((_, wte_width), (_, wpe_width)) = (wte.dims()?, wpe.dims()?);
    agree("width", wte_width == wpe_width, || (wte_width.to_string(), wpe_width.to_string()))?;
    agree("dtype", wte.dtype() == wpe.dtype(), || (format!("{:?}", wte.dtype()), format!("{:?}", wpe.dtype())))?;
    same_device(("wte", wte.device()), ("wpe", wpe.device()))
}

fn agree(property: &'static str, equal: bool, values: impl FnOnce() -> (String, String)) -> Result<()> {
    if equal {
        return Ok(());
    }
    let (left_value, right_value) = values();
    Err(Error::TableMismatch { left: "wte", right: "wpe", property, left_value, right_value })
}

impl ModuleT for GptInputLayer {
    fn forward_t(&self, input_ids: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        Ok(Self::forward_t(self, input_ids, train)?)
    }
}

/// [`GptInputLayer`] as a [`Module`], without dropout; made by [`GptInputLayer::eval`].
#[derive(Clone, Copy, Debug)]
pub struct EvalInputLayer<'a> {
    layer: &'a GptInputLayer,
}

impl Module for EvalInputLayer<'_> {
    fn forward(&self, input_ids: &Tensor) -> candle_core::Result<Tensor> {
        Ok(self.layer.forward(input_ids)?)
    }
}
