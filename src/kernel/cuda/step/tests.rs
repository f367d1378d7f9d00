//! Compares optimizer steps and norms on the device with those of the CPU, bit for bit.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::ParamsAdamW;

use super::super::tests::{TYPES, on, same};
use super::super::{CHUNK_BYTES, THREADS_Y};
use super::*;
use crate::GptInputLayer;
use crate::error::Result;
use crate::kernel::core::kept::Kept;
use crate::kernel::core::samples::shifted;
use crate::kernel::ids::RowGroups;
use crate::kernel::step as update;
use crate::optim::{AdamW, ParamGroup, RowAdamW, RowGrad, RowOptimizer};

/// Elements after those that a step may write.
const AFTER: usize = 3;

/// One step's operands. Each begins `leads[i]` elements into memory of its own, which goes on after it.
struct Operands {
    memory: [Tensor; 3],
    views: [Tensor; 3],
    dense: Tensor,
    rows: Tensor,
}

impl Operands {
    fn new(shape: &[usize], n_ids: usize, leads: [usize; 5], dtype: DType, device: &Device) -> Result<Self> {
        let (n, width) = (shape.iter().product::<usize>(), shape.last().copied().unwrap_or(1));
        let part = |n: usize, lead: usize, seed: u32| -> Result<(Tensor, Tensor)> {
            let numbers = shifted(lead + n + AFTER, 1, 0, dtype, seed)?;
            let numbers = if seed == 3 { numbers.sqr()? } else { numbers };
            let memory = on(device, &numbers.flatten_all()?)?;
            let view = memory.narrow(0, lead, n)?;
            Ok((memory, view))
        };
        let state = |i: usize| part(n, leads[i], i as u32 + 1);
        let [p, m, v] = [state(0)?, state(1)?, state(2)?];
        let views = [p.1.reshape(shape)?, m.1.reshape(shape)?, v.1.reshape(shape)?];
        let dense = part(n, leads[3], 4)?.1.reshape(shape)?;
        let rows = part(n_ids * width, leads[4], 5)?.1.reshape((n_ids, width))?;
        Ok(Self { memory: [p.0, m.0, v.0], views, dense, rows })
    }

    fn moments(&self) -> Moments<'_> {
        let [param, exp_avg, exp_avg_sq] = &self.views;
        Moments { param, exp_avg, exp_avg_sq }
    }
}

fn step_of(step: u64, beta1: f64) -> AdamStep {
    let (learning_rate, beta2, eps, weight_decay, grad_scale) = (1e-2, 0.95, 1e-8, 0.1, 0.7);
    AdamStep { learning_rate, beta1, beta2, eps, weight_decay, step, grad_scale }
}

/// Ids that repeat, with the first and the last row of the table among them.
fn groups(n_ids: usize, n_rows: usize, by_frequency: bool) -> RowGroups {
    let ids: Vec<i64> = (0..n_ids).map(|i| ((i * i * 7 + i / 3) % n_rows) as i64).collect();
    let ids: Vec<i64> =
        ids.into_iter().enumerate().map(|(i, id)| if i == 1 { n_rows as i64 - 1 } else { id }).collect();
    RowGroups::from_ids(&ids, Some(2)).by_frequency(by_frequency)
}

