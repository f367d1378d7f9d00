//! Pickles by hand: what PyTorch reads but never writes, and pickles whose values are shared by very many others, which
//! are read in time and memory of their bytes.

use std::fs;

use candle_core::{DType, Device};
use candle_gpt_input::Result;
use candle_gpt_input::checkpoint::Checkpoint;
use tempfile::TempDir;

use crate::bounds::{list_bytes, text};
use crate::broken_formats::torch_of;
use crate::support::hostile::zip_of;

/// A zip file of the pickled dict `{'w': _rebuild_tensor_v2(storage 0, 0, (2,), (1,), False, None, …)}`, whose call is
/// followed by `after`.
fn pickled(more_args: &[u8], after: &[u8]) -> Vec<u8> {
    let call: &[u8] = b"ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI2\ntQ";
    let pickle = [b"(dVw\n", call, b"I0\n(I2\nt(I1\ntI00\nN", more_args, b"tR", after, b"s."].concat();
    let storage = [1f32, 2.].map(f32::to_le_bytes).concat();
    zip_of(&[("a/data.pkl", 0, pickle.len() as u32, &pickle), ("a/data/0", 0, storage.len() as u32, &storage)])
}

/// Pickles by hand, which PyTorch reads but never writes.
#[test]
fn what_may_change_a_tensor_is_refused() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.pt");
    let read = |more_args: &[u8], after: &[u8]| -> Result<String> {
        fs::write(&path, pickled(more_args, after)).unwrap();
        let checkpoint = Checkpoint::open(&path)?;
        let values = checkpoint.var_builder(DType::F32, &Device::Cpu).get_unchecked("w");
        match (values, checkpoint.unreadable()?.first()) {
            (Ok(values), None) => Ok(format!("{:?}", values.to_vec1::<f32>()?)),
            (Err(_), Some(unreadable)) => Ok(unreadable.reason.clone()),
            (values, unreadable) => panic!("{values:?} {unreadable:?}"),
        }
    };
    let changed = "a tensor that its pickle changes after making it: save its `.clone()`";
    for (more_args, after, expected) in [
        (&b""[..], &b""[..], "[1.0, 2.0]"),
        (b"N", b"", "[1.0, 2.0]"),
        (b"(d", b"", "[1.0, 2.0]"),
        (b"(dVneg\nI00\nsVconj\nI00\ns", b"", "[1.0, 2.0]"),
        (b"(dVneg\nI00\nsVneg\nI01\ns", b"", "a negated view (`neg` in its metadata): save its `.resolve_neg()`"),
        (b"(dVneg\nI7\ns", b"", "a tensor with unknown metadata (`neg`): save its `.clone()`"),
        (b"(dVscale\nF2.0\ns", b"", "a tensor with unknown metadata (`scale`): save its `.clone()`"),
        (b"(dI1\nNs", b"", "a tensor with unknown metadata (``): save its `.clone()`"),
        (b"I01\n", b"", "a tensor with unknown metadata (not a small dict): save its `.clone()`"),
        (b"NN", b"", "made by `torch._utils._rebuild_tensor_v2` with 8 arguments, too many"),
        (b"", b"(dVdata\nNsb", changed),
        (b"", b"I0\nF9.0\ns", changed),
    ] {
        assert_eq!(read(more_args, after)?, expected, "{} {}", more_args.escape_ascii(), after.escape_ascii());
    }
    Ok(())
}

/// Python takes the last value of a key.
#[test]
fn a_key_that_is_set_twice_has_its_last_value() -> Result<()> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.pt");
    let bytes = pickled(b"", b"sVw\nctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI2\ntQI1\n(I1\nt(I1\ntI00\nNtR");
    fs::write(&path, bytes).unwrap();
    let checkpoint = Checkpoint::open(&path)?;
    let tensors = checkpoint.tensors()?;
    assert_eq!((tensors.len(), tensors[0].shape.as_slice()), (1, &[1][..]));
    let values = checkpoint.var_builder(DType::F32, &Device::Cpu).get(1, "w")?;
    assert_eq!(values.to_vec1::<f32>()?, [2.]);
    Ok(())
}

/// Keeps the top of the stack as number `n` of the memo.
fn put(n: u8) -> [u8; 2] {
    [b'q', n]
}

/// Pushes number `n` of the memo.
fn get(n: u8) -> [u8; 2] {
    [b'h', n]
}

