//! Windows, batches and loaders: the book's numbers, PyTorch's orders, and the laws of shards and of resuming.

// Long because every law of loaders is a short test on the same few texts.

mod blend;
mod corpus;
mod documents;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod large;
#[path = "../support/mod.rs"]
mod support;
mod writing;

use candle_core::{DType, Device, Tensor};
use candle_gpt_input::data::{Batch, Loader, LoaderConfig, LoaderState, Seeding, Tail, Tokens, Windows};
use candle_gpt_input::error::DataError;
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{Error, Result};
use proptest::prelude::*;
use serde_json::Value;
use support::{devices, error_text, fnv1a, golden_json, properties};

/// Draws as `torch.empty((), dtype=torch.int64).random_()` does.
fn i63(generator: &Generator) -> i64 {
    (generator.random_u64() & i64::MAX as u64) as i64
}

fn rows(ids: &Tensor) -> Vec<Vec<u32>> {
    ids.to_vec2().unwrap()
}

fn config(batch_size: usize, max_length: usize, stride: usize, shuffle: bool, drop_last: bool) -> LoaderConfig {
    LoaderConfig::default()
        .with_batch_size(batch_size)
        .with_max_length(max_length)
        .with_stride(stride)
        .with_shuffle(shuffle)
        .with_drop_last(drop_last)
}

fn global(seed: u64) -> Seeding {
    Seeding::Global(Generator::manual_seed(seed))
}

fn explicit(seed: u64) -> Seeding {
    Seeding::Explicit(Generator::manual_seed(seed))
}

fn loader(n_tokens: u32, config: LoaderConfig, seeding: Seeding) -> Loader {
    Loader::new(&Tokens::new((0..n_tokens).collect()), config, seeding, &Device::Cpu).unwrap()
}

/// Makes a loader whose windows are single tokens, each equal to its index.
fn numbered(n_samples: u32, batch_size: usize, shuffle: bool, drop_last: bool, seeding: Seeding) -> Loader {
    loader(n_samples + 1, config(batch_size, 1, 1, shuffle, drop_last), seeding)
}

fn numbers(batch: Result<Batch>) -> Vec<u32> {
    let batch = batch.unwrap();
    let (inputs, targets) = (rows(&batch.input_ids).concat(), rows(&batch.target_ids).concat());
    assert_eq!(targets, inputs.iter().map(|id| id + 1).collect::<Vec<_>>());
    inputs
}

// ---- the book ----

/// The first 33 tokens of the book's text.
const BOOK: [u32; 33] = [
    40, 367, 2885, 1464, 1807, 3619, 402, 271, 10899, 2138, 257, 7026, 15632, 438, 2016, 257, 922, 5891, 1576, 438,
    568, 340, 373, 645, 1049, 5975, 284, 502, 284, 3285, 326, 11, 287,
];

#[test]
fn the_books_batch() -> Result<()> {
    for device in devices() {
        let tokens = Tokens::new(BOOK.to_vec());
        let loader = Loader::new(&tokens, config(8, 4, 4, false, true), global(0), &device)?;
        let batches: Vec<Batch> = loader.epoch().collect::<Result<_>>()?;
        let [batch] = &batches[..] else { panic!("{} batches", batches.len()) };
        let expected = |from: usize| BOOK[from..from + 32].chunks(4).map(<[u32]>::to_vec).collect::<Vec<_>>();
        assert_eq!(rows(&batch.input_ids), expected(0));
        assert_eq!(rows(&batch.target_ids), expected(1));
        assert_eq!((batch.input_ids.dtype(), batch.target_ids.dtype()), (DType::U32, DType::U32));
        assert!(batch.position_ids.is_none() && batch.loss_mask.is_none());
        assert!(batch.input_ids.device().same_device(&device));
    }
    Ok(())
}

#[test]
fn the_books_defaults() {
    let LoaderConfig { batch_size, max_length, stride, shuffle, drop_last, tail, reset_positions_after, .. } =
        LoaderConfig::default();
    assert_eq!((batch_size, max_length, stride, shuffle, drop_last), (4, 256, 128, true, true));
    assert_eq!((tail, reset_positions_after), (Tail::Drop, None));
}

