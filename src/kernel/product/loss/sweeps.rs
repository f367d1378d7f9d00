//! The two sweeps over the blocks of the vocabulary that a chunk of rows takes.

use candle_core::WithDType;
use rayon::prelude::*;

use super::job::Job;
use super::matmul::{Matrix, Update, matmul};
use super::parts::Counted;
use super::real::Real;
use crate::kernel::core::element::Element;

/// Where the second sweep writes: the groups' shares of the hidden states' gradient `[groups, rows, C]`, and the table's
/// gradient.
pub(super) type Partials<'a, T> = (Option<&'a mut [T]>, Option<&'a mut [T]>);

/// Rows that are worked on together, after the first sweep.
pub(super) struct Chunk<'a, S: Element<Wide: Real>> {
    job: &'a Job<'a, S>,
    counted: &'a [Counted],
    /// `[rows, C]`
    rows: Vec<S::Wide>,
    /// `[blocks, rows]`
    scores: Vec<Score<S::Wide>>,
    totals: Vec<Total>,
}

/// A row's logits in one block.
#[derive(Clone, Copy)]
struct Score<T> {
    /// Without the target, as is `sum`.
    max: T,
    /// Of `exp(logit - max)`.
    sum: f64,
    /// The target's logit, where the block holds it.
    target: T,
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
}

/// A thread's own buffers, reused from block to block.
struct Scratch<T> {
    table: Vec<T>,
    product: Vec<T>,
}

impl<T> Scratch<T> {
    fn new() -> Self {
        Self { table: Vec::new(), product: Vec::new() }
    }
}

impl<'a, S: Element<Wide: Real>> Chunk<'a, S> {
    /// The first sweep over the blocks. `exps` `[blocks, rows, block]` keeps the exponentials.
    pub(super) fn new(
        job: &'a Job<'a, S>,
        counted: &'a [Counted],
        rows: Vec<S::Wide>,
        exps: Option<&mut [S::Wide]>,
    ) -> Self {
        let (n_rows, blocks) = (counted.len(), job.blocks());
        let mut chunk = Self { job, counted, rows, scores: Vec::new(), totals: Vec::new() };
        let empty = Score { max: S::Wide::ZERO, sum: 0.0, target: S::Wide::ZERO };
        let mut scores = vec![empty; blocks.count * n_rows];
        let by_block = scores.par_chunks_mut(n_rows).enumerate();
        match exps {
            Some(exps) => by_block
                .zip(exps.par_chunks_mut(blocks.len * n_rows))
                .for_each_init(Vec::new, |table, ((index, scores), exps)| chunk.score(index, table, exps, scores)),
            None => by_block.for_each_init(Scratch::new, |scratch, (index, scores)| {
                scratch.product.resize(blocks.len * n_rows, S::Wide::ZERO);
                chunk.score(index, &mut scratch.table, &mut scratch.product, scores);
            }),
        }
        chunk.scores = scores;
        chunk.totals = (0..n_rows).into_par_iter().map(|row| chunk.total(row)).collect();
        chunk
    }

    pub(super) fn loss(&self) -> f64 {
        self.totals.iter().map(|total| total.loss).sum()
    }

