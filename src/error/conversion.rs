//! Lossless conversions between our errors and Candle's.

use std::convert::Infallible;
use std::io;

#[cfg(feature = "hub")]
use super::HubError;
use super::cause::Cause;
use super::{
    CheckpointError, ConfigError, CorpusError, DataError, DeviceError, EmbeddingError, Error, LmHeadError, OptimError,
    PositionError, RanksError, RngError, TextError, TokenizerError,
};

impl From<Error> for candle_core::Error {
    /// Wraps an error for Candle with its type and its cause, so that `Error::from` returns it unchanged.
    ///
    /// ```
    /// use candle_gpt_input::Error;
    ///
    /// let error = Error::SequenceTooLong { end: 9, n_positions: 8 };
    /// let candle_error: candle_core::Error = error.into();
    /// assert!(matches!(Error::from(candle_error), Error::SequenceTooLong { end: 9, n_positions: 8 }));
    /// ```
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(inner) => inner,
            // `wrap` would keep only the text; `io::Error` keeps any error and prints it unchanged.
            other => Self::Io(io::Error::other(other)),
        }
    }
}

impl From<candle_core::Error> for Error {
    /// Takes out the error of this crate that Candle's holds, and drops the contexts, paths and backtraces around it.
    ///
    /// Any other error becomes [`Error::Candle`], unchanged.
    fn from(error: candle_core::Error) -> Self {
        ours(error).unwrap_or_else(Self::Candle)
    }
}

/// Lets a function take conversions that cannot fail as well as those that can.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Returns the error of this crate inside Candle's, or Candle's unchanged.
fn ours(error: candle_core::Error) -> Result<Error, candle_core::Error> {
    use candle_core::Error::{Context, Io, WithBacktrace, WithPath, WrappedContext};
    match error {
        Io(error) => error.downcast().map_err(Io),
        WithBacktrace { inner, backtrace } => {
            ours(*inner).map_err(|inner| WithBacktrace { inner: inner.into(), backtrace })
        }
        WithPath { inner, path } => ours(*inner).map_err(|inner| WithPath { inner: inner.into(), path }),
        Context { inner, context } => ours(*inner).map_err(|inner| Context { inner: inner.into(), context }),
        WrappedContext { wrapped, context } => {
            ours_in_box(wrapped).map_err(|wrapped| WrappedContext { wrapped, context })
        }
        other => Err(other),
    }
}

macro_rules! families {
    ($($(#[$condition:meta])? $family:ident),+) => {
        $($(#[$condition])?
        impl From<$family> for candle_core::Error {
            fn from(error: $family) -> Self {
                Error::from(error).into()
            }
        })+

        /// Returns the error of this crate inside any error, as Candle's `context` boxes it.
        fn ours_in_box(error: Cause) -> Result<Error, Cause> {
            $($(#[$condition])?
            let error = match error.downcast::<$family>() {
                Ok(family) => return Ok((*family).into()),
                Err(other) => other,
            };)+
            let error = match error.downcast::<Error>() {
                Ok(error) => return Ok(*error),
                Err(other) => other,
            };
            match error.downcast::<candle_core::Error>() {
                Ok(error) => ours(*error).map_err(Cause::from),
                Err(other) => Err(other),
            }
        }
    };
}

families!(
    CheckpointError,
    ConfigError,
    CorpusError,
    DataError,
    DeviceError,
    EmbeddingError,
    #[cfg(feature = "hub")]
    HubError,
    LmHeadError,
    OptimError,
    PositionError,
    RanksError,
    RngError,
    TextError,
    TokenizerError
);
