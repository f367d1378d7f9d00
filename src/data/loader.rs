//! [`Loader`]: makes batches, epoch after epoch.

use std::iter::FusedIterator;
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Device;

use super::cut::windows;
use super::order::{Order, Seeding};
use super::progress::Progress;
use super::read_ahead::ReadAhead;
use super::state::{Identity, LoaderState, Stage};
use super::{Batch, LoaderConfig, Tokens, Windows};
use crate::error::{DataError, Result};

/// How many windows ahead to prefetch: each row of a shuffled batch lies somewhere else in a text that may exceed the
/// cache.
const N_AHEAD: usize = 2;
/// Up to this size a text stays in the cache, where prefetching costs more than it gains.
const N_BYTES_NEAR: usize = 4 << 20;

/// Makes batches of a text, epoch after epoch, in the order of `torch.utils.data.DataLoader` (PyTorch 2.15).
///
/// A seed gives the same shuffled order as in PyTorch, by the same draws at the same moments; [`Seeding`] lists them.
/// An order takes 4 bytes a window (8 from 2³² windows on). Of many windows, a thread makes that of the next epoch while
/// one runs, which is used if nobody else has drawn from the generator until then. Ids in files are read ahead while
/// batches wait for the disk.
///
/// The loader keeps its progress, so [`state`](Self::state) can be saved in the middle of a loop:
///
/// ```
/// use candle_core::Device;
/// use candle_gpt_input::data::{Loader, LoaderConfig, LoaderState, Seeding, Tokens};
/// use candle_gpt_input::rng::Generator;
///
/// let tokens = Tokens::new((0..100).collect());
/// let config = LoaderConfig::default().with_batch_size(4).with_max_length(5).with_stride(5);
/// let new = |seed| {
///     let seeding = Seeding::Explicit(Generator::manual_seed(seed));
///     Loader::new(&tokens, config.clone(), seeding, &Device::Cpu)
/// };
///
/// let loader = new(123)?;
/// let mut saved = None;
/// let mut rows = Vec::new();
/// for (step, batch) in loader.epoch().enumerate() {
///     rows.push(batch?.input_ids.to_vec2::<u32>()?);
///     if step == 1 {
///         saved = Some(serde_json::to_string(&loader.state()).unwrap());
///     }
/// }
///
/// // In another process: the seed does not matter, as the state holds the generator.
/// let state: LoaderState = serde_json::from_str(&saved.unwrap()).unwrap();
/// let resumed = new(0)?.resume(&state)?;
/// for (batch, row) in resumed.epoch().zip(&rows[2..]) {
///     assert_eq!(&batch?.input_ids.to_vec2::<u32>()?, row);
/// }
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
#[doc(alias = "DataLoader", alias = "create_dataloader_v1")]
pub struct Loader {
    windows: Windows,
    config: LoaderConfig,
    seeding: Seeding,
    device: Device,
    rank: usize,
    world_size: usize,
    progress: Mutex<Progress>,
}

impl Loader {
    /// Makes a loader that puts its batches on `device`; draws nothing yet.
    ///
    /// ```
    /// use candle_core::Device;
    /// use candle_gpt_input::data::{Loader, LoaderConfig, Seeding, Tokens};
    /// use candle_gpt_input::rng::Generator;
    ///
    /// let tokens = Tokens::new((0..515).collect());
    /// let config = LoaderConfig::default().with_stride(256); // batches of 4 windows of 256
    /// let new = |config| Loader::new(&tokens, config, Seeding::Global(Generator::default()), &Device::Cpu);
    /// let error = new(config.clone()).unwrap_err().to_string();
    /// assert!(error.starts_with("no batch: an epoch has 2 windows, and a step takes 4"), "{error}");
    /// assert_eq!(new(config.with_drop_last(false))?.n_batches(), 1);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`DataError::Zero`] if a length or size in `config` is 0, [`DataError::TooShort`] if no window fits into a
    /// document, [`DataError::NoBatch`] if there are fewer windows than a batch has, with `drop_last`,
    /// [`DataError::PositionsTwice`] for two settings that restart positions, [`DataError::TooManyWindows`] if there is
    /// no memory for a shuffled order.
    pub fn new(tokens: &Tokens, config: LoaderConfig, seeding: Seeding, device: &Device) -> Result<Self> {
        if config.batch_size == 0 {
            return Err(DataError::Zero { name: "batch_size" }.into());
        }
        let windows = windows(tokens, &config)?;
        let (rank, world_size) = (0, 1);
        let (device, progress) = (device.clone(), Mutex::default());
        Self { windows, config, seeding, device, rank, world_size, progress }.with_batches()
    }

