//! Finds a model's own tokenizer among its files, and reads it as transformers reads a GPT-2's.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::json::build;
use super::problem::{Problem, parse, read_text};
use super::settings::{Settings, check_absent};
use super::{SpecialTokens, Tokenizer};
use crate::error::{Result, TokenizerError};

/// The tokens and merges of a GPT-2, as transformers and as OpenAI name the files.
const PAIRS: [[&str; 2]; 2] = [["vocab.json", "merges.txt"], ["encoder.json", "vocab.bpe"]];
/// Files of tokenizers that cannot be read, and their kinds.
const OTHERS: [(&str, &str); 8] = [
    ("tokenizer.model", "a SentencePiece or tiktoken tokenizer"),
    ("spiece.model", "a SentencePiece tokenizer"),
    ("sentencepiece.bpe.model", "a SentencePiece tokenizer"),
    ("vocab.txt", "a WordPiece tokenizer"),
    ("tekken.json", "a Tekken tokenizer"),
    ("qwen.tiktoken", "a tiktoken tokenizer"),
    ("tokenizer.tiktoken", "a tiktoken tokenizer"),
    ("meta.pkl", "a vocabulary of nanoGPT"),
];
/// The names of all files that [`Tokenizer::beside`] looks for: those to download of a repository.
pub const TOKENIZER_FILES: [&str; 17] = [
    "tokenizer.json",
    PAIRS[0][0],
    PAIRS[0][1],
    PAIRS[1][0],
    PAIRS[1][1],
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
    OTHERS[0].0,
    OTHERS[1].0,
    OTHERS[2].0,
    OTHERS[3].0,
    OTHERS[4].0,
    OTHERS[5].0,
    OTHERS[6].0,
    OTHERS[7].0,
];
/// Merges in a file of lines; known files have at most 600 000.
const MAX_MERGES: usize = 1 << 21;

impl Tokenizer {
    /// Reads a model's own tokenizer: from the folder `path`, or from the folder of the file `path`.
    ///
    /// It is the first of these that is there:
    /// - `tokenizer.json`
    /// - `vocab.json` and `merges.txt`, or OpenAI's `encoder.json` and `vocab.bpe`
    ///
    /// Of `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` it takes what transformers' GPT-2
    /// takes: added and special tokens, `add_prefix_space` and `split_special_tokens`; for the two files also
    /// `add_bos_token` and `add_eos_token`. Returns `None` if no file of a tokenizer is there.
    ///
    /// ```
    /// use candle_gpt_input::tokenizer::Tokenizer;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// assert!(Tokenizer::beside(folder)?.is_none());
    /// std::fs::write(folder.join("vocab.json"), r#"{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}"#)?;
    /// std::fs::write(folder.join("merges.txt"), "#version: 0.2\na b\n")?;
    /// let tokenizer = Tokenizer::beside(folder.join("model.safetensors"))?.expect("two files");
    /// assert_eq!(tokenizer.encode("abba<|endoftext|>")?, [2, 1, 0, 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// - [`TokenizerError::Io`] if a file cannot be read
    /// - [`TokenizerError::Invalid`] if one is broken, or one of two is missing
    /// - [`TokenizerError::Unsupported`] for a tokenizer that is not a byte-level BPE, such as `tokenizer.model`, and
    ///   as for [`from_file`](Self::from_file)
    pub fn beside(path: impl AsRef<Path>) -> Result<Option<Self>> {
        let path = path.as_ref();
        let folder = match path.is_dir() {
            true => path,
            false => path.parent().unwrap_or(path),
        };
        Self::from_files(&folder.display().to_string(), |name| {
            let file = folder.join(name);
            let is_other = OTHERS.iter().any(|(other, _)| *other == name);
            match file.is_file() {
                true if is_other => Ok(Some(String::new())),
                true => Ok(Some(read_text(&file)?)),
                false => Ok(None),
            }
        })
    }

