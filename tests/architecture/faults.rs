//! Tests the laws on the tree in `sample`. Whole, it breaks none; with one fault at a time, that one is found where it
//! is.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::laws::{MAX_LINES, Tables};
use crate::{offences, root};

const TABLES: Tables = Tables {
    levels: &[("base", 0), ("text", 1), ("kernel", 2), ("shelf", 2), ("layer", 3)],
    wings: ("src/kernel", &[("core", 0), ("ids", 1), ("gather", 2), ("step", 2)]),
    launches: (&["cuda"], 1),
    facades: &["src/lib.rs", "src/kernel/mod.rs"],
    may_be_unsafe: &["src/kernel/"],
    crates: &[("tokenizers", "text")],
    programs: &["src/kernel/cuda/build.rs"],
    root: &["README.md", "src"],
};

/// A copy of the sample with changes, in a folder of its own.
struct Sample(TempDir);

impl Sample {
    fn whole() -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&root().join("tests/architecture/sample"), folder.path());
        Self(folder)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn with(self, path: &str, text: &str) -> Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Appends `text` to a file.
    fn with_more(self, path: &str, text: &str) -> Self {
        let before = fs::read_to_string(self.path(path)).unwrap();
        self.with(path, &format!("{before}{text}\n"))
    }

    /// Asserts that its offences are `expected`.
    #[track_caller]
    fn breaks(self, expected: &[&str]) {
        assert_eq!(offences(self.0.path(), &TABLES), expected);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copied = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &copied),
            false => fs::write(&copied, fs::read(&path).unwrap()).unwrap(),
        }
    }
}

/// Asserts that `text` appended to this file of the sample causes just this offence.
#[track_caller]
fn fault(path: &str, text: &str, found: &str) {
    Sample::whole().with_more(path, text).breaks(&[found]);
}

#[test]
fn a_whole_tree_breaks_no_law() {
    Sample::whole().with(".gitignore", "").breaks(&[]);
}

#[test]
fn every_form_of_import_is_seen() {
    for import in [
        "use crate::shelf;",
        "use crate::shelf::Shelf;",
        "use crate::{shelf};",
        "use crate::{shelf::{self, first as f}};",
        "use crate::shelf::{Shelf as S, *};",
        "use super::shelf::first;",
        "pub use self::super::shelf::first;",
        "pub(crate) use crate::shelf::*;",
        "fn f() { crate::shelf::first() }",
        "fn f() { use super::shelf::first as g; }",
        "fn f(shelf: &mut dyn Fn(crate::shelf::Shelf)) {}",
        "fn f<T: crate::shelf::Shelf>() {}",
        "fn f() -> Option<<T as crate::shelf::Shelf>::A> { None }",
        "fn f() -> u8 { 0..super::shelf::first::<u8>() }",
        "mod inside { fn f() { super::super::shelf::first() } }",
        "mod inside { pub(super) use super::super::shelf::Shelf; }",
        "impl Base { fn f() { (0..9).map(|_| vec![crate::shelf::first()]) } }",
        "macro_rules! m { ($x:ident) => { $x::y(); $crate::shelf::first() }; }",
        "#[serde(with = \"crate::shelf::Shelf\")] struct S;",
        "#[cfg(target_os = \"none\")] fn f() { match 1 { _ if true => super::shelf::first(), _ => {} } }",
    ] {
        fault("src/base.rs", import, "src/base.rs:7: `base` (level 0) imports `shelf` (level 2)");
    }
}

#[test]
fn an_import_points_down() {
    let found = "src/text.rs:5: `text` (level 1) imports `kernel` (level 2)";
    fault("src/text.rs", "use crate::kernel::gather;", found);
}

#[test]
fn what_a_sibling_shows_is_imported_from_where_it_is() {
    Sample::whole()
        .with_more("src/shelf/mod.rs", "pub use crate::base::Base as Shown;")
        .with_more("src/kernel/step/moments.rs", "use crate::shelf::Shown;")
        .breaks(&["src/kernel/step/moments.rs:2: `kernel` (level 2) imports `shelf` (level 2)"]);
}

