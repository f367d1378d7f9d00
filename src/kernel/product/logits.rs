//! The product of the head, `hidden · tableᵀ`, with a gradient that knows whether the table is still what it was.

use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Shape, Storage, Tensor};

use super::skinny::{dense, stored};
use crate::error::{EmbeddingError, Result};
use crate::kernel::core::locks::read_all;
use crate::kernel::core::versions::version_of;
use crate::rows::StoredRows;

type CandleResult<T> = candle_core::Result<T>;

/// Returns `hidden · tableᵀ` for `hidden` `[N, C]` and `table` `[V, C]`: `[N, V]`.
pub(crate) fn logits(hidden: &Tensor, table: &Tensor) -> Result<Tensor> {
    if hidden.elem_count() == 0 {
        return Ok(hidden.matmul(&table.t()?)?);
    }
    Ok(hidden.apply_op2(table, Logits { version: version_of(table) })?)
}

/// Returns `hidden · tableᵀ + bias` for `hidden` `[N, C]`, a stored table `[V, C]` and a bias `[V]`, all without history:
/// `[N, V]`, rounded once. `None` where the rows are to be converted first.
pub(crate) fn stored_logits(
    hidden: &Tensor,
    table: &StoredRows,
    bias: Option<&Tensor>,
) -> CandleResult<Option<Tensor>> {
    if !hidden.device().is_cpu() || hidden.elem_count() == 0 {
        return Ok(None);
    }
    let bias = bias.map(Tensor::contiguous).transpose()?;
    let given: Vec<&Tensor> = [hidden].into_iter().chain(&bias).collect();
    let product = read_all(&given, |held| stored(held[0], table, held.get(1).copied()))?;
    let dims = (hidden.dim(0)?, table.n_rows);
    Ok(product.map(|product| Tensor::from_storage(Storage::Cpu(product), dims, BackpropOp::none(), false)))
}

struct Logits {
    /// The version of the table's values.
    version: u64,
}

impl Logits {
    fn product<S: BackendStorage>(hidden: &S, l1: &Layout, table: &S, l2: &Layout) -> CandleResult<(S, Shape)> {
        let ((n, c), (vocab_size, _)) = (l1.shape().dims2()?, l2.shape().dims2()?);
        Ok((hidden.matmul(table, (1, n, vocab_size, c), l1, &l2.transpose(0, 1)?)?, (n, vocab_size).into()))
    }
}

/// Implements the product on one of the other back ends.
macro_rules! forward {
    ($fwd:ident, $storage:ty) => {
        fn $fwd(&self, s1: &$storage, l1: &Layout, s2: &$storage, l2: &Layout) -> CandleResult<($storage, Shape)> {
            Self::product(s1, l1, s2, l2)
        }
    };
}

impl CustomOp2 for Logits {
    fn name(&self) -> &'static str {
        "logits"
    }

    fn cpu_fwd(
        &self,
        hidden: &CpuStorage,
        l1: &Layout,
        table: &CpuStorage,
        l2: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        match dense((hidden, l1), (table, l2), None)? {
            Some(product) => Ok((product, (l1.shape().dims2()?.0, l2.shape().dims2()?.0).into())),
            None => Self::product(hidden, l1, table, l2),
        }
    }

    forward!(cuda_fwd, CudaStorage);
    forward!(metal_fwd, MetalStorage);

    fn bwd(
        &self,
        hidden: &Tensor,
        table: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let table_grad = if table.track_op() { Some(hidden.t()?.matmul(grad)?.t()?) } else { None };
        if !hidden.track_op() {
            return Ok((None, table_grad)); // the values of the table do not matter
        }
        if version_of(table) != self.version {
            return Err(EmbeddingError::ChangedByMaxNorm.into());
        }
        Ok((Some(grad.matmul(table)?), table_grad))
    }
}
