//! SHA-256 of files, in lines as `sha256sum` writes them: `sha256sum -c` checks a checkpoint and its texts.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_gpt_input::error::Shown;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::cli;

/// Returns the line of these bytes under a name.
pub fn line(name: &str, bytes: &[u8]) -> String {
    of(name, Sha256::new().chain_update(bytes))
}

/// Returns the lines of files in a folder.
pub fn lines(folder: &Path, names: &[&str]) -> Result<Vec<String>> {
    names.iter().map(|name| of_file(name, &folder.join(name))).collect()
}

/// Returns the lines of files under their paths, read on all cores.
pub fn of_files(paths: &[PathBuf]) -> Result<Vec<String>> {
    paths.par_iter().map(|path| of_file(&path.to_string_lossy(), path)).collect()
}

fn of_file(name: &str, path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    File::open(path)
        .and_then(|mut file| io::copy(&mut file, &mut hash))
        .with_context(|| Shown::path(path).to_string())?;
    Ok(of(name, hash))
}

fn of(name: &str, hash: Sha256) -> String {
    let hash = cli::hex(hash.finalize());
    let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
    let mark = if escaped == name { "" } else { "\\" };
    format!("{mark}{hash}  {escaped}")
}

/// Returns whether the list of a checkpoint has a file of this name.
pub fn names(list: &str, name: &str) -> bool {
    list.lines().any(|line| line.split_once("  ").is_some_and(|(_, known)| known == name))
}

/// Checks that the list of a checkpoint has no other lines of files outside its folder than these.
pub fn check_all(list: &str, lines: &[&str]) -> Result<()> {
    let is_outside = |line: &&str| line.split_once("  ").is_some_and(|(_, name)| Path::new(name).is_absolute());
    if let Some(line) = list.lines().filter(is_outside).find(|line| !lines.contains(line)) {
        let (_, name) = line.split_once("  ").unwrap_or_default();
        bail!(
            "{} was a file of this run, and is not any more: put it back, or choose another --out",
            Shown::text(name)
        );
    }
    Ok(())
}

/// Checks that the list of a checkpoint has this line of the file at `path`.
pub fn check(list: &str, line: &str, path: &Path) -> Result<()> {
    ensure!(
        list.lines().any(|known| known == line),
        "{} is not as it was when this checkpoint was saved: its SHA-256 is not in the checkpoint's SHA256SUMS; put \
         the file back, or choose another --out",
        Shown::path(path)
    );
    Ok(())
}
