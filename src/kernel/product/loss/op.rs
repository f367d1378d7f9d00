//! Attaches gradients that are known already to Candle's graph.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Shape, Storage, Tensor};

use super::parts::LossParts;
use crate::error::Result;

/// Returns the loss as a function of `hidden` `[N, C]` and `table` `[V, C]`, whose gradients `parts` holds.
pub(crate) fn attach(hidden: &Tensor, table: &Tensor, parts: LossParts) -> Result<Tensor> {
    if parts.hidden_grad.is_none() && parts.table_grad.is_none() {
        return Ok(parts.loss);
    }
    Ok(hidden.apply_op2(table, Known(parts))?)
}

struct Known(LossParts);

impl Known {
    /// Calls `f` with the loss's storage, which becomes the result's.
    fn loss<R>(&self, f: impl FnOnce(&Storage, &Layout) -> candle_core::Result<R>) -> candle_core::Result<(R, Shape)> {
        let (storage, layout) = self.0.loss.storage_and_layout();
        Ok((f(&storage, layout)?, layout.shape().clone()))
    }
}

fn elsewhere<R>() -> candle_core::Result<R> {
    Err(candle_core::Error::Msg("the loss lies on another device than the hidden states".to_string()))
}

impl CustomOp2 for Known {
    fn name(&self) -> &'static str {
        "tied-head-loss"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.loss(|storage, layout| match storage {
            Storage::Cpu(storage) => storage.try_clone(layout),
            _ => elsewhere(),
        })
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        self.loss(|storage, layout| match storage {
            Storage::Cuda(storage) => storage.try_clone(layout),
            _ => elsewhere(),
        })
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> candle_core::Result<(MetalStorage, Shape)> {
        self.loss(|storage, layout| match storage {
            Storage::Metal(storage) => storage.try_clone(layout),
            _ => elsewhere(),
        })
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        table: &Tensor,
        _: &Tensor,
        grad_loss: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let scaled = |grad: &Option<Tensor>, arg: &Tensor| {
            let Some(grad) = grad else { return Ok(None) };
            // On other devices reading the factor would wait for the device.
            let is_one =
                grad_loss.device().is_cpu() && grad_loss.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()? == 1.0;
            let grad = if is_one { grad.clone() } else { grad.broadcast_mul(grad_loss)? };
            grad.to_dtype(arg.dtype()).map(Some)
        };
        Ok((scaled(&self.0.hidden_grad, hidden)?, scaled(&self.0.table_grad, table)?))
    }
}
