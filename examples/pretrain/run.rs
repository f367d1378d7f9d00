//! Runs steps, evaluation and checkpoints, until the last step or a signal.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Var};
use candle_gpt_input::GptInputConfig;
use candle_gpt_input::checkpoint::write_file;
use candle_gpt_input::error::Shown;
use candle_gpt_input::ranks::{self, Ranks};

use crate::checkpoint::{COVERAGE, Checkpoint, HISTORY, PICTURE};
use crate::feed::Feed;
use crate::history::{self, Evaluations, Record};
use crate::progress::Progress;
use crate::report::Report;
use crate::settings::Settings;
use crate::texts::Texts;
use crate::trainer::Trainer;
use crate::{chart, checkpoint, job, schedule};

/// The folder of the weights with the lowest validation loss.
pub const BEST: &str = "best";

pub struct Run<'a> {
    pub out: PathBuf,
    pub settings: Settings,
    pub texts: Texts,
    pub config: GptInputConfig,
    pub tokenizer_files: Vec<(&'static str, Vec<u8>)>,
    pub trainer: Trainer,
    pub feed: Feed,
    pub records: Vec<Record>,
    pub evaluations: Evaluations,
    /// The step of the newest checkpoint.
    pub saved: Option<u64>,
    /// Rank 0 alone writes.
    pub ranks: &'a dyn Ranks,
    /// That of the folder, on rank 0, until the run ends.
    pub _lock: Option<File>,
}

impl Run<'_> {
    /// Moves the run to where a checkpoint was taken.
    pub fn resumed(mut self, checkpoint: Checkpoint) -> Result<Self> {
        (self.feed, self.records) = checkpoint.load(&mut self.trainer, self.feed)?;
        self.evaluations = Evaluations::of(&self.records);
        self.saved = Some(self.step());
        if self.ranks.rank() == 0 {
            checkpoint::tidy(&self.out, self.step())?; // perhaps nothing is left to save
        }
        if self.evaluations.best.is_some_and(|(step, _)| step == self.step()) {
            self.save_best()?; // it may have been killed before that
        }
        Ok(self)
    }

    /// Returns how many steps were made.
    pub fn step(&self) -> u64 {
        self.records.last().map_or(0, |record| record.step)
    }

    /// Returns whether there were as many evaluations without a better one as `--patience` allows.
    fn is_out_of_patience(&self) -> bool {
        self.settings.patience.is_some_and(|patience| self.evaluations.n_since >= patience)
    }

    /// Trains until the last step, until `stop`, or until patience is at an end, and saves a checkpoint then, too.
    pub fn train(&mut self, stop: &AtomicBool, report: &mut Report<impl Write>) -> Result<()> {
        let settings = self.settings.clone();
        let Settings { steps, batch_size, micro_batches, max_length, eval_every, save_every, .. } = settings;
        let mut progress = Progress::new(self.step(), steps, batch_size * micro_batches * max_length);
        let is_first = self.ranks.rank() == 0;
        // A signal that reaches one rank stops all of them after the same step.
        let is_stopped = |ranks: &dyn Ranks| ranks::any(ranks, stop.load(Ordering::Relaxed));
        let mut is_last = is_stopped(self.ranks)?;
        while self.step() < steps && !self.is_out_of_patience() && !is_last {
            for batch in self.feed.batches() {
                let step = self.step() + 1;
                let learning_rate = schedule::learning_rate(&settings, step - 1);
                let start = Instant::now();
                let ranks = self.ranks;
                let loss = self.trainer.step(batch, learning_rate, &settings, ranks);
                let Some(loss) = loss.with_context(|| format!("step {step}"))? else { continue };
                if is_first {
                    progress.step(step, loss, start.elapsed().as_secs_f64());
                }
                let is_evaluated = step.is_multiple_of(eval_every) || step == steps;
                let evaluate = || self.trainer.evaluate(&self.texts.validation, &settings, ranks);
                let validation_loss = is_evaluated.then(evaluate);
                let validation_loss = validation_loss.transpose().with_context(|| format!("step {step}"))?;
                let grad_norm = self.trainer.adamw.grad_norm();
                self.records.push(Record { step, learning_rate, loss, grad_norm, validation_loss });

                let is_best = validation_loss.is_some_and(|loss| self.evaluations.add(step, loss));
                is_last = step == steps || self.is_out_of_patience() || is_stopped(self.ranks)?;
                if is_last || is_best || step.is_multiple_of(save_every) {
                    self.save()?;
                    self.saved = Some(step);
                }
                if is_best {
                    // Its step is saved already: whatever is killed where, the best belongs to the history.
                    self.save_best()?;
                }
                // After saving: whoever reads this may be slow or gone.
                if let Some(validation_loss) = validation_loss {
                    let line = format!("step {step}: loss {loss:.4}, validation loss {validation_loss:.4}");
                    progress.around(|| report.line(line));
                }
                if is_last {
                    break;
                }
            }
        }
        if self.saved != Some(self.step()) {
            self.save()?; // of no step, or a signal came with the end of an epoch
        }
        report.line(progress.finish());
        let (step, n_since) = (self.step(), self.evaluations.n_since);
        if step < steps && self.is_out_of_patience() {
            report.line(format_args!(
                "stopped early after step {step}: {n_since} evaluations without a lower validation loss; --resume with \
                 a greater --patience goes on"
            ));
        } else if step < steps {
            report.line(format_args!("stopped after step {step}: --resume goes on"));
        }
        Ok(())
    }

    fn save(&self) -> Result<()> {
        job::same_weights(self.ranks, self.trainer.weights().values().map(Var::as_tensor))?;
        job::first(self.ranks, || {
            checkpoint::save(self).with_context(|| format!("saving step {}", self.step()))?;
            self.draw()
        })
    }

    fn save_best(&self) -> Result<()> {
        let folder = self.out.join(BEST);
        let save = || checkpoint::save_model(&folder, self, DType::F32);
        job::first(self.ranks, || save().with_context(|| Shown::path(&folder).to_string()))
    }

    /// Writes the losses as a table and, with what was seen of corpora, as a picture.
    pub fn draw(&self) -> Result<()> {
        let (table, picture) = (self.out.join(HISTORY), self.out.join(PICTURE));
        write_file(&table, |out| out.write_all(history::to_csv(&self.records).as_bytes()))?;
        let seen = self.feed.seen();
        if !seen.is_empty() {
            write_file(self.out.join(COVERAGE), |out| Ok(serde_json::to_writer_pretty(out, &seen)?))?;
        }
        chart::draw(&picture, &self.records, &seen)
    }
}
