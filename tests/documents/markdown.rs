//! The Markdown of the repository: its documents, their code blocks, tables, headings and links.

#![allow(dead_code)] // each test binary uses its own part

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where documents lie beside README.md. The pages in `src` are rustdoc's.
const FOLDERS: [&str; 3] = ["examples", "tests", "weights"];

pub struct Document {
    /// Below the root, with slashes.
    pub path: String,
    pub text: String,
}

/// A fenced block of code.
pub struct Block {
    /// Of its first line, from 1.
    pub line: usize,
    /// What stands behind the fence.
    pub language: String,
    pub text: String,
    /// The heading it stands below, by its line; 0 above all of them.
    pub heading: usize,
}

pub struct Link {
    pub line: usize,
    pub target: String,
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every document, README.md first.
pub fn documents() -> Vec<Document> {
    let mut paths = Vec::new();
    let mut folders: Vec<PathBuf> = FOLDERS.map(|folder| root().join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|extension| extension == "md") => paths.push(path),
                false => {}
            }
        }
    }
    paths.sort();
    paths.insert(0, root().join("README.md"));
    paths.iter().map(|path| Document::read(path)).collect()
}

impl Document {
    fn read(path: &Path) -> Self {
        let names = path.strip_prefix(root()).unwrap().iter().map(|name| name.to_str().unwrap());
        Self { path: names.collect::<Vec<_>>().join("/"), text: fs::read_to_string(path).unwrap() }
    }

    /// The folder it lies in.
    pub fn folder(&self) -> PathBuf {
        root().join(&self.path).parent().unwrap().to_path_buf()
    }

    /// The text without its blocks of code, whose lines are empty here; and the blocks.
    fn parts(&self) -> (Vec<&str>, Vec<Block>) {
        let (mut prose, mut blocks) = (Vec::new(), Vec::new());
        let (mut open, mut heading) = (None::<Block>, 0);
        for (line, text) in (1..).zip(self.text.lines()) {
            match (&mut open, text.strip_prefix("```")) {
                (None, Some(language)) => {
                    let language = language.split(',').next().unwrap().to_string();
                    open = Some(Block { line: line + 1, language, text: String::new(), heading });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => block.text.extend([text, "\n"]),
                (None, None) if text.starts_with('#') => heading = line,
                (None, None) => {}
            }
            let is_prose = open.is_none() && !text.starts_with("```");
            prose.push(if is_prose { text } else { "" });
        }
        assert!(open.is_none(), "{}: a block of code that does not end", self.path);
        (prose, blocks)
    }

    pub fn blocks(&self) -> Vec<Block> {
        self.parts().1
    }

    /// Lines outside blocks of code, with their numbers.
    pub fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.parts().0)
    }

    /// What `#anchor` may name: headings as GitHub and rustdoc write them there.
    pub fn anchors(&self) -> Vec<String> {
        let mut seen = BTreeMap::new();
        let headings = self.prose().filter_map(|(_, line)| line.strip_prefix('#'));
        let anchor = |heading: &str| {
            let words = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
            let anchor = words.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect::<String>();
            let n_before = seen.entry(anchor.clone()).or_insert(0);
            *n_before += 1;
            if *n_before == 1 { anchor } else { format!("{anchor}-{}", *n_before - 1) }
        };
        headings.map(anchor).collect()
    }

    /// Targets of `[..](target)`, of `[..]: target`, and of `src` and `href` in HTML.
    pub fn links(&self) -> Vec<Link> {
        let prose = without_code(&self.parts().0.join("\n"));
        let mut links = Vec::new();
        for start in ["](", "]: ", "src=\"", "href=\""] {
            for (at, _) in prose.match_indices(start) {
                let line = 1 + prose[..at].matches('\n').count();
                let is_definition = prose[..at].rsplit('\n').next().is_some_and(|label| label.starts_with('['));
                if start == "]: " && !is_definition {
                    continue;
                }
                let rest = &prose[at + start.len()..];
                let end = rest.find(|c: char| c.is_whitespace() || [')', '"'].contains(&c)).unwrap_or(rest.len());
                links.push(Link { line, target: rest[..end].trim_matches(['<', '>']).to_string() });
            }
        }
        links
    }
}

/// Blanks what stands between backticks.
fn without_code(text: &str) -> String {
    let mut is_code = false;
    let blank = |c: char| {
        is_code ^= c == '`';
        if is_code && c != '\n' { ' ' } else { c }
    };
    text.chars().map(blank).collect()
}

/// What stands between backticks in a line.
pub fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}
