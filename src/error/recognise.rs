//! Recognises files that are often given as weights by mistake, by their first bytes.

use super::foreign::ForeignFormat as Foreign;

/// How many bytes at the beginning of a file are enough.
pub(crate) const N_HEAD: usize = 1024;
/// Text of a first line that is reported.
const N_FIRST_LINE: usize = 200;

/// What a file begins with, where that alone tells its kind.
///
/// GGML's words are those of `llama.cpp` before GGUF, little-endian; llm.c's are from `llmc/dataloader.h`,
/// `llmc/tokenizer.h` and `train_gpt2.py`. The others are from file(1)'s magic and the formats' specifications.
const BEGINNINGS: &[(&[u8], Foreign)] = &[
    (b"\x89HDF\r\n\x1a\n", Foreign::Hdf5),
    (b"lmgg", Foreign::Ggml { kind: "ggml" }),
    (b"fmgg", Foreign::Ggml { kind: "ggmf" }),
    (b"tjgg", Foreign::Ggml { kind: "ggjt" }),
    (b"algg", Foreign::Ggml { kind: "ggla" }),
    (&20_240_327u32.to_le_bytes(), Foreign::LlmcState),
    (&20_240_328u32.to_le_bytes(), Foreign::LlmcTokenizer),
    (&20_240_520u32.to_le_bytes(), Foreign::LlmcTokens),
    (&20_240_801u32.to_le_bytes(), Foreign::LlmcTokens),
    (b"\x93NUMPY", Foreign::Npy),
    (b"PK\x05\x06", Foreign::Archive { kind: "zip" }),
    (b"PK\x07\x08", Foreign::Archive { kind: "zip" }),
    (b"\x1f\x8b", Foreign::Archive { kind: "gzip" }),
    (b"\xfd7zXZ\0", Foreign::Archive { kind: "xz" }),
    (b"\x28\xb5\x2f\xfd", Foreign::Archive { kind: "zstd" }),
    (b"BZh", Foreign::Archive { kind: "bzip2" }),
    (b"\x04\x22\x4d\x18", Foreign::Archive { kind: "lz4" }),
    (b"7z\xbc\xaf\x27\x1c", Foreign::Archive { kind: "7z" }),
    (b"Rar!\x1a\x07", Foreign::Archive { kind: "rar" }),
    // RFC 1950, at the usual window and each of the four levels: joblib compresses so.
    (b"\x78\x01", Foreign::Archive { kind: "zlib" }),
    (b"\x78\x5e", Foreign::Archive { kind: "zlib" }),
    (b"\x78\x9c", Foreign::Archive { kind: "zlib" }),
    (b"\x78\xda", Foreign::Archive { kind: "zlib" }),
    (b"%PDF-", Foreign::Other { what: "a PDF document" }),
    (b"\x89PNG\r\n\x1a\n", Foreign::Other { what: "a picture (PNG)" }),
    (b"\xff\xd8\xff", Foreign::Other { what: "a picture (JPEG)" }),
    (b"GIF8", Foreign::Other { what: "a picture (GIF)" }),
    (b"RIFF", Foreign::Other { what: "a sound, video or picture (RIFF)" }),
    (b"PAR1", Foreign::Other { what: "a Parquet file" }),
    (b"ARROW1", Foreign::Other { what: "an Arrow file" }),
    (b"SQLite format 3\0", Foreign::Other { what: "an SQLite database" }),
    (b"\x7fELF", Foreign::Other { what: "a program or library (ELF)" }),
];

/// Recognises the first bytes of a file; more follow if `is_cut`. `None` for bytes of no known kind.
pub(crate) fn foreign_head(head: &[u8], is_cut: bool) -> Option<Foreign> {
    if head.is_empty() {
        return Some(Foreign::Empty);
    }
    if head.iter().all(|byte| *byte == 0) {
        return Some(Foreign::Zeros);
    }
    if let Some((_, found)) = BEGINNINGS.iter().find(|(beginning, _)| head.starts_with(beginning)) {
        return Some(found.clone());
    }
    let at = |start: usize, bytes: &[u8]| head.get(start..).is_some_and(|rest| rest.starts_with(bytes));
    match head {
        _ if at(4, b"TFL3") => Some(Foreign::TfLite),
        // A frame that is skipped, before others; LZ4's frames have the same one.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Foreign::Archive { kind: "zstd" }),
        _ if at(257, b"ustar") => Some(Foreign::Archive { kind: "tar" }),
        // HDF5 may begin after a block of the user's, of 512 bytes or a power of two times that.
        _ if at(512, b"\x89HDF\r\n\x1a\n") => Some(Foreign::Hdf5),
        [0x80, 2..=5, ..] => Some(Foreign::Pickle),
        _ => of_protobuf(head).or_else(|| of_message_pack(head)).or_else(|| of_text(head, is_cut)),
    }
}

