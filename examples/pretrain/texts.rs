//! The texts of a run.

use std::path::PathBuf;

use anyhow::{Context, Result};
use candle_gpt_input::data::Tokens;
use candle_gpt_input::tokenizer::{END_OF_TEXT, Tokenizer};

use crate::settings::Settings;
use crate::{cli, hashes};

/// The share of the text that is trained on, if none is given for evaluation.
const TRAINING_SHARE: f64 = 0.9;

/// What is trained and evaluated on.
pub struct Texts {
    /// Each file, and its hash as a line: what tells the texts of a run from others.
    pub files: Vec<(PathBuf, String)>,
    pub training: Tokens,
    pub validation: Tokens,
}

impl Texts {
    pub fn read(settings: &Settings, tokenizer: &Tokenizer) -> Result<Self> {
        let mut files = Vec::new();
        let (training, validation) = match &settings.validation_file[..] {
            [] => tokens(&settings.text_file, tokenizer, &mut files)?.split(TRAINING_SHARE)?,
            of_its_own => {
                (tokens(&settings.text_file, tokenizer, &mut files)?, tokens(of_its_own, tokenizer, &mut files)?)
            }
        };
        Ok(Self { files, training, validation })
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
