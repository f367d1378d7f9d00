//! [`LmHead`]: the output head, tied to the token table or on a table of its own, and its loss.

mod best;
mod loss;
mod options;

use candle_core::{Module, Tensor};
use candle_nn::VarBuilder;

use crate::config::GptInputConfig;
use crate::embedding::TokenTable;
use crate::error::{Error, Result};
use crate::kernel::{HeadTable, StoredTable, let_writers_pass, logits, stored_logits};
use crate::memory::{copy_fits, fits_on};
use crate::rows::StoredRows;
use crate::shape::{outer_dims, same_device, same_dtype, wrong_shape};

pub use best::TopK;
pub use loss::LossGrads;
pub(crate) use loss::{at_rows, counted, expect_dims};
pub use options::{LossOptions, Reduction};

/// The output head: `logits = hidden_states · tableᵀ (+ bias)`, tied to the token table as in GPT-2 (Press & Wolf 2017,
/// arXiv:1608.05859), or on a table of its own.
///
/// It holds the table itself, not a copy: in training the gradients of both uses of a tied table add up. An untied head
/// is a table `[V, C]` of its own. Mapped and quantized tables stay as they are stored: see [`forward`](Self::forward).
/// Candle's `QMatMul` rounds the hidden states to 8 bits ([`TokenTable::to_qtensor`] makes its argument).
///
/// Rows of padding behind the tokens (50304 rows for 50257 tokens) have no logits: see
/// [`with_vocab_size`](Self::with_vocab_size).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::LmHead;
///
/// let wte = Tensor::new(&[[1f32, 0.], [0., 1.], [2., 3.]], &Device::Cpu)?;
/// let logits = LmHead::new(wte)?.forward(&Tensor::new(&[[[10f32, 1.]]], &Device::Cpu)?)?;
/// assert_eq!(logits.to_vec3::<f32>()?, [[[10., 1., 23.]]]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias("lm_head", "TiedLmHead", "nn.Linear"))]
#[derive(Clone, Debug)]
pub struct LmHead {
    table: TokenTable,
    bias: Option<Tensor>,
    /// The rows of the table that are tokens; the others are padding.
    vocab_size: usize,
}

impl LmHead {
    /// Makes a head on a table `[V, C]`: the token table, or one of its own.
    ///
    /// # Errors
    /// [`Error::InvalidTable`] if it is not a matrix of floating-point elements, [`Error::NotInMemory`] for a remote
    /// table: every call would fetch all of it.
    pub fn new<W: TryInto<TokenTable>>(table: W) -> Result<Self>
    where
        Error: From<W::Error>,
    {
        let table = table.try_into()?;
        if let Some(table) = table.stored() {
            table.bytes_here()?;
        }
        let (vocab_size, _) = table.dims();
        Ok(Self { table, bias: None, vocab_size })
    }

    /// Takes an untied head from a [`VarBuilder`]: `weight` `[V, C]`, and `bias` `[V]` where it has one.
    ///
    /// A [`VarMap`](candle_nn::VarMap) that lacks the weight draws it from N(0, `initializer_range`²); it makes no bias.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::{GptInputConfig, LmHead};
    /// use candle_nn::VarBuilder;
    ///
    /// let weight = Tensor::new(&[[1f32, 0.], [0., 1.], [2., 3.]], &Device::Cpu)?;
    /// let bias = Tensor::new(&[0f32, 0., 100.], &Device::Cpu)?;
    /// let tensors = [("lm_head.weight".to_string(), weight), ("lm_head.bias".to_string(), bias)];
    /// let vb = VarBuilder::from_tensors(tensors.into(), DType::F32, &Device::Cpu);
    /// let head = LmHead::load(vb.pp("lm_head"), &GptInputConfig::new(3, 4, 2))?; // V, P, C
    /// let logits = head.forward(&Tensor::new(&[[10f32, 1.]], &Device::Cpu)?)?;
    /// assert_eq!(logits.to_vec2::<f32>()?, [[10., 1., 123.]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Candle`] if the weight is missing or one of the two has another shape.
    pub fn load(vb: VarBuilder, config: &GptInputConfig) -> Result<Self> {
        let init = candle_nn::Init::Randn { mean: 0.0, stdev: config.initializer_range };
        let n_rows = config.n_token_rows();
        fits_on(vb.device(), "lm_head", &[n_rows, config.n_embd], vb.dtype().size_in_bytes())?;
        let head = Self::new(vb.get_with_hints((n_rows, config.n_embd), "weight", init)?)?;
        let head = head.with_vocab_size(config.vocab_size)?;
        match vb.contains_tensor("bias") {
            true => head.with_bias(vb.get(n_rows, "bias")?),
            false => Ok(head),
        }
    }

