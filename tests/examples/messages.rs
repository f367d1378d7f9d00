//! What the examples say of texts and numbers that they cannot use.

use std::fs;

use tempfile::TempDir;

use crate::{example, failure, stdout};

const READERS: [(&str, &[&str]); 3] =
    [("embed", &[]), ("dataloader", &[]), ("pretrain", &["--steps", "0", "--out", "/nowhere/to/be/written"])];

#[test]
fn texts_that_are_not_utf_8_are_told_by_place_and_encoding() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("text.txt");
    let utf16: Vec<u8> = "Every effort".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf32: Vec<u8> = "Every effort".chars().flat_map(|c| u32::from(c).to_be_bytes()).collect();
    for (bytes, expected) in [
        (
            &b"It\nisn\x92t"[..],
            "byte 0x92 at 6 (line 2, column 4) is not UTF-8: convert the text, for example with `iconv -f CP1252 -t",
        ),
        (
            &[&b"\xff\xfe"[..], &utf16].concat(),
            "the text is UTF-16, not UTF-8: convert it with `iconv -f UTF-16 -t UTF-8`",
        ),
        (&utf16, "the text is UTF-16LE, not UTF-8: convert it with `iconv -f UTF-16LE -t UTF-8`"),
        (&utf32, "the text is UTF-32BE, not UTF-8: convert it with `iconv -f UTF-32BE -t UTF-8`"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "this is compressed or packed with gzip: unpack it first"),
        (b"\x28\xb5\x2f\xfd\x04\x88", "this is compressed or packed with zstd: unpack it first"),
        (b"PK\x03\x04\x14\0\x08\x08\xa5\xf1", "this is compressed or packed with zip: unpack it first"),
        (b"%PDF-1.7\n\xe2\xe3", "this is a PDF document, not text"),
        (b"\x93NUMPY\x01\0", "this is one NumPy array (.npy), not text"),
        (b"", "text.txt: the file is empty"),
    ] {
        fs::write(&path, bytes).unwrap();
        let text = failure(example("dataloader").arg("--text-file").arg(&path), 1);
        assert!(text.starts_with("error: ") && text.contains("text.txt: ") && text.contains(expected), "{text}");
    }
    fs::write(&path, b"caf\xe9").unwrap();
    for (name, args) in READERS {
        let out = folder.path().join("out");
        let mut command = example(name);
        command.args(args.iter().map(|arg| if arg.starts_with("/nowhere") { out.to_str().unwrap() } else { arg }));
        let text = failure(command.arg("--text-file").arg(&path), 1);
        assert!(text.contains("byte 0xe9 at 3 (line 1, column 4) is not UTF-8"), "{text}");
    }
}

#[test]
fn a_byte_order_mark_is_kept_and_said() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("bom.txt");
    fs::write(&path, "\u{feff}Every effort moves you").unwrap();
    let output = example("embed").arg("--text-file").arg(&path).output().unwrap();
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && warning.contains("bom.txt begins with a byte order mark"), "{warning}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("[171, 119, 123, "));
}

#[test]
fn numbers_that_cannot_be_are_refused_with_their_range() {
    for (name, args, expected) in [
        ("pretrain", "--learning-rate -1", "`learning_rate` is -1, which is not"),
        ("pretrain", "--learning-rate 1e308 --warmup -5", "use a whole number of at least 0"),
        ("pretrain", "--eval-every -1", "use a whole number of at least 1"),
        ("pretrain", "--seed -9223372036854775809", "use a whole number from -2^63 to 2^64 - 1"),
        ("embed", "--start-pos -1", "use a whole number of at least 0"),
        ("dataloader", "--stride -4", "use a whole number of at least 0"),
        ("gpt2", "--temperature -0.5", "use a finite number of at least 0"),
        ("gpt2", "--top-k -1", "use a whole number of at least 1"),
        ("init_table", "--std -1", "standard deviation -1 must be 0 or greater"),
    ] {
        let folder = TempDir::new().unwrap();
        let mut command = example(name);
        command.args(args.split(' '));
        if name == "pretrain" {
            command.arg("--out").arg(folder.path().join("out"));
        }
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(expected), "{name} {args}: {text}");
    }
    // torch.manual_seed(-1) is torch.manual_seed(2**64 - 1).
    let table = |seed: &str| stdout(example("init_table").args(["--seed", seed]));
    let values = |text: String| text.lines().filter(|line| !line.contains(" drawn in ")).collect::<String>();
    assert_eq!(values(table("-1")), values(table("18446744073709551615")));
}

#[test]
fn names_from_outside_are_printed_escaped_on_one_line() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a\nb\u{1b}[31m\u{202e}");
    let text = failure(example("dataloader").arg("--text-file").arg(&path), 1);
    assert!(text.contains(r"a\nb\u{1b}[31m\u{202e}: No such file") && text.lines().count() == 1, "{text}");
    let text = failure(example("embed").args(["--ids", "1", "--weights"]).arg(&path), 1);
    assert!(text.contains(r"a\nb\u{1b}[31m\u{202e}: no such file or folder") && text.lines().count() == 1, "{text}");

    let json = r#"{"wte.w\u202eeight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let path = folder.path().join("x.safetensors");
    fs::write(&path, [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &[0; 4]].concat()).unwrap();
    let text = stdout(example("inspect_checkpoint").arg(&path));
    assert!(text.starts_with(r"wte.w\u{202e}eight"), "{text}");
    let text = failure(example("embed").args(["--ids", "1", "--weights"]).arg(&path), 1);
    assert!(text.contains(r"closest: wte.w\u{202e}eight"), "{text}");
}

#[test]
fn no_example_panics_because_standard_error_is_closed() {
    // `eprintln!` does; `cli::note` does not.
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for example in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        for file in fs::read_dir(example).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "rs") {
                assert!(!fs::read_to_string(&file).unwrap().contains("eprint"), "{}", file.display());
            }
        }
    }
}

/// Whoever reads the first line only (`| head -1`) gets the files nevertheless.
#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_costs_no_file() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let weights = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/tiny-gpt2");
    let weights = weights.to_str().unwrap();
    for (name, args, option, file) in [
        ("inspect_checkpoint", &[weights][..], "--convert", "converted.safetensors"),
        ("embed", &["--ids", "1,2"], "--output", "embedded.safetensors"),
        ("gpt2", &["--ids", "1,2", "--max-new-tokens", "1"], "--logits-output", "logits.safetensors"),
        ("init_table", &["--vocab-size", "500", "--n-embd", "8"], "--output", "table.safetensors"),
        ("dataloader", &[], "--state-file", "state.json"),
        ("explore", &["--near", "king"], "--out", "explored"),
        ("positions", &[], "--out", "positions.png"),
    ] {
        let mut command = example(name);
        command.args(args).arg(option).arg(at(file)).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        assert!(child.wait().unwrap().success(), "{name}");
        assert!(at(file).exists(), "{name} wrote no {file}");
    }
}
