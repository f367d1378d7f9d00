//! How long ranks take to sum gradients over links of a given speed: the formula of the guide's page on machines, and
//! threads whose bytes arrive late.

use std::cell::Cell;
use std::time::{Duration, Instant};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::Result;
use candle_gpt_input::optim::{GradSum, RowGrad};
use candle_gpt_input::ranks::{Parts, Ranks, Threads};

/// A full-duplex link of each rank to all others.
#[derive(Clone, Copy, Debug)]
struct Link {
    /// Of a message, in seconds.
    latency: f64,
    bytes_per_second: f64,
}

/// The bytes of a bucket of gradients.
const BUCKET: f64 = 16.0 * 1024.0 * 1024.0;

impl Link {
    /// Returns the seconds in which `size` ranks sum gradients of `dense` bytes, and gather `rows` bytes of each. A bucket
    /// is two calls, each with (W - 1)/W of it; rows are one, with W - 1 times those of a rank. Before each call ranks
    /// tell each other its lengths.
    fn seconds(self, size: usize, dense: f64, rows: f64) -> f64 {
        let others = (size - 1) as f64;
        let n_calls = 2.0 * (dense / BUCKET).ceil() + f64::from(u8::from(rows > 0.0));
        let n_bytes = 2.0 * others / size as f64 * dense + others * rows;
        2.0 * n_calls * others * self.latency + n_bytes / self.bytes_per_second
    }
}

/// Ranks that receive late: one message after the other, over their link.
#[derive(Debug)]
struct Late<'a> {
    ranks: &'a Threads,
    link: Link,
    /// What this rank has received from others, in calls of at least 1000 bytes.
    received: Cell<usize>,
}

impl Late<'_> {
    fn wait(&self, received: &Parts) {
        let n_bytes = received.bytes().len() - received.get(self.rank()).len();
        if n_bytes >= 1000 {
            self.received.set(self.received.get() + n_bytes);
            let latency = 2.0 * (self.size() - 1) as f64 * self.link.latency;
            let seconds = latency + n_bytes as f64 / self.link.bytes_per_second;
            std::thread::sleep(Duration::from_secs_f64(seconds));
        }
    }
}

impl Ranks for Late<'_> {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn all_to_all(&self, sent: &Parts, received: &mut Parts) -> Result<()> {
        self.ranks.all_to_all(sent, received)?;
        self.wait(received);
        Ok(())
    }

    fn all_gather(&self, sent: &[u8], received: &mut Parts) -> Result<()> {
        self.ranks.all_gather(sent, received)?;
        self.wait(received);
        Ok(())
    }
}

/// Sums a matrix over ranks, and rows of a table if there are any. Returns the seconds, and what rank 0 has received.
fn summed(size: usize, link: Link, n_dense: usize, n_rows: usize) -> (f64, usize) {
    const WIDTH: usize = 64;
    let all = Threads::run(size, |ranks| -> Result<_> {
        let ranks = Late { ranks, link, received: Cell::new(0) };
        let cpu = &Device::Cpu;
        let matrix = Var::zeros(n_dense, DType::F32, cpu)?;
        let table = Var::zeros((100, WIDTH), DType::F32, cpu)?;
        let mut grads = GradStore::default();
        grads.insert(&matrix, Tensor::ones(n_dense, DType::F32, cpu)?);
        let mut rows = Vec::new();
        if n_rows > 0 {
            let ids = Tensor::arange(0, n_rows as u32, cpu)?;
            rows.push(RowGrad::new(&table, &ids, &Tensor::ones((n_rows, WIDTH), DType::F32, cpu)?)?);
        }
        let mut sum = GradSum::new(vec![matrix, table])?;
        sum.add(grads, rows, 0.0, 1)?;
        let start = Instant::now();
        sum.finish(&ranks)?;
        Ok((start.elapsed().as_secs_f64(), ranks.received.get()))
    });
    all.into_iter().map(Result::unwrap).reduce(|slowest, one| (slowest.0.max(one.0), slowest.1)).unwrap()
}

#[test]
fn sums_over_slow_links_take_as_long_as_the_formula_says() {
    let link = Link { latency: 0.005, bytes_per_second: 40e6 };
    println!("ranks  dense MB  rows kB  formula s  measured s");
    // Gradients of 20 MB, which are two buckets: as many bytes as a ring, whatever the number of ranks. A row
    // travels with an id of 8 bytes to every other rank.
    for (size, n_dense, n_rows) in [(2, 5 << 20, 0), (4, 5 << 20, 0), (8, 5 << 20, 0), (4, 1 << 10, 100)] {
        let (dense, rows) = (4.0 * n_dense as f64, if n_rows > 0 { (n_rows * (4 * 64 + 8) + 1) as f64 } else { 0.0 });
        let formula = link.seconds(size, dense, rows);
        let (seconds, received) = summed(size, link, n_dense, n_rows);
        println!("{size:>5}  {:>8.1}  {:>7.1}  {formula:>9.2}  {seconds:>10.2}", dense / 1e6, rows / 1e3);
        let others = (size - 1) as f64;
        assert_eq!(received as f64, 2.0 * others / size as f64 * dense + others * rows);
        // Sleeping takes at least that long, and copying on a busy machine some more.
        assert!((formula..3.0 * formula + 1.0).contains(&seconds), "{size} ranks: {seconds} s, not {formula} s");
    }
}

#[test]
fn the_table_of_the_guide_is_the_formula() {
    // GPT-2 124M in f32: 64 micro-batches of 1024 tokens a step, each of which takes a machine 5 seconds.
    const WEIGHTS: f64 = 4.0 * 124_439_808.0;
    const TABLE: f64 = 4.0 * 50257.0 * 768.0;
    const ROW: f64 = 4.0 * 768.0 + 8.0;
    const MICRO_BATCHES: f64 = 64.0;
    const SECONDS_OF_EACH: f64 = 5.0;
    let page = include_str!("../../src/guide/machines.md");
    for size in [2, 4, 8, 16, 32, 64] {
        let share = MICRO_BATCHES / size as f64;
        let seconds = [10.0, 25.0, 100.0].map(|gigabits| {
            let link = Link { latency: 50e-6, bytes_per_second: gigabits / 8.0 * 1e9 };
            let dense = link.seconds(size, WEIGHTS, 0.0);
            let rows = link.seconds(size, WEIGHTS - TABLE, share * 1024.0 * ROW);
            [dense, rows].map(|sum| (sum, share * SECONDS_OF_EACH + sum))
        });
        let cells = [0, 1].into_iter().flat_map(|kind| seconds.map(|seconds| seconds[kind]));
        let cells = cells.map(|(sum, step)| format!("{step:.2} ({sum:.2})")).collect::<Vec<_>>();
        let row = format!("| {size} | {} |", cells.join(" | "));
        println!("{row}");
        assert!(page.contains(&row), "not in the guide's page on machines: {row}");
    }
}
