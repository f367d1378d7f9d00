//! The largest logits of each row, found while the table is read, without the others.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Tensor};
use half::{bf16, f16};

use super::loss::HeadTable;
use super::skinny::{Kind, Memory, Product, operands, product, product_of};
use crate::kernel::core::element::Element;
use crate::kernel::core::locks::read_all;
use crate::kernel::core::simd::vectorised;
use crate::kernel::core::storage::slice;
use crate::rows::StoredRows;

type CandleResult<T> = candle_core::Result<T>;

/// The `k` largest logits of one row: the largest first, of equal ones that of the lowest id.
#[derive(Debug)]
pub(crate) struct Best {
    k: usize,
    kept: BinaryHeap<Logit>,
    /// The lowest id whose logit is NaN.
    nan: Option<u32>,
}

/// A logit. The greatest of several is the one that comes last: the smallest, of equal ones that of the highest id.
#[derive(Clone, Copy, Debug)]
struct Logit {
    value: f64,
    id: u32,
}

impl Ord for Logit {
    fn cmp(&self, other: &Self) -> Ordering {
        // No logit that is kept is NaN.
        other.value.partial_cmp(&self.value).unwrap_or(Ordering::Equal).then(self.id.cmp(&other.id))
    }
}

impl PartialOrd for Logit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Logit {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Logit {}

impl Best {
    pub(crate) fn new(k: usize) -> Self {
        Self { k, kept: BinaryHeap::new(), nan: None }
    }

    /// Takes the logits of tokens from `first` on, in any order of calls.
    pub(crate) fn offer<T: Copy + PartialOrd + Into<f64>>(&mut self, first: usize, logits: &[T]) {
        let is_nan = |x: &T| x.partial_cmp(x).is_none();
        if let Some(at) = logits.iter().position(is_nan) {
            let id = (first + at) as u32;
            self.nan = Some(self.nan.map_or(id, |nan| nan.min(id)));
            return; // there is no order any more
        }
        for (at, &value) in logits.iter().enumerate() {
            let logit = Logit { value: value.into(), id: (first + at) as u32 };
            if self.kept.len() < self.k {
                self.kept.push(logit);
            } else if let Some(mut last) = self.kept.peek_mut()
                && logit < *last
            {
                *last = logit;
            }
        }
    }

    /// Returns values and ids in their order, or the lowest id whose logit is NaN.
    pub(crate) fn in_order(self) -> Result<impl Iterator<Item = (f64, u32)>, u32> {
        match self.nan {
            Some(id) => Err(id),
            None => Ok(self.kept.into_sorted_vec().into_iter().map(|logit| (logit.value, logit.id))),
        }
    }
}

/// Returns the `k` largest of `hidden · tableᵀ + bias` for each row of `hidden` `[N, C]`, as from the logits, which are
/// rounded before and after the bias. `None` where [`logits`](super::logits()) and
/// [`stored_logits`](super::stored_logits) take another way.
pub(crate) fn best(
    hidden: &Tensor,
    table: &HeadTable,
    bias: Option<&Tensor>,
    k: usize,
) -> CandleResult<Option<Vec<Best>>> {
    if !hidden.device().is_cpu() || hidden.elem_count() == 0 {
        return Ok(None);
    }
    let bias = bias.map(Tensor::contiguous).transpose()?;
    // In the place of a stored table, which is no tensor, stand the hidden states.
    let (dense, stored) = match table {
        HeadTable::Dense(table) => (table, None),
        HeadTable::Stored(rows) => (hidden, Some(rows)),
    };
    let given: Vec<&Tensor> = [hidden, dense].into_iter().chain(&bias).collect();
    read_all(&given, |held| match hidden.dtype() {
        DType::F32 => typed::<f32>(held, stored, k),
        DType::F16 => typed::<f16>(held, stored, k),
        DType::BF16 => typed::<bf16>(held, stored, k),
        _ => Ok(None),
    })
}

fn typed<E: Element<Wide = f32> + Kind>(
    held: &[Memory<'_>],
    stored: Option<&StoredRows>,
    k: usize,
) -> CandleResult<Option<Vec<Best>>> {
    let operands = match stored {
        Some(rows) => product_of::<E>(held[0], rows)?,
        None => operands::<E>(held[0], held[1])?.map(|(hidden, rows)| (product::<E, E> as Product<E>, hidden, rows)),
    };
    let Some((product, hidden, rows)) = operands else { return Ok(None) };
    let bias = held.get(2).map(|(storage, layout)| slice::<E>(storage, layout)).transpose()?;
    let found: Vec<Mutex<Best>> = (0..hidden.n_rows).map(|_| Mutex::new(Best::new(k))).collect();
    product(&hidden, &rows, &|row, first, sums| {
        let mut logits = sums.to_vec();
        vectorised(|| {
            logits.iter_mut().for_each(|logit| *logit = E::narrow(*logit).widen());
            for (logit, bias) in logits.iter_mut().zip(bias.into_iter().flat_map(|bias| &bias[first..])) {
                *logit = E::narrow(*logit + bias.widen()).widen();
            }
        });
        found[row].lock().unwrap_or_else(PoisonError::into_inner).offer(first, &logits);
    });
    Ok(Some(found.into_iter().map(|best| best.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()))
}
