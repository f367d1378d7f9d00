//! The arithmetic under the layers: rows gathered from a table, positions added. Private.
//!
//! Every id passes [`CheckedIds`] first, so that nothing below it meets a bad one.

mod ids;
mod loss;
mod reference;
mod table;

pub(crate) use ids::{CheckedIds, Table, to_host, unravel};
pub(crate) use loss::{Counted, CrossEntropy, LossParts, Wanted, attach};
pub(crate) use reference::add_rows;
use reference::gather;
pub(crate) use table::DenseTable;
