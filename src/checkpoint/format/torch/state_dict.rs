//! Finds the state dict among a pickle's dicts.
//!
//! A dict may be the state dict if it holds tensors, or dicts and lists that do. The keys under which
//! training scripts keep their model come first; then the only dict with an input table; then the only one with
//! parameter names. Among several the caller has to choose.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::budget::{Budget, MAX_NESTING};
use super::super::super::bytes::{Parse, invalid};
use super::super::super::role::Role;
use super::super::pickle::{Id, Key, Pickle, Seen, short};
use super::in_place::{InPlace, is_like_parameter};
use super::tensor::TensorCall;

/// Keys under which training scripts keep the state dict of their model.
const OF_MODEL: [&str; 4] = ["model", "state_dict", "model_state_dict", "module"];
/// How deep those may be nested.
const MAX_KNOWN: usize = 4;
/// How many state dicts an error or a report lists.
const MAX_LISTED: usize = 16;
/// The key by which an optimizer's state is known.
const PARAM_GROUPS: &str = "param_groups";
/// The longest key that may be part of a table's name.
const MAX_TABLE_KEY: usize = 256;

/// The state dict to read.
pub(super) struct Chosen {
    pub(super) id: Id,
    /// The keys that lead to it, joined by dots.
    pub(super) path: String,
    /// The paths of other state dicts.
    pub(super) others: Vec<String>,
    /// The dicts and lists inside it that hold tensors, at any depth, without those that are state dicts themselves.
    inside: BTreeSet<Id>,
}

impl Chosen {
    pub(super) fn is_inside(&self, id: Id) -> bool {
        self.inside.contains(&id)
    }
}

/// A dict or list on the way to tensors.
#[derive(Default)]
struct Node {
    /// The enclosing container, and its key there.
    parent: Option<Id>,
    key: String,
    children: Vec<Id>,
    /// Token tables in it and below it.
    n_tables: usize,
    /// Whether one of its own keys names a token table.
    has_table: bool,
    /// Whether it has parameter names: with a dot.
    has_names: bool,
    /// Whether it has named tensors itself.
    has_own: bool,
    /// Whether it or a container inside it has named tensors.
    has_tensors: bool,
    is_dict: bool,
    /// Whether it is an optimizer's: it has groups of parameters.
    is_optimizer: bool,
    /// Whether all that it holds was entered.
    is_whole: bool,
}

/// What a key says, which many dicts may share.
#[derive(Clone, Copy, Default)]
struct Said {
    is_table: bool,
    has_dot: bool,
}

/// The dicts and lists between the root of a pickle and its tensors. Each is entered once.
pub(super) struct Tree<'a> {
    budget: &'a Budget,
    pickle: &'a Pickle,
    nodes: BTreeMap<Id, Node>,
    /// The values that were looked at.
    seen: Seen,
    /// What the keys of tensors say.
    keys: BTreeMap<Id, Said>,
    /// The dicts whose key is part of a table's name: `{"wte": {"weight": …}}`.
    split_tables: Vec<Id>,
}

impl<'a> Tree<'a> {
    pub(super) fn of(budget: &'a Budget, pickle: &'a Pickle) -> Parse<Self> {
        let seen = Seen::of(budget, pickle.values().len())?;
        let (nodes, keys, split_tables) = Default::default();
        let mut tree = Self { budget, pickle, nodes, seen, keys, split_tables };
        tree.seen.insert(pickle.root());
        tree.enter(pickle.root(), None, String::new(), 0)?;
        Ok(tree)
    }

