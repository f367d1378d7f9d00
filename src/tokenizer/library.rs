//! Calls the tokenizer library, and words what it refuses.

use std::panic::catch_unwind;

use serde_json::Value;
use tokenizers::pipeline::PipelineTokenizer;

use super::problem::{Problem, REFUSED};

pub(super) fn pipeline(file: Value) -> Result<PipelineTokenizer, Problem> {
    let text = file.to_string();
    // Two panics of the library cannot be predicted here: it asserts that the 512 symbols that it takes for the most
    // frequent have fewer than 65 535 merges among them, and it may find no perfect hash for a crafted vocabulary. It
    // shares no state with us, so catching a panic is safe.
    match catch_unwind(|| tokenizers::from_json(&text)) {
        Ok(Ok(pipeline)) => Ok(pipeline),
        Ok(Err(error)) => Err(match unread_component(&error.to_string()) {
            Some(component) => Problem::Unsupported(component.to_string()),
            None => Problem::Refused(REFUSED.to_string(), error),
        }),
        Err(_) => Err(Problem::Unsupported("the tokenizer library gave up on it".to_string())),
    }
}

/// Extracts what the library cannot read from its error, without its advice on building it differently.
fn unread_component(reason: &str) -> Option<&str> {
    let unknown = reason.strip_prefix("the slim JSON reader does not support ");
    let unknown = unknown.and_then(|rest| rest.split(". Convert").next());
    let left_out = reason.strip_prefix("reading ").and_then(|rest| rest.split(" needs the ").next());
    unknown.or(left_out).or(reason.strip_prefix("not supported: "))
}
