//! The elements of tensors, lent to a fused pass, and tensors made of what it computed.

use candle_core::{CpuStorage, Shape, Tensor, WithDType};

use crate::kernel::core::locks::read_all;
use crate::kernel::core::storage::slice;

type CandleResult<T> = candle_core::Result<T>;

/// Calls `f` on the elements of the tensors, which are made contiguous first where needed.
pub(super) fn with_values<E: WithDType, const N: usize, R>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[E]; N]) -> R,
) -> CandleResult<R> {
    let mut contiguous = Vec::with_capacity(N);
    for tensor in tensors {
        contiguous.push(tensor.contiguous()?);
    }
    read_all(&contiguous.iter().collect::<Vec<_>>(), |held| {
        let mut values = [[].as_slice(); N];
        for (values, (storage, layout)) in values.iter_mut().zip(held) {
            *values = slice(storage, layout)?;
        }
        Ok(f(values))
    })
}

pub(super) fn storage(values: Vec<f32>, shape: &Shape) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), shape.clone())
}

/// Returns a gradient in the shape of `like`.
pub(super) fn grad(values: Vec<f32>, like: &Tensor) -> CandleResult<Option<Tensor>> {
    Tensor::from_vec(values, like.shape(), like.device()).map(Some)
}
