//! [`GptInputLayer`]: token ids in, the tensor that enters the first transformer block out.

mod forward;
#[cfg(feature = "hub")]
mod from_hub;
mod head;
mod open;
mod options;
mod output;
mod save;
mod tables;
mod train;

use candle_core::{DType, Device, Module, ModuleT, Tensor};
use candle_nn::Embedding;

use crate::config::GptInputConfig;
use crate::embedding::TokenTable;
use crate::error::{Error, PositionError, Result};
use crate::kernel::IdChecks;
use crate::position::{PositionEncoding, PositionTable};
use crate::rng::Generator;
use crate::shape::same_device;

pub use crate::config::TableSizes;
use head::Head;
pub use options::{OpenOptions, TableStorage};

/// The input layer of GPT-2: `hidden_states = wte[input_ids] + wpe[position_ids]`.
///
/// `wte` and `wpe` are `transformer.wte` and `transformer.wpe` of a checkpoint. [`GptInputConfig::position`] chooses
/// other positions. Schemes that act on the input are added here. With those that act inside attention, and with none,
/// `hidden_states = wte[input_ids]`, and an attention layer calls the methods of [`positions`](Self::positions).
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
#[doc(alias = "nn.Embedding")]
#[must_use = "a changed layer is returned, not changed in place"]
pub struct GptInputLayer {
    wte: TokenTable,
    positions: PositionEncoding,
    config: GptInputConfig,
    head: Head,
    /// The generator of dropout masks.
    generator: Generator,
    id_checks: IdChecks,
}

impl GptInputLayer {
    fn with_config(wte: TokenTable, positions: PositionEncoding, config: GptInputConfig) -> Result<Self> {
        if let Some(wpe) = positions.input_table() {
            agree_on_all(&wte, wpe)?;
        }
        let (head, generator, id_checks) = (Head::of(&config), Generator::default(), IdChecks::default());
        Ok(Self { wte, positions, config, head, generator, id_checks })
    }

    /// Returns the layer on other tensors: the token table, each table of the positions by its name, and the head.
    fn with_tables(&self, wte: Tensor, head: Head, map: impl FnMut(&str, &Tensor) -> Result<Tensor>) -> Result<Self> {
        let wte = self.wte.with_weight(wte)?;
        let positions = self.positions.map_tables(&self.config, wte.dtype(), wte.device(), map)?;
        let tables = Self { head, ..Self::with_config(wte, positions, self.config.clone())? };
        tables.with_generator(&self.generator).with_id_check(self.id_checks.when())
    }
}

/// # Parts
impl GptInputLayer {
    /// Returns a view that implements [`Module`]: [`forward`](Self::forward), never dropout.
    ///
    /// The layer itself implements only [`ModuleT`]: Candle gives every `Module` a `ModuleT` that ignores `train`, and
    /// so would silently drop dropout.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    ///
    /// let table = Tensor::new(&[[1f32], [2.]], &Device::Cpu)?;
    /// let layer = GptInputLayer::new(table.clone(), table)?;
    /// let x = Tensor::new(&[1u32, 0], &Device::Cpu)?.apply(&layer.eval())?;
    /// assert_eq!(x.to_vec2::<f32>()?, [[3.], [3.]]); // 2 + 1 and 1 + 2
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    pub fn eval(&self) -> EvalInputLayer<'_> {
        EvalInputLayer { layer: self }
    }

    /// Returns the token table.
    #[doc(alias = "get_input_embeddings")]
    pub fn wte(&self) -> &TokenTable {
        &self.wte
    }

    /// Returns the position table that is added to the input, learned or sinusoidal; `None` if the scheme adds nothing.
    pub fn wpe(&self) -> Option<&PositionTable> {
        self.positions.input_table()
    }

    /// Returns the token table as Candle's own layer: `&model.wte` of a model that held one.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    ///
    /// let table = Tensor::new(&[[1f32], [2.]], &Device::Cpu)?;
    /// let layer = GptInputLayer::new(table.clone(), table)?;
    /// assert_eq!(layer.wte_embedding()?.embeddings().dims(), [2, 1]);
    /// assert_eq!(layer.wpe_embedding()?.hidden_size(), 1);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotInMemory`] for a mapped table, [`Error::Quantized`] for a quantized one.
    pub fn wte_embedding(&self) -> Result<&Embedding> {
        self.wte.embedding()
    }

    /// Returns the position table as Candle's own layer.
    ///
    /// # Errors
    /// [`PositionError::NoTable`] if the scheme adds nothing to the input, [`Error::NotInMemory`] for a mapped table.
    pub fn wpe_embedding(&self) -> Result<&Embedding> {
        let scheme = self.config.position.name();
        self.wpe().ok_or(PositionError::NoTable { scheme })?.embedding()
    }

    /// Returns the positions, whose methods an attention layer calls.
    ///
    /// A clone shares the tables, so each attention block may hold one: `positions: layer.positions().clone()`.
    pub fn positions(&self) -> &PositionEncoding {
        &self.positions
    }

    /// Returns the configuration: dimensions and settings.
    ///
    /// Its `vocab_size` counts tokens; a padded token table has `n_token_rows`.
    pub fn config(&self) -> &GptInputConfig {
        &self.config
    }

    /// Returns the dtype of the tables and of the hidden states.
    pub fn dtype(&self) -> DType {
        self.wte.dtype()
    }

    /// Returns the device of the tables, on which the layer computes.
    pub fn device(&self) -> &Device {
        self.wte.device()
    }
}

fn agree_on_all(wte: &TokenTable, wpe: &PositionTable) -> Result<()> {
    let ((_, wte_width), (_, wpe_width)) = (wte.dims(), wpe.dims());
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
