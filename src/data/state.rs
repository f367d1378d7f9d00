//! [`LoaderState`]: where a loader stands, small enough to go into every checkpoint.

use serde::{Deserialize, Serialize};

use super::order::{OrderSource, SeedingKind};
use super::{Tail, Windows};
use crate::error::{DataError, Result};
use crate::rng::GeneratorState;

/// Says where a [`Loader`](super::Loader) stands: plain data for serde, 5.3 KB as JSON (10.5 KB if something else has drawn from an
/// explicit generator in the middle of an epoch).
///
/// It counts samples of the epoch's order, over all ranks, so it fits a loader of another batch size, device, rank or number
/// of ranks. It holds where the generator stands too: [`Loader::resume`](super::Loader::resume) moves the stream there, and
/// whatever else draws from it goes on as well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderState {
    pub(super) loader: Identity,
    pub(super) epoch: u64,
    pub(super) n_samples: usize,
    pub(super) stage: Stage,
    /// `None`: where drawing the order left it.
    pub(super) generator: Option<GeneratorState>,
}

impl LoaderState {
    /// Returns the epoch that is going on, from 0; between two, the one to come.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns how many samples of it have been consumed, by all ranks together.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        self.n_samples
    }

    /// Whether the state goes with a loader.
    pub(super) fn check(&self, given: &Identity) -> Result<(), DataError> {
        let saved = &self.loader;
        agree("n_tokens", saved.n_tokens, given.n_tokens)?;
        agree("n_documents", saved.n_documents, given.n_documents)?;
        agree("max_length", saved.max_length, given.max_length)?;
        agree("stride", saved.stride, given.stride)?;
        agree("tail", saved.tail, given.tail)?;
        agree("n_windows", saved.n_windows, given.n_windows)?;
        agree("shuffle", saved.shuffle, given.shuffle)?;
        agree("seeding", saved.seeding, given.seeding)?;
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
            return Err(DataError::InvalidState { reason: "its order is not one that such a loader draws" });
        }
        if self.n_samples > saved.n_windows {
            return Err(DataError::InvalidState { reason: "it has consumed more samples than there are windows" });
        }
        Ok(())
    }
}

/// What must be the same for an order to mean the same samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    n_tokens: usize,
    n_documents: usize,
    n_windows: usize,
    max_length: usize,
    stride: usize,
    tail: Tail,
    shuffle: bool,
    seeding: SeedingKind,
}

impl Identity {
    pub(super) fn new(windows: &Windows, shuffle: bool, seeding: SeedingKind) -> Self {
        Self {
            n_tokens: windows.tokens().n_tokens(),
            n_documents: windows.tokens().n_documents(),
            n_windows: windows.n_windows(),
            max_length: windows.max_length(),
            stride: windows.stride(),
            tail: windows.tail(),
            shuffle,
            seeding,
        }
    }
}

/// How far an epoch has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// None is going on.
    Between,
    /// It has drawn what it draws at its begin, and no order yet.
    Begun,
    /// It has an order.
    Running {
        order: OrderSource,
        /// Whether the sampler has run out and drawn for it.
        ran_out: bool,
    },
}

fn agree<T: PartialEq + std::fmt::Debug>(what: &'static str, saved: T, given: T) -> Result<(), DataError> {
    if saved == given {
        return Ok(());
    }
    let lower = |value: T| format!("{value:?}").to_lowercase();
    Err(DataError::StateMismatch { what, saved: lower(saved), given: lower(given) })
}
