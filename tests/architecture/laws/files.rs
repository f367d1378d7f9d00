//! Which files there are, and what they are called.

use std::fs;

use super::{Offence, Tables, once};
use crate::tree::Tree;

const BAD_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common"];

/// Finds facades that do more than declare modules and name what they export.
pub fn facades_only_show(tree: &Tree, tables: &Tables) -> Vec<Offence> {
    let mut offences = Vec::new();
    for module in &tree.modules {
        let file = &tree.files[module.file];
        if !tables.facades.contains(&file.path.as_str()) {
            continue;
        }
        let mut offence =
            |line, what: &str| offences.push(Offence { path: file.path.clone(), line, what: what.to_string() });
        for import in &module.imports {
            match import {
                import if import.is_glob => offence(import.line, "shows all of a module, by `*`"),
                import if !import.is_public => offence(import.line, "imports something for itself"),
                _ => {}
            }
        }
        for (name, line) in &module.items {
            offence(*line, &format!("defines `{name}`"));
        }
    }
    once(offences)
}

/// Finds `x.rs` beside `x/` (instead of `x/mod.rs`), and names that say nothing.
pub fn one_module_style(tree: &Tree, _: &Tables) -> Vec<Offence> {
    let mut offences = Vec::new();
    let files = tree.on_disk();
    for path in &files {
        let mut offence = |what: String| offences.push(Offence { path: path.clone(), line: 1, what });
        let stem = path.trim_end_matches(".rs");
        if files.iter().any(|other| other.starts_with(&format!("{stem}/"))) {
            offence(format!("lies beside {stem}/: it is to be {stem}/mod.rs"));
        }
        if let Some(name) = stem.split('/').find(|name| BAD_NAMES.contains(name)) {
            offence(format!("the name `{name}` says nothing"));
        }
    }
    for module in &tree.modules {
        let path = &tree.files[module.file].path;
        let is_inside = module.parent.is_some_and(|parent| tree.modules[parent].file == module.file);
        if is_inside && BAD_NAMES.contains(&module.name.as_str()) {
            let what = format!("the name `{}` says nothing", module.name);
            offences.push(Offence { path: path.clone(), line: module.line, what });
        }
    }
    offences
}

/// Finds files that belong neither to the library nor to its tests, and are not programs of their own.
pub fn every_file_is_read(tree: &Tree, tables: &Tables) -> Vec<Offence> {
    let is_known = |path: &String| {
        !path.ends_with(".rs")
            || tree.files.iter().any(|file| file.path == *path)
            || tree.tests.contains(path)
            || tables.programs.contains(&path.as_str())
    };
    let unknown = tree.on_disk().into_iter().filter(|path| !is_known(path));
    unknown.map(|path| Offence { path, line: 1, what: "is declared by no module".to_string() }).collect()
}

pub fn nothing_else_lies_in_the_root(tree: &Tree, tables: &Tables) -> Vec<Offence> {
    let names = fs::read_dir(&tree.root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let unknown = names.filter(|name| !name.starts_with('.') && !tables.root.contains(&name.as_str()));
    unknown.map(|path| Offence { path, line: 1, what: "lies in the root".to_string() }).collect()
}
