//! The order of an epoch, drawn as PyTorch's `DataLoader` draws it.

use serde::{Deserialize, Serialize};

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

/// The order of an epoch.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) source: OrderSource,
    /// `None` if samples come in the order of their numbers.
    permutation: Option<Vec<i64>>,
    /// Where the permutation left the explicit generator.
    pub(super) generator_after: Option<GeneratorState>,
}

impl Order {
    /// Draws an order, as a sampler does at its first sample.
    pub(super) fn draw(seeding: &Seeding, shuffle: bool, n_samples: usize) -> Self {
        let source = match seeding {
            _ if !shuffle => OrderSource::Sequential,
            Seeding::Global(generator) => OrderSource::Seed(generator.random_i63() as u64),
            Seeding::Explicit(generator) => OrderSource::Generator(Box::new(generator.state())),
        };
        let order = Self::from_source(source, n_samples);
        if let Some(after) = &order.generator_after {
            seeding.generator().set_state(after);
        }
        order
    }

    pub(super) fn from_source(source: OrderSource, n_samples: usize) -> Self {
        let (permutation, generator_after) = match &source {
            OrderSource::Sequential => (None, None),
            OrderSource::Seed(seed) => (Some(Generator::manual_seed(*seed).permutation(n_samples)), None),
            OrderSource::Generator(before) => {
                let generator = Generator::from_state(before);
                (Some(generator.permutation(n_samples)), Some(generator.state()))
            }
        };
        Self { source, permutation, generator_after }
    }

    /// Returns the number of the `nth` sample.
    pub(super) fn sample(&self, nth: usize) -> usize {
        self.permutation.as_ref().map_or(nth, |permutation| permutation[nth] as usize)
    }

    /// Draws the unused permutation that a sampler draws when it runs out. It changes an explicit generator only.
    pub(super) fn run_out(&self, seeding: &Seeding, n_samples: usize) {
        if let OrderSource::Generator(_) = self.source {
            seeding.generator().permutation(n_samples);
        }
    }
}
