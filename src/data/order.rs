//! The order of an epoch, drawn as PyTorch's `DataLoader` draws it.

use serde::{Deserialize, Serialize};

use crate::rng::{Generator, GeneratorState};

/// Says where a [`Loader`](super::Loader) draws from: PyTorch seeds a `DataLoader` in one of two ways.
///
/// The handle stays the caller's as well: what else draws from the stream (initialisation, dropout) comes in between the
/// epochs' draws as it does in PyTorch.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[doc(alias = "generator")]
pub enum Seeding {
    /// `DataLoader(...)` after `torch.manual_seed`: the handle is the global generator.
    ///
    /// An epoch takes one 64-bit number when it begins (`base_seed`, also without shuffling) and one more at its first batch
    /// if it is shuffled, which seeds a private generator for the permutation.
    Global(Generator),
    /// `DataLoader(..., generator=g)`.
    ///
    /// An epoch takes one 64-bit number when it begins and, if it is shuffled, a permutation at its first batch and one more
    /// when the sampler runs out. That is when a last, short batch is fetched, else when the loop asks for a batch after the
    /// last; an epoch left before has not drawn it.
    Explicit(Generator),
}

impl Seeding {
    /// Returns the stream.
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

/// Which [`Seeding`] a saved state is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SeedingKind {
    Global,
    Explicit,
}

/// What an epoch's order can be made from again.
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
    /// `None` if samples come as they are numbered.
    permutation: Option<Vec<i64>>,
    /// Where the permutation left the explicit generator.
    pub(super) generator_after: Option<GeneratorState>,
}

impl Order {
    /// What a sampler does when its first sample is asked for.
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
            OrderSource::Seed(seed) => (Some(Generator::manual_seed(*seed).randperm(n_samples)), None),
            OrderSource::Generator(before) => {
                let generator = Generator::from_state(before);
                (Some(generator.randperm(n_samples)), Some(generator.state()))
            }
        };
        Self { source, permutation, generator_after }
    }

    /// The number of the sample that comes as `nth`.
    pub(super) fn sample(&self, nth: usize) -> usize {
        self.permutation.as_ref().map_or(nth, |permutation| permutation[nth] as usize)
    }

    /// The permutation that a sampler draws when it runs out, to take nothing from it. Only an explicit generator is left
    /// changed by it.
    pub(super) fn run_out(&self, seeding: &Seeding, n_samples: usize) {
        if let OrderSource::Generator(_) = self.source {
            seeding.generator().randperm(n_samples);
        }
    }
}
