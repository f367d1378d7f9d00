//! The licences that packages state, and those that `.deny.toml` allows.

use std::collections::BTreeMap;

/// The licences that `cargo deny` accepts here.
pub struct Allowed {
    everywhere: Vec<String>,
    /// By package.
    exceptions: BTreeMap<String, Vec<String>>,
}

impl Allowed {
    /// Reads the section `[licenses]`, which has one exception on each line.
    pub fn read(file: &str) -> Self {
        let section = file.split("\n[").find_map(|section| section.strip_prefix("licenses]")).unwrap();
        let code = || section.lines().filter(|line| !line.trim_start().starts_with('#'));
        let (everywhere, exceptions): (Vec<_>, Vec<_>) = code().partition(|line| !line.contains("crate ="));
        let everywhere = everywhere.into_iter().flat_map(quoted).collect();
        let exception = |line: &str| {
            let mut words = quoted(line).into_iter();
            (words.next().unwrap(), words.collect())
        };
        Self { everywhere, exceptions: exceptions.into_iter().map(exception).collect() }
    }

    /// Returns the packages with an exception.
    pub fn exceptions(&self) -> impl Iterator<Item = &String> {
        self.exceptions.keys()
    }

    /// Returns whether one of the choices in `licence` is allowed for `package`.
    pub fn takes(&self, package: &str, licence: &str) -> bool {
        let licence = licence.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        let words: Vec<_> = licence.split_whitespace().collect();
        let exceptions = self.exceptions.get(package).into_iter().flatten();
        let allowed: Vec<_> = self.everywhere.iter().chain(exceptions).map(String::as_str).collect();
        let (takes, rest) = any(&words, &allowed);
        takes && rest.is_empty()
    }
}

fn quoted(line: &str) -> Vec<String> {
    line.split('"').skip(1).step_by(2).map(str::to_string).collect()
}

/// Evaluates `a OR b OR ..`, and returns the words after it.
fn any<'a>(words: &'a [&'a str], allowed: &[&str]) -> (bool, &'a [&'a str]) {
    let (mut takes, mut rest) = all(words, allowed);
    while let ["OR", more @ ..] = rest {
        let (takes_this, behind) = all(more, allowed);
        (takes, rest) = (takes || takes_this, behind);
    }
    (takes, rest)
}

/// Evaluates `a AND b AND ..`, and returns the words after it.
fn all<'a>(words: &'a [&'a str], allowed: &[&str]) -> (bool, &'a [&'a str]) {
    let (mut takes, mut rest) = one(words, allowed);
    while let ["AND", more @ ..] = rest {
        let (takes_this, behind) = one(more, allowed);
        (takes, rest) = (takes && takes_this, behind);
    }
    (takes, rest)
}

/// Evaluates a licence, one `WITH` an exception, or an expression in brackets.
fn one<'a>(words: &'a [&'a str], allowed: &[&str]) -> (bool, &'a [&'a str]) {
    match words {
        ["(", inner @ ..] => match any(inner, allowed) {
            (takes, [")", rest @ ..]) => (takes, rest),
            (_, rest) => (false, rest),
        },
        [licence, "WITH", exception, rest @ ..] => {
            (allowed.contains(&format!("{licence} WITH {exception}").as_str()), rest)
        }
        [licence, rest @ ..] => (allowed.contains(licence), rest),
        [] => (false, &[]),
    }
}

#[test]
fn expressions_are_read() {
    let file = "[graph]\n\n[licenses]\n# \"X\"\nallow = [\n  \"A\",\n  \"B\",\n]\nexceptions = [{ crate = \"c\", allow = [\"C\"] }]\n\n[bans]\nx = \"D\"\n";
    let allowed = Allowed::read(file);
    for (licence, takes) in [
        ("A", true),
        ("C", false),
        ("D", false),
        ("X", false),
        ("C OR B", true),
        ("C/A", true),
        ("A AND C", false),
        ("A AND B OR C", true),
        ("(C OR A) AND B", true),
        ("(C OR D) AND B", false),
        ("A WITH D", false),
        ("A WITH D OR B", true),
        ("(A", false),
        ("A B", false),
        ("", false),
    ] {
        assert_eq!(allowed.takes("other", licence), takes, "{licence}");
    }
    assert!(allowed.takes("c", "C AND A"));
}
