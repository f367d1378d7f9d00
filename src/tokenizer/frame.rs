//! What a file does around the words of a text: it normalizes the text before, and adds tokens at both ends.

use std::borrow::Cow;

use serde_json::{Value, json};
use tokenizers::pipeline::{Normalizer, PipelineToken, PipelineTokenizer};
use unicode_normalization_alignments::char::is_combining_mark;
use unicode_normalization_alignments::{
    IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfd_quick, is_nfkc_quick, is_nfkd_quick,
};

use super::library::pipeline;
use super::problem::{Problem, shown};

/// Every text passes through all of them. Known files have at most four.
const MAX_STEPS: usize = 64;
/// The longest text that a normalizer puts in, in bytes: with a longer one, a short text could fill the memory.
const MAX_REPLACEMENT_BYTES: usize = 32;
/// How many times longer a text may become, beyond a fixed number of bytes. NFKC makes at most 11 bytes of one.
const MAX_GROWTH: usize = 16;
const ALWAYS_ALLOWED: usize = 256;

/// Normalizers, in order, and the tokens around every text. GPT-2 has none of either.
#[derive(Default)]
pub(super) struct Frame {
    steps: Vec<Step>,
    /// Holds the library's normalizers and the tokens around a text; its model is not used.
    library: Option<PipelineTokenizer>,
}

enum Step {
    Unicode(Form),
    /// The index among the library's.
    Library(usize),
}

/// The normalizers that need Unicode's tables. Those of Hugging Face's tokenizers 0.23 are of Unicode 9, whose crate
/// this uses too; those of the library are of Unicode 17.
#[derive(Clone, Copy)]
enum Form {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    StripAccents,
}

impl Form {
    fn of(kind: &str) -> Option<Self> {
        Some(match kind {
            "NFC" => Self::Nfc,
            "NFD" => Self::Nfd,
            "NFKC" => Self::Nfkc,
            "NFKD" => Self::Nfkd,
            "StripAccents" => Self::StripAccents,
            _ => return None,
        })
    }

    fn apply(self, text: &str) -> Cow<'_, str> {
        let unchanged = match self {
            Self::Nfc => is_nfc_quick(text.chars()),
            Self::Nfd => is_nfd_quick(text.chars()),
            Self::Nfkc => is_nfkc_quick(text.chars()),
            Self::Nfkd => is_nfkd_quick(text.chars()),
            Self::StripAccents => IsNormalized::Maybe,
        };
        if text.is_ascii() || unchanged == IsNormalized::Yes {
            return Cow::Borrowed(text);
        }
        let character = |(character, _): (char, isize)| character;
        Cow::Owned(match self {
            Self::Nfc => text.nfc().map(character).collect(),
            Self::Nfd => text.nfd().map(character).collect(),
            Self::Nfkc => text.nfkc().map(character).collect(),
            Self::Nfkd => text.nfkd().map(character).collect(),
            Self::StripAccents => text.chars().filter(|&c| !is_combining_mark(c)).collect(),
        })
    }
}

impl Normalizer for Frame {
    fn normalize<'a>(&self, text: &'a str, offset: usize) -> tokenizers::Result<Cow<'a, str>> {
        let most = text.len().saturating_mul(MAX_GROWTH).saturating_add(ALWAYS_ALLOWED);
        let mut normalized = Cow::Borrowed(text);
        for step in &self.steps {
            normalized = match normalized {
                Cow::Borrowed(text) => self.run(step, text, offset)?,
                Cow::Owned(text) => Cow::Owned(self.run(step, &text, offset)?.into_owned()),
            };
            if normalized.len() > most {
                return Err(format!("its normalizers make more than {MAX_GROWTH} times as many bytes of it").into());
            }
        }
        Ok(normalized)
    }
}

