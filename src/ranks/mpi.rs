//! [`Mpi`]: ranks that `mpirun` started.

use std::cell::OnceCell;
use std::fmt;
use std::ops::Range;

use ferrompi::{Communicator, ThreadLevel};

use super::{Call, Parts, Ranks, one_for_each, same};
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
    world: Communicator,
    rank: usize,
    size: usize,
    /// Why there are no more calls: a rank has ended or made another call.
    over: OnceCell<RanksError>,
    // Last: dropped after the communicator, it waits for the other ranks.
    _library: ferrompi::Mpi,
}

/// The most bytes that a rank sends or receives in a call to the library, whose counts have 31 bits.
const MOST: usize = 64 << 20;
/// What a rank says of a call before it: its kind, the length of the part for the one that reads this, and of its longest.
const N_SAID: usize = 3;
/// The kind of call of a rank that has ended.
const LEAVES: u64 = 0;

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
        let ranks = Self { world, rank, size, over: OnceCell::new(), _library: library };
        same(&ranks, "the version of candle-gpt-input", env!("CARGO_PKG_VERSION").as_bytes())?;
        Ok(ranks)
    }

    /// Tells every rank the kind of the next call and the lengths of the parts; returns what they say.
    fn say(&self, kind: u64, lengths: impl Fn(usize) -> usize) -> Result<Vec<u64>> {
        let longest = (0..self.size).map(&lengths).max().unwrap_or(0);
        let said: Vec<u64> = (0..self.size).flat_map(|rank| [kind, lengths(rank) as u64, longest as u64]).collect();
        let mut heard = vec![0; said.len()];
        self.world.alltoall(&said, &mut heard).map_err(failed)?;
        Ok(heard)
    }

    /// Sends the bytes of `sent` in `part(r)` to rank `r`.
    fn exchange(
        &self,
        call: Call,
        sent: &[u8],
        part: impl Fn(usize) -> Range<usize>,
        received: &mut Parts,
    ) -> Result<()> {
        if let Some(error) = self.over.get() {
            return Err(error.clone().into());
        }
        let heard = self.say(call as u64, |rank| part(rank).len())?;
        let said = |rank: usize, what: usize| heard[rank * N_SAID + what];
        let find = |is_wrong: &dyn Fn(u64) -> bool| (0..self.size).find(|&rank| is_wrong(said(rank, 0)));
        let wrong = find(&|kind| kind == LEAVES).map(|rank| RanksError::Left { rank });
        if let Some(error) = wrong.or(find(&|kind| kind != said(0, 0)).map(|rank| RanksError::Mixed { rank })) {
            return Err(self.over.get_or_init(|| error).clone().into());
        }
        received.resize((0..self.size).map(|rank| said(rank, 1) as usize));
        let longest = (0..self.size).map(|rank| said(rank, 2) as usize).max().unwrap_or(0);
        let most = (MOST / self.size).max(1);
        if longest <= most {
            let to: Vec<Range<usize>> = (0..self.size).map(|rank| received.range(rank)).collect();
            let from: Vec<Range<usize>> = (0..self.size).map(part).collect();
            return self.move_bytes(sent, &from, received.bytes_mut(), &to);
        }
        for start in (0..longest).step_by(most) {
            let piece = |whole: Range<usize>| {
                let at = |n: usize| whole.end.min(whole.start.saturating_add(n));
                at(start)..at(start + most)
            };
            let own: Parts = (0..self.size).map(|rank| &sent[piece(part(rank))]).collect();
            let mut other = Parts::default();
            other.resize((0..self.size).map(|rank| piece(received.range(rank)).len()));
            let ranges = |parts: &Parts| (0..self.size).map(|rank| parts.range(rank)).collect::<Vec<_>>();
            let to = ranges(&other);
            self.move_bytes(own.bytes(), &ranges(&own), other.bytes_mut(), &to)?;
            for rank in 0..self.size {
                let whole = piece(received.range(rank));
                received.bytes_mut()[whole].copy_from_slice(other.get(rank));
            }
        }
        Ok(())
    }

    fn move_bytes(&self, sent: &[u8], from: &[Range<usize>], received: &mut [u8], to: &[Range<usize>]) -> Result<()> {
        // They fit: all parts together have at most `MOST` bytes.
        let starts = |ranges: &[Range<usize>]| ranges.iter().map(|range| range.start as i32).collect::<Vec<_>>();
        let counts = |ranges: &[Range<usize>]| ranges.iter().map(|range| range.len() as i32).collect::<Vec<_>>();
        self.world
            .alltoallv(sent, &counts(from), &starts(from), received, &counts(to), &starts(to))
            .map_err(|error| failed(error).into())
    }
}

impl Ranks for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_to_all(&self, sent: &Parts, received: &mut Parts) -> Result<()> {
        one_for_each(sent, self.size)?;
        self.exchange(Call::AllToAll, sent.bytes(), |rank| sent.range(rank), received)
    }

    fn all_gather(&self, sent: &[u8], received: &mut Parts) -> Result<()> {
        self.exchange(Call::AllGather, sent, |_| 0..sent.len(), received)
    }
}

impl Drop for Mpi {
    /// Tells the others that this rank ends, in place of their next call.
    fn drop(&mut self) {
        if self.over.get().is_none() {
            let _ = self.say(LEAVES, |_| 0); // a library that fails has told them
        }
    }
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mpi {{ rank: {}, size: {} }}", self.rank, self.size)
    }
}

fn failed(error: ferrompi::Error) -> RanksError {
    RanksError::Engine { engine: "MPI", reason: error.to_string() }
}
