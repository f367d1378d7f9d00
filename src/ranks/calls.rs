//! [`Calls`]: the two calls of [`Ranks`](super::Ranks) over an engine of processes, which knows only how to move bytes.

use std::cell::OnceCell;
use std::fmt;
use std::ops::Range;

use super::{Call, Parts, Ranks, one_for_each, same};
use crate::error::{RanksError, Result};

/// What moves bytes between processes.
pub(super) trait Engine {
    /// The most bytes that a rank sends or receives in one move.
    const MOST: usize;

    /// Sends the bytes of `sent` in `from[r]` to rank r, and receives those of rank r into `to[r]` of `received`. All
    /// ranks make the same moves in the same order, and know the lengths.
    fn move_bytes(
        &self,
        sent: &[u8],
        from: &[Range<usize>],
        received: &mut [u8],
        to: &[Range<usize>],
    ) -> Result<(), RanksError>;
}

/// A rank of a job. Before each call it tells the others which one it makes, so that none of them waits in another; a
/// value that is dropped tells them that it has ended.
pub(super) struct Calls<E: Engine> {
    engine: E,
    rank: usize,
    size: usize,
    /// Why there are no more calls: the engine failed, a rank has ended or made another call.
    over: OnceCell<RanksError>,
}

/// What a rank says of a call before it: its kind, the length of the part for the one that reads this, and of its longest.
const N_SAID: usize = 3;
const SAID_BYTES: usize = N_SAID * size_of::<u64>();
/// The kind of call of a rank that has ended.
const LEAVES: u64 = 0;

impl<E: Engine> Calls<E> {
    /// Joins the others, which must run the same version of this crate. A collective call.
    pub(super) fn join(engine: E, rank: usize, size: usize, version: &str) -> Result<Self> {
        let calls = Self { engine, rank, size, over: OnceCell::new() };
        same(&calls, "the version of candle-gpt-input", version.as_bytes())?;
        Ok(calls)
    }

    #[cfg(feature = "mpi")]
    pub(super) fn engine(&self) -> &E {
        &self.engine
    }

    #[cfg(all(test, feature = "nccl"))]
    pub(super) fn engine_mut(&mut self) -> &mut E {
        &mut self.engine
    }

    fn move_bytes(&self, sent: &[u8], from: &[Range<usize>], received: &mut [u8], to: &[Range<usize>]) -> Result<()> {
        let moved = self.engine.move_bytes(sent, from, received, to);
        Ok(moved.inspect_err(|error| drop(self.over.set(error.clone())))?)
    }

    /// Tells every rank the kind of the next call and the lengths of the parts; returns what they say.
    fn say(&self, kind: u64, lengths: impl Fn(usize) -> usize) -> Result<Vec<[u64; N_SAID]>> {
        let longest = (0..self.size).map(&lengths).max().unwrap_or(0);
        let said = (0..self.size).flat_map(|rank| [kind, lengths(rank) as u64, longest as u64]);
        let said: Vec<u8> = said.flat_map(u64::to_le_bytes).collect();
        let each: Vec<Range<usize>> = (0..self.size).map(|rank| rank * SAID_BYTES..(rank + 1) * SAID_BYTES).collect();
        let mut heard = vec![0; said.len()];
        self.move_bytes(&said, &each, &mut heard, &each)?;
        let numbers = heard.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect::<Vec<_>>();
        Ok(numbers.as_chunks().0.to_vec())
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
        let left = heard.iter().position(|[kind, ..]| *kind == LEAVES).map(|rank| RanksError::Left { rank });
        let mixed = || heard.iter().position(|[kind, ..]| *kind != heard[0][0]).map(|rank| RanksError::Mixed { rank });
        if let Some(error) = left.or_else(mixed) {
            return Err(self.over.get_or_init(|| error).clone().into());
        }
        received.resize(heard.iter().map(|[_, length, _]| *length as usize));
        let longest = heard.iter().map(|[.., longest]| *longest as usize).max().unwrap_or(0);
        let most = (E::MOST / self.size).max(1);
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
}

impl<E: Engine> Ranks for Calls<E> {
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

impl<E: Engine> Drop for Calls<E> {
    /// Tells the others that this rank ends, in place of their next call.
    fn drop(&mut self) {
        if self.over.get().is_none() {
            let _ = self.say(LEAVES, |_| 0); // an engine that fails has told them
        }
    }
}

impl<E: Engine> fmt::Debug for Calls<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{ rank: {}, size: {} }}", self.rank, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::ranks::{Threads, any};

