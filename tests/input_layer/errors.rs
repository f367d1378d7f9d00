//! Errors pass through Candle's type, and `Error::from` gives them their own type back.

use std::backtrace::Backtrace;

use candle_core::error::Context;
use candle_core::{Device, Module, Tensor};
use candle_gpt_input::error::{ConfigError, DataError};
use candle_gpt_input::{Error, GptInputConfig, Result};

use crate::layer;
use crate::support::error_text;

/// Returns the error of a model of Candle's modules for an id outside the vocabulary.
fn of_a_module() -> candle_core::Error {
    let ids = Tensor::new(&[[0u32, 1], [99, 2]], &Device::Cpu).unwrap();
    let model = candle_nn::seq().add_fn(|ids| layer(&Device::Cpu).eval().forward(ids)).add(candle_nn::Activation::Relu);
    model.forward(&ids).unwrap_err()
}

#[track_caller]
fn is_token_out_of_range(error: impl Into<Error>) {
    match error.into() {
        Error::TokenOutOfRange { id: 99, at, vocab_size: 11 } => assert_eq!(at, [1, 0]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_module_s_error_is_typed_again() {
    is_token_out_of_range(of_a_module());
    let text = error_text(Err::<(), _>(of_a_module()));
    assert_eq!(text, "token id 99 at [1, 0] is outside the vocabulary of 11 (valid ids: 0 to 10)");
    // By `?`, in a function that returns our result.
    let through = || -> Result<()> { Err(of_a_module())? };
    is_token_out_of_range(through().unwrap_err());
}

#[test]
fn what_candle_puts_around_an_error_is_taken_off() {
    let with_backtrace = |inner: candle_core::Error| candle_core::Error::WithBacktrace {
        inner: inner.into(),
        backtrace: Backtrace::force_capture().into(),
    };
    is_token_out_of_range(with_backtrace(of_a_module()));
    is_token_out_of_range(of_a_module().with_path("model.safetensors").context("prompt 3"));
    let twice = Err::<(), _>(with_backtrace(of_a_module().context("block 0"))).context("prompt 3");
    is_token_out_of_range(twice.with_context(|| "batch 1").unwrap_err());
    // An error of ours, and one of a family, with a context added by Candle's own trait.
    is_token_out_of_range(Err::<(), _>(Error::from(of_a_module())).context("prompt 3").unwrap_err());
    let family = Err::<(), _>(DataError::Zero { name: "stride" }).context("loader").unwrap_err();
    assert!(matches!(Error::from(family), Error::Data(DataError::Zero { name: "stride" })));
}

#[test]
fn an_error_of_candle_s_own_stays_whole() {
    let of_candle = || candle_core::Error::CannotFindTensor { path: "wte.weight".to_string() };
    let text = of_candle().context("prompt 3").to_string();
    let error = Error::from(of_candle().context("prompt 3"));
    assert_eq!(error.to_string(), text);
    assert_eq!(candle_core::Error::from(error).to_string(), text);
    let boxed = Err::<(), _>(of_candle()).context("prompt 3").unwrap_err();
    let text = boxed.to_string();
    assert_eq!(Error::from(boxed).to_string(), text);
}

#[test]
fn families_become_either_error() {
    let zero = || GptInputConfig::new(0, 1, 1).validate();
    fn of_candle(error: ConfigError) -> candle_core::Result<()> {
        Err(error)?
    }
    let Err(Error::Config(family)) = zero() else { panic!("a vocabulary of nothing") };
    let candle_error = of_candle(family).unwrap_err();
    assert_eq!(candle_error.to_string(), "config: `vocab_size` must be at least 1");
    assert!(matches!(Error::from(candle_error), Error::Config(ConfigError::Zero { name: "vocab_size" })));
}
