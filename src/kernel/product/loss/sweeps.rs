//! The two sweeps over the blocks of the vocabulary that a chunk of rows takes.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::exchange::{Exchange, Score};
use super::job::Job;
use super::parts::Counted;
use crate::error::Result;
use crate::kernel::core::parallel::{each_in_parallel, map_in_parallel};
use crate::kernel::product::matmul::{Matrix, Update, matmul};
use crate::kernel::product::real::Real;

/// Where the second sweep writes.
pub(super) struct Partials<'a, T> {
    /// The groups' shares of the hidden states' gradient, `[groups, rows, C]`.
    pub(super) hidden: Option<&'a mut [T]>,
    /// The table's gradient, which is written or added to.
    pub(super) table: Option<&'a mut [T]>,
    /// The bias's gradient, which is added to.
    pub(super) bias: Option<&'a mut [T]>,
}

/// Rows that are computed together, after the first sweep.
pub(super) struct Chunk<'a, T> {
    job: &'a Job<'a, T>,
    counted: &'a [Counted],
    /// `[rows, C]`
    rows: Vec<T>,
    /// Of all blocks, `[blocks, rows]`.
    scores: Vec<Score<T>>,
    totals: Vec<Total>,
}

/// A row's logits in all blocks.
#[derive(Clone, Copy)]
struct Total {
    loss: f64,
    /// The largest logit.
    max: f64,
    /// Of `exp(logit - max)`.
    sum: f64,
    /// 1 - p[target].
    others: f64,
}

/// A group's share of the second sweep.
struct Group<'a, T> {
    index: usize,
    exps: &'a [T],
    hidden_grad: Option<&'a mut [T]>,
    table_grad: Option<&'a mut [T]>,
    bias_grad: Option<&'a mut [T]>,
}

/// A block's own buffers.
#[derive(Default)]
struct Scratch<T> {
    table: Vec<T>,
    product: Vec<T>,
}

/// Buffers that no block uses at the moment: as many as threads have been at work.
struct Spare<T>(Mutex<Vec<Scratch<T>>>);

impl<T: Default> Spare<T> {
    fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    fn lend(&self, f: impl FnOnce(&mut Scratch<T>)) {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = lock().pop().unwrap_or_default();
        f(&mut scratch);
        lock().push(scratch);
    }
}

impl<'a, T: Real> Chunk<'a, T> {
    /// Runs the first sweep over the blocks of the job. `exps` `[blocks, rows, block]` keeps the exponentials; `at`
    /// says which of the rows that count the chunk has.
    pub(super) fn new(
        job: &'a Job<'a, T>,
        at: Range<usize>,
        others: &dyn Exchange<T>,
        exps: Option<&mut [T]>,
    ) -> Result<Self> {
        let (n_rows, blocks, own) = (at.len(), job.blocks(), job.own_blocks());
        let (counted, rows) = (&job.counted[at.clone()], others.rows(job, &at)?);
        let mut chunk = Self { job, counted, rows, scores: Vec::new(), totals: Vec::new() };
        let empty = Score { max: T::ZERO, sum: 0.0, target: T::ZERO };
        let mut scores = vec![empty; own.len() * n_rows];
        let (spare, n) = (Spare::new(), blocks.len * n_rows);
        match exps {
            Some(exps) => {
                each_in_parallel(scores.chunks_mut(n_rows).zip(exps.chunks_mut(n)), &|index, (scores, exps)| {
                    spare.lend(|scratch| chunk.score(own.start + index, &mut scratch.table, exps, scores));
                })
            }
            None => each_in_parallel(scores.chunks_mut(n_rows), &|index, scores| {
                spare.lend(|scratch| {
                    scratch.product.resize(n, T::ZERO);
                    chunk.score(own.start + index, &mut scratch.table, &mut scratch.product, scores);
                });
            }),
        }
        chunk.scores = others.scores(job, &at, scores)?;
        chunk.totals = map_in_parallel(n_rows, &|row| chunk.total(row));
        Ok(chunk)
    }

    pub(super) fn loss(&self) -> f64 {
        self.losses().zip(self.counted).map(|(loss, counted)| loss * counted.weight).sum()
    }

    /// Returns the losses of the rows, without factors.
    pub(super) fn losses(&self) -> impl Iterator<Item = f64> {
        self.totals.iter().map(|total| total.loss)
    }

    /// Runs one block of the first sweep.
    fn score(&self, index: usize, table: &mut Vec<T>, exps: &mut [T], scores: &mut [Score<T>]) {
        let (first, n, table) = self.job.block(index, table);
        let c = self.job.n_embd;
        let rows = Matrix::new(&self.rows, self.counted.len(), c);
        matmul(exps, Update::Overwrite, rows, Matrix::new(table, n, c).t());
        let infinity = T::from_f64(f64::NEG_INFINITY);
        for ((row, counted), score) in exps.chunks_mut(n).zip(self.counted).zip(scores) {
            if let Some(bias) = self.job.bias {
                T::add_scaled(row, T::ONE, &bias[first - self.job.own_rows().start..][..n]);
            }
            if (first..first + n).contains(&counted.target) {
                score.target = std::mem::replace(&mut row[counted.target - first], infinity);
            }
            score.max = T::row_max(row);
            // -∞ - -∞ would be NaN.
            let shift = if score.max == infinity { T::ZERO } else { score.max };
            score.sum = T::exp_row(row, shift);
        }
    }

