//! [`LoaderState`]: a loader's progress, small enough for every checkpoint.

use serde::{Deserialize, Serialize};

use super::order::{OrderSource, SeedingKind};
use super::{Boundaries, LoaderConfig, Tail, Windows};
use crate::error::{DataError, Result};
use crate::rng::GeneratorState;

/// Holds the progress of a [`Loader`](super::Loader) as plain data for serde.
///
/// It counts the samples of the epoch's order over all ranks, so it fits a loader of another batch size, device, rank
/// or number of ranks. It includes the generator's state, to which [`Loader::resume`](super::Loader::resume) moves the
/// stream.
///
/// ```
/// use candle_core::Device;
/// use candle_gpt_input::data::{Loader, LoaderConfig, Seeding, Tokens};
/// use candle_gpt_input::rng::Generator;
///
/// let config = LoaderConfig::default().with_batch_size(3).with_max_length(1).with_stride(1);
/// let seeding = Seeding::Global(Generator::manual_seed(123));
/// let loader = Loader::new(&Tokens::new((0..10).collect()), config, seeding, &Device::Cpu)?;
/// let _batches: Vec<_> = loader.epoch().take(2).collect();
/// assert_eq!((loader.state().epoch(), loader.state().n_samples()), (0, 6)); // 2 batches of 3
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderState {
    pub(super) loader: Identity,
    pub(super) epoch: u64,
    pub(super) n_samples: usize,
    pub(super) stage: Stage,
    /// `None` if it stands where drawing the order left it.
    pub(super) generator: Option<GeneratorState>,
}

impl LoaderState {
    /// Returns the number of the current epoch, from 0; between two epochs, that of the next one.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns how many samples of the epoch all ranks together have consumed.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        self.n_samples
    }

    /// Returns an error unless the state fits a loader.
    pub(super) fn check(&self, given: &Identity) -> Result<(), DataError> {
        let saved = &self.loader;
        saved.check(given)?;
        let source_fits = match &self.stage {
            Stage::Between | Stage::Begun => self.n_samples == 0 && self.generator.is_some(),
            Stage::Running { order: OrderSource::Sequential, .. } => !saved.shuffle && self.generator.is_some(),
            Stage::Running { order: OrderSource::Seed(_), .. } => {
                saved.shuffle && saved.seeding == SeedingKind::Global && self.generator.is_some()
            }
            Stage::Running { order: OrderSource::Generator(_), .. } => {
                saved.shuffle && saved.seeding == SeedingKind::Explicit
            }
        };
        if !source_fits {
            return Err(DataError::InvalidState { reason: "a loader of this kind does not draw its order" });
        }
        if self.n_samples > saved.n_windows {
            return Err(DataError::InvalidState { reason: "it has consumed more samples than there are windows" });
        }
        Ok(())
    }
}

/// The properties that must agree for an order to mean the same samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    n_tokens: usize,
    n_documents: usize,
    n_windows: usize,
    max_length: usize,
    stride: usize,
    tail: Tail,
    /// States of earlier versions, in which no window crossed, do not say it.
    #[serde(default)]
    boundaries: Boundaries,
    shuffle: bool,
    seeding: SeedingKind,
}

impl Identity {
    pub(super) fn new(windows: &Windows, config: &LoaderConfig, seeding: SeedingKind) -> Self {
        Self {
            n_tokens: windows.tokens().n_tokens(),
            n_documents: windows.tokens().n_documents(),
            n_windows: windows.n_windows(),
            max_length: windows.max_length(),
            stride: windows.stride(),
            tail: windows.tail(),
            boundaries: config.boundaries,
            shuffle: config.shuffle,
            seeding,
        }
    }

    /// Returns an error unless these are the properties of a loader.
    pub(super) fn check(&self, given: &Self) -> Result<(), DataError> {
        agree("n_tokens", self.n_tokens, given.n_tokens)?;
        agree("n_documents", self.n_documents, given.n_documents)?;
        agree("max_length", self.max_length, given.max_length)?;
        agree("stride", self.stride, given.stride)?;
        agree("tail", self.tail, given.tail)?;
        agree("boundaries", self.boundaries, given.boundaries)?;
        agree("n_windows", self.n_windows, given.n_windows)?;
        agree("shuffle", self.shuffle, given.shuffle)?;
        agree("seeding", self.seeding, given.seeding)?;
        Ok(())
    }
}

/// The stage of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// No epoch is running.
    Between,
    /// The first draws are made, but no order is drawn.
    Begun,
    /// The order is drawn.
    Running {
        order: OrderSource,
        /// Whether the sampler has run out and made its draw.
        ran_out: bool,
    },
}

/// Returns an error unless a saved property is the given one.
pub(super) fn agree<T: PartialEq + std::fmt::Debug>(what: &'static str, saved: T, given: T) -> Result<(), DataError> {
    if saved == given {
        return Ok(());
    }
    let lower = |value: T| format!("{value:?}").to_lowercase();
    Err(DataError::StateMismatch { what, saved: lower(saved), given: lower(given) })
}
