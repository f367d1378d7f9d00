//! Hostile and broken files: one named error each.

use super::*;

fn tensor(name: &str, dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

/// Returns a header with a `wpe` of 2 x 4 in bytes 0 to 32, and this `wte`.
fn header(dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!("{{{},{}}}", tensor("wpe.weight", "F32", "[2,4]", 0, 32), tensor("wte.weight", dtype, shape, from, to))
}

/// Checks that each file of a header and some bytes of data is refused with the expected one-line error.
fn assert_refused(cases: &[(String, u64, &str)]) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let mut failures = Failures::default();
    for (header, n_data, expected) in cases {
        let result = load(file(&path, header, *n_data));
        let text = error_text(result);
        let named = text.starts_with(&path.display().to_string()) && text.lines().count() == 1;
        failures.holds(named, format_args!("{text}\n  expected one line that begins with the path"));
        failures.holds(text.contains(expected), format_args!("{text}\n  expected {expected}"));
    }
}

#[test]
fn tables_that_do_not_lie_in_the_data_are_refused() {
    const INVALID: &str = "not a valid safetensors file";
    assert_refused(&[
        (header("F32", "[3,4]", 32, 80), 79, "describes 80 bytes of data, but 79 follow"),
        (header("F32", "[3,4]", 32, 80), 81, "describes 80 bytes of data, but 81 follow"),
        (
            header("F32", "[3,4]", 16, 64),
            64,
            "not a valid safetensors file: `wte.weight` has the invalid offset 16: the tensor before it ends at 32",
        ),
        (
            header("F32", "[3,4]", 40, 88),
            88,
            "not a valid safetensors file: `wte.weight` has the invalid offset 40: the tensor before it ends at 32",
        ),
        (header("F32", "[3,4]", 32, 1 << 60), 80, INVALID),
        (header("F32", "[3,5]", 32, 80), 80, INVALID),
        (header("F32", "[4294967296,4294967296,4294967296]", 32, 80), 80, INVALID),
    ]);
}

#[test]
fn tensors_that_are_no_tables_are_refused() {
    let alone = |name: &str, shape: &str, to: u64| format!("{{{}}}", tensor(name, "F32", shape, 0, to));
    assert_refused(&[
        (header("I32", "[3,4]", 32, 80), 80, "`wte.weight` holds I32, expected F32, F16, BF16, F64, F8 or blocks of"),
        (header("F32", "[12]", 32, 80), 80, "`wte.weight` has shape [12], expected two dimensions"),
        (header("F32", "[3,2,2]", 32, 80), 80, "`wte.weight` has shape [3, 2, 2], expected"),
        (header("F32", "[0,4]", 32, 32), 32, "`wte.weight` has shape [0, 4], expected"),
        (header("F32", "[6,2]", 32, 80), 80, "`wte.weight` is 2 wide, but `wpe.weight` is 4 wide"),
        (
            alone("wpe.weight", "[2,4]", 32),
            32,
            "no token table found (looked for wte.weight, tok_emb.weight, token_embd.weight, ",
        ),
        (alone("wte.weight", "[3,4]", 48), 48, "no position table found (looked for wpe.weight"),
        ("{}".to_string(), 0, "it holds no tensor under a name"),
    ]);
}

#[test]
fn headers_that_are_none_are_refused() {
    const INVALID: &str = "not a valid safetensors file";
    assert_refused(&[
        ("{\"a\":".to_string(), 0, "not a valid safetensors file: its header cannot be parsed: EOF"),
        ("[]".to_string(), 0, INVALID),
        ("\u{7f}".repeat(9), 0, INVALID),
        ("[".repeat(100_000), 0, INVALID),
    ]);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let mut failures = Failures::default();
    for (bytes, expected) in [
        (vec![], "this is an empty file: download or save it again"),
        (vec![1, 2, 3], "it has 3 bytes, fewer than the 8"),
        (100u64.to_le_bytes().to_vec(), "its header claims 100 bytes, but the file has 8"),
        (100_000_001u64.to_le_bytes().to_vec(), "its header claims 100000001 bytes, more than the limit of 100000000"),
        (u64::MAX.to_le_bytes().to_vec(), "more than the limit"),
        (b"\x04\0\0\0\0\0\0\0\xff\xfe{}".to_vec(), INVALID),
    ] {
        fs::write(&path, bytes).unwrap();
        failures.error(load(&path), expected);
    }
}

#[test]
fn broken_folders_are_named_errors() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("nothing-here");
    assert_eq!(error_text(load(&missing)), format!("cannot open {}: no such file or folder", missing.display()));
    let index = folder.path().join("model.safetensors.index.json");
    let with = |text: &str| {
        fs::write(&index, text).unwrap();
        load(folder.path())
    };
    let mut failures = Failures::default();
    let map = |shard: &str| format!(r#"{{"weight_map":{{"wte.weight":"{shard}","wpe.weight":"{shard}"}}}}"#);
    for (text, expected) in [
        ("{", "not a valid shard index: expected a JSON object with a `weight_map`: EOF"),
        ("{}", "not a valid shard index: expected a JSON object with a `weight_map`: missing field"),
        (r#"{"weight_map":{}}"#, "its weight_map is empty"),
        (r#"{"weight_map":{"x":"y.safetensors"}}"#, "no token table found"),
        (&map("../secret.safetensors"), "`../secret.safetensors` is not the name of a file inside the index's folder"),
        (&map("/etc/passwd"), "`/etc/passwd` is not the name of a file inside the index's folder"),
        (&map(".."), "`..` is not the name of a file inside the index's folder"),
        (&map("a.safetensors"), "a.safetensors: no such file, but the index "),
    ] {
        failures.error(with(text), expected);
    }
    // The index names a tensor that its shard does not hold.
    let (wte, _) = tables(9, 5, 3);
    save_tensors(folder.path().join("a.safetensors"), [("wte.weight", &wte)], [])?;
    assert!(
        error_text(with(&map("a.safetensors")))
            .ends_with("the index says that this shard holds `wpe.weight`, but it does not: download both again")
    );
    Ok(())
}

#[test]
fn types_that_tables_cannot_have_are_refused() -> Result<()> {
    let result = GptInputLayer::from_pretrained(golden("gpt2_one_file"), DType::U8, &Device::Cpu);
    assert_eq!(
        error_text(result),
        "cannot load or save a tensor as U8: tables are f32, f16, bf16 or f64, other tensors also u8, u32 or i64"
    );
    Ok(())
}