    /// Refuses a loader whose epochs have no batch, of which a mean over the batches would be NaN.
    fn with_batches(self) -> Result<Self> {
        match self.n_batches() {
            0 => Err(DataError::NoBatch {
                n_windows: self.windows.n_windows(),
                batch_size: self.config.batch_size,
                world_size: self.world_size,
                drop_last: self.config.drop_last,
            }
            .into()),
            _ => Ok(self),
        }
    }

    /// Moves the batches to another device.
    pub fn to_device(mut self, device: &Device) -> Self {
        self.device = device.clone();
        self
    }

    /// Draws from another generator, such as a seeded one.
    pub fn with_seeding(mut self, seeding: Seeding) -> Self {
        self.seeding = seeding;
        self
    }

    /// Limits the loader to the share of process `rank` of `world_size`.
    ///
    /// All processes need the same seed, and must draw nothing else from it. They walk the same order in steps of
    /// `world_size · batch_size` samples, and rank `r` takes batch `r` of each step. So the ranks' batches of a step,
    /// joined, are the batch of a single process with batch size `world_size · batch_size`.
    ///
    /// With `drop_last`, a last incomplete step is left out, so all ranks have the same number of batches. Otherwise it
    /// is divided into consecutive shares that differ by at most one sample, the larger ones first. If the last step has
    /// fewer samples than ranks, the last ranks have one batch less. No sample is repeated as filler.
    ///
    /// ```
    /// use candle_core::Device;
    /// use candle_gpt_input::data::{Loader, LoaderConfig, Seeding, Tokens};
    /// use candle_gpt_input::rng::Generator;
    ///
    /// let tokens = Tokens::new((0..9).collect());
    /// let config = LoaderConfig::default().with_batch_size(2).with_max_length(1).with_stride(1).with_shuffle(false);
    /// let loader = Loader::new(&tokens, config, Seeding::Global(Generator::default()), &Device::Cpu)?;
    /// let rank = loader.shard(1, 2)?; // of steps of 2 · 2 samples: 0 1 | 2 3, then 4 5 | 6 7
    /// let mut batches = Vec::new();
    /// for batch in &rank {
    ///     batches.push(batch?.input_ids.flatten_all()?.to_vec1::<u32>()?);
    /// }
    /// assert_eq!(batches, [[2, 3], [6, 7]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`DataError::Shard`] unless `rank < world_size`, [`DataError::NoBatch`] if no batch is left for this rank.
    #[doc(alias = "DistributedSampler")]
    pub fn shard(mut self, rank: usize, world_size: usize) -> Result<Self> {
        if rank >= world_size {
            return Err(DataError::Shard { rank, world_size }.into());
        }
        (self.rank, self.world_size) = (rank, world_size);
        self.with_batches()
    }

