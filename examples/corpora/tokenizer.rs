//! The tokenizer of a corpus: its files, and what identifies it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_gpt_input::checkpoint::write_file;
use candle_gpt_input::data::corpus::{Corpus, CorpusFormat};
use candle_gpt_input::error::Shown;
use candle_gpt_input::tokenizer::{TOKENIZER_FILES, Tokenizer};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::cli;

/// The names of files and their bytes.
pub type Files = Vec<(&'static str, Vec<u8>)>;

/// Returns one more than the largest id of a tokenizer: the size of its vocabulary, in which ids may be missing.
pub fn n_ids(tokenizer: &Tokenizer) -> Result<usize> {
    let most = u32::MAX as usize;
    Ok(most - tokenizer.unused_rows(most)?)
}

/// Identifies a tokenizer by its tokens, in order, as `corpus.json` states it.
pub fn hash_of(tokenizer: &Tokenizer) -> Result<String> {
    let mut hash = Sha256::new();
    for id in 0..n_ids(tokenizer)? as u32 {
        let token = tokenizer.token_bytes(id).unwrap_or_default();
        hash.update((token.len() as u64).to_le_bytes());
        hash.update(token);
    }
    Ok(cli::hex(hash.finalize()))
}

/// Returns the names of files that may belong to a tokenizer alone.
pub fn names() -> impl Iterator<Item = &'static str> {
    TOKENIZER_FILES.into_iter().filter(|name| *name != "config.json")
}

/// Returns the files of `--tokenizer`: a `tokenizer.json` of any name by that name, or all of a folder or of two files.
pub fn files_of(path: &Path) -> Result<Files> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if path.is_dir() || (name != "tokenizer.json" && TOKENIZER_FILES.contains(&name)) {
        return files_at(path);
    }
    Ok(vec![("tokenizer.json", std::fs::read(path).with_context(|| Shown::path(path).to_string())?)])
}

/// Returns the files beside `path` that may belong to a tokenizer, but not `config.json`, which is the model's.
pub fn files_at(path: &Path) -> Result<Files> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    let read = |name: &'static str| -> Result<(&'static str, Vec<u8>)> {
        let file = folder.join(name);
        Ok((name, std::fs::read(&file).with_context(|| Shown::path(&file).to_string())?))
    };
    names().filter(|name| folder.join(name).is_file()).map(read).collect()
}

/// Writes the files of a tokenizer to the folder of its corpus, where they may be already: none for GPT-2's. No others
/// are replaced, nor stay beside them.
pub fn keep_beside(folder: &Path, files: &Files) -> Result<()> {
    let is_own = |name: &str| files.iter().any(|(own, _)| *own == name);
    if let Some(other) = names().find(|name| !is_own(name) && folder.join(name).exists()) {
        let path = folder.join(other);
        bail!("{} is not of this tokenizer: choose another folder, or empty this one", Shown::path(&path));
    }
    let mut missing = Vec::new();
    for (name, bytes) in files {
        let path = folder.join(name);
        match path.symlink_metadata() {
            Ok(_) if std::fs::read(&path).is_ok_and(|found| found == *bytes) => {}
            Ok(_) => bail!("{} is not of this tokenizer: choose another folder, or empty this one", Shown::path(&path)),
            Err(_) => missing.push((path, bytes)),
        }
    }
    missing.into_iter().try_for_each(|(path, bytes)| Ok(write_file(path, |out| out.write_all(bytes))?))
}

/// Returns the tokenizer that a corpus is known to be of, and its files: that of the characters in nanoGPT's
/// `meta.pkl`, that beside the ids, or GPT-2's if `corpus.json` says so.
pub fn tokenizer_of(corpus: &Corpus) -> Result<Option<(Tokenizer, Files)>> {
    let gpt2 = || (Tokenizer::gpt2().clone(), Files::new());
    if corpus.format() == CorpusFormat::Text {
        return Ok(Some(gpt2())); // that has encoded it
    }
    let folder = corpus.files()[0].path.parent().unwrap_or(Path::new(""));
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let meta = folder.join("meta.pkl");
    if let Some(characters) = corpus.characters() {
        return of_characters(characters).map(Some).with_context(|| Shown::path(&meta).to_string());
    }
    // Beside a model it would be a vocabulary that is not supported.
    let own = if meta.is_file() { None } else { Tokenizer::beside(folder)? };
    if let Some(own) = own {
        corpus.check_fits(&hash_of(&own)?, usize::MAX)?;
        return Ok(Some((own, files_at(folder)?)));
    }
    let stated = corpus.about().map(|about| about.tokenizer.as_str());
    Ok(match stated {
        Some(stated) if stated == hash_of(Tokenizer::gpt2())? => Some(gpt2()),
        _ => None,
    })
}

/// Returns the tokenizer that has a token for each of these characters, as nanoGPT's `shakespeare_char` has.
pub fn of_characters(characters: &[char]) -> Result<(Tokenizer, Files)> {
    let mut vocab = Map::new();
    for (id, &character) in characters.iter().enumerate() {
        ensure!(
            character.is_ascii(),
            "its character {character:?} is more than one byte, and no byte-level BPE has it as a token of its own: \
             choose a tokenizer with --tokenizer"
        );
        // GPT-2 writes bytes that print nothing as characters from U+0100 on.
        let shown = match character as u32 {
            byte @ 0..=0x20 => char::from_u32(0x100 + byte),
            0x7f => Some('\u{121}'),
            _ => Some(character),
        };
        vocab.insert(shown.map(String::from).unwrap_or_default(), Value::from(id));
    }
    let pre_tokenizer = json!({ "type": "ByteLevel", "add_prefix_space": false });
    let model = json!({ "type": "BPE", "vocab": vocab, "merges": [] });
    let text =
        json!({ "model": model, "pre_tokenizer": pre_tokenizer, "decoder": { "type": "ByteLevel" } }).to_string();
    Ok((Tokenizer::from_json(&text)?, vec![("tokenizer.json", text.into_bytes())]))
}
