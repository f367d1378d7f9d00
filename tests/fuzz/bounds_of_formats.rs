//! Small files that claim much, of every format: what they claim takes neither memory nor time.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use candle_gpt_input::checkpoint::{ByteRanges, Checkpoint, CheckpointOptions};
use tempfile::TempDir;

use crate::bounds::{list, list_bytes};
use crate::limits::{measured, n_there};
use crate::support::error_text;
use crate::support::hostile::{
    deflated, gguf, gguf_array, llmc, npy, safetensors, snappy_without_entries, sstable, zip_of,
};

/// A file that begins with `front` and goes on as a hole.
fn sparse(path: &Path, front: &[u8], n_bytes: u64) {
    let mut file = fs::File::create(path).unwrap();
    file.write_all(front).unwrap();
    file.set_len(n_bytes).unwrap();
}

#[test]
fn gguf_headers_of_zeros_end() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x");
    for (front, expected) in [
        (gguf(1 << 33, 0, &[]), "it holds `` twice"),
        (gguf(0, 1 << 34, &[]), "its header does not end within"),
        (gguf(0, 1, &gguf_array(8, 1 << 34)), "its header does not end within"),
        (gguf(0, 1, &gguf_array(9, 1 << 34)), "its header does not end within"),
    ] {
        sparse(&path, &front, 300 << 30);
        let text = error_text(list(&path));
        assert!(text.contains(expected), "{text}");
    }
    // An array whose elements need not be looked at is passed over.
    sparse(&path, &gguf(0, 1, &gguf_array(4, 1 << 34)), 300 << 30);
    assert_eq!(list(&path).unwrap().len(), 0);
}

/// A server that claims 2^60 bytes, and answers with zeros after `front`.
#[derive(Debug)]
struct Claims {
    front: Vec<u8>,
    n_sent: AtomicU64,
}

impl ByteRanges for Claims {
    fn name(&self) -> String {
        "claims".to_string()
    }

    fn n_bytes(&self) -> u64 {
        1 << 60
    }

    fn read(&self, ranges: &[std::ops::Range<u64>]) -> std::io::Result<Vec<Vec<u8>>> {
        let byte = |at: u64| usize::try_from(at).ok().and_then(|at| self.front.get(at)).copied().unwrap_or(0);
        self.n_sent.fetch_add(ranges.iter().map(|range| range.end - range.start).sum(), Relaxed);
        Ok(ranges.iter().map(|range| range.clone().map(byte).collect()).collect())
    }
}

