//! Reads the modules of a crate: parses each file and leaves out what only tests compile.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, Item, Meta};

use crate::names::Reference;
use crate::scan::{self, Import, Name};

/// A file that is compiled outside tests.
pub struct File {
    /// Its path below the root, with slashes: `src/kernel/mod.rs`.
    pub path: String,
    pub text: String,
    /// The code without items of tests and without documentation.
    pub code: TokenStream,
}

impl File {
    /// Returns whether public imports of this file only re-export items of others.
    pub fn is_facade(&self) -> bool {
        self.path.ends_with("/mod.rs") || self.path == "src/lib.rs"
    }
}

/// A module of the crate, in a file of its own or inside its parent's.
pub struct Module {
    pub parent: Option<usize>,
    pub name: String,
    pub file: usize,
    /// The line of its declaration in the parent's file.
    pub line: usize,
    pub names: HashMap<String, Vec<Name>>,
    pub imports: Vec<Import>,
    pub paths: Vec<scan::Path>,
    /// The items that it defines, and their lines.
    pub items: Vec<(String, usize)>,
}

/// The library below a root folder, `src/lib.rs` its first file and module.
pub struct Tree {
    pub root: PathBuf,
    pub files: Vec<File>,
    pub modules: Vec<Module>,
    /// Files that only tests compile.
    pub tests: Vec<String>,
    /// The references between the modules.
    pub references: Vec<Reference>,
}

impl Tree {
    pub fn read(root: &Path) -> Self {
        let (files, modules, tests, references) = Default::default();
        let mut tree = Self { root: root.to_path_buf(), files, modules, tests, references };
        tree.read_file("src/lib.rs", Module::new(None, String::new(), 0, 1));
        tree.references = tree.find_references();
        tree
    }

    /// Returns every file below `src`, sorted.
    pub fn on_disk(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.root.join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => found.push(self.below(&path)),
                }
            }
        }
        found.sort();
        found
    }

    /// Returns a path below the root in the form `src/a/b.rs`.
    fn below(&self, path: &Path) -> String {
        let names = path.strip_prefix(&self.root).unwrap().iter().map(|name| name.to_str().unwrap());
        names.collect::<Vec<_>>().join("/")
    }

    fn parse(&self, path: &str) -> (String, syn::File) {
        let text = fs::read_to_string(self.root.join(path)).unwrap();
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| {
            panic!("{path}:{}: {error}", error.span().start().line);
        });
        (text, parsed)
    }

    fn read_file(&mut self, path: &str, module: Module) {
        let (text, mut parsed) = self.parse(path);
        if parsed.attrs.iter().any(is_for_tests) {
            return self.read_tests(path);
        }
        let folder = folder_of(path);
        self.read_test_modules(&folder, &parsed.items, false);
        WithoutTests.visit_file_mut(&mut parsed);
        let code = parsed.to_token_stream();
        self.files.push(File { path: path.to_string(), text, code });
        let file = self.files.len() - 1;
        self.read_module(&folder, Module { file, ..module }, parsed.items);
    }

    /// Reads a module with these items, and the modules that it declares, which lie in `folder`.
    fn read_module(&mut self, folder: &str, module: Module, items: Vec<Item>) {
        let (id, file) = (self.modules.len(), module.file);
        if let Some(parent) = module.parent {
            self.modules[parent].name(&module.name, Name::Module(id));
        }
        self.modules.push(module);
        let mut children = Vec::new();
        for item in items {
            match item {
                Item::Mod(child) => children.push(child),
                item => scan::item(item, &mut self.modules[id]),
            }
        }
        for child in children {
            let (name, line) = (child.ident.to_string(), child.ident.span().start().line);
            let module = Module::new(Some(id), name, file, line);
            let below = format!("{folder}/{}", module.name);
            match child.content {
                Some((_, items)) => self.read_module(&below, module, items),
                None => {
                    if let Some(path) = self.file_of(&below) {
                        self.read_file(&path, module);
                    }
                }
            }
        }
    }

    /// Returns the file of the module `below`: `src/a.rs` or `src/a/mod.rs`.
    fn file_of(&self, below: &str) -> Option<String> {
        [format!("{below}.rs"), format!("{below}/mod.rs")].into_iter().find(|path| self.root.join(path).is_file())
    }

    /// Notes the files of modules that only tests compile. Inside such a module, all are.
    fn read_test_modules(&mut self, folder: &str, items: &[Item], inside: bool) {
        for item in items {
            if let Item::Mod(module) = item {
                let below = format!("{folder}/{}", module.ident);
                let inside = inside || !is_kept(&module.attrs);
                match &module.content {
                    Some((_, items)) => self.read_test_modules(&below, items, inside),
                    None if inside => {
                        if let Some(path) = self.file_of(&below) {
                            self.read_tests(&path);
                        }
                    }
                    None => {}
                }
            }
        }
    }

    fn read_tests(&mut self, path: &str) {
        self.tests.push(path.to_string());
        let (_, parsed) = self.parse(path);
        self.read_test_modules(&folder_of(path), &parsed.items, true);
    }
}

