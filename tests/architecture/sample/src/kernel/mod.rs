mod core;
#[cfg(feature = "cuda")]
mod cuda;
mod gather;
mod ids;
mod step;

pub(crate) use core::rows_of;
pub(crate) use gather::gather;
