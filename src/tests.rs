//! What the unit tests share with those in `tests/`: the seed of property tests, and the CUDA device or the word that there
//! is none.

use proptest::test_runner::{Config, RngSeed, contextualize_config};

/// The seed of property tests unless `PROPTEST_RNG_SEED` names another.
const SEED: u64 = 1;

/// Configures a property test of so many cases, all of which follow from one seed. A failure prints the seed, which is all
/// that is needed to meet its case again: none is written to a file.
pub fn properties(n_cases: u32) -> Config {
    let rng_seed = RngSeed::Fixed(SEED);
    let config = Config { cases: n_cases, rng_seed, failure_persistence: None, ..Config::default() };
    let config = contextualize_config(config);
    eprintln!("PROPTEST_RNG_SEED={} PROPTEST_CASES={}", config.rng_seed, config.cases); // shown if the test fails
    config
}

/// The first CUDA device. Without one the test fails, or, told `ALLOW_NO_GPU=1`, is reported as skipped there.
#[cfg(feature = "cuda")]
pub fn cuda() -> Option<candle_core::Device> {
    match candle_core::Device::new_cuda(0) {
        Ok(device) => Some(device),
        Err(error) => {
            let allowed = std::env::var("ALLOW_NO_GPU").is_ok_and(|value| value == "1");
            assert!(allowed, "no CUDA device ({error}); set ALLOW_NO_GPU=1 to skip what needs one");
            skipped("on CUDA, for there is no device");
            None
        }
    }
}

/// Reports that the running test is left out in part or whole, and how many were so far, where the harness captures nothing.
#[cfg(feature = "cuda")]
pub fn skipped(what: &str) {
    use std::io::Write;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static N_SKIPPED: AtomicUsize = AtomicUsize::new(0);
    let n_skipped = N_SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let thread = std::thread::current();
    writeln!(std::io::stderr(), "skipped {what}: {} ({n_skipped} so far)", thread.name().unwrap_or("a test")).unwrap();
}
