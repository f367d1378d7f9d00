//! Where ids stand: which row of the position table each of them takes.

use candle_core::Tensor;

use super::check::CheckedIds;
use super::contract::to_host;
use super::groups::RowGroups;
use crate::error::Result;

/// Where ids `[.., T]` stand, known to be inside the position table.
#[derive(Clone, Debug)]
pub(crate) enum Places {
    /// They count up from here along the last dimension, T of them.
    Counted { start: usize, t: usize },
    /// One a token, in a shape that broadcasts to the ids'.
    Given(CheckedIds),
}

impl Places {
    /// The rows of `wpe` to add, in a shape that broadcasts to `[.., T, C]`: a view where they count up.
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

    /// The ids of shape `ids_dims` grouped by the row of `wpe` that each takes.
    pub(crate) fn groups(&self, ids_dims: &[usize]) -> Result<RowGroups> {
        match self {
            &Self::Counted { start, t } => {
                let n_ids: usize = ids_dims.iter().product();
                Ok(RowGroups::counted(start, t, n_ids.checked_div(t).unwrap_or(0)))
            }
            Self::Given(ids) => {
                Ok(RowGroups::from_ids(&to_host(&ids.tensor().broadcast_as(ids_dims)?, "position_ids")?, None))
            }
        }
    }

    /// For a kernel.
    pub(crate) fn for_ids(&self, ids: &CheckedIds) -> Result<PlacesOf> {
        match self {
            &Self::Counted { start, .. } => Ok(PlacesOf::Start(start)),
            Self::Given(places) => Ok(PlacesOf::Ids(places.broadcast_to(ids.dims())?)),
        }
    }
}

/// Where the ids stand.
#[derive(Clone)]
pub(crate) enum PlacesOf {
    /// From here on, along the last dimension.
    Start(usize),
    /// At position ids for each of the ids, see [`CheckedIds::broadcast_to`].
    Ids(CheckedIds),
}
