//! Signals that end a run after its current step.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
#[cfg(unix)]
use signal_hook::consts::{SIGHUP, SIGUSR1};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Returns a flag that Ctrl-C, SIGTERM, SIGUSR1 or the end of the terminal sets. A second Ctrl-C or SIGTERM ends the
/// program at once.
pub fn stop() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let is_asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM].into_iter().filter(|&signal| !is_ignored(signal)) {
        flag::register_conditional_shutdown(signal, 128 + signal, is_asked.clone())?;
        flag::register(signal, is_asked.clone())?; // registered second, so that the other sees the flag as it was before
        flag::register(signal, stop.clone())?;
    }
    // A terminal that ends sends it twice: for the shell's jobs, and as the shell ends. Beside SIGTERM it may come first.
    // mpirun passes SIGUSR1 on at once; after SIGTERM it leaves its ranks a second.
    #[cfg(unix)]
    for signal in [SIGHUP, SIGUSR1].into_iter().filter(|&signal| !is_ignored(signal)) {
        flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

/// Returns whether whoever started the program said that it lives through this signal, as `nohup` does; known on Linux
/// only.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}
