//! The sum of whole gradients over ranks, bucket by bucket.

use candle_core::{DType, Device, Tensor, Var};

use super::cascade::Cascade;
use super::whole::Whole;
use crate::error::Result;
use crate::kernel::{AsIf, LeBytes, by_dtype, update, write_from};
use crate::memory::zeros;
use crate::ranks::{Parts, Ranks};

/// The most bytes that a rank sends at once. Smaller ones wait for each other more often, and larger ones are new pages
/// each time.
const BUCKET_BYTES: usize = 16 << 20;

/// The whole gradient of one variable on this rank, and its sum.
struct Dense<'a> {
    var: &'a Var,
    /// What is still to be sent; `None` if this rank has none.
    grad: Option<Whole>,
    /// On the CPU while it is received, in the memory of the gradient where that may be written: each bucket is sent
    /// before its sum arrives.
    sum: Option<Tensor>,
}

impl<'a> Dense<'a> {
    fn new(var: &'a Var, grad: Option<Whole>) -> Self {
        Self { var, grad, sum: None }
    }

    fn begin(&mut self) -> Result<()> {
        self.grad = self.grad.take().map(Whole::on_host).transpose()?;
        let own = self.grad.as_ref().filter(|grad| grad.is_writable());
        self.sum = own.map(|grad| grad.tensor().clone());
        Ok(())
    }

    /// Writes elements of the gradient, from `start` on, until `bytes` is full.
    fn send<E: LeBytes>(&self, start: usize, bytes: &mut [u8]) -> Result<()> {
        match &self.grad {
            Some(grad) => write_from::<E>(grad.tensor(), start, bytes),
            None => {
                // The only number that changes no other, whichever side it is added on.
                let lacking = [E::from_f64(-0.0); 1024];
                let chunks = bytes.chunks_mut(size_of_val(&lacking));
                chunks.for_each(|bytes| E::write(&lacking[..bytes.len() / size_of::<E>()], bytes));
                Ok(())
            }
        }
    }

    /// Reads elements of the sum, from `start` on; with the last it goes to the device of its variable.
    fn receive<E: LeBytes>(&mut self, start: usize, bytes: &[u8]) -> Result<()> {
        let sum = match self.sum.take() {
            Some(sum) => sum,
            None => Tensor::from_vec(zeros::<E>(self.var.elem_count())?, self.var.shape(), &Device::Cpu)?,
        };
        update::<E>(&sum, None, &mut |sum, _| E::read(bytes, &mut sum[start..]))?;
        let is_last = start + bytes.len() / size_of::<E>() == self.var.elem_count();
        self.sum = Some(if is_last { sum.to_device(self.var.device())? } else { sum });
        Ok(())
    }
}

/// Returns the sums of gradients over all ranks, in order, on the devices of their variables. `counts` has the
/// micro-batches of each rank. A variable comes with the gradient of this rank, `None` if it has none.
pub(super) fn sums(ranks: &dyn Ranks, counts: &[usize], all: Vec<(&Var, Option<Whole>)>) -> Result<Vec<Whole>> {
    sums_in(ranks, counts, all.into_iter().map(|(var, grad)| Dense::new(var, grad)).collect(), BUCKET_BYTES)
}

fn sums_in(ranks: &dyn Ranks, counts: &[usize], mut all: Vec<Dense>, bucket_bytes: usize) -> Result<Vec<Whole>> {
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        let of_dtype = all.iter_mut().filter(|dense| dense.var.dtype() == dtype).collect();
        by_dtype!(AsIf(dtype), E => sums_of::<E>(ranks, counts, of_dtype, bucket_bytes))?;
    }
    // Without elements nothing was received.
    all.into_iter().map(|dense| Ok(Whole::own(dense.sum.map_or_else(|| dense.var.zeros_like(), Ok)?))).collect()
}

fn sums_of<E: LeBytes>(
    ranks: &dyn Ranks,
    counts: &[usize],
    mut all: Vec<&mut Dense>,
    bucket_bytes: usize,
) -> Result<()> {
    let n_bytes = size_of::<E>();
    let lengths: Vec<usize> = all.iter().map(|dense| dense.var.elem_count()).collect();
    let n_all: usize = lengths.iter().sum();
    let (mut sent, mut received) = (Parts::default(), Parts::default());
    // Where the gradients go on that are not yet sent, and not yet received: which variable, and which of its elements.
    let (mut next, mut at) = (0, 0);
    let (mut done, mut read) = (0, 0);
    let bucket = (bucket_bytes / n_bytes).max(1);
    for start in (0..n_all).step_by(bucket) {
        let n = bucket.min(n_all - start);
        let each = n.div_ceil(ranks.size());
        sent.resize((0..ranks.size()).map(|rank| (n.min((rank + 1) * each) - n.min(rank * each)) * n_bytes));
        let mut bytes = sent.bytes_mut();
        while !bytes.is_empty() {
            if at == 0 {
                all[next].begin()?;
            }
            let n = (lengths[next] - at).min(bytes.len() / n_bytes);
            let (head, rest) = bytes.split_at_mut(n * n_bytes);
            all[next].send::<E>(at, head)?;
            (bytes, at) = (rest, at + n);
            if at == lengths[next] {
                all[next].grad = None; // makes room for the sum
                (next, at) = (next + 1, 0);
            }
        }
        ranks.all_to_all(&sent, &mut received)?;
        let sum = add_up::<E>(&mut received, counts)?;
        ranks.all_gather(received.get(sum), &mut sent)?;
        let mut bytes = sent.bytes();
        while !bytes.is_empty() {
            let n = (lengths[done] - read).min(bytes.len() / n_bytes);
            all[done].receive::<E>(read, &bytes[..n * n_bytes])?;
            (bytes, read) = (&bytes[n * n_bytes..], read + n);
            if read == lengths[done] {
                (done, read) = (done + 1, 0);
            }
        }
    }
    Ok(())
}

