//! The laws of a step over several micro-batches and ranks, with ranks that are threads.

use std::sync::mpsc;
use std::time::Duration;

use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::embedding::{EmbeddingOptions, TokenTable};
use candle_gpt_input::error::{Error, OptimError, RanksError};
use candle_gpt_input::optim::{AdamW, GradSum, RowGrad};
use candle_gpt_input::ranks::{self, Alone, Parts, Ranks, Threads, share};
use candle_gpt_input::{GptInputLayer, Result};
use candle_nn::{Optimizer, ParamsAdamW};
use proptest::prelude::*;

use crate::support::properties;

const WIDTH: usize = 3;
/// Rows of a tied table, of one that has rows alone, elements of a bias.
const SIZES: [usize; 3] = [5, 4, 7];

fn variables(dtype: DType) -> Vec<Var> {
    let of = |shape: &[usize]| Var::ones(shape, dtype, &Device::Cpu).unwrap();
    vec![of(&[SIZES[0], WIDTH]), of(&[SIZES[1], WIDTH]), of(&[SIZES[2]])]
}

/// Returns values whose sum depends on the order.
fn values(seed: u64, shape: &[usize], dtype: DType) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / 8e6 - 1.0) * 10f32.powi((state % 5) as i32)
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// Adds micro-batch `m`: `n_ids` ids for each table, `m % 3 + 1` targets.
fn add(sum: &mut GradSum, vars: &[Var], m: u64, n_ids: usize) -> Result<()> {
    let dtype = vars[0].dtype();
    let mut grads = candle_core::backprop::GradStore::default();
    grads.insert(&vars[0], values(100 * m + 1, &[SIZES[0], WIDTH], dtype));
    grads.insert(&vars[2], values(100 * m + 2, &[SIZES[2]], dtype));
    let rows = (0..2).map(|table| {
        let ids: Vec<u32> = (0..n_ids as u64).map(|i| ((m * 7 + i * i + i) % SIZES[table] as u64) as u32).collect();
        let rows = values(100 * m + 3 + table as u64, &[n_ids, WIDTH], dtype);
        RowGrad::new(&vars[table], &Tensor::new(ids, &Device::Cpu)?, &rows)
    });
    sum.add(grads, rows.collect::<Result<Vec<_>>>()?, 0.1 * (m + 1) as f64, m as usize % 3 + 1)
}

/// Returns the bits of a step over `micro_batches`: gradients, loss, targets, and the parameters after it.
pub fn step(
    ranks: &dyn Ranks,
    micro_batches: impl IntoIterator<Item = u64>,
    n_ids: usize,
    dtype: DType,
) -> Result<Vec<u64>> {
    let vars = variables(dtype);
    let mut sum = GradSum::new(vars.clone())?;
    for m in micro_batches {
        add(&mut sum, &vars, m, n_ids)?;
    }
    let step = sum.finish(ranks)?;
    assert!(step.rows.len() <= 2 && step.grads.get(&vars[1]).is_none());
    let mut tensors: Vec<Tensor> = [0, 2].iter().map(|&var| step.grads.get(&vars[var]).unwrap().clone()).collect();
    for rows in &step.rows {
        tensors.push(rows.to_dense()?);
    }
    let mut adamw = AdamW::new(vars.clone(), ParamsAdamW::default())?;
    adamw.set_max_grad_norm(Some(1.0))?;
    adamw.step_with_rows(&step.grads, &step.rows)?;
    tensors.extend(vars.iter().map(|var| var.as_tensor().clone()));
    let mut bits = vec![step.loss.to_bits(), step.n_counted as u64];
    for tensor in tensors {
        bits.extend(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?.iter().map(|x| x.to_bits()));
    }
    Ok(bits)
}

/// Runs the step on `size` ranks, each with its share, and returns the bits of each.
fn on_ranks(micro_batches: usize, size: usize, n_ids: usize, dtype: DType) -> Vec<Vec<u64>> {
    let run = |ranks: &Threads| {
        let each = share(micro_batches, size)?;
        let first = (ranks.rank() * each) as u64;
        step(ranks, first..first + each as u64, n_ids, dtype)
    };
    Threads::run(size, run).into_iter().map(Result::unwrap).collect()
}

