//! Runs steps, evaluation and checkpoints, until the last step or a signal.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use candle_gpt_input::data::{Loader, Tokens};
use candle_gpt_input::error::Shown;

use crate::checkpoint::Checkpoint;
use crate::history::{self, Record};
use crate::progress::Progress;
use crate::report::Report;
use crate::settings::Settings;
use crate::texts::Texts;
use crate::trainer::Trainer;
use crate::{chart, checkpoint, schedule};

pub struct Run {
    pub out: PathBuf,
    pub settings: Settings,
    pub texts: Texts,
    pub trainer: Trainer,
    pub loader: Loader,
    pub validation: Tokens,
    pub records: Vec<Record>,
    /// The step of the newest checkpoint.
    pub saved: Option<u64>,
}

impl Run {
    /// Moves the run to where a checkpoint was taken.
    pub fn resumed(mut self, checkpoint: Checkpoint) -> Result<Self> {
        (self.loader, self.records) = checkpoint.load(&mut self.trainer, self.loader)?;
        self.saved = Some(self.step());
        Ok(self)
    }

    /// Returns how many steps were made.
    pub fn step(&self) -> u64 {
        self.records.last().map_or(0, |record| record.step)
    }

    /// Trains until the last step or until `stop`, and saves a checkpoint then, too.
    pub fn train(&mut self, stop: &AtomicBool, report: &mut Report<impl Write>) -> Result<()> {
        let settings = self.settings.clone();
        let Settings { steps, batch_size, max_length, eval_every, save_every, .. } = settings;
        let mut progress = Progress::new(self.step(), steps, batch_size * max_length);
        while self.step() < steps && !stop.load(Ordering::Relaxed) {
            for batch in self.loader.epoch() {
                let batch = batch?;
                let step = self.step() + 1;
                let learning_rate = schedule::learning_rate(&settings, step - 1);
                let start = Instant::now();
                let loss = self.trainer.step(&batch, learning_rate).with_context(|| format!("step {step}"))?;
                progress.step(step, loss, start.elapsed().as_secs_f64());
                let is_evaluated = step.is_multiple_of(eval_every) || step == steps;
                let validation_loss = is_evaluated.then(|| self.trainer.evaluate(&self.validation, &settings));
                let validation_loss = validation_loss.transpose().with_context(|| format!("step {step}"))?;
                let grad_norm = self.trainer.adamw.grad_norm();
                self.records.push(Record { step, learning_rate, loss, grad_norm, validation_loss });

                let is_last = step == steps || stop.load(Ordering::Relaxed);
                if is_last || step.is_multiple_of(save_every) {
                    self.save()?;
                    self.saved = Some(step);
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
        if self.step() < steps {
            report.line(format_args!("stopped after step {}: --resume goes on", self.step()));
        }
        Ok(())
    }

    fn save(&self) -> Result<()> {
        checkpoint::save(self).with_context(|| format!("saving step {}", self.step()))?;
        self.draw()
    }

    /// Writes the losses as a table and as a picture.
    pub fn draw(&self) -> Result<()> {
        let (table, picture) = (self.out.join("loss.csv"), self.out.join("loss.png"));
        std::fs::write(&table, history::to_csv(&self.records)).with_context(|| Shown::path(&table).to_string())?;
        chart::draw(&picture, &self.records).with_context(|| Shown::path(&picture).to_string())
    }
}