    /// Continues where `state` was taken: the next [`epoch`](Self::epoch) gives the batches that remained.
    ///
    /// The state may be of a loader with another batch size, device, rank or number of ranks. Resuming costs one
    /// permutation, however far the epoch was. The generator, with all its handles, moves to where it stood.
    ///
    /// # Errors
    /// [`DataError::StateMismatch`] if the length of the text, the windows or the kind of order differ,
    /// [`DataError::InvalidState`] if no loader writes such a state. The generator then stays as it was.
    #[doc(alias = "load_state_dict")]
    pub fn resume(self, state: &LoaderState) -> Result<Self> {
        state.check(&self.identity())?;
        let order = match &state.stage {
            Stage::Running { order, .. } => Some(Arc::new(Order::from_source(order.clone(), self.windows.n_windows()))),
            Stage::Between | Stage::Begun => None,
        };
        let after_order = order.as_ref().and_then(|order| order.generator_after.as_ref());
        if let Some(generator) = state.generator.as_ref().or(after_order) {
            self.seeding.generator().set_state(generator);
        }
        *self.lock() = Progress {
            epoch: state.epoch,
            n_samples: state.n_samples,
            stage: state.stage.clone(),
            order,
            next: None,
            resumed: state.stage != Stage::Between,
        };
        Ok(self)
    }

    /// Begins the next epoch, as `iter(dataloader)` does. The loader stops tracking an unfinished one.
    ///
    /// The first epoch of a resumed loader is the rest of the saved one. It is empty if all batches had been taken.
    #[doc(alias = "iter")]
    pub fn epoch(&self) -> Epoch<&Self> {
        Epoch::begin(self)
    }

    /// Begins the next epoch, as [`epoch`](Self::epoch) does. It owns its loader, and so may be returned, stored, or sent
    /// to another thread.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::Result;
    /// use candle_gpt_input::data::{Epoch, Loader, LoaderConfig, Seeding, Tokens};
    /// use candle_gpt_input::rng::Generator;
    ///
    /// fn pairs(loader: &Arc<Loader>) -> impl Iterator<Item = Result<(Tensor, Tensor)>> + 'static {
    ///     loader.owned_epoch().map(|batch| Ok(batch?.into()))
    /// }
    ///
    /// let config = LoaderConfig::default().with_batch_size(2).with_max_length(3).with_stride(3).with_shuffle(false);
    /// let tokens = Tokens::new((0..13).collect());
    /// let loader = Loader::new(&tokens, config, Seeding::Global(Generator::default()), &Device::Cpu)?;
    /// let batches = pairs(&Arc::new(loader)).collect::<Result<Vec<_>>>()?;
    /// let (input_ids, target_ids) = &batches[1];
    /// assert_eq!(input_ids.to_vec2::<u32>()?, [[6, 7, 8], [9, 10, 11]]);
    /// assert_eq!(target_ids.to_vec2::<u32>()?, [[7, 8, 9], [10, 11, 12]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[doc(alias = "iter")]
    pub fn owned_epoch(self: &Arc<Self>) -> Epoch<Arc<Self>> {
        Epoch::begin(self.clone())
    }

    /// Returns the loader's progress in the epoch begun last, or between two epochs.
    #[must_use]
    #[doc(alias = "state_dict")]
    pub fn state(&self) -> LoaderState {
        let progress = self.lock();
        let generator = self.seeding.generator().state();
        let after_order = progress.order.as_ref().and_then(|order| order.generator_after.as_ref());
        LoaderState {
            loader: self.identity(),
            epoch: progress.epoch,
            n_samples: progress.n_samples,
            stage: progress.stage.clone(),
            generator: (after_order != Some(&generator)).then_some(generator),
        }
    }

    /// Returns the windows, which are the samples.
    #[doc(alias = "dataset")]
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Returns how the loader cuts and batches.
    pub fn config(&self) -> &LoaderConfig {
        &self.config
    }

    /// Returns how many batches a whole epoch has (of this rank): `len(dataloader)`.
    #[must_use]
    #[doc(alias = "len")]
    pub fn n_batches(&self) -> usize {
        self.n_batches_after(0)
    }

