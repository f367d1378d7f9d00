//! [`BlendState`]: a blend's progress.

use serde::{Deserialize, Serialize};

use super::state::{Identity, agree};
use crate::error::Result;

/// Holds the progress of a [`Blend`](super::Blend) as plain data for serde: one count for each corpus.
///
/// It counts the samples of all ranks, so it fits a blend of another batch size, device, rank or number of ranks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlendState {
    pub(super) corpora: Vec<Identity>,
    /// As text, which every reader of JSON reads exactly.
    pub(super) weights: Vec<String>,
    pub(super) exhaustive: bool,
    pub(super) seed: u64,
    /// The windows taken of each corpus.
    pub(super) taken: Vec<u64>,
}

impl BlendState {
    /// Returns how many windows of each corpus all ranks together have taken.
    #[must_use]
    pub fn n_taken(&self) -> &[u64] {
        &self.taken
    }

    /// Returns an error unless the state fits a blend, of which `given` is the state.
    pub(super) fn check(&self, given: &Self) -> Result<()> {
        agree("n_corpora", self.corpora.len(), given.corpora.len())?;
        agree("exhaustive", self.exhaustive, given.exhaustive)?;
        agree("seed", self.seed, given.seed)?;
        for (saved, given) in self.corpora.iter().zip(&given.corpora) {
            saved.check(given)?;
        }
        agree("weights", self.weights.join(" "), given.weights.join(" "))?;
        Ok(())
    }
}
