//! What the documents say of the repository: links, lengths, what they must name.

mod markdown;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use markdown::{Document, code_spans, documents, root};

/// The most that the front page may have: lines, bytes.
const README: (usize, usize) = (200, 12_000);

#[test]
fn links_lead_somewhere() {
    let documents = documents();
    let mut dead = Vec::new();
    for document in &documents {
        for link in document.links() {
            if let Some(why) = fault(document, &link.target, &documents) {
                dead.push(format!("{}:{}: {}: {why}", document.path, link.line, link.target));
            }
        }
    }
    assert!(dead.is_empty(), "{} dead links:\n{}", dead.len(), dead.join("\n"));
}

/// Why a link leads nowhere. Those out of the repository are not followed, and rustdoc checks those to items.
fn fault(document: &Document, target: &str, documents: &[Document]) -> Option<&'static str> {
    if ["https://", "http://", "mailto:"].iter().any(|scheme| target.starts_with(scheme)) || target.contains("::") {
        return None;
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let file = match path {
        "" => root().join(&document.path),
        path => document.folder().join(path),
    };
    let Ok(file) = file.canonicalize() else { return Some("no such file") };
    if !file.starts_with(root().canonicalize().unwrap()) {
        return Some("outside the repository");
    }
    let anchor = anchor?;
    let of_file = |document: &&Document| root().join(&document.path).canonicalize().unwrap() == file;
    match documents.iter().find(of_file) {
        Some(document) if document.anchors().iter().any(|heading| heading == anchor) => None,
        Some(_) => Some("no such heading"),
        None => Some("an anchor in what is no document"),
    }
}

/// In the documentation the README's links lead to items: the definitions there come first.
#[test]
fn links_of_the_front_page_are_items_in_the_documentation() {
    let labels = |text: &str| -> BTreeSet<String> {
        let is_definition = |line: &&str| line.starts_with('[') && line.contains("]: ");
        text.lines().filter(is_definition).map(|line| line.split_once("]: ").unwrap().0.to_string()).collect()
    };
    let of_readme = labels(&documents()[0].text);
    assert!(of_readme.len() > 10);
    assert_eq!(of_readme, labels(&fs::read_to_string(root().join("src/guide/links.md")).unwrap()));
    let inline = |link: &markdown::Link| !link.target.contains("//") && !link.target.starts_with("src/");
    assert!(!documents()[0].links().iter().any(inline), "a relative link without a definition");
}

#[test]
fn the_front_page_is_short() {
    let readme = &documents()[0].text;
    let found = (readme.lines().count(), readme.len());
    assert!(found.0 <= README.0 && found.1 <= README.1, "{found:?} lines and bytes: at most {README:?}");
}

/// Names of the entries of a folder that `is_wanted` takes.
fn entries(folder: &str, is_wanted: impl Fn(&Path) -> bool) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_string();
    entries.filter(|path| is_wanted(path)).map(|path| name(&path)).collect()
}

/// The document `path`, which must exist.
fn document(path: &str) -> Document {
    documents().into_iter().find(|document| document.path == path).unwrap_or_else(|| panic!("there is no {path}"))
}

#[test]
fn every_example_has_a_readme() {
    let index = document("examples/README.md").text;
    let examples = entries("examples", |path| path.join("main.rs").is_file());
    assert!(examples.len() > 10, "{examples:?}");
    for name in examples {
        let readme = document(&format!("examples/{name}/README.md")).text;
        assert!(readme.starts_with(&format!("# {name}\n")), "{name}");
        assert!(readme.contains(&format!("--example {name}")), "{name}");
        assert!(index.contains(&format!("[`{name}`]({name}/README.md)")), "{name}");
    }
}

#[test]
fn the_page_on_tests_names_everything() {
    let text = document("tests/README.md").text;
    let folders = entries("tests", |path| path.is_dir());
    let scripts = entries("tests/golden", |path| path.extension().is_some_and(|extension| extension == "py"));
    assert!(folders.len() > 10 && scripts.len() > 10);
    for name in folders.iter().chain(&scripts) {
        assert!(text.contains(&format!("`{name}`")) || text.contains(&format!("({name}/README.md)")), "{name}");
    }
}

/// Variables that sources of tests read, but for those that a test sets for a process of its own or that cargo sets.
#[test]
fn every_variable_is_explained() {
    let explained = ["tests/README.md", "tests/cuda_host/README.md"].map(|path| document(path).text).concat();
    let mut files = vec![root().join("src/tests.rs")];
    let mut folders = vec![root().join("tests")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    let is_source = |path: &&std::path::PathBuf| {
        path.extension().is_some_and(|extension| ["rs", "cpp", "h"].iter().any(|known| extension == *known))
    };
    let mut variables = BTreeSet::new();
    for text in files.iter().filter(is_source).map(|path| fs::read_to_string(path).unwrap()) {
        for call in ["env::var(\"", "env::var_os(\"", "getenv(\""] {
            variables.extend(text.split(call).skip(1).map(|rest| rest.split('"').next().unwrap().to_string()));
        }
    }
    assert!(variables.len() > 5, "{variables:?}");
    let unexplained: Vec<_> = variables
        .iter()
        .filter(|name| !name.starts_with("CARGO_MANIFEST_") && !explained.contains(&format!("`{name}")))
        .collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
}

#[test]
fn documents_are_read() {
    let text = "# A `b` c!\n[x](y.md#z \"title\") and `[no](no)`\n```sh\n[no](no)\n## no\n```\n## A b c\n![p\nq](r.png)\n[`x`]: s\n";
    let document = Document { path: "d.md".to_string(), text: text.to_string() };
    assert_eq!(document.anchors(), ["a-b-c", "a-b-c-1"]);
    let links: Vec<_> = document.links().into_iter().map(|link| (link.line, link.target)).collect();
    assert_eq!(links, [(2, "y.md#z".to_string()), (9, "r.png".to_string()), (10, "s".to_string())]);
    let blocks = document.blocks();
    assert_eq!((blocks.len(), blocks[0].line, blocks[0].heading), (1, 4, 1));
    assert_eq!((blocks[0].language.as_str(), blocks[0].text.as_str()), ("sh", "[no](no)\n## no\n"));
    assert_eq!(code_spans("a `b` c `d`").collect::<Vec<_>>(), ["b", "d"]);
}
