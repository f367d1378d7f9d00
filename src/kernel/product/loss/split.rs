//! [`Split`]: a pass over a vocabulary of which each rank has a share.

use std::ops::Range;

use super::exchange::{Exchange, Score};
use super::job::{Blocks, Job};
use crate::error::{RanksError, Result};
use crate::kernel::core::le_bytes::LeBytes;
use crate::kernel::core::parallel::each_in_parallel;
use crate::kernel::product::real::Real;
use crate::ranks::{Parts, Ranks};

/// A share of the vocabulary, the ranks that have the others, and the rows that count of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split<'a> {
    pub(crate) ranks: &'a dyn Ranks,
    /// Of the whole table.
    pub(crate) vocab_size: usize,
    /// How many of the rows that count each rank has; they lie in the order of the ranks.
    pub(crate) counts: &'a [usize],
}

/// Returns which groups of blocks are the share of a rank.
pub(super) fn groups_of(blocks: Blocks, rank: usize, size: usize) -> Range<usize> {
    // The first ranks get one more, so that rank 0 always has some.
    let start = |rank: usize| (blocks.n_groups() * rank).div_ceil(size.max(1));
    start(rank)..start(rank + 1)
}

/// Returns which rows of a table are the share of a rank: whole groups of the loss's blocks, at most one group more
/// than any other rank's.
pub(crate) fn vocab_share(vocab_size: usize, rank: usize, size: usize) -> Range<usize> {
    if vocab_size == 0 {
        return 0..0;
    }
    let blocks = Blocks::new(vocab_size);
    let share = blocks.of_groups(&groups_of(blocks, rank, size));
    (share.start * blocks.len).min(vocab_size)..(share.end * blocks.len).min(vocab_size)
}

impl Split<'_> {
    /// Returns which rows of a chunk are those of `rank`, as numbers in the chunk.
    fn of_rank(&self, rank: usize, chunk: &Range<usize>) -> Range<usize> {
        let start: usize = self.counts[..rank].iter().sum();
        let inside = |row: usize| row.clamp(chunk.start, chunk.end) - chunk.start;
        inside(start)..inside(start + self.counts[rank])
    }

    /// Returns where the own rows of a chunk are among all that count.
    fn own(&self, chunk: &Range<usize>) -> Range<usize> {
        let own = self.of_rank(self.ranks.rank(), chunk);
        chunk.start + own.start..chunk.start + own.end
    }
}

/// Appends the elements that a rank has sent.
fn read<T: Real>(part: &[u8], n: usize, rank: usize, values: &mut Vec<T>) -> Result<()> {
    if part.len() != n * size_of::<T>() {
        return Err(RanksError::Differ { what: "the rows of the loss", rank }.into());
    }
    let start = values.len();
    values.resize(start + n, T::ZERO);
    T::read(part, &mut values[start..]);
    Ok(())
}

