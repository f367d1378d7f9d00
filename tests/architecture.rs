//! The layers of the crate: an import points to a strictly lower level, and siblings never import each other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Level of each module; a module may import those of lower levels only.
const LEVELS: &[(&str, u8)] = &[
    ("error", 0),
    ("config", 1),
    ("device", 1),
    ("memory", 1),
    ("rows", 1),
    ("shape", 1),
    ("kernel", 2),
    ("checkpoint", 2),
    ("rng", 2),
    ("tokenizer", 2),
    ("data", 3),
    ("dropout", 3),
    ("hub", 3),
    ("init", 3),
    ("embedding", 4),
    ("optim", 4),
    ("position", 4),
    ("lm_head", 5),
    ("input_layer", 6),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The library's files: no unit tests, and no build script, which is a program of its own.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension)
            && !path.ends_with("tests.rs")
            && !path.ends_with("src/kernel/cuda/build.rs")
        {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The module that a file of `src` belongs to: `src/kernel/ids.rs` to `kernel`.
fn module_of(file: &Path) -> String {
    let below = file.strip_prefix(root().join("src")).unwrap();
    below.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_string()
}

fn level(module: &str) -> u8 {
    let found = LEVELS.iter().find(|(name, _)| *name == module);
    found.unwrap_or_else(|| panic!("module `{module}` has no level: add it to LEVELS")).1
}

/// Code without comments (doc examples may use the whole crate), and without the unit tests at the end of a file.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let code = text.lines().take_while(|line| *line != "#[cfg(test)]");
    code.filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Modules named as `crate::x` or in `use crate::{x, y}`.
fn imports(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (index, _) in code.match_indices("crate::") {
        let rest = &code[index + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                let group = &group[..group.find('}').unwrap()];
                found.extend(group.split(',').map(|name| word(name.trim())).filter(|name| !name.is_empty()));
            }
            None => {
                found.insert(word(rest));
            }
        }
    }
    found
}

#[test]
fn imports_point_down() {
    let mut offences = Vec::new();
    let mut n_imports = 0;
    for file in files(&root().join("src"), "rs") {
        let module = module_of(&file);
        if module == "lib" {
            continue;
        }
        for import in imports(&code(&file)) {
            // `crate::Error` and the like: root exports are named by the module that they come from.
            assert!(import.starts_with(char::is_lowercase), "{}: import `{import}` from its module", file.display());
            n_imports += 1;
            if import != module && level(&import) >= level(&module) {
                offences.push(format!("{}: {module} (level {}) imports {import}", file.display(), level(&module)));
            }
        }
    }
    assert!(n_imports > 20, "only {n_imports} imports found: is this test still reading them?");
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn every_import_form_is_seen() {
    let code = "use crate::error::Result;\nuse crate::{config, kernel::gather};\nlet x = crate::position::f();";
    let found: Vec<_> = imports(code).into_iter().collect();
    assert_eq!(found, ["config", "error", "kernel", "position"]);
}

/// A pre-release whose interface may still change: one module knows it.
#[test]
fn the_tokenizers_crate_stays_in_the_tokenizer() {
    for file in files(&root().join("src"), "rs") {
        let imports_it = code(&file).contains("tokenizers::");
        assert!(!imports_it || module_of(&file) == "tokenizer", "{} imports tokenizers", file.display());
    }
}

/// Files that may contain `unsafe`.
const UNSAFE: &[&str] = &["src/kernel/", "src/memory.rs", "src/rng/normal.rs", "src/checkpoint/mapped.rs"];

#[test]
fn unsafe_stays_where_it_is_allowed() {
    for file in files(&root().join("src"), "rs") {
        let below = file.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
        if !UNSAFE.iter().any(|allowed| below.starts_with(allowed)) {
            assert!(!code(&file).contains("unsafe "), "{below} contains unsafe code");
        }
    }
}

#[test]
fn the_library_neither_prints_nor_panics() {
    for file in files(&root().join("src"), "rs") {
        let code = code(&file);
        for word in [".unwrap()", ".expect(", "println!", "panic!(", "todo!", "unimplemented!", "dims()["] {
            assert!(!code.contains(word), "{} contains {word}", file.display());
        }
    }
}

#[test]
fn nothing_else_lies_in_the_root() {
    let agreed = ["Cargo.toml", "Cargo.lock", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];
    let folders = ["src", "examples", "tests", "weights", "target"];
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = agreed.contains(&name.as_str()) || folders.contains(&name.as_str()) || name.starts_with('.');
        assert!(known, "`{name}` lies in the root");
    }
}
