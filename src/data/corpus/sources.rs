//! Finds the files of a corpus: those named, in a folder, by a pattern, or by a Megatron prefix.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::about::{ABOUT_FILE, About, AboutFile, JOURNAL_FILE};
use super::format::CorpusFormat;
use super::meta::META_FILE;
use crate::error::CorpusError;

/// A file of ids, or a text.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) format: CorpusFormat,
}

/// Words in the names of files that are held out from training.
const HELD_OUT: [&str; 6] = ["val", "valid", "validation", "eval", "test", "dev"];

/// Finds the files of several paths, in their order, and in the order of names inside a folder or pattern.
pub(super) fn find(paths: &[impl AsRef<Path>]) -> Result<Vec<Source>, CorpusError> {
    let mut sources = Vec::new();
    for path in paths {
        let path = path.as_ref();
        if path.is_dir() {
            sources.extend(in_folder(path)?);
        } else if let Some(pattern) = path.to_str().filter(|text| is_pattern(text) && !exists(path)) {
            sources.extend(by_pattern(pattern)?);
        } else {
            sources.push(source(path)?);
        }
    }
    match sources.is_empty() {
        true => Err(CorpusError::NoFiles { path: PathBuf::from(".") }),
        false => Ok(sources),
    }
}

fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// Returns whether this is a file, or the prefix of a Megatron corpus.
fn exists(path: &Path) -> bool {
    path.exists() || with_extension(path, ".idx").exists() || with_extension(path, ".bin").exists()
}

/// Adds an extension to a prefix, which may have dots.
fn with_extension(prefix: &Path, extension: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(extension);
    PathBuf::from(name)
}

fn in_folder(folder: &Path) -> Result<Vec<Source>, CorpusError> {
    if let Some(about) = About::of_folder(folder)? {
        return stated(folder, &about);
    }
    let io = CorpusError::reading(folder);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    let with = |extensions: &[&str]| -> Vec<PathBuf> {
        let has =
            |path: &&PathBuf| path.extension().is_some_and(|of_file| extensions.iter().any(|one| of_file == *one));
        files.iter().filter(has).cloned().collect()
    };
    // Texts beside files of ids are their origin, as in nanoGPT's folders.
    let ids = with(&["bin", "idx", "u16", "u32"]);
    together(folder, if ids.is_empty() { with(&["txt"]) } else { ids })
}

/// Takes the files that a corpus states.
pub(super) fn stated(folder: &Path, about: &About) -> Result<Vec<Source>, CorpusError> {
    let source_of = |file: &AboutFile| {
        let path = folder.join(&file.name);
        let index = (about.format == CorpusFormat::Megatron).then(|| path.with_extension("idx"));
        match [&path].into_iter().chain(&index).find(|path| !path.exists()) {
            Some(missing) => Err(CorpusError::Missing { path: missing.clone() }),
            None => source(&path),
        }
    };
    about.files.iter().map(source_of).collect()
}

fn by_pattern(pattern: &str) -> Result<Vec<Source>, CorpusError> {
    let malformed = |error: glob::PatternError| CorpusError::Pattern {
        pattern: pattern.to_string(),
        reason: error.msg,
        at: error.pos,
    };
    let mut files = Vec::new();
    for found in glob::glob(pattern).map_err(malformed)? {
        let found = found.map_err(|error| {
            let path = error.path().to_path_buf();
            CorpusError::Io { action: "read", path, source: error.into() }
        })?;
        let is_beside = |name: &OsStr| [ABOUT_FILE, JOURNAL_FILE, META_FILE].iter().any(|beside| name == *beside);
        if found.is_file() && !found.file_name().is_some_and(is_beside) {
            files.push(found);
        }
    }
    together(Path::new(pattern), files)
}

/// Takes files that were found, not named, in the order of their names. Both files of a Megatron corpus are one source.
fn together(whole: &Path, mut files: Vec<PathBuf>) -> Result<Vec<Source>, CorpusError> {
    files.sort();
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_held_out = |path: &&PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
        stem.split(|c: char| !c.is_alphanumeric()).any(|word| HELD_OUT.contains(&word))
    };
    let (held_out, others): (Vec<_>, Vec<_>) = files.iter().partition(is_held_out);
    if let (Some(held_out), Some(other)) = (held_out.first(), others.first()) {
        let path = whole.to_path_buf();
        return Err(CorpusError::HeldOut { path, held_out: name(held_out), other: name(other) });
    }
    let mut sources: Vec<Source> = Vec::new();
    for file in &files {
        let found = source(file)?;
        if sources.last().is_none_or(|before| before.path != found.path) {
            sources.push(found);
        }
    }
    match sources.is_empty() {
        true => Err(CorpusError::NoFiles { path: whole.to_path_buf() }),
        false => Ok(sources),
    }
}

/// Takes one file, or a Megatron prefix. The source of a Megatron corpus is its file of ids.
fn source(path: &Path) -> Result<Source, CorpusError> {
    let is = |extension: &str| path.extension().is_some_and(|found| found == extension);
    let bin = match () {
        () if is("idx") => path.with_extension("bin"),
        () if is("bin") && path.with_extension("idx").exists() => path.to_path_buf(),
        () if !path.exists() && exists(path) => with_extension(path, ".bin"),
        () => return Ok(Source { path: path.to_path_buf(), format: CorpusFormat::of_file(path)? }),
    };
    for part in [bin.clone(), bin.with_extension("idx")] {
        if !part.exists() {
            return Err(CorpusError::MissingPart { path: part });
        }
    }
    Ok(Source { path: bin, format: CorpusFormat::Megatron })
}