/// Recognises a message of Protocol Buffers whose first field is a small version, by its second field.
///
/// `ModelProto` of onnx.proto has `ir_version = 1` and text or messages from 2 to 8; `SavedModel` of
/// saved_model.proto has `saved_model_schema_version = 1`, always 1, and messages in 2; `Model` of Core ML's
/// Model.proto has `specificationVersion = 1` and a message in 2, which begins with its own field 1.
fn of_protobuf(head: &[u8]) -> Option<Foreign> {
    let [0x08, version @ 1..=0x20, key, rest @ ..] = head else { return None };
    let first = rest.iter().position(|byte| byte & 0x80 == 0).and_then(|end| rest.get(end + 1));
    match (key, first) {
        (0x12, Some(b' '..=b'~')) | (0x1a | 0x22 | 0x32 | 0x3a | 0x42, _) => Some(Foreign::Onnx),
        (0x12, Some(0x0a)) if *version == 1 => Some(Foreign::SavedModel),
        (0x12, Some(0x0a)) => Some(Foreign::CoreMl),
        _ => None,
    }
}

/// Recognises a MessagePack map whose first key is text, as Flax writes it.
fn of_message_pack(head: &[u8]) -> Option<Foreign> {
    let entry = match head {
        [0x81..=0x8f, rest @ ..] | [0xde, _, _, rest @ ..] | [0xdf, _, _, _, _, rest @ ..] => rest,
        _ => return None,
    };
    let (n_bytes, key) = match entry {
        [n @ 0xa1..=0xbf, key @ ..] => (usize::from(n - 0xa0), key),
        [0xd9, n, key @ ..] => (usize::from(*n), key),
        _ => return None,
    };
    let is_name = |key: &[u8]| key.iter().all(|byte| byte.is_ascii_graphic());
    key.get(..n_bytes).is_some_and(is_name).then_some(Foreign::MessagePack)
}

fn of_text(head: &[u8], is_cut: bool) -> Option<Foreign> {
    if wide(head).is_some() {
        return Some(Foreign::WideText);
    }
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if is_cut && error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    if text.contains(|c: char| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let begins = |word: &str| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    Some(match text.chars().next() {
        _ if begins("version https://git-lfs.") || begins("version https://hawser.") => {
            let n_bytes = text.lines().find_map(|line| line.strip_prefix("size ")?.trim().parse().ok());
            Foreign::GitLfs { n_bytes }
        }
        Some('<') if begins("<?xml") && !text.to_ascii_lowercase().contains("<html") => Foreign::Xml,
        Some('<') => Foreign::Html,
        Some('{' | '[') => foreign_json(text),
        _ => Foreign::Text { first_line: first_line(text).to_string() },
    })
}

/// Tells a configuration from other JSON by the keys of transformers.
pub(crate) fn foreign_json(text: &str) -> Foreign {
    let has = |key: &str| text.contains(&format!("\"{key}\""));
    let is_config = ["model_type", "architectures", "n_embd", "hidden_size"].into_iter().any(has);
    if is_config { Foreign::Config } else { Foreign::Json }
}

fn first_line(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default().trim_end();
    &line[..line.floor_char_boundary(N_FIRST_LINE)]
}

/// Recognises UTF-16 and UTF-32 by their byte order marks, or by the zeros beside Latin letters.
pub(super) fn wide(bytes: &[u8]) -> Option<&'static str> {
    let head = &bytes[..bytes.len().min(256)];
    // Which bytes of each unit are zero, by the first few; at least two units must agree.
    let zeros = |width: usize, is_zero: &[bool]| {
        head.len() >= 2 * width
            && head.chunks_exact(width).all(|unit| unit.iter().map(|b| *b == 0).eq(is_zero.iter().copied()))
    };
    match head {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        _ if zeros(4, &[false, true, true, true]) => Some("UTF-32LE"),
        _ if zeros(4, &[true, true, true, false]) => Some("UTF-32BE"),
        _ if zeros(2, &[false, true]) => Some("UTF-16LE"),
        _ if zeros(2, &[true, false]) => Some("UTF-16BE"),
        _ => None,
    }
}
