//! Finds the windows that a configuration describes.

use super::{Boundaries, LoaderConfig, Tokens, Windows, order};
use crate::error::{DataError, Result};

pub(super) fn windows(tokens: &Tokens, config: &LoaderConfig) -> Result<Windows> {
    let &LoaderConfig { max_length, stride, tail, boundaries, reset_positions_after, .. } = config;
    let windows = match (boundaries, reset_positions_after) {
        (Boundaries::Mark, Some(separator)) => return Err(DataError::PositionsTwice { separator }.into()),
        (Boundaries::Keep, _) => Windows::new(tokens, max_length, stride, tail)?,
        _ => Windows::across(tokens, max_length, stride, tail)?,
    };
    if config.shuffle {
        order::fits(windows.n_windows())?;
    }
    Ok(windows)
}
