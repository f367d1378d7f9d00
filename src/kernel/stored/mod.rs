//! Tables that stay in their stored form. Rows are gathered from the bytes.

mod fetched;
mod op;
mod table;

pub(crate) use table::{StoredTable, Wpe};
