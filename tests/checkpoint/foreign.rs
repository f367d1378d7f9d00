//! Files that people give as weights by mistake: each is named, with what to do.
//!
//! Beginnings are from the formats' own pages: HDF5 File Format Specification 3.0 (II.A), onnx.proto,
//! saved_model.proto, Core ML's Model.proto, schema.fbs of TensorFlow Lite (`file_identifier "TFL3"`), msgpack's
//! spec.md, llama.cpp's `ggml.h` of May 2023 (`GGML_FILE_MAGIC`), llm.c's `dataloader.h`, `tokenizer.h` and
//! `train_gpt2.py`, RFC 1952 (gzip), RFC 8878 (zstd), xz-file-format.txt 2.1.1.1, 7zFormat.txt, APPNOTE.TXT 4.3.16
//! (zip), POSIX ustar, `numpy.lib.format`, and Git LFS' spec.md.

use candle_gpt_input::error::{CheckpointError, Error, ForeignFormat};

use super::support::hostile::zip_of;
use super::*;

fn padded(beginning: &[u8]) -> Vec<u8> {
    let mut bytes = beginning.to_vec();
    bytes.resize(4096, 0xa5);
    bytes
}

fn at(place: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![b'x'; place];
    file[0] = 1;
    file.extend(bytes);
    padded(&file)
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The files with what their message must contain.
fn cases() -> Vec<(Vec<u8>, &'static str)> {
    let lfs =
        "version https://git-lfs.github.com/spec/v1\noid sha256:248dfc3911869ec493c76e65bf2fcf7f\nsize 548105171\n";
    let page = "\n<!DOCTYPE html>\n<html class=\"\"><head><title>Sign in</title></head></html>";
    let mut cases = vec![
        (vec![], "an empty file: download or save it again"),
        (vec![0; 5000], "nothing but zeros at its beginning"),
        (vec![0; 9], "nothing but zeros at its beginning"),
        (lfs.into(), "a Git LFS pointer to a file of 548105171 bytes: run `git lfs pull`"),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "a Git LFS pointer: run `git lfs pull`"),
        (page.into(), "a web page (HTML)"),
        (b"\xef\xbb\xbf<HTML><body>404 Not Found</body>".to_vec(), "a web page (HTML)"),
        (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>".to_vec(), "XML, perhaps the error"),
        (br#"{"error":"Repository not found"}"#.to_vec(), "JSON, perhaps the answer of a server"),
        (br#"[{"a": 1}]"#.to_vec(), "JSON, perhaps the answer of a server"),
        (br#"{"architectures": ["GPT2LMHeadModel"], "n_embd": 768}"#.to_vec(), "JSON, the configuration of a model"),
        (b"Entry not found".to_vec(), "text, which begins with `Entry not found`"),
        (b"Access \x1b[31m".to_vec(), "not a valid safetensors file"),
        ("Nicht gefunden \u{202e}\nx".into(), r"text, which begins with `Nicht gefunden \u{202e}`"),
        (utf16("{\"a\": 1}\r\n"), "UTF-16"),
        ([b"\xff\xfe".to_vec(), utf16("Привет")].concat(), "text in UTF-16 or UTF-32"),
        (padded(b"\x89HDF\r\n\x1a\n\0\0\0"), "HDF5"),
        (at(512, b"\x89HDF\r\n\x1a\n"), "HDF5"),
        (padded(b"\x08\x07\x12\x07pytorch\x1a\x05"), "ONNX"),
        (padded(b"\x08\x09\x3a\xf0\x10"), "ONNX"),
        (padded(b"\x08\x01\x12\x90\xb1\x05\x0a\x8e"), "the graph of a TensorFlow SavedModel"),
        (padded(b"\x08\x04\x12\xb4\x01\x0a\x10"), "Core ML"),
        (padded(b"\x1c\0\0\0TFL3"), "TensorFlow Lite"),
        (padded(b"\x81\xabtransformer\x82\xa1h"), "MessagePack"),
        (padded(b"\xde\x00\x10\xa7lm_head"), "MessagePack"),
        (padded(b"lmgg"), "ggml, GGML from before GGUF"),
        (padded(b"fmgg\x01"), "ggmf, GGML from before GGUF"),
        (padded(b"tjgg\x03"), "ggjt, GGML from before GGUF"),
        (padded(b"algg\x01"), "ggla, GGML from before GGUF"),
        (padded(&20_240_327u32.to_le_bytes()), "a debug state of llm.c"),
        (padded(&20_240_328u32.to_le_bytes()), "a tokenizer of llm.c"),
        (padded(&20_240_520u32.to_le_bytes()), "token ids of llm.c"),
        (padded(&20_240_801u32.to_le_bytes()), "token ids of llm.c"),
        (padded(b"\x93NUMPY\x01\0v\0{'descr': '<f4'"), "one NumPy array"),
        (
            padded(b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x13joblib.numpy_pickle"),
            "a pickle that torch.save did not write",
        ),
        (padded(b"%PDF-1.7"), "a PDF document"),
        (padded(b"\x89PNG\r\n\x1a\n"), "a picture (PNG)"),
        (padded(b"\xff\xd8\xff\xe0"), "a picture (JPEG)"),
        (padded(b"PAR1"), "a Parquet file"),
        (padded(b"\x7fELF\x02"), "a program or library (ELF)"),
        (padded(b"GGUF\x04\0\0\0"), "version 4 is not supported: expected 1 to 3"),
        (padded(b"GGUF\0\0\0\x03"), "it is big-endian"),
    ];
    for (kind, beginning) in [
        ("gzip", &b"\x1f\x8b\x08"[..]),
        ("xz", b"\xfd7zXZ\0"),
        ("zstd", b"\x28\xb5\x2f\xfd"),
        ("bzip2", b"BZh9"),
        ("lz4", b"\x04\x22\x4d\x18"),
        ("zlib", b"\x78\x9c"),
        ("7z", b"7z\xbc\xaf\x27\x1c"),
        ("rar", b"Rar!\x1a\x07\x01\0"),
        ("zip", b"PK\x05\x06"),
    ] {
        cases.push((
            padded(beginning),
            Box::leak(format!("compressed or packed with {kind}: unpack it").into_boxed_str()),
        ));
    }
    cases.push((at(257, b"ustar\0"), "compressed or packed with tar: unpack it"));
    cases
}

/// The name of a file says nothing, and a folder or an index leads to the same words.
#[test]
fn foreign_files_are_named_wherever_they_are_opened() {
    let folder = TempDir::new().unwrap();
    let shard = "model-00001-of-00001.safetensors";
    let index = format!(r#"{{"weight_map":{{"wte.weight":"{shard}","wpe.weight":"{shard}"}}}}"#);
    fs::create_dir(folder.path().join("sharded")).unwrap();
    fs::write(folder.path().join("sharded/model.safetensors.index.json"), index).unwrap();
    fs::create_dir(folder.path().join("whole")).unwrap();
    let paths = ["x.bin", "x.safetensors", "whole/pytorch_model.bin", &format!("sharded/{shard}")];
    let mut failures = Failures::default();
    for (bytes, expected) in cases() {
        for path in paths {
            let path = folder.path().join(path);
            fs::write(&path, &bytes).unwrap();
            let is_alone = path.parent() == Some(folder.path());
            let text = error_text(load(if is_alone { &path } else { path.parent().unwrap() }));
            failures.holds(text.contains(expected), format_args!("{text}\n  expected {expected}"));
            failures.holds(text.contains(path.to_str().unwrap()), format_args!("{text}\n  without its path"));
            failures.holds(!text.contains(char::is_control), format_args!("{text:?}\n  is not one line"));
            failures.holds(text.matches("this is").count() <= 1, format_args!("{text}\n  says it twice"));
        }
    }
}

#[test]
fn a_foreign_file_can_be_matched() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tf_model.h5");
    fs::write(&path, padded(b"\x89HDF\r\n\x1a\n")).unwrap();
    let error = Checkpoint::open(&path).unwrap_err();
    assert!(
        matches!(error, Error::Checkpoint(CheckpointError::Foreign { format: ForeignFormat::Hdf5, .. })),
        "{error}"
    );
    // In a folder without weights, what might be meant is listed.
    fs::write(folder.path().join("notes.txt"), "see tf_model.h5").unwrap();
    let text = error_text(Checkpoint::open(folder.path()));
    assert!(text.contains("; found tf_model.h5 (HDF5, as of Keras"), "{text}");
    assert!(!text.contains("notes.txt"), "{text}");
}

#[test]
fn zip_files_of_others_are_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.bin");
    let mut failures = Failures::default();
    let pickle = b"\x80\x02c__torch__\nModule\n)\x81}b.";
    for (members, expected) in [
        (&[("report.docx", &b"text"[..])][..], "compressed or packed with zip"),
        (&[("metadata.json", b"{}"), ("model.weights.h5", b"\x89HDF")], "a Keras 3 file"),
        (&[("m/data.pkl", pickle), ("m/code/__torch__.py", b""), ("m/constants.pkl", b"\x80\x02).")], "TorchScript"),
    ] {
        let stored = |(name, bytes): &(&'static str, &'static [u8])| (*name, 0, bytes.len() as u32, *bytes);
        fs::write(&path, zip_of(&members.iter().map(stored).collect::<Vec<_>>())).unwrap();
        failures.error(load(&path), expected);
    }
}

#[test]
fn a_cut_download_says_how_much_is_missing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(golden("gpt2_one_file/model.safetensors")).unwrap();
    let n_whole = whole.len();
    let mut failures = Failures::default();
    for n_bytes in [n_whole - 1, n_whole / 2 + 500] {
        fs::write(&path, &whole[..n_bytes]).unwrap();
        let expected = format!("the file has {n_bytes} bytes and needs {n_whole}, as after a download that was cut");
        failures.error(load(&path), &expected);
    }
    fs::write(&path, &whole[..100]).unwrap();
    failures.error(load(&path), "but the file has 100: it is cut or damaged, download it again");
}

#[test]
fn a_folder_in_the_place_of_a_file_is_said() {
    let folder = TempDir::new().unwrap();
    let shard = "a.safetensors";
    let index = format!(r#"{{"weight_map":{{"wte.weight":"{shard}","wpe.weight":"{shard}"}}}}"#);
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    fs::create_dir(folder.path().join(shard)).unwrap();
    assert!(error_text(load(folder.path())).contains("a.safetensors: is a directory"));
    let text = error_text(load(folder.path().join(shard)));
    assert!(text.contains("cannot find weights in the folder") && text.contains("found none"), "{text}");
}

/// A configuration in another encoding is told by its first byte that is not UTF-8.
#[test]
fn a_configuration_that_is_not_utf_8_is_named_with_the_place() {
    let folder = TempDir::new().unwrap();
    fs::copy(golden("gpt2_one_file/model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let mut failures = Failures::default();
    for (bytes, expected) in [
        (&b"{\n\"_name\": \"caf\xe9\"}"[..], "byte 0xe9 at 15 (line 2, column 14) is not UTF-8: convert the text"),
        (&utf16("{\"n_embd\": 12}"), "the text is UTF-16LE, not UTF-8: convert it with `iconv -f UTF-16LE -t UTF-8`"),
        (&[b"\xff\xfe".to_vec(), utf16("{}")].concat(), "the text is UTF-16, not UTF-8"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "compressed or packed with gzip: unpack it first"),
        (b"\xef\xbb\xbf{}", "it begins with a byte order mark: save it as UTF-8 without one"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 665\n", "run `git lfs pull`"),
        (b"<!DOCTYPE html><html>", "this is a web page (HTML), such as that of an error or a login: download the file"),
    ] {
        fs::write(folder.path().join("config.json"), bytes).unwrap();
        failures.error(load(folder.path()), expected);
    }
}