impl Frame {
    /// Reads the `normalizer` and the `post_processor` of a file in the library's form.
    pub(super) fn read(normalizer: &Value, post_processor: &Value) -> Result<Self, Problem> {
        let mut leaves = Vec::new();
        collect(normalizer, &mut leaves)?;
        if leaves.len() > MAX_STEPS {
            return Err(Problem::Unsupported(format!("it has more than {MAX_STEPS} normalizers")));
        }
        let (mut steps, mut others) = (Vec::new(), Vec::new());
        for leaf in leaves {
            steps.push(match leaf["type"].as_str().and_then(Form::of) {
                Some(form) => Step::Unicode(form),
                None => {
                    check_replacement(leaf)?;
                    others.push(leaf);
                    Step::Library(others.len() - 1)
                }
            });
        }
        let library = pipeline(json!({
            "version": "2.0",
            "model": { "type": "BPE", "byte_level": false, "vocab": { "a": 0 }, "merges": [] },
            "normalizer": { "type": "Sequence", "normalizers": others },
            "post_processor": post_processor,
        }))?;
        if library.get_normalizers().len() != others.len() {
            return Err("its normalizers are not those that the tokenizer library reads".to_string().into());
        }
        Ok(Self { steps, library: Some(library) })
    }

    fn run<'a>(&self, step: &Step, text: &'a str, offset: usize) -> tokenizers::Result<Cow<'a, str>> {
        match (step, &self.library) {
            (Step::Unicode(form), _) => Ok(form.apply(text)),
            (Step::Library(index), Some(library)) => library.get_normalizers()[*index].normalize(text, offset),
            (Step::Library(_), None) => Ok(Cow::Borrowed(text)),
        }
    }

    /// Returns whether the parts of a text that is cut before a space or a line feed become those of the whole. NFC
    /// composes neither with what is before it.
    pub(super) fn keeps_words(&self) -> bool {
        let composes = |step: &Step| matches!(step, Step::Unicode(Form::Nfc));
        self.steps.iter().all(composes) && self.around().into_iter().all(<[_]>::is_empty)
    }

    /// Returns the tokens before and after every text.
    pub(super) fn around(&self) -> [&[(PipelineToken, u8)]; 2] {
        match &self.library {
            Some(library) => {
                let template = &library.get_post_processor().single;
                [&template.prefix, &template.suffix]
            }
            None => [&[], &[]],
        }
    }
}

/// Lists the normalizers in a normalizer, in the order in which they apply.
fn collect<'v>(normalizer: &'v Value, leaves: &mut Vec<&'v Value>) -> Result<(), Problem> {
    if normalizer.is_null() {
        return Ok(());
    }
    if normalizer["type"] != "Sequence" {
        leaves.push(normalizer);
        return Ok(());
    }
    let members = normalizer["normalizers"].as_array();
    let members = members.ok_or_else(|| "its `Sequence` of normalizers has no list `normalizers`".to_string())?;
    members.iter().try_for_each(|member| collect(member, leaves))
}

/// Checks what the library does not: a pattern that it cannot run, and how much a text may grow.
fn check_replacement(normalizer: &Value) -> Result<(), Problem> {
    let (kind, put_in) = match normalizer["type"].as_str() {
        Some(kind @ "Replace") => (kind, &normalizer["content"]),
        Some(kind @ "Prepend") => (kind, &normalizer["prepend"]),
        _ => return Ok(()),
    };
    if normalizer["pattern"]["Regex"].is_string() {
        let pattern = shown(&normalizer["pattern"]["Regex"]);
        return Err(Problem::Unsupported(format!("a `{kind}` normalizer with the regular expression {pattern}")));
    }
    match put_in.as_str().map_or(0, str::len) {
        ..=MAX_REPLACEMENT_BYTES => Ok(()),
        n => Err(Problem::Unsupported(format!(
            "a `{kind}` normalizer that puts in {n} bytes, more than {MAX_REPLACEMENT_BYTES}"
        ))),
    }
}
