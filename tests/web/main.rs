//! The Rust of the page `examples/web`, on the host: it shows the numbers of `embed` and `explore`, as these print them.

#[path = "../../examples/web/src/fetched.rs"]
mod fetched;
#[path = "../../examples/gpt2/model.rs"]
#[allow(dead_code)] // no training here
mod gpt2;
#[path = "../../examples/explore/map.rs"]
#[allow(dead_code)] // the words of `explore`
mod map;
#[path = "../../examples/web/src/remote.rs"]
mod remote;
#[path = "../../examples/explore/rows.rs"]
#[allow(dead_code)] // all rows as a matrix
mod rows;
#[path = "../../examples/web/src/tables.rs"]
mod tables;
#[path = "../../examples/explore/words.rs"]
#[allow(dead_code)] // analogies
mod words;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_gpt_input::checkpoint::{ByteRanges, save_tensors};
use candle_gpt_input::tokenizer::Tokenizer;

use fetched::Fetched;
use remote::Remote;
use tables::{CHOSEN, Tables};
use words::Words;

const SENTENCE: &str = "Every effort moves you, one token at a time.";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn file() -> PathBuf {
    root().join("weights/tiny-gpt2/model.safetensors")
}

fn whole(path: impl AsRef<Path>) -> Vec<Arc<dyn ByteRanges>> {
    held("x", &fs::read(path).unwrap())
}

/// A file of which all bytes are there.
fn held(name: &str, bytes: &[u8]) -> Vec<Arc<dyn ByteRanges>> {
    let file = Fetched::new(name.to_string(), bytes.len() as u64);
    file.put(0, bytes.to_vec());
    vec![Arc::new(file)]
}

fn tiny() -> Tables {
    let config = fs::read_to_string(root().join("weights/tiny-gpt2/config.json")).unwrap();
    Tables::open(whole(file()), Some(config)).unwrap()
}

fn words() -> Words {
    Words { tokenizer: Tokenizer::gpt2().clone() }
}

fn ids(text: &str) -> Vec<u32> {
    Tokenizer::gpt2().encode(text).unwrap()
}

