//! The look-up, the sum and their gradients on Metal, by kernels that are compiled at first use.
//!
//! They have run on the CPU only, compiled by g++ from the same text: see `tests/metal_host`.

mod jobs;
#[cfg(feature = "metal-kernels")]
mod launch;
#[cfg(feature = "metal-kernels")]
mod run;
#[cfg(all(test, target_os = "linux"))]
mod tests;

#[cfg(feature = "metal-kernels")]
pub(in crate::kernel) use run::{dense_gradient, gather, gather_into, group_sums, has_kernels, on_metal, scatter_add};