/// `dataloader-intuition.ipynb`: the ids 0 to 1000.
#[test]
fn the_books_number_data() {
    let window = |start: u32| vec![vec![start, start + 1, start + 2, start + 3]];
    let one = loader(1001, config(1, 4, 1, false, true), global(0));
    let inputs: Vec<_> = one.epoch().map(|batch| rows(&batch.unwrap().input_ids)).collect();
    assert_eq!([&inputs[0], &inputs[1], &inputs[2]], [&window(0), &window(1), &window(2)]);
    assert_eq!((inputs.len(), inputs.last()), (997, Some(&window(996))));

    let last = |shuffle| {
        let loader = loader(1001, config(2, 4, 4, shuffle, true), global(123));
        rows(&loader.epoch().last().unwrap().unwrap().input_ids)
    };
    assert_eq!(last(false), [[992, 993, 994, 995], [996, 997, 998, 999]]);
    assert_eq!(last(true), [[880, 881, 882, 883], [112, 113, 114, 115]]);
    let shuffled = loader(1001, config(1, 4, 4, true, true), global(123));
    let order: Vec<u32> = shuffled.epoch().take(10).map(|batch| rows(&batch.unwrap().input_ids)[0][0] / 4).collect();
    assert_eq!(order, [8, 116, 182, 10, 0, 137, 141, 132, 97, 134]);
}

/// For the 5145 tokens of the book's text: batch_size, max_length, stride, windows, batches without and with the last
/// one, and the rows of the last one.
const COUNTS: [[usize; 7]; 8] = [
    [1, 4, 1, 5141, 5141, 5141, 1],
    [8, 4, 4, 1286, 160, 161, 6],
    [8, 4, 1, 5141, 642, 643, 5],
    [4, 2, 2, 2572, 643, 643, 4],
    [4, 8, 2, 2569, 642, 643, 1],
    [4, 256, 128, 39, 9, 10, 3],
    [2, 256, 256, 20, 10, 10, 2],
    [8, 1024, 1024, 5, 0, 1, 5],
];

#[test]
fn the_books_text_has_as_many_windows_and_batches() {
    for [batch_size, max_length, stride, n_windows, n_dropped, n_kept, n_last] in COUNTS {
        for (drop_last, n_batches) in [(true, n_dropped), (false, n_kept)] {
            let config = config(batch_size, max_length, stride, false, drop_last);
            if n_batches == 0 {
                let tokens = Tokens::new((0..5145).collect());
                assert!(error_text(Loader::new(&tokens, config, global(0), &Device::Cpu)).starts_with("no batch: "));
                continue;
            }
            let loader = loader(5145, config, global(0));
            assert_eq!((loader.windows().n_windows(), loader.n_batches()), (n_windows, n_batches));
            assert_eq!(loader.n_dropped(), if drop_last { n_windows % batch_size } else { 0 });
            let epoch = loader.epoch();
            assert_eq!(epoch.len(), n_batches);
            let shapes: Vec<_> = epoch.map(|batch| batch.unwrap().target_ids.dims2().unwrap()).collect();
            assert_eq!(shapes.len(), n_batches);
            if !drop_last {
                assert_eq!(shapes.last(), Some(&(n_last, max_length)));
            }
        }
    }
}

/// The order of the windows of the book's text at max_length = stride = 4.
#[test]
fn the_books_text_is_shuffled_as_in_pytorch() {
    for (seeding, expected) in [
        (global(123), [[252, 913, 126, 246], [783, 452, 366, 1045]]),
        (explicit(123), [[918, 836, 1122, 313], [1057, 538, 482, 336]]),
    ] {
        let loader = loader(5145, config(4, 4, 4, true, true), seeding);
        for expected in expected {
            let mut epoch = loader.epoch();
            let first = rows(&epoch.next().unwrap().unwrap().input_ids);
            assert_eq!(first.iter().map(|row| row[0] / 4).collect::<Vec<_>>(), expected);
            assert_eq!(epoch.count(), 320);
        }
    }
}

// ---- PyTorch's orders and draws ----

fn size(case: &Value, key: &str) -> usize {
    case[key].as_u64().unwrap() as usize
}

