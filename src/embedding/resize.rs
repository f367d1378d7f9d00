//! Changes of the vocabulary: rows of a token table are added, cut off, or replaced.

use std::cmp::Ordering;

use candle_core::{DType, Device, Tensor};

use super::{EmbeddingOptions, TokenTable};
use crate::error::{EmbeddingError, Error, Result};
use crate::init::Init;
use crate::kernel::new_var;
use crate::memory::{copy_fits, fits_on};
use crate::rng::Generator;
use crate::shape::rows_of_ids;

/// How the rows of new tokens are initialized: by `mean_resizing` of transformers, or in other ways.
///
/// Means are computed in f64 and rounded once to the table's dtype (through f32 for half precision).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::embedding::{NewRows, TokenTable};
/// use candle_gpt_input::rng::Generator;
///
/// let wte = TokenTable::try_from(Tensor::new(&[[0f32, 1.], [10., 11.], [20., 21.]], &Device::Cpu)?)?;
/// let new_row = |new_rows| -> candle_gpt_input::Result<Vec<f32>> {
///     let wte = wte.resize(4, new_rows, &Generator::default())?;
///     Ok(wte.forward(&Tensor::new(3u32, &Device::Cpu)?)?.to_vec1()?)
/// };
/// assert_eq!(new_row(NewRows::Mean)?, [10., 11.]);
/// assert_eq!(new_row(NewRows::CopyOf(2))?, [20., 21.]);
/// assert_eq!(new_row(NewRows::AverageOf(vec![vec![0, 1]]))?, [5., 6.]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias = "mean_resizing")]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum NewRows {
    /// The mean of all rows: the same for every new token (Hewitt 2021, "Initializing New Word Embeddings for
    /// Pretrained Language Models").
    Mean,
    /// Drawn from the normal distribution with the mean of all rows and 10⁻⁹ times their covariance:
    /// `resize_token_embeddings(n)` of transformers with its default `mean_resizing`.
    ///
    /// From the same state of the generator it draws the same values as transformers, up to the rounding of covariances
    /// in f32. If the covariance is not positive definite, for example with no more rows than columns, the new rows are
    /// the mean, as in transformers; this is decided in f64 here and in f32 there. Takes 2·V·C² operations in f64.
    MeanAndCovariance,
    /// A copy of this token's row, for every new token.
    CopyOf(u32),
    /// For each new token, the mean of the rows of its sub-tokens: the ids that its text has had so far.
    AverageOf(Vec<Vec<u32>>),
    /// N(0, `std`²), drawn as one `torch.nn.init.normal_` over the new rows alone.
    Normal {
        /// The standard deviation; `initializer_range` in a configuration.
        std: f64,
    },
}

/// The factor of the covariance in transformers.
const COVARIANCE_SCALE: f64 = 1e-9;

/// Rows that are widened at a time.
const ROWS: usize = 4096;

impl TokenTable {
    /// Returns a table of `vocab_size` rows: rows that both tables have keep their bits, new ones follow them.
    ///
    /// A variable gives a new variable. An untied head is a table `[V, C]`, too, and can be resized by this. A negative
    /// `padding_idx` keeps naming the same row.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::embedding::{NewRows, TokenTable};
    /// use candle_gpt_input::rng::Generator;
    ///
    /// let wte = TokenTable::try_from(Tensor::new(&[[0f32, 1.], [10., 11.], [20., 21.]], &Device::Cpu)?)?;
    /// let new_rows = NewRows::AverageOf(vec![vec![0, 1], vec![2]]);
    /// let rows = wte.resize(5, new_rows, &Generator::default())?.forward(&Tensor::new(&[3u32, 4], &Device::Cpu)?)?;
    /// assert_eq!(rows.to_vec2::<f32>()?, [[5., 6.], [20., 21.]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`EmbeddingError::Zero`] for a `vocab_size` of 0
    /// - [`EmbeddingError::PaddingIdx`] if the padding row would be cut off
    /// - [`EmbeddingError::SubTokens`] if there is not a list for each new row, or one is empty
    /// - [`Error::TokenOutOfRange`] for a sub-token, or a token to copy, that the table does not have
    /// - [`RngError`](crate::error::RngError) for a negative standard deviation
    /// - [`Error::NotInMemory`] for a mapped table, [`Error::Quantized`] for a quantized one
    #[doc(alias = "resize_token_embeddings")]
    pub fn resize(&self, vocab_size: usize, new_rows: NewRows, generator: &Generator) -> Result<Self> {
        let (n_old, n_embd) = self.dims();
        if vocab_size == 0 {
            return Err(EmbeddingError::Zero { name: "vocab_size" }.into());
        }
        if vocab_size == n_old {
            return Ok(self.clone());
        }
        let padding_idx = self.options.padding_row(n_old)?.map(|row| row as i64);
        let options = EmbeddingOptions { padding_idx, ..self.options };
        options.validate(vocab_size)?;
        let weight = self.dense()?.weight().detach();
        fits_on(weight.device(), "wte", &[vocab_size, n_embd], weight.dtype().size_in_bytes())?;
        let resized = match vocab_size.checked_sub(n_old) {
            None => weight.narrow(0, 0, vocab_size)?.force_contiguous()?,
            Some(n_new) => {
                let new = new_rows.draw(&weight, (n_new, n_embd), generator)?.contiguous()?;
                Tensor::cat(&[&weight, &new], 0)?
            }
        };
        self.replaced_by(resized)?.with_options(options)
    }

