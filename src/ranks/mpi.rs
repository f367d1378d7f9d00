//! [`Mpi`]: ranks that `mpirun` started.

use std::fmt;
use std::ops::Range;

use ferrompi::{Communicator, ThreadLevel};

use super::calls::{Calls, Engine};
use super::{Parts, Ranks};
use crate::error::{RanksError, Result};

/// Processes of an MPI job: those that `mpirun -n W` or a batch system started, on one machine or several.
///
/// Start it in the main thread, once, and make all calls from there; other threads may compute meanwhile. A program that
/// was not started by `mpirun` is a job of one rank. A value that is dropped ends this rank's part in the job: if the
/// others go on, their next call returns [`RanksError::Left`].
///
/// ```no_run
/// use candle_gpt_input::ranks::{self, Mpi, Ranks};
///
/// let ranks = Mpi::start()?;
/// println!("rank {} of {}", ranks.rank(), ranks.size());
/// let is_stopped = ranks::any(&ranks, false)?;
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
pub struct Mpi {
    calls: Calls<World>,
}

struct World {
    communicator: Communicator,
    // Last: dropped after the communicator, it waits for the other ranks.
    _library: ferrompi::Mpi,
}

impl Mpi {
    /// Joins the job. A collective call.
    ///
    /// # Errors
    /// [`RanksError::Engine`] if MPI cannot be started, or was started before; [`RanksError::Differ`] if the ranks run
    /// other versions of this crate.
    #[doc(alias("MPI_Init", "init_process_group"))]
    pub fn start() -> Result<Self> {
        let library = ferrompi::Mpi::init_thread(ThreadLevel::Funneled).map_err(failed)?;
        let world = library.world();
        let (rank, size) = (world.rank().unsigned_abs() as usize, world.size().unsigned_abs() as usize);
        let world = World { communicator: world, _library: library };
        Ok(Self { calls: Calls::join(world, rank, size, env!("CARGO_PKG_VERSION"))? })
    }

    /// Returns the library's own communicator of all ranks. MPI can be started only once, so calls of your own go through
    /// it, between those of [`Ranks`].
    pub fn communicator(&self) -> &Communicator {
        &self.calls.engine().communicator
    }
}

impl Engine for World {
    // Counts and places in the library have 31 bits.
    const MOST: usize = 64 << 20;

    fn move_bytes(
        &self,
        sent: &[u8],
        from: &[Range<usize>],
        received: &mut [u8],
        to: &[Range<usize>],
    ) -> Result<(), RanksError> {
        let starts = |ranges: &[Range<usize>]| ranges.iter().map(|range| range.start as i32).collect::<Vec<_>>();
        let counts = |ranges: &[Range<usize>]| ranges.iter().map(|range| range.len() as i32).collect::<Vec<_>>();
        self.communicator
            .alltoallv(sent, &counts(from), &starts(from), received, &counts(to), &starts(to))
            .map_err(failed)
    }
}

impl Ranks for Mpi {
    fn rank(&self) -> usize {
        self.calls.rank()
    }

    fn size(&self) -> usize {
        self.calls.size()
    }

    fn all_to_all(&self, sent: &Parts, received: &mut Parts) -> Result<()> {
        self.calls.all_to_all(sent, received)
    }

    fn all_gather(&self, sent: &[u8], received: &mut Parts) -> Result<()> {
        self.calls.all_gather(sent, received)
    }
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mpi {:?}", self.calls)
    }
}

fn failed(error: ferrompi::Error) -> RanksError {
    RanksError::Engine { engine: "MPI", reason: error.to_string() }
}