#[test]
fn orders_and_draws_are_those_of_pytorch() {
    let golden = golden_json("loader.json");
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 150);
    for case in cases {
        let flag = |key: &str| case[key].as_bool().unwrap();
        if flag("drop_last") && size(case, "n") < size(case, "batch_size") {
            continue; // PyTorch's epochs are empty; here the loader is an error
        }
        let generator = Generator::manual_seed(case["seed"].as_u64().unwrap());
        let seeding = if flag("explicit") { Seeding::Explicit } else { Seeding::Global }(generator.clone());
        let loader =
            numbered(size(case, "n") as u32, size(case, "batch_size"), flag("shuffle"), flag("drop_last"), seeding);
        for epoch in case["epochs"].as_array().unwrap() {
            let mut draws = vec![i63(&generator)];
            let mut order = Vec::new();
            for (number, batch) in loader.epoch().enumerate() {
                order.extend(numbers(batch));
                draws.push(i63(&generator));
                if epoch["stop_after"] == number + 1 {
                    break;
                }
            }
            draws.push(i63(&generator));
            match epoch.get("order") {
                Some(expected) => assert_eq!(serde_json::json!(order), *expected, "{case}"),
                None => {
                    let bytes = order.iter().flat_map(|&number| u64::from(number).to_le_bytes());
                    assert_eq!((order.len(), fnv1a(bytes).into()), (size(epoch, "n_samples"), epoch["fnv"].clone()))
                }
            }
            assert_eq!(serde_json::json!(draws), epoch["draws"], "{case}");
        }
    }
}

// ---- windows ----

/// Makes documents of up to 40 tokens whose ids encode the document and the place.
///
/// Ids fit 16 bits, except from the third document on.
fn documents() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let lengths = prop::collection::vec(0usize..40, 1..5);
    lengths.prop_map(|lengths| {
        (0u32..).zip(lengths).map(|(d, n)| (0..n as u32).map(|place| 30_000 * (d + 1) + place).collect()).collect()
    })
}

proptest! {
    #![proptest_config(properties(256))]

    #[test]
    fn windows_are_those_of_the_books_loop(documents in documents(), max_length in 1usize..9, stride in 1usize..12) {
        let mut expected = Vec::new();
        for ids in &documents {
            // for i in range(0, len(token_ids) - max_length, stride)
            for i in (0..ids.len().saturating_sub(max_length)).step_by(stride) {
                expected.push((ids[i..i + max_length].to_vec(), ids[i + 1..i + max_length + 1].to_vec()));
            }
        }
        match Windows::new(&Tokens::from_documents(&documents), max_length, stride, Tail::Drop) {
            Ok(windows) => {
                let found: Vec<_> = (0..).map_while(|i| windows.get(i)).map(|w| (w.input_ids().to_vec(), w.target_ids().to_vec())).collect();
                prop_assert_eq!(windows.n_windows(), expected.len());
                prop_assert_eq!(found, expected);
            }
            Err(error) => {
                prop_assert!(matches!(error, Error::Data(DataError::TooShort { .. })), "{}", error);
                prop_assert!(expected.is_empty());
            }
        }
    }

    #[test]
    fn a_kept_tail_covers_every_target(documents in documents(), max_length in 1usize..9, stride in 1usize..12) {
        let tokens = Tokens::from_documents(&documents);
        let Ok(kept) = Windows::new(&tokens, max_length, stride, Tail::Keep) else {
            prop_assert!(documents.iter().all(|ids| ids.len() < 2));
            return Ok(());
        };
        let mut n_times = std::collections::HashMap::<u32, usize>::new();
        for window in (0..).map_while(|i| kept.get(i)) {
            prop_assert!(!window.target_ids().is_empty());
            let new = window.target_ids().iter().any(|id| !n_times.contains_key(&id));
            prop_assert!(new, "a window without a target of its own");
            for (input, target) in window.input_ids().iter().zip(window.target_ids().iter()) {
                prop_assert_eq!(input + 1, target);
                *n_times.entry(target).or_default() += 1;
            }
        }
        for ids in &documents {
            for (place, id) in ids.iter().enumerate() {
                let n = n_times.get(id).copied().unwrap_or(0);
                if place == 0 {
                    prop_assert_eq!(n, 0);
                } else if stride == max_length {
                    prop_assert_eq!(n, 1);
                } else if stride < max_length {
                    prop_assert!(n >= 1, "token {} is not a target", id);
                } else {
                    prop_assert_eq!(n, usize::from((place - 1) % stride < max_length));
                }
            }
        }
        // Whole windows are the same as without the tail, in each document.
        for ids in &documents {
            let alone = Tokens::new(ids.clone());
            if let Ok(dropped) = Windows::new(&alone, max_length, stride, Tail::Drop) {
                let kept = Windows::new(&alone, max_length, stride, Tail::Keep).unwrap();
                prop_assert!((0..dropped.n_windows()).all(|i| dropped.get(i) == kept.get(i)));
                prop_assert!(kept.n_windows() - dropped.n_windows() <= 1);
            }
        }
    }

    #[test]
    fn splits_lose_no_token_and_cut_no_window(documents in documents(), fraction in 0.0..=1.0f64) {
        let tokens = Tokens::from_documents(&documents);
        let all = documents.concat();
        let (before, after) = tokens.split(fraction).unwrap();
        prop_assert_eq!(before.n_tokens(), (all.len() as f64 * fraction) as usize);
        let joined = |part: &Tokens| part.documents().flat_map(|ids| ids.iter()).collect::<Vec<u32>>();
        prop_assert_eq!([joined(&before), joined(&after)].concat(), all.clone());
        // Each piece lies within one document.
        for piece in before.documents().chain(after.documents()) {
            prop_assert!(documents.iter().any(|document| document.windows(piece.len()).any(|part| piece == *part)));
        }

        let (before, after) = tokens.split_documents(fraction).unwrap();
        let whole: Vec<Vec<u32>> = before.documents().chain(after.documents()).map(|ids| ids.to_vec()).collect();
        prop_assert_eq!(&whole, &documents);
        let borders = (0..=documents.len()).map(|n| documents[..n].concat().len());
        let distance = |n: usize| (n as f64 - all.len() as f64 * fraction).abs();
        prop_assert!(borders.clone().all(|n| distance(n) >= distance(before.n_tokens())));
    }
}