    /// Adds a container and all that it holds.
    fn enter(&mut self, id: Id, parent: Option<Id>, key: String, depth: usize) -> Parse<()> {
        if depth > MAX_NESTING {
            return invalid(format!("its pickle nests dicts and lists deeper than {MAX_NESTING}"));
        }
        self.budget.take_node::<(Id, Node)>()?;
        self.budget.take_text(key.len())?;
        let pickle = self.pickle;
        let is_dict = pickle.pairs(id).is_some();
        let short_key = (key.len() <= MAX_TABLE_KEY).then(|| key.clone());
        let is_optimizer = pickle.named(id).any(|(name, _)| name == PARAM_GROUPS);
        // An optimizer's moments are no part of a model. They have the numbers of parameters.
        let of_optimizer = key == "state" && parent.and_then(|of| self.node(of)).is_some_and(|of| of.is_optimizer);
        self.nodes.insert(id, Node { parent, key, is_dict, is_optimizer, ..Node::default() });
        for (key, value) in pickle.entries(id) {
            let is_left = match key {
                Key::Of(key) if of_optimizer => pickle.int(key).is_some(),
                Key::Of(key) if is_optimizer => pickle.str(key) == Some(PARAM_GROUPS),
                _ => false,
            };
            if is_left {
                continue;
            }
            if TensorCall::of(pickle, value).is_none() {
                self.enter_child(id, value, || pickle.text(key).into_owned(), depth)?;
                continue;
            }
            let Said { is_table, has_dot } = self.said(key)?;
            let is_split_table = || {
                let (Some(of), Key::Of(key)) = (short_key.as_deref(), key) else { return false };
                let name = pickle.str(key).filter(|name| name.len() <= MAX_TABLE_KEY);
                name.is_some_and(|name| Role::of(&format!("{of}.{name}")) == Role::TokenTable)
            };
            let is_split = !is_table && is_split_table();
            let node = self.nodes.entry(id).or_default();
            (node.has_own, node.has_tensors) = (true, true);
            node.has_names |= has_dot;
            node.has_table |= is_table;
            node.n_tables += usize::from(is_table || is_split);
            if is_split {
                self.budget.push(&mut self.split_tables, id)?;
            }
        }
        self.nodes.entry(id).or_default().is_whole = true;
        Ok(())
    }

    /// Returns what a key says, which is nothing unless it is a text.
    fn said(&mut self, key: Key) -> Parse<Said> {
        let Key::Of(id) = key else { return Ok(Said::default()) };
        if let Some(said) = self.keys.get(&id) {
            return Ok(*said);
        }
        let Some(name) = self.pickle.str(id) else { return Ok(Said::default()) };
        let said = Said { is_table: Role::of(name) == Role::TokenTable, has_dot: name.contains('.') };
        self.budget.take_node::<(Id, Said)>()?;
        self.keys.insert(id, said);
        Ok(said)
    }

    fn enter_child(&mut self, id: Id, child: Id, key: impl FnOnce() -> String, depth: usize) -> Parse<()> {
        if !self.seen.insert(child) {
            // It has another place too, whose names are those of other tensors.
            // One that is still being entered encloses this one.
            if self.node(child).is_some_and(|child| child.is_whole && child.has_tensors) {
                self.nodes.entry(id).or_default().has_tensors = true;
            }
            return Ok(());
        }
        // A list of numbers or texts leads to no tensor.
        let is_container = |id: Id| self.pickle.pairs(id).is_some() || self.pickle.items(id).is_some();
        let leads_on = match self.pickle.items(child) {
            Some(items) => items.iter().any(|&item| is_container(item) || TensorCall::of(self.pickle, item).is_some()),
            None => is_container(child),
        };
        if !leads_on {
            return Ok(());
        }
        self.enter(child, Some(id), key(), depth + 1)?;
        let Some(Node { has_tensors: true, n_tables, .. }) = self.nodes.get(&child) else { return Ok(()) };
        let n_tables = *n_tables;
        let node = self.nodes.entry(id).or_default();
        node.has_tensors = true;
        node.n_tables += n_tables;
        self.budget.push(&mut node.children, child)
    }

