//! A table that ranks share has the bits of the whole one: rows, loss, gradients, norm, files.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::checkpoint::{ByteRanges, Checkpoint, CheckpointOptions, save_pretrained};
use candle_gpt_input::embedding::TokenTable;
use candle_gpt_input::error::{Error, RanksError};
use candle_gpt_input::lm_head::{LossOptions, Reduction};
use candle_gpt_input::optim::{self, AdamW, RowGrad};
use candle_gpt_input::ranks::{Parts, Ranks, Threads};
use candle_gpt_input::vocab_parallel::{ParallelLmHead, VocabParallelEmbedding, clip_grad_norm};
use candle_gpt_input::{GptInputConfig, LmHead, Result};
use proptest::prelude::*;

use crate::support::properties;

const SIZES: [usize; 5] = [1, 2, 3, 4, 8];
/// One group of rows, one, three, 16 of one block, 16 of two blocks.
const VOCABULARIES: [usize; 5] = [97, 1000, 3000, 16384, 17000];
const DTYPES: [DType; 4] = [DType::F32, DType::F64, DType::BF16, DType::F16];

/// Numbers by xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Returns values whose sums depend on their order; with `special`, also zeros of both signs and denormals.
    fn tensor(&mut self, shape: &[usize], dtype: DType, special: bool) -> Tensor {
        let mut value = || match self.next() % 40 {
            0 if special => 0.0,
            1 if special => -0.0,
            2 if special && dtype == DType::F16 => -1e-7,
            2 if special => 1e-40,
            _ => (self.next() >> 40) as f64 / 4e6 - 2.0,
        };
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| value()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    /// Returns `n` ids, of which the low ones are frequent.
    fn ids(&mut self, n: usize, vocab_size: usize) -> Vec<i64> {
        (0..n).map(|_| ((self.next() % vocab_size as u64) >> (self.next() % 8)) as i64).collect()
    }
}

/// Returns the bits of all elements.
fn bits(tensor: &Tensor) -> Vec<u64> {
    let flat = tensor.flatten_all().unwrap();
    match tensor.dtype() {
        DType::F32 => flat.to_vec1::<f32>().unwrap().iter().map(|x| u64::from(x.to_bits())).collect(),
        DType::F64 => flat.to_vec1::<f64>().unwrap().iter().map(|x| x.to_bits()).collect(),
        DType::F16 => flat.to_vec1::<half::f16>().unwrap().iter().map(|x| u64::from(x.to_bits())).collect(),
        _ => flat.to_vec1::<half::bf16>().unwrap().iter().map(|x| u64::from(x.to_bits())).collect(),
    }
}

/// Returns rows of a whole tensor.
fn rows_of(whole: &Tensor, rows: Range<usize>) -> Tensor {
    whole.narrow(0, rows.start, rows.len()).unwrap().contiguous().unwrap()
}

fn vector(ids: &[i64]) -> Tensor {
    Tensor::from_vec(ids.to_vec(), ids.len(), &Device::Cpu).unwrap()
}

/// The batches of all ranks, and which part of them each rank has.
struct Batches {
    ids: Vec<i64>,
    /// -100 in places.
    targets: Vec<i64>,
    hidden: Tensor,
    of_rank: Vec<Range<usize>>,
}

fn batches(random: &mut Random, (vocab_size, n_embd, size): (usize, usize, usize), dtype: DType) -> Batches {
    let mut end = 0;
    let of_rank: Vec<_> = (0..size)
        .map(|_| {
            let start = end;
            end += (random.next() % 5) as usize; // none on some ranks
            start..end
        })
        .collect();
    let mut targets = random.ids(end, vocab_size);
    targets.iter_mut().for_each(|target| {
        if random.next().is_multiple_of(5) {
            *target = -100
        }
    });
    Batches { ids: random.ids(end, vocab_size), targets, hidden: random.tensor(&[end, n_embd], dtype, true), of_rank }
}

/// Runs `body` as ranks, and returns what each returns.
fn on_ranks<T: Send>(size: usize, body: impl Fn(&Threads) -> Result<T> + Sync) -> Vec<T> {
    Threads::run(size, body).into_iter().map(Result::unwrap).collect()
}

