//! Products with the rows of a table: the head's logits, and its loss in chunks.

mod logits;
mod loss;

pub(crate) use logits::logits;
pub(crate) use loss::{Counted, CrossEntropy, HeadTable, LossParts, Wanted, attach};
