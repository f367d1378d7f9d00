//! [`Blend`]: batches of several corpora, in shares.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Device;

use super::cut::windows;
use super::mixture::Mixture;
use super::order::{NextOrder, Order, OrderSource, SeedingKind};
use super::read_ahead::ReadAhead;
use super::state::Identity;
use super::{Batch, BlendState, Coverage, LoaderConfig, Tokens, Windows};
use crate::error::{DataError, Result};

/// Makes batches whose windows come from several corpora in given shares, as Megatron's `BlendedDataset` does.
///
/// Weights are shares of the windows drawn, whatever the sizes of the corpora. Sample `s` comes from the corpus with the
/// largest `weight · max(s, 1) - taken`, the first of several, so nothing is drawn at random.
///
/// Each corpus has epochs of its own: all its windows come once before any comes again. With `shuffle`, epoch `e` has the
/// order of `DistributedSampler(corpus, num_replicas=1, rank=0, seed=seed)` after `set_epoch(e)`. A blend never ends, so
/// it has no last batch, and `drop_last` changes nothing.
///
/// ```
/// use candle_core::Device;
/// use candle_gpt_input::data::{Blend, LoaderConfig, Tokens};
///
/// let (book, web) = (Tokens::new((0..4).collect()), Tokens::new((100..200).collect()));
/// let config = LoaderConfig::default().with_batch_size(4).with_max_length(1).with_stride(1).with_shuffle(false);
/// let blend = Blend::new(&[(book, 1.0), (web, 3.0)], config, 123, &Device::Cpu)?;
/// let mut rows = Vec::new();
/// for batch in blend.batches().take(4) {
///     rows.push(batch?.input_ids.flatten_all()?.to_vec1::<u32>()?);
/// }
/// assert_eq!(rows[..2], [[100, 0, 101, 102], [1, 103, 104, 105]]);
/// let coverage = blend.coverage();
/// assert_eq!((coverage[0].n_taken, coverage[0].n_epochs), (4, 1)); // 3 windows, so the first came again
/// assert_eq!((coverage[1].n_taken, coverage[1].n_unseen_windows), (12, 87));
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
#[doc(alias("BlendedDataset", "interleave_datasets", "proportion"))]
pub struct Blend {
    corpora: Vec<Windows>,
    mixture: Mixture,
    config: LoaderConfig,
    seed: u64,
    device: Device,
    rank: usize,
    world_size: usize,
    progress: Mutex<Progress>,
    /// The order of the next epoch of each corpus.
    next: Mutex<Vec<Option<NextOrder>>>,
    ahead: Mutex<ReadAhead>,
}

#[derive(Clone, Debug)]
struct Progress {
    /// The windows taken of each corpus.
    taken: Vec<u64>,
    /// The epoch of each corpus that was drawn last, and its order.
    orders: Vec<Option<(u64, Arc<Order>)>>,
}

impl Blend {
    /// Blends corpora with weights of any positive sum.
    ///
    /// # Errors
    /// [`DataError::Zero`] without a corpus or if a size in `config` is 0, [`DataError::BlendWeight`] for a weight that
    /// is not positive and finite, [`DataError::TooShort`] for a corpus without a window,
    /// [`DataError::TooManyWindows`] for one of whose windows no shuffled order fits in memory.
    pub fn new(corpora: &[(Tokens, f64)], config: LoaderConfig, seed: u64, device: &Device) -> Result<Self> {
        let weights: Vec<f64> = corpora.iter().map(|(_, weight)| *weight).collect();
        let mixture = Mixture::weighted(&weights)?;
        Self::of(corpora.iter().map(|(tokens, _)| tokens), |_| mixture, config, seed, device)
    }