/// Checks a step of a table that is cut against that of the whole one, on one rank.
fn check(
    ranks: &dyn Ranks,
    whole: &Tensor,
    batches: &Batches,
    options: &LossOptions,
    expected: &Expected,
) -> Result<()> {
    let own = batches.of_rank[ranks.rank()].clone();
    let wte = VocabParallelEmbedding::new(ranks, whole)?;
    let ids = vector(&batches.ids[own.clone()]);
    let rows = wte.forward(ranks, &ids)?;
    assert!(bits(&rows) == bits(&rows_of(&expected.rows, own.clone())), "rows");

    let head = ParallelLmHead::new(wte.clone());
    let (hidden, targets) = (rows_of(&batches.hidden, own.clone()), vector(&batches.targets[own.clone()]));
    let found = head.loss_and_grads(ranks, &hidden, &targets, options)?;
    assert_eq!(found.n_counted, expected.n_counted);
    let loss = if expected.loss.rank() == 1 { rows_of(&expected.loss, own.clone()) } else { expected.loss.clone() };
    assert!(bits(&found.loss) == bits(&loss), "{} and not {loss}", found.loss);
    assert!(bits(&head.loss(ranks, &hidden, &targets, options)?) == bits(&loss), "the loss alone");
    assert!(bits(&found.hidden_grad) == bits(&rows_of(&expected.hidden_grad, own.clone())), "hidden_grad");
    let wte_grad = found.wte_grad.unwrap();
    assert!(bits(&wte_grad) == bits(&rows_of(&expected.wte_grad, wte.rows())), "wte_grad");

    // The input's gradient comes as rows, here that of the hidden states.
    let row_grad = wte.row_grad(ranks, &ids, &hidden)?;
    assert!(bits(&row_grad.to_dense()?) == bits(&rows_of(&expected.row_grad, wte.rows())), "row_grad");
    let (mut grads, bias) = (GradStore::default(), Var::from_tensor(&expected.bias)?);
    grads.insert(wte.var(), wte_grad);
    grads.insert(&bias, expected.bias.clone());
    let (vars, mut rows) = (vec![wte.var().clone(), bias], [row_grad]);
    let norm = clip_grad_norm(ranks, &[&wte], &vars, &mut grads, &mut rows, 0.5)?;
    assert_eq!(norm.to_bits(), expected.norm.to_bits(), "{norm} and not {}", expected.norm);
    AdamW::new_lr(vars, 0.1)?.step_with_rows(&grads, &rows)?;
    assert!(bits(wte.var()) == bits(&rows_of(&expected.stepped, wte.rows())), "the step");
    Ok(())
}

/// What one process computes with the whole table.
struct Expected {
    rows: Tensor,
    loss: Tensor,
    hidden_grad: Tensor,
    wte_grad: Tensor,
    row_grad: Tensor,
    n_counted: usize,
    bias: Tensor,
    norm: f64,
    stepped: Tensor,
}

impl Expected {
    fn of(whole: &Tensor, batches: &Batches, options: &LossOptions, random: &mut Random) -> Result<Self> {
        let var = Var::from_tensor(whole)?;
        let (ids, targets) = (vector(&batches.ids), vector(&batches.targets));
        let rows = TokenTable::try_from(whole.clone())?.forward(&ids)?;
        let found = LmHead::new(var.as_tensor().clone())?.loss_and_grads(&batches.hidden, &targets, options)?;
        let (wte_grad, row_grad) = (found.wte_grad.unwrap(), RowGrad::new(&var, &ids, &batches.hidden)?);
        let dense_rows = row_grad.to_dense()?;
        let bias = random.tensor(&[7], whole.dtype(), false);
        let (mut grads, of_bias) = (GradStore::default(), Var::from_tensor(&bias)?);
        grads.insert(&var, wte_grad.clone());
        grads.insert(&of_bias, bias.clone());
        let (vars, mut of_rows) = (vec![var.clone(), of_bias], [row_grad]);
        let norm = optim::clip_grad_norm(&vars, &mut grads, &mut of_rows, 0.5)?;
        AdamW::new_lr(vars, 0.1)?.step_with_rows(&grads, &of_rows)?;
        let (loss, hidden_grad, n_counted) = (found.loss, found.hidden_grad, found.n_counted);
        let stepped = var.as_tensor().clone();
        Ok(Self { rows, loss, hidden_grad, wte_grad, row_grad: dense_rows, n_counted, bias, norm, stepped })
    }
}