    /// Returns the state dict at `path`, or the one found without; `None` if no tensor has a name.
    pub(super) fn choose(&self, path: Option<&str>) -> Parse<Option<Chosen>> {
        let root = self.pickle.root();
        let chosen = match path {
            Some(path) => match self.at(root, path, &mut BTreeSet::new()) {
                Some(id) if self.has_tensors(id) => id,
                _ => {
                    let listed = self.listed(&self.all());
                    return invalid(format!("it has no state dict under `{}`; it has: {listed}", short(path)));
                }
            },
            None if !self.has_tensors(root) => return Ok(None),
            None => match self.of_model(root)? {
                id if id != root => id,
                _ => self.only(&self.candidates())?,
            },
        };
        let mut others = self.all();
        let mut inside = BTreeSet::new();
        // If the state dict has tables itself, dicts inside it with tables are other ones: averages, an optimizer's.
        let has_table = self.node(chosen).is_some_and(|node| node.has_table);
        self.collect(chosen, has_table, &mut inside);
        others.retain(|&id| id != chosen && !inside.contains(&id) && !self.above(chosen).any(|above| above == id));
        let others = others.iter().take(MAX_LISTED).map(|&id| self.path_of(id)).collect();
        Ok(Some(Chosen { id: chosen, path: self.path_of(chosen), others, inside }))
    }

