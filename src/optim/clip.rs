//! Gradient clipping by global norm.

use candle_core::Var;
use candle_core::backprop::GradStore;
use candle_nn::ParamsAdamW;

use super::params::{Job, Params};
use super::{ParamGroup, RowGrad};
use crate::error::Result;
use crate::kernel::{Gradient, Kept};

/// Multiplies all gradients by `min(1, max_norm / (norm + 1e-6))` and returns the norm:
/// `torch.nn.utils.clip_grad_norm_`.
///
/// Use it with several optimizers over one model; for a single one,
/// [`AdamW::set_max_grad_norm`](super::AdamW::set_max_grad_norm) clips without writing the gradients. The norm covers
/// the gradients of `vars`, and `rows`, whose tables may be among `vars` or not.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_gpt_input::optim::clip_grad_norm;
///
/// let x = Var::new(&[1.5f32, 2.], &Device::Cpu)?;
/// let mut grads = x.sqr()?.sum_all()?.backward()?; // [3, 4]
/// assert_eq!(clip_grad_norm(&[x.clone()], &mut grads, &mut [], 1.0)?, 5.0);
/// assert_eq!(format!("{:.4?}", grads.get(&x).unwrap().to_vec1::<f32>()?), "[0.6000, 0.8000]");
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
///
/// # Errors
/// [`OptimError`](crate::error::OptimError) for a gradient of another shape, dtype or device than its variable; nothing
/// is changed then.
#[doc(alias = "clip_grad_norm_")]
pub fn clip_grad_norm(vars: &[Var], grads: &mut GradStore, rows: &mut [RowGrad], max_norm: f64) -> Result<f64> {
    clip(vars, grads, rows, max_norm, |params, jobs| params.grad_norm(jobs))
}

/// Does what [`clip_grad_norm`] does, where `sum_of` returns the sum of the squares of each variable's gradient.
pub(crate) fn clip_grad_norm_by(
    vars: &[Var],
    grads: &mut GradStore,
    rows: &mut [RowGrad],
    max_norm: f64,
    sum_of: impl Fn(&Var, Gradient) -> Result<f64>,
) -> Result<f64> {
    clip(vars, grads, rows, max_norm, |params, jobs| {
        let kept = Kept::default();
        let none = Gradient { dense: None, rows: None, frozen: &[], kept: &kept };
        let mut sum = 0.0;
        for (index, param) in params.params.iter().enumerate() {
            let job = jobs.iter().find(|job| job.param == index);
            sum += sum_of(&param.var, job.map_or(none, |job| job.gradient(&[])))?;
        }
        Ok(sum.sqrt())
    })
}

fn clip(
    vars: &[Var],
    grads: &mut GradStore,
    rows: &mut [RowGrad],
    max_norm: f64,
    norm_of: impl FnOnce(&Params, &[Job]) -> Result<f64>,
) -> Result<f64> {
    let mut all = vars.to_vec();
    for rows in rows.iter() {
        if all.iter().all(|var| var.id() != rows.var().id()) {
            all.push(rows.var().clone());
        }
    }
    let named = all.iter().enumerate().map(|(number, var)| (number.to_string(), var.clone()));
    let params = Params::new([ParamGroup::new(named)], &ParamsAdamW::default())?;
    let norm = norm_of(&params, &params.jobs(|var| grads.get(var).cloned(), rows)?)?;
    let coefficient = coefficient(norm, max_norm);
    if coefficient == 1.0 {
        return Ok(norm);
    }
    let scaled = vars.iter().filter_map(|var| Some((var, grads.get(var)?)));
    let scaled = scaled.map(|(var, grad)| Ok((var, (grad * coefficient)?))).collect::<Result<Vec<_>>>()?;
    scaled.into_iter().for_each(|(var, grad)| drop(grads.insert(var, grad)));
    rows.iter_mut().for_each(|rows| rows.scale *= coefficient);
    Ok(norm)
}

/// Returns the factor of gradients of norm `norm`: NaN if the norm is NaN, as in PyTorch.
pub(super) fn coefficient(norm: f64, max_norm: f64) -> f64 {
    let coefficient = max_norm / (norm + 1e-6);
    if coefficient > 1.0 { 1.0 } else { coefficient }
}