/// Checks one step on some ranks, given one.
pub fn law(ranks: &dyn Ranks, seed: u64, vocab_size: usize, n_embd: usize, dtype: DType) -> Result<()> {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let whole = random.tensor(&[vocab_size, n_embd], dtype, true);
    let batches = batches(&mut random, (vocab_size, n_embd, ranks.size()), dtype);
    let reduction = [Reduction::Mean, Reduction::Sum, Reduction::None][(random.next() % 3) as usize];
    let mut options = LossOptions::default().with_reduction(reduction);
    if random.next().is_multiple_of(2) {
        options = options.with_chunk_rows(1 + (random.next() % 7) as usize);
    }
    let expected = Expected::of(&whole, &batches, &options, &mut random)?;
    check(ranks, &whole, &batches, &options, &expected)
}

proptest! {
    #![proptest_config(properties(40))]

    #[test]
    fn a_step_has_the_bits_of_the_whole_table(
        size in prop::sample::select(SIZES.to_vec()),
        vocab_size in prop::sample::select(VOCABULARIES.to_vec()),
        n_embd in 1usize..6,
        dtype in prop::sample::select(DTYPES.to_vec()),
        seed: u64,
    ) {
        on_ranks(size, |ranks| law(ranks, seed, vocab_size, n_embd, dtype));
    }
}

#[test]
fn every_number_of_ranks_and_dtype_has_the_bits_of_the_whole_table() {
    for (seed, size) in [1, 2, 3, 4, 8, 19].into_iter().enumerate() {
        for dtype in DTYPES {
            on_ranks(size, |ranks| law(ranks, seed as u64, 16390, 3, dtype));
        }
    }
}

#[test]
fn rows_keep_the_bits_of_zeros_and_nans() {
    let of_bits = [0x8000_0000u32, 0x7fc0_1234, 0xffc0_0001, 1, 0x8000_0001, 0xff80_0000, 0x7f80_0000, 0x3f80_0000];
    let values: Vec<f32> = (0..4000).map(|i| f32::from_bits(of_bits[i % 8])).collect();
    let whole = Tensor::from_vec(values, (2000, 2), &Device::Cpu).unwrap();
    let found = on_ranks(2, |ranks| {
        let ids: Vec<i64> = (0..2000).rev().step_by(1 + ranks.rank()).collect();
        let rows = VocabParallelEmbedding::new(ranks, &whole)?.forward(ranks, &vector(&ids))?;
        Ok((bits(&rows), bits(&whole.index_select(&vector(&ids), 0)?)))
    });
    assert!(found.iter().all(|(rows, expected)| rows == expected));
}

#[test]
fn a_nan_in_the_table_or_the_hidden_states_is_one_process_nan() {
    let mut values: Vec<f32> = (0..6000).map(|i| (i % 7) as f32 - 3.0).collect();
    for (at, value) in [(5, f32::NAN), (4001, f32::INFINITY)] {
        values[at] = value;
        let whole = Tensor::from_vec(values.clone(), (3000, 2), &Device::Cpu).unwrap();
        let (hidden, targets) = (Tensor::new(&[[1f32, -1.], [0.5, 2.]], &Device::Cpu).unwrap(), vector(&[7, 2500]));
        let var = Var::from_tensor(&whole).unwrap();
        let head = LmHead::new(var.as_tensor().clone()).unwrap();
        let expected = head.loss_and_grads(&hidden, &targets, &LossOptions::default()).unwrap();
        let found = on_ranks(2, |ranks| {
            let (head, own) = (ParallelLmHead::new(VocabParallelEmbedding::new(ranks, &whole)?), ranks.rank());
            let rows = head.table().rows();
            let (hidden, targets) = (rows_of(&hidden, own..own + 1), rows_of(&targets, own..own + 1));
            let found = head.loss_and_grads(ranks, &hidden, &targets, &LossOptions::default())?;
            Ok((bits(&found.loss), bits(&found.hidden_grad), bits(&found.wte_grad.unwrap()), rows))
        });
        for (rank, (loss, hidden_grad, wte_grad, rows)) in found.into_iter().enumerate() {
            assert!(expected.loss.to_scalar::<f32>().unwrap().is_nan() && loss == bits(&expected.loss));
            assert!(hidden_grad == bits(&rows_of(&expected.hidden_grad, rank..rank + 1)));
            assert!(wte_grad == bits(&rows_of(expected.wte_grad.as_ref().unwrap(), rows)));
        }
    }
}

