//! Tables whose rows stay as they are stored, gathered out of their bytes.

mod fetched;
mod op;
mod table;

pub(crate) use table::{StoredTable, Wpe};
