//! Writes files that appear whole or not at all.

mod partial;

pub(crate) use partial::{Partial, write_file};
