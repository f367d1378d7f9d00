//! What opening and listing a file may take: memory and time by the bytes that are really there, whatever is claimed.

use std::fs;
use std::io::Write;
use std::path::Path;

use candle_gpt_input::Result;
use candle_gpt_input::checkpoint::{Checkpoint, TensorEntry};
use tempfile::TempDir;

use crate::broken_formats::torch_of;
use crate::limits::{measured, n_there};
use crate::support::error_text;
use crate::support::hostile::zip_of;

/// Lists the tensors of a file or a folder within the bounds.
#[track_caller]
pub fn list(path: &Path) -> Result<Vec<TensorEntry>> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap() };
    let (listed, spent) = measured(|| Checkpoint::open(path)?.tensors());
    spent.check(n_there(folder), 0).unwrap();
    listed
}

#[track_caller]
pub fn list_bytes(bytes: &[u8]) -> Result<Vec<TensorEntry>> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x");
    fs::write(&path, bytes).unwrap();
    list(&path)
}

/// Pushes a text.
pub fn text(text: &str) -> Vec<u8> {
    [b"X", &u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat()
}

/// `_rebuild_tensor_v2` of a storage of four f32, with this shape, all of whose strides are 1.
fn tensor(shape: &[u8]) -> Vec<u8> {
    let dims = |dims: &[u8]| [b"(", &dims.iter().flat_map(|&dim| [b'K', dim]).collect::<Vec<_>>()[..], b"t"].concat();
    let storage =
        [b"((", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x04tQK\0"].concat();
    let strides = vec![1; shape.len()];
    [b"ctorch._utils\n_rebuild_tensor_v2\n", &storage[..], &dims(shape), &dims(&strides), b"\x89NtR"].concat()
}

/// One tensor under many names: its call is in the memo, and each name is a few bytes.
fn many_names(n_dims: usize, n_names: usize) -> Vec<u8> {
    let mut pickle = [&b"\x80\x02}("[..], &text("t"), &tensor(&vec![1; n_dims]), b"q\0"].concat();
    for i in 1..n_names {
        let name = format!("{i:x}");
        pickle.extend([&[b'U', u8::try_from(name.len()).unwrap()][..], name.as_bytes(), b"h\0"].concat());
    }
    pickle.extend(b"u.");
    torch_of(&pickle)
}

#[test]
fn a_shape_with_many_names_stays_in_bounds() {
    assert_eq!(list_bytes(&many_names(64, 10_000)).unwrap().len(), 10_000);
    let text = error_text(list_bytes(&many_names(5000, 5000)));
    assert!(text.contains("its pickle has a tensor of 5000 dimensions, more than 64"), "{text}");
    // Ten bytes a name are too few for what a list holds of each.
    let text = error_text(list_bytes(&many_names(64, 500_000)));
    assert!(text.contains("needs more memory than 64 MB and 24 times the ") && text.lines().count() == 1, "{text}");
}

#[test]
fn large_vocabularies_lie_beside_the_weights() {
    const N_TOKENS: u32 = 200_000;
    let mut pickle = [&b"\x80\x02}("[..], &text("wte.weight"), &tensor(&[4, 1])].concat();
    let mut put = 0u32;
    let mut memoized = |pickle: &mut Vec<u8>, value: &[u8]| {
        pickle.extend([value, b"r", &put.to_le_bytes()].concat());
        put += 1;
    };
    for (name, by_text) in [("stoi", true), ("itos", false)] {
        pickle.extend([&text(name)[..], b"}("].concat());
        for i in 0..N_TOKENS {
            let number = [b"J", &i.to_le_bytes()[..]].concat();
            let token = text(&format!("token {i}"));
            if by_text {
                memoized(&mut pickle, &token);
                pickle.extend(number);
            } else {
                pickle.extend(number);
                memoized(&mut pickle, &token);
            }
        }
        pickle.push(b'u');
    }
    pickle.extend(b"u.");
    assert!(pickle.len() > 9_000_000);
    let tensors = list_bytes(&torch_of(&pickle)).unwrap();
    assert_eq!(tensors.len(), 1);
    assert_eq!((tensors[0].name.as_str(), tensors[0].shape.as_slice()), ("wte.weight", &[4, 1][..]));
}

/// An old PyTorch file whose text claims the rest of it, which is a hole.
#[test]
fn a_hole_is_passed_over() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x");
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    for n_claimed in [1u64 << 32, 6 << 30, 200 << 30] {
        let mut file = fs::File::create(&path).unwrap();
        let front = [&magic[..], b"\x80\x02M\xe9\x03.\x80\x02}.\x80\x04\x8d", &n_claimed.to_le_bytes()].concat();
        file.write_all(&front).unwrap();
        file.set_len(front.len() as u64 + n_claimed).unwrap();
        let text = error_text(list(&path));
        assert!(text.ends_with("not a valid PyTorch file: it ends too early"), "{text}");
    }
}

#[test]
fn what_a_pickle_repeats_is_paid_for() {
    for (what, pickle) in [
        ("values", [&b"\x80\x02"[..], &b"]".repeat(8 << 20), b"."].concat()),
        ("uses", [&b"\x80\x02]"[..], &b"2".repeat(16 << 20), b"."].concat()),
        // A list of pairs, and as many dicts of it.
        (
            "dicts",
            [
                &b"\x80\x02](X\x01\0\0\0aN\x86q\0"[..],
                &b"h\0".repeat(100_000),
                b"eq\x010ccollections\nOrderedDict\nq\x020",
                &b"h\x02h\x01\x85R".repeat(100_000),
                b".",
            ]
            .concat(),
        ),
    ] {
        let text = error_text(list_bytes(&torch_of(&pickle)));
        assert!(text.contains("needs more memory than 64 MB") || text.contains("no dict of tensors"), "{what}: {text}");
    }
}

/// Members that share bytes: each is small, together they inflate to more than there is.
#[test]
fn members_that_overlap_are_refused() {
    let npy = {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }";
        [b"\x93NUMPY\x01\0", &u16::try_from(header.len()).unwrap().to_le_bytes()[..], header.as_bytes(), &[0; 4]]
            .concat()
    };
    let n_npy = u32::try_from(npy.len()).unwrap();
    let good = zip_of(&[("a.npy", 0, n_npy, &npy), ("b.npy", 0, n_npy, &npy)]);
    assert_eq!(list_bytes(&good).unwrap().len(), 2);
    // Both entries of the directory at the first member; and the first member reaching into the second.
    let second = good.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap();
    let mut shared = good.clone();
    shared[second + 42..second + 46].fill(0);
    let first = good.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    let mut reaching = good.clone();
    for at in [first + 20, first + 24] {
        reaching[at..at + 4].copy_from_slice(&(n_npy + 40).to_le_bytes());
    }
    for bytes in [shared, reaching] {
        let text = error_text(list_bytes(&bytes));
        assert!(text.contains("its members overlap at"), "{text}");
    }
}

