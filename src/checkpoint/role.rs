//! [`Role`]: what a tensor is, by its name.

use std::fmt;

use super::head_names::is_head;
use super::keys::{is_known_position_table, is_known_token_table};

/// Says what this crate uses a tensor for.
///
/// ```
/// use candle_gpt_input::checkpoint::Role;
///
/// assert_eq!(Role::of("transformer.wte.weight"), Role::TokenTable);
/// assert_eq!(Role::of("lm_head.weight"), Role::OutputHead);
/// assert_eq!(Role::of("transformer.h.0.ln_1.weight"), Role::Other);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The token table, `wte`.
    TokenTable,
    /// The learned position table, `wpe`.
    PositionTable,
    /// A separate output head; a tied one is `wte` itself.
    OutputHead,
    /// Not used by the input layer.
    Other,
}

impl Role {
    /// Returns the role of the tensor called `name`.
    pub fn of(name: &str) -> Self {
        if is_known_token_table(name) {
            Self::TokenTable
        } else if is_known_position_table(name) {
            Self::PositionTable
        } else if is_head(name) {
            Self::OutputHead
        } else {
            Self::Other
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TokenTable => "token table wte",
            Self::PositionTable => "position table wpe",
            Self::OutputHead => "output head, if it is not tied to wte",
            Self::Other => "not used by the input layer",
        })
    }
}
