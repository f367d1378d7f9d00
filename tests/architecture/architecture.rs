//! The laws of the source tree: levels, wings, no circles, and what the library's code must not do.

mod circles;
mod faults;
mod laws;
mod names;
mod scan;
mod tree;

use std::path::{Path, PathBuf};

use laws::{LAWS, Tables};
use tree::Tree;

const TABLES: Tables = Tables {
    levels: &[
        ("error", 0),
        ("config", 1),
        ("files", 1),
        ("memory", 1),
        ("ranks", 1),
        ("rows", 1),
        ("shape", 1),
        ("checkpoint", 2),
        ("kernel", 2),
        ("rng", 2),
        ("tokenizer", 2),
        ("data", 3),
        ("device", 3),
        ("dropout", 3),
        ("hub", 3),
        ("init", 3),
        ("embedding", 4),
        ("optim", 4),
        ("position", 4),
        ("lm_head", 5),
        ("nn", 5),
        ("input_layer", 6),
        ("vocab_parallel", 6),
        ("guide", 7),
    ],
    wings: (
        "src/kernel",
        &[("core", 0), ("ids", 1), ("gather", 2), ("stored", 2), ("product", 2), ("step", 2), ("attention", 2)],
    ),
    launches: (&["cuda", "metal"], 1),
    facades: &["src/lib.rs", "src/kernel/mod.rs"],
    may_be_unsafe: &["src/kernel/", "src/memory.rs", "src/rng/normal.rs", "src/files/map.rs"],
    // A pre-release whose interface may still change, the network, the operating system, Metal.
    crates: &[
        ("tokenizers", "tokenizer"),
        ("ureq", "hub"),
        ("ring", "hub"),
        ("libc", "memory"),
        ("rustix", "files"),
        ("ferrompi", "ranks"),
        ("candle_metal_kernels", "kernel"),
        ("objc2", "kernel"),
        ("objc2_metal", "kernel"),
    ],
    programs: &["src/kernel/cuda/build.rs"],
    root: &[
        "Cargo.toml",
        "Cargo.toml.orig",
        "Cargo.lock",
        "README.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "src",
        "examples",
        "tests",
        "weights",
        "target",
    ],
};

/// Returns the root of the checkout that the test runs in: another may have built it.
fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../..")
}

/// Returns every offence, as `file:line: what`.
fn offences(root: &Path, tables: &Tables) -> Vec<String> {
    let tree = Tree::read(root);
    LAWS.iter().flat_map(|law| law(&tree, tables)).map(|offence| offence.to_string()).collect()
}

#[test]
fn the_crate_keeps_every_law() {
    let offences = offences(&root(), &TABLES);
    assert!(offences.is_empty(), "{} offences:\n{}", offences.len(), offences.join("\n"));
}

#[test]
fn all_of_the_crate_is_read() {
    let tree = Tree::read(&root());
    let between = tree
        .references
        .iter()
        .filter(|reference| reference.defined.iter().any(|module| tree.file(*module).path != reference.from));
    let n_between = between.count();
    assert!(tree.files.len() > 120, "{} files", tree.files.len());
    assert!(n_between > 1000, "only {n_between} references between files are found: are they still read?");
}
