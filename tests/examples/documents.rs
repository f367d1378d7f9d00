//! Commands that README.md and the examples' pages show: they run, and print what is shown.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::example;
use crate::markdown::{Document, code_spans, documents, root};

const RUN: &str = "cargo run --release --example ";
/// Heads the column of a table whose commands leave that out.
const COLUMN: &str = "`cargo run --release --example …`";

/// Commands that are not run here: those with this text in them, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("cargo test", "is what runs this"),
    ("--features", "needs another build, and the network or a device"),
    ("--hub", "needs the network"),
    ("mpirun ", "needs another build; `.ci/mpi` runs it"),
    ("examples/web/", "takes minutes; `.ci/web` runs it"),
    ("path/to/", "needs a file that the reader has"),
    ("/tmp/genesis", "trains for a quarter of a minute; `pretrain` has tests of its own"),
];

/// Commands whose output is not compared.
const NOT_COMPARED: &[(&str, &str)] = &[
    ("bench", "prints times of this machine"),
    ("train_minimal", "Candle draws the weights of its blocks without a seed"),
];

/// What stands behind a number that another run prints otherwise.
const UNITS: [&str; 6] = ["ms", "s", "µs", "kB", "tokens/s", "tokens/s,"];

/// Commands, and the output that is shown below them.
struct Shown {
    place: String,
    commands: Vec<String>,
    output: Option<String>,
}

#[test]
fn commands_print_what_their_documents_show() {
    let mut unused: BTreeSet<_> = NOT_RUN.iter().chain(NOT_COMPARED).collect();
    let (mut failures, mut seen) = (Vec::new(), BTreeSet::new());
    let is_of_examples = |path: &str| path == "README.md" || path.starts_with("examples/");
    for document in documents().into_iter().filter(|document| is_of_examples(&document.path)) {
        let folder = TempDir::new().unwrap();
        for shown in shown(&document) {
            let (mut printed, mut is_compared) = (String::new(), shown.output.is_some());
            let mut n_run = 0;
            for command in shown.commands {
                if let Some(reason) = NOT_RUN.iter().find(|(part, _)| command.contains(part)) {
                    unused.remove(reason);
                    continue;
                }
                n_run += 1;
                if let Some(reason) = NOT_COMPARED.iter().find(|(part, _)| command.contains(part)) {
                    unused.remove(reason);
                    is_compared = false;
                }
                let is_new = seen.insert(command.clone());
                if !is_compared && !is_new {
                    continue;
                }
                match run(&command, folder.path()) {
                    Ok(text) => printed += &text,
                    Err(error) => failures.push(format!("{}: {command}: {error}", shown.place)),
                }
            }
            if let Some(output) =
                shown.output.filter(|_| is_compared && n_run > 0 && cfg!(all(unix, not(feature = "cuda"))))
            {
                let printed = normal(&printed, folder.path());
                if !agrees(&normal(&output, folder.path()), &printed) {
                    failures.push(format!("{}: shows\n{output}\nand prints\n{printed}", shown.place));
                }
            }
        }
    }
    failures.extend(unused.iter().map(|(part, _)| format!("no command has `{part}`")));
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// The commands of a document in their order, blocks first; a block's output is the next block of text under its
/// heading.
fn shown(document: &Document) -> Vec<Shown> {
    let place = |line| format!("{}:{line}", document.path);
    let mut all = Vec::new();
    let blocks = document.blocks();
    for (i, block) in blocks.iter().enumerate().filter(|(_, block)| block.language == "sh") {
        let text = block.text.replace("\\\n", " ");
        let commands = text.lines().map(|line| line.split(" #").next().unwrap().trim().to_string());
        let commands = commands.filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        let output = blocks[i + 1..].iter().take_while(|next| next.language != "sh" && next.heading == block.heading);
        let output = output.filter(|next| next.language == "text").map(|next| next.text.clone()).next();
        all.push(Shown { place: place(block.line), commands, output });
    }
    let mut column = None;
    for (line, text) in document.prose() {
        let cells: Vec<_> = text.split(" | ").collect();
        let is_table = text.starts_with('|');
        column = column.filter(|_| is_table).or(cells.iter().position(|cell| is_table && cell.contains(COLUMN)));
        let cell = column.and_then(|column| cells.get(column).copied()).filter(|cell| !cell.contains(COLUMN));
        let commands = cell.map_or(Vec::new(), |cell| code_spans(cell).map(|span| format!("{RUN}{span}")).collect());
        all.push(Shown { place: place(line), commands, output: None });
    }
    all
}

/// What a command prints, begun in `folder`, where its `/tmp` lies too. What it names of the repository is found there.
fn run(command: &str, folder: &Path) -> Result<String, String> {
    let words = words(command.strip_prefix(RUN).ok_or("is no run of an example, and no reason says why not")?);
    let (name, options) = words.split_first().ok_or("names no example")?;
    let mut run: Command = example(name);
    run.current_dir(folder);
    for option in options.iter().filter(|option| *option != "--") {
        match option.strip_prefix("/tmp/") {
            Some(path) => run.arg(folder.join(path)),
            None if option.contains('/') && root().join(option).exists() => run.arg(root().join(option)),
            None => run.arg(option),
        };
    }
    if name == "pretrain" && !options.iter().any(|option| option == "--out") {
        run.arg("--out").arg(folder.join("pretrain")); // the default folder may hold another run
    }
    let output = run.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The words of a line of shell, which may stand in quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quote, mut is_word) = (vec![String::new()], None, false);
    for c in line.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            None if ['"', '\''].contains(&c) => (quote, is_word) = (Some(c), true),
            None if c == ' ' => {
                if is_word {
                    words.push(String::new());
                }
                is_word = false;
            }
            _ => {
                words.last_mut().unwrap().push(c);
                is_word = true;
            }
        }
    }
    if !is_word {
        words.pop();
    }
    words
}

