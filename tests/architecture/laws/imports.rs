//! Which modules may import which.

use std::collections::{BTreeMap, BTreeSet};

use super::{Offence, Tables, once, top_of};
use crate::circles::{Circle, Graph, circles};
use crate::names::Reference;
use crate::tree::Tree;

fn at(reference: &Reference, what: String) -> Offence {
    Offence { path: reference.from.clone(), line: reference.line, what }
}

/// Returns the modules that a reference touches: where its path ends, and where the item is defined.
fn touched<'a>(reference: &'a Reference) -> impl Iterator<Item = usize> + 'a {
    reference.through.union(&reference.defined).copied()
}

/// Finds imports that do not point to a strictly lower level, or that name a root export instead of its module.
pub fn imports_point_down(tree: &Tree, tables: &Tables) -> Vec<Offence> {
    let level = |module: &str| tables.levels.iter().find(|(name, _)| *name == module).map(|(_, level)| *level);
    let mut offences = Vec::new();
    for module in tree.modules.iter().filter(|module| module.parent == Some(0)) {
        if level(&module.name).is_none() {
            let what = format!("module `{}` has no level", module.name);
            offences.push(Offence { path: tree.file(0).path.clone(), line: module.line, what });
        }
    }
    for reference in &tree.references {
        let importing = top_of(&reference.from);
        let Some(own) = level(importing) else { continue };
        if let [root, name] = reference.text.split("::").collect::<Vec<_>>().as_slice()
            && *root == "crate"
            && reference.through.contains(&0)
        {
            offences.push(at(reference, format!("imports `{name}` from the root instead of its module")));
            continue;
        }
        for module in touched(reference).map(|module| tree.top(module)).collect::<BTreeSet<_>>() {
            if let Some(other) = level(module)
                && module != importing
                && other >= own
            {
                let what = format!("`{importing}` (level {own}) imports `{module}` (level {other})");
                offences.push(at(reference, what));
            }
        }
    }
    once(offences)
}

/// Returns the folder below `folder` that a file lies in: `ids` of `src/kernel/ids/check.rs`.
fn wing_of<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    let below = path.strip_prefix(folder)?.strip_prefix('/')?;
    below.split_once('/').map(|(wing, _)| wing)
}

/// Finds wings that import wings of the same or a higher level.
pub fn wings_do_not_import_each_other(tree: &Tree, tables: &Tables) -> Vec<Offence> {
    let (folder, levels) = tables.wings;
    let level = |wing: &str| levels.iter().find(|(name, _)| *name == wing).map(|(_, level)| *level);
    let mut offences = Vec::new();
    for file in &tree.files {
        let in_folder = file.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/') && rest != "/mod.rs");
        let wing = wing_of(&file.path, folder);
        if in_folder && !wing.is_some_and(|wing| tables.launches.0.contains(&wing) || level(wing).is_some()) {
            let what = format!("lies in no wing of {folder}");
            offences.push(Offence { path: file.path.clone(), line: 1, what });
        }
    }
    for reference in &tree.references {
        let Some((wing, own)) = wing_of(&reference.from, folder).and_then(|wing| Some((wing, level(wing)?))) else {
            continue;
        };
        let others: BTreeSet<_> =
            touched(reference).filter_map(|module| wing_of(&tree.file(module).path, folder)).collect();
        for other in others {
            if other != wing && level(other).is_some_and(|level| level >= own) {
                let what = format!("wing `{wing}` imports wing `{other}`");
                offences.push(at(reference, what));
            }
        }
    }
    once(offences)
}

/// Finds launches that more than one file of a wing imports, and launches that import such a file.
pub fn launches_are_imported_in_one_file_of_a_wing(tree: &Tree, tables: &Tables) -> Vec<Offence> {
    let ((folder, levels), (launches, lowest)) = (tables.wings, tables.launches);
    let launch_of = |path: &str| launches.iter().copied().find(|launch| wing_of(path, folder) == Some(launch));
    let imported = |reference: &Reference| {
        let outside = launch_of(&reference.from).is_none();
        touched(reference).find_map(|module| launch_of(&tree.file(module).path)).filter(|_| outside)
    };
    let importing: Vec<_> =
        tree.references.iter().filter_map(|reference| Some((reference, imported(reference)?))).collect();
    let mut offences = Vec::new();
    for (reference, launches) in &importing {
        let path = reference.from.as_str();
        let wing = wing_of(path, folder).and_then(|wing| levels.iter().find(|(name, _)| *name == wing));
        match wing {
            Some((_, level)) if *level >= lowest => {}
            _ if path == format!("{folder}/mod.rs") && reference.is_facade => {}
            _ => offences.push(at(reference, format!("may not import `{launches}`"))),
        }
        let wing = wing_of(path, folder);
        let first = importing.iter().find(|(other, _)| wing.is_some() && wing_of(&other.from, folder) == wing);
        if let Some((first, _)) = first
            && first.from != path
        {
            let what = format!("imports `{launches}`, as {} does", first.from);
            offences.push(at(reference, what));
        }
    }
    for reference in tree.references.iter().filter(|reference| launch_of(&reference.from).is_some()) {
        for module in &reference.defined {
            let path = &tree.file(*module).path;
            if let Some((_, launches)) = importing.iter().find(|(other, _)| other.from == *path) {
                let what = format!("imports {path}, which imports `{launches}`");
                offences.push(at(reference, what));
            }
        }
    }
    once(offences)
}

/// Finds files that import each other, directly or through others. A facade does not import what it re-exports.
pub fn no_files_import_each_other_in_a_circle(tree: &Tree, _: &Tables) -> Vec<Offence> {
    let mut graph = Graph::new();
    let mut lines = BTreeMap::new();
    for reference in tree.references.iter().filter(|reference| !reference.is_facade) {
        let from = reference.from.as_str();
        for module in &reference.defined {
            let to = tree.file(*module).path.as_str();
            if to != from {
                graph.entry(from).or_default().push(to);
                lines.entry((from, to)).or_insert((reference.line, reference.text.as_str()));
            }
        }
    }
    let offence = |Circle { way, n_files }: Circle| {
        let steps: Vec<_> = (0..way.len()).map(|i| (way[i], way[(i + 1) % way.len()])).collect();
        let step = |(from, to): &(&str, &str)| {
            let (line, text) = lines[&(*from, *to)];
            format!("{from}:{line} `{text}`")
        };
        let steps_in_words = steps.iter().map(step).collect::<Vec<_>>().join(", ");
        let what = format!("a circle of {n_files} files, the shortest way: {steps_in_words}");
        Offence { path: way[0].to_string(), line: lines[&steps[0]].0, what }
    };
    circles(&graph).into_iter().map(offence).collect()
}