    /// Returns how many windows a whole epoch drops because they do not fill a step of all ranks (0 without
    /// `drop_last`).
    #[must_use]
    #[doc(alias = "drop_last")]
    pub fn n_dropped(&self) -> usize {
        if self.config.drop_last { self.windows.n_windows() % self.step() } else { 0 }
    }

    fn n_batches_after(&self, n_samples: usize) -> usize {
        let n_left = self.windows.n_windows() - n_samples;
        let rest = n_left % self.step();
        n_left / self.step() + usize::from(!self.config.drop_last && !self.share(rest).is_empty())
    }

    /// Makes a batch of samples of an order.
    fn batch(&self, share: Range<usize>, order: &Order) -> Result<Batch> {
        let window = |nth| self.windows.window(order.sample(nth));
        let n_far = if self.windows.tokens().n_bytes() > N_BYTES_NEAR { self.windows.n_windows() } else { 0 };
        let windows = share.map(|nth| {
            if nth + N_AHEAD < n_far {
                window(nth + N_AHEAD).ids.prefetch();
            }
            (&self.windows, window(nth))
        });
        Batch::new(windows, &self.config, &self.device)
    }

    /// Returns the samples that all ranks consume together in a step.
    fn step(&self) -> usize {
        self.config.batch_size.saturating_mul(self.world_size)
    }

    /// Returns which of `n_samples` consecutive samples are this rank's.
    fn share(&self, n_samples: usize) -> Range<usize> {
        let (each, rest) = (n_samples / self.world_size, n_samples % self.world_size);
        let start = self.rank * each + self.rank.min(rest);
        start..start + each + usize::from(self.rank < rest)
    }

    fn identity(&self) -> Identity {
        Identity::new(&self.windows, &self.config, self.seeding.kind())
    }

    // Each statement leaves the progress consistent, so a panic while the lock is held does no harm.
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IntoIterator for &Loader {
    type Item = Result<Batch>;
    type IntoIter = Epoch<Self>;

    /// Begins the next epoch, as [`Loader::epoch`] does.
    fn into_iter(self) -> Epoch<Self> {
        self.epoch()
    }
}

/// Iterates over the batches of an epoch, or of the rest of a resumed one. Ends after an error.
///
/// `L` is `&Loader`, or `Arc<Loader>` for one that owns its loader.
#[derive(Debug)]
#[must_use = "an epoch makes batches only as it is iterated over"]
pub struct Epoch<L> {
    loader: L,
    number: u64,
    n_samples: usize,
    order: Option<Arc<Order>>,
    /// Where the windows of the last batch lie in the order.
    last: Range<usize>,
    ahead: Option<ReadAhead>,
    ran_out: bool,
    done: bool,
}

impl<L: Deref<Target = Loader>> Epoch<L> {
    fn begin(loader: L) -> Self {
        let mut progress = loader.lock();
        if !std::mem::take(&mut progress.resumed) {
            progress.epoch += u64::from(progress.stage != Stage::Between);
            progress.n_samples = 0;
            progress.stage = Stage::Begun;
            progress.order = None;
            loader.seeding.generator().random_i63(); // PyTorch's `base_seed` for its workers
        }
        let ran_out = matches!(progress.stage, Stage::Running { ran_out: true, .. });
        let (number, n_samples, order) = (progress.epoch, progress.n_samples, progress.order.clone());
        drop(progress);
        let ahead = loader.windows.tokens().are_mapped().then(ReadAhead::new);
        Self { loader, number, n_samples, order, last: 0..0, ahead, ran_out, done: false }
    }