/// Runs `body` as ranks, and fails if that takes longer than ten seconds.
fn errors(size: usize, body: impl Fn(&Threads) -> Result<()> + Send + Sync + 'static) -> Vec<Error> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(Threads::run(size, body)));
    let results = receive.recv_timeout(Duration::from_secs(10)).expect("the ranks do not hang");
    results.into_iter().map(|result| result.unwrap_err()).collect()
}

fn table(ranks: &dyn Ranks) -> Result<VocabParallelEmbedding> {
    VocabParallelEmbedding::new(ranks, &Tensor::ones((3000, 2), DType::F32, &Device::Cpu)?)
}

#[test]
fn an_id_outside_the_vocabulary_is_an_error_on_every_rank() {
    let checked = |errors: Vec<Error>, what: &str| {
        for (rank, error) in errors.into_iter().enumerate() {
            match error {
                Error::TokenOutOfRange { id: 3000, at, vocab_size: 3000 } => assert_eq!((rank, at), (1, vec![1])),
                Error::Ranks(RanksError::Failed { rank: 1, reason }) => {
                    assert!(rank != 1 && reason.starts_with("token id 3000 at [1]"), "{what}: {reason}");
                }
                other => panic!("{what}: {other}"),
            }
        }
    };
    // In a rank's own share or not, no other id is an error: rank 0 asks for 2999, which is not one of its rows.
    let ids = |ranks: &dyn Ranks| vector(&[2999, if ranks.rank() == 1 { 3000 } else { 0 }]);
    let hidden = || Tensor::ones((2, 2), DType::F32, &Device::Cpu);
    checked(errors(3, move |ranks| table(ranks)?.forward(ranks, &ids(ranks)).map(drop)), "forward");
    checked(errors(3, move |ranks| table(ranks)?.row_grad(ranks, &ids(ranks), &hidden()?).map(drop)), "row_grad");
    let loss = move |ranks: &Threads| {
        ParallelLmHead::new(table(ranks)?).loss(ranks, &hidden()?, &ids(ranks), &LossOptions::default()).map(drop)
    };
    checked(errors(3, loss), "loss");
}

#[test]
fn ranks_that_differ_or_do_not_fit_are_told_so() {
    let all = |errors: Vec<Error>, text: &str| {
        errors.iter().for_each(|error| assert!(error.to_string().contains(text), "{error}"));
    };
    let other_table = |ranks: &Threads| {
        let n_embd = 2 + ranks.rank();
        VocabParallelEmbedding::new(ranks, &Tensor::ones((3000, n_embd), DType::F32, &Device::Cpu)?).map(drop)
    };
    all(errors(2, other_table), "the table that is cut of rank 1 and of rank 0 differ");
    let other_options = |ranks: &Threads| {
        let hidden = Tensor::ones((1, 2), DType::F32, &Device::Cpu)?;
        let options = LossOptions::default().with_chunk_rows(1 + ranks.rank());
        ParallelLmHead::new(table(ranks)?).loss(ranks, &hidden, &vector(&[0]), &options).map(drop)
    };
    all(errors(2, other_options), "the options of the loss of rank 1 and of rank 0 differ");
    let no_rows = |ranks: &Threads| {
        let rows = Tensor::ones((ranks.rank(), 2), DType::F32, &Device::Cpu)?;
        VocabParallelEmbedding::from_share(ranks, 3, &rows).map(drop)
    };
    all(errors(2, no_rows), "the share of wte");
    let integers = |ranks: &Threads| VocabParallelEmbedding::new(ranks, &vector(&[1, 2]).unsqueeze(1)?).map(drop);
    all(errors(2, integers), "wte");
    let half = |ranks: &Threads| {
        let hidden = Tensor::ones((1, 2), if ranks.rank() == 1 { DType::F16 } else { DType::F32 }, &Device::Cpu)?;
        table(ranks)?.row_grad(ranks, &vector(&[0]), &hidden).map(drop)
    };
    all(errors(2, half), "dtype");
}

