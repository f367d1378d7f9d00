//! Truncated, damaged and hostile files of each format: one clear error each, with little memory and stack.

// Long because it is a list of damages for every format.

use std::fs;
use std::io::Write;
use std::path::Path;

use candle_core::{DType, Device};
use candle_gpt_input::checkpoint::Checkpoint;
use candle_gpt_input::{GptInputLayer, Result};
use tempfile::TempDir;

use crate::memory;
use crate::support::hostile::{checksum, zip_of};
use crate::support::{error_text, golden};

fn load(path: impl AsRef<Path>) -> Result<GptInputLayer> {
    GptInputLayer::from_pretrained(path, DType::F32, &Device::Cpu)
}

/// Returns the error of a file with these bytes. It must be one line that names the path, and need less than 96 MB.
#[track_caller]
fn error_of(bytes: &[u8]) -> String {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x");
    fs::write(&path, bytes).unwrap();
    let (result, n_bytes) = memory::peak(|| load(&path));
    let text = error_text(result);
    assert!(n_bytes < 96 << 20, "{n_bytes} bytes: {text}");
    assert!(text.contains(&path.display().to_string()) && text.lines().count() == 1, "{text}");
    text
}

#[track_caller]
fn assert_error(bytes: &[u8], expected: &str) {
    let text = error_of(bytes);
    assert!(text.contains(expected), "{text}\nexpected {expected}");
}

/// Makes a PyTorch file with this pickle and a storage `0` of four f32.
pub fn torch_of(pickle: &[u8]) -> Vec<u8> {
    zip_of(&[("a/data.pkl", 0, pickle.len() as u32, pickle), ("a/data/0", 0, 16, &[0; 16])])
}

/// Pickles `{'wte.weight': _rebuild_tensor_v2(storage 0, *place)}`; `place` is the pickled offset, shape and strides.
fn tensor_pickle(place: &[u8]) -> Vec<u8> {
    let storage = b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ";
    let call = b"ctorch._utils\n_rebuild_tensor_v2\n";
    [b"\x80\x02}X\x0a\0\0\0wte.weight", &call[..], storage, place, b"\x89NtRs."].concat()
}

#[test]
fn every_prefix_of_every_file_is_an_error() {
    let names = [
        "state_dict.pth",
        "legacy.bin",
        "stored.npz",
        "deflated.npz",
        "f32.gguf",
        "llmc_f32.bin",
        "openai/model.ckpt.index",
    ];
    for name in names {
        let bytes = fs::read(golden("formats").join(name)).unwrap();
        for n in (0..bytes.len()).step_by(7).chain(bytes.len() - 8..bytes.len()) {
            error_of(&bytes[..n]);
        }
    }
}

#[test]
fn a_truncated_file_says_what_it_should_be() {
    for (name, expected) in [
        ("state_dict.pth", "not a valid PyTorch file: its zip directory is missing: the file is truncated or damaged"),
        ("legacy.bin", "not a valid PyTorch file: "),
        ("stored.npz", "not a valid NumPy .npz file: its zip directory is missing"),
        ("f32.gguf", "not a valid GGUF file: `position_embd.weight` has "),
        ("llmc_f32.bin", "not a valid llm.c file: its header describes 10240 bytes, but the file has 10239"),
    ] {
        let bytes = fs::read(golden("formats").join(name)).unwrap();
        assert_error(&bytes[..bytes.len() - if name == "f32.gguf" { 300 } else { 1 }], expected);
    }
}

#[test]
fn an_encrypted_member_is_named() {
    let mut bytes = torch_of(&tensor_pickle(b"K\x00K\x02K\x02\x86K\x02K\x01\x86"));
    let entry = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    bytes[entry + 8] |= 1;
    assert_error(&bytes, "not a valid PyTorch file: `a/data.pkl` is encrypted");
}

