//! Writes files that appear whole or not at all.

mod partial;

pub(crate) use partial::{Partial, folder_of, is_partial, partial_of, remove_leftover, sync_folder, whole, write_file};