    /// Returns the table with the rows of `ids` replaced; a variable gives a new variable.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::embedding::TokenTable;
    ///
    /// let wte = TokenTable::try_from(Tensor::new(&[[0f32, 1.], [10., 11.]], &Device::Cpu)?)?;
    /// let (ids, rows) = (Tensor::new(&[1u32], &Device::Cpu)?, Tensor::new(&[[5f32, 6.]], &Device::Cpu)?);
    /// let replaced = wte.replace_rows(&ids, &rows)?;
    /// assert_eq!(replaced.as_embedding().unwrap().embeddings().to_vec2::<f32>()?, [[0., 1.], [5., 6.]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `ids`: `[..]`
    /// - `rows`: `[.., C]`, in the table's dtype
    ///
    /// # Errors
    /// - [`Error::TokenOutOfRange`] or [`Error::IdDType`] for invalid ids
    /// - [`EmbeddingError::RepeatedRow`] for an id given twice
    /// - [`Error::ShapeMismatch`] or [`Error::TableMismatch`] for rows of another shape or dtype
    /// - [`Error::NotInMemory`] for a mapped table, [`Error::Quantized`] for a quantized one
    pub fn replace_rows(&self, ids: &Tensor, rows: &Tensor) -> Result<Self> {
        let table = self.dense()?;
        let (_, n_embd) = table.dims();
        rows_of_ids("rows", (rows, table.outer_dims("rows", rows)?, n_embd), ids.dims())?;
        let ids = self.check(ids)?.values()?;
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(EmbeddingError::RepeatedRow { id: twice[0] }.into());
        }
        copy_fits("rows", rows)?;
        let rows = rows.detach().to_device(table.device())?.contiguous()?.reshape((ids.len(), n_embd))?;
        let weight = table.weight().detach().force_contiguous()?;
        for (n, id) in ids.into_iter().enumerate() {
            weight.slice_set(&rows.narrow(0, n, 1)?, 0, id as usize)?;
        }
        self.replaced_by(weight)
    }

    /// Makes a table of another weight with the same options; a variable if this one is.
    fn replaced_by(&self, weight: Tensor) -> Result<Self> {
        let is_variable = self.dense()?.weight().is_variable();
        self.with_weight(if is_variable { new_var(&weight)?.into_inner() } else { weight })
    }
}

impl NewRows {
    /// Makes rows `[n_new, n_embd]` for the table `weight`, in its dtype and on its device.
    fn draw(self, weight: &Tensor, (n_new, n_embd): (usize, usize), generator: &Generator) -> Result<Tensor> {
        let (vocab_size, _) = weight.dims2()?;
        let (dtype, device) = (weight.dtype(), weight.device());
        let rows = match self {
            Self::Mean => mean(weight)?,
            Self::MeanAndCovariance => {
                let mean = mean(weight)?;
                match scale_tril(weight, &mean)? {
                    None => mean,
                    Some(scale_tril) => {
                        let drawn = Init::TorchEmbedding.wte(n_new, n_embd, generator, DType::F32, &Device::Cpu)?;
                        drawn.to_dtype(DType::F64)?.matmul(&scale_tril.t()?)?.broadcast_add(&mean)?
                    }
                }
            }
            Self::CopyOf(id) => {
                let row = checked(id, &[], vocab_size)?;
                return Ok(weight.narrow(0, row, 1)?.broadcast_as((n_new, n_embd))?);
            }
            Self::AverageOf(sub_tokens) => averages(weight, &sub_tokens, n_new)?,
            Self::Normal { std } => return Init::Gpt2 { std }.wte(n_new, n_embd, generator, dtype, device),
        };
        let rows = if dtype == DType::F64 { rows } else { rows.to_dtype(DType::F32)?.to_dtype(dtype)? };
        Ok(rows.broadcast_as((n_new, n_embd))?.to_device(device)?)
    }
}

