//! Writes files that appear whole or not at all.

mod partial;

#[cfg(feature = "hub")]
pub(crate) use partial::whole;
pub(crate) use partial::{Partial, folder_of, is_partial, partial_of, remove_leftover, sync_folder, write_file};
