//! Memory that contenders leave behind, and their peak, each measured in a process of its own.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;

use super::cases::{self, Case, Inputs, Shape};

/// Starts this program again for one contender and returns its peak in MB, or `None` if the system does not report it.
pub fn ask(contender: &str, case: Case, shape: &Shape) -> Result<Option<f64>> {
    if !cfg!(target_os = "linux") {
        return Ok(None);
    }
    let done = Command::new(std::env::current_exe()?)
        .args(["--peak-of", contender, "--cases", case.name(), "--shapes", &shape.to_string()])
        .args(["--vocab-size", &shape.vocab_size.to_string(), "--ids", &shape.ids.to_string()])
        .output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(Some(String::from_utf8(done.stdout)?.trim().parse()?))
}

/// Runs the case twice and returns the peak of resident memory in MB, less what the process had before.
pub fn peak_of(contender: &str, shape: &Shape, case: Case, device: &Device) -> Result<f64> {
    let before = status("VmRSS")?;
    let inputs = Inputs::new(shape, device)?;
    let mut contender = match contender {
        "ours" => cases::ours(case, &inputs)?,
        "candle" => cases::candle(case, &inputs)?,
        other => bail!("no contender `{other}`"),
    };
    (contender.run)()?;
    Ok(status("VmHWM")? - before)
}

/// Returns freed memory, which the C library keeps, to the system.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the function takes any number.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Returns a field of the process's status in MB.
pub fn status(field: &str) -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find(|line| line.starts_with(field)).context("no such field")?;
    let kilobytes: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kilobytes / 1e3)
}
