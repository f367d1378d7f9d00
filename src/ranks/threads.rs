//! [`Threads`]: ranks that are threads of one process.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Call, Parts, Ranks, one_for_each};
use crate::error::{RanksError, Result};

/// Ranks as threads of this process, for tests and for trying out what several machines would do.
///
/// ```
/// use candle_gpt_input::ranks::{self, Ranks, Threads};
///
/// let stopped = Threads::run(4, |ranks| ranks::any(ranks, ranks.rank() == 3));
/// assert!(stopped.into_iter().all(|stopped| stopped.unwrap()));
/// ```
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    meeting: Arc<Meeting>,
}

/// Where ranks leave what they send.
#[derive(Debug)]
struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// What each rank has sent in the call under way.
    sent: Vec<Option<(Call, Parts)>>,
    /// How many ranks have received all of it.
    n_done: usize,
    /// Counts the calls.
    round: u64,
    /// Which ranks have ended.
    left: Vec<bool>,
    /// The first rank whose call was not that of the others, after which there are no more calls.
    mixed: Option<usize>,
}

impl Threads {
    /// Runs `body` as each of `size` ranks, in a thread each, and returns their results in order. A panic of one goes on
    /// in the caller when all have ended.
    pub fn run<T: Send>(size: usize, body: impl Fn(&Self) -> T + Sync) -> Vec<T> {
        let sent = (0..size).map(|_| None).collect();
        let state = State { sent, n_done: 0, round: 0, left: vec![false; size], mixed: None };
        let meeting = Arc::new(Meeting { state: Mutex::new(state), changed: Condvar::new() });
        let all: Vec<Self> = (0..size).map(|rank| Self { rank, meeting: meeting.clone() }).collect();
        let body = &body;
        std::thread::scope(|scope| {
            let threads: Vec<_> = all.into_iter().map(|ranks| scope.spawn(move || body(&ranks))).collect();
            let results = threads.into_iter().map(|thread| thread.join());
            let results: Vec<_> = results.collect(); // all end before a panic of one goes on
            results.into_iter().map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    // Each statement leaves the state consistent, so a panic while the lock is held does no harm.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.meeting.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `is_so`, or until a rank has ended.
    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        is_so: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'a, State>> {
        while !is_so(&state) {
            if let Some(rank) = state.left.iter().position(|&left| left) {
                return Err(RanksError::Left { rank }.into());
            }
            state = self.meeting.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(state)
    }

    /// Makes one call: `part` chooses from what another rank has sent.
    fn exchange(&self, call: Call, sent: Parts, received: &mut Parts, part: impl Fn(&Parts) -> &[u8]) -> Result<()> {
        let mut state = self.lock();
        let round = state.round;
        state.sent[self.rank] = Some((call, sent));
        self.meeting.changed.notify_all();
        let mut state = self.wait(state, |state| state.sent.iter().all(Option::is_some))?;
        let first = state.sent.iter().flatten().next().map_or(call, |(call, _)| *call);
        let mixed = state.sent.iter().flatten().position(|(call, _)| *call != first);
        if let Some(rank) = state.mixed.or(mixed) {
            state.mixed = Some(rank);
            return Err(RanksError::Mixed { rank }.into());
        }
        *received = state.sent.iter().flatten().map(|(_, sent)| part(sent)).collect();
        state.n_done += 1;
        if state.n_done == state.sent.len() {
            state.sent.iter_mut().for_each(|sent| *sent = None);
            (state.n_done, state.round) = (0, round + 1);
            self.meeting.changed.notify_all();
        }
        drop(self.wait(state, |state| state.round != round)?);
        Ok(())
    }
}

impl Ranks for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.lock().left.len()
    }

    fn all_to_all(&self, sent: &Parts, received: &mut Parts) -> Result<()> {
        one_for_each(sent, self.size())?;
        self.exchange(Call::AllToAll, sent.clone(), received, |sent| sent.get(self.rank))
    }

    fn all_gather(&self, sent: &[u8], received: &mut Parts) -> Result<()> {
        self.exchange(Call::AllGather, Parts::from_iter([sent]), received, |sent| sent.get(0))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.lock().left[self.rank] = true;
        self.meeting.changed.notify_all();
    }
}
