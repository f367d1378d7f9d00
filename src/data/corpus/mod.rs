//! [`Corpus`]: token ids in files that may be larger than memory, of nanoGPT, llm.c, Megatron, or texts.
//!
//! ```
//! use candle_core::Device;
//! use candle_gpt_input::data::corpus::{Corpus, CorpusOptions, IdBits};
//! use candle_gpt_input::data::{Loader, LoaderConfig, Seeding};
//! use candle_gpt_input::rng::Generator;
//!
//! // As nanoGPT's prepare.py: np.array(ids, dtype=np.uint16).tofile("train.bin")
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("train.bin");
//! std::fs::write(&path, (0..1000u16).flat_map(u16::to_le_bytes).collect::<Vec<_>>())?;
//!
//! let options = CorpusOptions::default().with_id_bits(IdBits::Sixteen).with_vocab_size(50257);
//! let corpus = Corpus::open(&[&path], &options)?;
//! assert_eq!((corpus.n_tokens(), corpus.ids(998..1000).unwrap().to_vec()), (1000, vec![998, 999]));
//!
//! let config = LoaderConfig::default().with_max_length(64).with_stride(64);
//! let loader = Loader::new(corpus.tokens(), config, Seeding::Global(Generator::manual_seed(123)), &Device::Cpu)?;
//! let batch = loader.epoch().next().unwrap()?;
//! assert_eq!(batch.input_ids.dims(), [4, 64]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Files that change
//!
//! The files are mapped, not read. As long as anything of a corpus is in use, they must be neither changed nor
//! truncated: on most systems a page that a truncated file no longer has ends the process by a signal (SIGBUS), which
//! no check can prevent. Replace a file by renaming another one to its name: who has it open keeps the old one.

mod about;
mod format;
mod journal;
mod llmc;
mod megatron;
mod meta;
mod names;
mod open;
mod options;
mod shard;
mod sources;
mod stated;
mod write;

use std::ops::Range;
use std::path::Path;

use super::{Ids, Tokens};
use crate::error::{CorpusError, Result};

use about::ABOUT_FILE;
pub use about::{About, AboutFile};
pub use format::CorpusFormat;
pub use open::CorpusFile;
use open::Parts;
pub use options::{CorpusOptions, IdBits};
pub use write::CorpusWriter;

/// Opens files of token ids as one text, without reading them into memory.
///
/// The module's documentation has an example.
#[derive(Clone, Debug)]
#[must_use]
#[doc(alias("memmap", "IndexedDataset", "DataLoaderLite", "get_batch"))]
pub struct Corpus(Parts);

impl Corpus {
    /// Opens the files at `paths` as one corpus, in the order given, and checks their headers and indices.
    ///
    /// Each path is one of these:
    /// - a file of any [`CorpusFormat`], recognised by its content; one that ends in `.bin`, `.u16` or `.u32` and has
    ///   no header holds bare ids
    /// - a Megatron corpus: its `.idx`, its `.bin`, or the prefix of both
    /// - a folder: the files that its `corpus.json` lists, or else its files of ids, in the order of names; if it has
    ///   none, its `.txt` files
    /// - a pattern such as `data/fineweb_train_*.bin`: the files that match, in the order of names
    ///
    /// A folder or a pattern that has files for training as well as for validation (`train.bin`, `val.bin`) is refused.
    /// A corpus has files of one format and one width. One that is not written to its end is refused.
    ///
    /// The module's documentation says what must not happen to the files.
    ///
    /// # Errors
    /// [`CorpusError`] says which file is damaged, of another kind, or not what its
    /// `corpus.json` states; with [`verify`](CorpusOptions::verify) also which id lies outside the vocabulary.
    pub fn open(paths: &[impl AsRef<Path>], options: &CorpusOptions) -> Result<Self> {
        open::open(paths, options).map(Self)
    }

