//! Shared by all examples: the exit status, dtype arguments, and how tensors are printed.

#![allow(dead_code)] // each example uses its own part

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use candle_core::{DType, Tensor};
use candle_gpt_input::GptInputConfig;
use candle_gpt_input::checkpoint::{Checkpoint, CheckpointOptions, ConfigSource};
use candle_gpt_input::error::Shown;
use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches};

/// Sets how many threads Candle uses, where the environment does not. Call it before anything else.
///
/// Without RAYON_NUM_THREADS Candle reads /proc/cpuinfo for every matrix product; setting it to the same count avoids
/// that. Candle also keeps threads of its own for additions and the like. They wait in busy loops and take cores from
/// rayon's threads, which compute everything large here; CANDLE_NUM_THREADS=1 leaves them out.
pub fn settle_threads() {
    for (name, n_threads) in [("RAYON_NUM_THREADS", candle_core::utils::get_num_threads()), ("CANDLE_NUM_THREADS", 1)] {
        if std::env::var_os(name).is_none() {
            // SAFETY: `main` calls this first, when no other thread exists that could read the environment.
            unsafe { std::env::set_var(name, n_threads.to_string()) };
        }
    }
}

/// Returns the exit status of `result`, and prints an error with all its causes in one line.
pub fn exit(result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // The reader of our output has closed the pipe (`| head`).
    if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    note(format_args!("error: {}", first_line(&error)));
    ExitCode::FAILURE
}

/// Standard output, for an example that also writes files. Once its reader has closed the pipe (`| head`), lines are
/// dropped, and the files are still written.
#[derive(Default)]
pub struct Output {
    is_closed: bool,
}

impl Output {
    fn unless_closed<T>(&mut self, dropped: T, result: std::io::Result<T>) -> std::io::Result<T> {
        self.is_closed |= result.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe);
        if self.is_closed { Ok(dropped) } else { result }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = if self.is_closed { Ok(0) } else { std::io::stdout().write(bytes) };
        self.unless_closed(bytes.len(), written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let flushed = if self.is_closed { Ok(()) } else { std::io::stdout().flush() };
        self.unless_closed((), flushed)
    }
}

/// Writes a line to standard error. If that is closed or full, the line is lost: no run ends for a message.
pub fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Returns an error with all its causes in one line. With RUST_BACKTRACE, Candle puts a backtrace behind the first
/// line. Texts of this crate are one line without control characters, and others are made so here.
pub fn first_line(error: &anyhow::Error) -> String {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    // A path that its cause begins with is not said twice.
    let is_said_next = |i: usize| {
        let rest = causes.get(i + 1).and_then(|next| next.strip_prefix(&causes[i]));
        rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    };
    let said: Vec<&str> = (0..causes.len()).filter(|&i| !is_said_next(i)).map(|i| &causes[i][..]).collect();
    let text = said.join(": ");
    Shown::text(text.lines().next().unwrap_or_default()).to_string()
}

/// Reads the command line.
pub fn args<A: CommandFactory + FromArgMatches>() -> A {
    A::from_arg_matches(&matches::<A>()).unwrap_or_else(|error| error.exit())
}

/// Reads the command line, on which numbers may be negative: what is no option then has its own range to say so.
pub fn matches<A: CommandFactory>() -> ArgMatches {
    let takes_value = |arg: &Arg| arg.get_action().takes_values() && !arg.is_allow_hyphen_values_set();
    let command = A::command().mut_args(|arg| if takes_value(&arg) { arg.allow_negative_numbers(true) } else { arg });
    command.try_get_matches().unwrap_or_else(|error| {
        let text = error.render().to_string();
        if text.lines().all(|line| Shown::text(line).to_string() == line) {
            error.exit();
        }
        // Names from a folder may be on the command line.
        text.lines().for_each(|line| note(Shown::text(line)));
        std::process::exit(2)
    })
}

/// Parses a count.
pub fn count<N: TryFrom<u64>>(text: &str) -> Result<N, String> {
    let number = text.parse::<u64>().ok().and_then(|number| N::try_from(number).ok());
    number.ok_or_else(|| "use a whole number of at least 0, below 2^64".to_string())
}

/// Parses a count of at least 1.
pub fn at_least_1<N: TryFrom<u64>>(text: &str) -> Result<N, String> {
    count::<u64>(text)
        .ok()
        .filter(|&number| number > 0)
        .and_then(|number| N::try_from(number).ok())
        .ok_or_else(|| "use a whole number of at least 1, below 2^64".to_string())
}