#[test]
fn nothing_counts_on_any_rank() {
    let found = on_ranks(2, |ranks| {
        let (hidden, targets) = (Tensor::ones((1, 2), DType::F32, &Device::Cpu)?, vector(&[-100]));
        let found = ParallelLmHead::new(table(ranks)?).loss_and_grads(ranks, &hidden, &targets, &Default::default())?;
        let sum = found.wte_grad.unwrap().sum_all()?.to_scalar::<f32>()?;
        Ok((found.loss.to_scalar::<f32>()?, sum, found.n_counted))
    });
    assert!(found.into_iter().all(|(loss, sum, n_counted)| loss.is_nan() && sum == 0.0 && n_counted == 0));
}

/// Ranks that count what they send to others.
#[derive(Debug)]
struct Sending<'a>(&'a Threads, AtomicUsize);

impl Ranks for Sending<'_> {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn all_to_all(&self, sent: &Parts, received: &mut Parts) -> Result<()> {
        self.1.fetch_add(sent.bytes().len() - sent.get(self.rank()).len(), Ordering::Relaxed);
        self.0.all_to_all(sent, received)
    }

    fn all_gather(&self, sent: &[u8], received: &mut Parts) -> Result<()> {
        self.1.fetch_add(sent.len() * (self.size() - 1), Ordering::Relaxed);
        self.0.all_gather(sent, received)
    }
}

/// The formula of the guide.
#[test]
fn a_rank_sends_the_bytes_that_the_guide_says() {
    let (vocab_size, n_embd, n, n_ranks) = (16384, 8, 50, 4); // 16 blocks
    let whole = Tensor::ones((vocab_size, n_embd), DType::F32, &Device::Cpu).unwrap();
    let all = on_ranks(n_ranks, |threads| {
        let ranks = Sending(threads, AtomicUsize::new(0));
        let wte = VocabParallelEmbedding::new(&ranks, &whole)?;
        let ids = vector(&(0..n).map(|i| (i % 25 * 655) as i64).collect::<Vec<_>>()); // 25 differ, all over
        let hidden = Tensor::ones((n, n_embd), DType::F32, &Device::Cpu)?;
        ranks.1.store(0, Ordering::Relaxed);
        wte.forward(&ranks, &ids)?;
        let looked_up = ranks.1.swap(0, Ordering::Relaxed);
        drop(wte.row_grad(&ranks, &ids, &hidden)?);
        let of_rows = ranks.1.swap(0, Ordering::Relaxed);
        ParallelLmHead::new(wte).loss_and_grads(&ranks, &hidden, &ids, &LossOptions::default())?;
        Ok([looked_up, of_rows, ranks.1.into_inner()])
    });
    // Rows of 32 bytes; an id or a target takes 8; what the ranks agree on takes less than a kilobyte.
    let (row, others) = (4 * n_embd, n_ranks - 1);
    let expected = [
        25 * others * (row + 8), // of all ranks
        n * others * (row + 8),
        n_ranks * n * others * (row + 16 * 16 + 8) + n * (n_ranks * n_ranks - 1) * row,
    ];
    for (what, expected) in expected.into_iter().enumerate() {
        let sent: usize = all.iter().map(|sent| sent[what]).sum();
        assert!((expected..expected + 1000).contains(&sent), "{what}: {sent}, {expected}");
    }
}

/// A file in memory that counts what is read.
#[derive(Debug)]
struct Counted(Vec<u8>, AtomicUsize);

impl ByteRanges for Counted {
    fn name(&self) -> String {
        "model.safetensors".to_string()
    }

    fn n_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, ranges: &[Range<u64>]) -> std::io::Result<Vec<Vec<u8>>> {
        let pieces: Vec<_> = ranges.iter().map(|at| self.0[at.start as usize..at.end as usize].to_vec()).collect();
        self.1.fetch_add(pieces.iter().map(Vec::len).sum(), Ordering::Relaxed);
        Ok(pieces)
    }
}