    /// Adds a bias `[V]` to the logits.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::LmHead;
    ///
    /// let weight = Tensor::new(&[[1f32], [2.]], &Device::Cpu)?;
    /// let head = LmHead::new(weight)?.with_bias(Tensor::new(&[10f32, 20.], &Device::Cpu)?)?;
    /// assert_eq!(head.forward(&Tensor::new(&[[3f32]], &Device::Cpu)?)?.to_vec2::<f32>()?, [[13., 26.]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] unless it has an element for each row of the table, [`Error::TableMismatch`] for
    /// another dtype or device than the table's.
    pub fn with_bias(mut self, bias: Tensor) -> Result<Self> {
        let (n_rows, _) = self.table.dims();
        if bias.dims() != [n_rows] {
            return Err(wrong_shape("bias", bias.shape(), format!("[{n_rows}], one for each row of the table")));
        }
        same_dtype(("bias", bias.dtype()), ("wte", self.table.dtype()))?;
        same_device(("bias", bias.device()), ("wte", self.table.device()))?;
        self.bias = Some(bias);
        Ok(self)
    }

    /// Says that only the first `vocab_size` rows are tokens, and the others padding.
    ///
    /// Logits then have `vocab_size` columns, so padding takes no part in argmax, sampling or loss, as in llm.c. A
    /// target in the padding is an error. Gradients keep the shape of the table; they are 0 in padding.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::LmHead;
    ///
    /// let wte = Tensor::new(&[[-1f32], [-2.], [0.], [0.]], &Device::Cpu)?; // two tokens, padded to four rows
    /// let head = LmHead::new(wte)?.with_vocab_size(2)?;
    /// assert_eq!(head.forward(&Tensor::new(&[[3f32]], &Device::Cpu)?)?.to_vec2::<f32>()?, [[-3., -6.]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for 0 or more than the rows of the table.
    #[doc(alias = "padded_vocab_size")]
    pub fn with_vocab_size(mut self, vocab_size: usize) -> Result<Self> {
        let dims = self.table.dims();
        if !(1..=dims.0).contains(&vocab_size) {
            let expected = format!("at least the {vocab_size} rows of the vocabulary, which is not empty");
            return Err(wrong_shape("lm_head", dims, expected));
        }
        self.vocab_size = vocab_size;
        Ok(self)
    }

    /// Returns the table it multiplies by: the layer's own `wte` if the two are tied.
    #[doc(alias("tie_weights", "get_output_embeddings"))]
    pub fn table(&self) -> &TokenTable {
        &self.table
    }

    /// Returns the bias `[V]`, one element for each row of the table.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Returns how many tokens have a logit: the rows of the table without padding.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Makes a head of another table and bias, with the same vocabulary.
    pub(crate) fn map(
        &self,
        table: impl FnOnce(&TokenTable) -> Result<TokenTable>,
        bias: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        let (table, bias) = (table(&self.table)?, self.bias.as_ref().map(bias).transpose()?);
        Ok(Self { vocab_size: self.vocab_size.min(table.dims().0), table, bias })
    }

