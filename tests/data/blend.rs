//! Blends: Megatron's indices, epochs of each corpus, ranks, resuming, and what was seen, each against a plain loop.
//!
//! `tests/golden/generate_blend.py` makes the goldens.

use std::collections::BTreeSet;

use candle_core::Device;
use candle_gpt_input::data::{Batch, Blend, BlendState, Boundaries, Loader, LoaderConfig, Tail, Tokens, Windows};
use proptest::prelude::*;
use serde_json::Value;

use crate::support::{error_text, fnv1a, golden_json, properties};
use crate::{config, global, rows};

/// Makes a corpus whose window `j` is the token `number * 1000 + j` alone.
fn numbered(number: usize, n_windows: usize) -> Tokens {
    (0..=n_windows).map(|window| (number * 1000 + window) as u32).collect()
}

fn single(shuffle: bool, batch_size: usize) -> LoaderConfig {
    config(batch_size, 1, 1, shuffle, true)
}

/// Returns the corpus and window of the next `n` samples.
fn drawn(blend: &Blend, n: usize) -> Vec<(usize, usize)> {
    let mut samples = Vec::new();
    for batch in blend.batches() {
        let ids = rows(&batch.unwrap().input_ids).concat();
        samples.extend(ids.into_iter().map(|id| (id as usize / 1000, id as usize % 1000)));
        if samples.len() >= n {
            break;
        }
    }
    samples.truncate(n);
    samples
}

/// Megatron's rule in a plain double loop; a corpus that has given `sizes` of its samples waits.
fn megatron(weights: &[f64], n_samples: usize, sizes: Option<&[usize]>) -> Vec<(usize, usize)> {
    let mut taken = vec![0usize; weights.len()];
    let mut indices = Vec::new();
    for sample in 0..n_samples {
        let mut best: Option<(usize, f64)> = None;
        for corpus in 0..weights.len() {
            if sizes.is_some_and(|sizes| taken[corpus] == sizes[corpus]) {
                continue;
            }
            let error = weights[corpus] * f64::max(sample as f64, 1.0) - taken[corpus] as f64;
            if best.is_none_or(|(_, largest)| error > largest) {
                best = Some((corpus, error));
            }
        }
        let (corpus, _) = best.unwrap();
        indices.push((corpus, taken[corpus]));
        taken[corpus] += 1;
    }
    indices
}

fn fnv_of(samples: &[(usize, usize)]) -> String {
    fnv1a(samples.iter().flat_map(|(corpus, _)| (*corpus as u16).to_le_bytes()))
}

fn texts(weights: &Value) -> Vec<f64> {
    weights.as_array().unwrap().iter().map(|text| text.as_str().unwrap().parse().unwrap()).collect()
}

fn numbers(sizes: &Value) -> Vec<usize> {
    sizes.as_array().unwrap().iter().map(|size| size.as_u64().unwrap() as usize).collect()
}

