//! [`PackedDocuments`]: where documents lie in the rows of a batch.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::{DataError, Result};

/// Says which tokens of a batch belong to which document: rows of documents, one behind the other.
///
/// [`Batch::documents`](super::Batch::documents) holds that of a packed batch, and
/// [`Attention::with_documents`](crate::nn::Attention::with_documents) takes it. What attention of other kinds wants is
/// made from it: [`cu_seqlens`](Self::cu_seqlens) or an [`attention_mask`](Self::attention_mask).
///
/// ```
/// use candle_core::Device;
/// use candle_gpt_input::data::PackedDocuments;
///
/// let documents = PackedDocuments::from_lengths([vec![1, 3], vec![2, 1, 1]])?; // two rows of four tokens
/// let cpu = Device::Cpu;
/// assert_eq!(documents.position_ids(&cpu)?.to_vec2::<u32>()?, [[0, 0, 1, 2], [0, 1, 0, 0]]);
/// assert_eq!(documents.cu_seqlens(&cpu)?.to_vec1::<u32>()?, [0, 1, 4, 6, 7, 8]);
/// assert_eq!(documents.max_length(), 3);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
#[doc(alias = "packed_seq_params")]
pub struct PackedDocuments {
    /// For each row the ends of its documents, ascending; the last is the length of the row.
    pub(crate) ends: Arc<[Vec<usize>]>,
}

impl PackedDocuments {
    /// Takes the lengths of the documents of each row.
    ///
    /// # Errors
    /// [`DataError::Zero`] for an empty document or no row, [`DataError::DocumentRows`] unless all rows have the same
    /// number of tokens.
    pub fn from_lengths<R: AsRef<[usize]>>(rows: impl IntoIterator<Item = R>) -> Result<Self> {
        let mut all: Vec<Vec<usize>> = Vec::new();
        for (row, lengths) in rows.into_iter().enumerate() {
            let mut end = 0usize;
            let mut ends = Vec::with_capacity(lengths.as_ref().len());
            for &length in lengths.as_ref() {
                if length == 0 {
                    return Err(DataError::Zero { name: "length of a document" }.into());
                }
                end = end.saturating_add(length);
                ends.push(end);
            }
            let expected = all.first().and_then(|first| first.last().copied()).unwrap_or(end);
            if end != expected {
                return Err(DataError::DocumentRows { row, got: end, expected }.into());
            }
            all.push(ends);
        }
        if all.iter().all(Vec::is_empty) {
            return Err(DataError::Zero { name: "number of documents" }.into());
        }
        Ok(Self { ends: all.into() })
    }

    /// Returns the number of rows, B.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.ends.len()
    }

    /// Returns the number of tokens in each row, T.
    #[must_use]
    pub fn row_length(&self) -> usize {
        self.ends.first().and_then(|ends| ends.last().copied()).unwrap_or(0)
    }

    /// Iterates over the rows: the lengths of the documents of each, which add up to T.
    pub fn lengths(&self) -> impl ExactSizeIterator<Item = Vec<usize>> {
        self.ends.iter().map(|ends| lengths(ends).collect())
    }

    /// Returns the length of the longest document, `max_seqlen` of flash-attention.
    #[must_use]
    #[doc(alias = "max_seqlen")]
    pub fn max_length(&self) -> usize {
        self.ends.iter().flat_map(|ends| lengths(ends)).max().unwrap_or(0)
    }

    /// Returns where documents begin among the B · T tokens of all rows one behind the other, and their end.
    ///
    /// This is `cu_seqlens_q` and `cu_seqlens_k` of `flash_attn_varlen_func` for tensors reshaped to `[B · T, H, D]`.
    /// Candle's `flash_attn_varlen` takes `u32`; the kernels below it, as all of flash-attention, read the same 32 bits
    /// as `i32`, so there must be fewer than 2³¹ tokens.
    ///
    /// # Shapes
    /// - returns: `[n_documents + 1]`, `u32`, from 0 to B · T
    ///
    /// # Errors
    /// [`DataError::BatchTooLarge`] from 2³¹ tokens on, and those of the device.
    pub fn cu_seqlens(&self, device: &Device) -> Result<Tensor> {
        let (n_rows, max_length) = (self.n_rows(), self.row_length());
        if n_rows.checked_mul(max_length).is_none_or(|n_tokens| n_tokens > i32::MAX as usize) {
            return Err(DataError::BatchTooLarge { n_rows, max_length }.into());
        }
        let ends =
            self.ends.iter().enumerate().flat_map(|(row, ends)| ends.iter().map(move |end| row * max_length + end));
        let starts: Vec<u32> = std::iter::once(0).chain(ends.map(|end| end as u32)).collect();
        Ok(Tensor::new(starts, device)?)
    }

    /// Returns the position of each token in its document.
    ///
    /// # Shapes
    /// - returns: `[B, T]`, `u32`
    ///
    /// # Errors
    /// Those of the device.
    pub fn position_ids(&self, device: &Device) -> Result<Tensor> {
        let of_row = |ends: &Vec<usize>| lengths(ends).flat_map(|length| 0..length as u32).collect::<Vec<u32>>();
        let positions: Vec<u32> = self.ends.iter().flat_map(of_row).collect();
        Ok(Tensor::from_vec(positions, (self.n_rows(), self.row_length()), device)?)
    }

    /// Returns which keys a query sees: 1 for its own token and those before it in its document, else 0. Megatron's
    /// `reset_attention_mask` makes the same mask, with the opposite meaning.
    ///
    /// It takes T² bytes a row; [`Attention::with_documents`](crate::nn::Attention::with_documents) needs no mask.
    ///
    /// ```
    /// # use candle_core::Device;
    /// # use candle_gpt_input::data::PackedDocuments;
    /// let mask = PackedDocuments::from_lengths([[2, 1]])?.attention_mask(&Device::Cpu)?;
    /// assert_eq!(mask.squeeze(1)?.to_vec3::<u8>()?, [[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - returns: `[B, 1, T, T]`, `u8`
    ///
    /// # Errors
    /// [`DataError::BatchTooLarge`] if it does not fit in memory, and those of the device.
    #[doc(alias = "reset_attention_mask")]
    pub fn attention_mask(&self, device: &Device) -> Result<Tensor> {
        let (n_rows, t) = (self.n_rows(), self.row_length());
        let too_large = || DataError::BatchTooLarge { n_rows, max_length: t };
        let n_bytes = t.checked_mul(t).and_then(|n| n.checked_mul(n_rows)).ok_or_else(too_large)?;
        let mut mask = Vec::new();
        mask.try_reserve_exact(n_bytes).map_err(|_| too_large())?;
        for ends in self.ends.iter() {
            let mut start = 0;
            for &end in ends {
                for query in start..end {
                    mask.resize(mask.len() + start, 0u8);
                    mask.resize(mask.len() + query + 1 - start, 1);
                    mask.resize(mask.len() + t - query - 1, 0);
                }
                start = end;
            }
        }
        Ok(Tensor::from_vec(mask, (n_rows, 1, t, t), device)?)
    }
}

fn lengths(ends: &[usize]) -> impl Iterator<Item = usize> {
    std::iter::once(0).chain(ends.iter().copied()).zip(ends).map(|(start, end)| end - start)
}
