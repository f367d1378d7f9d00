//! The angles of positions.

use std::sync::Arc;

use candle_core::Tensor;

type CandleResult<T> = candle_core::Result<T>;

/// Cosines and sines of angles, `[P, 2, r / 2]` in f32, contiguous: a row of cosines and one of sines per position,
/// with a column per pair.
#[derive(Clone, Debug)]
pub(crate) struct Angles(pub(crate) Tensor);

impl Angles {
    /// Returns cosines and sines of tokens `[B, T]`: `[B, T, r / 2]` each, contiguous. B is 1 if all sequences share
    /// them.
    pub(crate) fn cos_sin(&self, rows: &AngleRows, (b, t): (usize, usize)) -> CandleResult<(Tensor, Tensor)> {
        let of_tokens = match rows {
            AngleRows::From(start) => self.0.narrow(0, *start, t)?.unsqueeze(0)?,
            AngleRows::Each(rows) => {
                let rows = Tensor::from_slice(rows, b * t, self.0.device())?;
                self.0.index_select(&rows, 0)?.reshape((b, t, 2, self.0.dim(2)?))?
            }
        };
        let half = |i| of_tokens.narrow(2, i, 1)?.squeeze(2)?.contiguous();
        Ok((half(0)?, half(1)?))
    }
}

/// The rows of [`Angles`] that the tokens `[B, T]` of a call use, all inside the table.
#[derive(Clone, Debug)]
pub(crate) enum AngleRows {
    /// Token `t` of every sequence uses this row plus `t`.
    From(usize),
    /// One per token, `[B, T]` flattened.
    Each(Arc<[u32]>),
}
