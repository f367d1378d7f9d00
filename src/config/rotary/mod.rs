//! Rotary positions, as `rope_parameters` of a `config.json` states them.

mod json;
mod parameters;
mod scaling;
mod scaling_json;

pub(super) use json::{Rotations, reads};
pub use parameters::RotaryConfig;
pub use scaling::{Llama3Scaling, LongRopeScaling, RotaryScaling, YarnScaling};