/// The text with the same paths wherever it is printed, and without times.
fn normal(text: &str, folder: &Path) -> String {
    let paths = [(root(), ""), (PathBuf::from("/path/to/candle-gpt-input"), ""), (folder.to_path_buf(), "/tmp/")];
    let replaced = |text: String, (path, by): &(PathBuf, &str)| text.replace(&format!("{}/", path.display()), by);
    let text = paths.iter().fold(text.to_string(), replaced);
    let line = |line: &str| {
        let mut words: Vec<_> = line.split(' ').map(str::to_string).collect();
        for i in 1..words.len() {
            if UNITS.contains(&words[i].trim_end_matches([',', ':', ')', ';'])) {
                let is_digit = |c: char| c.is_ascii_digit() || c == '.';
                words[i - 1] = words[i - 1].replace(is_digit, "");
            }
        }
        words.join(" ").trim_end().to_string() + "\n"
    };
    text.lines().map(line).collect()
}

/// Whether what is shown is what is printed; one line of three dots may stand for any lines.
fn agrees(shown: &str, printed: &str) -> bool {
    let [shown, printed] = [shown, printed].map(|text| text.lines().collect::<Vec<_>>());
    match shown.split(|line| *line == "...").collect::<Vec<_>>()[..] {
        [first, last] if first.len() + last.len() <= printed.len() => {
            same(first, &printed[..first.len()]) && same(last, &printed[printed.len() - last.len()..])
        }
        _ => same(&shown, &printed),
    }
}

/// Whether lines agree word by word. Decimals may differ by a hundredth: another processor sums in another order.
fn same(left: &[&str], right: &[&str]) -> bool {
    let number =
        |word: &str| word.contains('.').then(|| word.trim_end_matches([',', ';']).parse::<f64>().ok()).flatten();
    let agree = |(left, right): (&str, &str)| match (number(left), number(right)) {
        (Some(a), Some(b)) => (a - b).abs() <= 0.01 * a.abs(),
        _ => left == right,
    };
    let lines_agree = |(left, right): (&&str, &&str)| {
        let [left, right] =
            [left, right].map(|line| line.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>());
        left.len() == right.len() && left.into_iter().zip(right).all(agree)
    };
    left.len() == right.len() && left.iter().zip(right).all(lines_agree)
}

#[test]
fn commands_are_read() {
    assert_eq!(words("a  -b \"c d\" 'e' \"\""), ["a", "-b", "c d", "e", ""]);
    assert!(agrees("a\nb\n", "a\nb\n") && !agrees("a\n", "a\nb\n") && !agrees("b\n", "a\nb\n"));
    assert!(agrees("a\n...\nc\n", "a\nb\nb\nc\n") && !agrees("a\n...\nd\n", "a\nb\nc\n"));
    assert!(!agrees("a\n...\nc\n", "a\nc\nd\n"));
    assert!(agrees("a 5.123, b\n", "a  5.124, b\n") && !agrees("a 5.1\n", "a 5.2\n") && !agrees("a 100\n", "a 101\n"));
    assert_eq!(normal("in 12.5 ms, 3 s: 4 x\n", Path::new("/f")), "in  ms,  s: 4 x\n");
    let document = Document {
        path: "d.md".to_string(),
        text: "# A\n```sh\nx -- 1 # no\ny \\\n  z\n```\nso\n```text\nout\n```\n## B\n```sh\nv\n```\n\n| w | `cargo run --release --example …` |\n| --- | --- |\n| a | `b -- c` or `d` |\n| e | |\n".to_string(),
    };
    let shown = shown(&document);
    assert_eq!(shown[0].commands, ["x -- 1", "y    z"]);
    assert_eq!((shown[0].output.as_deref(), shown[1].output.as_deref()), (Some("out\n"), None));
    let of_table: Vec<_> = shown[2..].iter().flat_map(|shown| &shown.commands).collect();
    assert_eq!(of_table, [&format!("{RUN}b -- c"), &format!("{RUN}d")]);
}
