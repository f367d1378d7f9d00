//! What the crate brings to dependents: licences, the compiler it needs, and the dependencies a feature leaves out.

mod licences;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Returns the output of a cargo command, run without the network.
fn cargo(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).args(["--offline", "--locked"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Reads a file of the repository.
fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not text"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is not a list"))
}

/// Returns this package, and those that the library is built with on any target and with any features.
fn packages() -> (Value, Vec<Value>) {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--all-features"])).unwrap();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"]["nodes"]).iter().map(|node| (text(&node["id"]), node)).collect();
    let root = text(&metadata["resolve"]["root"]);
    let (mut found, mut open) = (BTreeSet::new(), vec![root]);
    while let Some(id) = open.pop() {
        if found.insert(id) {
            let is_normal =
                |dependency: &&Value| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
            open.extend(list(&nodes[id]["deps"]).iter().filter(is_normal).map(|dependency| text(&dependency["pkg"])));
        }
    }
    let (ours, others): (Vec<_>, Vec<_>) = list(&metadata["packages"])
        .iter()
        .filter(|package| found.contains(text(&package["id"])))
        .cloned()
        .partition(|package| text(&package["id"]) == root);
    assert!(others.len() > 100, "{} packages", others.len());
    (ours[0].clone(), others)
}

#[test]
fn every_licence_is_allowed() {
    let allowed = licences::Allowed::read(&read(".deny.toml"));
    let offends = |package: &&Value| {
        !package["license"].as_str().is_some_and(|licence| allowed.takes(text(&package["name"]), licence))
    };
    let (_, packages) = packages();
    let offences: Vec<_> =
        packages.iter().filter(offends).map(|package| format!("{} {}", package["name"], package["license"])).collect();
    assert!(offences.is_empty(), "{offences:#?}");
    let is_needed = |name: &&String| packages.iter().any(|package| package["name"] == **name);
    assert_eq!(allowed.exceptions().filter(|name| !is_needed(name)).count(), 0, "an exception that nothing needs");
}

/// Splits a version such as `1.89.0` into numbers.
fn version(text: &str) -> Vec<u64> {
    let mut numbers: Vec<_> = text.split('.').map(|number| number.parse().unwrap()).collect();
    numbers.resize(3, 0);
    numbers
}

#[test]
fn no_dependency_needs_a_later_compiler() {
    let (ours, packages) = packages();
    let promised = version(text(&ours["rust_version"]));
    let needs_later =
        |package: &&Value| package["rust_version"].as_str().is_some_and(|needed| version(needed) > promised);
    let later: Vec<_> = packages
        .iter()
        .filter(needs_later)
        .map(|package| format!("{} {}", package["name"], package["rust_version"]))
        .collect();
    assert!(later.is_empty(), "Cargo.toml promises {promised:?}: {later:#?}");
}

/// Returns the compiler versions, such as `1.89`, that `file` names after `before`.
fn compilers(file: &str, before: &str) -> Vec<String> {
    let text = read(file);
    let places = text.match_indices(before).map(|(at, _)| &text[at + before.len()..]);
    let number = |rest: &str| rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect::<String>();
    places.map(number).filter(|version| version.starts_with("1.")).collect()
}

#[test]
fn the_compiler_is_the_same_wherever_it_is_named() {
    let (ours, _) = packages();
    assert_eq!(compilers("README.md", "Rust ≥ "), [text(&ours["rust_version"])]);
    // The workflow reads it from Cargo.toml.
    let workflow = ".github/workflows/ci.yml";
    assert!(read(workflow).contains("s/^rust-version = "), "{workflow} does not ask for it");
    for before in [" ", "\"", "+", "@"] {
        assert_eq!(compilers(workflow, before), [""; 0], "{workflow}");
    }
}

/// Any new pre-release may break this crate.
#[test]
fn tokenizers_is_pinned() {
    let (ours, _) = packages();
    let tokenizers = list(&ours["dependencies"]).iter().find(|dependency| dependency["name"] == "tokenizers").unwrap();
    assert!(text(&tokenizers["req"]).starts_with('='), "{}", tokenizers["req"]);
}

/// Returns the packages that the library is built from.
fn tree(arguments: &[&str]) -> BTreeSet<String> {
    let fixed = ["tree", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let tree = cargo(&[&fixed, arguments].concat());
    tree.lines().map(|line| line.trim_end_matches(" (*)").to_string()).collect()
}

/// Users with ids of their own do not build our tokenizer. (Candle depends on another version.)
#[test]
fn without_the_feature_only_the_tokenizer_is_left_out() {
    let (all, without) = (tree(&[]), tree(&["--no-default-features"]));
    let ours = all.iter().find(|package| package.starts_with("tokenizers v1.")).expect("the feature is on by default");
    let brought = tree(&["--package", &ours.replace(" v", "@")]);
    let left_out: BTreeSet<_> = all.difference(&without).cloned().collect();
    assert!(left_out.contains(ours), "{ours} is still there");
    assert!(left_out.is_subset(&brought), "{:#?}", left_out.difference(&brought).collect::<Vec<_>>());
    assert!(without.is_subset(&all), "{:#?}", without.difference(&all).collect::<Vec<_>>());
}