    /// Computes the logits.
    ///
    /// On the CPU a dense table in f32, f16 or bf16 is read once for up to 128 rows of hidden states, in its own dtype, by
    /// all cores. Sums are in f32 and rounded once, and with a bias in f16 or bf16 once more after it is added. The logits
    /// of a row are the same, bit for bit, alone and in any batch, for any number of rows and threads. On a CPU without
    /// AVX2 and FMA they may depend on the number of rows above 16: there Candle's product is taken, as for f64, for tables
    /// that are contiguous in neither dimension, and on other devices. AVX-512 and AVX2 give the same bits; other CPUs may
    /// differ in the last ones.
    ///
    /// Mapped and quantized tables are read the same way and widened in registers: the logits are those of
    /// [`to_dense`](TokenTable::to_dense), bit for bit. Only in an f16 or bf16 layer a quantized table is nearer to
    /// the exact logits, for elements of blocks are then not rounded to halves. Rows that a dense table would have rounded
    /// (f32 or f64 in the file, halves in the layer) are converted in 16 MB pieces on each call; so are all rows for hidden
    /// states with a history, whose gradient needs them.
    ///
    /// # Shapes
    /// - `hidden_states`: `[.., C]`, usually `[B, T, C]`
    /// - returns: `[.., V]`, where V is the [`vocab_size`](Self::vocab_size)
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the last dimension is not C, [`Error::TableMismatch`] if dtype or device are not the
    /// table's.
    pub fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let (_, n_embd) = self.table.dims();
        let outer = self.outer_dims(hidden_states)?;
        let dims: Vec<usize> = outer.iter().copied().chain([self.vocab_size]).collect();
        copy_fits("hidden_states", hidden_states)?;
        fits_on(hidden_states.device(), "logits", &dims, hidden_states.dtype().size_in_bytes())?;
        let flat = hidden_states.reshape((outer.iter().product::<usize>(), n_embd))?;
        let logits = match self.stored() {
            Some(table) => of_stored(&flat, &table)?,
            None => logits(&flat, &self.weight()?)?,
        };
        let logits = match &self.bias {
            Some(bias) => logits.broadcast_add(&self.tokens(bias)?)?,
            None => logits,
        };
        Ok(logits.reshape(dims)?)
    }

    /// Returns the rows of tokens, without padding.
    fn rows(&self) -> Result<HeadTable> {
        match self.stored() {
            Some(table) => Ok(HeadTable::Stored(table.rows)),
            None => self.weight().map(HeadTable::Dense),
        }
    }

    /// Returns the rows of tokens of a mapped or quantized table.
    fn stored(&self) -> Option<StoredTable> {
        let table = self.table.stored()?.clone();
        Some(StoredTable { rows: StoredRows { n_rows: self.vocab_size, ..table.rows }, ..table })
    }

    /// Returns the rows of tokens of a dense table, once writers that wait for it have had their turn.
    fn weight(&self) -> Result<Tensor> {
        let weight = self.table.dense()?.weight();
        let_writers_pass(weight);
        self.tokens(weight)
    }

    /// Returns the rows of tokens, without padding.
    fn tokens(&self, rows: &Tensor) -> Result<Tensor> {
        // A view of everything would be one more operation in the graph.
        match rows.dim(0)? == self.vocab_size {
            true => Ok(rows.clone()),
            false => Ok(rows.narrow(0, 0, self.vocab_size)?),
        }
    }

    /// Returns the outer dimensions of hidden states that fit the table.
    fn outer_dims<'a>(&self, hidden_states: &'a Tensor) -> Result<&'a [usize]> {
        same_device(("hidden_states", hidden_states.device()), ("wte", self.table.device()))?;
        outer_dims("hidden_states", hidden_states, ("wte", self.table.dims().1, self.table.dtype()))
    }
}

/// Bytes of the rows that are converted at a time.
const PIECE_BYTES: usize = 16 << 20;

/// Multiplies `hidden` `[N, C]` by the rows of `table`: `[N, V]`.
fn of_stored(hidden: &Tensor, table: &StoredTable) -> Result<Tensor> {
    let StoredTable { rows: StoredRows { n_rows, width, .. }, dtype, .. } = *table;
    if !hidden.track_op()
        && let Some(logits) = stored_logits(hidden, &table.rows, None)?
    {
        return Ok(logits);
    }
    let piece_rows = (PIECE_BYTES / (width * dtype.size_in_bytes())).clamp(1, n_rows);
    let pieces = (0..n_rows).step_by(piece_rows).map(|first| {
        let rows = table.narrow(first, piece_rows.min(n_rows - first))?;
        Ok::<_, Error>((first, logits(hidden, &rows)?))
    });
    if hidden.track_op() {
        // The gradient needs the pieces, and keeps them until then.
        let pieces = pieces.map(|piece| Ok(piece?.1)).collect::<Result<Vec<_>>>()?;
        return Ok(Tensor::cat(&pieces, 1)?);
    }
    let logits = Tensor::zeros((hidden.dim(0)?, n_rows), hidden.dtype(), hidden.device())?;
    for piece in pieces {
        let (first, piece) = piece?;
        logits.slice_set(&piece, 1, first)?;
    }
    Ok(logits)
}

impl TryFrom<TokenTable> for LmHead {
    type Error = Error;

    fn try_from(wte: TokenTable) -> Result<Self> {
        Self::new(wte)
    }
}

impl Module for LmHead {
    fn forward(&self, hidden_states: &Tensor) -> candle_core::Result<Tensor> {
        Ok(Self::forward(self, hidden_states)?)
    }
}
