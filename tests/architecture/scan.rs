//! Finds what the tokens of items name: imports and paths, also in the arguments of macros.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::spanned::Spanned;
use syn::{Item, UseTree};

use crate::tree::Module;

/// What a name of a module stands for.
#[derive(Clone)]
pub enum Name {
    Item,
    Macro,
    /// A module, by its place in the tree.
    Module(usize),
    /// The item that an import with this path brings in.
    Import(Vec<String>),
}

/// One imported name of a `use`.
pub struct Import {
    pub path: Vec<String>,
    pub is_glob: bool,
    pub is_public: bool,
    pub line: usize,
}

/// A path in code: `crate::a::b`, `Name`, `function(`, `word!`.
pub struct Path {
    pub segments: Vec<String>,
    pub is_macro: bool,
    pub line: usize,
}

/// Notes in `module` the name of `item` and everything that it names.
pub fn item(item: Item, module: &mut Module) {
    let name = name_of(&item).map(Ident::to_string);
    if let Some(name) = &name {
        module.name(name, if matches!(item, Item::Macro(_)) { Name::Macro } else { Name::Item });
    }
    if !matches!(item, Item::Use(_)) {
        module.items.push((name.unwrap_or("an item without a name".into()), item.span().start().line));
    }
    tokens(item.into_token_stream(), module);
}

fn name_of(item: &Item) -> Option<&Ident> {
    match item {
        Item::Const(item) => Some(&item.ident),
        Item::Enum(item) => Some(&item.ident),
        Item::Fn(item) => Some(&item.sig.ident),
        Item::Macro(item) => item.ident.as_ref(),
        Item::Static(item) => Some(&item.ident),
        Item::Struct(item) => Some(&item.ident),
        Item::Trait(item) => Some(&item.ident),
        Item::Type(item) => Some(&item.ident),
        Item::Union(item) => Some(&item.ident),
        _ => None,
    }
}

fn tokens(stream: TokenStream, module: &mut Module) {
    let tokens: Vec<_> = stream.into_iter().collect();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let rest = &tokens[at + 1..];
        match token {
            // The name of a lifetime, or what a macro inserts.
            TokenTree::Punct(mark) if mark.as_char() == '\'' => at += 1,
            TokenTree::Punct(mark) if mark.as_char() == '$' && !is_word(rest.first(), "crate") => at += 1,
            TokenTree::Punct(mark) if mark.as_char() == '#' => {
                if let Some(TokenTree::Group(attribute)) = rest.first() {
                    words_in_strings(attribute.stream(), module);
                }
            }
            TokenTree::Group(group) => self::tokens(group.stream(), module),
            TokenTree::Ident(word) if word == "pub" => at += usize::from(is_visibility(rest.first())),
            TokenTree::Ident(word) if word == "use" && !is_mark(rest.first(), '<') => {
                let length = 1 + rest.iter().take_while(|token| !is_mark(Some(token), ';')).count();
                import(&tokens[..at], &tokens[at..(at + length + 1).min(tokens.len())], module);
                at += length;
            }
            TokenTree::Ident(word) => {
                let segments = path(&tokens[at..]);
                let n_tokens = 3 * segments.len() - 2;
                let next = tokens.get(at + n_tokens);
                let is_macro = is_mark(next, '!') && matches!(tokens.get(at + n_tokens + 1), Some(TokenTree::Group(_)));
                let is_called = matches!(next, Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis)
                    || (is_mark(next, ':') && is_mark(tokens.get(at + n_tokens + 2), '<'));
                let is_type = segments[0].starts_with(char::is_uppercase);
                if !is_continued(&tokens[..at]) && (segments.len() > 1 || is_macro || is_called || is_type) {
                    module.paths.push(Path { segments, is_macro, line: word.span().start().line });
                }
                at += n_tokens - 1;
            }
            _ => {}
        }
        at += 1;
    }
}

fn is_mark(token: Option<&TokenTree>, mark: char) -> bool {
    matches!(token, Some(TokenTree::Punct(found)) if found.as_char() == mark)
}

fn is_word(token: Option<&TokenTree>, word: &str) -> bool {
    matches!(token, Some(TokenTree::Ident(found)) if found == word)
}

/// Returns whether this is `(crate)`, `(super)` or `(in ..)`, which may follow `pub`.
fn is_visibility(token: Option<&TokenTree>) -> bool {
    let Some(TokenTree::Group(group)) = token else { return false };
    let first = group.stream().into_iter().next();
    group.delimiter() == Delimiter::Parenthesis
        && ["crate", "self", "super", "in"].iter().any(|word| is_word(first.as_ref(), word))
}

/// Returns the words of the path that `tokens` begin with.
fn path(tokens: &[TokenTree]) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = tokens;
    while let [TokenTree::Ident(word), after @ ..] = rest {
        words.push(word.to_string());
        match after {
            [colon, second, next @ ..] if is_mark(Some(colon), ':') && is_mark(Some(second), ':') => rest = next,
            _ => break,
        }
    }
    words
}

/// Returns whether a word after `before` continues an expression or path: `value.word`, `<T>::word`.
fn is_continued(before: &[TokenTree]) -> bool {
    match before {
        [.., dot, last] if is_mark(Some(last), '.') => !is_mark(Some(dot), '.'),
        [.., first, last] => is_mark(Some(first), ':') && is_mark(Some(last), ':'),
        _ => false,
    }
}

/// Notes paths in strings, which `serde` takes.
fn words_in_strings(attribute: TokenStream, module: &mut Module) {
    let mut attribute = attribute.into_iter();
    if is_word(attribute.next().as_ref(), "serde")
        && let Some(TokenTree::Group(arguments)) = attribute.next()
    {
        for argument in arguments.stream() {
            if let TokenTree::Literal(literal) = argument
                && let Ok(text) = syn::parse2::<syn::LitStr>(literal.to_token_stream())
                && let Ok(words) = text.parse::<TokenStream>()
            {
                tokens(words, module);
            }
        }
    }
}

/// Notes the names that `tokens`, from `use` to `;`, import.
fn import(before: &[TokenTree], tokens: &[TokenTree], module: &mut Module) {
    let Ok(item) = syn::parse2::<syn::ItemUse>(tokens.iter().cloned().collect()) else { return };
    let is_public = match before {
        [.., word, TokenTree::Group(group)] if is_word(Some(word), "pub") => group.stream().to_string() != "self",
        [.., word] => is_word(Some(word), "pub"),
        [] => false,
    };
    // `use ::name` is another crate.
    if item.leading_colon.is_none() {
        leaves(&item.tree, Vec::new(), is_public, module);
    }
}

fn leaves(tree: &UseTree, mut path: Vec<String>, is_public: bool, module: &mut Module) {
    let (word, name) = match tree {
        UseTree::Path(step) => {
            path.push(step.ident.to_string());
            return leaves(&step.tree, path, is_public, module);
        }
        UseTree::Group(group) => {
            return group.items.iter().for_each(|tree| leaves(tree, path.clone(), is_public, module));
        }
        UseTree::Glob(glob) => {
            let line = glob.star_token.spans[0].start().line;
            return module.imports.push(Import { path, is_glob: true, is_public, line });
        }
        UseTree::Name(leaf) => (&leaf.ident, None),
        UseTree::Rename(leaf) => (&leaf.ident, Some(leaf.rename.to_string())),
    };
    if word != "self" {
        path.push(word.to_string());
    }
    let name = name.or(path.last().cloned()).unwrap_or_default();
    module.name(&name, Name::Import(path.clone()));
    module.imports.push(Import { path, is_glob: false, is_public, line: word.span().start().line });
}
