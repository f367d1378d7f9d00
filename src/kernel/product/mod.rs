//! Products with the rows of a table: the head's loss in chunks.

mod loss;

pub(crate) use loss::{Counted, CrossEntropy, HeadTable, LossParts, Wanted, attach};
