//! [`TokenTable`]: a row of C elements for each token id.

mod options;
mod quantized;
mod resize;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::Embedding;

use crate::error::{EmbeddingError, Error, Result};
use crate::init::Init;
use crate::kernel::{CheckedIds, DenseTable, IdChecks, RowGroups, StoredTable, Table};
use crate::rng::Generator;
use crate::rows::RowType;

pub use crate::config::EmbeddingScale;
pub use crate::kernel::IdCheck;
pub use options::EmbeddingOptions;
pub use quantized::QuantizeReport;
pub use resize::NewRows;

/// The token table `wte` `[V, C]`.
///
/// A [`candle_nn::Embedding`] and a [`Tensor`] convert into one. A dense table *is* an `Embedding`:
/// [`as_embedding`](Self::as_embedding) returns it.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::embedding::TokenTable;
///
/// let wte = TokenTable::try_from(Tensor::new(&[[0f32, 1.], [10., 11.], [20., 21.]], &Device::Cpu)?)?;
/// let rows = wte.forward(&Tensor::new(&[2u32, 0], &Device::Cpu)?)?;
/// assert_eq!(rows.to_vec2::<f32>()?, [[20., 21.], [0., 1.]]);
/// let same = Tensor::new(&[2u32, 0], &Device::Cpu)?.apply(&wte)?; // it is a `Module`
/// assert_eq!(same.to_vec2::<f32>()?, rows.to_vec2::<f32>()?);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias("wte", "nn.Embedding", "torch.nn.Embedding"))]
#[derive(Clone, Debug)]
#[must_use = "a table is not changed in place: use the one that is returned"]
pub struct TokenTable {
    kind: Kind,
    options: EmbeddingOptions,
}

/// The kinds of table; an enum, so that the compiler finds every place that must tell them apart.
#[derive(Clone, Debug)]
enum Kind {
    Dense(DenseTable),
    /// Its rows stay in a file, or are remote.
    Mapped(StoredTable),
    /// Its rows are quantized blocks, in memory, in a file, or remote.
    Quantized(StoredTable, GgmlDType),
}

