//! What a run trains and is evaluated on: texts, or corpora of token ids.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_gpt_input::data::Tokens;
use candle_gpt_input::data::corpus::{Corpus, CorpusFormat, CorpusOptions};
use candle_gpt_input::error::Shown;
use candle_gpt_input::tokenizer::{END_OF_TEXT, Tokenizer};

use crate::corpora::{self, Files};
use crate::settings::Settings;
use crate::{cli, hashes};

/// The share of the text that is trained on, if none is given for evaluation.
const TRAINING_SHARE: f64 = 0.9;
/// From how many bytes on it is said that files are hashed.
const N_BYTES_SAID: u64 = 1 << 30;

/// A text, or a corpus.
pub struct Part {
    /// Its path; empty for texts.
    pub name: String,
    pub tokens: Tokens,
    /// How much it counts among others.
    pub weight: f64,
}

pub struct Texts {
    /// Each file, and its hash as a line: what tells the texts of a run from others.
    pub files: Vec<(PathBuf, String)>,
    pub training: Vec<Part>,
    pub validation: Vec<Part>,
}

impl Texts {
    /// Reads the texts of a run, or opens its corpora, for a table of `n_rows` rows.
    pub fn read(settings: &Settings, tokenizer: &Tokenizer, n_rows: usize, verify: bool) -> Result<Self> {
        if !settings.corpus.is_empty() {
            return Self::open(settings, tokenizer, n_rows, verify);
        }
        let mut files = Vec::new();
        let (training, validation) = match &settings.validation_file[..] {
            [] => tokens(&settings.text_file, tokenizer, &mut files)?.split(TRAINING_SHARE)?,
            of_its_own => {
                (tokens(&settings.text_file, tokenizer, &mut files)?, tokens(of_its_own, tokenizer, &mut files)?)
            }
        };
        let [training, validation] =
            [training, validation].map(|tokens| vec![Part { name: String::new(), tokens, weight: 1.0 }]);
        Ok(Self { files, training, validation })
    }

    fn open(settings: &Settings, tokenizer: &Tokenizer, n_rows: usize, verify: bool) -> Result<Self> {
        let weights = settings.corpus.iter().map(|share| share.weight()).collect::<Result<Vec<_>>>()?;
        if let Some(without) = weights.iter().position(Option::is_none).filter(|_| weights.iter().any(Option::is_some))
        {
            let path = Shown::path(&settings.corpus[without].path);
            bail!("{path} has no weight, but other corpora do: give each one a weight (PATH:WEIGHT), or none");
        }
        let mut opened = Opened { settings, tokenizer, n_rows, verify, files: BTreeMap::new() };
        let (mut training, mut validation) = (Vec::new(), Vec::new());
        for (share, weight) in settings.corpus.iter().zip(weights) {
            let tokens = opened.corpus(&share.path)?;
            let (for_training, held_out) = match settings.validation_corpus {
                Some(_) => (tokens, None),
                None => tokens.split(TRAINING_SHARE).map(|(before, after)| (before, Some(after)))?,
            };
            let part = |tokens: Tokens| {
                let weight = weight.unwrap_or(tokens.n_tokens() as f64);
                Part { name: Shown::path(&share.path).to_string(), tokens, weight }
            };
            training.push(part(for_training));
            validation.extend(held_out.map(part));
        }
        if let Some(path) = &settings.validation_corpus {
            let (name, tokens) = (Shown::path(path).to_string(), opened.corpus(path)?);
            validation.push(Part { name, tokens, weight: 1.0 });
        }
        Ok(Self { files: opened.hashed()?, training, validation })
    }
}

/// Returns the tokenizer that the first corpus is known to be of, and its files.
pub fn tokenizer(settings: &Settings) -> Result<Option<(Tokenizer, Files)>> {
    match settings.corpus.first() {
        Some(share) => corpora::tokenizer_of(&Corpus::open(&[&share.path], &options(settings))?),
        None => Ok(None),
    }
}

