//! Shared by the unit tests and those in `tests/`: the seed of property tests, and the CUDA device or a report that
//! there is none.

use proptest::test_runner::{Config, RngSeed, contextualize_config};

/// The seed of property tests, unless `PROPTEST_RNG_SEED` sets another.
const SEED: u64 = 1;

/// Configures a property test of `n_cases` cases, all of which follow from one seed.
///
/// A failure prints the seed, which is enough to reproduce its case; no file is written.
pub fn properties(n_cases: u32) -> Config {
    let rng_seed = RngSeed::Fixed(SEED);
    let config = Config { cases: n_cases, rng_seed, failure_persistence: None, ..Config::default() };
    let config = contextualize_config(config);
    eprintln!("PROPTEST_RNG_SEED={} PROPTEST_CASES={}", config.rng_seed, config.cases); // shown if the test fails
    config
}

/// Returns the first CUDA device. Without one the test fails, or with `ALLOW_NO_GPU=1` is reported as skipped.
#[cfg(feature = "cuda")]
pub fn cuda() -> Option<candle_core::Device> {
    match candle_core::Device::new_cuda(0) {
        Ok(device) => Some(device),
        Err(error) => {
            let allowed = std::env::var("ALLOW_NO_GPU").is_ok_and(|value| value == "1");
            assert!(allowed, "no CUDA device ({error}): set ALLOW_NO_GPU=1 to skip the tests that need one");
            skipped("on CUDA, as there is no device");
            None
        }
    }
}

/// Reports that the running test is skipped in part or whole, and how many were so far, past the harness' capture.
#[allow(dead_code)] // where all that a test needs is there
pub fn skipped(what: &str) {
    use std::io::Write;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static N_SKIPPED: AtomicUsize = AtomicUsize::new(0);
    let n_skipped = N_SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let thread = std::thread::current();
    let mut past_capture = std::io::stderr();
    writeln!(past_capture, "skipped {what}: {} ({n_skipped} so far)", thread.name().unwrap_or("a test")).unwrap();
}
