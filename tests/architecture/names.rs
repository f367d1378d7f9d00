//! Finds where a named item is defined, through imports and re-exports.

use std::collections::BTreeSet;

use crate::scan::{Import, Name, Path};
use crate::tree::{File, Tree};

/// One place in the code that names an item of this crate.
pub struct Reference {
    /// The path of the file.
    pub from: String,
    pub line: usize,
    /// The path as it is written.
    pub text: String,
    /// Modules that the written path ends in.
    pub through: BTreeSet<usize>,
    /// Modules in which the item is defined.
    pub defined: BTreeSet<usize>,
    /// Whether it only re-exports an item, in the file of a folder.
    pub is_facade: bool,
}

/// What a path leads to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Module(usize),
    /// An item of this module.
    Item(usize),
}

/// The names being looked up. The imports of a name that occurs again lead nowhere.
type Open = Vec<(usize, String)>;

impl Tree {
    /// Returns every import and path of the library's code.
    pub fn find_references(&self) -> Vec<Reference> {
        let mut found = Vec::new();
        for (id, module) in self.modules.iter().enumerate() {
            found.extend(module.imports.iter().map(|import| self.import(id, import)));
            found.extend(module.paths.iter().map(|path| self.path(id, path)));
        }
        found
    }

    /// Returns the module directly below the crate's root that holds this one, or "" for the root itself.
    pub fn top(&self, mut module: usize) -> &str {
        while let Some(parent) = self.modules[module].parent {
            if parent == 0 {
                return &self.modules[module].name;
            }
            module = parent;
        }
        ""
    }

    pub fn file(&self, module: usize) -> &File {
        &self.files[self.modules[module].file]
    }

    fn import(&self, from: usize, import: &Import) -> Reference {
        let mut reference = self.reference(from, &import.path, import.line);
        reference.is_facade = import.is_public && self.file(from).is_facade();
        if import.is_glob {
            reference.text.push_str("::*");
            // All that the module exports may be meant.
            for module in reference.through.clone() {
                reference.defined.insert(module);
                for name in self.modules[module].names.keys() {
                    reference.defined.extend(items(&self.look_up(module, name, &mut Open::new())));
                }
            }
        }
        reference
    }

    fn path(&self, from: usize, path: &Path) -> Reference {
        let mut reference = self.reference(from, &path.segments, path.line);
        if path.is_macro && reference.defined.is_empty() {
            // Below its module a macro is known without an import.
            let mut above = self.modules[from].parent;
            while let Some(module) = above {
                let names = self.modules[module].names.get(&path.segments[0]);
                if names.into_iter().flatten().any(|name| matches!(name, Name::Macro)) {
                    reference.defined.insert(module);
                    break;
                }
                above = self.modules[module].parent;
            }
        }
        reference
    }

    fn reference(&self, from: usize, path: &[String], line: usize) -> Reference {
        let (mut through, mut targets) = (BTreeSet::new(), BTreeSet::new());
        for end in 1..=path.len() {
            targets = self.follow(from, &path[..end], &mut Open::new());
            let modules: BTreeSet<_> = modules(&targets).collect();
            if !modules.is_empty() {
                through = modules;
            }
        }
        let defined = items(&targets).collect();
        Reference {
            from: self.file(from).path.clone(),
            line,
            text: path.join("::"),
            through,
            defined,
            is_facade: false,
        }
    }

    /// Returns where `path` leads from the module `from`: nowhere if it begins with another crate or a local name.
    fn follow(&self, from: usize, path: &[String], open: &mut Open) -> BTreeSet<Target> {
        let parent = |module: usize| self.modules[module].parent.unwrap_or(0);
        let [first, rest @ ..] = path else { return BTreeSet::from([Target::Module(from)]) };
        let mut targets = match first.as_str() {
            "crate" => BTreeSet::from([Target::Module(0)]),
            "self" => BTreeSet::from([Target::Module(from)]),
            "super" => BTreeSet::from([Target::Module(parent(from))]),
            name => self.look_up(from, name, open),
        };
        for word in rest {
            let mut next = BTreeSet::new();
            for target in targets {
                match target {
                    Target::Module(module) if word == "super" => next.extend([Target::Module(parent(module))]),
                    Target::Module(module) => {
                        let found = self.look_up(module, word, open);
                        // An item that a macro defines belongs to the module that calls the macro.
                        next.extend(if found.is_empty() { BTreeSet::from([Target::Item(module)]) } else { found });
                    }
                    item => next.extend([item]),
                }
            }
            targets = next;
        }
        targets
    }

    /// Returns what `name` stands for in `module`.
    fn look_up(&self, module: usize, name: &str, open: &mut Open) -> BTreeSet<Target> {
        let place = (module, name.to_string());
        let is_open = open.contains(&place);
        open.push(place);
        let mut found = BTreeSet::new();
        for named in self.modules[module].names.get(name).into_iter().flatten() {
            match named {
                Name::Item | Name::Macro => found.extend([Target::Item(module)]),
                Name::Module(child) => found.extend([Target::Module(*child)]),
                Name::Import(path) if !is_open => found.extend(self.follow(module, path, open)),
                Name::Import(_) => {}
            }
        }
        if found.is_empty() && !is_open {
            for glob in self.modules[module].imports.iter().filter(|import| import.is_glob) {
                for shown in modules(&self.follow(module, &glob.path, open)) {
                    found.extend(self.look_up(shown, name, open));
                }
            }
        }
        open.pop();
        found
    }
}

fn modules(targets: &BTreeSet<Target>) -> impl Iterator<Item = usize> {
    targets.iter().filter_map(|target| match target {
        Target::Module(module) => Some(*module),
        Target::Item(_) => None,
    })
}

fn items(targets: &BTreeSet<Target>) -> impl Iterator<Item = usize> {
    targets.iter().filter_map(|target| match target {
        Target::Item(module) => Some(*module),
        Target::Module(_) => None,
    })
}
