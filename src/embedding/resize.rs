//! Another vocabulary: rows added behind a token table, cut off, or replaced.

use std::cmp::Ordering;

use candle_core::{DType, Device, Tensor};

use super::{EmbeddingOptions, TokenTable};
use crate::error::{EmbeddingError, Error, Result};
use crate::init::Init;
use crate::kernel::{new_var, to_host};
use crate::rng::Generator;
use crate::shape::rows_of_ids;

/// What the rows of new tokens begin as: `mean_resizing` of transformers, and others.
///
/// Means are taken in f64 and rounded once to the table's type (through f32, if it is a half type).
#[doc(alias = "mean_resizing")]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum NewRows {
    /// The mean of all rows: the same for every new token (Hewitt 2021, "Initializing New Word Embeddings for
    /// Pretrained Language Models").
    Mean,
    /// Drawn from the normal distribution that has the mean of all rows and 10⁻⁹ times their covariance:
    /// `resize_token_embeddings(n)` of transformers, whose `mean_resizing` this is.
    ///
    /// From the same state of the generator it draws the same numbers as there, up to the rounding of covariances in
    /// f32. A covariance that is not positive definite (a table of no more rows than columns, for one) gives the mean,
    /// as there; what is definite is decided in f64 here, in f32 there. Takes 2·V·C² operations of f64.
    MeanAndCovariance,
    /// The row of this token, for every new one.
    CopyOf(u32),
    /// For each new token the mean of the rows of its sub-tokens: what the tokenizer made of its text so far.
    AverageOf(Vec<Vec<u32>>),
    /// N(0, `std`²), as one `torch.nn.init.normal_` of the new rows alone.
    Normal {
        /// The standard deviation; the configuration has it as `initializer_range`.
        std: f64,
    },
}

/// Transformers' factor of the covariance.
const COVARIANCE_SCALE: f64 = 1e-9;

/// Rows that are widened at a time.
const ROWS: usize = 4096;

impl TokenTable {
    /// Returns a table of `vocab_size` rows: those that both have are the same bits, new ones come behind them.
    ///
    /// A table that is a variable gives a variable, a new one. An untied head is resized by this, too: its weight is a
    /// table `[V, C]`. A negative `padding_idx` goes on meaning the row that it meant.
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
    /// - [`EmbeddingError::Zero`] for a vocabulary of none
    /// - [`EmbeddingError::PaddingIdx`] if the padding row would be cut off
    /// - [`EmbeddingError::SubTokens`], [`Error::TokenOutOfRange`] for sub-tokens of which a new row has none or the
    ///   table none, [`RngError`](crate::error::RngError) for a standard deviation below 0
    /// - [`Error::NotInMemory`] for a mapped table
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
        let resized = match vocab_size.checked_sub(n_old) {
            None => weight.narrow(0, 0, vocab_size)?.force_contiguous()?,
            Some(n_new) => {
                let new = new_rows.draw(&weight, (n_new, n_embd), generator)?.contiguous()?;
                Tensor::cat(&[&weight, &new], 0)?
            }
        };
        self.replaced_by(resized)?.with_options(options)
    }

    /// Returns the table with the rows of `ids` replaced; a table that is a variable gives a variable, a new one.
    ///
    /// # Shapes
    /// - `ids`: `[..]`
    /// - `rows`: `[.., C]`, of the table's type
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`], [`Error::IdDType`], [`EmbeddingError::RepeatedRow`] for an id given twice,
    /// [`Error::ShapeMismatch`] or [`Error::TableMismatch`] for rows of another shape or dtype, and
    /// [`Error::NotInMemory`] for a mapped table.
    pub fn replace_rows(&self, ids: &Tensor, rows: &Tensor) -> Result<Self> {
        let table = self.dense()?;
        let (_, n_embd) = table.dims();
        rows_of_ids("rows", (rows, table.outer_dims("rows", rows)?, n_embd), ids.dims())?;
        let ids = to_host(self.check(ids)?.tensor(), "ids")?;
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(EmbeddingError::RepeatedRow { id: twice[0] }.into());
        }
        let rows = rows.detach().to_device(table.device())?.contiguous()?.reshape((ids.len(), n_embd))?;
        let weight = table.weight().detach().force_contiguous()?;
        for (n, id) in ids.into_iter().enumerate() {
            weight.slice_set(&rows.narrow(0, n, 1)?, 0, id as usize)?;
        }
        self.replaced_by(weight)
    }

    /// A table of other numbers with the same options, a variable if this one is.
    fn replaced_by(&self, weight: Tensor) -> Result<Self> {
        let is_variable = self.dense()?.weight().is_variable();
        self.with_weight(if is_variable { new_var(&weight)?.into_inner() } else { weight })
    }
}

impl NewRows {
    /// Rows `[n_new, n_embd]` for the table `weight`, in its type and on its device.
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

/// The row of a token that the caller named as `ids[at]`.
fn checked(id: u32, at: &[usize], vocab_size: usize) -> Result<usize> {
    if (id as usize) < vocab_size {
        return Ok(id as usize);
    }
    Err(Error::TokenOutOfRange { id: i64::from(id), at: at.to_vec(), vocab_size })
}

/// The table in pieces, widened on the host: not every device has f64.
fn pieces(weight: &Tensor) -> impl Iterator<Item = Result<Tensor>> {
    let n_rows = weight.dims().first().copied().unwrap_or(0);
    (0..n_rows).step_by(ROWS).map(move |start| {
        let piece = weight.narrow(0, start, ROWS.min(n_rows - start))?;
        Ok(piece.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.contiguous()?)
    })
}

/// The mean of all rows, `[1, C]` in f64.
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

/// The nearest quotient: Candle's own division by a number, and so its mean, multiplies by the reciprocal.
fn divided(sums: &Tensor, n: usize) -> Result<Tensor> {
    Ok(sums.broadcast_div(&Tensor::new(n as f64, &Device::Cpu)?)?)
}

/// For each list the mean of its rows, `[n_new, C]` in f64.
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

/// The Cholesky factor of the rows' covariance times [`COVARIANCE_SCALE`]; `None` if that is not positive definite.
fn scale_tril(weight: &Tensor, mean: &Tensor) -> Result<Option<Tensor>> {
    let (n_rows, n_embd) = weight.dims2()?;
    if n_rows <= n_embd {
        return Ok(None); // of lower rank, whatever rounding makes of it
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

/// The lower triangle L with L Lᵀ = `a`, row by row (Cholesky and Banachiewicz), if `a` is positive definite by more
/// than what its rounding amounts to.
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
        // Not a number is not positive either.
        if !matches!(pivot.partial_cmp(&(n as f64 * f64::EPSILON * largest)), Some(Ordering::Greater)) {
            return None;
        }
        row[i] = pivot.sqrt();
        row[i + 1..].fill(0.0);
    }
    Some(a)
}
