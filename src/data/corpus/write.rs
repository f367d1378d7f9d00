//! [`CorpusWriter`]: documents to shards.

use std::fs;
use std::path::{Path, PathBuf};

use super::about::{ABOUT_FILE, About};
use super::journal::{Journal, Step};
use super::shard::Shard;
use super::{CorpusFormat, llmc, names, open};
use crate::error::{CorpusError, Result};

/// Writes documents as a corpus that the format's own readers open, and `corpus.json` beside it.
///
/// - llm.c: `train_000000.bin`, `train_000001.bin`, … of [`shard_tokens`](About::shard_tokens) each, the last one
///   excepted. The end of text begins each document, which may go on in the next shard.
/// - Megatron: `train_000000.bin` and `.idx`, …; a document whose first part would exceed a shard begins the next. The end of text
///   ends each document, and there are no empty ones.
/// - nanoGPT: one `train.bin`, whatever the size of a shard. The end of text ends each document.
///
/// A file appears when it is complete. A writer that was killed goes on after the last complete shard, if it is created
/// again with the same settings: [`n_done`](Self::n_done) documents need not be pushed again. Until
/// [`finish`](Self::finish) a `corpus.partial.json` says how far it is, and [`Corpus::open`](super::Corpus::open)
/// refuses the folder. One process at a time writes to it, and no file of others is replaced.
///
/// ```
/// use candle_gpt_input::data::corpus::{About, Corpus, CorpusFormat, CorpusOptions, CorpusWriter};
///
/// # let folder = tempfile::tempdir()?;
/// # let out = folder.path();
/// let about = About::new(CorpusFormat::Llmc, 50257, "gpt2", Some(50256), 4);
/// let mut writer = CorpusWriter::create(out, about)?;
/// writer.push(&[15496, 8887])?; // "Hello tea"
/// writer.push(&[40, 367, 2885])?;
/// writer.finish()?;
///
/// let corpus = Corpus::open(&[out], &CorpusOptions::default().with_verify(true))?;
/// assert_eq!(corpus.files().len(), 2); // shards of 4 and 3
/// assert_eq!(corpus.ids(0..7).unwrap(), [50256, 15496, 8887, 50256, 40, 367, 2885]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the last shard and `corpus.json` are written by `finish`"]
pub struct CorpusWriter {
    folder: PathBuf,
    about: About,
    journal: Option<Journal>,
    shard: Option<Shard>,
    n_done: u64,
    /// How many documents are in no file, because they have no ids.
    n_left_out: u64,
    /// How many ids of the next document are in shards that are complete, and not yet given again.
    n_taken: u64,
    /// How many ids of this document were given.
    n_given: u64,
    is_complete: bool,
}

impl CorpusWriter {
    /// Begins to write a corpus to a folder, which is created, or goes on with one that `about` describes. The shards
    /// that are there are held against what is stated of them: their lengths and counts.
    ///
    /// # Errors
    /// - [`CorpusError::OtherCorpus`] if the folder has a corpus of other settings
    /// - [`CorpusError::Missing`] or [`CorpusError::Differs`] if a shard is not as it was
    /// - [`CorpusError::Occupied`] if the folder has other files of the names that a writer gives, such as `train.bin`,
    ///   or those of a corpus whose `corpus.json` is gone
    /// - [`CorpusError::InUse`] if another process writes to it
    /// - [`CorpusError::ShardTokens`] for shards of a size that the format does not have,
    ///   [`CorpusError::NotWritten`] for texts
    /// - [`CorpusError::Io`] if the folder cannot be used
    pub fn create(folder: impl AsRef<Path>, mut about: About) -> Result<Self> {
        if about.format == CorpusFormat::NanoGpt {
            about.shard_tokens = u64::MAX; // one file
        }
        let folder = folder.as_ref().to_path_buf();
        let (format, most) = match about.format {
            // llm.c's own reader finds ids by offsets of 32 bits.
            CorpusFormat::Llmc => {
                ("llmc", (i32::MAX as u64 - llmc::HEADER_BYTES as u64) / about.id_bits.n_bytes() as u64)
            }
            CorpusFormat::Megatron => ("megatron", i32::MAX as u64),
            CorpusFormat::NanoGpt => ("nanogpt", u64::MAX),
            CorpusFormat::Text => return Err(CorpusError::NotWritten { format: "text" }.into()),
        };
        if about.shard_tokens == 0 || about.shard_tokens > most {
            return Err(CorpusError::ShardTokens { n_tokens: about.shard_tokens, format, most }.into());
        }
        fs::create_dir_all(&folder).map_err(CorpusError::writing(&folder))?;
        let mut writer = Self {
            folder,
            about,
            journal: None,
            shard: None,
            n_done: 0,
            n_left_out: 0,
            n_taken: 0,
            n_given: 0,
            is_complete: false,
        };
        writer.take_up()?;
        Ok(writer)
    }

