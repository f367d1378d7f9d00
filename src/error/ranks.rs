//! [`RanksError`]: why the ranks of a job cannot go on together.

use super::shown::Shown;

/// Says why the ranks of a job cannot go on together.
///
/// ```
/// use candle_gpt_input::error::RanksError;
///
/// let error = RanksError::Uneven { micro_batches: 12, size: 4 };
/// assert_eq!(error.to_string(), "12 micro-batches a step on 4 ranks: take 1, 3, 6 or 12 ranks");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RanksError {
    /// An error on another rank, of which this one learned.
    #[error("rank {rank}: {reason}", reason = Shown::text(reason))]
    Failed {
        /// The lowest rank with an error.
        rank: usize,
        /// Its error.
        reason: String,
    },
    /// A rank that ended while the others went on.
    #[error("rank {rank} has ended, and the others cannot go on without it: see its own error")]
    Left {
        /// The lowest such rank.
        rank: usize,
    },
    /// Ranks that made different collective calls at the same time.
    #[error("rank {rank} made another collective call than rank 0: all ranks must make the same calls in one order")]
    Mixed {
        /// The lowest rank whose call differs from that of rank 0.
        rank: usize,
    },
    /// Something that must be equal on all ranks, and is not.
    #[error("{what} of rank {rank} and of rank 0 differ: start all ranks with the same program, files and options")]
    Differ {
        /// What differs.
        what: &'static str,
        /// The lowest rank where it differs from that of rank 0.
        rank: usize,
    },
    /// A number of ranks on which a step would not have the bits of a single process.
    #[error("{micro_batches} micro-batches a step on {size} ranks: take {} ranks", listed(*micro_batches))]
    Uneven {
        /// The micro-batches of a step, over all ranks.
        micro_batches: usize,
        /// The number of ranks.
        size: usize,
    },
    /// Another number of parts than there are ranks.
    #[error("{n_parts} parts to send to {size} ranks: push one for each")]
    Parts {
        /// The number of parts.
        n_parts: usize,
        /// The number of ranks.
        size: usize,
    },
    /// A failure of the engine below.
    #[error("{engine}: {reason}", reason = Shown::text(reason))]
    Engine {
        /// The engine, such as `MPI`.
        engine: &'static str,
        /// What it says.
        reason: String,
    },
}

impl RanksError {
    /// Returns the numbers of ranks on which a step of so many micro-batches has the bits of a single process: 1, and
    /// those that leave each rank a power of two of them. Ascending.
    pub fn sizes(micro_batches: usize) -> Vec<usize> {
        let halved = (0..=micro_batches.trailing_zeros()).rev().map(|twos| micro_batches >> twos);
        let mut sizes: Vec<usize> = [1].into_iter().chain(halved).filter(|&size| size > 0).collect();
        sizes.dedup();
        sizes
    }
}

/// Lists the fitting numbers of ranks: `1, 3, 6 or 12`.
fn listed(micro_batches: usize) -> String {
    let sizes: Vec<String> = RanksError::sizes(micro_batches).iter().map(usize::to_string).collect();
    match sizes.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}