/// Parses a seed as torch.manual_seed does: a negative one stands for 2^64 more.
pub fn seed(text: &str) -> Result<u64, String> {
    let seed = text.parse::<u64>().or_else(|_| text.parse::<i64>().map(i64::cast_unsigned));
    seed.map_err(|_| "use a whole number from -2^63 to 2^64 - 1".to_string())
}

/// Returns two hexadecimal digits for each byte.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a text file. A byte order mark at its front is kept, and said on standard error.
pub fn read_text(path: &Path) -> Result<String> {
    let text = candle_gpt_input::data::read_text(path)?;
    if text.starts_with('\u{feff}') {
        let path = Shown::path(path);
        note(format_args!("warning: {path} begins with a byte order mark, which becomes tokens of its own"));
    }
    Ok(text)
}

/// Says which number of heads is assumed where nothing states it: another number gives other logits.
pub fn note_heads(checkpoint: &Checkpoint) -> Result<()> {
    let GptInputConfig { n_layer, n_head, n_embd, .. } = checkpoint.config()?;
    if n_layer > 0 && checkpoint.config_source() == ConfigSource::Shapes {
        let d = n_embd / n_head;
        note(format_args!(
            "note: no config.json states n_head: {n_head} of {d} dimensions are assumed; put the model's config.json \
             beside the weights"
        ));
    }
    Ok(())
}

/// What a checkpoint's files leave open.
#[derive(clap::Args)]
pub struct Choose {
    /// The prefix of the tables' names where there are several: `ema` for ema.wte.weight
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// The whole name of the token table
    #[arg(long, value_name = "NAME")]
    wte: Option<String>,
    /// The whole name of the learned position table
    #[arg(long, value_name = "NAME")]
    wpe: Option<String>,
    /// The row of the position table that is position 0, where its first rows are for padding
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    first_position_row: Option<usize>,
    /// The state dict to read from a PyTorch file: its keys, joined by dots
    #[arg(long, value_name = "KEY")]
    state_dict: Option<String>,
}

impl Choose {
    pub fn options(&self) -> CheckpointOptions {
        let mut options = CheckpointOptions::default();
        options.prefix = self.prefix.clone();
        options.wte = self.wte.clone();
        options.wpe = self.wpe.clone();
        options.first_position_row = self.first_position_row;
        options.state_dict = self.state_dict.clone();
        options
    }
}

/// Parses the dtype called `f32`, `f16` or `bf16`.
pub fn parse_dtype(text: &str) -> Result<DType, String> {
    match text {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err("use f32, f16 or bf16".to_string()),
    }
}

/// Formats a vector or a matrix as PyTorch's `print(tensor)` does.
pub fn tensor(tensor: &Tensor) -> Result<String> {
    let flat = tensor.flatten_all()?;
    let numbers: Vec<String> = if tensor.dtype().is_float() {
        floats(&flat.to_dtype(DType::F64)?.to_vec1()?)
    } else {
        flat.to_dtype(DType::I64)?.to_vec1::<i64>()?.iter().map(i64::to_string).collect()
    };
    let width = numbers.iter().map(String::len).max().unwrap_or(0);
    let numbers: Vec<String> = numbers.into_iter().map(|number| format!("{number:>width$}")).collect();
    Ok(match *tensor.dims() {
        [_] => format!("tensor([{}])", numbers.join(", ")),
        [_, n] => {
            let rows: Vec<String> = numbers.chunks(n.max(1)).map(|row| format!("[{}]", row.join(", "))).collect();
            format!("tensor([{}])", rows.join(",\n        "))
        }
        _ => bail!("only vectors and matrices are printed, not {:?}", tensor.dims()),
    })
}

/// Formats elements by PyTorch's rules (`torch/_tensor_str.py`): whole ones as `2.`, a wide range in scientific
/// notation, others with four decimals.
fn floats(values: &[f64]) -> Vec<String> {
    let sizes: Vec<f64> = values.iter().filter(|x| x.is_finite() && **x != 0.0).map(|x| x.abs()).collect();
    let (largest, smallest) = sizes.iter().fold((0f64, f64::MAX), |(high, low), &x| (high.max(x), low.min(x)));
    let whole = sizes.iter().all(|x| x.fract() == 0.0);
    let scientific = !sizes.is_empty() && (largest / smallest > 1000.0 || largest > 1e8 || (!whole && smallest < 1e-4));
    let print = |&x: &f64| {
        if scientific {
            let text = format!("{x:.4e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        } else if whole {
            format!("{x:.0}.")
        } else {
            format!("{x:.4}")
        }
    };
    values.iter().map(print).collect()
}
