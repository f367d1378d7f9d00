//! `inspect_checkpoint` on files of a megabyte that claim as much as their format can: 128 MB of memory and 5 seconds
//! of the processor are enough, for a list or for an error.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::example;
use crate::support::hostile::{
    deflated, gguf, gguf_array, llmc, npy, safetensors, snappy_without_entries, sstable, zip_of,
};

const N_BYTES: usize = 1 << 20;

/// Repeats a numbered part until it fills the file.
fn filled(part: impl Fn(usize) -> Vec<u8>) -> (Vec<u8>, usize) {
    let (mut bytes, mut n) = (Vec::new(), 0);
    while bytes.len() < N_BYTES - 2000 {
        bytes.extend(part(n));
        n += 1;
    }
    (bytes, n)
}

/// Repeats a numbered text, with commas between.
fn listed(part: impl Fn(usize) -> String) -> String {
    let text = String::from_utf8(filled(|i| format!("{},", part(i)).into_bytes()).0).unwrap();
    text.trim_end_matches(',').to_string()
}

fn of_safetensors() -> Vec<Vec<u8>> {
    let entry = |i: usize| format!(r#""{i:x}":{{"dtype":"U8","shape":[],"data_offsets":[{i},{}]}}"#, i + 1);
    let tensors = listed(entry);
    let n_tensors = tensors.matches("dtype").count();
    let dims = listed(|_| "0".to_string());
    let texts = listed(|i| format!(r#""{i:x}":"""#));
    let config = listed(|_| r#"{\"\":0}"#.to_string());
    vec![
        safetensors(&format!("{{{tensors}}}"), n_tensors),
        safetensors(&format!(r#"{{"t":{{"dtype":"U8","shape":[{dims}],"data_offsets":[0,0]}}}}"#), 0),
        safetensors(&format!(r#"{{"__metadata__":{{{texts}}}}}"#), 0),
        safetensors(&format!(r#"{{"__metadata__":{{"gpt_input_config":"{{\"a\":[{config}]}}"}}}}"#), 0),
        safetensors(&format!(r#"{{"{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}}}"#, "n".repeat(65535)), 0),
        safetensors(&"[".repeat(N_BYTES), 0),
    ]
}

/// Pickles that repeat what is in their memo, in both of PyTorch's containers.
fn of_pytorch() -> Vec<Vec<u8>> {
    let text = |text: &str| [b"X", &u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat();
    let storage =
        [b"((", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x04tQK\0"].concat();
    let ones = [b"(", &b"K\x01".repeat(64)[..], b"t"].concat();
    let tensor = [b"ctorch._utils\n_rebuild_tensor_v2\n", &storage[..], &ones, &ones, b"\x89NtR"].concat();
    let named = |i: usize| {
        let name = format!("{i:x}");
        [&[b'U', name.len() as u8][..], name.as_bytes(), b"h\0"].concat()
    };
    let pickles = [
        [&b"\x80\x02}("[..], &text("t"), &tensor, b"q\0", &filled(named).0, b"u."].concat(),
        [&b"\x80\x02"[..], &filled(|_| b"]".to_vec()).0, b"."].concat(),
        [&b"\x80\x02]q\0("[..], &filled(|_| b"}".to_vec()).0, b"e."].concat(),
        [&b"\x80\x02]q\0"[..], &filled(|_| b"h\0h\0\x86q\0".to_vec()).0, b"."].concat(),
    ];
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    let zipped = |pickle: &Vec<u8>| {
        zip_of(&[("a/data.pkl", 0, u32::try_from(pickle.len()).unwrap(), pickle), ("a/data/0", 0, 16, &[0; 16])])
    };
    let old = |pickle: &Vec<u8>| [&magic[..], pickle, b"\x80\x02]X\x01\0\0\x000a.", &[0; 24]].concat();
    pickles.iter().map(zipped).chain(pickles.iter().map(old)).collect()
}

fn of_gguf() -> Vec<Vec<u8>> {
    let text = |text: String| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let tensor = |i: usize| [&text(format!("{i:x}"))[..], &[0; 4], &24u32.to_le_bytes(), &[0; 8]].concat();
    let key = |i: usize| [&text(format!("{i:x}.block_count"))[..], &4u32.to_le_bytes(), &[1, 0, 0, 0]].concat();
    let ((tensors, n_tensors), (keys, n_keys)) = (filled(tensor), filled(key));
    vec![
        gguf(n_tensors as u64, 0, &[tensors, vec![0; 64]].concat()),
        gguf(0, n_keys as u64, &keys),
        gguf(0, 1, &[gguf_array(8, 1 << 16), vec![0; N_BYTES]].concat()),
        gguf(0, 1, &filled(|i| if i == 0 { gguf_array(9, 1) } else { [9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0].into() }).0),
    ]
}

fn of_npz() -> Vec<Vec<u8>> {
    let array = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", &[0; 4]);
    let wide =
        npy(&format!("{{'descr': '<f4', 'fortran_order': True, 'shape': ({}), }}", "1,".repeat(32_000)), &[0; 4]);
    let zip = |method: u16, n: usize, n_bytes: usize, bytes: &[u8]| {
        let names: Vec<String> = (0..n).map(|i| format!("{i:x}")).collect();
        let n_bytes = u32::try_from(n_bytes).unwrap();
        zip_of(&names.iter().map(|name| (name.as_str(), method, n_bytes, bytes)).collect::<Vec<_>>())
    };
    let small = deflated(&wide);
    vec![
        zip(0, 6000, array.len(), &array),
        zip(0, 15, wide.len(), &wide),
        zip(8, N_BYTES / (small.len() + 90), wide.len(), &small),
        zip(0, 10_000, 0, &[]),
    ]
}

fn of_tensorflow() -> Vec<Vec<u8>> {
    let scalar = |i: usize| {
        let key = u32::try_from(i).unwrap().to_be_bytes().map(|byte| format!("{byte:02x}")).concat();
        [&[0, 8, 4][..], key.as_bytes(), &[0x08, 1, 0x28, 4]].concat()
    };
    let entries = [&[0, 0, 2, 0x08, 1][..], &filled(scalar).0, &[0; 4]].concat();
    vec![
        sstable(&entries, 0, 1),
        sstable(&snappy_without_entries(300_000), 1, 1),
        sstable(&snappy_without_entries(200_000), 1, 20_000),
    ]
}

/// Runs the program with a limit of memory and one of processor time; returns what is wrong.
fn inspect(what: &str, path: &Path) -> Option<String> {
    let program = example("inspect_checkpoint").get_program().to_owned();
    let limited = r#"ulimit -d 131072; ulimit -t 5; exec "$0" "$1""#;
    let output = Command::new("sh").args(["-c", limited]).arg(program).arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let is_right = match output.status.code() {
        Some(0) => said.is_empty(),
        Some(1) => said.lines().count() == 1 && !said.contains("panicked"),
        _ => false,
    };
    (!is_right).then(|| format!("{what}: {:?} {said}", output.status))
}

#[cfg(target_os = "linux")]
#[test]
fn a_megabyte_takes_little_memory_and_time() {
    let (llmc_header, n_bytes) = llmc(10_000);
    let llmc_file = [llmc_header.clone(), vec![0; usize::try_from(n_bytes).unwrap() - llmc_header.len()]].concat();
    let formats = [
        ("safetensors", of_safetensors()),
        ("PyTorch", of_pytorch()),
        ("GGUF", of_gguf()),
        ("NumPy", of_npz()),
        ("llm.c", vec![llmc_file]),
        ("TensorFlow", of_tensorflow()),
    ];
    let mut wrong = Vec::new();
    for (format, files) in formats {
        for (i, bytes) in files.iter().enumerate() {
            assert!(bytes.len() < 2 * N_BYTES, "{format} {i}: {}", bytes.len());
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("x.index");
            fs::write(&path, bytes).unwrap();
            fs::write(folder.path().join("x.data-00000-of-00001"), [0; 4]).unwrap();
            wrong.extend(inspect(&format!("{format} {i}"), &path));
        }
    }
    let folder = TempDir::new().unwrap();
    let names = listed(|i| format!(r#""{i:x}":"s""#));
    fs::write(folder.path().join("model.safetensors.index.json"), format!(r#"{{"weight_map":{{{names}}}}}"#)).unwrap();
    fs::write(folder.path().join("s"), safetensors("{}", 0)).unwrap();
    wrong.extend(inspect("an index", folder.path()));
    for (what, value) in [("lists", "[]"), ("objects", r#"{"":0}"#), ("numbers", "0"), ("what is not finite", "NaN")] {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("model.safetensors"), safetensors("{}", 0)).unwrap();
        let config = format!(r#"{{"a":[{}]}}"#, listed(|_| value.to_string()));
        fs::write(folder.path().join("config.json"), config).unwrap();
        wrong.extend(inspect(&format!("a configuration of {what}"), folder.path()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
