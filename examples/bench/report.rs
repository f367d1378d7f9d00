//! Writes the file of `--report`: the device, whether it computes what the CPU does, and how fast.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use serde_json::Value;

use super::cases::copy_words;
use super::checks::{self, Check};
use candle_gpt_input::error::Shown;

/// V, P, C, B and T of the checks: rows of GPT-2's width, and of a width that no vector divides. Small enough for one
/// thread.
const SHAPES: [[usize; 5]; 2] = [[5000, 300, 768, 2, 64], [1000, 40, 131, 3, 17]];
const QUICK_SHAPES: [[usize; 5]; 2] = [[60, 12, 24, 2, 9], [50, 12, 7, 3, 5]];

/// The table's entry of one case: its row, or the error.
pub struct Timed {
    pub case: &'static str,
    pub shape: String,
    pub row: Result<Value>,
}

/// Runs the checks, measures the device's own copy, and writes the file. Fails if a check or a case failed.
pub fn write(path: &Path, machine: &str, device: &Device, timed: &[Timed], quick: bool) -> Result<String> {
    let shapes = if quick { &QUICK_SHAPES } else { &SHAPES };
    let checks = checks::all(device, shapes)?;
    let copy = copy_gb_per_second(device, quick);
    let mut text = format!("# candle-gpt-input {} on {}\n\n", env!("CARGO_PKG_VERSION"), name(device));
    let _ = writeln!(text, "| | |\n| --- | --- |");
    let command: Vec<String> = std::env::args().skip(1).collect();
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let host = [("host", machine.to_string()), ("build", build.to_string()), ("command", command.join(" "))];
    for (what, value) in about(device).into_iter().chain(host) {
        let _ = writeln!(text, "| {what} | {value} |");
    }
    table_of_checks(&mut text, &checks, device, shapes);
    table_of_times(&mut text, timed, copy);
    std::fs::write(path, &text).with_context(|| Shown::path(path).to_string())?;

    let n_failed = checks.iter().filter(|check| !check.is_passed()).count();
    let n_missing = timed.iter().filter(|timed| timed.row.is_err()).count();
    if n_failed + n_missing > 0 {
        bail!("{n_failed} of {} checks and {n_missing} cases failed, see {}", checks.len(), Shown::path(path));
    }
    Ok(format!("{}: {} checks passed, {} cases timed", Shown::path(path), checks.len(), timed.len()))
}

fn table_of_checks(text: &mut String, checks: &[Check], device: &Device, shapes: &[[usize; 5]]) {
    let against = if device.is_cpu() { "on all threads, against one" } else { "against the CPU on one thread" };
    let _ = writeln!(
        text,
        "\n## Checks\n\nEqual bit for bit unless it says otherwise, {against}; V, P, C, B, T: {shapes:?}."
    );
    let _ = write!(text, "\n| |");
    checks::DTYPES.iter().for_each(|dtype| _ = write!(text, " {} |", dtype.as_str()));
    let _ = writeln!(text, "\n| --- |{}", " --- |".repeat(checks::DTYPES.len()));
    for check in checks {
        let _ = write!(text, "| {} |", check.name);
        for outcome in &check.outcomes {
            let _ = match outcome {
                Ok(()) => write!(text, " yes |"),
                Err(error) => write!(text, " **no**: {} |", in_cell(error)),
            };
        }
        text.push('\n');
    }
}

