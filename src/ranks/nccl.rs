//! [`Nccl`]: ranks that each have an NVIDIA GPU.

use std::cell::RefCell;
use std::ffi::c_char;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DriverError};
use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, group_end, group_start};

use super::calls::{Calls, Engine};
use super::{Parts, Ranks, agree};
use crate::error::{RanksError, Result};

/// Ranks of an NCCL job: threads or processes, each with a GPU of its own, on one machine or several.
///
/// **It has never run on a GPU**: the code is type-checked, and was run on a stand-in for CUDA and NCCL.
///
/// NCCL only moves bytes here, by grouped sends and receives, so steps have the bits of every other engine. The bytes
/// begin and end on the host, as those of [`Ranks`] do. All calls come from the thread that joined.
///
/// ```no_run
/// use candle_gpt_input::DeviceSpec;
/// use candle_gpt_input::ranks::{self, Nccl, Ranks, Threads};
///
/// let results = Threads::run(2, |threads| {
///     let device = format!("cuda:{}", threads.rank()).parse::<DeviceSpec>()?.resolve()?;
///     let ranks = Nccl::join(threads, &device)?; // or `Nccl::new`, with an id from a file
///     ranks::any(&ranks, ranks.rank() == 1)
/// });
/// # let _: Vec<Result<bool, candle_gpt_input::Error>> = results;
/// ```
pub struct Nccl {
    calls: Calls<Card>,
}

/// A number by which the ranks of one job find each other, made by one of them: [`Nccl::unique_id`].
pub type UniqueId = [u8; 128];

impl Nccl {
    /// Makes the number of a new job. One rank makes it, and the others get it: by a file, or as [`join`](Self::join) does.
    ///
    /// # Errors
    /// [`RanksError::Engine`] if NCCL finds no network.
    pub fn unique_id() -> Result<UniqueId> {
        Ok(Id::new().map_err(failed)?.internal().map(|byte| byte as u8))
    }

    /// Joins the job `id` as one of `size` ranks. A collective call. Two ranks cannot share a GPU.
    ///
    /// # Errors
    /// [`RanksError::Engine`] for what NCCL refuses, and a device that is not CUDA's; [`RanksError::Differ`] if the ranks
    /// run other versions of this crate.
    #[doc(alias("ncclCommInitRank", "init_process_group"))]
    pub fn new(device: &Device, id: &UniqueId, rank: usize, size: usize) -> Result<Self> {
        let stream = stream_of(device)?;
        if rank >= size {
            let reason = format!("rank {rank} of {size}: ranks are 0 to size - 1");
            return Err(RanksError::Engine { engine: ENGINE, reason }.into());
        }
        let id = Id::uninit(id.map(|byte| byte as c_char));
        let comm = Comm::from_rank(stream.clone(), rank, size, id).map_err(failed)?;
        let card = Card { comm, stream, size, buffers: RefCell::default(), limit: LIMIT };
        Ok(Self { calls: Calls::join(card, rank, size, env!("CARGO_PKG_VERSION"))? })
    }

    /// Joins as many ranks as another engine has, under the same numbers. That engine carries the job's number, and an
    /// error of any rank. A collective call of both.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), of any rank; those of the other engine.
    pub fn join(others: &dyn Ranks, device: &Device) -> Result<Self> {
        let id = || if others.rank() == 0 { Self::unique_id().map(Vec::from) } else { Ok(Vec::new()) };
        let id = agree(others, stream_of(device).and_then(|_| id()))?;
        let mut ids = Parts::default();
        others.all_gather(&id, &mut ids)?;
        let missing = |_| RanksError::Differ { what: "the number of the NCCL job", rank: 0 };
        let id = UniqueId::try_from(ids.get(0)).map_err(missing)?;
        Self::new(device, &id, others.rank(), others.size())
    }
}

const ENGINE: &str = "NCCL";
/// How long a rank waits for the others: as long as the slowest of them writes a checkpoint.
const LIMIT: Duration = Duration::from_secs(600);

struct Card {
    comm: Comm,
    stream: Arc<CudaStream>,
    size: usize,
    /// What is sent and received, on the device: used again, and made anew for more bytes.
    buffers: RefCell<[Option<CudaSlice<u8>>; 2]>,
    limit: Duration,
}