impl Module {
    fn new(parent: Option<usize>, name: String, file: usize, line: usize) -> Self {
        let (names, imports, paths, items) = Default::default();
        Self { parent, name, file, line, names, imports, paths, items }
    }

    pub fn name(&mut self, name: &str, what: Name) {
        self.names.entry(name.to_string()).or_default().push(what);
    }
}

/// Returns the folder of the modules that the file `path` declares.
fn folder_of(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap();
    match name {
        "mod.rs" | "lib.rs" => folder.to_string(),
        name => format!("{folder}/{}", name.trim_end_matches(".rs")),
    }
}

/// Returns whether an item with this attribute is compiled for tests only: `cfg(test)`, `cfg(all(test, ..))`.
fn is_for_tests(attribute: &Attribute) -> bool {
    matches!(&attribute.meta, Meta::List(list) if list.path.is_ident("cfg") && needs_test(list.tokens.clone()))
}

/// Returns whether the condition of a `cfg` holds in tests only.
fn needs_test(condition: TokenStream) -> bool {
    let tokens: Vec<_> = condition.into_iter().collect();
    match tokens.as_slice() {
        [TokenTree::Ident(word)] => word == "test",
        [TokenTree::Ident(word), TokenTree::Group(group)] => {
            let mut parts = vec![TokenStream::new()];
            for token in group.stream() {
                match token {
                    TokenTree::Punct(comma) if comma.as_char() == ',' => parts.push(TokenStream::new()),
                    token => parts.last_mut().unwrap().extend([token]),
                }
            }
            parts.retain(|part| !part.is_empty());
            match word.to_string().as_str() {
                "all" => parts.into_iter().any(needs_test),
                "any" => !parts.is_empty() && parts.into_iter().all(needs_test),
                _ => false,
            }
        }
        _ => false,
    }
}

/// Removes what only tests compile and all documentation.
struct WithoutTests;

fn is_kept(attributes: &[Attribute]) -> bool {
    !attributes.iter().any(is_for_tests)
}

/// Returns whether `node`, which begins with its attributes, is compiled outside tests.
fn is_code(node: &impl ToTokens) -> bool {
    let outer = |input: syn::parse::ParseStream| {
        let attributes = input.call(Attribute::parse_outer)?;
        input.parse::<TokenStream>()?;
        Ok(attributes)
    };
    let attributes = syn::parse::Parser::parse2(outer, node.to_token_stream());
    is_kept(&attributes.unwrap_or_default())
}

impl VisitMut for WithoutTests {
    fn visit_file_mut(&mut self, file: &mut syn::File) {
        file.items.retain(is_code);
        visit_mut::visit_file_mut(self, file);
    }

    fn visit_item_mod_mut(&mut self, module: &mut syn::ItemMod) {
        if let Some((_, items)) = &mut module.content {
            items.retain(is_code);
        }
        visit_mut::visit_item_mod_mut(self, module);
    }

    fn visit_item_impl_mut(&mut self, block: &mut syn::ItemImpl) {
        block.items.retain(is_code);
        visit_mut::visit_item_impl_mut(self, block);
    }

    fn visit_item_trait_mut(&mut self, block: &mut syn::ItemTrait) {
        block.items.retain(is_code);
        visit_mut::visit_item_trait_mut(self, block);
    }

    fn visit_block_mut(&mut self, block: &mut syn::Block) {
        block.stmts.retain(is_code);
        visit_mut::visit_block_mut(self, block);
    }

    fn visit_expr_match_mut(&mut self, expression: &mut syn::ExprMatch) {
        expression.arms.retain(|arm| is_kept(&arm.attrs));
        visit_mut::visit_expr_match_mut(self, expression);
    }

    fn visit_attributes_mut(&mut self, attributes: &mut Vec<Attribute>) {
        attributes.retain(|attribute| !attribute.path().is_ident("doc"));
    }
}