/// An index that gives one shard many names: by its spelling, by links, and by hard links.
#[cfg(unix)]
#[test]
fn aliases_of_a_shard_cost_one_shard() {
    const N_TENSORS: usize = 1000;
    const N_NAMES: usize = 600;
    let name = |i: usize| format!("{}{i}", "n".repeat(200));
    let header: Vec<String> = (0..N_TENSORS)
        .map(|i| format!(r#""{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#, name(i)))
        .collect();
    let header = format!("{{{}}}", header.join(","));
    let shard = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    for kind in ["spelling", "link", "hard link"] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("d/s");
        fs::create_dir(folder.path().join("d")).unwrap();
        fs::write(&path, &shard).unwrap();
        let alias = |i: usize| {
            let (alias, target) = (format!("{i}"), folder.path().join(format!("{i}")));
            match kind {
                "link" => std::os::unix::fs::symlink("d/s", target).unwrap(),
                "hard link" => fs::hard_link(&path, target).unwrap(),
                _ => return format!("d{}s", "/".repeat(1 + i)),
            }
            alias
        };
        let map: Vec<String> = (0..N_NAMES).map(|i| format!(r#""{}":"{}""#, name(i), alias(i))).collect();
        let index = folder.path().join("model.safetensors.index.json");
        fs::write(&index, format!(r#"{{"weight_map":{{{}}}}}"#, map.join(","))).unwrap();
        let (left, spent) = measured(|| -> Result<_> {
            let checkpoint = Checkpoint::open(&index)?;
            assert_eq!((checkpoint.tensors()?.len(), checkpoint.unreadable()?.len()), (N_NAMES, 0));
            checkpoint.not_in_index()
        });
        assert_eq!(left.unwrap().len(), N_TENSORS - N_NAMES, "{kind}");
        spent.check(n_there(&index) + n_there(&path), 0).unwrap();
        assert!(spent.n_bytes < 16 << 20, "{kind}: {spent:?}");
    }
}
