//! Errors through Candle and back: what a trait's method hands to Candle comes out as the same error.

use std::convert::Infallible;
use std::io;

#[cfg(feature = "hub")]
use super::HubError;
use super::cause::Cause;
use super::{
    CheckpointError, ConfigError, DataError, DeviceError, EmbeddingError, Error, OptimError, PositionError, RngError,
    TokenizerError,
};

impl From<Error> for candle_core::Error {
    /// Hands an error to Candle with its type and its cause, so that `Error::from` gives it back.
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(inner) => inner,
            // `wrap` would keep the text alone. An `io::Error` is the variant that keeps any error and prints it as it is.
            other => Self::Io(io::Error::other(other)),
        }
    }
}

impl From<candle_core::Error> for Error {
    /// Takes out the error of this crate that Candle holds, from below contexts, paths and backtraces, which are dropped; any
    /// other becomes [`Error::Candle`], whole.
    fn from(error: candle_core::Error) -> Self {
        ours(error).unwrap_or_else(Self::Candle)
    }
}

/// For conversions that cannot fail, where one that can is asked for as well.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// The error of this crate inside Candle's, or Candle's as it was.
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

        /// The same of any error, as Candle's `context` boxes it.
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
    DataError,
    DeviceError,
    EmbeddingError,
    #[cfg(feature = "hub")]
    HubError,
    OptimError,
    PositionError,
    RngError,
    TokenizerError
);
