//! Threads that stay awake between two pieces of work.
//!
//! A worker of rayon falls asleep after about 10 µs without work, and waking it takes about as long as a linear layer of
//! GPT-2 for one token. So a worker that has helped here looks for more work for a while. It is one of rayon's, so pools
//! and their sizes mean what they do elsewhere.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null_mut;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a worker looks for more work: longer than what lies between two products of a model.
const AWAKE: Duration = Duration::from_micros(100);
/// Looks at a counter after which a waiting thread lets others run.
const PATIENCE: usize = 1 << 10;

/// Work for several threads, in its caller's frame.
struct Work {
    /// Does the share of a thread.
    task: *const (dyn Fn(usize) + Sync),
    n_shares: usize,
    /// Shares that have been taken.
    n_taken: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// What callers and workers share.
struct Team {
    /// Whether a caller has the team.
    is_taken: AtomicBool,
    /// The caller's work, or null.
    work: AtomicPtr<Work>,
    /// How many pieces of work there were.
    n_works: AtomicUsize,
    /// Workers that may be using `work`.
    n_inside: AtomicUsize,
    /// Workers that look for work, or are about to.
    n_awake: AtomicUsize,
}

static TEAM: Team = Team {
    is_taken: AtomicBool::new(false),
    work: AtomicPtr::new(null_mut()),
    n_works: AtomicUsize::new(0),
    n_inside: AtomicUsize::new(0),
    n_awake: AtomicUsize::new(0),
};

/// Calls `task` with 0 on this thread, and with each of `1..n_shares` on another one that is free meanwhile, if there is
/// one. So whoever takes a share has to help with the others.
///
/// Returns false, having done nothing, while another caller has the team.
pub(super) fn share(n_shares: usize, task: &(dyn Fn(usize) + Sync)) -> bool {
    if TEAM.is_taken.swap(true, SeqCst) {
        return false;
    }
    // SAFETY: only the lifetime is another. `Posted` lets nobody use the task any more before it is gone.
    let task: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(task) };
    let work = Work { task, n_shares, n_taken: AtomicUsize::new(1), panic: Mutex::new(None) };
    let posted = Posted::new(&work);
    let n_missing = n_shares.saturating_sub(1 + TEAM.n_awake.load(Relaxed));
    for _ in 0..n_missing {
        TEAM.n_awake.fetch_add(1, Relaxed);
        rayon::spawn(look);
    }
    task(0);
    drop(posted);
    if let Some(panic) = work.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(panic);
    }
    true
}

/// Work that workers see, until it is dropped.
struct Posted;

impl Posted {
    fn new(work: &Work) -> Self {
        TEAM.n_works.fetch_add(1, SeqCst);
        TEAM.work.store(std::ptr::from_ref(work).cast_mut(), SeqCst);
        Self
    }
}

impl Drop for Posted {
    /// Hides the work, and waits for those who are doing it.
    fn drop(&mut self) {
        TEAM.work.store(null_mut(), SeqCst);
        let mut n_looks = 0;
        while TEAM.n_inside.load(SeqCst) > 0 {
            n_looks += 1;
            if n_looks % PATIENCE == 0 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        TEAM.is_taken.store(false, SeqCst);
    }
}

/// Looks for work, and helps with it, until there has been none for a while.
fn look() {
    let (mut last, mut since) = (0, Instant::now());
    while since.elapsed() < AWAKE {
        let n_works = TEAM.n_works.load(SeqCst);
        if n_works != last && !TEAM.work.load(Relaxed).is_null() {
            last = n_works;
            help();
            since = Instant::now();
        }
        std::hint::spin_loop();
    }
    TEAM.n_awake.fetch_sub(1, Relaxed);
}

/// Takes a share of the work, if there still is one.
fn help() {
    TEAM.n_inside.fetch_add(1, SeqCst);
    // SAFETY: whoever hides the work looks at `n_inside` afterwards, and `n_inside` was raised before this look at the work.
    // All four are in one order. So either the work is hidden already, or its caller waits.
    if let Some(work) = unsafe { TEAM.work.load(SeqCst).as_ref() } {
        let share = work.n_taken.fetch_add(1, Relaxed);
        if share < work.n_shares {
            // SAFETY: as long as the work is there, so is its task.
            let task = unsafe { &*work.task };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(share))) {
                *work.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
        }
    }
    TEAM.n_inside.fetch_sub(1, SeqCst);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::super::parallel::for_each_index;
    use super::*;

    /// Small, since Miri and the sanitizers run it too.
    #[test]
    fn each_index_is_taken_once_whoever_calls() {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for n in 0..20 {
                        let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                        for_each_index(n, &|index| {
                            let inner = AtomicUsize::new(0);
                            for_each_index(3, &|_| _ = inner.fetch_add(1, Relaxed));
                            counts[index].fetch_add(inner.into_inner(), Relaxed);
                        });
                        assert!(counts.into_iter().all(|count| count.into_inner() == 3), "{n}");
                    }
                });
            }
        });
    }

    /// Whichever thread has the share, the caller gets the panic, and the next work finds everything in order.
    #[test]
    fn a_panic_is_the_callers() {
        for at in [0, 3] {
            let caught = catch_unwind(|| for_each_index(4, &|index| assert!(index != at, "share {index}")));
            let text = caught.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(*text, format!("share {at}"));
            let sum = AtomicUsize::new(0);
            for_each_index(4, &|index| _ = sum.fetch_add(index, Relaxed));
            assert_eq!(sum.into_inner(), 6);
        }
    }
}
