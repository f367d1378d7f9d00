//! Splits work among threads, and gives them an output in which each writes its own rows.
//!
//! Tasks are called through `dyn`: rayon's machinery is compiled anew for each type of closure, and the call is short
//! compared with a task.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::cache::last_level_bytes;
use super::team;

/// A smaller output is done by one thread before others are awake.
const PARALLEL_BYTES: usize = 1 << 18;
/// Values that one task computes, where each takes a while.
const VALUES_TOGETHER: usize = 1 << 10;
/// Tasks per thread, so that others can take over from a slow one.
const TASKS_PER_THREAD: usize = 4;

/// An id outside its table: the ids changed after they were checked.
#[derive(Debug)]
pub(crate) struct Outside;

/// An output whose rows are written by several tasks, each row by one.
#[derive(Clone, Copy)]
pub(crate) struct Out<'a, O> {
    start: *mut MaybeUninit<O>,
    pub(crate) n_rows: usize,
    width: usize,
    /// Whether it is larger than the caches, which would keep nothing useful of its rows: it bypasses them.
    pub(crate) stream: bool,
    lifetime: PhantomData<&'a mut [MaybeUninit<O>]>,
}

// SAFETY: a task reaches the memory only through `part`, whose caller promises that no two tasks take the same part.
unsafe impl<O: Send> Sync for Out<'_, O> {}
// SAFETY: as above; the elements themselves are `Send`.
unsafe impl<O: Send> Send for Out<'_, O> {}

impl<'a, O> Out<'a, O> {
    pub(crate) fn new(out: &'a mut [MaybeUninit<O>], width: usize) -> Self {
        Self {
            start: out.as_mut_ptr(),
            n_rows: out.len().checked_div(width).unwrap_or(0),
            width,
            stream: size_of_val(out) >= last_level_bytes(),
            lifetime: PhantomData,
        }
    }

    /// Returns columns `columns` of row `n`.
    ///
    /// # Safety
    /// No other task takes any of these columns.
    #[inline(always)]
    pub(crate) unsafe fn part(&self, n: usize, columns: Range<usize>) -> &'a mut [MaybeUninit<O>] {
        assert!(n < self.n_rows && columns.start <= columns.end && columns.end <= self.width);
        // SAFETY: row and columns are inside by the assertion above, so they lie in the slice that `new` borrowed for
        // `'a`. The caller promises that no other reference to them exists.
        unsafe {
            let start = self.start.add(n * self.width + columns.start);
            std::slice::from_raw_parts_mut(start, columns.len())
        }
    }

    /// Returns row `n`.
    ///
    /// # Safety
    /// No other task takes any part of this row.
    #[inline(always)]
    pub(crate) unsafe fn row(&self, n: usize) -> &'a mut [MaybeUninit<O>] {
        // SAFETY: the caller promises what `part` requires, for all of the row.
        unsafe { self.part(n, 0..self.width) }
    }

    /// Returns the start of row `n`, for code that writes strided rows.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn at(&self, n: usize) -> *mut MaybeUninit<O> {
        assert!(n < self.n_rows);
        self.start.wrapping_add(n * self.width)
    }
}

/// Splits `0..n` among threads if an output of `n_bytes` is worth it.
pub(crate) fn in_parallel(
    n: usize,
    n_bytes: usize,
    task: &(dyn Fn(Range<usize>) -> Result<(), Outside> + Sync),
) -> Result<(), Outside> {
    if n_bytes < PARALLEL_BYTES || n < 2 {
        return task(0..n);
    }
    let n_tasks = (rayon::current_num_threads() * TASKS_PER_THREAD).min(n);
    let border = |i: usize| i * n / n_tasks;
    let is_outside = AtomicBool::new(false);
    for_each_index(n_tasks, &|i| {
        if task(border(i)..border(i + 1)).is_err() {
            is_outside.store(true, Ordering::Relaxed);
        }
    });
    if is_outside.into_inner() { Err(Outside) } else { Ok(()) }
}

