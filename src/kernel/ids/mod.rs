//! Ids: their contract and its check, their positions, and which of them are equal.

mod check;
mod contract;
#[cfg(any(feature = "cuda", feature = "metal-kernels", test))]
mod group_table;
mod groups;
mod places;

pub use check::IdCheck;
pub(crate) use check::{CheckedIds, IdChecks};
#[cfg(feature = "cuda")]
pub(crate) use contract::{MAX_RANK, outside};
pub(crate) use contract::{Table, to_host, unravel};
#[cfg(any(feature = "cuda", feature = "metal-kernels", all(test, target_os = "linux")))]
pub(crate) use group_table::GroupTable;
pub(crate) use groups::RowGroups;
pub(crate) use places::{Places, PlacesOf};