impl TokenTable {
    /// Draws a fresh table of dimensions (V, C) and zeros its padding row: `torch.nn.Embedding(vocab_size, n_embd, …)`.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::embedding::{EmbeddingOptions, TokenTable};
    /// use candle_gpt_input::init::Init;
    /// use candle_gpt_input::rng::Generator;
    ///
    /// // torch.manual_seed(123); torch.nn.Embedding(6, 3, padding_idx=0)
    /// let options = EmbeddingOptions::default().with_padding_idx(0);
    /// let generator = Generator::manual_seed(123);
    /// let wte = TokenTable::init((6, 3), options, Init::TorchEmbedding, &generator, DType::F32, &Device::Cpu)?;
    /// let rows = wte.forward(&Tensor::new(&[0u32, 3], &Device::Cpu)?)?.to_vec2::<f32>()?;
    /// assert_eq!(format!("{rows:.4?}"), "[[0.0000, 0.0000, 0.0000], [-0.4015, 0.9666, -1.1481]]");
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`EmbeddingError`] for a padding row outside the table or a norm out of range, and the errors of [`Init::wte`].
    pub fn init(
        dims: (usize, usize),
        options: EmbeddingOptions,
        init: Init,
        generator: &Generator,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let (vocab_size, n_embd) = dims;
        let weight = init.wte(vocab_size, n_embd, generator, dtype, device)?;
        let table = Self::try_from(weight)?.with_options(options)?;
        if let Some(row) = options.padding_row(vocab_size)? {
            table.dense()?.weight().slice_set(&Tensor::zeros((1, n_embd), dtype, device)?, 0, row)?;
        }
        Ok(table)
    }

    /// Sets the options of `torch.nn.Embedding`. Like `Embedding.from_pretrained`, it changes no row.
    ///
    /// # Errors
    /// [`EmbeddingError`] for a padding row outside the table, or a norm out of range.
    pub fn with_options(mut self, options: EmbeddingOptions) -> Result<Self> {
        let (vocab_size, _) = self.dims();
        options.validate(vocab_size)?;
        self.options = options;
        Ok(self)
    }

    /// Returns the table on the same elements, without gradient: `weight.requires_grad_(False)`.
    #[doc(alias = "requires_grad_")]
    pub fn freeze(mut self) -> Self {
        if let Kind::Dense(table) = &mut self.kind {
            table.detach();
        }
        self
    }

    /// Makes a table of another weight with the same options.
    pub(crate) fn with_weight(&self, weight: Tensor) -> Result<Self> {
        Ok(Self { options: self.options, ..Self::try_from(weight)? })
    }

    /// Returns the options of its look-ups.
    pub fn options(&self) -> &EmbeddingOptions {
        &self.options
    }

    /// Returns its dimensions (V, C).
    pub fn dims(&self) -> (usize, usize) {
        match &self.kind {
            Kind::Dense(table) => table.dims(),
            Kind::Mapped(table) | Kind::Quantized(table, _) => (table.rows.n_rows, table.rows.width),
        }
    }

    /// Returns its dtype, which is that of the rows a look-up returns.
    pub fn dtype(&self) -> DType {
        match &self.kind {
            Kind::Dense(table) => table.dtype(),
            Kind::Mapped(table) | Kind::Quantized(table, _) => table.dtype,
        }
    }

    /// Returns its device; for a mapped or quantized table, the device of the rows a look-up returns.
    pub fn device(&self) -> &Device {
        match &self.kind {
            Kind::Dense(table) => table.device(),
            Kind::Mapped(table) | Kind::Quantized(table, _) => &table.device,
        }
    }

    /// Returns the dense table as Candle's own layer; `None` for a mapped or quantized one.
    pub fn as_embedding(&self) -> Option<&Embedding> {
        self.dense().ok().map(DenseTable::embedding)
    }

    /// Returns the dense table as Candle's own layer, as [`as_embedding`](Self::as_embedding) does, or an error that says
    /// why there is none: a getter is `self.input.wte().embedding()?`.
    ///
    /// # Errors
    /// [`Error::NotInMemory`] for a mapped table, [`Error::Quantized`] for a quantized one.
    pub fn embedding(&self) -> Result<&Embedding> {
        Ok(self.dense()?.embedding())
    }

    pub(crate) fn dense(&self) -> Result<&DenseTable> {
        match &self.kind {
            Kind::Dense(table) => Ok(table),
            Kind::Mapped(_) => Err(Error::NotInMemory { table: Table::Tokens.name() }),
            &Kind::Quantized(_, block_type) => Err(Error::Quantized { table: Table::Tokens.name(), block_type }),
        }
    }

    /// Returns the table that reads rows as they are stored; `None` for a dense one.
    pub(crate) fn stored(&self) -> Option<&StoredTable> {
        match &self.kind {
            Kind::Dense(_) => None,
            Kind::Mapped(table) | Kind::Quantized(table, _) => Some(table),
        }
    }

    /// Checks `ids` against the contract, now or when `checks` says. Options that need the ids on the host check them
    /// there at once.
    pub(crate) fn check_as(&self, ids: &Tensor, checks: &IdChecks) -> Result<CheckedIds> {
        match &self.kind {
            Kind::Dense(table) if self.is_plain() => table.check_as(ids, checks),
            _ => self.check(ids),
        }
    }

    /// Checks `ids` against the contract.
    pub(crate) fn check(&self, ids: &Tensor) -> Result<CheckedIds> {
        match &self.kind {
            Kind::Dense(table) => table.check(ids),
            Kind::Mapped(table) | Kind::Quantized(table, _) => table.check(ids),
        }
    }

    /// Returns the rows of `input_ids`.
    ///
    /// # Shapes
    /// - `input_ids`: `[..]`, `u8`, `u32` or `i64`, any rank and stride, empty allowed
    /// - returns: `[.., C]`
    ///
    /// # Errors
    /// - [`Error::TokenOutOfRange`] if an id is not below V
    /// - [`Error::IdDType`] if the ids are of another dtype
    pub fn forward(&self, input_ids: &Tensor) -> Result<Tensor> {
        let ids = self.check(input_ids)?;
        self.forward_checked(&ids)
    }

    /// Returns whether a look-up only looks up, in value and in gradient.
    pub(crate) fn is_plain(&self) -> bool {
        self.options.max_norm.is_none() && !self.options.shapes_gradients()
    }

    /// Groups the ids by the row that gets each one's gradient, as the options say.
    pub(crate) fn row_groups(&self, ids: &CheckedIds) -> Result<RowGroups> {
        let padding_row = self.options.padding_row(self.dims().0)?;
        let groups = RowGroups::from_ids(&ids.values()?, padding_row);
        Ok(groups.by_frequency(self.options.scale_grad_by_freq))
    }

    pub(crate) fn forward_checked(&self, ids: &CheckedIds) -> Result<Tensor> {
        let table = match &self.kind {
            Kind::Dense(table) => table,
            Kind::Mapped(_) | Kind::Quantized(..) if self.options.max_norm.is_some() => {
                return Err(EmbeddingError::MaxNormOfStored.into());
            }
            Kind::Mapped(table) | Kind::Quantized(table, _) => return table.gather(ids),
        };
        if let Some(max_norm) = self.options.max_norm {
            options::renormalize(table.weight(), ids, max_norm, self.options.norm_type)?;
        }
        let rows = table.gather(ids)?;
        if !(self.options.shapes_gradients() && rows.track_op()) {
            return Ok(rows);
        }
        let padding_row = self.options.padding_row(table.dims().0)?;
        options::shape_gradient(&rows, ids, padding_row, self.options.scale_grad_by_freq)
    }
}

impl Module for TokenTable {
    /// Looks up the rows of ids, so that `input_ids.apply(&wte)` works.
    fn forward(&self, input_ids: &Tensor) -> candle_core::Result<Tensor> {
        Ok(Self::forward(self, input_ids)?)
    }
}

impl TryFrom<Embedding> for TokenTable {
    type Error = Error;

    /// Fails with [`Error::InvalidTable`] if the table is not a matrix of floating-point elements.
    fn try_from(embedding: Embedding) -> Result<Self> {
        Ok(DenseTable::new(embedding, Table::Tokens)?.into())
    }
}

impl TryFrom<Tensor> for TokenTable {
    type Error = Error;

    /// Fails with [`Error::InvalidTable`] if the tensor is not a matrix of floating-point elements.
    fn try_from(weight: Tensor) -> Result<Self> {
        Ok(DenseTable::from_tensor(weight, Table::Tokens)?.into())
    }
}

impl From<DenseTable> for TokenTable {
    fn from(table: DenseTable) -> Self {
        Self { kind: Kind::Dense(table), options: EmbeddingOptions::default() }
    }
}

impl From<StoredTable> for TokenTable {
    fn from(table: StoredTable) -> Self {
        let kind = match table.rows.stored {
            RowType::Numbers(_) => Kind::Mapped(table),
            RowType::Blocks(block_type) => Kind::Quantized(table, block_type),
        };
        Self { kind, options: EmbeddingOptions::default() }
    }
}
