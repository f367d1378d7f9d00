//! Learned absolute positions: a row of the table `wpe` for each position, added to the token embeddings.

use candle_core::{DType, Device, Tensor};
use candle_nn::Embedding;

use super::{Positions, Resolved};
use crate::error::{Error, Result};
use crate::kernel::{DenseTable, IdChecks, Places, StoredTable, Table};
use crate::shape::wrong_shape;

/// The position table `wpe` `[P, C]` of the GPTs (Radford et al. 2018, 2019; first in Gehring et al. 2017,
/// arXiv:1705.03122).
///
/// A [`candle_nn::Embedding`] and a [`Tensor`] convert into one.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::position::PositionTable;
///
/// let wpe = PositionTable::try_from(Tensor::new(&[[0f32], [10.], [20.], [30.]], &Device::Cpu)?)?; // P = 4, C = 1
/// assert_eq!(wpe.rows(&2.into(), &[5, 2])?.to_vec2::<f32>()?, [[20.], [30.]]); // ids [5, 2] from position 2
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias("wpe", "nn.Embedding", "position_embeddings"))]
#[derive(Clone, Debug)]
pub struct PositionTable {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Dense(DenseTable),
    /// Its rows stay in a file, or are remote.
    Mapped(StoredTable),
}

impl PositionTable {
    /// Returns its dimensions (P, C).
    pub fn dims(&self) -> (usize, usize) {
        match &self.kind {
            Kind::Dense(table) => table.dims(),
            Kind::Mapped(table) => (table.rows.n_rows, table.rows.width),
        }
    }

    /// Returns its dtype.
    pub fn dtype(&self) -> DType {
        match &self.kind {
            Kind::Dense(table) => table.dtype(),
            Kind::Mapped(table) => table.dtype,
        }
    }

    /// Returns its device.
    pub fn device(&self) -> &Device {
        match &self.kind {
            Kind::Dense(table) => table.device(),
            Kind::Mapped(table) => &table.device,
        }
    }

    /// Returns the dense table as Candle's own layer; `None` for a mapped one.
    pub fn as_embedding(&self) -> Option<&Embedding> {
        self.dense().ok().map(DenseTable::embedding)
    }

    /// Returns the dense table as Candle's own layer, or an error that says why there is none.
    ///
    /// # Errors
    /// [`Error::NotInMemory`] for a mapped table.
    pub fn embedding(&self) -> Result<&Embedding> {
        Ok(self.dense()?.embedding())
    }

    pub(crate) fn dense(&self) -> Result<&DenseTable> {
        match &self.kind {
            Kind::Dense(table) => Ok(table),
            Kind::Mapped(_) => Err(Error::NotInMemory { table: Table::Positions.name() }),
        }
    }

    pub(crate) fn stored(&self) -> Option<&StoredTable> {
        if let Kind::Mapped(table) = &self.kind { Some(table) } else { None }
    }

    /// Returns the rows to add to the embeddings of ids of shape `ids_dims`.
    ///
    /// Positions that count up from a start are a view of the table, not a copy.
    ///
    /// # Shapes
    /// - `ids_dims`: `[.., T]`
    /// - returns: `[T, C]` for a start, else the shape of the position ids, followed by C
    ///
    /// # Errors
    /// - [`Error::SequenceTooLong`] or [`Error::PositionOutOfRange`] for positions beyond P
    /// - [`Error::ShapeMismatch`] if position ids or a mask do not fit the ids
    /// - [`Error::IdDType`] for position ids of another dtype
    pub fn rows(&self, positions: &Positions, ids_dims: &[usize]) -> Result<Tensor> {
        self.rows_at(&self.places(positions, ids_dims, &IdChecks::default())?)
    }

    /// Returns the rows of places that are known to be inside the table.
    pub(crate) fn rows_at(&self, places: &Places) -> Result<Tensor> {
        match (&self.kind, places) {
            (Kind::Dense(table), places) => places.rows(table.weight(), |_, ids| table.gather(ids)),
            (Kind::Mapped(table), &Places::Counted { start, t }) => table.narrow(start, t),
            (Kind::Mapped(table), Places::Given(ids)) => table.gather(ids),
        }
    }

    /// Returns the places of ids of shape `ids_dims`, checked to be inside the table now or when `checks` says.
    pub(crate) fn places(&self, positions: &Positions, ids_dims: &[usize], checks: &IdChecks) -> Result<Places> {
        let (n_positions, _) = self.dims();
        let start = match positions.resolve(ids_dims, n_positions)? {
            Resolved::Given(position_ids) => {
                return Ok(Places::Given(match &self.kind {
                    Kind::Dense(table) => table.check_as(&position_ids, checks)?,
                    Kind::Mapped(table) => table.check(&position_ids)?,
                }));
            }
            Resolved::Counted(start) => start,
        };
        let Some(&t) = ids_dims.last() else {
            let expected = "a sequence ([T] or [B, T]); for a single id use embed_tokens";
            return Err(wrong_shape("input_ids", ids_dims, expected));
        };
        let end = start.saturating_add(t);
        if t == 0 {
            // An empty sequence asks for no position, wherever it starts.
            return Ok(Places::Counted { start: 0, t });
        }
        if end > n_positions {
            return Err(Error::SequenceTooLong { end, n_positions });
        }
        Ok(Places::Counted { start, t })
    }
}

impl TryFrom<Embedding> for PositionTable {
    type Error = Error;

    /// Fails with [`Error::InvalidTable`] if the table is not a matrix of floating-point elements.
    fn try_from(embedding: Embedding) -> Result<Self> {
        Ok(Self { kind: Kind::Dense(DenseTable::new(embedding, Table::Positions)?) })
    }
}

impl TryFrom<Tensor> for PositionTable {
    type Error = Error;

    /// Fails with [`Error::InvalidTable`] if the tensor is not a matrix of floating-point elements.
    fn try_from(weight: Tensor) -> Result<Self> {
        Ok(Self { kind: Kind::Dense(DenseTable::from_tensor(weight, Table::Positions)?) })
    }
}

impl From<StoredTable> for PositionTable {
    fn from(table: StoredTable) -> Self {
        Self { kind: Kind::Mapped(table) }
    }
}
