//! The order of an epoch, drawn as PyTorch's `DataLoader` draws it.

use std::thread::{self, JoinHandle};

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::memory;
use crate::rng::{Generator, GeneratorState};

/// Says which generator a [`Loader`](super::Loader) draws from, in one of PyTorch's two ways.
///
/// The caller keeps a handle of the same stream. Its own draws (initialisation, dropout) fall between those of the
/// epochs, as in PyTorch.
///
/// ```
/// use candle_core::Device;
/// use candle_gpt_input::data::{Loader, LoaderConfig, Seeding, Tokens};
/// use candle_gpt_input::rng::Generator;
///
/// let generator = Generator::manual_seed(123);
/// let config = LoaderConfig::default().with_batch_size(1).with_max_length(1).with_shuffle(false);
/// let seeding = Seeding::Global(generator.clone());
/// let loader = Loader::new(&Tokens::new(vec![1, 2]), config, seeding, &Device::Cpu)?;
/// let before = generator.state();
/// let _epoch = loader.epoch(); // draws a 64-bit number, although it does not shuffle
/// assert_ne!(generator.state(), before);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
#[doc(alias = "generator")]
pub enum Seeding {
    /// `DataLoader(...)` after `torch.manual_seed`: the handle is the global generator.
    ///
    /// An epoch draws a 64-bit number when it begins (`base_seed`, also without shuffling). If it is shuffled, it draws
    /// one more at its first batch, which seeds a private generator for the permutation.
    Global(Generator),
    /// `DataLoader(..., generator=g)`: the handle is that generator.
    ///
    /// An epoch draws a 64-bit number when it begins. If it is shuffled, it also draws a permutation at its first
    /// batch, and another when the sampler runs out: when it fetches a last, short batch, or else when the loop asks
    /// for a batch after the last. An epoch that is abandoned earlier does not draw it.
    Explicit(Generator),
}

impl Seeding {
    /// Returns the generator.
    #[must_use]
    pub fn generator(&self) -> &Generator {
        match self {
            Self::Global(generator) | Self::Explicit(generator) => generator,
        }
    }

    /// Returns a generator of its own, which draws what this one would.
    fn at_the_same_place(&self) -> Self {
        let generator = Generator::from_state(&self.generator().state());
        match self {
            Self::Global(_) => Self::Global(generator),
            Self::Explicit(_) => Self::Explicit(generator),
        }
    }

    pub(super) fn kind(&self) -> SeedingKind {
        match self {
            Self::Global(_) => SeedingKind::Global,
            Self::Explicit(_) => SeedingKind::Explicit,
        }
    }
}

/// The kind of [`Seeding`] of a saved state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SeedingKind {
    Global,
    Explicit,
}

/// The source from which an epoch's order can be made again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OrderSource {
    /// No shuffling.
    Sequential,
    /// The seed of the permutation's private generator.
    Seed(u64),
    /// Where the explicit generator stood before the permutation.
    Generator(Box<GeneratorState>),
}

/// From here on the numbers of samples need more than 32 bits.
const WIDE_FROM: u64 = 1 << 32;
/// An order of fewer samples takes no longer than a thread needs to begin.
const AHEAD_FROM: usize = 1 << 16;

/// The order of an epoch.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) source: OrderSource,
    numbers: Numbers,
    /// Where the permutation left the explicit generator.
    pub(super) generator_after: Option<GeneratorState>,
}

/// The numbers of samples, in an order.
#[derive(Clone, Debug)]
enum Numbers {
    /// 0, 1, 2, …
    Ascending,
    Narrow(Vec<u32>),
    Wide(Vec<u64>),
}

impl Numbers {
    fn shuffled(generator: &Generator, n: usize) -> Self {
        match is_narrow(n) {
            true => Self::Narrow(generator.permutation(n, |i| i as u32)),
            false => Self::Wide(generator.permutation(n, |i| i as u64)),
        }
    }
}

fn is_narrow(n_samples: usize) -> bool {
    (n_samples as u64) < WIDE_FROM
}