fn table_of_times(text: &mut String, timed: &[Timed], copy: Result<f64>) {
    let _ = writeln!(text, "\n## Times\n");
    let copy = match copy {
        Ok(copy) => {
            let _ = writeln!(text, "A copy from memory to memory of the device reads and writes {copy:.1} GB/s.");
            Some(copy)
        }
        Err(error) => {
            let _ = writeln!(text, "No copy could be measured: {}.", in_cell(&error));
            None
        }
    };
    let _ = writeln!(
        text,
        "\n| case | B x T x C | ids | ours, ms | host ids, ms | deferred, ms | candle, ms | best of ours, GB/s | of the copy |"
    );
    let _ = writeln!(text, "|{}", " --- |".repeat(9));
    for Timed { case, shape, row } in timed {
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                let _ = writeln!(text, "| `{case}` | {shape} | | **failed**: {} | | | | | |", in_cell(error));
                continue;
            }
        };
        let number = |key: &str| row[key].as_f64();
        let milliseconds = |key: &str| number(key).map(|ms| format!("{ms:.5}")).unwrap_or_default();
        let ours = ["ours_ms", "ours_host_ids_ms", "ours_deferred_ms"];
        let best = ours.into_iter().filter_map(number).reduce(f64::min);
        let speed = number("n_bytes").zip(best).map(|(n_bytes, ms)| n_bytes / ms / 1e6);
        let share = speed.zip(copy).map(|(speed, copy)| format!("{:.3}", speed / copy)).unwrap_or_default();
        let speed = speed.map(|speed| format!("{speed:.2}")).unwrap_or_default();
        let ([ours, host_ids, deferred], candle) = (ours.map(milliseconds), milliseconds("candle_ms"));
        let ids = row["ids"].as_str().unwrap_or_default();
        let _ = writeln!(
            text,
            "| `{case}` | {shape} | {ids} | {ours} | {host_ids} | {deferred} | {candle} | {speed} | {share} |"
        );
    }
}

/// Formats an error and its causes for a table's cell.
fn in_cell(error: &anyhow::Error) -> String {
    super::cli::first_line(error).replace('|', "/")
}

/// Returns the GB that a plain copy of a tensor reads and writes per second.
fn copy_gb_per_second(device: &Device, quick: bool) -> Result<f64> {
    let n_words = if quick { 1 << 18 } else { 1 << 26 };
    let n_bytes = 2 * n_words * size_of::<u32>();
    let n_copies = 10;
    let mut rates = Vec::new();
    let from = vec![1u32; n_words];
    let mut to = Vec::with_capacity(if device.is_cpu() { n_words } else { 0 });
    let on_device = if device.is_cpu() { None } else { Some(Tensor::from_slice(&from, n_words, device)?) };
    // The first round warms up.
    for _ in 0..6 {
        device.synchronize()?;
        let start = Instant::now();
        for _ in 0..n_copies {
            match &on_device {
                Some(tensor) => drop(tensor.copy()?),
                None => {
                    copy_words(&mut to, &from);
                    std::hint::black_box(&to);
                }
            }
        }
        device.synchronize()?;
        rates.push((n_copies * n_bytes) as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    let mut rates = rates.split_off(1);
    rates.sort_by(f64::total_cmp);
    Ok(rates[rates.len() / 2])
}

fn name(device: &Device) -> String {
    let named = about(device).into_iter().find(|(what, _)| *what == "device");
    named.map_or_else(|| "the CPU".to_string(), |(_, name)| name)
}

/// Returns the properties of a device and their names.
fn about(device: &Device) -> Vec<(&'static str, String)> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => about_cuda(cuda),
        Device::Cpu => Vec::new(),
        other => vec![("device", format!("{:?}", other.location()))],
    }
}

#[cfg(feature = "cuda")]
fn about_cuda(device: &candle_core::CudaDevice) -> Vec<(&'static str, String)> {
    use candle_core::cuda_backend::cudarc::driver::{CudaContext, sys};
    use std::sync::Arc;

    let stream = device.cuda_stream();
    let context: &Arc<CudaContext> = stream.context();
    let unknown = || "unknown".to_string();
    let mut version = 0;
    // SAFETY: the function writes one integer, which outlives the call.
    let is_known = unsafe { sys::cuDriverGetVersion(&mut version) } == sys::CUresult::CUDA_SUCCESS;
    let cuda = if is_known { format!("{}.{}", version / 1000, version % 1000 / 10) } else { unknown() };
    // The kernel's module reports the driver's version; other systems (Windows) report only its CUDA version.
    let driver = std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    let driver = driver.and_then(|text| Some(text.lines().next()?.to_string())).unwrap_or_else(unknown);
    let capability =
        context.compute_capability().map_or_else(|_| unknown(), |(major, minor)| format!("{major}.{minor}"));
    let memory = context.total_mem().map_or_else(|_| unknown(), |n| format!("{:.1} GiB", n as f64 / (1 << 30) as f64));
    vec![
        ("device", context.name().unwrap_or_else(|_| unknown())),
        ("compute capability", capability),
        ("memory", memory),
        ("driver", driver),
        ("CUDA of the driver", cuda),
    ]
}