#[test]
fn a_checkpoint_is_read_by_shares_and_written_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(7);
    for (dtype, vocab_size) in [(DType::F32, 20_000), (DType::BF16, 97), (DType::F16, 3000), (DType::F64, 5000)] {
        let (wte, wpe) = (random.tensor(&[vocab_size, 16], dtype, true), random.tensor(&[4, 16], dtype, false));
        let config = GptInputConfig::new(vocab_size, 4, 16);
        let (whole, cut) = (folder.path().join(format!("{dtype:?}")), folder.path().join(format!("{dtype:?}-cut")));
        [&whole, &cut].into_iter().for_each(|path| std::fs::create_dir(path).unwrap());
        save_pretrained(&whole, [("wte.weight", &wte), ("wpe.weight", &wpe)], &config).unwrap();
        let bytes = std::fs::read(whole.join("model.safetensors")).unwrap();
        let n_read = on_ranks(3, |ranks| {
            let source = Arc::new(Counted(bytes.clone(), AtomicUsize::new(0)));
            let checkpoint = Checkpoint::from_ranges(source.clone(), &CheckpointOptions::default())?;
            let (share, read) = VocabParallelEmbedding::load(ranks, &checkpoint, dtype)?;
            assert_eq!((read.vocab_size, share.dims(), share.dtype()), (vocab_size, (vocab_size, 16), dtype));
            assert_eq!(bits(share.var()), bits(&rows_of(&wte, share.rows())));
            share.save_pretrained(ranks, &cut, "wte.weight", [("wpe.weight", &wpe)], &config)?;
            Ok(source.1.load(Ordering::Relaxed))
        });
        if vocab_size == 20_000 {
            let n_bytes = vocab_size * 16 * dtype.size_in_bytes();
            assert!(n_read.iter().all(|&n| n < n_bytes / 2), "{n_read:?} of {n_bytes}");
        }
        let files =
            |path: &std::path::Path| ["model.safetensors", "config.json"].map(|name| std::fs::read(path.join(name)));
        for (whole, cut) in files(&whole).into_iter().zip(files(&cut)) {
            assert!(whole.unwrap() == cut.unwrap(), "{dtype:?}");
        }
    }
}

#[test]
fn rows_of_padding_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let wte = Random(3).tensor(&[2048, 2], DType::F32, false);
    save_pretrained(folder.path(), [("wte.weight", &wte), ("wpe.weight", &wte)], &GptInputConfig::new(2048, 2048, 2))
        .unwrap();
    let path = folder.path().join("config.json");
    let config = std::fs::read_to_string(&path).unwrap().replace("\"vocab_size\": 2048", "\"vocab_size\": 2040");
    std::fs::write(&path, config).unwrap();
    let shares = on_ranks(2, |ranks| {
        let (wte, config) = VocabParallelEmbedding::load(ranks, &Checkpoint::open(folder.path())?, DType::F32)?;
        Ok((config.vocab_size, wte.dims(), wte.rows()))
    });
    assert_eq!(shares, [(2040, (2040, 2), 0..1020), (2040, (2040, 2), 1020..2040)]);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_on_every_rank() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a file");
    std::fs::write(&path, b"").unwrap();
    let none = || std::iter::empty::<(&str, &Tensor)>();
    let inside = path.clone();
    let save = move |ranks: &Threads, name: &str| {
        table(ranks)?.save_pretrained(ranks, inside.join("model"), name, none(), &GptInputConfig::new(3000, 4, 2))
    };
    for name in ["wte.weight", "__metadata__"] {
        let save = save.clone();
        let all = errors(3, move |ranks| save(ranks, name));
        assert!(matches!(all[0], Error::Checkpoint(_)), "{}", all[0]);
        assert!(all[1..].iter().all(|error| matches!(error, Error::Ranks(RanksError::Failed { rank: 0, .. }))));
    }
    let missing = errors(2, move |ranks| {
        let checkpoint = Checkpoint::open(if ranks.rank() == 1 { path.clone() } else { path.with_extension("none") });
        let checkpoint = candle_gpt_input::ranks::agree(ranks, checkpoint)?;
        VocabParallelEmbedding::load(ranks, &checkpoint, DType::F32).map(drop)
    });
    assert!(matches!(missing[0], Error::Checkpoint(_)));
}
