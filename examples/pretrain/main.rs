//! Pretrains a GPT-2 of any size on any text files or corpora of token ids, or fine-tunes one. A run can be watched,
//! stopped, killed, and resumed to the bit.
//!
//! cargo run --release --example pretrain -- --out /tmp/genesis
//! cargo run --release --example pretrain -- --out /tmp/genesis --resume --steps 400
//! cargo run --release --example gpt2 -- --weights /tmp/genesis --prompt "In the beginning"
//! cargo run --release --example pretrain -- --out /tmp/blend --corpus web:3 --corpus books:1 --validation-corpus held
//! cargo run --release --example pretrain -- --out /tmp/tuned --init-from path/to/gpt2 --freeze wte,wpe --patience 3
//!
//! `--out` holds the newest checkpoint (`step-N`), the weights with the lowest validation loss (`best`), the loss as
//! `loss.csv` and `loss.png`, and at the end the trained model, which `gpt2`, `embed` and transformers open. Ctrl-C,
//! SIGTERM and the end of the terminal end a run after the current step, with a checkpoint. On one machine, the same
//! settings give the same bits, however often a run was stopped or killed and resumed.

mod chart;
mod checkpoint;
#[path = "../cli/mod.rs"]
mod cli;
#[path = "../corpora/mod.rs"]
mod corpora;
mod coverage;
mod feed;
mod freeze;
mod hashes;
mod history;
#[path = "../hub/mod.rs"]
mod hub;
mod initial;
#[allow(dead_code)] // it can also make batches of prompts
#[path = "../input/mod.rs"]
mod input;
mod job;
mod lock;
mod mean;
#[allow(dead_code)] // it can also generate
#[path = "../gpt2/model.rs"]
mod model;
#[path = "../input/own_files.rs"]
mod own_files;
mod progress;
mod report;
mod run;
mod schedule;
mod settings;
mod share;
mod signals;
mod start;
mod texts;
mod trainer;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Var};
use candle_gpt_input::DeviceSpec;
use candle_gpt_input::error::Shown;
use candle_gpt_input::ranks::{self, Ranks, agree};
use candle_gpt_input::rng::Generator;
use checkpoint::Checkpoint;
use clap::parser::ValueSource;
use clap::{FromArgMatches, Parser};
use feed::{Feed, Seen};
use history::Evaluations;
use report::Report;
use run::Run;
use settings::Settings;
use start::Start;
use texts::Texts;
use trainer::Trainer;

/// Trains a GPT-2 on text files or on corpora of token ids, from scratch or from a model that is there.
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
    /// Check all ids and the checksums of corpora before the first step
    #[arg(long)]
    verify: bool,
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
    cli::exit(start(args, is_given))
}

fn start(args: Args, is_given: impl Fn(&str) -> bool) -> Result<()> {
    let ranks = job::start()?;
    match ranks.rank() {
        0 => pretrain(args, is_given, &*ranks, &mut std::io::stdout()),
        _ => pretrain(args, is_given, &*ranks, &mut std::io::sink()),
    }
}

fn pretrain(args: Args, is_given: impl Fn(&str) -> bool, ranks: &dyn Ranks, out: &mut impl Write) -> Result<()> {
    let mut report = Report::new(out);
    let (save_dtype, stop) = (args.save_dtype, signals::stop()?);
    let mut run = agree(ranks, prepare(args, is_given, ranks, &mut report))?;
    ranks::same(ranks, "the settings", &serde_json::to_vec(&run.settings)?)?;
    let texts: Vec<&str> = run.texts.files.iter().map(|(_, line)| line.as_str()).collect();
    ranks::same(ranks, "the texts", texts.join("\n").as_bytes())?;
    job::same_weights(ranks, run.trainer.weights().values().map(Var::as_tensor))?;
    run.train(&stop, &mut report)?;
    job::first(ranks, || {
        run.draw()?; // a run that was killed may have saved a checkpoint alone
        checkpoint::save_model(&run.out, &run, save_dtype)
    })?;
    for Seen { corpus, coverage, .. } in run.feed.seen() {
        report.line(format_args!("{corpus}: {coverage}"));
    }
    report.line(format_args!("wrote model.safetensors, loss.csv and loss.png to {}", Shown::path(&run.out)));
    let best = run.out.join(run::BEST);
    // A run that began with an older version has none before there is a better one.
    if let Some((step, loss)) = run.evaluations.best.filter(|_| best.exists()) {
        report.line(format_args!("best: step {step}, validation loss {loss:.4}, in {}", Shown::path(&best)));
    }
    report.end()
}