#[test]
fn indices_are_megatrons() {
    let golden = golden_json("blend.json");
    let weighted = golden["weighted"].as_array().unwrap();
    assert_eq!(weighted.len(), 40);
    for (case, expected) in weighted.iter().enumerate() {
        let weights = texts(&expected["weights"]);
        let sizes: Vec<usize> = (0..weights.len()).map(|number| 1 + (number * 7 + case) % 5).collect();
        let corpora: Vec<(Tokens, f64)> =
            weights.iter().enumerate().map(|(number, &weight)| (numbered(number, sizes[number]), weight)).collect();
        let blend = Blend::new(&corpora, single(false, 8), 0, &Device::Cpu).unwrap();
        let weights_fnv = fnv1a(blend.weights().iter().flat_map(|weight| weight.to_le_bytes()));
        assert_eq!(weights_fnv, expected["weights_fnv"], "{case}: numpy's sum");
        let samples = drawn(&blend, 1000);
        assert_eq!(fnv_of(&samples), expected["fnv"], "{case}");
        let indices = megatron(blend.weights(), 1000, None).into_iter();
        let expected: Vec<_> = indices.map(|(corpus, nth)| (corpus, nth % sizes[corpus])).collect();
        assert_eq!(samples, expected, "{case}");
    }
    for expected in golden["exhaustive"].as_array().unwrap() {
        let sizes = numbers(&expected["sizes"]);
        let corpora: Vec<Tokens> = sizes.iter().enumerate().map(|(number, &n)| numbered(number, n)).collect();
        let blend = Blend::exhaustive(&corpora, single(false, 7), 0, &Device::Cpu).unwrap();
        let n = sizes.iter().sum();
        let samples = drawn(&blend, 2 * n);
        let (pass, again) = samples.split_at(n);
        assert_eq!((fnv_of(pass), pass), (expected["fnv"].as_str().unwrap().to_string(), again));
        assert_eq!(pass, megatron(blend.weights(), n, Some(&sizes)));
    }
    let shuffled = &golden["shuffled"][0];
    let corpora = numbers(&shuffled["sizes"]).into_iter().zip(texts(&shuffled["weights"])).enumerate();
    let corpora: Vec<(Tokens, f64)> = corpora.map(|(number, (n, weight))| (numbered(number, n), weight)).collect();
    let blend = Blend::new(&corpora, single(true, 3), 123, &Device::Cpu).unwrap();
    let expected: Vec<(usize, usize)> = shuffled["windows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| {
            let pair = numbers(pair);
            (pair[0], pair[1])
        })
        .collect();
    assert_eq!(drawn(&blend, 60), expected);
}

/// Returns the rows of the batches that ranks take in turn, as one process would.
fn rows_of(ranks: &[Blend], n_steps: usize) -> Vec<Vec<u32>> {
    let mut all = Vec::new();
    for _ in 0..n_steps {
        for rank in ranks {
            let batch: Batch = rank.batches().next().unwrap().unwrap();
            all.extend(rows(&batch.input_ids));
        }
    }
    all
}

