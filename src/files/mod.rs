//! Maps files, and writes files that appear whole or not at all.

mod map;
mod partial;

pub(crate) use map::{as_u16, as_u32, map};
#[cfg(feature = "hub")]
pub(crate) use partial::whole;
pub(crate) use partial::{Partial, folder_of, is_partial, partial_of, remove_leftover, sync_folder, write_file};
