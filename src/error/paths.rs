//! Makes the errors of a path, as closures for `map_err`.

use std::io;
use std::path::Path;

use super::checkpoint::CheckpointError;
use super::config::ConfigError;

impl CheckpointError {
    /// Returns a closure for `map_err` that makes the error of reading `path`.
    pub(crate) fn reading(path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        Self::io("read", path)
    }

    /// Returns a closure for `map_err` that makes the error of writing `path`.
    pub(crate) fn writing(path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        Self::io("write", path)
    }

    /// Returns a closure for `map_err` that makes the error of creating the folder `path`.
    pub(crate) fn creating(path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        Self::io("create the folder", path)
    }

    fn io(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }

    /// Returns a closure for `map_err` that makes the error of a configuration in `path`.
    pub(crate) fn config_in(path: &Path) -> impl Fn(ConfigError) -> Self + Copy {
        move |source| Self::Config { path: path.to_path_buf(), source: source.into() }
    }
}
