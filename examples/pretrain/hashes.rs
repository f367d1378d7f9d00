//! SHA-256 of files, in lines as `sha256sum` writes them: `sha256sum -c` checks a checkpoint and its texts.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_gpt_input::error::Shown;
use sha2::{Digest, Sha256};

use crate::cli;

/// Returns the line of these bytes under a name.
pub fn line(name: &str, bytes: &[u8]) -> String {
    of(name, Sha256::new().chain_update(bytes))
}

/// Returns the lines of files in a folder.
pub fn lines(folder: &Path, names: &[&str]) -> Result<Vec<String>> {
    let line = |name: &&str| {
        let (path, mut hash) = (folder.join(name), Sha256::new());
        File::open(&path)
            .and_then(|mut file| io::copy(&mut file, &mut hash))
            .with_context(|| Shown::path(&path).to_string())?;
        Ok(of(name, hash))
    };
    names.iter().map(line).collect()
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