/// Returns the row of a token that the caller named as `ids[at]`.
fn checked(id: u32, at: &[usize], vocab_size: usize) -> Result<usize> {
    if (id as usize) < vocab_size {
        return Ok(id as usize);
    }
    Err(Error::TokenOutOfRange { id: i64::from(id), at: at.to_vec(), vocab_size })
}

/// Widens the table in pieces, on the host, because not every device has f64.
fn pieces(weight: &Tensor) -> impl Iterator<Item = Result<Tensor>> {
    let n_rows = weight.dims().first().copied().unwrap_or(0);
    (0..n_rows).step_by(ROWS).map(move |start| {
        let piece = weight.narrow(0, start, ROWS.min(n_rows - start))?;
        Ok(piece.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.contiguous()?)
    })
}

/// Computes the mean of all rows, `[1, C]` in f64.
fn mean(weight: &Tensor) -> Result<Tensor> {
    let (n_rows, n_embd) = weight.dims2()?;
    let mut sum = Tensor::zeros((1, n_embd), DType::F64, &Device::Cpu)?;
    for piece in pieces(weight) {
        let piece = piece?;
        let ones = Tensor::ones((1, piece.dim(0)?), DType::F64, &Device::Cpu)?;
        sum = (sum + ones.matmul(&piece)?)?;
    }
    divided(&sum, n_rows)
}

/// Divides and rounds once. Candle divides by a number, and so computes means, by multiplying by its reciprocal.
fn divided(sums: &Tensor, n: usize) -> Result<Tensor> {
    Ok(sums.broadcast_div(&Tensor::new(n as f64, &Device::Cpu)?)?)
}

/// Computes the mean of each list's rows, `[n_new, C]` in f64.
fn averages(weight: &Tensor, sub_tokens: &[Vec<u32>], n_new: usize) -> Result<Tensor> {
    let (vocab_size, _) = weight.dims2()?;
    let empty = sub_tokens.iter().position(Vec::is_empty);
    if sub_tokens.len() != n_new || empty.is_some() {
        return Err(EmbeddingError::SubTokens { n_lists: sub_tokens.len(), n_new, empty }.into());
    }
    let mut means = Vec::with_capacity(n_new);
    for (n, ids) in sub_tokens.iter().enumerate() {
        for (at, &id) in ids.iter().enumerate() {
            checked(id, &[n, at], vocab_size)?;
        }
        let (n_ids, ids) = (ids.len(), Tensor::new(ids.as_slice(), weight.device())?);
        let rows = weight.contiguous()?.index_select(&ids, 0)?.to_device(&Device::Cpu)?;
        means.push(divided(&rows.to_dtype(DType::F64)?.sum_keepdim(0)?, n_ids)?);
    }
    Ok(Tensor::cat(&means, 0)?)
}

/// Computes the Cholesky factor of the rows' covariance times [`COVARIANCE_SCALE`]; `None` if that is not positive
/// definite.
fn scale_tril(weight: &Tensor, mean: &Tensor) -> Result<Option<Tensor>> {
    let (n_rows, n_embd) = weight.dims2()?;
    if n_rows <= n_embd {
        return Ok(None); // the rank is too low, whatever the rounding says
    }
    let mut sum = Tensor::zeros((n_embd, n_embd), DType::F64, &Device::Cpu)?;
    for piece in pieces(weight) {
        let centred = piece?.broadcast_sub(mean)?;
        sum = (sum + centred.t()?.matmul(&centred)?)?;
    }
    let covariance = (sum * (COVARIANCE_SCALE / n_rows as f64))?.to_vec2::<f64>()?;
    Ok(match cholesky(covariance) {
        Some(rows) => Some(Tensor::new(rows, &Device::Cpu)?),
        None => None,
    })
}

/// Computes the lower triangle L with L Lᵀ = `a`, row by row (Cholesky and Banachiewicz); `None` unless `a` is positive
/// definite by more than its rounding.
fn cholesky(mut a: Vec<Vec<f64>>) -> Option<Vec<Vec<f64>>> {
    let n = a.len();
    let largest = (0..n).map(|i| a[i][i]).fold(0.0, f64::max);
    for i in 0..n {
        let (above, below) = a.split_at_mut(i);
        let row = &mut below[0];
        for (j, other) in above.iter().enumerate() {
            let product: f64 = row[..j].iter().zip(&other[..j]).map(|(x, y)| x * y).sum();
            row[j] = (row[j] - product) / other[j];
        }
        let pivot = row[i] - row[..i].iter().map(|x| x * x).sum::<f64>();
        // NaN is not greater, either.
        if !matches!(pivot.partial_cmp(&(n as f64 * f64::EPSILON * largest)), Some(Ordering::Greater)) {
            return None;
        }
        row[i] = pivot.sqrt();
        row[i + 1..].fill(0.0);
    }
    Some(a)
}