    /// One block of the first sweep.
    fn score(&self, index: usize, table: &mut Vec<S::Wide>, exps: &mut [S::Wide], scores: &mut [Score<S::Wide>]) {
        let (first, n, table) = self.job.block(index, table);
        let c = self.job.n_embd;
        let rows = Matrix::new(&self.rows, self.counted.len(), c);
        matmul(exps, Update::Overwrite, rows, Matrix::new(table, n, c).t());
        let infinity = S::Wide::from_f64(f64::NEG_INFINITY);
        for ((row, counted), score) in exps.chunks_mut(n).zip(self.counted).zip(scores) {
            if (first..first + n).contains(&counted.target) {
                score.target = std::mem::replace(&mut row[counted.target - first], infinity);
            }
            score.max = S::Wide::row_max(row);
            // -∞ - -∞ would be NaN.
            let shift = if score.max == infinity { S::Wide::ZERO } else { score.max };
            score.sum = S::Wide::exp_row(row, shift);
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
        // Where the target is nearly certain, `sum` is too near 1 to tell how nearly.
        let loss = if target == max { others.ln_1p() } else { max - target + sum.ln() };
        Total { loss, max, sum, others: others / sum }
    }

    /// The second sweep: writes the shares of the hidden states' gradient, and writes or adds to the table's.
    pub(super) fn gradients(&self, exps: &[S::Wide], (hidden, table): Partials<'_, S::Wide>, update: Update) {
        let (n_rows, c, blocks) = (self.counted.len(), self.job.n_embd, self.job.blocks());
        let group_len = blocks.per_group * blocks.len;
        let mut hidden = hidden.map(|grad| grad.chunks_mut(n_rows * c));
        let mut table = table.map(|grad| grad.chunks_mut(group_len * c));
        let exps = exps.chunks(group_len * n_rows).take(blocks.count.div_ceil(blocks.per_group));
        let share = |(index, exps)| Group {
            index,
            exps,
            hidden_grad: hidden.as_mut().and_then(Iterator::next),
            table_grad: table.as_mut().and_then(Iterator::next),
        };
        let groups: Vec<_> = exps.enumerate().map(share).collect();
        groups.into_par_iter().for_each_init(Scratch::new, |scratch, group| self.group(group, scratch, update));
    }

    /// One group of the second sweep.
    fn group(&self, group: Group<'_, S::Wide>, scratch: &mut Scratch<S::Wide>, update: Update) {
        let (n_rows, c, blocks, scale) = (self.counted.len(), self.job.n_embd, self.job.blocks(), self.job.scale);
        let Group { index, exps, mut hidden_grad, mut table_grad } = group;
        scratch.product.resize(n_rows * c, S::Wide::ZERO);
        for (i, exps) in exps.chunks(blocks.len * n_rows).enumerate() {
            let index = index * blocks.per_group + i;
            if index == blocks.count {
                break; // the buffer is as long for a last group that is not full
            }
            let (first, n, table) = self.job.block(index, &mut scratch.table);
            let exps = Matrix::new(exps, n_rows, n);
            let targets = || {
                let rows = self.counted.iter().zip(&self.totals).enumerate();
                rows.filter(|(_, (counted, _))| (first..first + n).contains(&counted.target)).map(
                    |(row, (counted, total))| (row, counted.target - first, S::Wide::from_f64(-total.others * scale)),
                )
            };
            // From exponentials to probabilities, times `scale`; 0 where the block is negligible for the row.
            let factors = self.scores[index * n_rows..][..n_rows]
                .iter()
                .zip(&self.totals)
                .map(|(score, total)| S::Wide::from_f64((score.max.to_f64() - total.max).exp() * scale / total.sum));
            if let Some(grad) = &mut table_grad {
                let grad = &mut grad[i * blocks.len * c..][..n * c];
                for ((out, row), factor) in scratch.product.chunks_mut(c).zip(self.rows.chunks(c)).zip(factors.clone())
                {
                    S::Wide::set_scaled(out, factor, row);
                }
                matmul(grad, update, exps.t(), Matrix::new(&scratch.product, n_rows, c));
                for (row, target, factor) in targets() {
                    S::Wide::add_scaled(&mut grad[target * c..][..c], factor, &self.rows[row * c..][..c]);
                }
            }
            if let Some(grad) = &mut hidden_grad {
                matmul(&mut scratch.product, Update::Overwrite, exps, Matrix::new(table, n, c));
                for ((out, row), factor) in grad.chunks_mut(c).zip(scratch.product.chunks(c)).zip(factors) {
                    match i {
                        0 => S::Wide::set_scaled(out, factor, row),
                        _ => S::Wide::add_scaled(out, factor, row),
                    }
                }
                for (row, target, factor) in targets() {
                    S::Wide::add_scaled(&mut grad[row * c..][..c], factor, &table[target * c..][..c]);
                }
            }
        }
    }
}
