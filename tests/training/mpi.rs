//! The laws of `ranks` with processes that `mpirun` starts: each test runs this binary again, once for each rank.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::Result;
use candle_gpt_input::optim::GradSum;
use candle_gpt_input::ranks::ferrompi::ReduceOp;
use candle_gpt_input::ranks::{self, Alone, Mpi, Parts, Ranks, share};

use crate::ranks::step;
use crate::vocab_parallel;

/// The variable that tells a rank its job.
const JOB: &str = "RANKS_JOB";

/// Runs a job on `size` ranks. The limit of `mpirun` is an error that its output names.
fn run(job: &str, size: usize) -> Output {
    let start = Instant::now();
    let output = Command::new("mpirun")
        .args(["--oversubscribe", "--timeout", "60", "-n", &size.to_string()])
        .arg(std::env::current_exe().unwrap())
        .args(["mpi::a_rank_does_its_job", "--exact", "--nocapture"])
        .env(JOB, job)
        .envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")])
        .output()
        .expect("`mpirun` of Open MPI is there: apt-get install openmpi-bin");
    assert!(start.elapsed() < Duration::from_secs(60), "{job} on {size} ranks hung: {output:?}");
    output
}

fn succeeds(job: &str) {
    for size in [1, 2, 4] {
        let output = run(job, size);
        assert!(output.status.success(), "{job} on {size} ranks: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Checks that a job ends with an error, and that every rank says `text`.
fn fails(job: &str, text: &str, n_times: usize) {
    let output = run(job, 2);
    assert!(!output.status.success(), "{job} succeeded");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches(text).count(), n_times, "{job}: {said}");
}

#[test]
fn a_rank_does_its_job() {
    let Ok(job) = std::env::var(JOB) else { return }; // a test of its own has nothing to do
    let ranks = Mpi::start().unwrap();
    let done = match job.as_str() {
        "law" => law(&ranks),
        "pieces" => pieces(&ranks),
        "sums" => sums(&ranks),
        "vocabulary" => vocabulary(&ranks),
        "agree" => ranks::agree(&ranks, if ranks.rank() == 1 { share(4, 3) } else { Ok(1) }).map(drop),
        "leave" if ranks.rank() == 1 => share(4, 3).map(drop),
        "panic" if ranks.rank() == 1 => panic!("a rank panics"),
        "kill" if ranks.rank() == 1 => std::process::abort(),
        "leave" | "panic" | "kill" => step(&ranks, 0..2, 4, DType::F32).map(drop),
        "mixed" if ranks.rank() == 1 => ranks::any(&ranks, true).map(drop),
        "mixed" => ranks.all_to_all(&Parts::from_iter(["", ""]), &mut Parts::default()),
        other => panic!("no job {other}"),
    };
    done.unwrap_or_else(|error| panic!("the error is: {error}"));
}

/// A step has the bits of one process.
fn law(ranks: &Mpi) -> Result<()> {
    for (micro_batches, dtype) in [(4u64, DType::F32), (8, DType::BF16), (4, DType::F64)] {
        let each = micro_batches / ranks.size() as u64;
        let first = ranks.rank() as u64 * each;
        let alone = step(&Alone, 0..micro_batches, 4, dtype)?;
        assert!(step(ranks, first..first + each, 4, dtype)? == alone, "{micro_batches} of {dtype:?}");
    }
    assert!(ranks::any(ranks, ranks.rank() + 1 == ranks.size())?);
    Ok(())
}

/// A table that is cut has the bits of the whole one.
fn vocabulary(ranks: &Mpi) -> Result<()> {
    [DType::F32, DType::BF16].into_iter().try_for_each(|dtype| vocab_parallel::law(ranks, 5, 16390, 3, dtype))
}

/// Parts of many lengths arrive, those that need several calls to the library included.
fn pieces(ranks: &Mpi) -> Result<()> {
    let part = |from: usize, to: usize, n: usize| -> Vec<u8> {
        let length = if from + to == 1 { n } else { n / 7 * (from + 2 * to) % 100 };
        (0..length).map(|i| (i % 251 + 3 * from + 5 * to) as u8).collect()
    };
    for n in [0, 1, 1000, 70 << 20] {
        let sent: Parts = (0..ranks.size()).map(|to| part(ranks.rank(), to, n)).collect();
        let mut received = Parts::default();
        ranks.all_to_all(&sent, &mut received)?;
        let expected: Parts = (0..ranks.size()).map(|from| part(from, ranks.rank(), n)).collect();
        assert!(received == expected, "{n}");
        let own = if ranks.rank() == 0 { part(0, 1, n) } else { vec![ranks.rank() as u8] };
        ranks.all_gather(&own, &mut received)?;
        let expected = (0..ranks.size()).map(|from| if from == 0 { part(0, 1, n) } else { vec![from as u8] });
        assert!(received == expected.collect(), "{n}");
    }
    Ok(())
}

/// A gradient of GPT-2's token table is summed as by `MPI_Allreduce`, to rounding. Prints the medians of `SUM_ROUNDS`
/// rounds in which they take turns.
fn sums(ranks: &Mpi) -> Result<()> {
    const SHAPE: (usize, usize) = (50257, 768);
    let n_rounds = std::env::var("SUM_ROUNDS").map_or(0, |n| n.parse().unwrap());
    let n = SHAPE.0 * SHAPE.1;
    let own: Vec<f32> = (0..n).map(|i| ((i * 7919 + ranks.rank() * 104_729) % 10_007) as f32 * 1e-3 - 5.0).collect();
    let (mut all, mut scratch) = (vec![0f32; n], vec![0f32; n]);
    let var = Var::zeros(SHAPE, DType::F32, &Device::Cpu)?;
    let world = ranks.communicator();
    let timed = |f: &mut dyn FnMut()| {
        world.barrier().unwrap();
        let start = Instant::now();
        f();
        world.barrier().unwrap();
        1e3 * start.elapsed().as_secs_f64()
    };
    // Of one micro-batch a rank the sum goes to new memory; of two, over the sum of both.
    let ordered = |n_micro: usize| -> Result<_> {
        let mut sum = GradSum::new(vec![var.clone()])?;
        for micro in 0..n_micro {
            let mut grads = GradStore::default();
            let grad = Tensor::from_slice(&own, SHAPE, &Device::Cpu)?;
            grads.insert(&var, if micro == 0 { grad } else { grad.zeros_like()? });
            sum.add(grads, Vec::new(), 0.0, usize::from(micro + ranks.rank() == 0))?; // divided by 1
        }
        let (mut sum, mut step) = (Some(sum), None);
        let time = timed(&mut || step = sum.take().map(|sum| sum.finish(ranks)));
        Ok((time, step.unwrap()?.grads.remove(&var).unwrap()))
    };
    let mut times: [Vec<f64>; 4] = Default::default();
    for round in 0..=n_rounds {
        let copied = timed(&mut || scratch.copy_from_slice(&own));
        let reduced = timed(&mut || world.allreduce(&own, &mut all, ReduceOp::Sum).unwrap());
        let (fresh, _) = ordered(1)?;
        let (in_place, sum) = ordered(2)?;
        let sum = sum.flatten_all()?.to_vec1::<f32>()?;
        let apart = sum.iter().zip(&all).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-5, "{apart} from MPI's sum");
        if round > 0 {
            times.iter_mut().zip([copied, reduced, fresh, in_place]).for_each(|(times, time)| times.push(time));
        }
    }
    if ranks.rank() == 0 && n_rounds > 0 {
        let [copied, reduced, fresh, in_place] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        println!(
            "{} ranks, {n_rounds} rounds: copy {copied:.0} ms, MPI_Allreduce {reduced:.0} ms, ordered sum {fresh:.0} ms, in \
             place {in_place:.0} ms: {:.2} and {:.2} of MPI's",
            ranks.size(),
            fresh / reduced,
            in_place / reduced,
        );
    }
    Ok(())
}

#[test]
fn sums_are_those_of_mpi_to_rounding() {
    for size in [2, 4] {
        let output = run("sums", size);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{size} ranks: {said}");
        said.lines().filter(|line| line.contains("MPI_Allreduce")).for_each(|line| println!("{line}"));
    }
}

#[test]
fn a_step_has_the_bits_of_one_process() {
    succeeds("law");
}

#[test]
fn a_table_that_is_cut_has_the_bits_of_the_whole_one() {
    succeeds("vocabulary");
}

#[test]
fn parts_longer_than_a_call_arrive_in_pieces() {
    succeeds("pieces");
}

#[test]
fn an_error_on_one_rank_is_said_by_each() {
    fails("agree", "4 micro-batches a step on 3 ranks: take 1, 2 or 4 ranks", 2);
}

#[test]
fn a_rank_that_ends_ends_the_job() {
    fails("leave", "the error is: rank 1 has ended", 1);
    fails("panic", "the error is: rank 1 has ended", 1);
    fails("mixed", "the error is: rank 1 made another collective call than rank 0", 2);
    fails("kill", "the error is", 0);
}