#[test]
fn root_exports_are_imported_from_their_module() {
    let found = "src/shelf/lower.rs:4: imports `Layer` from the root instead of its module";
    fault("src/shelf/lower.rs", "use crate::Layer;", found);
}

#[test]
fn every_module_has_a_level() {
    Sample::whole()
        .with_more("src/lib.rs", "mod extra;")
        .with("src/extra.rs", "")
        .breaks(&["src/lib.rs:10: module `extra` has no level"]);
}

#[test]
fn wings_do_not_import_each_other() {
    let found = "src/kernel/gather/mod.rs:7: wing `gather` imports wing `step`";
    fault("src/kernel/gather/mod.rs", "use super::step::moments::Moments;", found);
    let found = "src/kernel/core/mod.rs:11: wing `core` imports wing `ids`";
    fault("src/kernel/core/mod.rs", "use crate::kernel::ids;", found);
}

#[test]
fn wings_do_not_import_each_other_through_what_the_kernel_shows() {
    Sample::whole()
        .with_more("src/kernel/mod.rs", "pub(crate) use step::moments::Moments;")
        .with_more("src/kernel/gather/mod.rs", "fn f(moments: crate::kernel::Moments) {}")
        .breaks(&["src/kernel/gather/mod.rs:7: wing `gather` imports wing `step`"]);
}

#[test]
fn every_file_of_the_kernel_lies_in_a_wing() {
    Sample::whole()
        .with_more("src/kernel/mod.rs", "mod alone;")
        .with("src/kernel/alone.rs", "")
        .breaks(&["src/kernel/alone.rs:1: lies in no wing of src/kernel"]);
}

#[test]
fn launches_are_imported_in_one_file_of_a_wing() {
    fault("src/kernel/core/mod.rs", "use super::cuda;", "src/kernel/core/mod.rs:11: may not import `cuda`");
    fault("src/layer/mod.rs", "use crate::kernel::cuda;", "src/layer/mod.rs:29: may not import `cuda`");
    Sample::whole()
        .with_more("src/kernel/ids/mod.rs", "#[cfg(feature = \"cuda\")]\nmod third;")
        .with("src/kernel/ids/third.rs", "use crate::kernel::cuda;")
        .breaks(&["src/kernel/ids/third.rs:1: imports `cuda`, as src/kernel/ids/check.rs does"]);
}

#[test]
fn launches_import_no_file_that_imports_them() {
    Sample::whole()
        .with_more("src/kernel/cuda/mod.rs", "mod launch;")
        .with("src/kernel/cuda/launch.rs", "use crate::kernel::ids::Ids;")
        .breaks(&["src/kernel/cuda/launch.rs:1: imports src/kernel/ids/check.rs, which imports `cuda`"]);
}

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let found = "src/shelf/lower.rs:4: a circle of 2 files, the shortest way: \
                 src/shelf/lower.rs:4 `super::Shelf`, src/shelf/upper.rs:1 `super::Lower`";
    fault("src/shelf/lower.rs", "use super::Shelf;", found);
}

#[test]
fn a_facade_that_uses_what_it_shows_imports_it() {
    let found = "src/shelf/mod.rs:6: a circle of 2 files, the shortest way: \
                 src/shelf/mod.rs:6 `first`, src/shelf/upper.rs:8 `super::all`";
    Sample::whole()
        .with_more("src/shelf/mod.rs", "pub fn all() { first() }")
        .with_more("src/shelf/upper.rs", "fn f() { super::all() }")
        .breaks(&[found]);
}

