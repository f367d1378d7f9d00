//! [`Progress`]: how far a loader is.

use std::sync::Arc;

use super::order::{NextOrder, Order};
use super::state::Stage;

#[derive(Debug)]
pub(super) struct Progress {
    pub(super) epoch: u64,
    pub(super) n_samples: usize,
    pub(super) stage: Stage,
    pub(super) order: Option<Arc<Order>>,
    pub(super) next: Option<NextOrder>,
    /// Whether the next epoch is the rest of the one in which the state was saved.
    pub(super) resumed: bool,
}

impl Default for Progress {
    /// Stands before the first epoch.
    fn default() -> Self {
        Self { epoch: 0, n_samples: 0, stage: Stage::Between, order: None, next: None, resumed: false }
    }
}

impl Progress {
    /// Ends an epoch. What is made for the next one stays.
    pub(super) fn finish(&mut self) {
        *self = Self { epoch: self.epoch + 1, next: self.next.take(), ..Self::default() };
    }
}
