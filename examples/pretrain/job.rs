//! The ranks of a run: this process alone, or those that `mpirun` started.

use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::Tensor;
use candle_gpt_input::ranks::{self, Parts, Ranks};

/// Joins the ranks of this run.
#[cfg(feature = "mpi")]
pub fn start() -> Result<Box<dyn Ranks>> {
    Ok(Box::new(candle_gpt_input::ranks::Mpi::start()?))
}

/// Returns the only rank; several processes would write one folder.
#[cfg(not(feature = "mpi"))]
pub fn start() -> Result<Box<dyn Ranks>> {
    let size = |name| std::env::var(name).ok()?.parse::<usize>().ok();
    let size = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"].into_iter().find_map(size).unwrap_or(1);
    anyhow::ensure!(size == 1, "one of {size} ranks, but built without MPI: build with --features mpi");
    Ok(Box::new(candle_gpt_input::ranks::Alone))
}

/// Runs what only rank 0 does, such as writing; an error is everyone's.
pub fn first<T: Default>(ranks: &dyn Ranks, run: impl FnOnce() -> Result<T>) -> Result<T> {
    ranks::agree(ranks, if ranks.rank() == 0 { run() } else { Ok(T::default()) })
}

/// Makes a path that rank 0 has found that of all ranks: a slow file system may show others something else.
pub fn shared_path(ranks: &dyn Ranks, path: Option<PathBuf>) -> Result<Option<PathBuf>> {
    let mut all = Parts::default();
    let shared = path.as_deref().map_or("".into(), Path::to_string_lossy);
    ranks.all_gather(shared.as_bytes(), &mut all)?;
    if ranks.rank() == 0 {
        return Ok(path); // which need not be UTF-8
    }
    let path = std::str::from_utf8(all.get(0))?;
    Ok((!path.is_empty()).then(|| path.into()))
}

/// Checks that all ranks have the same weights. Different processors would let them drift apart.
pub fn same_weights<'a>(ranks: &dyn Ranks, weights: impl Iterator<Item = &'a Tensor>) -> Result<()> {
    let mut hasher = DefaultHasher::new();
    for weight in weights.filter(|_| ranks.size() > 1) {
        weight.flatten_all()?.to_vec1::<f32>()?.iter().for_each(|x| hasher.write_u32(x.to_bits()));
    }
    Ok(ranks::same(ranks, "the weights", &hasher.finish().to_le_bytes())?)
}
