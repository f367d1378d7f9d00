//! The ids of a run, and the yardstick of look-ups: the same rows, copied into a new tensor, with nothing added.

use std::fmt;

use anyhow::{Result, bail};
use candle_core::{CpuStorage, DType, Device, Storage, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;

use super::cases::{Contender, Inputs, contender};

/// How often each id occurs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Ids {
    /// Each as often as any other
    #[default]
    Uniform,
    /// Id k as often as 1 / (k + 1), about as in text
    Zipf,
    /// All are the same
    Same,
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
            Self::Same => "same",
        })
    }
}

impl Ids {
    /// Turns uniform ids into ids of this kind. `torch.py` does the same, in the same order of additions.
    pub fn distribute(self, ids: Vec<i64>, vocab_size: usize) -> Vec<i64> {
        match self {
            Self::Uniform => ids,
            Self::Same => vec![ids.first().copied().unwrap_or(0); ids.len()],
            Self::Zipf => {
                let sum = |sum: &mut f64, rank: usize| {
                    *sum += 1.0 / rank as f64;
                    Some(*sum)
                };
                let sums: Vec<f64> = (1..=vocab_size).scan(0.0, sum).collect();
                let total = sums.last().copied().unwrap_or(0.0);
                let part = |id: i64| (id as f64 + 0.5) / vocab_size as f64 * total;
                ids.into_iter().map(|id| sums.partition_point(|sum| *sum <= part(id)) as i64).collect()
            }
        }
    }
}

/// Below, one thread copies, as in the layer.
const PARALLEL_BYTES: usize = 1 << 18;

/// Returns two variants of the yardstick: one part of the rows for each thread, and four.
pub fn contenders(inputs: &Inputs) -> Result<[Contender; 2]> {
    match inputs.shape.dtype {
        DType::F32 => Ok([rows::<f32>("rows_1", inputs, 1)?, rows::<f32>("rows_4", inputs, 4)?]),
        DType::BF16 => Ok([rows::<bf16>("rows_1", inputs, 1)?, rows::<bf16>("rows_4", inputs, 4)?]),
        DType::F16 => Ok([rows::<f16>("rows_1", inputs, 1)?, rows::<f16>("rows_4", inputs, 4)?]),
        dtype => bail!("no yardstick for {dtype:?}"),
    }
}

fn rows<E: WithDType>(name: &'static str, inputs: &Inputs, parts: usize) -> Result<Contender> {
    let (table, width, dims) = (inputs.wte.clone(), inputs.shape.n_embd, inputs.grad.dims().to_vec());
    let ids: Vec<u32> = inputs.ids.flatten_all()?.to_vec1()?;
    contender(name, move || {
        let (storage, layout) = table.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("the yardstick is one of the CPU") };
        let values = &slice_of::<E>(storage)?[layout.start_offset()..];
        let mut out: Vec<E> = Vec::with_capacity(ids.len() * width);
        let n_together = match ids.len() * width * size_of::<E>() < PARALLEL_BYTES {
            true => ids.len(),
            false => ids.len().div_ceil(parts * rayon::current_num_threads()),
        };
        let spare = &mut out.spare_capacity_mut()[..ids.len() * width];
        let copy = |(to, ids): (&mut [std::mem::MaybeUninit<E>], &[u32])| {
            for (to, &id) in to.chunks_exact_mut(width).zip(ids) {
                to.write_copy_of_slice(&values[id as usize * width..][..width]);
            }
        };
        match n_together < ids.len() {
            true => spare.par_chunks_mut(n_together * width).zip(ids.par_chunks(n_together)).for_each(copy),
            false => copy((spare, &ids)),
        }
        // SAFETY: `copy` has written all elements, a row for each id.
        unsafe { out.set_len(ids.len() * width) };
        std::hint::black_box(Tensor::from_vec(out, dims.as_slice(), &Device::Cpu)?);
        Ok((None, Vec::new()))
    })
}

fn slice_of<E: WithDType>(storage: &CpuStorage) -> candle_core::Result<&[E]> {
    E::cpu_storage_as_slice(storage)
}
