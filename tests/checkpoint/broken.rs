//! Hostile and broken files: one named error each.

use super::*;

#[test]
fn broken_files_are_named_errors() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let tensor = |name: &str, dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let wpe = tensor("wpe.weight", "F32", "[2,4]", 0, 32);
    let cases = [
        // (header, bytes of data, what the error says)
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[3,4]", 32, 80)),
            79,
            "describes 80 bytes of data, but 79 follow",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[3,4]", 32, 80)),
            81,
            "describes 80 bytes of data, but 81 follow",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[3,4]", 16, 64)),
            64,
            "not a valid safetensors file: invalid offset",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[3,4]", 40, 88)),
            88,
            "not a valid safetensors file: invalid offset",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[3,4]", 32, 1 << 60)),
            80,
            "not a valid safetensors file",
        ),
        (format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[3,5]", 32, 80)), 80, "not a valid safetensors file"),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[4294967296,4294967296,4294967296]", 32, 80)),
            80,
            "not a valid safetensors file",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "I32", "[3,4]", 32, 80)),
            80,
            "`wte.weight` holds I32, expected F32, F16, BF16 or F64",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[12]", 32, 80)),
            80,
            "`wte.weight` has shape [12], expected two dimensions",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[3,2,2]", 32, 80)),
            80,
            "`wte.weight` has shape [3, 2, 2], expected",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[0,4]", 32, 32)),
            32,
            "`wte.weight` has shape [0, 4], expected",
        ),
        (
            format!("{{{wpe},{}}}", tensor("wte.weight", "F32", "[6,2]", 32, 80)),
            80,
            "`wte.weight` is 2 wide, but `wpe.weight` is 4 wide",
        ),
        (
            format!("{{{wpe}}}"),
            32,
            "no token table found (looked for wte.weight, tok_emb.weight, token_embd.weight, wte under any prefix); closest: wpe.weight",
        ),
        (
            format!("{{{}}}", tensor("wte.weight", "F32", "[3,4]", 0, 48)),
            48,
            "no position table found (looked for wpe.weight",
        ),
        ("{}".to_string(), 0, "no token table found"),
        ("{\"a\":".to_string(), 0, "not a valid safetensors file: EOF"),
        ("[]".to_string(), 0, "not a valid safetensors file"),
        ("\u{7f}".repeat(9), 0, "not a valid safetensors file"),
        ("[".repeat(100_000), 0, "not a valid safetensors file"),
    ];
    for (header, n_data, expected) in cases {
        let text = error_text(load(file(&path, &header, n_data)));
        assert!(text.contains(expected), "{text}\nexpected {expected}");
        assert!(text.starts_with(&path.display().to_string()), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    for (bytes, expected) in [
        (vec![], "it has 0 bytes, fewer than the 8 of the header's length"),
        (vec![1, 2, 3], "it has 3 bytes, fewer than the 8"),
        (100u64.to_le_bytes().to_vec(), "its header claims 100 bytes, but the file has 8"),
        (100_000_001u64.to_le_bytes().to_vec(), "its header claims 100000001 bytes, more than the limit of 100000000"),
        (u64::MAX.to_le_bytes().to_vec(), "more than the limit"),
        (b"\x04\0\0\0\0\0\0\0\xff\xfe{}".to_vec(), "not a valid safetensors file"),
    ] {
        fs::write(&path, bytes).unwrap();
        let text = error_text(load(&path));
        assert!(text.contains(expected), "{text}\nexpected {expected}");
    }
    Ok(())
}

#[test]
fn broken_folders_are_named_errors() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("nothing-here");
    assert_eq!(error_text(load(&missing)), format!("{}: no such file or folder", missing.display()));
    let index = folder.path().join("model.safetensors.index.json");
    let with = |text: &str| {
        fs::write(&index, text).unwrap();
        error_text(load(folder.path()))
    };
    let map = |shard: &str| format!(r#"{{"weight_map":{{"wte.weight":"{shard}","wpe.weight":"{shard}"}}}}"#);
    for (text, expected) in [
        ("{", "not a valid shard index: EOF"),
        ("{}", "not a valid shard index: missing field `weight_map`"),
        (r#"{"weight_map":{}}"#, "its weight_map is empty"),
        (r#"{"weight_map":{"x":"y.safetensors"}}"#, "no token table found"),
        (&map("../secret.safetensors"), "`../secret.safetensors` is not a plain file name"),
        (&map("/etc/passwd"), "`/etc/passwd` is not a plain file name"),
        (&map(".."), "`..` is not a plain file name"),
        (&map("a.safetensors"), "a.safetensors: No such file or directory"),
    ] {
        let error = with(text);
        assert!(error.contains(expected), "{error}\nexpected {expected}");
    }
    // An index that names a tensor which its shard does not hold.
    let (wte, _) = tables(9, 5, 3);
    save_tensors(folder.path().join("a.safetensors"), &[("wte.weight", &wte)], &[])?;
    assert!(with(&map("a.safetensors")).ends_with("the index says that tensor `wpe.weight` is here, but it is not"));
    Ok(())
}

#[test]
fn types_that_tables_cannot_have_are_refused() -> Result<()> {
    let result = GptInputLayer::from_pretrained(golden("gpt2_one_file"), DType::U8, &Device::Cpu);
    assert_eq!(
        error_text(result),
        "U8 is not supported here: tables are f32, f16, bf16 or f64, other tensors also u8, u32 or i64"
    );
    Ok(())
}
