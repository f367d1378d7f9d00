//! The notes of kernels on ids outside their table, until they are read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut, DeviceRepr, SyncOnDrop};
use candle_core::{CudaDevice, Result};

use crate::error;
use crate::kernel::ids::{MAX_RANK, Table, outside, unravel};

/// Words of `Note` of gather_add.cu.
const NOTE_WORDS: usize = 6 + MAX_RANK;
/// Bits of an id in each of its parts; its place among the ids is above them.
const PART_BITS: u32 = 24;
const TABLES: [Table; 2] = [Table::Positions, Table::Tokens];

/// One note for each table, on the device, shared by a layer's clones.
#[derive(Clone, Debug)]
pub(crate) struct Notes {
    device: CudaDevice,
    memory: Arc<Mutex<CudaSlice<u64>>>,
    /// Calls are numbered from 1, so that the first that meets a bad id can be told from those after it.
    last_call: Arc<AtomicU64>,
}

/// `Shape` of gather_add.cu, field by field.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct ShapeArg {
    rank: u64,
    dims: [u64; MAX_RANK],
}

// SAFETY: 64-bit counts, in the order and layout of the struct in the kernel's source.
unsafe impl DeviceRepr for ShapeArg {}

impl ShapeArg {
    pub(crate) fn new(dims: &[usize]) -> Self {
        let mut shape = Self { rank: dims.len() as u64, ..Self::default() };
        for (to, &dim) in shape.dims.iter_mut().zip(dims) {
            *to = dim as u64;
        }
        shape
    }
}

impl Notes {
    pub(in crate::kernel) fn new(device: &CudaDevice) -> Result<Self> {
        let memory = Arc::new(Mutex::new(device.alloc_zeros::<u64>(TABLES.len() * NOTE_WORDS)?));
        // Kernels of other threads, on streams of their own, may note at once.
        device.cuda_stream().synchronize().w()?;
        Ok(Self { device: device.clone(), memory, last_call: Arc::default() })
    }

    pub(crate) fn next_call(&self) -> u64 {
        self.last_call.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Locks the memory while a launch that writes to it is prepared.
    pub(crate) fn lock(&self) -> MutexGuard<'_, CudaSlice<u64>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the work of all threads on the device and clears the notes. Returns the first bad id of the first call
    /// that had one as the error.
    pub(in crate::kernel) fn take(&self) -> error::Result<()> {
        let mut memory = self.lock();
        // Each thread has a stream of its own: those who looked up may be others than the one who asks.
        let context = self.device.cuda_stream().context().clone();
        context.synchronize().w()?;
        let words = self.device.clone_dtoh(&*memory)?;
        // In one call positions come first, as they do if ids are checked at once.
        let noted = TABLES.iter().zip(words.chunks_exact(NOTE_WORDS)).filter(|(_, note)| note[0] > 0);
        let Some((&table, note)) = noted.min_by_key(|(_, note)| note[0]) else { return Ok(()) };
        // In place, since kernels of others know the address; and done before any of them notes again.
        self.device.cuda_stream().memset_zeros(&mut *memory).w()?;
        context.synchronize().w()?;
        Err(read(table, note))
    }
}

/// Returns where the note on a table is.
pub(crate) fn address<'a>(
    memory: &'a mut CudaSlice<u64>,
    stream: &'a CudaStream,
) -> (impl Fn(Table) -> u64 + use<>, SyncOnDrop<'a>) {
    let (start, used) = memory.device_ptr_mut(stream);
    let of_table = move |table| {
        let index = TABLES.iter().take_while(|&&other| other != table).count();
        start + (index * NOTE_WORDS * size_of::<u64>()) as u64
    };
    (of_table, used)
}

fn read(table: Table, note: &[u64]) -> error::Error {
    let &[_, low, middle, high, n_rows, rank, ref dims @ ..] = note else { return outside(table, 0, Vec::new(), 0) };
    let mask = (1 << PART_BITS) - 1;
    let id = low & mask | (middle & mask) << PART_BITS | (high & mask) << (2 * PART_BITS);
    // The greatest part won, and so the smallest place.
    let index = (u64::MAX - low) >> PART_BITS;
    let dims: Vec<usize> = dims.iter().take(rank as usize).map(|&dim| dim as usize).collect();
    outside(table, id as i64, unravel(index as usize, &dims), n_rows as usize)
}
