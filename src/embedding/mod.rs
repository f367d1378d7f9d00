//! [`TokenTable`]: a row of C numbers for each token id.

use candle_core::{DType, Device, Tensor};
use candle_nn::Embedding;

use crate::error::Result;
use crate::kernel::{DenseTable, Table};

/// The token table `wte` `[V, C]`.
///
/// A [`candle_nn::Embedding`] and a [`Tensor`] convert into one; the dense table *is* an `Embedding`
/// ([`as_embedding`](Self::as_embedding) gives it back).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::embedding::TokenTable;
///
/// let wte = TokenTable::from(Tensor::new(&[[0f32, 1.], [10., 11.], [20., 21.]], &Device::Cpu)?);
/// let rows = wte.forward(&Tensor::new(&[2u32, 0], &Device::Cpu)?)?;
/// assert_eq!(rows.to_vec2::<f32>()?, [[20., 21.], [0., 1.]]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TokenTable {
    kind: Kind,
}

/// Which table it is; closed, so that every place that must tell them apart is found by the compiler.
#[derive(Clone, Debug)]
enum Kind {
    Dense(DenseTable),
}

impl TokenTable {
    /// V and C.
    ///
    /// # Errors
    /// [`Error::InvalidTable`](crate::Error::InvalidTable) if it is no matrix of floating-point numbers.
    pub fn dims(&self) -> Result<(usize, usize)> {
        self.dense().dims()
    }

    /// The type of its numbers.
    pub fn dtype(&self) -> DType {
        self.dense().dtype()
    }

    /// Where it lives.
    pub fn device(&self) -> &Device {
        self.dense().device()
    }

    /// The dense table as Candle's own layer; `None` for a table that has none.
    pub fn as_embedding(&self) -> Option<&Embedding> {
        Some(self.dense().embedding())
    }

    pub(crate) fn dense(&self) -> &DenseTable {
        let Kind::Dense(table) = &self.kind;
        table
    }

    /// The rows of `input_ids`.
    ///
    /// # Shapes
    /// - `input_ids`: `[..]`, `u8`, `u32` or `i64`, any rank and stride, empty allowed
    /// - returns: `[.., C]`
    ///
    /// # Errors
    /// - [`Error::TokenOutOfRange`](crate::Error::TokenOutOfRange) if an id is not below V
    /// - [`Error::IdDType`](crate::Error::IdDType) if the ids are of another type
    pub fn forward(&self, input_ids: &Tensor) -> Result<Tensor> {
        self.dense().gather(input_ids)
    }
}

impl From<Embedding> for TokenTable {
    fn from(embedding: Embedding) -> Self {
        Self { kind: Kind::Dense(DenseTable::new(embedding, Table::Tokens)) }
    }
}

impl From<Tensor> for TokenTable {
    fn from(weight: Tensor) -> Self {
        Self { kind: Kind::Dense(DenseTable::from_tensor(weight, Table::Tokens)) }
    }
}