proptest! {
    #![proptest_config(properties(48))]

    #[test]
    fn ranks_and_resumed_blends_give_what_one_process_gives(
        parts in prop::collection::vec((1..30usize, 1..100u32), 1..6),
        shuffle: bool,
        exhaustive: bool,
        seed: u64,
        (before, after) in ((1..5usize, 1..4usize), (1..5usize, 1..4usize)),
        n_steps in 0..12usize,
    ) {
        let corpora: Vec<(Tokens, f64)> = parts
            .iter()
            .enumerate()
            .map(|(number, &(n, weight))| (numbered(number, n), f64::from(weight) / 7.0))
            .collect();
        let tokens: Vec<Tokens> = corpora.iter().map(|(tokens, _)| tokens.clone()).collect();
        let new = |batch_size| match exhaustive {
            true => Blend::exhaustive(&tokens, single(shuffle, batch_size), seed, &Device::Cpu),
            false => Blend::new(&corpora, single(shuffle, batch_size), seed, &Device::Cpu),
        }.unwrap();
        let ranks = |(batch_size, world_size): (usize, usize), state: Option<&BlendState>| {
            let rank = |rank| {
                let blend = new(batch_size).shard(rank, world_size).unwrap();
                match state { Some(state) => blend.resume(state).unwrap(), None => blend }
            };
            (0..world_size).map(rank).collect::<Vec<Blend>>()
        };
        let first = ranks(before, None);
        let mut all = rows_of(&first, n_steps);
        let states: Vec<BlendState> = first.iter().map(Blend::state).collect();
        prop_assert!(states.iter().all(|state| *state == states[0]));
        prop_assert_eq!(states[0].n_taken().iter().sum::<u64>(), all.len() as u64);
        let saved = serde_json::to_string(&states[0]).unwrap();
        prop_assert!(saved.len() < 400 * (1 + parts.len()), "{} bytes", saved.len());
        let state: BlendState = serde_json::from_str(&saved).unwrap();
        all.extend(rows_of(&ranks(after, Some(&state)), 9));
        let samples: Vec<(usize, usize)> =
            all.iter().map(|row| (row[0] as usize / 1000, row[0] as usize % 1000)).collect();
        prop_assert_eq!(&samples, &drawn(&new(1), samples.len()));

        // Of each corpus: what it gives alone, epoch after epoch.
        let alone: Vec<Vec<(usize, usize)>> = tokens.iter().map(|tokens| {
            let blend = Blend::new(&[(tokens.clone(), 1.0)], single(shuffle, 1), seed, &Device::Cpu).unwrap();
            drawn(&blend, samples.len())
        }).collect();
        let sizes: Vec<usize> = parts.iter().map(|part| part.0).collect();
        let n: usize = sizes.iter().sum();
        let weights = new(1).weights().to_vec();
        for (at, sample) in samples.iter().enumerate() {
            let (corpus, nth) = match exhaustive {
                true => {
                    let (corpus, nth) = megatron(&weights, n, Some(&sizes))[at % n];
                    (corpus, at / n * sizes[corpus] + nth)
                }
                false => megatron(&weights, at + 1, None)[at],
            };
            prop_assert_eq!(*sample, alone[corpus][nth]);
        }
    }

    #[test]
    fn coverage_is_what_a_plain_loop_counts(
        lengths in prop::collection::vec(1..15usize, 1..5),
        other in 2..20usize,
        (max_length, stride) in (1..8usize, 1..10usize),
        keeps: bool,
        boundaries in prop::sample::select(vec![Boundaries::Keep, Boundaries::Mark, Boundaries::Ignore]),
        n_steps in 0..20usize,
    ) {
        // Tokens are their own places; those of the other corpus come after 1000.
        let mut ids = 0..;
        let documents: Vec<Vec<u32>> = lengths.iter().map(|&n| ids.by_ref().take(n).collect()).collect();
        let n_tokens = documents.iter().map(Vec::len).sum::<usize>() as u64;
        let corpora =
            [(Tokens::from_documents(&documents), 0.6), (Tokens::new((1000..1000 + other as u32).collect()), 0.4)];
        let config = config(3, max_length, stride, true, true)
            .with_tail(if keeps { Tail::Keep } else { Tail::Drop })
            .with_boundaries(boundaries);
        let Ok(blend) = Blend::new(&corpora, config, 5, &Device::Cpu) else { return Ok(()) };
        let (mut targets, mut firsts) = (Vec::new(), BTreeSet::new());
        for batch in blend.batches().take(n_steps) {
            let batch = batch.unwrap();
            let mask = batch.loss_mask.map(|mask| mask.to_vec2::<u8>().unwrap().concat());
            let ids = rows(&batch.target_ids).concat().into_iter().enumerate();
            targets.extend(ids.filter(|(i, _)| mask.as_ref().is_none_or(|mask| mask[*i] == 1)).map(|(_, id)| id));
            firsts.extend(rows(&batch.input_ids).into_iter().map(|row| row[0]));
        }
        for (corpus, coverage) in blend.coverage().iter().enumerate() {
            let is_of = |id: &&u32| usize::from(**id >= 1000) == corpus;
            let of_corpus: Vec<u32> = targets.iter().filter(is_of).copied().collect();
            let different = of_corpus.iter().collect::<BTreeSet<_>>().len() as u64;
            let total = if corpus == 0 { n_tokens } else { other as u64 };
            prop_assert_eq!(coverage.n_tokens, total);
            prop_assert_eq!(coverage.n_targets, of_corpus.len() as u64);
            prop_assert_eq!(coverage.n_never_targets, total - different);
            prop_assert!(coverage.n_without_target <= coverage.n_never_targets);
            let n_windows = blend.corpora()[corpus].n_windows() as u64;
            // A window begins where no other does.
            prop_assert_eq!(coverage.n_unseen_windows, n_windows - firsts.iter().filter(is_of).count() as u64);
            prop_assert_eq!(coverage.n_taken, blend.state().n_taken()[corpus]);
            prop_assert_eq!(coverage.n_epochs, coverage.n_taken / n_windows);
            if coverage.n_epochs > 0 {
                prop_assert_eq!(coverage.n_without_target, coverage.n_never_targets);
            }
        }
    }
}