/// Makes a table of these keys in one block, with empty values and right checksums.
fn sstable_of(keys: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut add = |entries: &[(&[u8], &[u8])]| -> Vec<u8> {
        let mut block = Vec::new();
        for (key, value) in entries {
            block.extend([&[0, key.len() as u8, value.len() as u8], *key, value].concat());
        }
        block.extend([0u32, 1].map(u32::to_le_bytes).concat()); // one restart, at 0
        let handle = vec![bytes.len() as u8, block.len() as u8];
        block.push(0); // not compressed
        let checksum = checksum(&block);
        bytes.extend([&block[..], &checksum].concat());
        handle
    };
    let entries: Vec<(&[u8], &[u8])> = keys.iter().map(|key| (*key, &b""[..])).collect();
    let data = add(&entries);
    let filters = add(&[]);
    let index = add(&[(b"z", &data)]);
    let mut footer = [filters, index].concat();
    footer.resize(40, 0);
    [&bytes[..], &footer, b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"].concat()
}

#[test]
fn keys_out_of_order_are_refused() {
    for keys in [[&b"b"[..], b"a"], [b"a", b"a"]] {
        assert_error(&sstable_of(&keys), "not a valid TensorFlow index file: its keys are not in order");
    }
    assert_error(&sstable_of(&[b"a", b"b"]), "not a valid TensorFlow index file: ");
    assert!(!error_of(&sstable_of(&[b"a", b"b"])).contains("order"));
}

#[test]
fn nothing_of_a_pickle_is_executed() {
    let folder = TempDir::new().unwrap();
    let touched = folder.path().join("touched");
    let command = format!("touch {}", touched.display());
    let text = [b"X", &(command.len() as u32).to_le_bytes()[..], command.as_bytes()].concat();
    for (pickle, expected) in [
        ([b"\x80\x02cposix\nsystem\n(", &text[..], b"tR."].concat(), "its pickle holds `posix.system`"),
        ([b"\x80\x04\x8c\x02os\x8c\x06system\x93", &text[..], b"\x85R."].concat(), "its pickle holds `os.system`"),
        (b"\x80\x02cbuiltins\neval\n.".to_vec(), "`builtins.eval`"),
        (b"\x80\x02ctorch\nload\n.".to_vec(), "`torch.load`"),
        (b"\x80\x02ctorch.hub\nloadStorage\n.".to_vec(), "`torch.hub.loadStorage`"),
        ([b"(", &text[..], b"iposix\nsystem\n."].concat(), "its pickle holds `posix.system`"),
        ([b"\x80\x02}X\x03\0\0\0wtecposix\nsystem\n(", &text[..], b"tRs."].concat(), "its pickle holds `posix.system`"),
        (b"\x80\x02}X\x03\0\0\0wtecposix\nsystem\ns.".to_vec(), "its pickle holds `posix.system`"),
        (b"\x80\x02\x82\x01.".to_vec(), "opcode 0x82"),
        (b"\x80\x02}}R.".to_vec(), "a call of something that is not a function"),
    ] {
        assert_error(&torch_of(&pickle), expected);
        assert_error(&torch_of(&pickle), "(nothing was executed): save `model.state_dict()` alone");
    }
    assert!(!touched.exists());
}

#[test]
fn pickles_that_make_no_sense_are_errors() {
    for (pickle, expected) in [
        (&b"\x80\x02."[..], "takes a value from an empty stack"),
        (b"\x80\x02}", "it ends too early"),
        (b"\x80\x02K\x01.", "it holds no dict of tensors"),
        (b"\x80\x02h\x07.", "asks for memo 7, which was never set"),
        (b"\x80\x02}u.", "no mark where one is used"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "2147483647 bytes are claimed"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "bytes are claimed"),
        (b"\x80\x02}X\x05\0\0\0modelh\0s.", "asks for memo 0"),
        // A dict that contains itself, and a list that does.
        (b"\x80\x02}q\0X\x05\0\0\0modelh\0s.", "it holds no tensor under a name"),
        (b"\x80\x02}X\x05\0\0\0model]q\0h\0as.", "it holds no tensor under a name"),
        (b"\x80\x02}X\x01\0\0\0aK\x01Qs.", "it holds no tensor under a name"),
    ] {
        assert_error(&torch_of(pickle), expected);
    }
    // Half a million nested lists, and doublings that would have 2^200 elements.
    let nested = [&b"\x80\x02"[..], &b"]".repeat(500_000), &b"a".repeat(499_999), b"."].concat();
    assert_error(&torch_of(&nested), "nests dicts and lists deeper than 64");
    let mut doubled = b"\x80\x02]q\0".to_vec();
    for _ in 0..200 {
        doubled.extend(b"h\0h\0\x86q\0");
    }
    doubled.push(b'.');
    assert_error(&torch_of(&doubled), "nests dicts and lists deeper than 64");
    assert_error(&torch_of(&b"N".repeat(3 << 20)), "it ends too early");
}

#[test]
fn tensors_outside_of_their_storage_are_errors() {
    for (place, expected) in [
        (&b"K\0(K\x02K\x02t(K\x02K\x01t"[..], "no position table found"), // this one is valid
        (b"K\x01(K\x02K\x02t(K\x02K\x01t", "takes 16 bytes at 4 of storage `0`, which has 16"),
        (b"K\0(K\x02K\x03t(K\x03K\x01t", "takes 24 bytes at 0"),
        (b"K\0(K\x02K\x02t(K\x05K\x01t", "takes 28 bytes at 0"),
        (b"J\xff\xff\xff\xff(K\x02K\x02t(K\x02K\x01t", "describes an impossible tensor"),
        (b"K\0(J\xff\xff\xff\xffK\x02t(K\x02K\x01t", "describes an impossible tensor"),
        (b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f(K\x02K\x02t(K\x02K\x01t", "describes an impossible tensor"),
        (b"K\0NN", "describes an impossible tensor"),
    ] {
        assert_error(&torch_of(&tensor_pickle(place)), expected);
    }
    // PyTorch expands tensors so, but 65025 elements or 2^64 of a storage of 16 bytes are not read.
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x");
    for (place, expected) in [
        (&b"K\0(K\xffK\xfft(K\0K\0t"[..], "a view of shape [255, 255] and strides [0, 0] with more elements"),
        (b"K\0(\x8a\x08\0\0\0\0\0\0\0\x40K\x04t(K\x04K\x01t", "a view of shape [4611686018427387904, 4] with more"),
        (b"K\0(K\x02K\x02t(\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x01t", "strides [9223372036854775807, 1] with"),
    ] {
        fs::write(&path, torch_of(&tensor_pickle(place))).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert!(checkpoint.tensors().unwrap().is_empty());
        let reason = &checkpoint.unreadable().unwrap()[0].reason;
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn hostile_zip_files_are_errors() {
    let header = |shape: &str| {
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        [b"\x93NUMPY\x01\0", &(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat()
    };
    // A zip bomb: zeros that inflate to far more than the file's size.
    let mut bomb = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    let front = header("(262144, 1024)");
    bomb.write_all(&front).unwrap();
    for _ in 0..64 {
        bomb.write_all(&[0; 1 << 20]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    let claimed = front.len() as u32 + (1 << 30);
    assert_error(&zip_of(&[("wte.npy", 8, claimed, &bomb)]), "more than weights do: save it with `np.savez`");
    for (members, expected) in [
        (zip_of(&[("wte.npy", 0, 16, &header("(2, 2)"))]), "a stored member of the zip has two sizes"),
        (zip_of(&[("wte.npy", 12, 4, b"abcd")]), "compression method 12 is not supported, only 0 and 8"),
        (zip_of(&[("wte.npy", 0, 4, b"abcd")]), "`wte`: it ends too early"),
        (zip_of(&[("wte.npy", 0, 12, b"not an array")]), "`wte`: not a NumPy array"),
        (
            zip_of(&[("wte.npy", 0, header("(2, 2)").len() as u32, &header("(2, 2)"))]),
            "cannot hold shape [2, 2] of F32",
        ),
        (
            zip_of(&[("wte.npy", 0, header("(-1, 2)").len() as u32, &header("(-1, 2)"))]),
            "a header that cannot be parsed",
        ),
        (zip_of(&[("a", 0, 0, b""), ("a", 0, 0, b"")]), "it holds `a` twice"),
        (zip_of(&[("a/data.pkl", 8, 4, b"abcd")]), "`data.pkl` is compressed, which PyTorch never does"),
    ] {
        assert_error(&members, expected);
    }
    let good = zip_of(&[("wte.npy", 0, 4, b"abcd")]);
    let end = good.len() - 22;
    for (at, value, expected) in [
        (end + 12, u32::MAX, "4294967295 bytes are needed at"),
        (end + 16, u32::MAX, "but the file ends at"),
        (end + 16, 0, "its zip directory is damaged"),
        (end - 53 + 42, u32::MAX - 1, "a member of the zip lies outside the file"),
        (end - 53 + 20, u32::MAX - 1, "extends beyond the file"),
    ] {
        let mut broken = good.clone();
        broken[at..at + 4].copy_from_slice(&value.to_le_bytes());
        assert_error(&broken, expected);
    }
}

#[test]
fn hostile_gguf_files_are_errors() {
    let gguf = |version: u32, rest: &[u8]| [b"GGUF", &version.to_le_bytes()[..], rest].concat();
    let counts = |n_tensors: u64, n_pairs: u64| [n_tensors.to_le_bytes(), n_pairs.to_le_bytes()].concat();
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let entry = |name: &str, dims: &[u64], dtype: u32, offset: u64| {
        let dims_bytes: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
        let n_dims = (dims.len() as u32).to_le_bytes();
        [text(name), n_dims.to_vec(), dims_bytes, dtype.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec()].concat()
    };
    let one = |entry: Vec<u8>| gguf(3, &[counts(1, 0), entry, vec![0; 64]].concat());
    // Arrays of arrays of arrays …
    let nested =
        [text("k"), 9u32.to_le_bytes().to_vec(), [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat().repeat(65)];
    for (bytes, expected) in [
        (gguf(3, &counts(1 << 60, 0)), "it claims 1152921504606846976 entries"),
        (gguf(3, &counts(0, 1 << 60)), "it claims 1152921504606846976 entries"),
        (gguf(9, &counts(0, 0)), "version 9 is not supported: expected 1 to 3"),
        (gguf(3 << 24, &counts(0, 0)), "it is big-endian"),
        (gguf(3, &[counts(0, 1), nested.concat()].concat()), "arrays nested deeper than 64"),
        (gguf(3, &[counts(0, 1), text("k"), vec![77, 0, 0, 0]].concat()), "a value of the unknown kind 77"),
        (gguf(3, &[counts(0, 1), u64::MAX.to_le_bytes().to_vec(), vec![0; 32]].concat()), "a name of"),
        (one(entry("t", &[1 << 40, 1 << 40], 0, 0)), "cannot have shape"),
        (one(entry("t", &[u64::MAX, 2], 0, 0)), "cannot have shape"),
        (one(entry("t", &[1 << 20, 1], 0, 0)), "its file ends at"),
        (one(entry("t", &[4], 0, u64::MAX - 64)), "truncated or damaged"),
        (one(entry("t", &[33, 1], 8, 0)), "`t` cannot have shape [1, 33] of Q8_0"),
        (one(entry("t", &[4], 99, 0)), "`t` has the unknown dtype 99"),
        (one(entry("t", &[4; 65], 0, 0)), "`t` has 65 dimensions"),
        (one(entry("t", &[4], 0, 0)), "no token table found"),
    ] {
        assert_error(&bytes, expected);
    }
}

/// Found by the fuzzer: a file's text broke an error into several lines.
#[test]
fn control_characters_of_a_file_stay_out_of_messages() {
    let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,\n\u{1b}[2J), }";
    let header = [b"\x93NUMPY\x01\0", &(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat();
    assert_error(&zip_of(&[("wte.npy", 0, header.len() as u32, &header)]), r"'shape': (2,\n\u{1b}[2J), }");
    assert_error(&zip_of(&[("a\nb.npy", 0, 4, b"abcd")]), r"`a\nb`: it ends too early");
    assert_error(&torch_of(b"\x80\x02cposix\r\nsys\ttem\n."), "its pickle holds `posix?.sys?tem`");
    let gguf = fs::read(golden("formats/f32.gguf")).unwrap();
    let at = gguf.windows(12).position(|bytes| bytes == b"token_embd.w").unwrap();
    let broken = [&gguf[..at], b"token_emb\n.w", &gguf[at + 12..]].concat();
    assert_error(&broken, "a tensor's name has control characters: `token_emb\\n.weight`");
}

#[test]
fn hostile_llmc_files_are_errors() {
    let good = fs::read(golden("formats/llmc_f32.bin")).unwrap();
    for (at, value, expected) in [
        (1, 4, "version 4 is not supported: expected 3 (f32) or 5 (bf16)"),
        (2, -1, "max_seq_len is -1"),
        (3, 65, "a vocabulary of 65 cannot be padded to 64"),
        (4, i32::MAX, "its header describes "),
        (6, i32::MAX, "its header describes "),
        (6, 0, "its header describes "),
        (7, -5, "padded_vocab_size is -5"),
        (7, i32::MAX, "its header describes "),
    ] {
        let mut broken = good.clone();
        broken[at * 4..at * 4 + 4].copy_from_slice(&value.to_le_bytes());
        assert_error(&broken, expected);
    }
}

#[test]
fn a_damaged_tensorflow_checkpoint_is_an_error() {
    let folder = TempDir::new().unwrap();
    let (index, data) = (folder.path().join("m.index"), folder.path().join("m.data-00000-of-00001"));
    let good = fs::read(golden("formats/openai/model.ckpt.index")).unwrap();
    fs::write(&index, &good).unwrap();
    assert!(error_text(load(&index)).contains("m.data-00000-of-00001: No such file"));
    let bytes = fs::read(golden("formats/openai/model.ckpt.data-00000-of-00001")).unwrap();
    fs::write(&data, &bytes[..bytes.len() - 4]).unwrap();
    let text = error_text(load(&index));
    assert!(text.contains("not a valid TensorFlow index file: `model/wte` has 1664 bytes at"), "{text}");
    fs::write(&data, &bytes).unwrap();
    drop(load(folder.path().join("m")).unwrap());
    for at in 0..good.len() - 48 {
        let mut broken = good.clone();
        broken[at] ^= 0x10;
        fs::write(&index, &broken).unwrap();
        assert!(error_text(load(&index)).contains("does not match its checksum"), "byte {at}");
    }
}
