//! Records losses in Candle's graph, with gradients that are known already or computed by the same pass again.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp3, DType, Device, Layout, MetalStorage, Shape, Storage, Tensor};

use super::cross_entropy::CrossEntropy;
use super::parts::{Counted, HeadTable, LossParts, Wanted};
use crate::error::{EmbeddingError, Result};
use crate::kernel::core::versions::version_of;

/// The tensors that a loss is a function of: `[N, C]`, `[V, C]` and `[V]`. One that has no gradient may be any tensor.
pub(crate) type Inputs<'a> = [&'a Tensor; 3];

/// Returns the loss as a function of the inputs, whose gradients `parts` holds.
pub(crate) fn attach([hidden, table, bias]: Inputs<'_>, parts: LossParts) -> Result<Tensor> {
    let grads = [parts.hidden_grad, parts.table_grad, parts.bias_grad];
    if grads.iter().all(Option::is_none) {
        return Ok(parts.loss);
    }
    Ok(hidden.apply_op3(table, bias, Recorded { value: parts.loss, grads: Grads::Known(grads) })?)
}

/// Returns the losses of all N rows, `[N]`, as a function of the inputs: `losses` of those that count, 0 of the others.
///
/// Their gradients have a factor for each row, which only the backward pass knows: it runs the cross-entropy again.
pub(crate) fn attach_each(
    [hidden, table, bias]: Inputs<'_>,
    losses: Tensor,
    loss: HeadLoss,
    wanted: Wanted,
) -> Result<Tensor> {
    if !wanted.any() {
        return Ok(losses);
    }
    let version = version_of(table);
    Ok(hidden.apply_op3(table, bias, Recorded { value: losses, grads: Grads::Rerun { loss, wanted, version } })?)
}

/// The inputs of a cross-entropy that may run once more.
#[derive(Clone, Debug)]
pub(crate) struct HeadLoss {
    pub(crate) hidden: Tensor,
    pub(crate) table: HeadTable,
    pub(crate) bias: Option<Tensor>,
    pub(crate) counted: Vec<Counted>,
    pub(crate) chunk_rows: Option<usize>,
}

impl HeadLoss {
    /// Computes `scale` times the sum of the losses.
    pub(crate) fn run(&self, scale: f64, wanted: Wanted) -> Result<LossParts> {
        self.run_on(&self.counted, scale, wanted)
    }

    fn run_on(&self, counted: &[Counted], scale: f64, wanted: Wanted) -> Result<LossParts> {
        let head = (self.table.clone(), self.bias.as_ref());
        CrossEntropy::new(&self.hidden, head, counted, scale, self.chunk_rows, None)?.run(wanted)
    }

    /// Computes the gradients of the sum of the losses, each times the element of `grad` `[N]` at its row.
    fn gradients(&self, grad: &Tensor, wanted: Wanted) -> Result<[Option<Tensor>; 3]> {
        let factors = grad.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?; // Metal has no f64
        let weighted = |counted: &Counted| Counted { weight: factors[counted.row], ..*counted };
        let counted: Vec<Counted> = self.counted.iter().map(weighted).collect();
        let parts = self.run_on(&counted, 1.0, wanted)?;
        Ok([parts.hidden_grad, parts.table_grad, parts.bias_grad])
    }
}

struct Recorded {
    value: Tensor,
    grads: Grads,
}

enum Grads {
    /// Those of the value, to be multiplied by the value's own.
    Known([Option<Tensor>; 3]),
    Rerun {
        loss: HeadLoss,
        wanted: Wanted,
        /// The version of the table's values.
        version: u64,
    },
}

impl Recorded {
    /// Calls `f` with the value's storage, which becomes the result's.
    fn with_value<R>(
        &self,
        f: impl FnOnce(&Storage, &Layout) -> candle_core::Result<R>,
    ) -> candle_core::Result<(R, Shape)> {
        let (storage, layout) = self.value.storage_and_layout();
        Ok((f(&storage, layout)?, layout.shape().clone()))
    }
}

fn elsewhere<R>() -> candle_core::Result<R> {
    Err(candle_core::Error::Msg("the loss lies on another device than the hidden states".to_string()))
}

impl CustomOp3 for Recorded {
    fn name(&self) -> &'static str {
        "head-loss"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.with_value(|storage, layout| match storage {
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
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        self.with_value(|storage, layout| match storage {
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
        _: &MetalStorage,
        _: &Layout,
    ) -> candle_core::Result<(MetalStorage, Shape)> {
        self.with_value(|storage, layout| match storage {
            Storage::Metal(storage) => storage.try_clone(layout),
            _ => elsewhere(),
        })
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        table: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad_value: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grads = match &self.grads {
            Grads::Known(grads) => {
                // On other devices reading the factor would wait for the device.
                let is_one =
                    grad_value.device().is_cpu() && grad_value.to_dtype(DType::F64)?.to_scalar::<f64>()? == 1.0;
                let scaled = |grad: &Option<Tensor>| match grad {
                    Some(grad) if !is_one => grad.broadcast_mul(grad_value).map(Some),
                    grad => Ok(grad.clone()),
                };
                let [hidden, table, bias] = grads;
                [scaled(hidden)?, scaled(table)?, scaled(bias)?]
            }
            Grads::Rerun { version, .. } if version_of(table) != *version => {
                return Err(EmbeddingError::ChangedByMaxNorm.into());
            }
            Grads::Rerun { loss, wanted, .. } => loss.gradients(grad_value, *wanted)?,
        };
        let typed = |grad: Option<Tensor>, arg: &Tensor| grad.map(|grad| grad.to_dtype(arg.dtype())).transpose();
        let [of_hidden, of_table, of_bias] = grads;
        Ok((typed(of_hidden, hidden)?, typed(of_table, table)?, typed(of_bias, bias)?))
    }
}