#[test]
fn splits_of_the_books_text_add_up() {
    let tokens = Tokens::new((0..5145).collect());
    let (train, validation) = tokens.split(0.9).unwrap();
    assert_eq!((train.n_tokens(), validation.n_tokens()), (4630, 515));
    for fraction in [-0.1, 1.1, f64::NAN] {
        for result in [tokens.split(fraction), tokens.split_documents(fraction)] {
            assert!(matches!(result, Err(Error::Data(DataError::Fraction { .. }))), "{fraction}");
        }
    }
}

#[test]
fn ids_of_more_than_16_bits_are_kept() {
    for first in [0, 65_500, 65_536, u32::MAX - 41] {
        let tokens = Tokens::new((first..first + 41).collect());
        let loader = Loader::new(&tokens, config(2, 10, 10, false, false), global(0), &Device::Cpu).unwrap();
        let ids: Vec<u32> = loader.epoch().flat_map(|batch| rows(&batch.unwrap().target_ids).concat()).collect();
        assert_eq!(ids, (first + 1..first + 41).collect::<Vec<_>>());
    }
}

#[test]
fn padding_is_masked_and_positions_begin_again() {
    let config = config(2, 4, 4, false, false).with_tail(Tail::Keep).with_reset_positions_after(9);
    let tokens = Tokens::from_documents([vec![1, 9, 3, 4, 5, 9, 7], vec![10, 9, 9, 13, 14]]);
    for device in devices() {
        let loader = Loader::new(&tokens, config.clone(), global(0), &device).unwrap();
        let batches: Vec<Batch> = loader.epoch().collect::<Result<_>>().unwrap();
        let [first, second] = &batches[..] else { panic!("{} batches", batches.len()) };
        assert_eq!(rows(&first.input_ids), [[1, 9, 3, 4], [5, 9, 7, 0]]);
        assert_eq!(rows(&first.target_ids), [[9, 3, 4, 5], [9, 7, 0, 0]]);
        assert_eq!(rows(first.position_ids.as_ref().unwrap()), [[0, 1, 0, 1], [0, 1, 0, 0]]);
        assert_eq!(first.loss_mask.as_ref().unwrap().to_vec2::<u8>().unwrap(), [[1, 1, 1, 1], [1, 1, 0, 0]]);
        assert_eq!(rows(&second.input_ids), [[10, 9, 9, 13]]);
        assert_eq!(rows(second.position_ids.as_ref().unwrap()), [[0, 1, 0, 0]]);
        assert_eq!(second.loss_mask.as_ref().unwrap().to_vec2::<u8>().unwrap(), [[1, 1, 1, 1]]);
    }
}