    /// Reads a tokenizer: a `tokenizer.json` under any name, one of two files such as `vocab.json`, or a folder as
    /// [`beside`](Self::beside) does.
    ///
    /// ```
    /// use candle_gpt_input::tokenizer::Tokenizer;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// std::fs::write(folder.join("vocab.json"), r#"{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}"#)?;
    /// std::fs::write(folder.join("merges.txt"), "#version: 0.2\na b\n")?;
    /// let tokenizer = Tokenizer::open(folder.join("merges.txt"))?;
    /// assert_eq!(tokenizer.vocab_size(), 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`beside`](Self::beside), and [`TokenizerError::Invalid`] for a folder without a tokenizer.
    #[doc(alias = "from_pretrained")]
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !path.is_dir() && !PAIRS.as_flattened().contains(&name) {
            return Self::from_file(path);
        }
        Self::beside(path)?.ok_or_else(|| {
            let reason = "the folder has no tokenizer.json, nor vocab.json and merges.txt".to_string();
            TokenizerError::Invalid { origin: path.display().to_string(), reason, source: None }.into()
        })
    }

    /// Reads a model's own tokenizer, as [`beside`](Self::beside) does, by a function that returns the text of a file,
    /// or `None` if there is no such file.
    ///
    /// It serves files that are no folder's, such as those of a repository. `origin` names them in errors.
    ///
    /// ```
    /// use candle_gpt_input::tokenizer::Tokenizer;
    ///
    /// let vocab = r#"{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}"#;
    /// let files = [("vocab.json", vocab), ("merges.txt", "#version: 0.2\na b\n")];
    /// let read = |name: &str| Ok(files.iter().find(|(file, _)| *file == name).map(|(_, text)| text.to_string()));
    /// let tokenizer = Tokenizer::from_files("mine", read)?.expect("two files");
    /// assert_eq!(tokenizer.encode("abba<|endoftext|>")?, [2, 1, 0, 3]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`beside`](Self::beside), and of the function.
    pub fn from_files(origin: &str, mut read: impl FnMut(&str) -> Result<Option<String>>) -> Result<Option<Self>> {
        let at = |name: &str| Path::new(origin).join(name).display().to_string();
        let name;
        let mut file;
        if let Some(text) = read("tokenizer.json")? {
            name = "tokenizer.json";
            file = parse(&text).map_err(|problem| problem.of(at(name)))?;
        } else if let Some((vocab, merges)) = pair(&mut read, &at)? {
            name = vocab.0;
            let merges = merge_lines(&merges.1).map_err(|problem| problem.of(at(merges.0)))?;
            let vocab = parse(&vocab.1).map_err(|problem| problem.of(at(name)))?;
            let pre_tokenizer = json!({ "type": "ByteLevel", "add_prefix_space": false });
            file =
                json!({ "model": { "type": "BPE", "vocab": vocab, "merges": merges }, "pre_tokenizer": pre_tokenizer });
        } else {
            for (name, kind) in OTHERS {
                if read(name)?.is_some() {
                    let reason = format!("{kind}; only byte-level BPE (GPT-2's kind) is supported");
                    return Err(TokenizerError::Unsupported { origin: at(name), reason }.into());
                }
            }
            let settings = match read("tokenizer_config.json")? {
                Some(text) => parse(&text).map_err(|problem| problem.of(at("tokenizer_config.json")))?,
                None => Value::Null,
            };
            check_absent(&settings).map_err(|problem| problem.of(at("tokenizer_config.json")))?;
            return Ok(None);
        }
        let mut object = |name: &str| -> Result<Map<String, Value>> {
            let Some(text) = read(name)? else { return Ok(Map::new()) };
            match parse(&text).map_err(|problem| problem.of(at(name)))? {
                Value::Object(object) => Ok(object),
                _ => Err(Problem::from("it is no JSON object".to_string()).of(at(name)).into()),
            }
        };
        let mut settings = Settings { config: object("tokenizer_config.json")?, ..Settings::default() };
        if !settings.config.contains_key("added_tokens_decoder") {
            settings.special = object("special_tokens_map.json")?;
            settings.added = object("added_tokens.json")?;
        }
        let own_file = name == "tokenizer.json";
        if !own_file {
            let model = object("config.json")?;
            settings.check_class(&model).map_err(|problem| problem.of(at("tokenizer_config.json")))?;
        }
        settings.complete(&mut file, own_file).map_err(|problem| problem.of(at("tokenizer_config.json")))?;
        let encoder = build(file).map_err(|problem| problem.of(at(name)))?;
        let policy = match settings.is("split_special_tokens") {
            true => SpecialTokens::AsText,
            false => SpecialTokens::default(),
        };
        Ok(Some(Self::new(encoder).with_special_tokens(policy)))
    }

    /// Returns how many rows of a table of `n_rows` rows no token uses, such as those that pad the table.
    ///
    /// ```
    /// use candle_gpt_input::tokenizer::Tokenizer;
    ///
    /// assert_eq!(Tokenizer::gpt2().unused_rows(50304)?, 47); // padded to a multiple of 128
    /// let error = Tokenizer::gpt2().unused_rows(2000).unwrap_err();
    /// assert!(error.to_string().starts_with("the tokenizer has ids up to 50256, but the table only 2000 rows"));
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`TokenizerError::TableTooSmall`] if an id has no row: the tokenizer is not the model's.
    pub fn unused_rows(&self, n_rows: usize) -> Result<usize> {
        let end = self.end_of_ids();
        let largest_id = end.saturating_sub(1) as u32;
        n_rows.checked_sub(end).ok_or_else(|| TokenizerError::TableTooSmall { largest_id, n_rows }.into())
    }

    /// Returns one more than the largest id: the rows of the smallest table. Ids may have gaps.
    pub(crate) fn end_of_ids(&self) -> usize {
        self.tokens.end() as usize
    }
}

/// A file's name and its text.
type Text = (&'static str, String);

/// Reads the first pair of files of which one is there.
fn pair(
    read: &mut impl FnMut(&str) -> Result<Option<String>>,
    at: &impl Fn(&str) -> String,
) -> Result<Option<(Text, Text)>> {
    for [vocab, merges] in PAIRS {
        match (read(vocab)?, read(merges)?) {
            (Some(tokens), Some(lines)) => return Ok(Some(((vocab, tokens), (merges, lines)))),
            (None, None) => {}
            (tokens, _) => {
                let (there, missing) = if tokens.is_some() { (vocab, merges) } else { (merges, vocab) };
                let reason = format!("`{missing}` is missing beside it; a GPT-2's tokenizer needs both");
                return Err(TokenizerError::Invalid { origin: at(there), reason, source: None }.into());
            }
        }
    }
    Ok(None)
}

fn merge_lines(text: &str) -> Result<Vec<&str>, Problem> {
    let lines = || text.lines().filter(|line| !line.is_empty());
    match lines().nth(MAX_MERGES) {
        Some(_) => Err(Problem::Unsupported(format!("it has more than {MAX_MERGES} merges"))),
        None => Ok(lines().collect()),
    }
}
