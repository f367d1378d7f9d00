//! A token table of which each rank holds a share, for vocabularies whose table, gradient and moments are too large for
//! one machine: Megatron's vocabulary parallelism.
//!
//! [`VocabParallelEmbedding`] looks up rows by asking their owners, and [`ParallelLmHead`] computes the loss of the
//! tied head. **They have the bits of the whole table**, on any number of ranks: rows, loss, and both gradients are
//! those of one process with the batches of all ranks put one behind the other, in the order of the ranks. No row is
//! summed on the way, so -0.0 stays -0.0, and V need not be divisible by the number of ranks. [`clip_grad_norm`] has
//! the norm of the whole gradient. Everything runs on the CPU.
//!
//! Each call is collective: every rank makes it with its own batch, which may be empty. An error on one rank, such as
//! an id outside the vocabulary, is an error on every rank. The guide has [a training
//! loop](crate::guide::machines#a-table-larger-than-a-machine), and says when a cut pays.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use candle_gpt_input::ranks::{Ranks, Threads};
//! use candle_gpt_input::vocab_parallel::VocabParallelEmbedding;
//!
//! let rows = Threads::run(2, |ranks| {
//!     let wte = Tensor::new(&[[0f32], [10.], [20.]], &Device::Cpu)?;
//!     let wte = VocabParallelEmbedding::new(ranks, &wte)?; // keeps this rank's rows
//!     let ids = [vec![2u32, 0], vec![1]][ranks.rank()].clone(); // each has a batch of its own
//!     Ok::<_, candle_gpt_input::Error>(wte.forward(ranks, &Tensor::new(ids, &Device::Cpu)?)?.to_vec2::<f32>()?)
//! });
//! let rows: Vec<_> = rows.into_iter().collect::<Result<_, _>>()?;
//! assert_eq!(rows, [vec![vec![20.], vec![0.]], vec![vec![10.]]]);
//! # Ok::<(), candle_gpt_input::Error>(())
//! ```

mod clip;
mod embedding;
mod head;
mod look_up;
mod save;

pub use clip::clip_grad_norm;
pub use embedding::{VocabParallelEmbedding, share};
pub use head::ParallelLmHead;