#[test]
fn joined_documents_are_one() {
    let tokens = Tokens::from_documents([vec![1, 2, 3], vec![4], vec![]]);
    assert_eq!(tokens.joined(&[]).documents().collect::<Vec<_>>(), [[1, 2, 3, 4]]);
    assert_eq!(tokens.joined(&[0]).documents().collect::<Vec<_>>(), [[1, 2, 3, 0, 4, 0]]);
    assert!(Windows::new(&tokens, 3, 1, Tail::Drop).is_err());
    assert_eq!(Windows::new(&tokens.joined(&[]), 3, 1, Tail::Drop).unwrap().n_windows(), 1);
}

#[test]
fn ids_of_other_types_are_checked() {
    let documents = |tokens: Tokens| tokens.documents().map(|ids| ids.to_vec()).collect::<Vec<_>>();
    assert_eq!(documents(Tokens::from(&[1u16, u16::MAX][..])), [[1, 65535]]);
    assert_eq!(documents(Tokens::try_from(&[0i64, u32::MAX.into()][..]).unwrap()), [[0, u32::MAX]]);
    for id in [-1, i64::from(u32::MAX) + 1] {
        let text = error_text(Tokens::try_from(&[5, id][..]));
        assert_eq!(text, format!("token id {id} at [1] does not fit u32: ids are 0 to 4294967295"));
    }
    let tokens = Tokens::from_documents([[1, 50256], [7, 50257]]);
    assert!(tokens.check_ids(50258).is_ok());
    let text = error_text(tokens.check_ids(50257));
    assert_eq!(text, "token id 50257 at [3] is outside the vocabulary of 50257 (valid ids: 0 to 50256)");
}

#[test]
fn texts_are_collections_of_ids() -> Result<()> {
    let tokens: Tokens = (7..10).collect();
    assert_eq!(tokens, Tokens::new(vec![7, 8, 9]));
    assert_eq!((Tokens::default().n_tokens(), Tokens::default().n_documents()), (0, 0));
    // The same ids stored in 32 bits, and as part of another text.
    let wide = Tokens::from_documents([vec![7, 8, 9], vec![1 << 20]]);
    assert_eq!(wide.split_documents(0.75)?.0, tokens);
    assert_ne!(wide, tokens);
    for document in [tokens.documents().next().unwrap(), wide.documents().next().unwrap()] {
        assert_eq!(document, [7, 8, 9]);
        assert_eq!(document, vec![7, 8, 9]);
        assert_eq!(document, &[7u32, 8, 9][..]);
        assert_ne!(document, vec![7, 8]);
        assert_eq!(document.into_iter().len(), 3);
        assert_eq!(document.into_iter().collect::<Vec<_>>(), [7, 8, 9]);
    }
    let loader = numbered(4, 2, false, false, global(1));
    let mut seen = Vec::new();
    for batch in &loader {
        seen.extend(numbers(batch));
    }
    assert_eq!(seen, [0, 1, 2, 3]);
    for tail in ["drop", "keep"] {
        assert_eq!(tail.parse::<Tail>()?.to_string(), tail);
    }
    assert!(error_text("pad".parse::<Tail>()).contains("`tail` is pad, expected drop or keep"));
    Ok(())
}