/// Pushes a tensor of one element, and keeps it as number 0 of the memo, its arguments as number 1 and its function as
/// number 2.
fn tensor() -> Vec<u8> {
    let storage =
        [&b"(("[..], &text("storage"), b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x04tQ"].concat();
    let function = [b"ctorch._utils\n_rebuild_tensor_v2\n", &put(2)[..]].concat();
    [&function[..], &storage, b"K\0K\x01\x85K\x01\x85\x89Nt", &put(1), b"R", &put(0)].concat()
}

/// Pickles a dict with a tensor `w` and these items besides.
fn with_tensor(items: &[&[u8]]) -> Vec<u8> {
    [&b"\x80\x02}("[..], &text("w"), &tensor(), &items.concat(), b"u."].concat()
}

/// A part of a key that is as long as a text may be.
const LONG_KEY: &str = "k";

/// The texts of numbers, as keys.
fn keys(n: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..n).map(|i| {
        let key = format!("{i:x}");
        [&[0x8c, key.len() as u8][..], key.as_bytes()].concat()
    })
}

/// `n` keys with the same value.
fn pairs(n: usize, value: &[u8]) -> Vec<u8> {
    keys(n).flat_map(|key| [&key, value].concat()).collect()
}

/// Half of each pickle is a value, and half are uses of it: each is looked at once.
#[test]
fn what_a_pickle_shares_is_looked_at_once() {
    const N: usize = 80_000;
    // Each has a name or a reason of its own.
    const TOO_MANY: usize = usize::MAX;
    let named = |name: &str, value: &[u8], n: u8| [&text(name)[..], value, &put(n)].concat();
    let tensors = named("list", &[&b"]("[..], &get(0).repeat(3 * N), b"e"].concat(), 3);
    // In an optimizer's groups, which are no part of the state dict.
    let list = [&b"]("[..], &get(0).repeat(3 * N), b"e", &put(3)].concat();
    let apart = [&text("optimizer")[..], b"}", &text("param_groups"), &list, b"s"].concat();
    let nothing = named("list", &[&b"]("[..], &b"N".repeat(3 * N), b"e"].concat(), 3);
    let args = named("args", &[&b"("[..], &b"N".repeat(3 * N), b"t"].concat(), 4);
    let dict = named("dict", &[&b"}("[..], &pairs(N / 2, b"N"), &text("t"), &get(0), b"u"].concat(), 6);
    let false_dict = named("dict", &[&b"}("[..], &pairs(N / 2, b"\x89"), b"u"].concat(), 6);
    let key = named("key", &text(&LONG_KEY.repeat(65_000)), 8);
    // Functions lie in lists, as one in a dict is in the place of a tensor.
    let function = |name: &str| [&text("functions")[..], b"]c", name.as_bytes(), &put(5), b"a"].concat();
    let class = function("copyreg\n_reconstructor\n");
    let parameter = function("torch._utils\n_rebuild_parameter_with_state\n");
    let sparse = function("torch._utils\n_rebuild_sparse_tensor\n");
    let call = |args: &[u8]| [&get(5)[..], args, b"R"].concat();
    let one = |item: &[u8]| [item, b"\x85"].concat();
    let list_of = |items: &[u8]| [&text("items")[..], b"](", items, b"e"].concat();
    let plain = |metadata: &[u8]| [&b"(NK\0K\x01\x85K\x01\x85\x89N"[..], metadata, b"t"].concat();
    let storage = [&b"(("[..], &get(9), &get(10), &get(8), &get(9), b"K\x04tQK\0K\x01\x85K\x01\x85\x89Nt"].concat();
    let of_storage = [named("s", &text("storage"), 9), list_of(&[&b"ctorch\nFloatStorage\n"[..], &put(10)].concat())];
    let cases: [(&str, usize, &[&[u8]]); 17] = [
        ("a list of tensors in many dicts", TOO_MANY, &[&tensors, &pairs(N, &get(3))]),
        ("a list of nothing in many dicts", 1, &[&nothing, &pairs(N, &get(3))]),
        ("a list in many lists", TOO_MANY, &[&tensors, &list_of(&one(&get(3)).repeat(N))]),
        ("arguments of many calls", 1, &[&args, &class, &pairs(N, &call(&get(4)))]),
        ("arguments of many calls in a list", 1, &[&args, &class, &list_of(&call(&get(4)).repeat(N))]),
        ("a list in many arguments", 1, &[&nothing, &class, &pairs(N, &call(&one(&get(3))))]),
        (
            "a call under many keys",
            1,
            &[&args, &class, &list_of(&[&call(&get(4))[..], &put(7)].concat()), &pairs(N, &get(7))],
        ),
        ("a dict under many keys", 2 + N / 2, &[&dict, &pairs(N / 2, &get(6))]),
        (
            "a key of many dicts",
            TOO_MANY,
            &[&key, &list_of(&[&b"}"[..], &get(8), &get(0), b"s"].concat().repeat(2 * N))],
        ),
        (
            "a key of many dicts without tensors",
            1,
            &[&key, &list_of(&[&b"}"[..], &get(8), b"Ns"].concat().repeat(2 * N))],
        ),
        (
            "a key of the storage of many tensors",
            1 + N / 4,
            &[&key, &of_storage.concat(), &pairs(N / 4, &[&get(2)[..], &storage, b"R"].concat())],
        ),
        ("arguments of many tensors", 1 + N, &[&pairs(N, &[&get(2)[..], &get(1), b"R"].concat())]),
        (
            "dicts in the state of an object",
            2,
            &[&dict, &text("config"), b"c__main__\nC\n)R(", &get(6).repeat(N), b"tb"],
        ),
        (
            "attributes of many parameters",
            1 + N / 4,
            &[&false_dict, &parameter, &pairs(N / 4, &call(&[&b"("[..], &get(0), b"\x89N", &get(6), b"t"].concat()))],
        ),
        ("metadata of many tensors", 1, &[&false_dict, &pairs(N / 4, &[&get(2)[..], &plain(&get(6)), b"R"].concat())]),
        ("parts of many sparse tensors", TOO_MANY, &[&apart, &sparse, &pairs(N, &call(&one(&get(3))))]),
        ("arguments of a sparse tensor", 1, &[&args, &sparse, &pairs(N, &call(&get(4)))]),
    ];
    for (what, n_tensors, items) in cases {
        let pickle = with_tensor(items);
        assert!((400_000..1_700_000).contains(&pickle.len()), "{what}: {}", pickle.len());
        let long = format!("a/data/{}", LONG_KEY.repeat(65_000));
        let members = [("a/data.pkl", &pickle[..]), ("a/data/0", &[0; 16]), (&long, &[0; 16])];
        let listed = list_bytes(&zip_of(&members.map(|(name, bytes)| (name, 0, bytes.len() as u32, bytes))));
        match listed {
            Ok(listed) => assert_eq!(listed.len(), n_tensors, "{what}"),
            Err(error) => {
                assert!(error.to_string().contains("needs more memory than 64 MB") && n_tensors == TOO_MANY, "{error}");
            }
        }
    }
}

