//! Products with tables and weights, and what stands between them: the head's logits, its loss in chunks, the pieces of a
//! block in one pass each.

mod best;
mod block;
mod exp;
mod logits;
mod loss;
mod matmul;
mod real;
mod skinny;
mod values;

pub(crate) use best::{Best, best};
pub use block::Approximate;
pub(crate) use block::{
    Norm, Scores, Weight, attention, attention_scores, gelu, linear, masked_scores, norm, packed_attention, softmax,
    split_heads, weighted,
};
pub(crate) use logits::{logits, stored_logits};
pub(crate) use loss::{Counted, CrossEntropy, HeadLoss, HeadTable, Split, Wanted, attach, attach_each, vocab_share};