proptest! {
    #![proptest_config(properties(40))]

    #[test]
    fn a_step_has_the_same_bits_on_every_number_of_ranks_that_fits(
        micro_batches in 1usize..=16,
        n_ids in 0usize..6,
        dtype in prop::sample::select(vec![DType::F32, DType::F64, DType::BF16, DType::F16]),
    ) {
        let alone = step(&Alone, 0..micro_batches as u64, n_ids, dtype).unwrap();
        for size in RanksError::sizes(micro_batches) {
            for bits in on_ranks(micro_batches, size, n_ids, dtype) {
                prop_assert_eq!(&bits, &alone, "{} ranks", size);
            }
        }
    }
}

#[test]
fn ranks_with_fewer_micro_batches_or_none_give_their_sum() {
    let alone = step(&Alone, 0..3, 4, DType::F32).unwrap();
    let shares = [0..2, 2..3, 3..3];
    for bits in Threads::run(3, |ranks| step(ranks, shares[ranks.rank()].clone(), 4, DType::F32)) {
        assert_eq!(bits.unwrap(), alone);
    }
    let none = Threads::run(2, |ranks| step(ranks, 0..0, 4, DType::F32));
    assert!(none.into_iter().all(|none| matches!(none, Err(Error::Optim(OptimError::NoTargets)))));
}

#[test]
fn other_numbers_of_ranks_are_refused_with_those_that_fit() {
    for (micro_batches, sizes) in [(1, vec![1]), (6, vec![1, 3, 6]), (8, vec![1, 2, 4, 8]), (9, vec![1, 9])] {
        let fits = (1..=20).filter(|&size| share(micro_batches, size).is_ok());
        assert_eq!(fits.collect::<Vec<_>>(), sizes);
    }
    // Three each are no subtree.
    let alone = step(&Alone, 0..6, 4, DType::F32).unwrap();
    let halves = Threads::run(2, |ranks| step(ranks, [0..3, 3..6][ranks.rank()].clone(), 4, DType::F32).unwrap());
    assert_ne!(halves[0], alone);
    assert_eq!(halves[0], halves[1]);
    assert!(share(4, 0).is_err() && share(0, 2).is_err());
    let error = share(4, 3).unwrap_err().to_string();
    assert_eq!(error, "4 micro-batches a step on 3 ranks: take 1, 2 or 4 ranks");
}

#[test]
fn one_micro_batch_of_one_process_passes_unchanged() {
    let vars = variables(DType::F32);
    let (mut sum, mut adamw) = (GradSum::new(vars.clone()).unwrap(), AdamW::new_lr(vars.clone(), 0.1).unwrap());
    add(&mut sum, &vars, 0, 4).unwrap(); // one target: divided by 1
    let step = sum.finish(&Alone).unwrap();
    assert_eq!(step.rows.len(), 2, "rows of a tied table stay rows");
    adamw.step_with_rows(&step.grads, &step.rows).unwrap();
}

#[test]
fn rows_keep_their_scale_and_options() {
    let var = Var::zeros((3, 1), DType::F32, &Device::Cpu).unwrap();
    let rows = |ids: &[u32], rows: &[f32]| {
        let rows = Tensor::new(rows, &Device::Cpu).unwrap().unsqueeze(1).unwrap();
        RowGrad::new(&var, &Tensor::new(ids, &Device::Cpu).unwrap(), &rows).unwrap()
    };
    let mut sum = GradSum::new(vec![var.clone()]).unwrap();
    sum.add(Default::default(), vec![rows(&[0, 2], &[4., 8.]).with_scale(0.5)], 0.0, 1).unwrap();
    sum.add(Default::default(), vec![rows(&[2], &[2.]), rows(&[1], &[6.])], 0.0, 1).unwrap();
    let step = sum.finish(&Alone).unwrap();
    assert_eq!(step.rows[0].to_dense().unwrap().to_vec2::<f32>().unwrap(), [[1.], [3.], [3.]]);
}