#[test]
fn what_cannot_be_loaded_is_an_error() {
    let new = |n_tokens: u32, config: LoaderConfig| {
        error_text(Loader::new(&Tokens::new((0..n_tokens).collect()), config, global(0), &Device::Cpu))
    };
    assert_eq!(new(9, config(0, 4, 4, false, false)), "`batch_size` must be at least 1");
    assert_eq!(new(9, config(1, 0, 4, false, false)), "`max_length` must be at least 1");
    assert_eq!(new(9, config(1, 4, 0, false, false)), "`stride` must be at least 1");
    let too_short = "no window of max_length 4 fits: it needs 5 tokens, and the longest of 1 documents has 4";
    assert_eq!(new(4, config(1, 4, 4, true, false)), too_short);
    assert!(Windows::new(&Tokens::new((0..5).collect()), 4, 4, Tail::Drop).is_ok());
    let keep = config(1, 4, 4, false, false).with_tail(Tail::Keep);
    let too_short = "no window of max_length 4 fits: it needs 2 tokens, and the longest of 1 documents has 1";
    assert_eq!(new(1, keep), too_short);
    assert!(Windows::new(&Tokens::from_documents::<Vec<u32>>([]), 4, 4, Tail::Drop).is_err());
    // Fewer windows than a step takes, in all ranks or in one; PyTorch makes empty epochs.
    let none = |n_windows, batch_size, world_size, step: &str, drop_last| {
        format!(
            "no batch: an epoch has {n_windows} windows, and a step takes {step} (batch_size {batch_size}, world_size \
             {world_size}, drop_last {drop_last}): set drop_last to false, or choose smaller batches, windows or strides"
        )
    };
    assert_eq!(new(515, config(4, 256, 256, true, true)), none(2, 4, 1, "4", true));
    assert_eq!(loader(515, config(4, 256, 256, true, false), global(0)).n_batches(), 1);
    let text = error_text(numbered(5, 2, false, true, global(0)).shard(0, 3));
    assert_eq!(text, none(5, 2, 3, "6", true));
    let text = error_text(numbered(2, 2, false, false, global(0)).shard(2, 3));
    assert_eq!(text, none(2, 2, 3, "6", false));
    assert!(numbered(2, 2, false, false, global(0)).shard(1, 3).is_ok());
    // Values at the end of their range neither overflow nor allocate.
    let huge = config(usize::MAX, usize::MAX, usize::MAX, true, false).with_tail(Tail::Keep);
    let loader = loader(9, huge, global(0)).shard(0, usize::MAX).unwrap();
    assert_eq!((loader.windows().n_windows(), loader.n_batches()), (1, 1));
    let mut epoch = loader.epoch();
    let text = error_text(epoch.next().unwrap());
    assert_eq!(text, format!("a batch of 1 windows of {} tokens does not fit in memory", usize::MAX));
    assert!(epoch.next().is_none());
    for (rank, world_size) in [(0, 0), (2, 2), (3, 2)] {
        let text = error_text(numbered(9, 1, false, false, global(0)).shard(rank, world_size));
        assert_eq!(text, format!("no shard {rank} of {world_size}: ranks are 0 to world_size - 1"));
    }
}

// ---- shards ----

proptest! {
    #![proptest_config(properties(256))]

    #[test]
    fn shards_side_by_side_are_one_loader(
        n in 1u32..60, batch_size in 1usize..6, world_size in 1usize..6, drop_last: bool, seed: u64,
    ) {
        prop_assume!(n as usize >= if drop_last { batch_size * world_size } else { world_size });
        let whole = numbered(n, batch_size * world_size, true, drop_last, explicit(seed));
        let ranks: Vec<Loader> = (0..world_size)
            .map(|rank| numbered(n, batch_size, true, drop_last, explicit(seed)).shard(rank, world_size).unwrap())
            .collect();
        for _ in 0..2 {
            let mut epochs: Vec<_> = ranks.iter().map(Loader::epoch).collect();
            let lengths: Vec<usize> = epochs.iter().map(ExactSizeIterator::len).collect();
            let (least, most) = (*lengths.iter().min().unwrap(), *lengths.iter().max().unwrap());
            prop_assert!(most - least <= usize::from(!drop_last && (n as usize) % (batch_size * world_size) < world_size));
            for batch in whole.epoch() {
                let parts: Vec<Vec<u32>> = epochs.iter_mut().filter_map(Iterator::next).map(numbers).collect();
                let sizes = parts.iter().map(Vec::len);
                prop_assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
                prop_assert_eq!(parts.concat(), numbers(batch));
            }
            prop_assert!(epochs.iter_mut().all(|epoch| epoch.next().is_none()));
            for (rank, length) in ranks.iter().zip(lengths) {
                prop_assert_eq!(rank.n_batches(), length);
                prop_assert_eq!(rank.state(), whole.state());
            }
        }
    }
}

// ---- state ----

/// Runs a training loop from where `loader` stands to the end of the third epoch. Returns its batches, and a draw after
/// each batch, as dropout would make.
fn rest(loader: &Loader, generator: &Generator) -> Vec<(u64, Vec<u32>, i64)> {
    let mut seen = Vec::new();
    while loader.state().epoch() < 3 {
        let epoch = loader.epoch();
        let number = epoch.number();
        seen.extend(epoch.map(|batch| (number, numbers(batch), i63(generator))));
    }
    seen
}

fn through_serde(state: &LoaderState) -> LoaderState {
    let text = serde_json::to_string(state).unwrap();
    assert!(text.len() < 10_752, "{} bytes", text.len());
    serde_json::from_str(&text).unwrap()
}

