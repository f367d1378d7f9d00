//! What code may say, and how long a file may be.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

use super::{Offence, Tables, top_of};
use crate::tree::Tree;

const PRINT_OR_PANIC: &[&str] =
    &["print", "println", "eprint", "eprintln", "dbg", "panic", "todo", "unimplemented", "unreachable"];
const PANIC: &[&str] = &["unwrap", "unwrap_err", "expect", "expect_err", "panic_any"];
/// Checks that may panic where they guard `unsafe` code.
const ASSERT: &[&str] = &["assert", "assert_eq", "assert_ne"];
/// What ends or prints by another name.
const PROCESS: &[&str] = &["exit", "abort", "stdout", "stderr"];

/// Lines of code that a file may have without a reason.
pub const MAX_LINES: usize = 300;
/// The start of a comment at the head of a longer file.
const REASON: &str = "// Long because";

/// Calls `look` with the tokens from each one on, inside groups too.
fn each_from(code: TokenStream, look: &mut impl FnMut(&[TokenTree])) {
    let tokens: Vec<_> = code.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        look(&tokens[at..]);
        if let TokenTree::Group(group) = token {
            each_from(group.stream(), look);
        }
    }
}

/// Returns the offences in the library's files: where `fault` finds one in the tokens from a place on.
pub fn faults(tree: &Tree, mut fault: impl FnMut(&str, &[TokenTree]) -> Option<String>) -> Vec<Offence> {
    let mut offences = Vec::new();
    for file in &tree.files {
        each_from(file.code.clone(), &mut |tokens| {
            if let Some(what) = fault(&file.path, tokens) {
                let line = tokens[0].span().start().line;
                offences.push(Offence { path: file.path.clone(), line, what });
            }
        });
    }
    offences
}

fn is_below(path: &str, allowed: &[&str]) -> bool {
    allowed.iter().any(|place| path == *place || (place.ends_with('/') && path.starts_with(place)))
}

pub fn crates_stay_in_their_module(tree: &Tree, tables: &Tables) -> Vec<Offence> {
    faults(tree, |path, tokens| match tokens {
        [TokenTree::Ident(word), ..] => {
            let (name, module) = tables.crates.iter().find(|(name, _)| word == name)?;
            (top_of(path) != *module).then(|| format!("names the crate {name}, which only `{module}` knows"))
        }
        _ => None,
    })
}

pub fn unsafe_stays_where_it_is_allowed(tree: &Tree, tables: &Tables) -> Vec<Offence> {
    faults(tree, |path, tokens| match tokens {
        [TokenTree::Ident(word), ..] if word == "unsafe" && !is_below(path, tables.may_be_unsafe) => {
            Some("contains `unsafe`".to_string())
        }
        _ => None,
    })
}

fn is_in(word: &Ident, words: &[&str]) -> bool {
    words.iter().any(|found| word == found)
}

pub fn is_mark(token: Option<&TokenTree>, mark: char) -> bool {
    matches!(token, Some(TokenTree::Punct(found)) if found.as_char() == mark)
}

pub fn nothing_prints_or_panics(tree: &Tree, tables: &Tables) -> Vec<Offence> {
    faults(tree, |path, tokens| match tokens {
        [TokenTree::Ident(word), TokenTree::Punct(mark), TokenTree::Group(_), ..]
            if mark.as_char() == '!' && is_in(word, ASSERT) && !is_below(path, tables.may_be_unsafe) =>
        {
            Some(format!("calls `{word}!`"))
        }
        [TokenTree::Punct(mark), TokenTree::Ident(word), rest @ ..]
            if mark.as_char() == ':'
                && (is_in(word, PROCESS)
                    || is_in(word, PRINT_OR_PANIC) && !is_mark(rest.first(), '!') && !is_mark(rest.first(), ':')) =>
        {
            Some(format!("names `{word}`"))
        }
        [TokenTree::Ident(word), TokenTree::Punct(mark), TokenTree::Group(_), ..]
            if mark.as_char() == '!' && is_in(word, PRINT_OR_PANIC) =>
        {
            Some(format!("calls `{word}!`"))
        }
        [TokenTree::Punct(mark), TokenTree::Ident(word), ..]
            if ['.', ':'].contains(&mark.as_char()) && is_in(word, PANIC) =>
        {
            Some(format!("calls `{word}`"))
        }
        [TokenTree::Ident(word), TokenTree::Group(call), TokenTree::Group(index), ..]
            if word == "dims" && call.stream().is_empty() && index.delimiter() == Delimiter::Bracket =>
        {
            Some("indexes `dims()`".to_string())
        }
        _ => None,
    })
}

/// Finds code that these laws would not read: placed by `include!` or a path, or named by the crate's own name.
pub fn all_code_is_seen(tree: &Tree, _: &Tables) -> Vec<Offence> {
    faults(tree, |_, tokens| match tokens {
        [TokenTree::Ident(word), rest @ ..] if word == "include" && is_mark(rest.first(), '!') => {
            Some("places code by `include!`".to_string())
        }
        [TokenTree::Ident(word), TokenTree::Ident(next), ..] if word == "extern" && next == "crate" => {
            Some("names a crate by `extern crate`".to_string())
        }
        [TokenTree::Punct(mark), TokenTree::Group(attribute), ..] if mark.as_char() == '#' => {
            let mut found = None;
            each_from(attribute.stream(), &mut |tokens| match tokens {
                [TokenTree::Ident(word), ..] if word == "macro_use" => {
                    found = Some("shares macros by `#[macro_use]`".to_string());
                }
                [TokenTree::Ident(word), mark, TokenTree::Literal(_), ..]
                    if word == "path" && is_mark(Some(mark), '=') =>
                {
                    found = Some("places code by a path".to_string());
                }
                _ => {}
            });
            found
        }
        _ => None,
    })
}

/// Finds files with more than [`MAX_LINES`] lines of the library's code whose head does not say why.
pub fn no_file_is_long_without_a_reason(tree: &Tree, _: &Tables) -> Vec<Offence> {
    let mut offences = Vec::new();
    for file in &tree.files {
        let mut lines = BTreeSet::new();
        each_from(file.code.clone(), &mut |tokens| match &tokens[0] {
            TokenTree::Group(group) => {
                lines.extend([group.span_open().start().line, group.span_close().end().line]);
            }
            token => lines.extend(token.span().start().line..=token.span().end().line),
        });
        let mut head = file.text.lines().take_while(|line| line.starts_with("//") || line.is_empty());
        let reason = head.any(|line| line.starts_with(REASON));
        let what = match (lines.len() > MAX_LINES, reason) {
            (true, false) => format!("has {} lines of code and no `{REASON} ..`", lines.len()),
            (false, true) => format!("has {} lines of code: no reason is needed", lines.len()),
            _ => continue,
        };
        offences.push(Offence { path: file.path.clone(), line: 1, what });
    }
    offences
}
