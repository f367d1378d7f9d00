//! Writes a whole checkpoint from shares.

use std::io;
use std::ops::Range;
use std::path::Path;

use candle_core::Tensor;

use super::VocabParallelEmbedding;
use crate::checkpoint::{Streamed, save_pretrained_after};
use crate::config::GptInputConfig;
use crate::error::{RanksError, Result};
use crate::kernel::{by_dtype, write_from};
use crate::ranks::{Parts, Ranks, agree};

/// About how many bytes are sent at a time.
const PIECE_BYTES: usize = 16 << 20;

impl VocabParallelEmbedding {
    /// Writes a Hugging Face folder with the whole table under `name` and other tensors, as
    /// [`checkpoint::save_pretrained`](crate::checkpoint::save_pretrained) does. A collective call.
    ///
    /// Rank 0 writes, and receives the rows of the others in pieces of 16 MB; it never holds the table. The other ranks
    /// do not read `folder`, `tensors` and `config`.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::GptInputConfig;
    /// use candle_gpt_input::checkpoint::Checkpoint;
    /// use candle_gpt_input::ranks::Threads;
    /// use candle_gpt_input::vocab_parallel::VocabParallelEmbedding;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("model");
    /// # std::fs::create_dir(&path)?;
    /// let wpe = Tensor::zeros((8, 2), DType::F32, &Device::Cpu)?;
    /// let saved = Threads::run(2, |ranks| {
    ///     let wte = VocabParallelEmbedding::new(ranks, &Tensor::ones((2000, 2), DType::F32, &Device::Cpu)?)?;
    ///     let config = GptInputConfig::new(2000, 8, 2);
    ///     wte.save_pretrained(ranks, &path, "wte.weight", [("wpe.weight", &wpe)], &config)
    /// });
    /// saved.into_iter().collect::<Result<(), _>>()?;
    /// let wte = Checkpoint::open(&path)?.var_builder(DType::F32, &Device::Cpu).get((2000, 2), "wte.weight")?;
    /// assert_eq!(wte.sum_all()?.to_scalar::<f32>()?, 4000.0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`checkpoint::save_pretrained`](crate::checkpoint::save_pretrained), on every rank. The folder holds
    /// what it held before.
    pub fn save_pretrained<'a>(
        &self,
        ranks: &dyn Ranks,
        folder: impl AsRef<Path>,
        name: &str,
        tensors: impl IntoIterator<Item = (impl AsRef<str>, &'a Tensor)>,
        config: &GptInputConfig,
    ) -> Result<()> {
        let mut pieces = Pieces::new(self, ranks);
        let mut own = Ok(());
        if self.rank == 0 {
            let mut write = |out: &mut dyn io::Write| {
                while let Some(piece) = pieces.next().map_err(io::Error::other)? {
                    out.write_all(piece)?;
                }
                Ok(())
            };
            let shape = vec![self.vocab_size, self.n_embd];
            let streamed = Streamed { name, dtype: self.dtype(), shape, write: &mut write };
            own = save_pretrained_after(Some(streamed), folder.as_ref(), tensors, config);
        }
        // What rank 0 failed to write is sent all the same: the others do not know.
        while pieces.next()?.is_some() {}
        agree(ranks, own)
    }
}

/// The rows of a table in order, piece by piece, on their way to rank 0.
struct Pieces<'a> {
    table: &'a VocabParallelEmbedding,
    ranks: &'a dyn Ranks,
    /// Whose rows come next, and which.
    left: std::vec::IntoIter<(usize, Range<usize>)>,
    sent: Parts,
    received: Parts,
}

impl<'a> Pieces<'a> {
    fn new(table: &'a VocabParallelEmbedding, ranks: &'a dyn Ranks) -> Self {
        let n = (PIECE_BYTES / (table.n_embd * table.dtype().size_in_bytes())).max(1);
        let pieces_of = |(owner, rows): (usize, &Range<usize>)| {
            let n_rows = rows.len();
            (0..n_rows).step_by(n).map(move |start| (owner, start..(start + n).min(n_rows)))
        };
        let left: Vec<_> = table.shares.iter().enumerate().flat_map(pieces_of).collect();
        Self { table, ranks, left: left.into_iter(), sent: Parts::default(), received: Parts::default() }
    }

    /// Sends the next piece, and returns it on rank 0; `None` after the last one.
    fn next(&mut self) -> Result<Option<&[u8]>> {
        let Some((owner, rows)) = self.left.next() else { return Ok(None) };
        let row_bytes = self.table.n_embd * self.table.dtype().size_in_bytes();
        let n_bytes = rows.len() * row_bytes;
        let is_own = owner == self.table.rank;
        self.sent.resize((0..self.ranks.size()).map(|to| if is_own && to == 0 { n_bytes } else { 0 }));
        if is_own {
            let start = rows.start * self.table.n_embd;
            by_dtype!(self.table.var, E => write_from::<E>(&self.table.var, start, self.sent.bytes_mut()))?;
        }
        self.ranks.all_to_all(&self.sent, &mut self.received)?;
        let piece = self.received.get(owner);
        if self.table.rank == 0 && piece.len() != n_bytes {
            return Err(RanksError::Differ { what: "the rows of the table", rank: owner }.into());
        }
        Ok(Some(piece))
    }
}