/// Makes the run, or moves it to its newest checkpoint.
fn prepare<'a>(
    args: Args,
    is_given: impl Fn(&str) -> bool,
    ranks: &'a dyn Ranks,
    report: &mut Report<impl Write>,
) -> Result<Run<'a>> {
    let (device, chosen) = args.device.resolve_with_report()?;
    let mut settings = args.settings;
    settings.resolve()?;
    let lock = job::first(ranks, || lock::lock(&args.out).map(Some))?;
    let newest = job::first(ranks, || {
        let newest = Checkpoint::newest(&args.out)?;
        match &newest {
            Some(path) => {
                ensure!(args.resume, "{} already exists: add --resume, or choose another --out", Shown::path(path))
            }
            None => checkpoint::check_no_model(&args.out)?,
        }
        Ok(newest)
    })?;
    let newest = job::shared_path(ranks, newest)?;
    let checkpoint = newest.map(Checkpoint::open).transpose()?;

    if let Some(checkpoint) = &checkpoint {
        settings = Settings::resumed(&checkpoint.settings, &settings, &is_given)?;
    }
    let generator = Generator::manual_seed(settings.seed);
    let mut start;
    let mut begins_with = String::new();
    if let Some(checkpoint) = &checkpoint {
        start = Start::read(&checkpoint.path, None, &device)?;
    } else if let Some((weights, name)) = start::model(&settings)? {
        start = Start::read(&weights, settings.tokenizer.as_deref(), &device)?;
        (settings, start.config) = settings.of_model(start.config, is_given).with_context(|| name.clone())?;
        begins_with = format!("begins with {name}: ");
    } else {
        start = Start::fresh(&settings, &generator, &device)?;
    }
    let Start { varmap, config, tokenizer, tokenizer_files } = start;
    let texts = Texts::read(&settings, &tokenizer, config.vocab_size, args.verify)?;
    for part in &texts.validation {
        let evaluated_on = match (settings.validation_corpus.is_some(), settings.validation_file.is_empty()) {
            (true, _) => part.name.clone(),
            _ if !settings.corpus.is_empty() => format!("the last tenth of {}, for evaluation", part.name),
            (_, true) => "the last tenth of the text, for evaluation".to_string(),
            (_, false) => "the text of --validation-file".to_string(),
        };
        feed::check_validation(&part.tokens, &settings, &device).context(evaluated_on)?;
    }
    let trainer = Trainer::new(&varmap, &config, &settings, &generator, &device)?;
    let feed = Feed::new(&texts, &settings, &generator, &device, ranks)?;
    let n_parameters: usize = trainer.weights().values().map(|var| var.elem_count()).sum();
    if args.resume && checkpoint.is_none() {
        report.line(format_args!(
            "no checkpoint in {}: the run begins anew, with the options of this command",
            Shown::path(&args.out)
        ));
    }
    report.line(format_args!("{begins_with}{n_parameters} parameters, device {chosen}"));
    if let Settings { micro_batches: m @ 2.., batch_size, .. } = settings {
        let on_ranks = match ranks.size() {
            1 => String::new(),
            size => format!(", {} on each of {size} ranks", m / size),
        };
        report.line(format_args!("{m} micro-batches of {batch_size} windows a step{on_ranks}"));
    }
    let n_validation = texts.validation.iter().map(|part| part.tokens.n_tokens()).sum();
    feed.lines(n_validation).iter().for_each(|line| report.line(line));

    let (records, evaluations) = (Vec::new(), Evaluations::default());
    let (out, saved) = (args.out, None);
    let mut run = Run {
        out,
        settings,
        texts,
        config,
        tokenizer_files,
        trainer,
        feed,
        records,
        evaluations,
        saved,
        ranks,
        _lock: lock,
    };
    if let Some(checkpoint) = checkpoint {
        let path = Shown::path(&checkpoint.path).to_string();
        checkpoint.check_texts(&run.texts)?;
        run = run.resumed(checkpoint).with_context(|| path.clone())?;
        report.line(format_args!("resumed from {path}"));
    }
    Ok(run)
}
