//! What the texts of errors may quote.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::words::{faults, is_mark};
use super::{Offence, Tables};
use crate::tree::Tree;

/// Types of fields that hold text from outside, or numbers of any length, and what prints them.
const QUOTED: &[(&str, &str)] = &[("String", "Shown"), ("PathBuf", "Shown"), ("f64", "number"), ("f32", "number")];

/// Finds texts of errors (`#[error("..")]`) that quote a field without escaping or shortening it: `{name}` needs the
/// argument `name = Shown::name(name)`.
pub fn errors_show_what_they_quote(tree: &Tree, _: &Tables) -> Vec<Offence> {
    faults(tree, |_, tokens| {
        let [TokenTree::Punct(mark), TokenTree::Group(attribute), rest @ ..] = tokens else { return None };
        let attribute: Vec<_> = attribute.stream().into_iter().collect();
        let [TokenTree::Ident(word), TokenTree::Group(message)] = attribute.as_slice() else { return None };
        if mark.as_char() != '#' || word != "error" {
            return None;
        }
        let message = message.stream().to_string();
        let quotes =
            |field: &str| message.contains(&format!("{{{field}}}")) || message.contains(&format!("{{{field}:"));
        let printer = |field: &str, by: &str| message.contains(&format!("{field} = {by}"));
        let unshown = |(field, by): &(String, &str)| {
            quotes(field) && !printer(field, by) || message.contains(&format!("{field} . display"))
        };
        let (field, by) = fields_after(rest).into_iter().find(unshown)?;
        Some(format!("quotes `{field}` in an error without `{by}`"))
    })
}

/// Returns the quoted fields of the variant or struct whose attributes these tokens begin with.
fn fields_after(mut tokens: &[TokenTree]) -> Vec<(String, &'static str)> {
    while let [mark, TokenTree::Group(_), rest @ ..] = tokens
        && is_mark(Some(mark), '#')
    {
        tokens = rest;
    }
    match tokens {
        [TokenTree::Ident(_), TokenTree::Group(fields), ..] if fields.delimiter() == Delimiter::Brace => {
            of_type(fields.stream())
        }
        _ => Vec::new(),
    }
}

fn of_type(fields: TokenStream) -> Vec<(String, &'static str)> {
    let tokens: Vec<_> = fields.into_iter().collect();
    let field = |window: &[TokenTree]| {
        let [TokenTree::Ident(name), colon, TokenTree::Ident(ty)] = window else { return None };
        let (_, by) = QUOTED.iter().find(|(quoted, _)| ty == quoted).filter(|_| is_mark(Some(colon), ':'))?;
        Some((name.to_string(), *by))
    };
    tokens.windows(3).filter_map(field).collect()
}
