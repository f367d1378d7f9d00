//! A product with weights, with the bias added in the same pass.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor};

use super::rows::{ROWS, add, each_rows, total};
use crate::kernel::core::parallel::map_in_parallel;
use crate::kernel::core::storage::slice;
use crate::kernel::product::skinny::dense;
use crate::kernel::product::values::{grad, storage, with_values};

type CandleResult<T> = candle_core::Result<T>;

/// Which way a weight lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// `[O, I]`, as PyTorch's `nn.Linear` has it.
    OutIn,
    /// `[I, O]`, as GPT-2's files have it.
    InOut,
}

/// `x · weight + bias`: `[N, I] -> [N, O]`.
pub(super) struct Linear {
    pub(super) weight: Weight,
    pub(super) has_bias: bool,
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let out_in = match self.weight {
            Weight::OutIn => weight_layout.clone(),
            Weight::InOut => weight_layout.transpose(0, 1)?,
        };
        let ((n, n_in), (n_out, _)) = (x_layout.shape().dims2()?, out_in.shape().dims2()?);
        let given_bias = self.has_bias.then_some((bias, bias_layout));
        if let Some(product) = dense((x, x_layout), (weight, &out_in), given_bias)? {
            return Ok((product, (n, n_out).into()));
        }
        let product = x.matmul(weight, (1, n, n_out, n_in), x_layout, &out_in.transpose(0, 1)?)?;
        let CpuStorage::F32(mut product) = product else { candle_core::bail!("a product of f32 is {product:?}") };
        if self.has_bias {
            let bias = slice(bias, bias_layout)?;
            each_rows(&mut product, n_out, &|_, rows| rows.chunks_mut(n_out).for_each(|row| add(row, bias)));
        }
        Ok(storage(product, &(n, n_out).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _res: &Tensor,
        y_grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let wanted = |tensor: &Tensor, grad: &dyn Fn() -> CandleResult<Tensor>| match tensor.track_op() {
            true => grad().map(Some),
            false => Ok(None),
        };
        // Halves are widened, and gradients rounded once.
        let wide = |x: &Tensor| x.detach().to_dtype(DType::F32);
        let (values, weights, y_grad) = (&wide(x)?, &wide(weight)?, &wide(y_grad)?);
        let x_grad = wanted(x, &|| match self.weight {
            Weight::OutIn => y_grad.matmul(weights)?.to_dtype(x.dtype()),
            Weight::InOut => y_grad.matmul(&weights.t()?)?.to_dtype(x.dtype()),
        })?;
        let weight_grad = wanted(weight, &|| match self.weight {
            Weight::OutIn => y_grad.t()?.matmul(values)?.to_dtype(x.dtype()),
            Weight::InOut => values.t()?.matmul(y_grad)?.to_dtype(x.dtype()),
        })?;
        if !bias.track_op() {
            return Ok((x_grad, weight_grad, None));
        }
        let n_out = bias.elem_count();
        let sums = with_values([y_grad], |[y_grad]| {
            let task = ROWS * n_out;
            total(&map_in_parallel(y_grad.len().div_ceil(task), &|index| {
                let mut sums = vec![0.0; n_out];
                y_grad[index * task..].chunks(n_out).take(ROWS).for_each(|row| add(&mut sums, row));
                sums
            }))
        })?;
        let bias_grad = grad(sums, bias)?.map(|grad| grad.to_dtype(x.dtype())).transpose()?;
        Ok((x_grad, weight_grad, bias_grad))
    }
}