    /// Goes on with what an earlier writer left in the folder.
    fn take_up(&mut self) -> Result<(), CorpusError> {
        let path = self.folder.join(ABOUT_FILE);
        let complete = About::read(&path)?;
        if let Some(found) = &complete {
            self.about.must_continue(found, &path)?;
        } else {
            names::must_be_free(&path)?;
        }
        if let Some((mut journal, mut written)) = Journal::open(&self.folder)? {
            self.about.must_continue(&written.begun, journal.path())?;
            if complete.is_none() {
                if let Some(step) = written.steps.last()
                    && !self.is_installed(step)?
                {
                    journal.forget_last(&mut written);
                }
                if let Some(step) = written.steps.last() {
                    (self.about.n_documents, self.n_left_out, self.n_taken) =
                        (step.n_documents, step.n_left_out, step.n_taken);
                }
                self.about.files = written.steps.into_iter().map(|step| step.file).collect();
                let n_tokens = self.about.files.iter().map(|file| file.n_tokens);
                self.about.n_tokens = n_tokens.fold(0, u64::saturating_add);
                self.about = self.about.clone().checked(journal.path())?;
            }
            self.journal = Some(journal);
        }
        if let Some(found) = complete {
            (self.about, self.is_complete) = (found, true);
        }
        self.n_done = self.about.n_documents.saturating_add(self.n_left_out);
        open::check(&self.folder, &self.about)?;
        names::only_stated(&self.folder, &self.about)
    }

    /// Returns whether the last shard got its name before its writer was stopped. If only its index did, that is
    /// removed.
    fn is_installed(&self, step: &Step) -> Result<bool, CorpusError> {
        let path = self.folder.join(&step.file.name);
        let index = path.with_extension("idx");
        if names::is_there(&path)? {
            return Ok(true);
        }
        if let Some(crc32) = step.file.index_crc32
            && names::is_there(&index)?
        {
            let bytes = fs::read(&index).map_err(CorpusError::reading(&index))?;
            if crc32fast::hash(&bytes) != crc32 {
                return Err(CorpusError::Occupied { path: index });
            }
            fs::remove_file(&index).map_err(CorpusError::writing(&index))?;
        }
        Ok(false)
    }

    /// Returns how many documents need not be pushed, as they were before the writer was created. The next one must be
    /// pushed whole, also if complete shards have a part of it.
    #[must_use]
    pub fn n_done(&self) -> u64 {
        self.n_done
    }

    /// Returns whether the corpus was complete when the writer was created. Nothing is to be pushed then.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Appends a document, to which the end of text is added.
    ///
    /// # Errors
    /// [`CorpusError::OtherId`] for an id outside the vocabulary, [`CorpusError::Io`] if a shard cannot be written.
    pub fn push(&mut self, ids: &[u32]) -> Result<()> {
        self.push_part(ids, true)
    }

