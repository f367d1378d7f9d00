//! Rows of ids, and their gradient.

use candle_core::{Device, Tensor};

use super::VocabParallelEmbedding;
use crate::error::{RanksError, Result};
use crate::kernel::{CheckedIds, LeBytes, Table, by_dtype, from_bytes, on_host, slice, to_bytes};
use crate::memory::{fits, zeros};
use crate::optim::RowGrad;
use crate::ranks::{Parts, Ranks, agree};
use crate::shape::{outer_dims, rows_of_ids};

const DIFFER: &str = "the rows that are asked for";

impl VocabParallelEmbedding {
    /// Returns the rows of this rank's ids, without history. A collective call.
    ///
    /// Each rank asks the owners for the rows that it needs, each once, and gets them: with n different ids on a rank,
    /// it receives about n·(R − 1)/R rows. Nothing is added up, so every bit of a row stays.
    ///
    /// # Shapes
    /// - `input_ids`: `[..]`, `u8`, `u32` or `i64`, any stride, empty allowed; those of each rank have a shape of their
    ///   own
    /// - returns: `[.., C]`
    ///
    /// # Errors
    /// On every rank, before anything is sent:
    /// - [`Error::TokenOutOfRange`](crate::Error::TokenOutOfRange) if an id of any rank is not below V
    /// - [`Error::IdDType`](crate::Error::IdDType) if ids are of another dtype
    pub fn forward(&self, ranks: &dyn Ranks, input_ids: &Tensor) -> Result<Tensor> {
        let ids = agree(ranks, self.ids(input_ids))?;
        let dims: Vec<usize> = input_ids.dims().iter().copied().chain([self.n_embd]).collect();
        by_dtype!(self.var, E => Ok(Tensor::from_vec(self.rows_of::<E>(ranks, &ids)?, dims, &Device::Cpu)?))
    }

    /// Returns the gradient of this rank's rows, from the gradients of the rows that [`forward`](Self::forward)
    /// returned on all ranks. A collective call.
    ///
    /// Every occurrence of an id gives one row, in the order of the ranks and of the places of each, as in one batch.
    /// The result is of [`var`](Self::var), for [`AdamW::step_with_rows`](crate::optim::AdamW::step_with_rows).
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::ranks::Threads;
    /// use candle_gpt_input::vocab_parallel::VocabParallelEmbedding;
    ///
    /// let grads = Threads::run(2, |ranks| {
    ///     let wte = VocabParallelEmbedding::new(ranks, &Tensor::new(&[[0f32], [10.], [20.]], &Device::Cpu)?)?;
    ///     let ids = Tensor::new(&[2u32, 0], &Device::Cpu)?; // on both ranks
    ///     let grad = Tensor::new(&[[1f32], [0.5]], &Device::Cpu)?;
    ///     let grad = wte.row_grad(ranks, &ids, &grad)?.to_dense()?; // so small a table is all on rank 0
    ///     Ok::<_, candle_gpt_input::Error>(grad.to_vec2::<f32>()?)
    /// });
    /// let grads: Vec<_> = grads.into_iter().collect::<Result<_, _>>()?;
    /// assert_eq!(grads, [vec![vec![1.], vec![0.], vec![2.]], vec![]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `input_ids`: `[..]`, those of the forward pass
    /// - `grad`: `[.., C]`, in the dtype of the table
    ///
    /// # Errors
    /// On every rank, before anything is sent:
    /// - those of [`forward`](Self::forward)
    /// - [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) if there is not a row for each id of a rank
    /// - [`Error::TableMismatch`](crate::Error::TableMismatch) for a gradient of another dtype than the table
    pub fn row_grad(&self, ranks: &dyn Ranks, input_ids: &Tensor, grad: &Tensor) -> Result<RowGrad> {
        let own = || -> Result<_> {
            let outer = outer_dims("the gradient", grad, ("wte", self.n_embd, self.dtype()))?;
            rows_of_ids("the gradient", (grad, outer, self.n_embd), input_ids.dims())?;
            Ok((self.ids(input_ids)?, to_bytes(&grad.to_device(&Device::Cpu)?.contiguous()?)?))
        };
        let (ids, bytes) = agree(ranks, own())?;
        let row_bytes = self.n_embd * self.dtype().size_in_bytes();
        // For each occurrence its id, then the rows.
        let part = |rows: &std::ops::Range<usize>| {
            let places = || ids.iter().enumerate().filter(|&(_, &id)| rows.contains(&(id as usize)));
            let mut part: Vec<u8> = places().flat_map(|(_, id)| id.to_le_bytes()).collect();
            places().for_each(|(place, _)| part.extend_from_slice(&bytes[place * row_bytes..][..row_bytes]));
            part
        };
        let sent: Parts = self.shares.iter().map(part).collect();
        let mut received = Parts::default();
        ranks.all_to_all(&sent, &mut received)?;
        let (mut ids, mut rows) = (Vec::new(), Vec::new());
        for (rank, part) in received.iter().enumerate() {
            let (of_ids, of_rows) = part.split_at(8 * (part.len() / (8 + row_bytes)));
            ids.extend(self.local(rank, of_ids)?);
            rows.extend_from_slice(of_rows);
        }
        let rows = from_bytes(&rows, self.n_embd, self.dtype())?;
        Ok(RowGrad::from_ids(&self.var, &ids, &rows, false))
    }

