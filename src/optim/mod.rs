//! Optimizers for tables, and for the rest of a model: AdamW over everything, or Adam over the rows of the batch.
//!
//! | part of the model | optimizer | its gradient |
//! |---|---|---|
//! | blocks, norms, an untied head | [`AdamW`] | `loss.backward()` |
//! | `wte` tied to the head, trained from scratch | [`AdamW::step_with_rows`] | the head's and, as rows, the input's |
//! | `wte` and `wpe` of their own, trained from scratch | [`AdamW::step_with_rows`] | rows |
//! | `wte` and `wpe` of their own, fine-tuned; large vocabularies | [`RowAdamW`] | rows |
//! | a few rows (new tokens) of a table that must not change otherwise | either, with `freeze_rows` | either |
//!
//! [`AdamW`] is `torch.optim.AdamW(fused=True)`: one pass over parameter, gradient and state. It replaces
//! [`candle_nn::AdamW`] (same trait, same configuration), which makes a dozen copies of each parameter in a step.
//! [`RowAdamW`] is `torch.optim.SparseAdam`: its cost does not depend on the size of the vocabulary. The algorithms
//! differ: `AdamW` moves and decays every row at every step, `RowAdamW` only those of the batch.
//!
//! Gradients of rows come from a leaf ([`GptInputLayer::forward_leaf`](crate::GptInputLayer::forward_leaf)), because
//! Candle's `loss.backward()` only makes gradients of whole tables:
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use candle_gpt_input::GptInputLayer;
//! use candle_gpt_input::optim::RowAdamW;
//! use candle_nn::VarMap;
//!
//! let wte = Tensor::new(&[[0f32, 1.], [2., 3.], [4., 5.]], &Device::Cpu)?; // V = 3, C = 2
//! let wpe = Tensor::new(&[[0f32, 0.], [0., 0.]], &Device::Cpu)?; //           P = 2
//! let layer = GptInputLayer::new(wte, wpe)?.trainable(&VarMap::new(), "")?;
//! let mut optimizer = RowAdamW::new(layer.vars(), 0.5)?;
//!
//! let ids = Tensor::new(&[[2u32, 0]], &Device::Cpu)?;
//! let x = layer.forward_leaf(&ids)?; //                                       the blocks and the loss come here
//! let mut grads = x.sum_all()?.backward()?;
//! if let Some(grad) = grads.remove(&x) {
//!     layer.backward_step(&ids, 0, &grad, &mut optimizer)?;
//! }
//! // Adam's first step is as long as the learning rate; row 1 was not in the batch.
//! let wte = layer.vars()[0].to_vec2::<f32>()?;
//! assert_eq!(format!("{wte:.2?}"), "[[-0.50, 0.50], [2.00, 3.00], [3.50, 4.50]]");
//! # Ok::<(), candle_gpt_input::Error>(())
//! ```
//!
//! [`GradSum`] adds up the gradients of several micro-batches, on one machine or many, in between.
//!
//! Sums have a fixed order: a step has the same bits on any number of threads. On the CPU a step works in place and
//! allocates nothing but, at a parameter's first step, its state. On other devices the same formulas run as plain
//! Candle operations, with temporaries and, for rows in [`AdamW`], a whole table of gradients.

mod adam_state;
mod adamw;
mod clip;
mod group;
mod missing;
mod params;
mod row_adamw;
mod row_grad;
mod rows;
mod state;
mod sum;
mod zero;

pub use adam_state::AdamState;
pub use adamw::AdamW;
pub use clip::clip_grad_norm;
pub(crate) use clip::clip_grad_norm_by;
pub use group::ParamGroup;
pub use missing::missing_gradients;
pub use row_adamw::RowAdamW;
pub use row_grad::{RowGrad, RowOptimizer};
pub use sum::{GradSum, Summed};
pub use zero::ZeroRedundancyOptimizer;