    /// Appends the next part of a document, which ends with the part of which `ends` is set. So a document need not be
    /// in memory as a whole.
    ///
    /// # Errors
    /// Those of [`push`](Self::push).
    pub fn push_part(&mut self, ids: &[u32], ends: bool) -> Result<()> {
        let About { vocab_size, format, end_of_text, shard_tokens: most, .. } = self.about;
        if let Some(id) = ids.iter().copied().max().filter(|id| *id as usize >= vocab_size) {
            return Err(CorpusError::OtherId { id, vocab_size }.into());
        }
        let (begins, is_llmc) = (self.n_given == 0, format == CorpusFormat::Llmc);
        if format == CorpusFormat::Megatron && begins && ends && ids.is_empty() {
            self.n_left_out += 1;
            return Ok(());
        }
        let before = end_of_text.filter(|_| is_llmc && begins);
        let after = end_of_text.filter(|_| !is_llmc && ends);
        let part: Vec<u32> = before.into_iter().chain(ids.iter().copied()).chain(after).collect();
        self.n_given += part.len() as u64;
        let n_skipped = self.n_taken.min(part.len() as u64);
        self.n_taken -= n_skipped;
        let mut rest = &part[n_skipped as usize..];
        while !rest.is_empty() {
            let n_there = self.shard.as_ref().map_or(0, |shard| shard.n_tokens);
            let n_now = match format {
                CorpusFormat::Megatron if begins && n_there > 0 && n_there + rest.len() as u64 > most => 0,
                CorpusFormat::Megatron => rest.len(),
                _ => rest.len().min(usize::try_from(most - n_there).unwrap_or(usize::MAX)),
            };
            let (now, later) = rest.split_at(n_now);
            rest = later;
            if now.is_empty() {
                self.close_shard(self.about.n_documents, 0)?;
                continue;
            }
            self.open_shard()?.push(now)?;
            if format != CorpusFormat::Megatron && n_there + n_now as u64 >= most {
                // A document that ends with its shard is done.
                let is_done = ends && rest.is_empty();
                let n_taken = if is_done { 0 } else { self.n_given - rest.len() as u64 };
                self.close_shard(self.about.n_documents + u64::from(is_done), n_taken)?;
            }
        }
        if ends {
            if let Some(shard) = &mut self.shard {
                shard.end_document()?;
            }
            self.about.n_documents += 1;
            self.n_given = 0;
        }
        Ok(())
    }

    /// Completes the last shard, and writes `corpus.json`.
    ///
    /// # Errors
    /// [`CorpusError::Empty`] if no document had ids, [`CorpusError::Io`] or
    /// [`CheckpointError::Io`](crate::error::CheckpointError::Io) if a file cannot be written.
    pub fn finish(mut self) -> Result<About> {
        if !self.is_complete {
            self.close_shard(self.about.n_documents, 0)?;
            if self.about.files.is_empty() {
                return Err(CorpusError::Empty { path: self.folder }.into());
            }
            let path = self.folder.join(ABOUT_FILE);
            names::must_be_free(&path)?;
            self.about.save(&path)?;
        }
        if let Some(journal) = self.journal {
            journal.remove()?;
        }
        Ok(self.about)
    }

    fn open_shard(&mut self) -> Result<&mut Shard, CorpusError> {
        let shard = match self.shard.take() {
            Some(shard) => shard,
            None => {
                let name = names::of_shard(self.about.format, self.about.files.len());
                Shard::create(self.about.format, self.about.id_bits, self.folder.join(name))?
            }
        };
        Ok(self.shard.insert(shard))
    }

    /// Completes the shard, if there is one. With it `n_documents` are in files, and `n_taken` ids of the next one.
    fn close_shard(&mut self, n_documents: u64, n_taken: u64) -> Result<()> {
        let Some(shard) = self.shard.take() else { return Ok(()) };
        let closed = shard.close()?;
        let file = closed.file.clone();
        let mut journal = match self.journal.take() {
            Some(journal) => journal,
            None => Journal::create(&self.folder, &self.about)?,
        };
        journal.append(&Step { file: file.clone(), n_documents, n_left_out: self.n_left_out, n_taken })?;
        self.journal = Some(journal);
        closed.install()?;
        self.about.n_tokens += file.n_tokens;
        self.about.files.push(file);
        Ok(())
    }
}
