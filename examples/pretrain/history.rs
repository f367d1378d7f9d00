//! The record of each step, as a table.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_gpt_input::error::Shown;

const HEADER: &str = "step,learning_rate,loss,grad_norm,validation_loss";

/// One step of the optimizer.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// From 1.
    pub step: u64,
    pub learning_rate: f64,
    /// Of the batch, before the step.
    pub loss: f32,
    /// Before clipping; `None` without clipping.
    pub grad_norm: Option<f64>,
    /// After the step, if the model was evaluated.
    pub validation_loss: Option<f32>,
}

/// How the evaluations of a run went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluations {
    /// The first step with the lowest validation loss, and that loss.
    pub best: Option<(u64, f32)>,
    /// How many came after it.
    pub n_since: u64,
}

impl Evaluations {
    pub fn of(records: &[Record]) -> Self {
        let mut evaluations = Self::default();
        for record in records {
            record.validation_loss.map(|loss| evaluations.add(record.step, loss));
        }
        evaluations
    }

    /// Adds one, and returns whether it is the best so far.
    pub fn add(&mut self, step: u64, loss: f32) -> bool {
        let is_best = self.best.is_none_or(|(_, lowest)| loss < lowest);
        (self.best, self.n_since) = if is_best { (Some((step, loss)), 0) } else { (self.best, self.n_since + 1) };
        is_best
    }
}

/// Writes CSV; values read back to the same bits.
pub fn to_csv(records: &[Record]) -> String {
    let mut csv = format!("{HEADER}\n");
    for Record { step, learning_rate, loss, grad_norm, validation_loss } in records {
        let (grad_norm, validation_loss) = (optional(grad_norm), optional(validation_loss));
        // Writing to a String cannot fail.
        let _ = writeln!(csv, "{step},{learning_rate},{loss},{grad_norm},{validation_loss}");
    }
    csv
}

fn optional(value: &Option<impl ToString>) -> String {
    value.as_ref().map_or_else(String::new, ToString::to_string)
}

/// Reads what [`to_csv`] wrote.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text = std::fs::read_to_string(path).with_context(|| Shown::path(path).to_string())?;
    let mut lines = text.lines();
    ensure!(lines.next() == Some(HEADER), "{}: not a history of steps", Shown::path(path));
    lines.map(|line| record(line).with_context(|| format!("{}: `{line}`", Shown::path(path)))).collect()
}

fn record(line: &str) -> Result<Record> {
    let columns: Vec<&str> = line.split(',').collect();
    let [step, learning_rate, loss, grad_norm, validation_loss] = columns[..] else {
        anyhow::bail!("not five columns");
    };
    Ok(Record {
        step: step.parse()?,
        learning_rate: learning_rate.parse()?,
        loss: loss.parse()?,
        grad_norm: if grad_norm.is_empty() { None } else { Some(grad_norm.parse()?) },
        validation_loss: if validation_loss.is_empty() { None } else { Some(validation_loss.parse()?) },
    })
}