    /// Returns the class of an object in the place of a tensor, in any dict.
    pub(super) fn class_in_place_of_tensor(&self, in_place: &InPlace<'a>) -> Option<&'a str> {
        let mut keys = BTreeMap::new();
        let mut entries = self.nodes.keys().flat_map(|&id| self.pickle.entries(id));
        entries.find_map(|(key, value)| {
            in_place.class(value, || {
                let Key::Of(key) = key else { return false };
                let is_like = || self.pickle.str(key).is_some_and(is_like_parameter);
                *keys.entry(key).or_insert_with(is_like)
            })
        })
    }

    fn node(&self, id: Id) -> Option<&Node> {
        self.nodes.get(&id)
    }

    fn has_tensors(&self, id: Id) -> bool {
        self.node(id).is_some_and(|node| node.has_tensors)
    }

    fn children(&self, id: Id) -> impl Iterator<Item = (Id, &Node)> {
        let children = self.node(id).map_or(&[][..], |node| &node.children).iter();
        children.filter_map(|&id| Some((id, self.node(id)?)))
    }

    /// Returns the value at a path of keys joined by dots; the keys may contain dots too. What was tried is tried once.
    fn at(&self, id: Id, path: &str, tried: &mut BTreeSet<(Id, usize)>) -> Option<Id> {
        if !tried.insert((id, path.len())) {
            return None;
        }
        let mut keys = self.pickle.pairs(id).is_some().then(|| self.pickle.entries(id)).into_iter().flatten();
        let named = keys.find_map(|(key, value)| match path.strip_prefix(&*self.pickle.text(key))? {
            "" => Some(value),
            rest => self.at(value, rest.strip_prefix('.')?, tried),
        });
        let mut in_list = || {
            let (index, rest) = path.split_once('.').unwrap_or((path, ""));
            let value = *self.pickle.items(id)?.get(index.parse::<usize>().ok()?)?;
            if rest.is_empty() { Some(value) } else { self.at(value, rest, tried) }
        };
        named.or_else(&mut in_list)
    }

    /// Follows the known keys, as far as they lead to tensors.
    fn of_model(&self, mut id: Id) -> Parse<Id> {
        for _ in 0..MAX_KNOWN {
            if self.node(id).is_some_and(|node| node.has_table) {
                break;
            }
            let known: Vec<_> = self.children(id).filter(|(_, node)| OF_MODEL.contains(&node.key.as_str())).collect();
            let with_table: Vec<_> = known.iter().filter(|(_, node)| node.n_tables > 0).copied().collect();
            id = match (known.as_slice(), with_table.as_slice()) {
                ([], _) => break,
                (&[(only, _)], _) | (_, &[(only, _)]) => only,
                (several, _) => return self.several(&several.iter().map(|&(id, _)| id).collect()),
            };
        }
        Ok(id)
    }

    /// Returns the only candidate.
    fn only(&self, candidates: &BTreeSet<Id>) -> Parse<Id> {
        match candidates.iter().collect::<Vec<_>>().as_slice() {
            [] => Ok(self.pickle.root()),
            [only] => Ok(**only),
            _ => self.several(candidates),
        }
    }

    fn several<T>(&self, candidates: &BTreeSet<Id>) -> Parse<T> {
        let listed = self.listed(candidates);
        invalid(format!("it holds several state dicts: {listed}; choose one with `CheckpointOptions::with_state_dict`"))
    }

    /// Returns the dicts with token tables, or else those with parameter names; none is inside another.
    fn candidates(&self) -> BTreeSet<Id> {
        let sets = [self.with_tables(), self.with_names()];
        sets.into_iter().find(|set| !set.is_empty()).unwrap_or_else(|| self.without_names())
    }

    /// Returns all dicts that may be chosen.
    fn all(&self) -> BTreeSet<Id> {
        let mut all = self.with_tables();
        all.extend(self.nodes.iter().filter(|(_, node)| node.has_names).map(|(&id, _)| id));
        if all.is_empty() { self.without_names() } else { all }
    }

    /// Returns the dicts with token tables. Where a table's name spans dicts, this is the outermost one with no other
    /// table.
    fn with_tables(&self) -> BTreeSet<Id> {
        let mut found: BTreeSet<Id> = self.nodes.iter().filter(|(_, node)| node.has_table).map(|(&id, _)| id).collect();
        for &split in &self.split_tables {
            let mut id = self.node(split).and_then(|node| node.parent).unwrap_or(split);
            while let Some(parent) = self.node(id).and_then(|node| node.parent)
                && self.node(parent).is_some_and(|node| node.is_dict && node.n_tables == 1)
            {
                id = parent;
            }
            found.insert(id);
        }
        self.outermost(&found)
    }

    fn with_names(&self) -> BTreeSet<Id> {
        self.outermost(&self.nodes.iter().filter(|(_, node)| node.has_names).map(|(&id, _)| id).collect())
    }

    /// Returns the root if its dicts hold all tensors, or else the dicts in its lists.
    fn without_names(&self) -> BTreeSet<Id> {
        let root = self.pickle.root();
        let is_apart =
            |node: &Node| node.is_dict && node.has_tensors && node.parent.is_some_and(|of| !self.is_dict(of));
        let apart = self.outermost(&self.nodes.iter().filter(|(_, node)| is_apart(node)).map(|(&id, _)| id).collect());
        let has_own = self.is_dict(root) && self.node(root).is_some_and(|node| node.has_own);
        let has_dicts = self.children(root).any(|(_, node)| node.is_dict);
        if has_own || self.is_dict(root) && has_dicts { BTreeSet::from([root]) } else { apart }
    }

    fn outermost(&self, found: &BTreeSet<Id>) -> BTreeSet<Id> {
        found.iter().copied().filter(|&id| !self.above(id).any(|above| found.contains(&above))).collect()
    }

    fn is_dict(&self, id: Id) -> bool {
        self.node(id).is_some_and(|node| node.is_dict)
    }

    /// Returns the enclosing containers.
    fn above(&self, id: Id) -> impl Iterator<Item = Id> {
        std::iter::successors(Some(id), |&id| self.node(id)?.parent).skip(1)
    }

    /// Collects the dicts and lists with tensors inside another one, without those with tables if these are `apart`.
    fn collect(&self, id: Id, apart: bool, inside: &mut BTreeSet<Id>) {
        for (child, node) in self.children(id) {
            if !(apart && node.has_table) && inside.insert(child) {
                self.collect(child, apart, inside);
            }
        }
    }

    fn path_of(&self, mut id: Id) -> String {
        let mut keys = Vec::new();
        while let Some(Node { parent: Some(parent), key, .. }) = self.node(id) {
            keys.push(short(key));
            id = *parent;
        }
        keys.reverse();
        keys.join(".")
    }

    fn listed(&self, found: &BTreeSet<Id>) -> String {
        let mut paths: Vec<_> = found.iter().take(MAX_LISTED).map(|&id| format!("`{}`", self.path_of(id))).collect();
        if found.len() > MAX_LISTED {
            paths.push(format!("and {} more", found.len() - MAX_LISTED));
        }
        if paths.is_empty() { "none".to_string() } else { paths.join(", ") }
    }
}