#[test]
fn a_macro_known_without_an_import_is_imported() {
    let found = "src/shelf/lower.rs:4: a circle of 2 files, the shortest way: \
                 src/shelf/lower.rs:4 `words`, src/shelf/mod.rs:7 `lower::lower`";
    Sample::whole()
        .with_more("src/shelf/mod.rs", "macro_rules! words { () => {} }\nuse lower::lower;")
        .with_more("src/shelf/lower.rs", "words!();")
        .breaks(&[found]);
}

#[test]
fn facades_only_show() {
    fault("src/lib.rs", "use base::Base;", "src/lib.rs:10: imports something for itself");
    fault("src/lib.rs", "pub use shelf::*;", "src/lib.rs:10: shows all of a module, by `*`");
    fault("src/kernel/mod.rs", "pub(crate) fn f() {}", "src/kernel/mod.rs:10: defines `f`");
}

#[test]
fn there_is_one_module_style() {
    Sample::whole()
        .with_more("src/shelf/upper.rs", "mod more;")
        .with("src/shelf/upper/more.rs", "")
        .breaks(&["src/shelf/upper.rs:1: lies beside src/shelf/upper/: it is to be src/shelf/upper/mod.rs"]);
    fault("src/text.rs", "#[path = \"base.rs\"]\nmod again;", "src/text.rs:5: places code by a path");
}

#[test]
fn names_say_something() {
    Sample::whole()
        .with_more("src/shelf/mod.rs", "mod utils;")
        .with("src/shelf/utils.rs", "")
        .breaks(&["src/shelf/utils.rs:1: the name `utils` says nothing"]);
    fault("src/text.rs", "mod helpers {}", "src/text.rs:5: the name `helpers` says nothing");
}

#[test]
fn every_file_belongs_to_the_crate() {
    Sample::whole().with("src/shelf/lost.rs", "").breaks(&["src/shelf/lost.rs:1: is declared by no module"]);
}

#[test]
fn a_crate_stays_in_its_module() {
    for code in ["use tokenizers as t;", "use ::tokenizers::{a, b};", "fn f() { ::tokenizers::f() }"] {
        fault("src/shelf/lower.rs", code, "src/shelf/lower.rs:4: names the crate tokenizers, which only `text` knows");
    }
}

#[test]
fn unsafe_code_stays_where_it_is_allowed() {
    fault("src/shelf/lower.rs", "unsafe impl Send for Lower {}", "src/shelf/lower.rs:4: contains `unsafe`");
    fault("src/layer/mod.rs", "fn f() { vec![unsafe { g() }] }", "src/layer/mod.rs:29: contains `unsafe`");
}

#[test]
fn nothing_prints_or_panics() {
    for (code, found) in [
        ("fn f() { Some(1).unwrap(); }", "calls `unwrap`"),
        ("fn f() { Some(1).map(Option::unwrap); }", "calls `unwrap`"),
        ("fn f() { g().expect(\"why\"); }", "calls `expect`"),
        ("fn f() { Ok(1).unwrap_err(); }", "calls `unwrap_err`"),
        ("fn f() { println!(); }", "calls `println!`"),
        ("fn f() { std::eprintln!(\"\"); }", "calls `eprintln!`"),
        ("fn f() { print! {} }", "calls `print!`"),
        ("fn f() { vec![dbg!(1)]; }", "calls `dbg!`"),
        ("#[cfg(not(test))] fn f() { panic!() }", "calls `panic!`"),
        ("#[cfg(any(test, unix))] fn f() { todo!() }", "calls `todo!`"),
        ("fn f() { if true { unimplemented!() } }", "calls `unimplemented!`"),
        ("macro_rules! m { () => { unreachable!() }; }", "calls `unreachable!`"),
        ("fn f() -> u8 { t.dims()[0] }", "indexes `dims()`"),
        ("fn f() { assert!(true); }", "calls `assert!`"),
        ("fn f() { std::panic::panic_any(1); }", "calls `panic_any`"),
        ("fn f() { std::process::exit(1); }", "names `exit`"),
        ("use std::io::stdout;", "names `stdout`"),
        ("use std::println as say;", "names `println`"),
        ("use std::panic as boom;", "names `panic`"),
    ] {
        fault("src/shelf/lower.rs", code, &format!("src/shelf/lower.rs:4: {found}"));
        // After tests too.
        fault("src/layer/mod.rs", code, &format!("src/layer/mod.rs:29: {found}"));
    }
}