fn counted(n: usize) -> Vec<u32> {
    (0..n as u32).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn vectors_are_those_that_embed_prints() {
    let page = fs::read_to_string(root().join("README.md")).unwrap();
    let (ids, width) = (ids(SENTENCE), 64);
    let values = tiny().vectors(&ids, &counted(ids.len())).unwrap();
    let sums = values.chunks(width).skip(2 * ids.len());
    for (t, (&id, sum)) in ids.iter().zip(sums).enumerate() {
        let numbers: Vec<String> = sum[..4].iter().map(|x| format!("{x:.4}")).collect();
        let line = format!("{t} {id} {} {}", words().show(id as usize), numbers.join(" "));
        let is_there = |printed: &str| printed.split_whitespace().collect::<Vec<_>>().join(" ") == line;
        assert!(page.lines().any(is_there), "{line}");
    }
}

#[test]
fn neighbours_are_those_that_explore_prints() {
    let page = fs::read_to_string(root().join("examples/explore/README.md")).unwrap();
    let (tables, words) = (tiny(), words());
    let fresh = tables.fresh(123).unwrap();
    for word in ["king", "father", "seven", "Egypt", "said"] {
        let id = words.id(word).unwrap();
        let heading = format!("nearest to {}", words.show(id));
        let (_, printed) = page.split_once(&heading).unwrap();
        for (tables, line) in [&fresh, &tables].into_iter().zip(printed.lines().skip(1)) {
            let found = tables.nearest(id as u32, 6).unwrap();
            let found: Vec<(f32, usize)> = found.into_iter().map(|(cosine, id)| (cosine, id as usize)).collect();
            assert!(line.ends_with(&words.list(&found)), "{word}: {line}");
        }
    }
}

#[test]
fn positions_are_rows_of_the_table_and_their_cosines() {
    let tables = tiny();
    let (rows, cosines) = tables.positions(&[0, 5, 127]).unwrap();
    let values = tables.vectors(&[11; 3], &[0, 5, 127]).unwrap();
    assert_eq!(rows, values[3 * 64..6 * 64], "the middle third of the vectors is `wpe`");
    let product = |left: usize, right: usize| -> f32 {
        let row = |at: usize| &rows[at * 64..][..64];
        row(left).iter().zip(row(right)).map(|(x, y)| x * y).sum()
    };
    for (at, cosine) in cosines.iter().enumerate() {
        let (left, right) = (at / 3, at % 3);
        let expected = product(left, right) / (product(left, left) * product(right, right)).sqrt();
        assert!((cosine - expected).abs() < 1e-5, "{left} {right}: {cosine} {expected}");
    }
}

#[test]
fn words_of_one_kind_are_near_each_other_on_the_map() {
    let words = words();
    let ids = ["six", "seven", "five", "father", "mother", "brother"].map(|word| words.id(word).unwrap() as u32);
    let flat = tiny().flat(&ids).unwrap();
    let far = |i: usize, j: usize| (flat.points[i].0 - flat.points[j].0).hypot(flat.points[i].1 - flat.points[j].1);
    assert!(far(0, 1) < far(0, 3) && far(3, 4) < far(3, 1), "{:?}", flat.points);
    assert!(flat.shares[0] >= flat.shares[1] && flat.shares[0] + flat.shares[1] <= 1.0);
}

#[test]
fn what_follows_is_the_same_with_keys_from_before() {
    let typed = tiny();
    for text in ["In the", "In the beginning", "In the beginning God", "In the end", "In the"] {
        let (left, right) = (typed.next(&ids(text), 5).unwrap(), tiny().next(&ids(text), 5).unwrap());
        let shown = |found: Vec<(f32, u32)>| -> Vec<_> {
            found.into_iter().map(|(p, id)| (format!("{:.1}", 100.0 * p), id)).collect()
        };
        assert_eq!(shown(left), shown(right), "{text}");
    }
    let sum: f32 = typed.next(&ids("And he"), 50257).unwrap().iter().map(|(p, _)| p).sum();
    assert!((sum - 1.0).abs() < 1e-3, "{sum}");
}

#[test]
fn tokens_without_training_are_marked() {
    let tables = tiny();
    let unseen = tables.unseen().unwrap();
    let is_unseen = |word: &str| unseen.contains(&(words().id(word).unwrap() as u32));
    for word in ["king", "father", "seven", "Egypt", "said", "the", "brother"] {
        assert!(!is_unseen(word), "{word}");
    }
    for word in ["effort", "software", "Microsoft", "Recreation"] {
        assert!(is_unseen(word), "{word}");
    }
    assert!(tables.fresh(1).unwrap().unseen().unwrap().is_empty(), "rows drawn at random are not alike");
}

/// Fetches whatever is missing until the question is answered; returns the ranges of each round.
fn ask<T>(
    remote: &mut Remote,
    bytes: &[u8],
    question: impl Fn(&mut Remote) -> anyhow::Result<T>,
) -> (T, Vec<Vec<Range<u64>>>) {
    let mut rounds = Vec::new();
    loop {
        let answer = question(remote);
        let missing = remote.source.take_missing();
        if missing.is_empty() {
            return (answer.unwrap(), rounds);
        }
        for range in &missing {
            remote.source.put(range.start, bytes[range.start as usize..range.end as usize].to_vec());
        }
        rounds.push(missing);
    }
}

#[test]
fn remote_rows_have_the_bits_of_those_in_memory_and_take_one_round() {
    let bytes = fs::read(file()).unwrap();
    let mut remote = Remote::new("x".to_string(), bytes.len() as u64);
    let (_, rounds) = ask(&mut remote, &bytes, |remote| remote.open().map(|_| ()));
    assert_eq!(rounds.len(), 1);
    let tables = tiny();
    let mut ask_rows = |text: &str| {
        let ids = ids(text);
        let positions = counted(ids.len());
        let (values, rounds) = ask(&mut remote, &bytes, |remote| remote.vectors(&ids, &positions));
        assert_eq!(bits(&values), bits(&tables.vectors(&ids, &positions).unwrap()), "{text}");
        rounds
    };
    let n_bytes =
        |rounds: &[Vec<Range<u64>>]| -> u64 { rounds.concat().iter().map(|range| range.end - range.start).sum() };
    let rounds = ask_rows("Every effort moves you");
    assert_eq!((rounds.len(), n_bytes(&rounds)), (1, 8 * 128), "four rows of each table, 64 halves each");
    let rounds = ask_rows("Every effort moves you forward");
    assert_eq!((rounds.len(), n_bytes(&rounds)), (1, 2 * 128));
    assert!(ask_rows("Every effort moves you forward").is_empty());
}

#[test]
fn chosen_rows_are_those_of_the_whole_table() {
    let tables = tiny();
    let (layer, chosen) = (tables.layer(), [257u32, 262, 2802, 3339, 5822]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chosen.safetensors");
    let ids = Tensor::new(&chosen, &Device::Cpu).unwrap();
    let wte = layer.wte_embedding().unwrap().embeddings().index_select(&ids, 0).unwrap();
    let wpe = layer.wpe_embedding().unwrap().embeddings().clone();
    let ids = ids.to_dtype(DType::F64).unwrap();
    save_tensors(&path, [("wte.weight", &wte), ("wpe.weight", &wpe), (CHOSEN, &ids)], []).unwrap();
    let few = Tables::open(whole(&path), None).unwrap();
    let asked = [3339, 257];
    assert_eq!(few.vectors(&asked, &[0, 9]).unwrap(), tables.vectors(&asked, &[0, 9]).unwrap());
    assert!(few.row(258).is_none() && few.vectors(&[258], &[0]).unwrap_err().to_string().contains("no row here"));
    let near = few.nearest(257, 9).unwrap();
    assert_eq!(near.len(), 4);
    let all = tables.nearest(257, 50256).unwrap();
    assert!(near.iter().all(|found| all.contains(found)), "{near:?}");
    assert!(tiny().take_tokenizer_json().unwrap().is_none(), "safetensors files have no tokenizer inside");
    assert!(few.next(&asked, 3).is_err() && few.fresh(1).is_err());
}

#[test]
fn what_is_no_checkpoint_is_one_sentence() {
    let error = |bytes: &[u8]| format!("{:#}", Tables::open(held("x.txt", bytes), None).err().unwrap());
    let mut cut = fs::read(file()).unwrap();
    cut.truncate(100_000);
    for bytes in [&b""[..], b"hello", &cut] {
        let text = error(bytes);
        assert!(text.contains("x.txt") && text.lines().count() == 1, "{text}");
    }
}
