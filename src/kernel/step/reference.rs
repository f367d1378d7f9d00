//! The optimizer's steps in plain Candle operations: the fallback on devices without kernels, and the oracle of the
//! tests.
//!
//! The formulas are the same, with more roundings (no fused multiply-add) and some ten temporaries. A gradient given as
//! rows becomes a whole table first.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

use super::gradient::{BatchRows, Gradient, is_frozen};
use super::moments::Moments;
use super::rules::AdamStep;
use crate::kernel::ids::RowGroups;

/// Returns the values in f32, or in f64 for f64.
fn wide(tensor: &Tensor) -> Result<Tensor> {
    tensor.detach().to_dtype(wide_type(tensor.dtype()))
}

fn wide_type(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

pub(super) fn adamw(tensors: Moments, gradient: Gradient, step: &AdamStep) -> Result<()> {
    let Moments { param, exp_avg, exp_avg_sq } = tensors;
    let (old_p, old_m, old_v) = (wide(param)?, wide(exp_avg)?, wide(exp_avg_sq)?);
    let g = (wide(&materialized(param, gradient)?)? * step.grad_scale)?;
    let (correction1, correction2) = step.bias_corrections();
    let m = (&old_m + ((&g - &old_m)? * (1.0 - step.beta1))?)?;
    let v = ((&old_v * step.beta2)? + (g.sqr()? * (1.0 - step.beta2))?)?;
    let denominator = ((v.sqrt()? / correction2.sqrt())? + step.eps)?;
    let p = ((&old_p * step.decay())? - ((&m * (step.learning_rate / correction1))? / denominator)?)?;
    let live = live_rows(param, gradient.frozen)?;
    for (tensor, old, new) in [(param, old_p, p), (exp_avg, old_m, m), (exp_avg_sq, old_v, v)] {
        let new = match &live {
            Some(live) => live.broadcast_as(new.shape())?.where_cond(&new, &old)?,
            None => new,
        };
        overwrite(tensor, &new.to_dtype(tensor.dtype())?)?;
    }
    Ok(())
}

/// Steps the rows of `groups`, whose gradients are `sums` `[n_groups, C]`.
pub(super) fn row_adam(
    tensors: Moments,
    groups: &RowGroups,
    sums: &Tensor,
    frozen: &[Range<usize>],
    step: &AdamStep,
) -> Result<()> {
    let Moments { param, exp_avg, exp_avg_sq } = tensors;
    let live: Vec<i64> = (0..groups.len()).filter(|&i| !is_frozen(frozen, groups.row(i))).map(|i| i as i64).collect();
    if live.is_empty() {
        return Ok(());
    }
    let at: Vec<i64> = live.iter().map(|&i| groups.row(i as usize) as i64).collect();
    let at = Tensor::new(at, param.device())?;
    let g = sums.index_select(&Tensor::new(live, param.device())?, 0)?;
    let g = (wide(&g)? * step.grad_scale)?;
    let select = |tensor: &Tensor| wide(&tensor.detach().index_select(&at, 0)?);
    let (p, m, v) = (select(param)?, select(exp_avg)?, select(exp_avg_sq)?);
    let m = (&m + ((&g - &m)? * (1.0 - step.beta1))?)?;
    let v = (&v + ((g.sqr()? - &v)? * (1.0 - step.beta2))?)?;
    let p = ((p * step.decay())? - ((&m / (v.sqrt()? + step.eps)?)? * step.row_step_size())?)?;
    let at = at.unsqueeze(1)?.broadcast_as(p.shape())?.contiguous()?;
    for (tensor, new) in [(param, p), (exp_avg, m), (exp_avg_sq, v)] {
        tensor.detach().scatter_set(&at, &new.to_dtype(tensor.dtype())?, 0)?;
    }
    Ok(())
}

pub(super) fn grad_sum_of_squares(param: &Tensor, gradient: Gradient) -> Result<f64> {
    let mut g = wide(&materialized(param, gradient)?)?;
    if let Some(live) = live_rows(param, gradient.frozen)? {
        g = live.broadcast_as(g.shape())?.where_cond(&g, &g.zeros_like()?)?;
    }
    // Metal has no f64.
    g.sqr()?.sum_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar()
}

/// Returns the whole gradient, in the dtype of the parameter.
pub(super) fn materialized(param: &Tensor, gradient: Gradient) -> Result<Tensor> {
    let dense = match gradient.dense {
        Some(dense) => dense.detach(),
        None => Tensor::zeros(param.shape(), param.dtype(), param.device())?,
    };
    match gradient.rows {
        Some(batch) if batch.groups.len() > 0 => {
            let rows: Vec<i64> = (0..batch.groups.len()).map(|i| batch.groups.row(i) as i64).collect();
            dense.index_add(&Tensor::new(rows, param.device())?, &sums(param, batch)?, 0)
        }
        _ => Ok(dense),
    }
}

/// Returns the sum of each group's rows, `[n_groups, C]`, in the dtype of the parameter.
pub(super) fn sums(param: &Tensor, batch: BatchRows) -> Result<Tensor> {
    let groups = batch.groups;
    let (device, (_, width)) = (param.device(), param.dims2()?);
    let (mut order, mut group_of, mut factors) = (Vec::new(), Vec::new(), Vec::new());
    for group in 0..groups.len() {
        order.extend(groups.places(group).iter().map(|&place| place as i64));
        group_of.resize(order.len(), group as i64);
        factors.push(groups.factor(group) * batch.scale);
    }
    let rows = wide(&batch.rows.index_select(&Tensor::new(order, device)?, 0)?)?;
    let sums = Tensor::zeros((groups.len(), width), rows.dtype(), device)?;
    let sums = sums.index_add(&Tensor::new(group_of, device)?, &rows, 0)?;
    let factors = Tensor::new(factors, &Device::Cpu)?.to_dtype(rows.dtype())?.unsqueeze(1)?; // Metal has no f64
    sums.broadcast_mul(&factors.to_device(device)?)?.to_dtype(param.dtype())
}

/// Returns `[V, 1]`, 1 where a row is not frozen, or `None` if no row is frozen.
fn live_rows(param: &Tensor, frozen: &[Range<usize>]) -> Result<Option<Tensor>> {
    if frozen.is_empty() {
        return Ok(None);
    }
    let (n_rows, _) = param.dims2()?;
    let live: Vec<u8> = (0..n_rows).map(|row| u8::from(!is_frozen(frozen, row))).collect();
    Ok(Some(Tensor::from_vec(live, (n_rows, 1), param.device())?))
}

fn overwrite(tensor: &Tensor, new: &Tensor) -> Result<()> {
    if tensor.elem_count() == 0 {
        return Ok(());
    }
    tensor.detach().flatten_all()?.slice_set(&new.flatten_all()?.contiguous()?, 0, 0)
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::kernel::core::kept::Kept;
    use crate::kernel::step::dispatch;

    /// Compares the plain operations with the fused pass, on the CPU, in every dtype and with every kind of gradient.
    #[test]
    fn the_fused_pass_is_the_reference() -> Result<()> {
        let cpu = Device::Cpu;
        let (n_rows, width) = (7, 5);
        let numbers = |n: usize, seed: usize| -> Result<Tensor> {
            let values: Vec<f64> =
                (0..n).map(|i| ((i * 7919 + seed * 104_729 + 77) % 2003) as f64 / 1000.0 - 1.0).collect();
            Tensor::from_vec(values, (n / width, width), &cpu)
        };
        let groups = RowGroups::from_ids(&[6, 1, 1, 0, 6, 1, 3], Some(3));
        let step = AdamStep {
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            step: 2,
            grad_scale: 0.5,
        };
        // The half types round once more or once less: half an ulp of the result.
        for (dtype, bound) in
            [(DType::F32, 1e-6), (DType::F64, 1e-12), (DType::BF16, 4.0 / 256.0), (DType::F16, 2.0 / 1024.0)]
        {
            for (with_dense, with_rows, frozen) in
                [(true, false, vec![]), (false, true, vec![]), (true, true, vec![1..2, 5..7])]
            {
                for row_mode in [false, true] {
                    let all = |seed| -> Result<[Tensor; 3]> {
                        let p = Var::from_tensor(&numbers(n_rows * width, seed)?.to_dtype(dtype)?)?;
                        let m = numbers(n_rows * width, seed + 1)?.to_dtype(dtype)?;
                        let v = numbers(n_rows * width, seed + 2)?.sqr()?.to_dtype(dtype)?;
                        Ok([p.as_tensor().clone(), m, v])
                    };
                    let (ours, plain) = (all(3)?, all(3)?);
                    let dense = numbers(n_rows * width, 9)?.to_dtype(dtype)?;
                    let rows = numbers(7 * width, 10)?.to_dtype(dtype)?;
                    let batch = BatchRows { groups: &groups, rows: &rows, scale: 2.0, kept: &Kept::default() };
                    let gradient = Gradient {
                        dense: with_dense.then_some(&dense),
                        rows: with_rows.then_some(batch),
                        frozen: &frozen,
                        kept: &Kept::default(),
                    };
                    let moments =
                        |all: &[Tensor; 3]| -> [Tensor; 3] { [all[0].clone(), all[1].clone(), all[2].clone()] };
                    let [p, m, v] = &moments(&ours);
                    let fused = Moments { param: p, exp_avg: m, exp_avg_sq: v };
                    let [p, m, v] = &moments(&plain);
                    let composed = Moments { param: p, exp_avg: m, exp_avg_sq: v };
                    if row_mode {
                        dispatch::row_adam(fused, Gradient { rows: Some(batch), ..gradient }, &step)?;
                        row_adam(composed, &groups, &sums(composed.param, batch)?, &frozen, &step)?;
                    } else {
                        dispatch::adamw(fused, gradient, &step)?;
                        adamw(composed, gradient, &step)?;
                        let (left, right) = (
                            dispatch::sum_of_squares(&[(fused.param, gradient)])?,
                            grad_sum_of_squares(composed.param, gradient)?,
                        );
                        assert!((left - right).abs() <= bound * right, "{left} {right}");
                    }
                    for (left, right) in ours.iter().zip(&plain) {
                        let (left, right) = (left.to_dtype(DType::F64)?, right.to_dtype(DType::F64)?);
                        let worst = (left - &right)?.abs()?.max_all()?.to_scalar::<f64>()?;
                        let largest = right.abs()?.max_all()?.to_scalar::<f64>()?;
                        assert!(worst <= bound * largest, "{dtype:?} {with_dense} {with_rows} {row_mode}: {worst}");
                    }
                }
            }
        }
        Ok(())
    }
}