    /// Blends corpora by their numbers of windows: each window comes once, then each again, in passes.
    ///
    /// This is Megatron's blend without weights and size.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn exhaustive(corpora: &[Tokens], config: LoaderConfig, seed: u64, device: &Device) -> Result<Self> {
        Self::of(corpora.iter(), Mixture::exhaustive, config, seed, device)
    }

    fn of<'a>(
        corpora: impl Iterator<Item = &'a Tokens>,
        mixture: impl FnOnce(Vec<u64>) -> Mixture,
        config: LoaderConfig,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let corpora = corpora.map(|tokens| windows(tokens, &config)).collect::<Result<Vec<_>>>()?;
        for (name, value) in [("batch_size", config.batch_size), ("number of corpora", corpora.len())] {
            if value == 0 {
                return Err(DataError::Zero { name }.into());
            }
        }
        let mixture = mixture(corpora.iter().map(|windows| windows.n_windows() as u64).collect());
        let progress = Progress { taken: vec![0; corpora.len()], orders: vec![None; corpora.len()] };
        let next = Mutex::new(corpora.iter().map(|_| None).collect());
        let (device, progress, ahead) = (device.clone(), Mutex::new(progress), Mutex::new(ReadAhead::new()));
        Ok(Self { corpora, mixture, config, seed, device, rank: 0, world_size: 1, progress, next, ahead })
    }

    /// Limits the blend to the share of process `rank` of `world_size`, as [`Loader::shard`](super::Loader::shard) does.
    ///
    /// The ranks' batches of a step, joined, are the batch of a single process with batch size
    /// `world_size · batch_size`.
    ///
    /// # Errors
    /// [`DataError::Shard`] unless `rank < world_size`.
    pub fn shard(mut self, rank: usize, world_size: usize) -> Result<Self> {
        if rank >= world_size {
            return Err(DataError::Shard { rank, world_size }.into());
        }
        (self.rank, self.world_size) = (rank, world_size);
        Ok(self)
    }

    /// Continues where `state` was taken. The blend may have another batch size, device, rank or number of ranks.
    ///
    /// # Errors
    /// [`DataError::StateMismatch`] if the corpora, their windows or order, the weights or the seed differ,
    /// [`DataError::InvalidState`] if no blend writes such a state.
    #[doc(alias = "load_state_dict")]
    pub fn resume(self, state: &BlendState) -> Result<Self> {
        state.check(&self.state())?;
        if state.taken.len() != self.corpora.len() || !self.mixture.is_reachable(&state.taken) {
            return Err(DataError::InvalidState { reason: "a blend of these weights does not take such counts" }.into());
        }
        *self.lock() = Progress { taken: state.taken.clone(), orders: vec![None; self.corpora.len()] };
        Ok(self)
    }

    /// Returns the blend's progress.
    #[must_use]
    #[doc(alias = "state_dict")]
    pub fn state(&self) -> BlendState {
        let identity = |windows: &Windows| Identity::new(windows, &self.config, SeedingKind::Explicit);
        BlendState {
            corpora: self.corpora.iter().map(identity).collect(),
            weights: self.mixture.weights().iter().map(f64::to_string).collect(),
            exhaustive: self.mixture.is_exhaustive(),
            seed: self.seed,
            taken: self.lock().taken.clone(),
        }
    }

    /// Iterates over the batches from here on, without end. Batches that are not taken remain.
    pub fn batches(&self) -> Batches<'_> {
        Batches(self)
    }

    /// Returns the windows of each corpus.
    pub fn corpora(&self) -> &[Windows] {
        &self.corpora
    }

    /// Returns the share of each corpus; all together are 1.
    #[must_use]
    pub fn weights(&self) -> &[f64] {
        self.mixture.weights()
    }

    /// Counts what all ranks have seen of each corpus so far. It takes a moment for each window there is.
    #[must_use]
    pub fn coverage(&self) -> Vec<Coverage> {
        let mut progress = self.lock().clone(); // batches go on meanwhile
        let coverage = |corpus: usize| {
            let (windows, n_taken) = (&self.corpora[corpus], progress.taken[corpus]);
            let n_windows = windows.n_windows();
            let (n_epochs, n_begun) = (n_taken / n_windows as u64, (n_taken % n_windows as u64) as usize);
            let mut is_begun = vec![false; n_windows];
            if n_begun > 0 {
                let order = self.order(&mut progress.orders, corpus, n_taken);
                (0..n_begun).for_each(|nth| is_begun[order.sample(nth)] = true);
            }
            Coverage::new(windows, self.config.boundaries, |window| n_epochs + u64::from(is_begun[window]))
        };
        (0..self.corpora.len()).map(coverage).collect()
    }

    /// Returns the order of the epoch that a corpus is in after so many samples.
    fn order(&self, orders: &mut [Option<(u64, Arc<Order>)>], corpus: usize, n_taken: u64) -> Arc<Order> {
        let n_windows = self.corpora[corpus].n_windows();
        let epoch = n_taken / n_windows as u64;
        if let Some((_, order)) = orders[corpus].as_ref().filter(|(drawn, _)| *drawn == epoch) {
            return order.clone();
        }
        orders[corpus] = None; // so that there is memory for the next
        let source = |epoch: u64| match self.config.shuffle {
            true => OrderSource::Seed(self.seed.wrapping_add(epoch)),
            false => OrderSource::Sequential,
        };
        let next = &mut lock(&self.next)[corpus];
        let order = Arc::new(NextOrder::or_make(next.take(), source(epoch), n_windows));
        if self.config.shuffle {
            let source = source(epoch + 1);
            *next = NextOrder::begin(n_windows, move || Order::from_source(source, n_windows));
        }
        orders[corpus] = Some((epoch, order.clone()));
        order
    }

    /// Takes the next batch of this rank. After an error nothing is taken.
    fn next_batch(&self) -> Result<Batch> {
        let mut progress = self.lock();
        let LoaderConfig { batch_size: n_rows, max_length, .. } = self.config;
        let mut chosen = Vec::new();
        chosen.try_reserve_exact(n_rows).map_err(|_| DataError::BatchTooLarge { n_rows, max_length })?;
        let mut taken = progress.taken.clone();
        self.take_step(&mut taken, |corpus, nth| {
            let order = self.order(&mut progress.orders, corpus, nth);
            let windows = &self.corpora[corpus];
            chosen.push((windows, order.sample((nth % windows.n_windows() as u64) as usize)));
        });
        let make = || {
            let rows = chosen.iter().map(|(windows, number)| (*windows, windows.window(*number)));
            Batch::new(rows, &self.config, &self.device)
        };
        let batch = match self.corpora.iter().any(|windows| windows.tokens().are_mapped()) {
            false => make(),
            true => {
                let (mut n_steps, mut after) = (0, taken.clone());
                let ask = |later: usize| match later {
                    0 => chosen.iter().for_each(|(windows, number)| windows.read_ahead(*number)),
                    _ => (n_steps..later).for_each(|step| {
                        self.take_step(&mut after, |corpus, nth| {
                            if step + 1 == later {
                                self.read_ahead(&progress.orders, corpus, nth);
                            }
                        });
                        n_steps = later;
                    }),
                };
                lock(&self.ahead).around((n_rows, max_length), ask, make)
            }
        };
        if batch.is_ok() {
            progress.taken = taken;
        }
        batch
    }

    /// Takes a step of all ranks. Calls `take` with the corpus of each sample of this rank, and with how many samples of it
    /// came before.
    fn take_step(&self, taken: &mut [u64], mut take: impl FnMut(usize, u64)) {
        let n_rows = self.config.batch_size;
        let of_rank = n_rows.saturating_mul(self.rank)..n_rows.saturating_mul(self.rank + 1);
        for nth in 0..n_rows.saturating_mul(self.world_size) {
            let corpus = self.mixture.next(taken);
            if of_rank.contains(&nth) {
                take(corpus, taken[corpus]);
            }
            taken[corpus] += 1;
        }
    }

    /// Asks the system for a sample to come, if its epoch has begun.
    fn read_ahead(&self, orders: &[Option<(u64, Arc<Order>)>], corpus: usize, nth: u64) {
        let windows = &self.corpora[corpus];
        let n_windows = windows.n_windows() as u64;
        if let Some((_, order)) = orders[corpus].as_ref().filter(|(epoch, _)| *epoch == nth / n_windows) {
            windows.read_ahead(order.sample((nth % n_windows) as usize));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        lock(&self.progress)
    }
}

/// A panic while a lock is held may lose a batch, and nothing else.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Iterates over the batches of a [`Blend`], without end.
#[derive(Clone, Debug)]
#[must_use = "batches are made only as they are iterated over"]
pub struct Batches<'a>(&'a Blend);

impl Iterator for Batches<'_> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next_batch())
    }
}