    /// Checks ids against the whole vocabulary.
    fn ids(&self, input_ids: &Tensor) -> Result<Vec<i64>> {
        let ids = CheckedIds::new(input_ids, Table::Tokens, self.vocab_size, self.device())?.values()?;
        fits("hidden states", &[ids.len(), self.n_embd], self.dtype().size_in_bytes())?;
        Ok(ids)
    }

    /// Returns ids that `rank` has sent as rows of this rank's share.
    fn local(&self, rank: usize, bytes: &[u8]) -> Result<Vec<i64>> {
        let rows = self.rows();
        let ids = bytes.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
        ids.map(|id| match rows.contains(&(id as usize)) {
            true => Ok(id - rows.start as i64),
            false => Err(RanksError::Differ { what: DIFFER, rank }.into()),
        })
        .collect()
    }

    fn rows_of<E: LeBytes>(&self, ranks: &dyn Ranks, ids: &[i64]) -> Result<Vec<E>> {
        let (c, row_bytes) = (self.n_embd, self.n_embd * size_of::<E>());
        // Ascending ids are in the order of their owners, and so are their rows.
        let mut asked = ids.to_vec();
        asked.sort_unstable();
        asked.dedup();
        let of_owner = |rows: &std::ops::Range<usize>| {
            let at = |row: usize| asked.partition_point(|&id| (id as usize) < row);
            asked[at(rows.start)..at(rows.end)].iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>()
        };
        let (mut sent, mut received) = (self.shares.iter().map(of_owner).collect::<Parts>(), Parts::default());
        ranks.all_to_all(&sent, &mut received)?;
        let wanted: Vec<_> = received.iter().enumerate().map(|(rank, ids)| self.local(rank, ids)).collect();
        let wanted = wanted.into_iter().collect::<Result<Vec<_>>>()?;
        sent.resize(wanted.iter().map(|ids| ids.len() * row_bytes));
        {
            let (storage, layout) = self.var.storage_and_layout();
            let table = slice::<E>(on_host(&storage)?, layout)?;
            for (&id, bytes) in wanted.iter().flatten().zip(sent.bytes_mut().chunks_mut(row_bytes)) {
                E::write(&table[id as usize * c..][..c], bytes);
            }
        }
        ranks.all_to_all(&sent, &mut received)?;
        for (rank, (part, rows)) in received.iter().zip(&self.shares).enumerate() {
            let n = asked.iter().filter(|&&id| rows.contains(&(id as usize))).count();
            if part.len() != n * row_bytes {
                return Err(RanksError::Differ { what: DIFFER, rank }.into());
            }
        }
        let mut values = zeros::<E>(ids.len() * c)?;
        for (id, values) in ids.iter().zip(values.chunks_mut(c)) {
            let at = asked.partition_point(|other| other < id);
            E::read(&received.bytes()[at * row_bytes..][..row_bytes], values);
        }
        Ok(values)
    }
}