/// Runs `body` as ranks, and fails if that takes longer than ten seconds.
fn in_time<T: Send + 'static>(size: usize, body: impl Fn(&Threads) -> T + Send + Sync + 'static) -> Vec<T> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(Threads::run(size, body)));
    receive.recv_timeout(Duration::from_secs(10)).expect("the ranks do not hang")
}

#[test]
fn an_error_on_one_rank_is_an_error_on_every_rank() {
    let texts = in_time(3, |ranks| {
        let own = if ranks.rank() > 0 { share(4, 3) } else { Ok(1) };
        (ranks::agree(ranks, own).unwrap_err().to_string(), ranks::agree(ranks, Ok::<_, Error>(7)).unwrap())
    });
    let reason = "4 micro-batches a step on 3 ranks: take 1, 2 or 4 ranks".to_string();
    let heard = (format!("rank 1: {reason}"), 7);
    assert_eq!(texts, [heard.clone(), (reason, 7), heard]);
}

#[test]
fn a_rank_that_ends_is_an_error_of_the_others() {
    // Before a gradient is summed, and in the middle of calls; by returning and by a panic.
    for n_calls in 0..3 {
        let results = in_time(3, move |ranks| {
            for call in 0..3 {
                if ranks.rank() == 1 && call == n_calls {
                    return Ok(false);
                }
                ranks::any(ranks, false)?;
            }
            step(ranks, 0..1, 2, DType::F32).map(|_| true)
        });
        assert!(matches!(results[1], Ok(false)));
        for result in [&results[0], &results[2]] {
            assert!(matches!(result, Err(Error::Ranks(RanksError::Left { .. }))), "{result:?}");
        }
    }
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let run = || Threads::run(2, |ranks| if ranks.rank() == 0 { panic!("no") } else { ranks::any(ranks, true) });
        send.send(std::panic::catch_unwind(run).is_err())
    });
    assert!(receive.recv_timeout(Duration::from_secs(10)).expect("the ranks do not hang"));
}