/// Calls `task` with each of `items` and its index, on any thread.
pub(crate) fn each_in_parallel<T: Send>(items: impl Iterator<Item = T>, task: &(dyn Fn(usize, T) + Sync)) {
    let items: Vec<Mutex<Option<T>>> = items.map(|item| Mutex::new(Some(item))).collect();
    for_each_index(items.len(), &|index| {
        let item = items[index].lock().unwrap_or_else(PoisonError::into_inner).take();
        item.into_iter().for_each(|item| task(index, item));
    });
}

/// Calls `task` with each row of `width` values and its number, many rows to a task.
pub(crate) fn rows_in_parallel<T: Send>(values: &mut [T], width: usize, task: &(dyn Fn(usize, &mut [T]) + Sync)) {
    let width = width.max(1);
    let n_together = (VALUES_TOGETHER / width).max(1);
    each_in_parallel(values.chunks_mut(n_together * width), &|index, rows| {
        rows.chunks_mut(width).enumerate().for_each(|(number, row)| task(index * n_together + number, row));
    });
}

/// Returns the results of `task` for each of `0..n`, in order.
pub(crate) fn map_in_parallel<R: Send>(n: usize, task: &(dyn Fn(usize) -> R + Sync)) -> Vec<R> {
    let mut results: Vec<Option<R>> = (0..n).map(|_| None).collect();
    each_in_parallel(results.iter_mut(), &|index, result| *result = Some(task(index)));
    results.into_iter().flatten().collect()
}

/// Calls `task` with each of `0..n`, on any thread. Each thread goes through a share of its own in order, then helps with
/// the others'.
///
/// The calling thread has a share, too: it begins before another one is awake.
pub(crate) fn for_each_index(n: usize, task: &(dyn Fn(usize) + Sync)) {
    let n_threads = rayon::current_num_threads().min(n);
    if n_threads < 2 {
        return (0..n).for_each(task); // waking a thread takes longer than most tasks
    }
    let border = |share: usize| share * n / n_threads;
    let next: Vec<AtomicUsize> = (0..n_threads).map(|share| AtomicUsize::new(border(share))).collect();
    let work = &|own: usize| {
        for share in (own..n_threads).chain(0..own) {
            let indices = std::iter::repeat_with(|| next[share].fetch_add(1, Ordering::Relaxed));
            indices.take_while(|&index| index < border(share + 1)).for_each(task);
        }
    };
    if !team::share(n_threads, work) {
        rayon::in_place_scope(|scope| {
            (1..n_threads).for_each(|own| scope.spawn(move |_| work(own)));
            work(0);
        });
    }
}

/// Calls both closures, on two threads if another one is free.
pub(crate) fn join(left: &mut (dyn FnMut() + Send), right: &mut (dyn FnMut() + Send)) {
    rayon::join(left, right);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small, since Miri and the sanitizers run it too.
    #[test]
    fn every_row_is_written_by_one_task() {
        let (n_rows, width) = (37, 3);
        let mut values: Vec<usize> = Vec::with_capacity(n_rows * width);
        let out = Out::new(&mut values.spare_capacity_mut()[..n_rows * width], width);
        in_parallel(n_rows, PARALLEL_BYTES, &|rows| {
            for row in rows {
                // SAFETY: `in_parallel` hands out each row once.
                let cells = unsafe { out.row(row) };
                cells.iter_mut().enumerate().for_each(|(column, cell)| _ = cell.write(row * 100 + column));
            }
            Ok(())
        })
        .unwrap();
        // SAFETY: the tasks have written all elements.
        unsafe { values.set_len(n_rows * width) };
        let addresses = (0..n_rows).flat_map(|row| (0..width).map(move |column| row * 100 + column));
        assert!(values.into_iter().eq(addresses));
    }

    #[test]
    fn a_task_that_fails_fails_the_whole() {
        let last_fails = |rows: Range<usize>| if rows.contains(&36) { Err(Outside) } else { Ok(()) };
        assert!(in_parallel(37, PARALLEL_BYTES, &last_fails).is_err());
        assert!(in_parallel(37, PARALLEL_BYTES - 1, &last_fails).is_err());
    }

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let squares = map_in_parallel(37, &|i| i * i);
        assert!(squares.into_iter().eq((0..37).map(|i| i * i)));
        let mut values = [0; 37];
        each_in_parallel(values.chunks_mut(2), &|index, pair| pair.fill(index));
        assert!(values.into_iter().eq((0..37).map(|i| i / 2)));
    }
}
