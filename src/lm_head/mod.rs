//! [`LmHead`]: the output head, tied to the token table or on a table of its own, and its loss.

mod loss;

use candle_core::{Module, Tensor};

use crate::embedding::TokenTable;
use crate::error::{Error, Result};
use crate::kernel::{StoredTable, let_writers_pass, logits};
use crate::memory::{copy_fits, fits_on};
use crate::shape::outer_dims;

pub use loss::{LossGrads, LossOptions, Reduction};

/// The output head: `logits = hidden_states · wteᵀ`, tied to the token table as in GPT-2 (Press & Wolf 2017,
/// arXiv:1608.05859).
///
/// It holds the table itself, not a copy: in training the gradients of both uses add up in one table. An untied head is
/// a table `[V, C]` of its own. Mapped and quantized tables are converted in 16 MB pieces on each call and never
/// materialized as a whole; the logits are the same. Candle's `QMatMul` is faster but rounds the hidden states to 8
/// bits ([`TokenTable::to_qtensor`] makes its argument).
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
    wte: TokenTable,
}

impl LmHead {
    /// Makes a head on the token table `wte` `[V, C]`.
    ///
    /// # Errors
    /// [`Error::InvalidTable`] if it is not a matrix of floating-point elements, [`Error::NotInMemory`] for a remote
    /// table: every call would fetch all of it.
    pub fn new<W: TryInto<TokenTable>>(wte: W) -> Result<Self>
    where
        Error: From<W::Error>,
    {
        let wte = wte.try_into()?;
        if let Some(table) = wte.stored() {
            table.bytes_here()?;
        }
        Ok(Self { wte })
    }

    /// Returns the table it multiplies by: the layer's own `wte` if the two are tied.
    #[doc(alias("tie_weights", "get_output_embeddings"))]
    pub fn table(&self) -> &TokenTable {
        &self.wte
    }

    /// Computes the logits.
    ///
    /// # Shapes
    /// - `hidden_states`: `[.., C]`, usually `[B, T, C]`
    /// - returns: `[.., V]`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the last dimension is not C, [`Error::TableMismatch`] if the dtype is not the
    /// table's.
    pub fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let (vocab_size, n_embd) = self.wte.dims();
        let outer = self.outer_dims(hidden_states)?;
        let dims: Vec<usize> = outer.iter().copied().chain([vocab_size]).collect();
        copy_fits("hidden_states", hidden_states)?;
        fits_on(hidden_states.device(), "logits", &dims, hidden_states.dtype().size_in_bytes())?;
        let flat = hidden_states.reshape((outer.iter().product::<usize>(), n_embd))?;
        let logits = match self.wte.stored() {
            Some(table) => by_pieces(&flat, table)?,
            None => {
                let weight = self.wte.dense()?.weight();
                let_writers_pass(weight);
                logits(&flat, weight)?
            }
        };
        Ok(logits.reshape(dims)?)
    }

    /// Returns the outer dimensions of hidden states that fit the table.
    fn outer_dims<'a>(&self, hidden_states: &'a Tensor) -> Result<&'a [usize]> {
        outer_dims("hidden_states", hidden_states, ("wte", self.wte.dims().1, self.wte.dtype()))
    }
}

/// Bytes of the rows that are converted at a time.
const PIECE_BYTES: usize = 16 << 20;

/// Multiplies `hidden` `[N, C]` by the rows of `table`: `[N, V]`.
fn by_pieces(hidden: &Tensor, table: &StoredTable) -> Result<Tensor> {
    let (vocab_size, width) = (table.rows.n_rows, table.rows.width);
    let n_rows = (PIECE_BYTES / (width * table.dtype.size_in_bytes())).clamp(1, vocab_size);
    let pieces = (0..vocab_size).step_by(n_rows).map(|first| {
        let rows = table.narrow(first, n_rows.min(vocab_size - first))?;
        Ok::<_, Error>((first, hidden.matmul(&rows.t()?)?))
    });
    if hidden.track_op() {
        // The gradient needs the pieces, and keeps them until then.
        let pieces = pieces.map(|piece| Ok(piece?.1)).collect::<Result<Vec<_>>>()?;
        return Ok(Tensor::cat(&pieces, 1)?);
    }
    let logits = Tensor::zeros((hidden.dim(0)?, vocab_size), hidden.dtype(), hidden.device())?;
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
