//! Look-up: rows of a table for ids, with rows for their positions added, and the gradients of both.

mod cpu;
mod look_up;
mod op;
mod reference;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use look_up::{copy_into, gather_add, gather_add_into, gather_into};
pub(crate) use op::{keep_freed_memory, load_kernels};
pub(crate) use reference::add_rows;
pub(crate) use table::DenseTable;
#[cfg(all(test, feature = "cuda"))]
pub(crate) use {
    look_up::gather,
    op::{Gather, GatherAdd},
};
