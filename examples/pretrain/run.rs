//! Runs steps, evaluation and checkpoints, until the last step or a signal.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use candle_gpt_input::data::{Loader, Tokens};
use candle_gpt_input::error::Shown;

use crate::history::{self, Record};
use crate::progress::Progress;
use crate::settings::Settings;
use crate::trainer::Trainer;
use crate::{chart, checkpoint, schedule};

pub struct Run {
    pub out: PathBuf,
    pub settings: Settings,
    pub trainer: Trainer,
    pub loader: Loader,
    pub validation: Tokens,
    pub records: Vec<Record>,
}

impl Run {
    /// Moves the run to where a checkpoint was taken.
    pub fn resumed(mut self, path: &Path) -> Result<Self> {
        (self.loader, self.records) = checkpoint::load(path, &mut self.trainer, self.loader)?;
        Ok(self)
    }

    /// Trains until the last step or until `stop`, and saves a checkpoint then, too.
    pub fn train(&mut self, stop: &AtomicBool, out: &mut impl Write) -> Result<()> {
        let first = self.records.last().map_or(0, |record| record.step);
        let settings = self.settings.clone();
        let mut progress = Progress::new(first, settings.steps, settings.batch_size * settings.max_length);
        let mut step = first;
        while step < settings.steps && !stop.load(Ordering::Relaxed) {
            for batch in self.loader.epoch() {
                let batch = batch?;
                let learning_rate = schedule::learning_rate(&settings, step);
                let start = Instant::now();
                let loss = self.trainer.step(&batch, learning_rate).with_context(|| format!("step {}", step + 1))?;
                step += 1;
                progress.step(step, loss, start.elapsed().as_secs_f64());
                let mut record = Record {
                    step,
                    learning_rate,
                    loss,
                    grad_norm: self.trainer.adamw.grad_norm(),
                    validation_loss: None,
                };
                if step.is_multiple_of(settings.eval_every) || step == settings.steps {
                    let validation_loss = self.trainer.evaluate(&self.validation, &settings)?;
                    record.validation_loss = Some(validation_loss);
                    progress.around(|| {
                        writeln!(out, "step {step}: loss {loss:.4}, validation loss {validation_loss:.4}")
                    })?;
                }
                self.records.push(record);
                let is_last = step == settings.steps || stop.load(Ordering::Relaxed);
                if is_last || step.is_multiple_of(settings.save_every) {
                    self.save()?;
                }
                if is_last {
                    break;
                }
            }
        }
        if settings.steps == 0 {
            self.save()?;
        }
        writeln!(out, "{}", progress.finish())?;
        if step < settings.steps {
            writeln!(out, "stopped after step {step}: --resume goes on")?;
        }
        Ok(())
    }

    fn save(&self) -> Result<()> {
        checkpoint::save(&self.out, &self.trainer, &self.loader, &self.settings, &self.records)?;
        let (table, picture) = (self.out.join("loss.csv"), self.out.join("loss.png"));
        std::fs::write(&table, history::to_csv(&self.records)).with_context(|| Shown::path(&table).to_string())?;
        chart::draw(&picture, &self.records).with_context(|| Shown::path(&picture).to_string())
    }
}