fn options(settings: &Settings) -> CorpusOptions {
    settings.id_bits.into_iter().fold(CorpusOptions::default(), CorpusOptions::with_id_bits)
}

/// The corpora that were opened so far.
struct Opened<'a> {
    settings: &'a Settings,
    tokenizer: &'a Tokenizer,
    n_rows: usize,
    /// Whether all ids and checksums are checked.
    verify: bool,
    /// Each file, and the corpus that it is of.
    files: BTreeMap<PathBuf, PathBuf>,
}

impl Opened<'_> {
    /// Opens a corpus, and refuses one that is not of the tokenizer and the model, or that shares files with another.
    fn corpus(&mut self, path: &Path) -> Result<Tokens> {
        let options = options(self.settings).with_tokenizer(self.tokenizer.clone());
        let corpus = Corpus::open(&[path], &options)?;
        corpora::check_fits(&corpus, self.tokenizer, self.n_rows)?;
        if corpus.about().is_none() && corpus.vocab_size().is_none() {
            let path = Shown::path(path);
            cli::note(format_args!("note: nothing states the tokenizer of {path}: its ids are taken as the run's"));
        }
        let end_of_text = self.settings.end_of_text.as_ref();
        let end_of_text = end_of_text.map(|token| corpora::end_of_text(self.tokenizer, token));
        // Ids that nothing describes are held against the table.
        let options = options.with_vocab_size(self.n_rows).with_verify(self.verify);
        let corpus = corpora::with_documents(corpus, &[path], options, end_of_text.transpose()?)?;
        self.claim(&corpus, path)?;
        Ok(corpus.tokens().clone())
    }

    fn claim(&mut self, corpus: &Corpus, path: &Path) -> Result<()> {
        for file in corpus.files() {
            let index = (corpus.format() == CorpusFormat::Megatron).then(|| file.path.with_extension("idx"));
            let about = corpus.about().map(|_| file.path.with_file_name("corpus.json"));
            let own = file.path.canonicalize().with_context(|| Shown::path(&file.path).to_string())?;
            if let Some(other) = self.files.insert(own, path.to_path_buf()) {
                let (file, other, path) = (Shown::path(&file.path), Shown::path(&other), Shown::path(path));
                bail!(
                    "{file} belongs to two corpora, {other} and {path}: name each file once (weights add up), and \
                     evaluate on others than are trained on"
                );
            }
            for beside in index.into_iter().chain(about) {
                self.files.insert(beside, path.to_path_buf());
            }
        }
        Ok(())
    }

    /// Returns each file with the line of its hash.
    fn hashed(self) -> Result<Vec<(PathBuf, String)>> {
        let files: Vec<PathBuf> = self.files.into_keys().collect();
        let n_bytes: u64 = files.iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum();
        if n_bytes > N_BYTES_SAID {
            let gigabytes = n_bytes as f64 / 1e9;
            cli::note(format_args!("hashing {gigabytes:.1} GB, by which a resumed run knows its corpora"));
        }
        let lines = hashes::of_files(&files)?;
        Ok(files.into_iter().zip(lines).collect())
    }
}

/// Reads texts as one document, with `<|endoftext|>` between them.
fn tokens(paths: &[PathBuf], tokenizer: &Tokenizer, files: &mut Vec<(PathBuf, String)>) -> Result<Tokens> {
    let texts = paths.iter().map(|path| cli::read_text(path)).collect::<Result<Vec<String>>>()?;
    let line = |(path, text): (&PathBuf, &String)| hashes::line(&path.to_string_lossy(), text.as_bytes());
    files.extend(paths.iter().cloned().zip(paths.iter().zip(&texts).map(line)));
    let documents = Tokens::from_documents(tokenizer.encode_batch(&texts)?);
    if paths.len() == 1 {
        return Ok(documents);
    }
    let separator = tokenizer.special_token_id(END_OF_TEXT);
    let advice = "the model's tokenizer has no <|endoftext|> to put between texts: join them into one file";
    Ok(documents.joined(&[separator.context(advice)?]))
}
