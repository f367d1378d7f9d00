//! Pieces of a transformer block that keep gradients: [`LayerNorm`], [`RmsNorm`], [`Linear`], [`Attention`],
//! [`softmax()`], [`gelu`].
//!
//! The fused operations of `candle_nn` 0.11.1 (`LayerNorm` with a bias, `RmsNorm`, `softmax_last_dim`, `rope`, `sdpa`)
//! cut gradients without an error. A model on them trains its head and nothing below. Everything here has the gradients
//! of PyTorch; for rotations take [`PositionEncoding::rotate`](crate::position::PositionEncoding::rotate) or
//! [`Rotary`](crate::position::Rotary). To see whether anything was cut, ask
//! [`missing_gradients`](crate::optim::missing_gradients).
//!
//! ```
//! use candle_core::{Device, Module, Tensor, Var};
//! use candle_gpt_input::nn::LayerNorm;
//!
//! let x = Var::new(&[[1f32, 3.]], &Device::Cpu)?; // mean 2, deviation 1
//! let norm = LayerNorm::new(Tensor::new(&[2f32, 2.], &Device::Cpu)?, Some(Tensor::new(&[0f32, 1.], &Device::Cpu)?), 0.0)?;
//! let y = norm.forward(&x)?;
//! assert_eq!(y.to_vec2::<f32>()?, [[-2., 3.]]);
//! assert!(y.sum_all()?.backward()?.get(&x).is_some());
//! # Ok::<(), candle_gpt_input::Error>(())
//! ```
//!
//! | PyTorch, transformers | here |
//! | --- | --- |
//! | `nn.LayerNorm(n, eps, bias=…)` | [`LayerNorm`] |
//! | `nn.RMSNorm(n, eps)`, `LlamaRMSNorm` | [`RmsNorm`] |
//! | `nn.Linear`, `Conv1D` | [`Linear::new`], [`Linear::conv1d`]; on GGUF's blocks [`QuantizedLinear`] |
//! | `F.softmax(x, dim)` | [`softmax(&x, dim)`](softmax()) |
//! | `F.gelu(x, approximate=…)` | [`gelu(&x, Approximate::…)`](gelu) |
//! | `F.scaled_dot_product_attention` | [`Attention::forward`] |
//! | `qkv.split(…)`, `.view(…)`, `.transpose(1, 2)` | [`split_heads`] |
//!
//! In f32 on the CPU each runs in one pass forward and one backward, on all cores; its bits do not depend on their
//! number. f16 and bf16 are computed in f32 there and rounded once. f64 and other devices take plain Candle operations,
//! with norms, softmax and GELU of halves in f32.

mod activation;
mod attention;
mod linear;
mod norm;
mod quantized;

pub use activation::{Approximate, gelu, softmax};
pub use attention::{Attention, split_heads};
pub use linear::Linear;
pub use norm::{LayerNorm, RmsNorm};
pub use quantized::QuantizedLinear;