#[test]
fn a_server_is_not_believed() {
    let safetensors = [&99_000_000u64.to_le_bytes()[..], b"{"].concat();
    let sources = [
        (gguf(1 << 50, 0, &[]), "it holds `` twice"),
        (gguf(0, 1 << 50, &[]), "its header does not end within"),
        (gguf(0, 1, &gguf_array(8, 1 << 50)), "its header does not end within"),
        (safetensors, "its header cannot be parsed"),
        (b"PK\x03\x04".to_vec(), "its zip directory is missing"),
    ];
    for (front, expected) in sources {
        let source = Arc::new(Claims { front, n_sent: AtomicU64::new(0) });
        let (opened, spent) = measured(|| Checkpoint::from_ranges(source.clone(), &CheckpointOptions::default()));
        let n_sent = source.n_sent.load(Relaxed);
        spent.check(n_sent, 0).unwrap();
        assert!(n_sent < 257 << 20, "{n_sent}");
        let text = error_text(opened);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn npz_headers_stay_in_bounds() {
    let ones = |n: usize| format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", "1,".repeat(n));
    let array = npy(&ones(64), &[0; 4]);
    let names: Vec<String> = (0..2000).map(|i| format!("{i}.npy")).collect();
    let zip = |method: u16, array: &[u8], n_bytes: usize| {
        let n_bytes = u32::try_from(n_bytes).unwrap();
        zip_of(&names.iter().map(|name| (name.as_str(), method, n_bytes, array)).collect::<Vec<_>>())
    };
    assert_eq!(list_bytes(&zip(0, &array, array.len())).unwrap().len(), 2000);
    let array = npy(&ones(30_000), &[0; 4]);
    let text = error_text(list_bytes(&zip(0, &array, array.len())));
    assert!(text.contains("`0` has 30000 dimensions, more than 64"), "{text}");
    // Headers of 60 kB, mostly spaces, that are deflated to some hundred bytes.
    let array = npy(&(ones(1) + &" ".repeat(60_000)), &[0; 4]);
    let text = error_text(list_bytes(&zip(8, &deflated(&array), array.len())));
    assert!(text.contains("its header does not end within"), "{text}");
}

#[test]
fn safetensors_headers_stay_in_bounds() {
    let entry =
        |name: &str, shape: &str| format!(r#""{name}":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,0]}}"#);
    let all = |entries: Vec<String>| safetensors(&format!("{{{}}}", entries.join(",")), 0);
    let many = all((0..300_000).map(|i| entry(&format!("{i:x}"), "0")).collect());
    assert_eq!(list_bytes(&many).unwrap().len(), 300_000);
    let wide = all(vec![entry("w", &vec!["0"; 1_000_000].join(","))]);
    let text = error_text(list_bytes(&wide));
    assert!(text.contains("`w` has 1000000 dimensions, more than 64"), "{text}");
    let notes = (0..200_000).map(|i| format!(r#""{i:x}":"""#)).collect::<Vec<_>>().join(",");
    assert_eq!(list_bytes(&safetensors(&format!(r#"{{"__metadata__":{{{notes}}}}}"#), 0)).unwrap().len(), 0);
    // A name twice is one tensor if both entries agree, and else an error.
    assert_eq!(list_bytes(&all(vec![entry("t", "0"); 2])).unwrap().len(), 1);
    let text = error_text(list_bytes(&all(vec![entry("t", "0"), entry("t", "0,1")])));
    assert!(text.contains("it holds `t` twice"), "{text}");
}

#[test]
fn names_have_one_limit() {
    let of = |n: usize| {
        let name = "n".repeat(n);
        safetensors(&format!(r#"{{"{name}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}}}"#), 0)
    };
    assert_eq!(list_bytes(&of(65535)).unwrap()[0].name.len(), 65535);
    let text = error_text(list_bytes(&of(65536)));
    assert!(text.contains("a tensor's name has 65536 bytes, more than 65535"), "{text}");
}

#[test]
fn blocks_of_an_index_that_inflate_stay_in_bounds() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.index");
    let data = snappy_without_entries(300_000);
    for (n_handles, expected) in [(1, "it is empty"), (10_000, "its header does not end within")] {
        fs::write(&path, sstable(&data, 1, n_handles)).unwrap();
        let text = error_text(list(&path));
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn blocks_of_llmc_that_are_holes_stay_in_bounds() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x");
    for n_layer in [5000u64, 100_000_000] {
        let (front, n_bytes) = llmc(n_layer as u32);
        sparse(&path, &front, n_bytes);
        match list(&path) {
            Ok(tensors) => assert_eq!(tensors.len() as u64, 4 + 12 * n_layer),
            Err(error) => assert!(n_layer > 5000 && error.to_string().contains("needs more memory"), "{error}"),
        }
    }
    // Many such shards share one allowance.
    let map: Vec<String> = (0..64).map(|i| format!(r#""{i}":"{i}.bin""#)).collect();
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, format!(r#"{{"weight_map":{{{}}}}}"#, map.join(","))).unwrap();
    for i in 0..64 {
        let (front, n_bytes) = llmc(5000);
        sparse(&folder.path().join(format!("{i}.bin")), &front, n_bytes);
    }
    let text = error_text(list(&index));
    assert!(text.contains("needs more memory than 64 MB"), "{text}");
}

fn index_of(folder: &Path, front: &str, n_bytes: u64) -> PathBuf {
    let path = folder.join("model.safetensors.index.json");
    sparse(&path, front.as_bytes(), n_bytes.max(front.len() as u64));
    path
}

#[test]
fn an_index_of_shards_stays_in_bounds() {
    let folder = TempDir::new().unwrap();
    let text = error_text(list(&index_of(folder.path(), "{", 3 << 30)));
    assert!(text.contains("needs more memory than 64 MB") && text.lines().count() == 1, "{text}");
    let many: Vec<String> = (0..400_000).map(|i| format!(r#""{i:x}.wte.weight":"s""#)).collect();
    let path = index_of(folder.path(), &format!(r#"{{"weight_map":{{{}}}}}"#, many.join(",")), 0);
    let (opened, spent) = measured(|| Checkpoint::open(&path));
    spent.check(n_there(&path), 0).unwrap();
    drop(opened.unwrap());
}