/// Steps of every kind on a matrix, each on what the one before has left.
fn matrix(dtype: DType, (n_rows, width): (usize, usize), n_ids: usize, leads: [usize; 5], cuda: &Device) -> Result<()> {
    let here = Operands::new(&[n_rows, width], n_ids, leads, dtype, &Device::Cpu)?;
    let there = Operands::new(&[n_rows, width], n_ids, leads, dtype, cuda)?;
    let frozen = [0..1, n_rows / 3..n_rows / 2, n_rows - 1..n_rows];
    let groups = [groups(n_ids, n_rows, false), groups(n_ids, n_rows, true)];
    let mut step = 0;
    for (beta1, scale) in [(0.9, 1.0), (0.25, 0.3)] {
        for (with_dense, with_rows) in [(true, false), (false, true), (true, true), (false, false)] {
            for frozen in [&frozen[..0], &frozen[..]] {
                step += 1;
                let groups = &groups[step as usize % 2];
                let what = format!("{dtype:?} {n_rows} x {width} {leads:?} {with_dense} {with_rows} {frozen:?} {step}");
                let mut norms = Vec::new();
                for on in [&here, &there] {
                    let kept = Kept::default();
                    let batch = BatchRows { groups, rows: &on.rows, scale, kept: &kept };
                    let dense = with_dense.then_some(&on.dense);
                    let gradient = Gradient { dense, rows: with_rows.then_some(batch), frozen, kept: &Kept::default() };
                    norms.push(update::sum_of_squares(&[(&on.views[0], gradient), (&on.views[0], gradient)])?);
                    update::adamw(on.moments(), gradient, &step_of(step, beta1))?;
                    if with_rows {
                        update::row_adam(on.moments(), gradient, &step_of(step, beta1))?;
                    }
                }
                assert_eq!(norms[0].to_bits(), norms[1].to_bits(), "{what}: {norms:?}");
                assert_eq!(norms[0] > 0.0, with_dense || with_rows, "{what}");
                for (there, here) in there.memory.iter().zip(&here.memory) {
                    same(there, here, &what)?;
                }
                let of_table = |on: &Operands| {
                    let batch = BatchRows { groups, rows: &on.rows, scale, kept: &Kept::default() };
                    update::dense_gradient(&on.views[0], batch)
                };
                same(&of_table(&there)?, &of_table(&here)?, &what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn every_alignment_of_every_operand_of_a_step() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    for dtype in TYPES {
        let per_chunk = CHUNK_BYTES / dtype.size_in_bytes();
        for width in [3 * per_chunk, 3 * per_chunk + 1, 1] {
            for lead in [1, per_chunk / 2, per_chunk] {
                matrix(dtype, (13, width), 20, [0; 5], &cuda)?;
                matrix(dtype, (13, width), 20, [lead; 5], &cuda)?;
                for operand in 0..5 {
                    let mut leads = [0; 5];
                    leads[operand] = lead;
                    matrix(dtype, (13, width), 20, leads, &cuda)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn steps_of_many_shapes() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    for dtype in TYPES {
        for (n_rows, width, n_ids) in [(5, 768, 3), (300, 130, 900), (7, 1600, 40), (3, 20_000, 6), (2000, 8, 64)] {
            matrix(dtype, (n_rows, width), n_ids, [0; 5], &cuda)?;
        }
    }
    // More rows than a grid has blocks.
    matrix(DType::F32, (MAX_BLOCKS_X * THREADS_Y as usize + 77, 1), 50, [0; 5], &cuda)
}

/// Norms, biases, kernels of convolutions: tensors whose rows do not matter.
#[test]
fn steps_of_what_is_no_table() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    for dtype in TYPES {
        let shapes: [&[usize]; 9] =
            [&[], &[1], &[768], &[1023], &[1025], &[4096], &[3, 5, 7], &[40_000], &[2, 3, 4, 1024]];
        for shape in shapes {
            let here = Operands::new(shape, 1, [0; 5], dtype, &Device::Cpu)?;
            let there = Operands::new(shape, 1, [0; 5], dtype, &cuda)?;
            for step in 1..3 {
                let mut norms = Vec::new();
                for on in [&here, &there] {
                    let gradient = Gradient { dense: Some(&on.dense), rows: None, frozen: &[], kept: &Kept::default() };
                    norms.push(update::sum_of_squares(&[(&on.views[0], gradient)])?);
                    update::adamw(on.moments(), gradient, &step_of(step, 0.9))?;
                }
                let what = format!("{dtype:?} {shape:?} {step}");
                assert_eq!(norms[0].to_bits(), norms[1].to_bits(), "{what}: {norms:?}");
                for (there, here) in there.memory.iter().zip(&here.memory) {
                    same(there, here, &what)?;
                }
            }
        }
        // Without rows nothing is launched.
        let empty = Tensor::zeros((0, 4), dtype, &cuda)?;
        let gradient = Gradient { dense: Some(&empty), rows: None, frozen: &[], kept: &Kept::default() };
        assert_eq!(update::sum_of_squares(&[(&empty, gradient)])?, 0.0);
    }
    Ok(())
}

/// From the outside: both optimizers over a layer's tables, with clipping and frozen rows, for several steps.
#[test]
fn optimizers_stand_on_them() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    for dtype in TYPES {
        let run = |device: &Device| -> Result<[Vec<Tensor>; 2]> {
            let mut all = [Vec::new(), Vec::new()];
            for (by_rows, all) in [false, true].into_iter().zip(&mut all) {
                let table = |n_rows, seed| -> Result<Var> {
                    Ok(Var::from_tensor(&on(device, &shifted(n_rows, 24, 0, dtype, seed)?)?)?)
                };
                let (wte, wpe) = (table(11, 1)?, table(7, 2)?);
                let layer = GptInputLayer::new(wte.as_tensor().clone(), wpe.as_tensor().clone())?;
                let bias = Var::from_tensor(&on(device, &shifted(1, 24, 0, dtype, 3)?.flatten_all()?)?)?;
                let named = [("wte", wte.clone()), ("wpe", wpe.clone()), ("bias", bias.clone())];
                let params = ParamsAdamW { lr: 1e-2, weight_decay: 0.1, ..Default::default() };
                let mut adamw = AdamW::with_groups([ParamGroup::new(named.clone())], params.clone())?;
                let mut row_adamw = RowAdamW::with_groups([ParamGroup::new(named)], params)?;
                adamw.set_max_grad_norm(Some(0.5))?;
                adamw.freeze_rows(&wte, [0, 1, 5])?;
                row_adamw.freeze_rows(&wte, [5])?;
                for step in 0..3 {
                    let ids = Tensor::new(&[[0u32, 10, 5, 5], [1, 1, 9, step]], &Device::Cpu)?;
                    let grad = on(device, &shifted(8, 24, 0, dtype, 10 + step)?)?.reshape((2, 4, 24))?;
                    let rows: Vec<RowGrad> = layer
                        .row_grads(&ids, step as usize, &grad)?
                        .into_iter()
                        .map(|rows| rows.with_scale(0.5))
                        .collect();
                    match by_rows {
                        true => row_adamw.step_rows(&rows)?,
                        false => {
                            let mut grads = candle_core::backprop::GradStore::default();
                            grads.insert(&bias, on(device, &shifted(1, 24, 0, dtype, 20)?.flatten_all()?)?);
                            adamw.step_with_rows(&grads, &rows)?;
                            all.push(Tensor::new(vec![adamw.grad_norm().unwrap_or_default()], device)?);
                        }
                    }
                }
                for var in [&wte, &wpe, &bias] {
                    all.push(var.as_tensor().clone());
                    if let Some(state) = adamw.state(var).or(row_adamw.state(var)) {
                        all.extend([state.exp_avg.clone(), state.exp_avg_sq.clone()]);
                    }
                }
            }
            Ok(all)
        };
        for (there, here) in run(&cuda)?.iter().flatten().zip(run(&Device::Cpu)?.iter().flatten()) {
            same(there, here, &format!("{dtype:?}"))?;
        }
    }
    Ok(())
}
