mod lower;
mod upper;

pub(crate) use lower::Lower;
pub use upper::{Upper as Shelf, first};