impl Card {
    /// Waits until the device has done all that it was given.
    fn wait(&self) -> Result<(), RanksError> {
        let done = self.stream.record_event(None).map_err(of_driver)?;
        let start = Instant::now();
        while !done.try_is_complete().map_err(of_driver)? {
            if start.elapsed() > self.limit {
                let reason = format!("the other ranks did not answer within {:?}", self.limit);
                return Err(RanksError::Engine { engine: ENGINE, reason });
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    }
}

impl Engine for Card {
    const MOST: usize = 64 << 20;

    fn move_bytes(
        &self,
        sent: &[u8],
        from: &[Range<usize>],
        received: &mut [u8],
        to: &[Range<usize>],
    ) -> Result<(), RanksError> {
        let mut buffers = self.buffers.borrow_mut();
        for (buffer, n) in buffers.iter_mut().zip([sent.len(), received.len()]) {
            if buffer.as_ref().is_none_or(|buffer| buffer.len() < n.max(1)) {
                *buffer = Some(self.stream.alloc_zeros(n.max(1)).map_err(of_driver)?);
            }
        }
        let [Some(on_device), Some(arriving)] = &mut *buffers else { return Ok(()) };
        if !sent.is_empty() {
            self.stream.memcpy_htod(sent, on_device).map_err(of_driver)?;
        }
        group_start().map_err(failed)?;
        let mut moves = || -> Result<(), NcclError> {
            for peer in 0..self.size {
                let (from, to) = (from[peer].clone(), to[peer].clone());
                if !from.is_empty() {
                    self.comm.send(&on_device.slice(from), peer as i32)?;
                }
                if !to.is_empty() {
                    self.comm.recv(&mut arriving.slice_mut(to), peer as i32)?;
                }
            }
            Ok(())
        };
        let moved = moves();
        let ended = group_end(); // also behind an error
        moved.and(ended.map(drop)).map_err(failed)?;
        self.wait()?;
        if !received.is_empty() {
            self.stream.memcpy_dtoh(&arriving.slice(0..received.len()), received).map_err(of_driver)?;
            self.stream.synchronize().map_err(of_driver)?;
        }
        Ok(())
    }
}

impl Ranks for Nccl {
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

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nccl {:?}", self.calls)
    }
}

fn stream_of(device: &Device) -> Result<Arc<CudaStream>> {
    match device {
        Device::Cuda(cuda) => Ok(cuda.cuda_stream()),
        _ => {
            let reason = format!("{:?} is no CUDA device: take cuda:N", device.location());
            Err(RanksError::Engine { engine: ENGINE, reason }.into())
        }
    }
}

fn failed(error: NcclError) -> RanksError {
    RanksError::Engine { engine: ENGINE, reason: format!("{:?}", error.0) }
}

fn of_driver(error: DriverError) -> RanksError {
    RanksError::Engine { engine: ENGINE, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::ranks::{Threads, any};

    /// Runs `body` as ranks of an NCCL job, which are threads. One GPU for all is enough on the stand-in only.
    fn run<T: Send>(size: usize, body: impl Fn(Nccl) -> Result<T> + Sync) -> Vec<Result<T>> {
        Threads::run(size, |threads| body(Nccl::join(threads, &device()?)?))
    }

    fn device() -> Result<Device> {
        Ok(Device::new_cuda(0)?)
    }

    #[test]
    fn parts_of_any_length_arrive() {
        let part = |from: usize, to: usize| vec![(16 * from + to) as u8; [0, 1, 5, 70_000][(from + 2 * to) % 4]];
        for size in 1..=3 {
            let all = run(size, |ranks| {
                let sent: Parts = (0..size).map(|to| part(ranks.rank(), to)).collect();
                let (mut received, mut gathered) = (Parts::default(), Parts::default());
                ranks.all_to_all(&sent, &mut received)?;
                ranks.all_gather(sent.get(0), &mut gathered)?;
                Ok((received, gathered))
            });
            for (rank, parts) in all.into_iter().enumerate() {
                let (received, gathered) = parts.unwrap();
                assert_eq!(received, (0..size).map(|from| part(from, rank)).collect());
                assert_eq!(gathered, (0..size).map(|from| part(from, 0)).collect());
            }
        }
    }

    #[test]
    fn a_rank_that_ends_or_dies_is_an_error_of_the_others() {
        let left = run(2, |ranks| if ranks.rank() == 1 { Ok(true) } else { any(&ranks, false) });
        assert!(matches!(left[0], Err(Error::Ranks(RanksError::Left { rank: 1 }))), "{left:?}");
        let died = run(2, |mut ranks| {
            if ranks.rank() == 1 {
                std::mem::forget(ranks); // says nothing, as a process that was killed
                return Ok(true);
            }
            ranks.calls.engine_mut().limit = Duration::from_millis(300);
            any(&ranks, false)
        });
        let error = died[0].as_ref().unwrap_err().to_string();
        assert_eq!(error, "NCCL: the other ranks did not answer within 300ms");
    }

    #[test]
    fn what_is_no_rank_on_a_gpu_is_refused() {
        let id = Nccl::unique_id().unwrap();
        let error = |device: &Device, rank: usize| Nccl::new(device, &id, rank, 1).unwrap_err().to_string();
        assert_eq!(error(&Device::Cpu, 0), "NCCL: Cpu is no CUDA device: take cuda:N");
        assert_eq!(error(&device().unwrap(), 1), "NCCL: rank 1 of 1: ranks are 0 to size - 1");
    }
}
