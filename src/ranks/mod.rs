//! The processes of a job on several machines, called ranks, and how they exchange bytes.
//!
//! [`Ranks`] has two collective calls, and both only move bytes. No engine ever adds: sums are made by this crate, in an
//! order that depends on the micro-batches alone ([`GradSum`](crate::optim::GradSum)). So a training step has the same
//! bits on any engine and on any number of ranks that fits ([`share`]).
//!
//! | engine | ranks are |
//! |---|---|
//! | [`Alone`] | this process alone |
//! | [`Threads`] | threads of this process, for tests and for trying out |
//! | `Mpi` (feature `mpi`) | processes that `mpirun` started, on any number of machines |
//! | `Nccl` (feature `nccl`) | threads or processes with a GPU each; has never run on one |
//!
//! Every rank makes the same collective calls in the same order. Nothing hangs if one cannot: a rank that ends, by an
//! error or a panic, takes part in the next call of the others just to say so, and their call returns
//! [`RanksError::Left`]. [`agree`] does better: the error itself reaches every rank.
//!
//! ```
//! use candle_gpt_input::ranks::{self, Parts, Ranks, Threads};
//!
//! let sums = Threads::run(3, |ranks| {
//!     let mut all = Parts::default();
//!     ranks.all_gather(&[10 * ranks.rank() as u8], &mut all)?;
//!     Ok::<u8, candle_gpt_input::Error>(all.iter().map(|part| part[0]).sum())
//! });
//! assert!(sums.into_iter().all(|sum| sum.is_ok_and(|sum| sum == 0 + 10 + 20)));
//! ```

mod agreement;
mod alone;
#[cfg(any(test, feature = "mpi", feature = "nccl"))]
mod calls;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
mod parts;
mod threads;

use std::fmt;

pub use agreement::{agree, any, same, share};
pub use alone::Alone;
/// The binding to MPI: [`Mpi::communicator`] is of it.
#[cfg(feature = "mpi")]
#[cfg_attr(docsrs, doc(cfg(feature = "mpi")))]
pub use ferrompi;
#[cfg(feature = "mpi")]
#[cfg_attr(docsrs, doc(cfg(feature = "mpi")))]
pub use mpi::Mpi;
#[cfg(feature = "nccl")]
#[cfg_attr(docsrs, doc(cfg(feature = "nccl")))]
pub use nccl::{Nccl, UniqueId};
pub use parts::Parts;
pub use threads::Threads;

use crate::error::{RanksError, Result};

/// The ranks of a job, as one of them sees them: `size` of them, numbered from 0.
///
/// Both calls are collective: all ranks make the same calls in the same order. They move bytes and do nothing else.
/// `received` is overwritten; its memory is used again.
pub trait Ranks: fmt::Debug {
    /// Returns the number of this rank, from 0.
    fn rank(&self) -> usize;

    /// Returns how many ranks there are, at least 1.
    #[doc(alias = "world_size")]
    fn size(&self) -> usize;

    /// Sends part `r` of `sent` to rank `r`, and receives one part from each rank, in their order. Parts may have any
    /// lengths.
    ///
    /// ```
    /// use candle_gpt_input::ranks::{Parts, Ranks, Threads};
    ///
    /// let all = Threads::run(2, |ranks| {
    ///     let sent = match ranks.rank() {
    ///         0 => Parts::from_iter(["to 0", "to 1"]),
    ///         _ => Parts::from_iter(["", "to itself"]),
    ///     };
    ///     let mut received = Parts::default();
    ///     ranks.all_to_all(&sent, &mut received).map(|()| received)
    /// });
    /// let all = all.into_iter().collect::<Result<Vec<_>, _>>()?;
    /// assert_eq!(all, [Parts::from_iter(["to 0", ""]), Parts::from_iter(["to 1", "to itself"])]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`RanksError::Parts`] unless there is a part for each rank, [`RanksError::Left`] if a rank has ended,
    /// [`RanksError::Mixed`] if a rank made another call, [`RanksError::Engine`] if the engine fails.
    fn all_to_all(&self, sent: &Parts, received: &mut Parts) -> Result<()>;

    /// Sends `sent` to every rank, and receives one part from each rank, in their order.
    ///
    /// # Errors
    /// As [`all_to_all`](Self::all_to_all).
    fn all_gather(&self, sent: &[u8], received: &mut Parts) -> Result<()>;
}

/// The two calls, as engines tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    AllToAll = 1,
    AllGather = 2,
}

/// Checks that there is a part for each rank.
fn one_for_each(sent: &Parts, size: usize) -> Result<()> {
    match sent.len() == size {
        true => Ok(()),
        false => Err(RanksError::Parts { n_parts: sent.len(), size }.into()),
    }
}