proptest! {
    #![proptest_config(properties(256))]

    #[test]
    fn a_resumed_loader_gives_exactly_the_remaining_batches(
        n in 1u32..40, batch_size in 1usize..7, shuffle: bool, drop_last: bool, in_explicit: bool, seed: u64, k in 0usize..80,
    ) {
        prop_assume!(!drop_last || n as usize >= batch_size);
        let seeding = |seed| {
            let generator = Generator::manual_seed(seed);
            (generator.clone(), if in_explicit { Seeding::Explicit } else { Seeding::Global }(generator))
        };
        let new = |seed| {
            let (generator, seeding) = seeding(seed);
            (numbered(n, batch_size, shuffle, drop_last, seeding), generator)
        };
        let (whole, generator) = new(seed);
        let whole = rest(&whole, &generator);

        let (stopped, generator) = new(seed);
        let mut taken = 0;
        let mut state = stopped.state();
        'training: while stopped.state().epoch() < 3 {
            for batch in stopped.epoch() {
                if taken == k {
                    break 'training; // this batch is fetched but not trained on, so the earlier state counts
                }
                numbers(batch);
                i63(&generator);
                taken += 1;
                state = stopped.state();
            }
        }
        let (resumed, generator) = new(seed ^ 1);
        let resumed = resumed.resume(&through_serde(&state)).unwrap();
        prop_assert_eq!(&resumed.state(), &state);
        prop_assert_eq!(rest(&resumed, &generator), &whole[taken..]);
    }

    #[test]
    fn a_state_fits_other_batch_sizes_and_ranks(
        n in 1u32..60, from in 1usize..6, from_ranks in 1usize..4, to in 1usize..6, to_ranks in 1usize..4,
        in_explicit: bool, seed: u64, k in 0usize..12,
    ) {
        prop_assume!(n as usize >= from_ranks.max(to_ranks));
        let new = |batch_size, rank, world_size, seed| {
            let seeding = if in_explicit { explicit(seed) } else { global(seed) };
            numbered(n, batch_size, true, false, seeding).shard(rank, world_size).unwrap()
        };
        let order: Vec<u32> = new(1, 0, 1, seed).epoch().flat_map(numbers).collect();
        let saved = new(from, 0, from_ranks, seed);
        let n_taken = saved.epoch().take(k.min(saved.n_batches())).count();
        let state = saved.state();
        prop_assert_eq!(state.n_samples(), (n_taken * from * from_ranks).min(n as usize));
        let ranks: Vec<Loader> =
            (0..to_ranks).map(|rank| new(to, rank, to_ranks, 0).resume(&state).unwrap()).collect();
        let mut epochs: Vec<_> = ranks.iter().map(Loader::epoch).collect();
        let mut remaining = Vec::new();
        while let Some(batch) = epochs[0].next() {
            remaining.extend(numbers(batch));
            remaining.extend(epochs[1..].iter_mut().filter_map(Iterator::next).flat_map(numbers));
        }
        prop_assert_eq!(remaining, &order[state.n_samples()..]);
    }
}

#[test]
fn states_are_small_and_written_at_any_moment() {
    for seeding in [explicit(5), global(5)] {
        let loader = numbered(10_000, 7, true, false, seeding);
        let n_bytes = |state: LoaderState| serde_json::to_vec(&state).unwrap().len();
        assert!(n_bytes(loader.state()) < 6144);
        let mut epoch = loader.epoch();
        assert!(n_bytes(loader.state()) < 6144);
        for _ in 0..100 {
            epoch.next().unwrap().unwrap();
            assert!(n_bytes(loader.state()) < 6144);
        }
        assert_eq!((loader.state().epoch(), loader.state().n_samples()), (0, 700));
        // An older epoch that continues does not change the loader's progress.
        let later = loader.epoch();
        epoch.next().unwrap().unwrap();
        assert_eq!((later.number(), loader.state().epoch(), loader.state().n_samples()), (1, 1, 0));
    }
}