#[test]
fn ranks_that_differ_are_told_so() {
    let differs = |results: Vec<Result<()>>, text: &str| {
        for result in results {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    };
    let sums = in_time(2, |ranks| {
        let var = Var::zeros(2 + ranks.rank(), DType::F32, &Device::Cpu)?;
        GradSum::new(vec![var])?.finish(ranks).map(drop)
    });
    differs(sums, "the variables of the gradients of rank 1 and of rank 0 differ");
    let mixed = in_time(2, |ranks| {
        let (sent, mut received) = (Parts::from_iter(["", ""]), Parts::default());
        match ranks.rank() {
            0 => ranks.all_gather(b"", &mut received),
            _ => ranks.all_to_all(&sent, &mut received),
        }
    });
    differs(mixed, "rank 1 made another collective call than rank 0");
    let parts = in_time(2, |ranks| ranks.all_to_all(&Parts::from_iter([""]), &mut Parts::default()));
    differs(parts, "1 parts to send to 2 ranks");
}

#[test]
fn gradients_that_do_not_fit_are_refused() {
    let vars = variables(DType::F32);
    let mut sum = GradSum::new(vars[..1].to_vec()).unwrap();
    let rows = |table: usize| {
        let ids = Tensor::new(&[0u32], &Device::Cpu).unwrap();
        RowGrad::new(&vars[table], &ids, &values(1, &[1, WIDTH], DType::F32)).unwrap()
    };
    let error = sum.add(Default::default(), vec![rows(1)], 0.0, 1).unwrap_err();
    assert!(matches!(error, Error::Optim(OptimError::UnknownVar { .. })), "{error}");
    let mut grads = candle_core::backprop::GradStore::default();
    grads.insert(&vars[0], values(1, &[SIZES[0]], DType::F32));
    let error = sum.add(grads, vec![], 0.0, 1).unwrap_err();
    assert!(matches!(error, Error::Optim(OptimError::Gradient { property: "shape", .. })), "{error}");
    sum.add(Default::default(), vec![rows(0)], 0.0, 1).unwrap(); // the refused ones were not added
    assert_eq!(sum.finish(&Alone).unwrap().n_counted, 1);
}

#[test]
fn rows_of_a_table_with_options_are_those_of_one_batch() {
    let ids = |range: std::ops::Range<usize>| Tensor::new(&[0u32, 2, 1, 2, 0, 2, 2, 1][range], &Device::Cpu).unwrap();
    let rows = values(5, &[8, WIDTH], DType::F32);
    for (padding_idx, by_frequency) in [(None, true), (Some(0), false), (Some(2), true)] {
        let options = EmbeddingOptions::default().with_padding_idx(padding_idx).with_scale_grad_by_freq(by_frequency);
        let var = Var::ones((3, WIDTH), DType::F32, &Device::Cpu).unwrap();
        let table = TokenTable::try_from(var.as_tensor().clone()).unwrap().with_options(options).unwrap();
        let wpe = Tensor::zeros((8, WIDTH), DType::F32, &Device::Cpu).unwrap();
        let layer = GptInputLayer::new(table, wpe).unwrap();
        let row_grads = |range: std::ops::Range<usize>| {
            let rows = rows.narrow(0, range.start, range.len()).unwrap();
            layer.row_grads(&ids(range), 0, &rows).unwrap()
        };
        let bits = |rows: &[RowGrad]| rows[0].to_dense().unwrap().to_vec2::<f32>().unwrap();
        let whole = bits(&row_grads(0..8));
        for size in [1, 2] {
            let all = Threads::run(size, |ranks| {
                let mut sum = GradSum::new(vec![var.clone()]).unwrap();
                let n = 4 / size;
                for m in n * ranks.rank()..n * (ranks.rank() + 1) {
                    sum.add(Default::default(), row_grads(2 * m..2 * m + 2), 0.0, usize::from(m == 0)).unwrap();
                }
                bits(&sum.finish(ranks).unwrap().rows)
            });
            assert!(all.iter().all(|rows| *rows == whole), "{padding_idx:?} {by_frequency}: {all:?}, {whole:?}");
        }
    }
}

#[test]
fn rows_of_two_kinds_are_refused() {
    let var = Var::ones((3, 1), DType::F32, &Device::Cpu).unwrap();
    let ids = Tensor::new(&[0u32], &Device::Cpu).unwrap();
    let rows = |by_frequency: bool| {
        let options = EmbeddingOptions::default().with_scale_grad_by_freq(by_frequency);
        let table = TokenTable::try_from(var.as_tensor().clone()).unwrap().with_options(options).unwrap();
        let layer = GptInputLayer::new(table, Tensor::zeros((1, 1), DType::F32, &Device::Cpu).unwrap()).unwrap();
        layer.row_grads(&ids, 0, &Tensor::ones((1, 1), DType::F32, &Device::Cpu).unwrap()).unwrap()
    };
    let mut sum = GradSum::new(vec![var.clone()]).unwrap();
    sum.add(Default::default(), rows(false), 0.0, 1).unwrap();
    let error = sum.add(Default::default(), rows(true), 0.0, 1).unwrap_err();
    assert!(matches!(error, Error::Optim(OptimError::MixedRows { .. })), "{error}");
    let step = sum.finish(&Alone).unwrap(); // without the one that was refused
    assert_eq!((step.n_counted, step.rows.len()), (1, 1));
    for error in Threads::run(2, |ranks| {
        let mut sum = GradSum::new(vec![var.clone()]).unwrap();
        sum.add(Default::default(), rows(ranks.rank() == 1), 0.0, 1).unwrap();
        sum.finish(ranks).unwrap_err()
    }) {
        assert!(matches!(error, Error::Ranks(RanksError::Differ { rank: 1, .. })), "{error}");
    }
}