    fn total(&self, row: usize) -> Total {
        let n_rows = self.counted.len();
        let of_row = || self.scores[row..].iter().step_by(n_rows);
        let target_block = self.counted[row].target / self.job.blocks().len;
        let target: f64 = self.scores[target_block * n_rows + row].target.to_f64();
        let max: f64 = of_row().fold(target, |max, score| max.max(score.max.to_f64()));
        let others: f64 = of_row().map(|score| score.sum * (score.max.to_f64() - max).exp()).sum();
        let sum = others + (target - max).exp();
        // If the target is nearly certain, `sum` is too near 1 to tell how nearly.
        let loss = if target == max { others.ln_1p() } else { max - target + sum.ln() };
        Total { loss, max, sum, others: others / sum }
    }

    /// Runs the second sweep: writes the shares of the hidden states' gradient, and writes or adds to the others.
    pub(super) fn gradients(&self, exps: &[T], to: Partials<'_, T>, update: Update) {
        let (n_rows, c, blocks) = (self.counted.len(), self.job.n_embd, self.job.blocks());
        let group_len = blocks.per_group * blocks.len;
        let mut hidden = to.hidden.map(|grad| grad.chunks_mut(n_rows * c));
        let mut table = to.table.map(|grad| grad.chunks_mut(group_len * c));
        let mut bias = to.bias.map(|grad| grad.chunks_mut(group_len));
        let exps = exps.chunks(group_len * n_rows).take(self.job.groups.len());
        let share = |(index, exps)| Group {
            index: self.job.groups.start + index,
            exps,
            hidden_grad: hidden.as_mut().and_then(Iterator::next),
            table_grad: table.as_mut().and_then(Iterator::next),
            bias_grad: bias.as_mut().and_then(Iterator::next),
        };
        let groups: Vec<_> = exps.enumerate().map(share).collect();
        let spare = Spare::new();
        each_in_parallel(groups.into_iter(), &|_, group| spare.lend(|scratch| self.group(group, scratch, update)));
    }

    /// Runs one group of the second sweep.
    fn group(&self, group: Group<'_, T>, scratch: &mut Scratch<T>, update: Update) {
        let (n_rows, c, blocks, scale) = (self.counted.len(), self.job.n_embd, self.job.blocks(), self.job.scale);
        let Group { index, exps, mut hidden_grad, mut table_grad, mut bias_grad } = group;
        scratch.product.resize(n_rows * c, T::ZERO);
        for (i, exps) in exps.chunks(blocks.len * n_rows).enumerate() {
            let index = index * blocks.per_group + i;
            if index == blocks.count {
                break; // the buffer of the last group may be longer than the group
            }
            let (first, n, table) = self.job.block(index, &mut scratch.table);
            let exps = Matrix::new(exps, n_rows, n);
            let targets = || {
                let rows = self.counted.iter().zip(&self.totals).enumerate();
                rows.filter(|(_, (counted, _))| (first..first + n).contains(&counted.target)).map(
                    |(row, (counted, total))| {
                        (row, counted.target - first, T::from_f64(-total.others * scale * counted.weight))
                    },
                )
            };
            // From exponentials to probabilities, times `scale`; 0 where the block is negligible for the row.
            let factors = self.scores[index * n_rows..][..n_rows].iter().zip(&self.totals).zip(self.counted).map(
                |((score, total), counted)| {
                    T::from_f64((score.max.to_f64() - total.max).exp() * scale * counted.weight / total.sum)
                },
            );
            if let Some(grad) = &mut bias_grad {
                let grad = &mut grad[i * blocks.len..][..n];
                exps.rows().zip(factors.clone()).for_each(|(row, factor)| T::add_scaled(grad, factor, row));
                targets().for_each(|(_, target, factor)| grad[target] += factor);
            }
            if let Some(grad) = &mut table_grad {
                let grad = &mut grad[i * blocks.len * c..][..n * c];
                for ((out, row), factor) in scratch.product.chunks_mut(c).zip(self.rows.chunks(c)).zip(factors.clone())
                {
                    T::set_scaled(out, factor, row);
                }
                matmul(grad, update, exps.t(), Matrix::new(&scratch.product, n_rows, c));
                for (row, target, factor) in targets() {
                    T::add_scaled(&mut grad[target * c..][..c], factor, &self.rows[row * c..][..c]);
                }
            }
            if let Some(grad) = &mut hidden_grad {
                matmul(&mut scratch.product, Update::Overwrite, exps, Matrix::new(table, n, c));
                for ((out, row), factor) in grad.chunks_mut(c).zip(scratch.product.chunks(c)).zip(factors) {
                    match i {
                        0 => T::set_scaled(out, factor, row),
                        _ => T::add_scaled(out, factor, row),
                    }
                }
                for (row, target, factor) in targets() {
                    T::add_scaled(&mut grad[row * c..][..c], factor, &table[target * c..][..c]);
                }
            }
        }
    }
}
