//! Finds circles in a graph of files.

use std::collections::{BTreeMap, VecDeque};

/// For each file the files that it imports.
pub type Graph<'a> = BTreeMap<&'a str, Vec<&'a str>>;

/// Files that all reach each other.
pub struct Circle<'a> {
    /// The shortest way from the first file back to it.
    pub way: Vec<&'a str>,
    pub n_files: usize,
}

/// Returns each group of files that reach each other.
pub fn circles<'a>(graph: &Graph<'a>) -> Vec<Circle<'a>> {
    let mut found = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for &file in graph.keys() {
        if !seen.contains(&file)
            && let Some(way) = shortest_way(graph, file, file)
        {
            let is_in = |&&other: &&&str| {
                shortest_way(graph, file, other).is_some() && shortest_way(graph, other, file).is_some()
            };
            let n_before = seen.len();
            seen.extend(graph.keys().filter(is_in));
            found.push(Circle { way, n_files: seen.len() - n_before });
        }
    }
    found
}

/// Returns the files of the shortest way of at least one step, without its end.
fn shortest_way<'a>(graph: &Graph<'a>, from: &'a str, to: &str) -> Option<Vec<&'a str>> {
    let mut reached_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(file) = queue.pop_front() {
        for &next in graph.get(file).into_iter().flatten() {
            if next == to {
                let mut way = vec![file];
                while way[0] != from {
                    way.insert(0, reached_from[way[0]]);
                }
                return Some(way);
            }
            if next != from && !reached_from.contains_key(next) {
                reached_from.insert(next, file);
                queue.push_back(next);
            }
        }
    }
    None
}