    /// Returns the ids, for [`Windows`](super::Windows) and [`Loader`](super::Loader).
    ///
    /// Its documents are those of a Megatron index, or those that
    /// [`end_of_text`](CorpusOptions::end_of_text) separates. Otherwise all shards of llm.c are one document, and each
    /// other file is one, as is each text. [`Tokens::joined`] makes one document of all, without copying.
    pub fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// Returns the number of ids in all files.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.0.tokens.n_tokens()
    }

    /// Returns the number of documents, as [`tokens`](Self::tokens) has them.
    #[must_use]
    pub fn n_documents(&self) -> usize {
        self.0.tokens.n_documents()
    }

    /// Returns the ids of a range, which counts through all files; `None` if it ends beyond them.
    #[must_use]
    pub fn ids(&self, range: Range<usize>) -> Option<Ids<'_>> {
        (range.start <= range.end && range.end <= self.n_tokens()).then(|| self.0.tokens.ids_at(range))
    }

    /// Returns the range of ids of document `number`, which counts through all files; `None` for one that does not exist.
    #[must_use]
    pub fn document(&self, number: usize) -> Option<Range<usize>> {
        (number < self.n_documents()).then(|| self.0.tokens.document_range(number))
    }

    /// Returns the files, in their order.
    #[must_use]
    pub fn files(&self) -> &[CorpusFile] {
        &self.0.files
    }

    /// Returns the format of the files.
    #[must_use]
    pub fn format(&self) -> CorpusFormat {
        self.0.format
    }

    /// Returns the width of ids in the files.
    #[must_use]
    pub fn id_bits(&self) -> IdBits {
        self.0.id_bits
    }

    /// Returns the size of the vocabulary that ids are held against: the smallest of those in the options, in
    /// `corpus.json`, in nanoGPT's `meta.pkl`, and of a text's tokenizer.
    #[must_use]
    pub fn vocab_size(&self) -> Option<usize> {
        self.0.vocab_size
    }

    /// Returns the characters that nanoGPT's `meta.pkl` beside bare ids states, each at the place of its id; `None`
    /// where ids are not characters.
    ///
    /// ```
    /// use candle_gpt_input::data::corpus::{Corpus, CorpusOptions, IdBits};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("train.bin");
    /// // pickle.dump({"vocab_size": 2, "stoi": {"a": 0, "b": 1}}, f, protocol=0)
    /// let meta = b"(dp0\nVvocab_size\np1\nI2\nsVstoi\np2\n(dp3\nVa\np4\nI0\nsVb\np5\nI1\nss.";
    /// std::fs::write(folder.path().join("meta.pkl"), meta)?;
    /// std::fs::write(&path, [0, 0, 1, 0])?;
    /// let corpus = Corpus::open(&[&path], &CorpusOptions::default().with_id_bits(IdBits::Sixteen))?;
    /// assert_eq!(corpus.characters(), Some(&['a', 'b'][..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn characters(&self) -> Option<&[char]> {
        self.0.characters.as_deref()
    }

    /// Checks that the ids are those of a tokenizer, and that a table of `n_rows` rows has one for each of them, as far
    /// as files beside the ids state it.
    ///
    /// `tokenizer` is what identifies it in `corpus.json`: [`About::tokenizer`]. Ids that nothing describes are held
    /// against [`CorpusOptions::vocab_size`] when a batch takes them.
    ///
    /// ```
    /// use candle_gpt_input::data::corpus::{About, Corpus, CorpusFormat, CorpusOptions, CorpusWriter};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let out = folder.path();
    /// let mut writer = CorpusWriter::create(out, About::new(CorpusFormat::Llmc, 50257, "gpt2", Some(50256), 100))?;
    /// writer.push(&[15496, 8887])?;
    /// writer.finish()?;
    ///
    /// let corpus = Corpus::open(&[out], &CorpusOptions::default())?;
    /// corpus.check_fits("gpt2", 50304)?; // a table may have more rows
    /// assert!(corpus.check_fits("gpt2", 50256).is_err());
    /// assert!(corpus.check_fits("llama", 50257).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CorpusError::OtherTokenizer`] with the `corpus.json` that names another tokenizer,
    /// [`CorpusError::OtherVocabulary`] for a vocabulary of more than `n_rows`.
    pub fn check_fits(&self, tokenizer: &str, n_rows: usize) -> Result<()> {
        if let Some((folder, about)) = self.0.abouts.iter().find(|(_, about)| about.tokenizer != tokenizer) {
            let (path, stated, given) = (folder.join(ABOUT_FILE), about.tokenizer.clone(), tokenizer.to_string());
            return Err(CorpusError::OtherTokenizer { path, stated, given }.into());
        }
        match self.vocab_size().filter(|&vocab_size| vocab_size > n_rows) {
            Some(vocab_size) => {
                let path = self.0.files[0].path.clone();
                Err(CorpusError::OtherVocabulary { path, vocab_size, n_rows }.into())
            }
            None => Ok(()),
        }
    }

    /// Returns what `corpus.json` states, if all files lie beside one.
    #[must_use]
    pub fn about(&self) -> Option<&About> {
        self.0.about.as_ref()
    }
}
