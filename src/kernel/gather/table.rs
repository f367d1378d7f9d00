//! A dense table of rows: what `wte` and `wpe` have in common.

use candle_core::{DType, Device, Tensor};
use candle_nn::Embedding;

use super::look_up::gather;
use crate::error::{Error, Result};
use crate::kernel::ids::{CheckedIds, IdChecks, Table};
use crate::memory::counted;
use crate::shape::outer_dims;

/// A matrix with one row per id, held as Candle's own [`Embedding`].
#[derive(Clone, Debug)]
pub(crate) struct DenseTable {
    embedding: Embedding,
    dims: (usize, usize),
    table: Table,
}

impl DenseTable {
    /// Takes a matrix of floating-point elements, neither of whose dimensions is 0.
    pub(crate) fn new(embedding: Embedding, table: Table) -> Result<Self> {
        let weight = embedding.embeddings();
        match (weight.dims(), weight.dtype()) {
            (&[n_rows, width], dtype @ (DType::F32 | DType::F64 | DType::F16 | DType::BF16))
                if n_rows > 0 && width > 0 && width == embedding.hidden_size() =>
            {
                counted(table.name(), &[n_rows, width], dtype.size_in_bytes())?; // Candle lets it wrap
                Ok(Self { dims: (n_rows, width), embedding, table })
            }
            (_, dtype) => Err(Error::InvalidTable { table: table.name(), shape: weight.shape().clone(), dtype }),
        }
    }

    /// Wraps a tensor. `Embedding` needs the width beside it.
    pub(crate) fn from_tensor(weight: Tensor, table: Table) -> Result<Self> {
        let width = weight.dims().last().copied().unwrap_or(0);
        Self::new(Embedding::new(weight, width), table)
    }

    pub(crate) fn embedding(&self) -> &Embedding {
        &self.embedding
    }

    /// Cuts the table off from gradients; it shares its memory.
    pub(crate) fn detach(&mut self) {
        self.embedding = Embedding::new(self.weight().detach(), self.dims.1);
    }

    pub(crate) fn weight(&self) -> &Tensor {
        self.embedding.embeddings()
    }

    /// Returns the numbers of rows and columns.
    pub(crate) fn dims(&self) -> (usize, usize) {
        self.dims
    }

    /// Checks `ids` against the contract.
    pub(crate) fn check(&self, ids: &Tensor) -> Result<CheckedIds> {
        self.check_as(ids, &IdChecks::default())
    }

    /// Checks `ids` against the contract, now or when `checks` says.
    pub(crate) fn check_as(&self, ids: &Tensor, checks: &IdChecks) -> Result<CheckedIds> {
        let (n_rows, _) = self.dims;
        CheckedIds::noted(ids, self.table, (n_rows, self.device()), checks)
    }

    /// Returns the rows of `ids` `[..]`: `[.., C]`.
    pub(crate) fn gather(&self, ids: &CheckedIds) -> Result<Tensor> {
        gather(self.weight(), ids)
    }

    /// Checks that `x` is `[.., C]` in the table's dtype, and returns its outer dimensions.
    pub(crate) fn outer_dims<'a>(&self, what: &'static str, x: &'a Tensor) -> Result<&'a [usize]> {
        outer_dims(what, x, (self.table.name(), self.dims.1, self.dtype()))
    }

    pub(crate) fn dtype(&self) -> DType {
        self.weight().dtype()
    }

    pub(crate) fn device(&self) -> &Device {
        self.weight().device()
    }
}