#[test]
fn a_blend_of_one_is_its_corpus() {
    let tokens: Tokens = (0..31).collect();
    let config = config(3, 4, 4, false, false);
    let blend = Blend::new(&[(tokens.clone(), 0.1)], config.clone(), 0, &Device::Cpu).unwrap();
    let loader = Loader::new(&tokens, config, global(0), &Device::Cpu).unwrap();
    assert_eq!(Windows::new(&tokens, 4, 4, Tail::Drop).unwrap().n_windows(), 7);
    for (theirs, ours) in loader.epoch().take(2).zip(blend.batches()) {
        assert_eq!(rows(&ours.unwrap().target_ids), rows(&theirs.unwrap().target_ids));
    }
    let text = blend.coverage()[0].to_string();
    let expected = "24 tokens trained on in 0.86 epochs; never seen: 1 of 7 windows; never a target: 7 of 31 tokens";
    assert_eq!(text, expected);
}

#[test]
fn what_cannot_be_blended_is_an_error() {
    let new = |weights: &[f64], batch_size| {
        let corpora: Vec<_> = weights.iter().enumerate().map(|(i, &weight)| (numbered(i, 2), weight)).collect();
        Blend::new(&corpora, single(true, batch_size), 1, &Device::Cpu)
    };
    assert_eq!(error_text(new(&[], 1)), "`number of corpora` must be at least 1");
    assert_eq!(error_text(new(&[1.0], 0)), "`batch_size` must be at least 1");
    let huge = new(&[1.0], usize::MAX).unwrap();
    assert!(error_text(huge.batches().next().unwrap()).contains("does not fit in memory"));
    for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let text = error_text(new(&[1.0, wrong], 1));
        assert!(text.contains("weight") && text.contains("positive and finite"), "{text}");
    }
    assert!(error_text(new(&[f64::MAX, f64::MAX], 1)).contains("so is their sum"));
    assert!(error_text(new(&[1.0], 1).unwrap().shard(2, 2)).contains("no shard 2 of 2"));
    let short = [(numbered(0, 2), 1.0), (Tokens::new(vec![1]), 1.0)];
    let text = error_text(Blend::new(&short, single(true, 1), 1, &Device::Cpu));
    assert!(text.contains("no window of max_length 1 fits"), "{text}");

    let state = new(&[1.0, 3.0], 1).unwrap().state();
    assert!(new(&[2.0, 6.0], 4).unwrap().resume(&state).is_ok());
    let refused = |weights: &[f64]| error_text(new(weights, 1).unwrap().resume(&state));
    assert!(refused(&[1.0, 2.0]).contains("0.25 0.75"), "{}", refused(&[1.0, 2.0]));
    assert!(refused(&[1.0]).contains("n_corpora 2"));
    let tokens = [numbered(0, 2), numbered(1, 2)];
    let exhaustive = Blend::exhaustive(&tokens, single(true, 1), 1, &Device::Cpu).unwrap();
    assert!(error_text(exhaustive.resume(&state)).contains("exhaustive false"));
    for taken in ["[9,3]", "[1]", "[18446744073709551615,1]"] {
        let damaged = serde_json::to_string(&state).unwrap().replace("\"taken\":[0,0]", &format!("\"taken\":{taken}"));
        let damaged: BlendState = serde_json::from_str(&damaged).unwrap();
        let text = error_text(new(&[1.0, 3.0], 1).unwrap().resume(&damaged));
        assert!(text.contains("the saved state is damaged"), "{taken}: {text}");
    }
}
