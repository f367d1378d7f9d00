//! What a run says on standard output.

use std::fmt::Display;
use std::io::{Error, Write};

use anyhow::{Result, bail};

/// Writes lines. The first that cannot be written (a closed pipe, a full disk) ends the report, but not the run.
pub struct Report<W> {
    out: W,
    failed: Option<Error>,
}

impl<W: Write> Report<W> {
    pub fn new(out: W) -> Self {
        Self { out, failed: None }
    }

    pub fn line(&mut self, line: impl Display) {
        if self.failed.is_none() {
            self.failed = writeln!(self.out, "{line}").err();
        }
    }

    /// Returns an error if a line could not be written.
    pub fn end(self) -> Result<()> {
        match self.failed {
            // Not as its source: elsewhere a reader that closes the pipe (`| head`) is no failure.
            Some(error) => bail!("all is saved, but standard output could not be written: {error}"),
            None => Ok(()),
        }
    }
}
