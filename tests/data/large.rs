//! Many windows: orders that a thread makes while the epoch before runs, and files of more ids than memory holds.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use candle_core::Device;
use candle_gpt_input::data::corpus::{Corpus, CorpusOptions, IdBits};
use candle_gpt_input::data::{Blend, Loader, LoaderState, Seeding, Tokens};
use candle_gpt_input::rng::Generator;
use tempfile::TempDir;

use crate::support::error_text;
use crate::{config, explicit, global, i63, rows};

/// Enough that the next order is made ahead.
const N: usize = 70_000;

/// The first ids of windows `j`, each of which is `j`.
fn order(batches: impl Iterator<Item = candle_gpt_input::Result<candle_gpt_input::data::Batch>>) -> Vec<i64> {
    batches.flat_map(|batch| rows(&batch.unwrap().input_ids)).map(|row| i64::from(row[0])).collect()
}

/// What others draw from the generator between epochs decides the order, also if another was made ahead.
#[test]
fn orders_made_ahead_are_those_that_are_drawn() {
    let tokens = Tokens::new((0..=N as u32).collect());
    let config = config(N / 2, 1, 1, true, true);
    for is_explicit in [false, true] {
        let (ours, plain) = (Generator::manual_seed(5), Generator::manual_seed(5));
        let seeding = if is_explicit { Seeding::Explicit(ours.clone()) } else { Seeding::Global(ours.clone()) };
        let loader = Loader::new(&tokens, config.clone(), seeding, &Device::Cpu).unwrap();
        for others_draw in [false, false, true, false, false] {
            if others_draw {
                assert_eq!(i63(&ours), i63(&plain));
            }
            let found = order(loader.epoch());
            i63(&plain);
            let expected = match is_explicit {
                true => plain.randperm(N).unwrap(),
                false => Generator::manual_seed(i63(&plain) as u64).randperm(N).unwrap(),
            };
            if is_explicit {
                plain.randperm(N).unwrap(); // the sampler has run out
            }
            assert!(found == expected && ours.state() == plain.state(), "{is_explicit} {others_draw}");
        }
    }
    let blend = Blend::new(&[(tokens, 1.0)], config, 123, &Device::Cpu).unwrap();
    for epoch in 0..3 {
        let found = order(blend.batches().take(2));
        assert!(found == Generator::manual_seed(123 + epoch).randperm(N).unwrap(), "{epoch}");
    }
}

/// Makes a file with holes, of `n_ids` ids of 16 bits.
fn sparse(folder: &TempDir, n_ids: u64) -> (PathBuf, File) {
    let path = folder.path().join("train.bin");
    let file = File::create(&path).unwrap();
    file.set_len(2 * n_ids).unwrap();
    (path, file)
}

fn open(path: &PathBuf) -> Corpus {
    Corpus::open(&[path], &CorpusOptions::default().with_id_bits(IdBits::Sixteen)).unwrap()
}

/// 20 GB of ids, of which only those that are looked at exist.
#[test]
fn ten_billion_ids_are_shuffled_and_resumed() {
    const N_IDS: u64 = 10_000_000_000;
    let folder = TempDir::new().unwrap();
    let (path, mut file) = sparse(&folder, N_IDS);
    let config = config(4, 1024, 1024, true, true);
    let n_windows = (N_IDS as usize - 1024).div_ceil(1024);
    let plain = Generator::manual_seed(1);
    i63(&plain);
    let expected: Vec<i64> = Generator::manual_seed(i63(&plain) as u64).randperm(n_windows).unwrap()[..40].to_vec();
    for &number in &expected {
        file.seek(SeekFrom::Start(number as u64 * 2048)).unwrap();
        file.write_all(&(number as u64).to_le_bytes()).unwrap(); // four ids
    }
    let corpus = open(&path);
    let loader = || Loader::new(corpus.tokens(), config.clone(), global(1), &Device::Cpu).unwrap();
    let first = loader();
    assert_eq!((corpus.n_tokens() as u64, first.windows().n_windows()), (N_IDS, n_windows));
    let numbers = |epoch: &mut dyn Iterator<Item = _>| -> Vec<i64> {
        let batches = epoch.map(|batch: candle_gpt_input::Result<_>| batch.unwrap());
        let number = |row: Vec<u32>| (0..4).map(|i| i64::from(row[i]) << (16 * i)).sum::<i64>();
        batches.flat_map(|batch: candle_gpt_input::data::Batch| rows(&batch.input_ids)).map(number).collect()
    };
    let mut found = numbers(&mut first.epoch().take(5));
    let state = serde_json::to_string(&first.state()).unwrap();
    assert!(state.len() < 8192, "{} bytes", state.len());
    let state: LoaderState = serde_json::from_str(&state).unwrap();
    drop(first);
    found.extend(numbers(&mut loader().resume(&state).unwrap().epoch().take(5)));
    assert_eq!(found, expected);
}

/// A window for each of 10^12 ids: their order takes 8 TB.
#[test]
fn more_windows_than_memory_holds_are_an_error() {
    const N_IDS: u64 = 1_000_000_000_000;
    let folder = TempDir::new().unwrap();
    let (path, _) = sparse(&folder, N_IDS);
    let corpus = open(&path);
    let new = |shuffle| Loader::new(corpus.tokens(), config(2, 8, 1, shuffle, true), explicit(1), &Device::Cpu);
    assert_eq!(rows(&new(false).unwrap().epoch().next().unwrap().unwrap().input_ids), [[0; 8]; 2]);
    let expected = "the order of 999999999992 shuffled windows needs 7999999999936 bytes, more than this machine's memory \
                    holds: choose a larger stride, or set shuffle to false";
    assert_eq!(error_text(new(true)), expected);
    let blend = Blend::new(&[(corpus.tokens().clone(), 1.0)], config(2, 8, 1, true, true), 1, &Device::Cpu);
    assert_eq!(error_text(blend), expected);
}
