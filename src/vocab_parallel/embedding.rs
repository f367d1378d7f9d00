//! [`VocabParallelEmbedding`]: a rank's share of a token table.

use std::ops::Range;

use candle_core::{DType, Device, Tensor, Var};

use crate::checkpoint::Checkpoint;
use crate::config::GptInputConfig;
use crate::error::{EmbeddingError, Error, Result};
use crate::kernel::{new_var, vocab_share};
use crate::ranks::{Ranks, agree, same};
use crate::shape::wrong_shape;

/// Returns which rows of a table of `vocab_size` are the share of a rank.
///
/// The cut lies between the groups of rows that the loss of [`LmHead`](crate::LmHead) adds up by itself. Up to 1024
/// rows are one group, and a table has at most 16: ranks beyond that have no rows, and take part with their batches.
///
/// ```
/// use candle_gpt_input::vocab_parallel::share;
///
/// assert_eq!(share(50257, 0, 2), 0..25152);
/// assert_eq!(share(50257, 1, 2), 25152..50257);
/// assert_eq!(share(97, 1, 2), 97..97); // too small to be cut
/// ```
pub fn share(vocab_size: usize, rank: usize, size: usize) -> Range<usize> {
    vocab_share(vocab_size, rank, size)
}

/// The token table `wte` `[V, C]`, of which each rank holds the rows of its [`share`].
///
/// The share is a variable: give [`var`](Self::var) to the optimizer, and never to
/// [`GradSum`](crate::optim::GradSum), for its gradient is complete already. Options such as `padding_idx` are not
/// supported. [`vocab_parallel`](super) has an example.
#[derive(Clone, Debug)]
#[doc(alias("ParallelEmbedding", "ShardedEmbedding"))]
pub struct VocabParallelEmbedding {
    pub(super) vocab_size: usize,
    pub(super) n_embd: usize,
    /// Those of each rank.
    pub(super) shares: Vec<Range<usize>>,
    pub(super) rank: usize,
    pub(super) var: Var,
}

impl VocabParallelEmbedding {
    /// Keeps this rank's rows of a whole table `[V, C]`, which each rank gives. A collective call.
    ///
    /// # Errors
    /// Those of [`from_share`](Self::from_share).
    pub fn new(ranks: &dyn Ranks, wte: &Tensor) -> Result<Self> {
        let own = || -> Result<_> {
            let (vocab_size, _) = wte.dims2().map_err(|_| wrong_shape("wte", wte.shape(), "[V, C]"))?;
            let rows = share(vocab_size, ranks.rank(), ranks.size());
            // A variable of the caller stays as it is, also where all of its rows are this rank's.
            Ok((vocab_size, wte.narrow(0, rows.start, rows.len())?.detach()))
        };
        let (vocab_size, rows) = agree(ranks, own())?;
        Self::from_share(ranks, vocab_size, &rows)
    }

    /// Reads this rank's rows of the token table of a checkpoint as `dtype`, and no others. A collective call.
    ///
    /// Rows of padding behind the tokens are left out on every rank. Returns the checkpoint's configuration, too.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::checkpoint::{Checkpoint, save_tensors};
    /// use candle_gpt_input::ranks::Threads;
    /// use candle_gpt_input::vocab_parallel::VocabParallelEmbedding;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("model.safetensors");
    /// let wte = Tensor::zeros((2000, 2), DType::F32, &Device::Cpu)?;
    /// save_tensors(&path, [("wte.weight", &wte), ("wpe.weight", &wte)], [])?;
    /// let shares = Threads::run(2, |ranks| {
    ///     let (wte, _) = VocabParallelEmbedding::load(ranks, &Checkpoint::open(&path)?, DType::F32)?;
    ///     Ok::<_, candle_gpt_input::Error>((wte.rows(), wte.var().dims().to_vec()))
    /// });
    /// let shares: Vec<_> = shares.into_iter().collect::<Result<_, _>>()?;
    /// assert_eq!(shares, [(0..1000, vec![1000, 2]), (1000..2000, vec![1000, 2])]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CheckpointError`](crate::error::CheckpointError) on every rank if one cannot read its rows, and the errors of
    /// [`from_share`](Self::from_share).
    pub fn load(ranks: &dyn Ranks, checkpoint: &Checkpoint, dtype: DType) -> Result<(Self, GptInputConfig)> {
        let rows = |config: &GptInputConfig| share(config.vocab_size, ranks.rank(), ranks.size());
        let (rows, config) = agree(ranks, checkpoint.token_rows(rows, dtype))?;
        Ok((Self::from_share(ranks, config.vocab_size, &rows)?, config))
    }

    /// Makes the table of shares: `rows` are those that [`share`] gives this rank, `[rows, C]`. A collective call.
    ///
    /// A `Var` is taken as it is; of another tensor a variable is made.
    ///
    /// # Errors
    /// On every rank:
    /// - [`Error::ShapeMismatch`] for another number of rows, or none of V or C
    /// - [`EmbeddingError::SplitOnDevice`] for rows that are not on the CPU
    /// - [`Error::InvalidTable`] for elements of another kind than floating-point
    /// - [`RanksError::Differ`](crate::error::RanksError::Differ) if the ranks differ in V, C or dtype
    pub fn from_share(ranks: &dyn Ranks, vocab_size: usize, rows: &Tensor) -> Result<Self> {
        let shares: Vec<_> = (0..ranks.size()).map(|rank| share(vocab_size, rank, ranks.size())).collect();
        let (rank, n_rows) = (ranks.rank(), shares[ranks.rank()].len());
        let own = || match *rows.dims() {
            _ if !rows.device().is_cpu() => Err(EmbeddingError::SplitOnDevice.into()),
            _ if !rows.dtype().is_float() => {
                Err(Error::InvalidTable { table: "wte", shape: rows.shape().clone(), dtype: rows.dtype() })
            }
            [n, n_embd] if n == n_rows && vocab_size > 0 && n_embd > 0 => Ok((n_embd, new_var(rows)?)),
            _ => {
                Err(wrong_shape("the share of wte", rows.shape(), format!("[{n_rows}, C], of at least one row in all")))
            }
        };
        let (n_embd, var) = agree(ranks, own())?;
        let about = format!("{vocab_size} {n_embd} {:?}", var.dtype());
        same(ranks, "the table that is cut", about.as_bytes())?;
        Ok(Self { vocab_size, n_embd, shares, rank, var })
    }

    /// Returns the dimensions (V, C) of the whole table.
    pub fn dims(&self) -> (usize, usize) {
        (self.vocab_size, self.n_embd)
    }

    /// Returns the dtype.
    pub fn dtype(&self) -> DType {
        self.var.dtype()
    }

    /// Returns which rows of the table this rank holds.
    pub fn rows(&self) -> Range<usize> {
        self.shares[self.rank].clone()
    }

    /// Returns this rank's rows `[rows, C]`.
    pub fn var(&self) -> &Var {
        &self.var
    }

    pub(super) fn device(&self) -> &Device {
        self.var.device()
    }
}
