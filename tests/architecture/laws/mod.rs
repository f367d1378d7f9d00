//! The laws. Each returns the places where a tree breaks it.

mod files;
mod imports;
mod messages;
mod words;

use std::fmt;

pub use words::MAX_LINES;

use crate::tree::Tree;

/// What the laws need to know of one crate.
pub struct Tables {
    /// Each module below the root with its level.
    pub levels: &'static [(&'static str, u8)],
    /// A folder whose folders have levels of their own.
    pub wings: (&'static str, &'static [(&'static str, u8)]),
    /// The folders of `wings` with the launches of kernels, and the lowest level of a wing that may import one.
    pub launches: (&'static [&'static str], u8),
    /// Files that only declare modules and re-export their items.
    pub facades: &'static [&'static str],
    /// Files, or folders with a slash at the end, that may contain `unsafe`.
    pub may_be_unsafe: &'static [&'static str],
    /// Crates that only one module knows.
    pub crates: &'static [(&'static str, &'static str)],
    /// Files that are programs of their own.
    pub programs: &'static [&'static str],
    /// What may lie in the root, beside names that begin with a dot.
    pub root: &'static [&'static str],
}

/// A place that breaks a law.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Offence {
    pub path: String,
    pub what: String,
    pub line: usize,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

pub type Law = fn(&Tree, &Tables) -> Vec<Offence>;

pub const LAWS: &[Law] = &[
    imports::imports_point_down,
    imports::wings_do_not_import_each_other,
    imports::launches_are_imported_in_one_file_of_a_wing,
    imports::no_files_import_each_other_in_a_circle,
    files::facades_only_show,
    files::one_module_style,
    files::every_file_is_read,
    words::crates_stay_in_their_module,
    words::unsafe_stays_where_it_is_allowed,
    words::nothing_prints_or_panics,
    words::all_code_is_seen,
    messages::errors_show_what_they_quote,
    words::no_file_is_long_without_a_reason,
    files::nothing_else_lies_in_the_root,
];

/// Keeps the first of several places in a file with the same fault.
fn once(mut offences: Vec<Offence>) -> Vec<Offence> {
    offences.sort();
    offences.dedup_by(|next, first| (&next.path, &next.what) == (&first.path, &first.what));
    offences
}

/// Returns the module of a file of `src`: `kernel` for `src/kernel/ids.rs`.
fn top_of(path: &str) -> &str {
    path.split('/').nth(1).unwrap_or_default().trim_end_matches(".rs")
}
