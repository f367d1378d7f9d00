//! How every example ends: status 0, or 1 with one line on standard error.

use std::process::ExitCode;

/// The exit status of `result`; an error is printed, all its causes in one line.
pub fn exit(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // Whoever reads our output has seen enough of it (`| head`).
    if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    // Candle puts a backtrace behind the first line of its errors if RUST_BACKTRACE is set.
    let message = format!("{error:#}");
    eprintln!("error: {}", message.lines().next().unwrap_or_default());
    ExitCode::FAILURE
}
