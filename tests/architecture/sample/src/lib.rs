//! A tree without `x.unwrap()`.

pub mod base;
mod kernel;
pub mod layer;
pub mod shelf;
mod text;

pub use layer::Layer;
