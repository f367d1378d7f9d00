//! One run at a time in a folder.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_gpt_input::error::Shown;

/// The file that is locked. It stays: whoever removed it could remove that of the next run.
const LOCK: &str = ".lock";

/// Makes the folder and locks it until the returned file is closed. The system does that even if the run is killed.
pub fn lock(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| Shown::path(folder).to_string())?;
    let path = folder.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| Shown::path(&path).to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another run of pretrain writes to {}: wait until it has ended, or choose another --out",
            Shown::path(folder)
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", Shown::path(&path))),
    }
}