    /// Threads as an engine whose moves are small.
    struct Small<'a>(&'a Threads);

    impl Engine for Small<'_> {
        const MOST: usize = 10;

        fn move_bytes(
            &self,
            sent: &[u8],
            from: &[Range<usize>],
            received: &mut [u8],
            to: &[Range<usize>],
        ) -> Result<(), RanksError> {
            assert!([from, to].iter().all(|parts| parts.iter().all(|part| part.len() <= 24))); // what is said
            let sent: Parts = from.iter().map(|part| &sent[part.clone()]).collect();
            let mut parts = Parts::default();
            self.0.all_to_all(&sent, &mut parts).unwrap();
            to.iter().zip(parts.iter()).for_each(|(to, part)| received[to.clone()].copy_from_slice(part));
            Ok(())
        }
    }

    fn run<T: Send>(
        size: usize,
        version: impl Fn(usize) -> &'static str + Sync,
        body: impl Fn(Calls<Small<'_>>) -> Result<T> + Sync,
    ) -> Vec<Result<T>> {
        Threads::run(size, |threads| body(Calls::join(Small(threads), threads.rank(), size, version(threads.rank()))?))
    }

    #[test]
    fn parts_of_any_length_arrive_in_pieces() {
        let part = |from: usize, to: usize| vec![(16 * from + to) as u8; [0, 1, 5, 23][(from + 2 * to) % 4]];
        for size in 1..=4 {
            let all = run(
                size,
                |_| "1",
                |ranks| {
                    let sent: Parts = (0..size).map(|to| part(ranks.rank(), to)).collect();
                    let (mut received, mut gathered) = (Parts::default(), Parts::default());
                    ranks.all_to_all(&sent, &mut received)?;
                    ranks.all_gather(sent.get(0), &mut gathered)?;
                    Ok((received, gathered))
                },
            );
            for (rank, parts) in all.into_iter().enumerate() {
                let (received, gathered) = parts.unwrap();
                assert_eq!(received, (0..size).map(|from| part(from, rank)).collect());
                assert_eq!(gathered, (0..size).map(|from| part(from, 0)).collect());
            }
        }
    }

    #[test]
    fn another_version_on_one_rank_is_an_error_on_every_rank() {
        let errors = run(3, |rank| ["0.2.0", "0.2.0", "0.1.9"][rank], |_| Ok(()));
        for error in errors {
            let text = "the version of candle-gpt-input of rank 2 and of rank 0 differ";
            assert!(error.unwrap_err().to_string().starts_with(text));
        }
    }

    #[test]
    fn ranks_that_end_or_make_another_call_are_errors_of_the_others() {
        let left = run(3, |_| "1", |ranks| if ranks.rank() == 1 { Ok(true) } else { any(&ranks, false) });
        assert!(matches!(left[0], Err(Error::Ranks(RanksError::Left { rank: 1 }))), "{left:?}");
        let mixed = run(
            2,
            |_| "1",
            |ranks| {
                let mut received = Parts::default();
                let first = match ranks.rank() {
                    0 => ranks.all_gather(b"", &mut received),
                    _ => ranks.all_to_all(&Parts::from_iter(["", ""]), &mut received),
                };
                assert_eq!(first.unwrap_err().to_string(), any(&ranks, true).unwrap_err().to_string());
                any(&ranks, true)
            },
        );
        assert!(mixed.iter().all(|mixed| matches!(mixed, Err(Error::Ranks(RanksError::Mixed { rank: 1 })))));
    }
}
