//! Pretrains a GPT-2 of any size on any text files. A run can be watched, stopped, killed, and resumed to the bit.
//!
//! cargo run --release --example pretrain -- --out /tmp/genesis
//! cargo run --release --example pretrain -- --out /tmp/genesis --resume --steps 400
//! cargo run --release --example gpt2 -- --weights /tmp/genesis --prompt "In the beginning"
//!
//! `--out` holds the newest checkpoint (`step-N`), the loss as `loss.csv` and `loss.png`, and at the end the trained
//! model, which `gpt2`, `embed` and transformers open. Ctrl-C and SIGTERM end a run after the current step, with a
//! checkpoint. On one machine, the same settings give the same bits, however often a run was stopped or killed and
//! resumed.

mod chart;
mod checkpoint;
#[path = "../cli/mod.rs"]
mod cli;
mod hashes;
mod history;
mod initial;
mod lock;
#[allow(dead_code)] // it can also load checkpoints
#[path = "../gpt2/model.rs"]
mod model;
mod progress;
mod report;
mod run;
mod schedule;
mod settings;
mod texts;
mod trainer;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use candle_core::DType;
use candle_gpt_input::DeviceSpec;
use candle_gpt_input::error::Shown;
use candle_gpt_input::rng::Generator;
use checkpoint::Checkpoint;
use clap::parser::ValueSource;
use clap::{FromArgMatches, Parser};
use report::Report;
use run::Run;
use settings::Settings;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use trainer::{Trainer, training_loader, validation_loader};

/// The share of the text that is trained on; the rest is for evaluation.
const TRAINING_SHARE: f64 = 0.9;

/// Trains a GPT-2 from scratch on text files.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    settings: Settings,
    /// The folder of the checkpoint, the loss curve and the trained model
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/pretrain"))]
    out: PathBuf,
    /// Continue from the newest checkpoint in --out with its settings, or begin if there is none
    #[arg(long)]
    resume: bool,
    /// auto, cpu, cuda, cuda:N, metal or metal:N
    #[arg(long, default_value = "auto")]
    device: DeviceSpec,
    /// The dtype of the saved model: f32, f16 or bf16 (checkpoints are f32)
    #[arg(long, default_value = "f32", value_parser = cli::parse_dtype)]
    save_dtype: DType,
}

fn main() -> ExitCode {
    cli::settle_threads();
    let matches = cli::matches::<Args>();
    let is_given = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    cli::exit(pretrain(args, is_given, &mut std::io::stdout()))
}

fn pretrain(args: Args, is_given: impl Fn(&str) -> bool, out: &mut impl Write) -> Result<()> {
    let (device, chosen) = args.device.resolve_with_report()?;
    let mut settings = args.settings;
    for path in &mut settings.text_file {
        // The run may be resumed in another folder.
        *path = path.canonicalize().with_context(|| Shown::path(path).to_string())?;
    }
    let _lock = lock::lock(&args.out)?;
    let newest = Checkpoint::newest(&args.out)?;
    if let Some(path) = &newest {
        ensure!(args.resume, "{} already exists: add --resume, or choose another --out", Shown::path(path));
    }
    let checkpoint = newest.map(Checkpoint::open).transpose()?;
    if let Some(checkpoint) = &checkpoint {
        settings = Settings::resumed(&checkpoint.settings, &settings, is_given)?;
    }
    let stop = stop_on_signals()?;

    let (texts, tokens) = texts::read(&settings.text_file)?;
    let (training, validation) = tokens.split(TRAINING_SHARE)?;
    let _ = validation_loader(&validation, &settings, &device).context("the last tenth of the text, for evaluation")?;
    let generator = Generator::manual_seed(settings.seed);
    let trainer = Trainer::new(&settings, &generator, &device)?;
    let loader = training_loader(&training, &settings, &generator, &device)?;
    let n_parameters: usize = trainer.weights().iter().map(|(_, var)| var.elem_count()).sum();
    let mut report = Report::new(out);
    report.line(format_args!("{n_parameters} parameters, device {chosen}"));
    let (n_training, n_validation) = (training.n_tokens(), validation.n_tokens());
    report.line(format_args!(
        "{n_training} tokens, {} steps an epoch; {n_validation} for evaluation",
        loader.n_batches()
    ));

    let mut run = Run { out: args.out, settings, texts, trainer, loader, validation, records: Vec::new(), saved: None };
    if let Some(checkpoint) = checkpoint {
        let path = Shown::path(&checkpoint.path).to_string();
        checkpoint.check_texts(&run.texts)?;
        run = run.resumed(checkpoint).with_context(|| path.clone())?;
        report.line(format_args!("resumed from {path}"));
    }
    run.train(&stop, &mut report)?;
    run.draw()?; // a run that was killed may have left half a picture
    checkpoint::save_model(&run.out, &run.trainer, &run.settings, args.save_dtype)?;
    report.line(format_args!("wrote model.safetensors, loss.csv and loss.png to {}", Shown::path(&run.out)));
    report.end()
}

/// Returns a flag that Ctrl-C or SIGTERM sets; a second signal ends the program at once.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())?;
        flag::register(signal, stop.clone())?; // registered second, so that the other sees the flag as it was before
    }
    Ok(stop)
}