/// Refuses more windows than there is memory for their shuffled order.
pub(super) fn fits(n_windows: usize) -> Result<(), DataError> {
    let n_each = if is_narrow(n_windows) { size_of::<u32>() } else { size_of::<u64>() };
    let n_bytes = n_windows as u128 * n_each as u128;
    memory::fits("an order", &[n_windows], n_each)
        .map(drop)
        .map_err(|_| DataError::TooManyWindows { n_windows, n_bytes })
}

impl Order {
    /// Draws an order, as a sampler does at its first sample. `made` may be it.
    pub(super) fn draw(seeding: &Seeding, shuffle: bool, n_samples: usize, made: Option<NextOrder>) -> Self {
        let source = match seeding {
            _ if !shuffle => OrderSource::Sequential,
            Seeding::Global(generator) => OrderSource::Seed(generator.random_i63() as u64),
            Seeding::Explicit(generator) => OrderSource::Generator(Box::new(generator.state())),
        };
        let order = NextOrder::or_make(made, source, n_samples);
        if let Some(after) = &order.generator_after {
            seeding.generator().set_state(after);
        }
        order
    }

    pub(super) fn from_source(source: OrderSource, n_samples: usize) -> Self {
        let (numbers, generator_after) = match &source {
            OrderSource::Sequential => (Numbers::Ascending, None),
            OrderSource::Seed(seed) => (Numbers::shuffled(&Generator::manual_seed(*seed), n_samples), None),
            OrderSource::Generator(before) => {
                let generator = Generator::from_state(before);
                (Numbers::shuffled(&generator, n_samples), Some(generator.state()))
            }
        };
        Self { source, numbers, generator_after }
    }

    /// Returns the number of the `nth` sample.
    pub(super) fn sample(&self, nth: usize) -> usize {
        match &self.numbers {
            Numbers::Ascending => nth,
            Numbers::Narrow(numbers) => numbers[nth] as usize,
            Numbers::Wide(numbers) => numbers[nth] as usize,
        }
    }

    /// Draws the unused permutation that a sampler draws when it runs out. It changes an explicit generator only.
    pub(super) fn run_out(&self, seeding: &Seeding, n_samples: usize) {
        if let OrderSource::Generator(_) = self.source {
            seeding.generator().skip_permutation(n_samples);
        }
    }

    /// Begins to make the order that the next epoch will draw if nobody else draws from the generator until then.
    pub(super) fn begin_next(&self, seeding: &Seeding, n_samples: usize) -> Option<NextOrder> {
        let is_shuffled = self.source != OrderSource::Sequential;
        let (seeding, this) = (seeding.at_the_same_place(), matches!(self.source, OrderSource::Generator(_)));
        is_shuffled.then(|| {
            NextOrder::begin(n_samples, move || {
                if this {
                    seeding.generator().skip_permutation(n_samples); // as `run_out` does
                }
                seeding.generator().random_i63();
                Self::draw(&seeding, true, n_samples, None)
            })
        })?
    }
}

/// The order of the next epoch, which a thread makes while this one runs.
#[derive(Debug)]
pub(super) struct NextOrder(JoinHandle<Order>);

impl NextOrder {
    /// Begins it: of few samples never, and only if two orders have 8 bytes a sample.
    pub(super) fn begin(n_samples: usize, make: impl FnOnce() -> Order + Send + 'static) -> Option<Self> {
        let is_worth_it = n_samples >= AHEAD_FROM && is_narrow(n_samples) && fits(n_samples.saturating_mul(2)).is_ok();
        is_worth_it.then(|| thread::Builder::new().spawn(make).ok().map(Self))?
    }

    /// Returns what was made, if it is of this source, or makes it.
    pub(super) fn or_make(made: Option<Self>, source: OrderSource, n_samples: usize) -> Order {
        let made = made.and_then(|made| made.0.join().ok()).filter(|order| order.source == source);
        made.unwrap_or_else(|| Order::from_source(source, n_samples))
    }
}