#[test]
fn all_code_is_seen() {
    for (code, found) in [
        ("include!(\"../other.rs\");", "places code by `include!`"),
        ("fn f() { m! { include!(\"x.inc\") } }", "places code by `include!`"),
        ("#[cfg_attr(all(), path = \"../z.rs\")] fn f() {}", "places code by a path"),
        ("m! { #[path = \"../z.rs\"] mod z; }", "places code by a path"),
        ("extern crate self as me;", "names a crate by `extern crate`"),
        ("#[macro_use] mod inside {}", "shares macros by `#[macro_use]`"),
    ] {
        fault("src/shelf/lower.rs", code, &format!("src/shelf/lower.rs:4: {found}"));
    }
}

/// A check that guards `unsafe` code may panic; the others are errors.
#[test]
fn checks_may_stand_before_unsafe_code() {
    Sample::whole().with_more("src/kernel/core/mod.rs", "fn f() { assert!(true); }").breaks(&[]);
}

#[test]
fn errors_show_what_they_quote() {
    let error =
        |message: &str, fields: &str| format!("enum E {{ #[error({message})] /// Why.\n #[a] V {{ {fields} }} }}");
    for (message, fields, found) in [
        (r#""no `{name}`""#, "name: String", "quotes `name` in an error without `Shown`"),
        (r#""{}: no", path.display()"#, "path: PathBuf", "quotes `path` in an error without `Shown`"),
        (r#""{p:?} is no probability""#, "/// It.\n p: f64", "quotes `p` in an error without `number`"),
        (r#""{a} {b}", a = Shown::name(a)"#, "a: String, b: String", "quotes `b` in an error without `Shown`"),
    ] {
        fault("src/base.rs", &error(message, fields), &format!("src/base.rs:7: {found}"));
    }
    for (message, fields) in [
        (r#""no `{name}`""#, "name: &'static str"),
        (r#""{path}: {n}", path = Shown::path(path)"#, "path: PathBuf, n: usize"),
        ("transparent", "name: String"),
    ] {
        Sample::whole().with_more("src/base.rs", &error(message, fields)).breaks(&[]);
    }
}

#[test]
fn a_long_file_has_a_reason() {
    let file = "src/shelf/upper.rs";
    let comments = "\n// not code\n\n/// documentation\n#[cfg(test)]\nconst T: [u8; 2] = [\n0,\n1,\n];";
    let row = "const A: [u8; 2] = [\n0, // a comment\n1,\n];\n";
    let fits = |n_lines: usize| Sample::whole().with_more(file, comments).with_more(file, &row.repeat(n_lines / 4));
    let with_reason = |sample: Sample| {
        let text = fs::read_to_string(sample.path(file)).unwrap();
        sample.with(file, &format!("//! About it.\n\n// Long because it is one table.\n\n{text}"))
    };
    // The file has five lines of its own.
    fits(MAX_LINES - 8).with_more(file, "fn f(\n) {\n}").breaks(&[]);
    fits(MAX_LINES - 4).breaks(&["src/shelf/upper.rs:1: has 301 lines of code and no `// Long because ..`"]);
    with_reason(fits(MAX_LINES - 4)).breaks(&[]);
    with_reason(fits(MAX_LINES - 8)).breaks(&["src/shelf/upper.rs:1: has 297 lines of code: no reason is needed"]);
}

#[test]
fn nothing_else_lies_in_the_root() {
    Sample::whole().with("build.rs", "").breaks(&["build.rs:1: lies in the root"]);
}
