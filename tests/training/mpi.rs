//! The laws of `ranks` with processes that `mpirun` starts: each test runs this binary again, once for each rank.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use candle_core::DType;
use candle_gpt_input::Result;
use candle_gpt_input::ranks::{self, Alone, Mpi, Parts, Ranks, share};

use crate::ranks::step;

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

#[test]
fn a_step_has_the_bits_of_one_process() {
    succeeds("law");
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
