//! AdamW whose state is cut over ranks has the bits of AdamW.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::Result;
use candle_gpt_input::error::{Error, OptimError, RanksError};
use candle_gpt_input::optim::{AdamW, RowGrad, ZeroRedundancyOptimizer};
use candle_gpt_input::ranks::{Ranks, Threads};

const SHAPES: [&[usize]; 4] = [&[5, 3], &[2], &[4, 70], &[1]];

fn values(seed: usize, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 300.0 - 1.7;
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?)
}

fn variables(dtype: DType) -> Vec<Var> {
    let var = |(seed, shape): (usize, &&[usize])| Var::from_tensor(&values(seed, shape, dtype).unwrap()).unwrap();
    SHAPES.iter().enumerate().map(var).collect()
}

/// Returns the gradients of a step: the first table has whole ones and rows, the third has rows alone, the last none.
fn gradients(step: usize, vars: &[Var]) -> Result<(GradStore, Vec<RowGrad>)> {
    let mut grads = GradStore::default();
    for var in &vars[..2] {
        grads.insert(var, values(step, var.dims(), var.dtype())?);
    }
    let ids = Tensor::new(&[3u32, 0, 3], &Device::Cpu)?;
    let rows = |var: &Var| RowGrad::new(var, &ids, &values(step + 9, &[3, var.dim(1)?], var.dtype())?);
    Ok((grads, vec![rows(&vars[0])?.with_scale(0.25), rows(&vars[2])?]))
}

fn bits(vars: &[Var]) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    for var in vars {
        all.extend(var.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?.into_iter().map(f64::to_bits));
    }
    Ok(all)
}

fn optimizer(vars: &[Var]) -> Result<AdamW> {
    let mut adamw = AdamW::new_lr(vars.to_vec(), 0.1)?;
    adamw.set_max_grad_norm(Some(0.7))?;
    Ok(adamw)
}

#[test]
fn steps_have_the_bits_of_adamw_on_every_number_of_ranks() {
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
        let vars = variables(dtype);
        let mut adamw = optimizer(&vars).unwrap();
        for step in 0..4 {
            let (grads, rows) = gradients(step, &vars).unwrap();
            adamw.step_with_rows(&grads, &rows).unwrap();
        }
        let expected = (bits(&vars).unwrap(), adamw.grad_norm().unwrap().to_bits());
        for size in [1, 2, 3, 4, 8] {
            let all = Threads::run(size, |ranks| -> Result<_> {
                let vars = variables(dtype);
                let mut optimizer = ZeroRedundancyOptimizer::new(ranks, optimizer(&vars)?)?;
                for step in 0..4 {
                    let (grads, rows) = gradients(step, &vars)?;
                    optimizer.step_with_rows(ranks, &grads, &rows)?;
                }
                let n_own = optimizer.state(&vars[2]).map(|state| state.exp_avg.elem_count());
                assert!(
                    n_own.is_some_and(|n| (280 / size..=280usize.div_ceil(size)).contains(&n))
                        && optimizer.state(&vars[3]).is_none()
                );
                Ok((bits(&vars)?, optimizer.grad_norm().unwrap_or_default().to_bits()))
            });
            assert!(all.into_iter().all(|found| found.unwrap() == expected), "{dtype:?} on {size}");
        }
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let (state, weights) = (folder.path().join("optimizer.safetensors"), variables(DType::F32));
    let whole = variables(DType::F32);
    let mut adamw = optimizer(&whole).unwrap();
    for (steps, size) in [(0..2, 4), (2..3, 3), (3..5, 1)] {
        let results = Threads::run(size, |ranks| -> Result<Option<Vec<Tensor>>> {
            let vars = variables(DType::F32);
            let mut from = optimizer(&vars)?;
            if steps.start > 0 {
                vars.iter().zip(&weights).try_for_each(|(var, weight)| var.set(weight))?;
                from.load(&state)?;
            }
            let mut optimizer = ZeroRedundancyOptimizer::new(ranks, from)?;
            for step in steps.clone() {
                let (grads, rows) = gradients(step, &vars)?;
                optimizer.step_with_rows(ranks, &grads, &rows)?;
            }
            let whole = optimizer.consolidate(ranks)?;
            if ranks.rank() > 0 {
                return Ok(None);
            }
            whole.save(&state)?;
            Ok(Some(vars.iter().map(|var| var.as_tensor().clone()).collect()))
        });
        let saved = results.into_iter().map(Result::unwrap).next().flatten().unwrap();
        weights.iter().zip(&saved).for_each(|(weight, saved)| weight.set(saved).unwrap());
        for step in steps {
            let (grads, rows) = gradients(step, &whole).unwrap();
            adamw.step_with_rows(&grads, &rows).unwrap();
        }
        assert_eq!(bits(&weights).unwrap(), bits(&whole).unwrap());
    }
}

#[test]
fn frozen_rows_and_other_gradients_are_refused() {
    let errors = Threads::run(2, |ranks| {
        let vars = variables(DType::F32);
        let mut frozen = optimizer(&vars).unwrap();
        frozen.freeze_rows(&vars[0], [1]).unwrap();
        let error = ZeroRedundancyOptimizer::new(ranks, frozen).unwrap_err();
        assert!(matches!(error, Error::Optim(OptimError::FrozenRows { .. })), "{error}");
        let mut optimizer = ZeroRedundancyOptimizer::new(ranks, optimizer(&vars).unwrap()).unwrap();
        let mut grads = GradStore::default();
        grads.insert(&vars[1], values(1, &[2 + ranks.rank()], DType::F32).unwrap());
        let error = optimizer.step_with_rows(ranks, &grads, &[]).unwrap_err();
        assert_eq!(bits(&vars).unwrap(), bits(&variables(DType::F32)).unwrap());
        // One rank alone with another variable, another gradient, another learning rate.
        let of = |var: &Var, seed| {
            let mut grads = GradStore::default();
            grads.insert(var, values(seed, var.dims(), DType::F32).unwrap());
            grads
        };
        let rank = ranks.rank();
        let mut refused = |grads: &GradStore, learning_rate| {
            optimizer.set_learning_rate(learning_rate);
            let error = optimizer.step_with_rows(ranks, grads, &[]).unwrap_err();
            assert_eq!(bits(&vars).unwrap(), bits(&variables(DType::F32)).unwrap());
            error
        };
        for (grads, learning_rate) in
            [(of(&vars[rank], 1), 0.1), (of(&vars[0], 5 + rank), 0.1), (of(&vars[0], 1), 0.1 + rank as f64)]
        {
            let error = refused(&grads, learning_rate);
            assert!(matches!(error, Error::Ranks(RanksError::Differ { rank: 1, .. })), "{error}");
        }
        let nan = refused(&of(&vars[0], 1), if rank == 1 { f64::NAN } else { 0.1 });
        assert_eq!(matches!(nan, Error::Ranks(RanksError::Failed { rank: 1, .. })), rank == 0, "{nan}");
        error
    });
    assert!(matches!(errors[0], Error::Ranks(RanksError::Failed { rank: 1, .. })), "{}", errors[0]);
    assert!(matches!(errors[1], Error::Optim(OptimError::Gradient { property: "shape", .. })), "{}", errors[1]);
}
