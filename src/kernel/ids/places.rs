//! The positions of ids: which row of the position table each uses.

use candle_core::Tensor;

use super::check::CheckedIds;
use super::contract::to_host;
use super::groups::RowGroups;
use crate::error::Result;

/// The positions of ids `[.., T]`, known to be inside the position table.
#[derive(Clone, Debug)]
pub(crate) enum Places {
    /// They count up from `start` along the last dimension, of length `t`.
    Counted { start: usize, t: usize },
    /// One per token, in a shape that broadcasts to the ids'.
    Given(CheckedIds),
}

impl Places {
    /// Returns the rows of `wpe` to add, in a shape that broadcasts to `[.., T, C]`: a view if positions count up.
    pub(crate) fn rows(
        &self,
        wpe: &Tensor,
        gather: impl FnOnce(&Tensor, &CheckedIds) -> Result<Tensor>,
    ) -> Result<Tensor> {
        match self {
            &Self::Counted { start, t } => Ok(wpe.narrow(0, start, t)?),
            Self::Given(ids) => gather(wpe, ids),
        }
    }

    /// Groups the ids of shape `ids_dims` by the row of `wpe` that each uses.
    pub(crate) fn groups(&self, ids_dims: &[usize]) -> Result<RowGroups> {
        match self {
            &Self::Counted { start, t } => {
                let n_ids: usize = ids_dims.iter().product();
                Ok(RowGroups::counted(start, t, n_ids.checked_div(t).unwrap_or(0)))
            }
            Self::Given(ids) => {
                Ok(RowGroups::from_ids(&to_host(&ids.on_host()?.broadcast_as(ids_dims)?, "position_ids")?, None))
            }
        }
    }

    /// Prepares the positions for a kernel.
    pub(crate) fn for_ids(&self, ids: &CheckedIds) -> Result<PlacesOf> {
        match self {
            &Self::Counted { start, .. } => Ok(PlacesOf::Start(start)),
            Self::Given(places) => Ok(PlacesOf::Ids(places.broadcast_to(ids.dims())?)),
        }
    }
}

/// The positions of ids, as a kernel needs them.
#[derive(Clone)]
pub(crate) enum PlacesOf {
    /// They count from here on, along the last dimension.
    Start(usize),
    /// Position ids for each of the ids, see [`CheckedIds::broadcast_to`].
    Ids(CheckedIds),
}