impl<T: Real> Exchange<T> for Split<'_> {
    fn rows(&self, job: &Job<'_, T>, chunk: &Range<usize>) -> Result<Vec<T>> {
        let own = job.pack(self.own(chunk));
        let mut bytes = vec![0; size_of_val(own.as_slice())];
        T::write(&own, &mut bytes);
        let (mut all, mut rows) = (Parts::default(), Vec::with_capacity(chunk.len() * job.n_embd));
        self.ranks.all_gather(&bytes, &mut all)?;
        for (rank, part) in all.iter().enumerate() {
            read(part, self.of_rank(rank, chunk).len() * job.n_embd, rank, &mut rows)?;
        }
        Ok(rows)
    }

    fn scores(&self, job: &Job<'_, T>, chunk: &Range<usize>, own: Vec<Score<T>>) -> Result<Vec<Score<T>>> {
        let numbers: Vec<T> = own.iter().flat_map(|score| [score.max, score.target]).collect();
        let sums: Vec<f64> = own.iter().map(|score| score.sum).collect();
        let n_bytes = size_of_val(numbers.as_slice());
        let mut bytes = vec![0; n_bytes + size_of_val(sums.as_slice())];
        T::write(&numbers, &mut bytes[..n_bytes]);
        f64::write(&sums, &mut bytes[n_bytes..]);
        let (mut all, mut scores) = (Parts::default(), Vec::with_capacity(job.blocks().count * chunk.len()));
        self.ranks.all_gather(&bytes, &mut all)?;
        for (rank, part) in all.iter().enumerate() {
            let n = job.blocks().of_groups(&groups_of(job.blocks(), rank, self.ranks.size())).len() * chunk.len();
            let differ = RanksError::Differ { what: "the rows of the loss", rank };
            let (part, sums) = part.split_at_checked(2 * n * size_of::<T>()).ok_or(differ)?;
            let (mut numbers, mut of_blocks) = (Vec::new(), Vec::new());
            read::<T>(part, 2 * n, rank, &mut numbers)?;
            read::<f64>(sums, n, rank, &mut of_blocks)?;
            let (pairs, _) = numbers.as_chunks::<2>();
            scores.extend(pairs.iter().zip(of_blocks).map(|(&[max, target], sum)| Score { max, sum, target }));
        }
        Ok(scores)
    }

    /// The sums travel from rank to rank, each of which adds its groups: in order, with the bytes of a ring. There is
    /// one for each rank's rows, so that all ranks but those at the ends have one to work on.
    fn hidden_grad(&self, job: &Job<'_, T>, chunk: &Range<usize>, partials: &mut [T], grad: &mut [T]) -> Result<()> {
        let (rank, size, c) = (self.ranks.rank(), self.ranks.size(), job.n_embd);
        let (mut sent, mut received) = (Parts::default(), Parts::default());
        let mut sum = Vec::new();
        for step in 0..2 * size - 1 {
            let owner = step.checked_sub(rank).filter(|&owner| owner < size);
            sum.clear();
            if let Some(owner) = owner {
                let rows = self.of_rank(owner, chunk);
                let mut partials = partials.chunks(chunk.len() * c).map(|group| &group[rows.start * c..rows.end * c]);
                match rank.checked_sub(1) {
                    Some(before) => read(received.get(before), rows.len() * c, before, &mut sum)?,
                    None => sum.extend_from_slice(partials.next().unwrap_or_default()),
                }
                let partials: Vec<_> = partials.collect();
                each_in_parallel(sum.chunks_mut(c), &|row, sum| {
                    partials.iter().for_each(|partial| T::add_scaled(sum, T::ONE, &partial[row * c..][..c]));
                });
            }
            let to = owner.map(|owner| if rank + 1 < size { rank + 1 } else { owner });
            sent.resize((0..size).map(|rank| if to == Some(rank) { size_of_val(sum.as_slice()) } else { 0 }));
            T::write(&sum, sent.bytes_mut());
            self.ranks.all_to_all(&sent, &mut received)?;
            if step == rank + size - 1 {
                let own = self.own(chunk);
                sum.clear();
                read(received.get(size - 1), own.len() * c, size - 1, &mut sum)?;
                job.unpack(own, &sum, grad);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::vocab_share;

    #[test]
    fn shares_are_even_and_follow_each_other() {
        for vocab_size in [0, 1, 97, 1000, 1025, 16385, 50257, 256_000] {
            for size in 1..20 {
                let shares: Vec<_> = (0..size).map(|rank| vocab_share(vocab_size, rank, size)).collect();
                assert_eq!((shares[0].start, shares[size - 1].end), (0, vocab_size));
                assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start), "{shares:?}");
            }
        }
        let four: Vec<_> = (0..4).map(|rank| vocab_share(50257, rank, 4).len()).collect();
        assert_eq!(four, [12576, 12576, 12576, 12529]); // 4 groups of 4 blocks of 786 rows, the last one shorter
    }
}
