//! Cross-entropy of `hidden_states · tableᵀ` without the logits as a whole: chunk by chunk of rows, the loss and its
//! gradients in one pass, as Liger-Kernel's fused linear cross-entropy does it (Hsu et al. 2024, arXiv:2410.10989).
//!
//! With logits `z = h · tableᵀ` of a row and `p = softmax(z)`: `loss = ln Σ exp(z) - z[target]`,
//! `∂loss/∂h = (p - onehot) · table`, `∂loss/∂table = (p - onehot)ᵀ · h`.

mod composed;
mod cross_entropy;
mod dispatch;
mod exchange;
mod fused;
mod job;
mod op;
mod parts;
mod split;
mod sweeps;
mod whole;

pub(crate) use cross_entropy::CrossEntropy;
pub(crate) use op::{HeadLoss, attach, attach_each};
pub(crate) use parts::{Counted, HeadTable, Wanted};
pub(crate) use split::{Split, vocab_share};