#[test]
fn a_state_of_another_loader_is_refused() {
    let config = config(2, 4, 4, true, true);
    let saved = loader(100, config.clone(), explicit(1));
    saved.epoch().next().unwrap().unwrap();
    let state = saved.state();
    let refused = |n_tokens: u32, config: LoaderConfig, seeding: Seeding| {
        let before = seeding.generator().state();
        let handle = seeding.generator().clone();
        let text = error_text(loader(n_tokens, config, seeding).resume(&state));
        assert_eq!(handle.state(), before);
        text
    };
    let differs = |what: &str| format!("cannot resume: the state is of a loader with {what}");
    assert_eq!(refused(101, config.clone(), explicit(1)), differs("n_tokens 100, but this one has 101"));
    let other = config.clone().with_max_length(5);
    assert_eq!(refused(100, other, explicit(1)), differs("max_length 4, but this one has 5"));
    let other = config.clone().with_stride(3);
    assert_eq!(refused(100, other, explicit(1)), differs("stride 4, but this one has 3"));
    let other = config.clone().with_tail(Tail::Keep);
    assert_eq!(refused(100, other, explicit(1)), differs("tail drop, but this one has keep"));
    let other = config.clone().with_shuffle(false);
    assert_eq!(refused(100, other, explicit(1)), differs("shuffle true, but this one has false"));
    assert_eq!(refused(100, config.clone(), global(1)), differs("seeding explicit, but this one has global"));
    let halves = Tokens::from_documents([vec![0; 52], vec![0; 48]]);
    let halves = Loader::new(&halves, config.clone(), explicit(1), &Device::Cpu).unwrap();
    assert_eq!(error_text(halves.resume(&state)), differs("n_documents 1, but this one has 2"));

    let mut json = serde_json::to_value(&state).unwrap();
    let mut damaged = |key: &str, value: Value| {
        let before = std::mem::replace(&mut json[key], value);
        let text = match serde_json::from_value::<LoaderState>(json.clone()) {
            Ok(state) => error_text(loader(100, config.clone(), explicit(1)).resume(&state)),
            Err(error) => error.to_string(),
        };
        json[key] = before;
        text
    };
    let too_many = "the saved state is damaged: it has consumed more samples than there are windows";
    assert_eq!(damaged("n_samples", 25.into()), too_many);
    let no_order = "the saved state is damaged: a loader of this kind does not draw its order";
    assert_eq!(damaged("stage", "between".into()), no_order);
    let order = serde_json::json!({"running": {"order": {"seed": 5}, "ran_out": false}});
    assert_eq!(damaged("stage", order), no_order);
    let order = serde_json::json!({"running": {"order": "sequential", "ran_out": false}});
    assert_eq!(damaged("stage", order), no_order);
    assert!(damaged("epoch", (-1).into()).contains("invalid value"));
    assert!(damaged("later_field", 1.into()).contains("unknown field"));
}

#[test]
fn configurations_are_plain_data() {
    let config = config(1, 2, 3, false, false).with_tail(Tail::Keep).with_reset_positions_after(50256);
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<LoaderConfig>(&text).unwrap(), config);
    assert!(serde_json::from_str::<LoaderConfig>(r#"{"block_size": 4}"#).is_err());
    fn shared<T: Send + Sync>() {}
    shared::<(Loader, Tokens, Windows, Batch, LoaderState)>();
}

// ---- the book's words ----

#[cfg(feature = "tokenizer")]
#[test]
fn the_loader_of_the_book_has_its_signature_and_order() -> Result<()> {
    use candle_gpt_input::data::create_dataloader_v1;
    use std::sync::Arc;

    let text = "In the beginning God created the heaven and the earth. ".repeat(40) + "<|endoftext|>";
    let ids = candle_gpt_input::tokenizer::Tokenizer::gpt2()
        .with_special_tokens(candle_gpt_input::tokenizer::SpecialTokens::Recognize)
        .encode(&text)?;
    assert_eq!(ids.last(), Some(&50256));
    let plain = Loader::new(&Tokens::new(ids), config(4, 8, 3, true, true), global(123), &Device::Cpu)?;
    let book = Arc::new(create_dataloader_v1(&text, 4, 8, 3, true, true)?.with_seeding(global(123)));
    let mut n_batches = 0;
    let mut plain_epoch = plain.epoch();
    for ours in book.owned_epoch() {
        let (input_ids, target_ids): (Tensor, Tensor) = ours?.into();
        let theirs = plain_epoch.next().unwrap()?;
        assert_eq!(input_ids.to_vec2::<u32>()?, theirs.input_ids.to_vec2::<u32>()?);
        assert_eq!(target_ids.to_vec2::<u32>()?, theirs.target_ids.to_vec2::<u32>()?);
        n_batches += 1;
    }
    assert!(plain_epoch.next().is_none());
    assert_eq!((n_batches, book.state()), (plain.n_batches(), plain.state()));
    // An owned epoch outlives the handle, and goes to another thread.
    let mut epoch = book.owned_epoch();
    drop(book);
    assert_eq!(std::thread::spawn(move || epoch.by_ref().count()).join().unwrap(), n_batches);
    Ok(())
}
