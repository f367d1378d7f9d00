//! [`Meta`]: nanoGPT's `meta.pkl`, which states what its ids of characters are.

use std::path::Path;

use crate::checkpoint::PlainPickle;
use crate::error::CorpusError;

/// The name of the file.
pub(super) const META_FILE: &str = "meta.pkl";

pub(super) struct Meta {
    pub(super) vocab_size: usize,
    /// The character of each id, if ids are characters.
    pub(super) characters: Option<Vec<char>>,
}

impl Meta {
    /// Reads the `meta.pkl` of a folder, if there is one.
    pub(super) fn of_folder(folder: &Path) -> Result<Option<Self>, CorpusError> {
        let path = folder.join(META_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let refused = |reason: String| CorpusError::About { path: path.clone(), reason };
        let pickle = PlainPickle::open(&path).map_err(|error| refused(error.to_string()))?;
        match pickle.integer("vocab_size").map(usize::try_from) {
            Some(Ok(vocab_size)) if vocab_size > 0 => {
                Ok(Some(Self { vocab_size, characters: characters(&pickle, vocab_size) }))
            }
            Some(_) => Err(refused("its vocab_size is not a positive number".to_string())),
            None => Err(refused("it has no vocab_size, as nanoGPT's prepare.py writes it".to_string())),
        }
    }
}

/// Returns the character of each id by `stoi`, if that has one for each.
fn characters(pickle: &PlainPickle, vocab_size: usize) -> Option<Vec<char>> {
    let mut by_id = Vec::new();
    for (text, id) in pickle.integers("stoi") {
        let mut characters = text.chars();
        by_id.push((id, characters.next().filter(|_| characters.next().is_none())?));
    }
    by_id.sort();
    let is_whole = by_id.len() == vocab_size && (0..).zip(&by_id).all(|(nth, (id, _))| nth == *id);
    is_whole.then(|| by_id.into_iter().map(|(_, character)| character).collect())
}