/// Dicts that lead to each other on very many ways, or very deep.
#[test]
fn dicts_that_lead_on_many_ways_end() {
    let tensor_in = |more: &[u8]| [&b"}("[..], &text("t"), &get(0), more, b"u", &put(3)].concat();
    // Each dict holds the next one twice: 2^60 ways.
    let twice = |innermost: Vec<u8>| {
        (0..60)
            .fold(innermost, |inner, _| [&b"}("[..], &text("a"), &inner, &text("b"), &get(3), b"u", &put(3)].concat())
    };
    let of_inner = twice(tensor_in(b""));
    // The same, but all ways end in a dict above.
    let back = twice([&b"}"[..], &text("z"), &get(4), b"s", &put(3)].concat());
    let of_above = [&b"}"[..], &put(4), b"(", &text("t"), &get(0), &text("d"), &back, b"u"].concat();
    // Each dict holds the one before.
    let next = [&text("x")[..], &get(3)].concat();
    let chain: Vec<u8> = keys(20_000)
        .enumerate()
        .flat_map(|(i, key)| [key, tensor_in(if i == 0 { b"" } else { &next })].concat())
        .collect();
    // A long key at each level, and many others in the innermost dict.
    let long = [&text("k"), &text(&"k".repeat(60_000)), &put(8)[..]].concat();
    let innermost = [&b"}("[..], &text("t"), &get(0), &pairs(50_000, b"N"), b"u"].concat();
    let levels = (0..20).fold(innermost, |inner, _| [&b"}"[..], &get(8), &inner, b"s"].concat());
    for (pickle, expected) in [
        (with_tensor(&[&text("d"), &of_inner]), "needs more memory than 64 MB"),
        (with_tensor(&[&text("d"), &of_above]), ""),
        (with_tensor(&[&chain]), "its state dict nests dicts and lists deeper than 64"),
        (with_tensor(&[&long, &text("d"), &levels]), "a tensor's name has 120003 bytes, more than 65535"),
    ] {
        match list_bytes(&torch_of(&pickle)) {
            Ok(tensors) => {
                assert!(expected.is_empty() && tensors.len() == 2, "{} tensors, not: {expected}", tensors.len())
            }
            Err(error) => assert!(error.to_string().contains(expected) && !expected.is_empty(), "{error}"),
        }
    }
}