/// Adds up the parts of all ranks in place, as a cascade; returns which part holds the sum.
fn add_up<E: LeBytes>(parts: &mut Parts, counts: &[usize]) -> Result<usize> {
    let ranges: Vec<_> = (0..counts.len()).map(|rank| parts.range(rank)).collect();
    let bytes = parts.bytes_mut();
    let mut add = |left: usize, right: usize| {
        let (head, tail) = bytes.split_at_mut(ranges[right].start);
        E::add_to(&mut head[ranges[left].clone()], &tail[..ranges[right].len()]);
        Ok(left)
    };
    let mut cascade = Cascade::default();
    for (rank, &count) in counts.iter().enumerate() {
        cascade.push(count, rank, &mut add)?;
    }
    Ok(cascade.finish(add)?.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks::Threads;

    #[test]
    fn buckets_of_any_size_give_the_sums() {
        // Variables of 5, 1, 12 and 3 elements of two dtypes; rank 1 has no gradient of the second, rank 2 of the last.
        let value = |rank: usize, var: usize, at: usize| (1 + rank * 4 + var * 2 + at) as f32;
        let shapes = [(5, DType::F32), (1, DType::F32), (12, DType::BF16), (3, DType::F32)];
        for bucket_bytes in [4, 12, 20, 1 << 20] {
            let all = Threads::run(3, |ranks| {
                let var = |(n, dtype)| Var::zeros(n, dtype, &Device::Cpu).unwrap();
                let vars: Vec<Var> = shapes.into_iter().map(var).collect();
                let dense = vars.iter().enumerate().map(|(index, var)| {
                    let values: Vec<f32> = (0..var.elem_count()).map(|at| value(ranks.rank(), index, at)).collect();
                    let grad = Tensor::new(values, &Device::Cpu).unwrap().to_dtype(var.dtype()).unwrap();
                    let has = ![(1, 1), (2, 3)].contains(&(ranks.rank(), index));
                    let grad = if (ranks.rank() + index) % 2 == 0 { Whole::own(grad) } else { Whole::of_caller(grad) };
                    Dense::new(var, has.then_some(grad))
                });
                let sums = sums_in(ranks, &[1, 1, 1], dense.collect(), bucket_bytes).unwrap();
                sums.iter()
                    .map(|sum| sum.tensor().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap())
                    .collect::<Vec<_>>()
            });
            for (index, (n, _)) in shapes.into_iter().enumerate() {
                let ranks: &[usize] = [&[0, 1, 2][..], &[0, 2], &[0, 1, 2], &[0, 1]][index];
                let expected: Vec<f32> =
                    (0..n).map(|at| ranks.iter().map(|&rank| value(rank, index, at)).sum()).collect();
                assert!(all.iter().all(|sums| sums[index] == expected), "{bucket_bytes}: {all:?}, {expected:?}");
            }
        }
    }

    #[test]
    fn what_a_rank_lacks_changes_no_bit() {
        for value in [0.0f32, -0.0, f32::MIN_POSITIVE / 2.0, f32::INFINITY, -1.5] {
            let all = Threads::run(2, |ranks| {
                let var = Var::zeros(1, DType::F32, &Device::Cpu).unwrap();
                let grad = Tensor::new(&[value], &Device::Cpu).unwrap();
                let own = (&var, (ranks.rank() == 1).then(|| Whole::of_caller(grad)));
                sums(ranks, &[1, 1], vec![own]).unwrap()[0].tensor().to_vec1::<f32>().unwrap()[0].to_bits()
            });
            assert_eq!(all, [value.to_bits(); 2]);
        }
    }

    #[test]
    #[cfg(feature = "cuda")]
    fn gradients_of_a_device_are_summed_on_the_host() {
        let Some(device) = crate::tests::cuda() else { return };
        let values = |rank: usize| (0..1000).map(|i| (i * (rank + 1)) as f32 * 0.37 - 90.0).collect::<Vec<f32>>();
        let all = Threads::run(2, |ranks| {
            let var = Var::from_tensor(&Tensor::from_vec(values(0), 1000, &device).unwrap()).unwrap();
            let grad = Whole::own(Tensor::from_vec(values(ranks.rank()), 1000, &device).unwrap());
            let sum = sums(ranks, &[1, 1], vec![(&var, Some(grad))]).unwrap().remove(0);
            assert!(sum.tensor().device().is_cuda());
            sum.tensor().to_device(&Device::Cpu).unwrap().to_vec1::<f32>().unwrap()
        });
        let expected: Vec<f32> = values(0).iter().zip(values(1)).map(|(left, right)| left + right).collect();
        assert_eq!(all, [expected.clone(), expected]);
    }
}
