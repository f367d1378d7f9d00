//! No text in a chain of errors repeats its cause, and every error survives a trip through Candle.

use std::io;
use std::path::PathBuf;

use super::cause::Cause;
use super::*;

fn path() -> PathBuf {
    PathBuf::from("/data/gpt2")
}

fn cause(text: &str) -> Cause {
    text.to_string().into()
}

fn refused() -> io::Error {
    io::ErrorKind::PermissionDenied.into()
}

/// Makes one error of every variant with a cause, and one of every family.
fn errors() -> Vec<Error> {
    let encode =
        || TokenizerError::Encode { reason: "the library refuses it".to_string(), source: Some(cause("unknown byte")) };
    vec![
        Error::TokenOutOfRange { id: 50257, at: vec![0, 3], vocab_size: 50257 },
        Error::Candle(candle_core::Error::UnwrapNone),
        Error::Candle(refused().into()),
        CheckpointError::NotFound { path: path() }.into(),
        CheckpointError::reading(&path())(refused()).into(),
        CheckpointError::writing(&path())(refused()).into(),
        CheckpointError::creating(&path())(refused()).into(),
        CheckpointError::config_in(&path())(ConfigError::Zero { name: "n_embd" }).into(),
        CheckpointError::config_in(&path())(ConfigError::Json { source: cause("EOF at line 1") }).into(),
        CheckpointError::InvalidFile {
            path: path(),
            format: "safetensors",
            reason: "its header cannot be parsed".to_string(),
            source: Some(cause("EOF at line 1")),
        }
        .into(),
        CheckpointError::InvalidIndex {
            path: path(),
            reason: "no JSON object".to_string(),
            source: Some(cause("EOF at line 1")),
        }
        .into(),
        ConfigError::Json { source: cause("EOF at line 1") }.into(),
        DataError::Zero { name: "stride" }.into(),
        DeviceError::NotCompiled { device: "cuda:0".to_string(), feature: "cuda" }.into(),
        DeviceError::Unavailable { device: "cuda:0".to_string(), source: candle_core::Error::UnwrapNone.into() }.into(),
        EmbeddingError::MaxNorm { max_norm: -1. }.into(),
        OptimError::State { path: path(), reason: "a damaged state".to_string(), source: Some(cause("EOF")) }.into(),
        PositionError::NoSuchBlock { block: 12, n_layer: 12 }.into(),
        RngError::Probability { p: 1.5 }.into(),
        TokenizerError::Io { path: path(), source: refused() }.into(),
        TokenizerError::Invalid {
            origin: "tokenizer.json".to_string(),
            reason: "not valid JSON".to_string(),
            source: Some(cause("EOF at line 1")),
        }
        .into(),
        encode().into(),
        TokenizerError::Document { index: 3, source: encode().into() }.into(),
    ]
}

fn chain(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(Some(error), |error| error.source()).map(|error| error.to_string()).collect()
}

#[test]
fn no_text_repeats_its_cause() {
    let mut n_causes = 0;
    for error in errors() {
        let texts = chain(&error);
        n_causes += texts.len() - 1;
        for (n, text) in texts.iter().enumerate() {
            assert!(!text.contains('\n') && !text.ends_with('.'), "{text}");
            assert!(texts[n + 1..].iter().all(|cause| !text.contains(cause.as_str())), "{texts:?}");
        }
    }
    assert_eq!(n_causes, 16);
}

#[test]
fn candle_gives_back_every_family_with_its_causes() {
    for error in errors().into_iter().filter(|error| !matches!(error, Error::Candle(_))) {
        let (debug, texts) = (format!("{error:?}"), chain(&error));
        let through = candle_core::Error::from(error);
        assert_eq!(chain(&through), texts);
        assert_eq!(format!("{:?}", Error::from(through.context("here").with_path("there"))), debug);
    }
}