    /// Returns which epoch this is, from 0.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Iterates over the numbers of the windows in the batch that came last, as
    /// [`Loader::windows`](Loader::windows) counts them.
    ///
    /// ```
    /// use candle_core::Device;
    /// use candle_gpt_input::data::{Loader, LoaderConfig, Seeding, Tokens};
    /// use candle_gpt_input::rng::Generator;
    ///
    /// let config = LoaderConfig::default().with_batch_size(2).with_max_length(1).with_stride(1);
    /// let seeding = Seeding::Global(Generator::manual_seed(123));
    /// let loader = Loader::new(&Tokens::new((0..6).collect()), config, seeding, &Device::Cpu)?;
    /// let mut epoch = loader.epoch();
    /// while let Some(batch) = epoch.next() {
    ///     let ids = batch?.input_ids.flatten_all()?.to_vec1::<u32>()?;
    ///     assert!(epoch.window_numbers().eq(ids.iter().map(|&id| id as usize))); // window j is the token j
    /// }
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[doc(alias = "sampler")]
    pub fn window_numbers(&self) -> impl ExactSizeIterator<Item = usize> {
        self.last.clone().map(|nth| self.order.as_ref().map_or(nth, |order| order.sample(nth)))
    }

    /// Returns the order, which is drawn at the first batch, as PyTorch's sampler does it.
    fn order(&mut self) -> Arc<Order> {
        if let Some(order) = &self.order {
            return order.clone();
        }
        let Loader { windows, config, seeding, .. } = &*self.loader;
        let (n_windows, next) = (windows.n_windows(), self.loader.lock().next.take());
        let order = Arc::new(Order::draw(seeding, config.shuffle, n_windows, next));
        let next = order.begin_next(seeding, n_windows);
        self.order = Some(order.clone());
        self.report(|progress| {
            progress.stage = Stage::Running { order: order.source.clone(), ran_out: false };
            progress.order = Some(order.clone());
            progress.next = next;
        });
        order
    }

    fn run_out(&mut self, order: &Order) {
        if self.ran_out {
            return;
        }
        order.run_out(&self.loader.seeding, self.loader.windows.n_windows());
        self.ran_out = true;
        self.report(|progress| progress.stage = Stage::Running { order: order.source.clone(), ran_out: true });
    }

    fn finish(&mut self, order: &Order) {
        self.run_out(order);
        self.done = true;
        self.report(Progress::finish);
    }

    /// Changes the loader's progress, unless a later epoch has begun.
    fn report(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.loader.lock();
        if progress.epoch == self.number && progress.stage != Stage::Between {
            change(&mut progress);
        }
    }
}

impl<L: Deref<Target = Loader>> Iterator for Epoch<L> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let order = self.order();
        let loader = &*self.loader;
        let n_left = loader.windows.n_windows() - self.n_samples;
        let n_step = match n_left < loader.step() {
            true if loader.config.drop_last => 0,
            true => n_left,
            false => loader.step(),
        };
        let share = loader.share(n_step);
        if share.is_empty() {
            self.finish(&order);
            return None;
        }
        if n_step < loader.step() {
            self.run_out(&order);
        }
        let share = self.n_samples + share.start..self.n_samples + share.end;
        let loader = &*self.loader;
        let make = || loader.batch(share.clone(), &order);
        let batch = match &mut self.ahead {
            None => make(),
            Some(ahead) => {
                let n_windows = loader.windows.n_windows();
                let ask = |later: usize| {
                    let start = later.saturating_mul(loader.step()).saturating_add(share.start);
                    let end = start.saturating_add(share.len()).min(n_windows);
                    (start..end).for_each(|nth| loader.windows.read_ahead(order.sample(nth)));
                };
                ahead.around((share.len(), loader.config.max_length), ask, make)
            }
        };
        match &batch {
            Ok(_) => {
                self.last = share;
                self.n_samples += n_step;
                self.report(|progress| progress.n_samples = self.n_samples);
            }
            Err(_) => self.done = true,
        }
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let n_batches = if self.done { 0 } else { self.loader.n_batches_after(self.n_samples) };
        (n_batches, Some(n_batches))
    }
}

impl<L: Deref<Target = Loader>> ExactSizeIterator for Epoch<L> {}
impl<L: Deref<Target = Loader>> FusedIterator for Epoch<L> {}
