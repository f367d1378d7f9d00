//! Checks the optimizers against torch's, Candle's and themselves.

// Long because each promise of the optimizers is a short test on the same small tables.

use std::collections::HashMap;

use crate::support::{Failures, assert_bits_eq, assert_close, bits, golden, golden_tensors, properties};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::embedding::{EmbeddingOptions, TokenTable};
use candle_gpt_input::optim::{AdamW, ParamGroup, RowAdamW, RowGrad, RowOptimizer, clip_grad_norm};
use candle_gpt_input::{GptInputLayer, Result};
use candle_nn::{Optimizer, ParamsAdamW, VarMap};
use proptest::prelude::*;

const CPU: Device = Device::Cpu;
const STEPS: usize = 100;

/// Returns multiples of 1/512 between -2 and 2, the same as generate_optim.py.
pub(crate) fn numbers(shape: &[usize], seed: usize, dtype: DType) -> Tensor {
    let n: usize = shape.iter().product();
    let number = |i: usize| (((i * 7919 + seed * 104_729 + 12_345) % 2003) as f64 - 1001.0) / 512.0;
    Tensor::from_vec((0..n).map(number).collect::<Vec<_>>(), shape, &CPU).unwrap().to_dtype(dtype).unwrap()
}

/// Returns ids, some repeated, the same as generate_optim.py.
fn ids(n: usize, seed: usize, n_rows: usize) -> Tensor {
    let id = |i: usize| ((i * i * 31 + seed * 17 + i / 2) % n_rows) as u32;
    Tensor::from_vec((0..n).map(id).collect::<Vec<_>>(), n, &CPU).unwrap()
}

fn var(shape: &[usize], seed: usize, dtype: DType) -> Var {
    Var::from_tensor(&numbers(shape, seed, dtype)).unwrap()
}

#[track_caller]
fn assert_states(what: &str, golden: &HashMap<String, Tensor>, vars: &[Var], state: impl Fn(&Var) -> [Tensor; 2]) {
    for (number, var) in vars.iter().enumerate() {
        let golden = |part: &str| &golden[&format!("{what}.{number}.{part}")];
        let [exp_avg, exp_avg_sq] = state(var);
        for (part, tensor) in [("param", var.as_tensor()), ("exp_avg", &exp_avg), ("exp_avg_sq", &exp_avg_sq)] {
            // torch fuses the last few elements of a tensor differently: a half value may round to its neighbour, and
            // later steps continue from there.
            let bound = match var.dtype() {
                DType::BF16 => 1.0 / 128.0,
                DType::F16 => 1.0 / 1024.0,
                _ => 1e-6,
            };
            assert_close(&format!("{what}.{number}.{part}"), tensor, golden(part), bound);
            // A whole number of torch's vectors gives the same bits, unless the gradient's norm, summed in another
            // order, takes part. SparseAdam has no tails, but a square root that does not always round to nearest.
            let exact = match what.starts_with("rows") || what == "layer" {
                true => part != "param",
                false => var.elem_count().is_multiple_of(16) && !what.contains("clipped"),
            };
            if exact {
                assert_bits_eq(tensor, golden(part));
            }
        }
    }
}

fn params(lr: f64, (beta1, beta2): (f64, f64), eps: f64, weight_decay: f64) -> ParamsAdamW {
    ParamsAdamW { lr, beta1, beta2, eps, weight_decay }
}

fn dense_state(optimizer: &AdamW) -> impl Fn(&Var) -> [Tensor; 2] {
    |var| {
        let state = optimizer.state(var).unwrap();
        [state.exp_avg.clone(), state.exp_avg_sq.clone()]
    }
}

fn row_state(optimizer: &RowAdamW) -> impl Fn(&Var) -> [Tensor; 2] {
    |var| {
        let state = optimizer.state(var).unwrap();
        [state.exp_avg.clone(), state.exp_avg_sq.clone()]
    }
}

const SHAPES: [&[usize]; 4] = [&[11, 7], &[13], &[9, 1], &[4, 16]];

#[derive(Default)]
struct Case {
    max_norm: Option<f64>,
    groups: bool,
    schedule: bool,
    skip: bool,
}

fn dense_case(
    golden: &HashMap<String, Tensor>,
    name: &str,
    dtype: DType,
    defaults: ParamsAdamW,
    case: Case,
) -> Result<()> {
    let vars: Vec<Var> = SHAPES.iter().enumerate().map(|(number, shape)| var(shape, 1000 + number, dtype)).collect();
    let named = |from: usize, to: usize| ParamGroup::new((from..to).map(|i| (format!("p{i}"), vars[i].clone())));
    let groups = if case.groups {
        let second = named(2, 4).with_lr_scale(0.25).with_weight_decay(0.0).with_betas(0.8, 0.99).with_eps(1e-6);
        vec![named(0, 2), second]
    } else {
        vec![named(0, 4)]
    };
    let lr = defaults.lr;
    let mut optimizer = AdamW::with_groups(groups, defaults)?;
    optimizer.set_max_grad_norm(case.max_norm)?;
    for t in 0..STEPS {
        if case.schedule {
            optimizer.set_learning_rate(lr * (t + 1) as f64 / STEPS as f64);
        }
        let mut grads = GradStore::default();
        for (number, var) in vars.iter().enumerate() {
            if !(case.skip && number == 1 && t % 3 == 0) {
                grads.insert(var, numbers(var.dims(), t * 10 + number, dtype));
            }
        }
        optimizer.step(&grads)?;
    }
    assert_states(name, golden, &vars, dense_state(&optimizer));
    Ok(())
}

#[test]
fn adamw_is_torchs_over_a_hundred_steps() -> Result<()> {
    let golden = golden_tensors("optim.safetensors");
    let default = || params(1e-3, (0.9, 0.999), 1e-8, 1e-2);
    let gpt = || params(6e-4, (0.9, 0.95), 1e-8, 0.1);
    for (name, params) in [
        ("default", default()),
        ("gpt", gpt()),
        ("lerp_from_the_gradient", params(1e-2, (0.3, 0.9), 1e-3, 0.0)),
        ("no_momentum", params(1e-2, (0.0, 0.5), 1e-8, 0.5)),
    ] {
        for (dtype, kind) in [(DType::F32, "float32"), (DType::F64, "float64")] {
            dense_case(&golden, &format!("{name}.{kind}"), dtype, params.clone(), Case::default())?;
        }
    }
    dense_case(&golden, "gpt.bfloat16", DType::BF16, gpt(), Case::default())?;
    dense_case(&golden, "gpt.float16", DType::F16, gpt(), Case::default())?;
    dense_case(&golden, "groups", DType::F32, default(), Case { groups: true, ..Default::default() })?;
    dense_case(&golden, "clipped", DType::F32, default(), Case { max_norm: Some(0.5), ..Default::default() })?;
    let clipped_groups = Case { max_norm: Some(20.0), groups: true, ..Default::default() };
    dense_case(&golden, "clipped_groups", DType::F64, gpt(), clipped_groups)?;
    dense_case(&golden, "not_clipped", DType::F32, default(), Case { max_norm: Some(1e6), ..Default::default() })?;
    dense_case(&golden, "scheduled", DType::F32, gpt(), Case { schedule: true, ..Default::default() })?;
    dense_case(&golden, "skipped", DType::F32, default(), Case { skip: true, ..Default::default() })
}

fn rows_case(
    golden: &HashMap<String, Tensor>,
    name: &str,
    shape: [usize; 2],
    params: ParamsAdamW,
    dtype: DType,
    n_ids: impl Fn(usize) -> usize,
    padding_idx: Option<i64>,
) -> Result<()> {
    let table = var(&shape, 1000, dtype);
    let wte = TokenTable::try_from(table.as_tensor().clone())?
        .with_options(EmbeddingOptions::default().with_padding_idx(padding_idx))?;
    // A position table that is not a variable takes no part.
    let layer = GptInputLayer::new(wte, Tensor::zeros((20, shape[1]), dtype, &CPU)?)?;
    let mut optimizer = RowAdamW::with_groups([ParamGroup::new([("wte", table.clone())])], params)?;
    for t in 0..STEPS {
        let n = n_ids(t);
        layer.backward_step(&ids(n, t, shape[0]), 0, &numbers(&[n, shape[1]], t, dtype), &mut optimizer)?;
    }
    assert_states(name, golden, &[table], row_state(&optimizer));
    Ok(())
}

#[test]
fn row_adamw_is_torchs_sparse_adam() -> Result<()> {
    let golden = golden_tensors("optim.safetensors");
    for (dtype, kind) in [(DType::F32, "float32"), (DType::F64, "float64")] {
        let name = format!("rows.{kind}");
        rows_case(&golden, &name, [23, 5], params(1e-3, (0.9, 0.999), 1e-8, 0.0), dtype, |_| 12, None)?;
        let name = format!("rows_betas.{kind}");
        rows_case(&golden, &name, [7, 16], params(1e-2, (0.5, 0.95), 1e-6, 0.0), dtype, |_| 12, None)?;
    }
    let defaults = || params(1e-2, (0.9, 0.999), 1e-8, 0.0);
    rows_case(&golden, "rows_padding", [9, 3], defaults(), DType::F32, |_| 12, Some(4))?;
    // A step without ids counts.
    let n_ids = |t| if t % 4 == 1 { 0 } else { 12 };
    rows_case(&golden, "rows_empty", [9, 1], defaults(), DType::F32, n_ids, None)
}

#[test]
fn a_layers_tables_step_as_torchs() -> Result<()> {
    let golden = golden_tensors("optim.safetensors");
    let (wte, wpe) = (var(&[19, 6], 1000, DType::F32), var(&[8, 6], 1001, DType::F32));
    let layer = GptInputLayer::new(wte.as_tensor().clone(), wpe.as_tensor().clone())?;
    let mut counted = RowAdamW::new(layer.vars(), 1e-2)?;
    for t in 0..STEPS {
        let (ids, grad) = (ids(15, t, 19).reshape((3, 5))?, numbers(&[3, 5, 6], t, DType::F32));
        let x = layer.forward_leaf_at(&ids, 2)?;
        assert_bits_eq(&x, &layer.forward_at(&ids, 2)?);
        let mut grads = (x.as_tensor() * &grad)?.sum_all()?.backward()?;
        let grad = grads.remove(&x).unwrap();
        if t % 2 == 0 {
            layer.backward_step(&ids, 2, &grad, &mut counted)?;
        } else {
            let position_ids = Tensor::arange(2u32, 7, &CPU)?; // the same positions, one by one
            layer.backward_step(&ids, &position_ids, &grad, &mut counted)?;
        }
    }
    assert_states("layer", &golden, &[wte, wpe], row_state(&counted));
    Ok(())
}

#[test]
fn candles_adamw_agrees() -> Result<()> {
    let (ours, theirs) = (var(&[5, 3], 1, DType::F32), var(&[5, 3], 1, DType::F32));
    let params = params(1e-2, (0.9, 0.99), 1e-8, 0.1);
    let mut our_adamw = AdamW::new(vec![ours.clone()], params.clone())?;
    let mut their_adamw = candle_nn::AdamW::new(vec![theirs.clone()], params)?;
    for _ in 0..20 {
        let loss = |x: &Var| (x.as_tensor() - 1.0)?.sqr()?.mean_all();
        our_adamw.backward_step(&loss(&ours)?)?;
        their_adamw.backward_step(&loss(&theirs)?)?;
    }
    assert_close("candle", &ours, &theirs, 1e-5);
    assert_eq!(our_adamw.learning_rate(), 1e-2);
    Ok(())
}

fn random_rows(n_rows: usize, width: usize, n: usize, seed: usize, dtype: DType) -> (Tensor, Tensor) {
    (ids(n, seed, n_rows), numbers(&[n, width], seed + 7, dtype))
}

/// Returns the gradient of a gather of `ids` as a whole table, from this crate's own kernel.
fn materialized(table: &Var, ids: &Tensor, rows: &Tensor) -> Result<Tensor> {
    let layer = TokenTable::try_from(table.as_tensor().clone())?;
    let mut grads = (layer.forward(ids)? * rows)?.sum_all()?.backward()?;
    Ok(grads.remove(table).unwrap())
}

#[test]
fn rows_are_the_whole_gradient_bit_for_bit() -> Result<()> {
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
        for (n_rows, width, n) in [(9, 5, 14), (1, 1, 3), (700, 96, 500), (40, 1, 60)] {
            for (with_head, max_norm) in [(false, None), (true, None), (false, Some(0.5)), (true, Some(0.5))] {
                let (by_rows, whole) = (var(&[n_rows, width], 1, dtype), var(&[n_rows, width], 1, dtype));
                let params = params(1e-2, (0.9, 0.99), 1e-8, 0.1);
                let mut row_adamw = AdamW::new(vec![by_rows.clone()], params.clone())?;
                let mut adamw = AdamW::new(vec![whole.clone()], params)?;
                row_adamw.set_max_grad_norm(max_norm)?;
                adamw.set_max_grad_norm(max_norm)?;
                for t in 0..5 {
                    let (ids, rows) = random_rows(n_rows, width, n, t, dtype);
                    let head = numbers(&[n_rows, width], t + 50, dtype);
                    let (mut grads, mut whole_grads) = (GradStore::default(), GradStore::default());
                    let mut gradient = materialized(&whole, &ids, &rows)?;
                    if with_head {
                        gradient = (&head + gradient)?;
                        grads.insert(&by_rows, head);
                    }
                    whole_grads.insert(&whole, gradient);
                    row_adamw.step_with_rows(&grads, &[RowGrad::new(&by_rows, &ids, &rows)?])?;
                    adamw.step(&whole_grads)?;
                    assert_eq!(row_adamw.grad_norm(), adamw.grad_norm());
                    assert_bits_eq(&by_rows, &whole);
                }
                let ((left, right), n) = ((row_adamw.state(&by_rows).unwrap(), adamw.state(&whole).unwrap()), 5);
                assert_eq!((left.step, right.step), (n, n));
                assert_bits_eq(&left.exp_avg, &right.exp_avg);
                assert_bits_eq(&left.exp_avg_sq, &right.exp_avg_sq);
            }
        }
    }
    Ok(())
}

#[test]
fn a_tied_table_steps_as_with_its_own_gradient() -> Result<()> {
    let step = |leaf: bool| -> Result<(Vec<Var>, Option<f64>)> {
        let varmap = VarMap::new();
        let (wte, wpe) = (numbers(&[11, 6], 1, DType::F32), numbers(&[5, 6], 2, DType::F32));
        let layer = GptInputLayer::new(wte, wpe)?.trainable(&varmap, "")?;
        let mut adamw = AdamW::from_varmap(&varmap, params(1e-2, (0.9, 0.95), 1e-8, 0.1))?;
        adamw.set_max_grad_norm(Some(1.0))?;
        for t in 0..4 {
            let input_ids = ids(8, t, 11).reshape((2, 4))?;
            let loss = |x: &Tensor| -> Result<Tensor> {
                let logits = layer.lm_head()?.forward(&x.tanh()?)?.flatten_to(1)?;
                Ok(candle_nn::loss::cross_entropy(&logits, &ids(8, t + 1, 11))?)
            };
            if leaf {
                let x = layer.forward_leaf(&input_ids)?;
                let mut grads = loss(&x)?.backward()?;
                let rows = layer.row_grads(&input_ids, 0, &grads.remove(&x).unwrap())?;
                adamw.step_with_rows(&grads, &rows)?;
            } else {
                adamw.step(&loss(&layer.forward(&input_ids)?)?.backward()?)?;
            }
        }
        Ok((layer.vars(), adamw.grad_norm()))
    };
    let ((by_rows, norm), (whole, whole_norm)) = (step(true)?, step(false)?);
    for (by_rows, whole) in by_rows.iter().zip(&whole) {
        assert_bits_eq(by_rows, whole);
    }
    assert_eq!(norm, whole_norm);
    Ok(())
}

#[test]
fn frozen_rows_keep_every_bit() -> Result<()> {
    for dtype in [DType::F32, DType::BF16] {
        let table = var(&[50, 3], 1, dtype);
        let (mut adamw, mut row_adamw) =
            (AdamW::new_lr(vec![table.clone()], 1e-2)?, RowAdamW::new(vec![table.clone()], 1e-2)?);
        let frozen = [0, 1, 2, 7, 30, 31, 49, 7];
        let step = |adamw: &mut AdamW, row_adamw: &mut RowAdamW, t: usize| -> Result<()> {
            let (ids, rows) = random_rows(50, 3, 60, t, dtype);
            let mut grads = GradStore::default();
            grads.insert(&table, numbers(&[50, 3], t, dtype));
            adamw.step_with_rows(&grads, &[RowGrad::new(&table, &ids, &rows)?])?;
            row_adamw.step_rows(&[RowGrad::new(&table, &ids, &rows)?])
        };
        // All rows have a state when some are frozen, so momentum and decay would move them.
        step(&mut adamw, &mut row_adamw, 0)?;
        adamw.freeze_rows(&table, frozen)?;
        row_adamw.freeze_rows(&table, frozen)?;
        let free = table.copy()?;
        let state = adamw.state(&table).unwrap().exp_avg.copy()?;
        for t in 1..5 {
            step(&mut adamw, &mut row_adamw, t)?;
        }
        for row in 0..50 {
            let same =
                |now: &Tensor, before: &Tensor| -> Result<bool> { Ok(bits(&now.get(row)?) == bits(&before.get(row)?)) };
            assert_eq!(same(&table, &free)?, frozen.contains(&row), "row {row}");
            assert_eq!(
                same(&adamw.state(&table).unwrap().exp_avg, &state)?,
                frozen.contains(&row),
                "state of row {row}"
            );
        }
        // The norm leaves out frozen rows; here nothing else has a gradient.
        adamw.freeze_rows(&table, 0..50)?;
        adamw.set_max_grad_norm(Some(1.0))?;
        let before = table.copy()?;
        adamw.step_rows(&[RowGrad::new(&table, &ids(9, 1, 50), &numbers(&[9, 3], 1, dtype))?])?;
        assert_eq!(adamw.grad_norm(), Some(0.0));
        assert_bits_eq(&table, &before);
    }
    Ok(())
}

/// Makes four variables, an optimizer of the first three in two groups, and one by rows of the last.
fn two_optimizers(dtype: DType) -> Result<(Vec<Var>, AdamW, RowAdamW)> {
    let vars = vec![var(&[6, 3], 1, dtype), var(&[4], 2, dtype), var(&[2], 3, dtype), var(&[5, 2], 4, dtype)];
    let groups = [
        ParamGroup::new([("a", vars[0].clone()), ("b", vars[1].clone())]).with_weight_decay(0.3),
        ParamGroup::new([("never", vars[2].clone())]),
    ];
    let adamw = AdamW::with_groups(groups, params(1e-3, (0.9, 0.99), 1e-8, 0.1))?;
    let rows =
        RowAdamW::with_groups([ParamGroup::new([("rows", vars[3].clone())])], params(1e-2, (0.8, 0.9), 1e-7, 0.2))?;
    Ok((vars, adamw, rows))
}

/// Makes steps of both; the second variable has a gradient in every other one, the third never.
fn step_both(vars: &[Var], adamw: &mut AdamW, rows: &mut RowAdamW, steps: std::ops::Range<usize>) -> Result<()> {
    for t in steps {
        let mut grads = GradStore::default();
        grads.insert(&vars[0], numbers(&[6, 3], t, vars[0].dtype()));
        if t % 2 == 0 {
            grads.insert(&vars[1], numbers(&[4], t + 1, vars[1].dtype()));
        }
        adamw.step(&grads)?;
        rows.step_rows(&[RowGrad::new(&vars[3], &ids(7, t, 5), &numbers(&[7, 2], t, vars[3].dtype()))?])?;
    }
    Ok(())
}

#[test]
fn resuming_gives_the_bits_of_not_having_stopped() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (path, rows_path) = (folder.path().join("optimizer.safetensors"), folder.path().join("rows.safetensors"));
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
        let (vars, mut adamw, mut rows) = two_optimizers(dtype)?;
        // Values that JSON readers often miss by a unit in the last place.
        adamw.set_learning_rate(1.0 / 3.0 * 1e-3);
        adamw.set_max_grad_norm(Some(0.1 + 0.2))?;
        adamw.freeze_rows(&vars[0], [1, 2, 5])?;
        step_both(&vars, &mut adamw, &mut rows, 0..7)?;
        adamw.save(&path)?;
        rows.save(&rows_path)?;
        let (later, mut resumed, mut resumed_rows) = two_optimizers(dtype)?;
        for (later, var) in later.iter().zip(&vars) {
            later.set(var)?;
        }
        resumed.load(&path)?;
        resumed_rows.load(&rows_path)?;
        assert_eq!(resumed.learning_rate(), adamw.learning_rate());
        step_both(&vars, &mut adamw, &mut rows, 7..12)?;
        step_both(&later, &mut resumed, &mut resumed_rows, 7..12)?;
        for (later, var) in later.iter().zip(&vars) {
            assert_bits_eq(later, var);
        }
        assert_eq!(resumed.state(&later[0]).unwrap().step, 12);
        assert_eq!(resumed.state(&later[1]).unwrap().step, 6);
        assert!(resumed.state(&later[2]).is_none());
    }
    Ok(())
}

#[test]
fn a_state_of_another_optimizer_is_refused_and_changes_nothing() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("optimizer.safetensors");
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
        let (vars, mut adamw, mut rows) = two_optimizers(dtype)?;
        adamw.set_learning_rate(0.5);
        step_both(&vars, &mut adamw, &mut rows, 0..12)?;
        adamw.save(&path)?;
        let mut failures = Failures::default();
        let of_rows = RowAdamW::new(vec![vars[0].clone()], 1.0)?.load(&path);
        failures.error(of_rows, "the state of AdamW, not of RowAdamW");
        let group = |name: &str, shape: &[usize]| ParamGroup::new([(name.to_string(), var(shape, 1, dtype))]);
        let a_and_b = ParamGroup::new([("a", var(&[3, 6], 1, dtype)), ("b", var(&[4], 1, dtype))]);
        for (groups, expected) in [
            (vec![group("a", &[6, 3]), group("c", &[4])], "not in the file: c; only in the file: b, never"),
            (vec![group("a", &[6, 3])], "the state has 2 groups of parameters, not 1"),
            (vec![a_and_b, group("never", &[2])], "the state of `a` is"),
        ] {
            let mut other = AdamW::with_groups(groups, Default::default())?;
            let before = other.learning_rate();
            failures.error(other.load(&path), expected);
            failures.holds(other.learning_rate() == before, format_args!("{expected}: the learning rate has changed"));
        }
        failures.error(adamw.load(golden("optim.safetensors")), "not the state of an optimizer");
        assert_eq!(adamw.state(&vars[0]).unwrap().step, 12);
    }
    Ok(())
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() -> Result<()> {
    let run = || -> Result<Vec<Tensor>> {
        let (n_rows, width) = (3000, 65);
        let vars = vec![
            var(&[n_rows, width], 1, DType::F32),
            var(&[n_rows, width], 2, DType::BF16),
            var(&[70_000], 3, DType::F32),
        ];
        let mut adamw = AdamW::new_lr(vars.clone(), 1e-2)?;
        adamw.set_max_grad_norm(Some(1.0))?;
        let mut rows = RowAdamW::new(vars[..2].to_vec(), 1e-2)?;
        let mut norms = Vec::new();
        for t in 0..3 {
            let mut grads = GradStore::default();
            grads.insert(&vars[0], numbers(&[n_rows, width], t, DType::F32));
            grads.insert(&vars[2], numbers(&[70_000], t, DType::F32));
            let of = |table: &Var| {
                let (ids, rows) = random_rows(n_rows, width, 4000, t, table.dtype());
                RowGrad::new(table, &ids, &rows)
            };
            let batch = [of(&vars[0])?, of(&vars[1])?];
            adamw.step_with_rows(&grads, &batch)?;
            rows.step_rows(&batch)?;
            norms.push(adamw.grad_norm().unwrap());
        }
        let mut all: Vec<Tensor> = vars.iter().map(|var| var.copy()).collect::<candle_core::Result<_>>()?;
        all.push(Tensor::new(norms, &CPU)?);
        Ok(all)
    };
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let alone = pool(1).install(run)?;
    for threads in [2, 3, 5] {
        for (left, right) in pool(threads).install(run)?.iter().zip(&alone) {
            assert_bits_eq(left, right);
        }
    }
    Ok(())
}

#[test]
fn clipping_for_several_optimizers_is_the_optimizers_own() -> Result<()> {
    let make = || vec![var(&[6, 3], 1, DType::F32), var(&[5], 2, DType::F32)];
    let (vars, own) = (make(), make());
    let grads_of = |vars: &[Var]| {
        let mut grads = GradStore::default();
        grads.insert(&vars[1], numbers(&[5], 8, DType::F32));
        grads
    };
    let rows_of = |vars: &[Var]| RowGrad::new(&vars[0], &ids(7, 1, 6), &numbers(&[7, 3], 9, DType::F32));
    for max_norm in [0.25, 1e6] {
        let (mut grads, mut rows) = (grads_of(&vars), [rows_of(&vars)?]);
        let norm = clip_grad_norm(&vars[1..], &mut grads, &mut rows, max_norm)?;
        let mut expected = numbers(&[5], 8, DType::F64).sqr()?.sum_all()?.to_scalar::<f64>()?;
        let whole = materialized(&vars[0], &ids(7, 1, 6), &numbers(&[7, 3], 9, DType::F32))?;
        expected += whole.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
        assert!((norm - expected.sqrt()).abs() <= 1e-12 * norm);
        let mut outside = AdamW::new_lr(vars.clone(), 1e-2)?;
        outside.step_with_rows(&grads, &rows)?;
        let mut inside = AdamW::new_lr(own.clone(), 1e-2)?;
        inside.set_max_grad_norm(Some(max_norm))?;
        inside.step_with_rows(&grads_of(&own), &[rows_of(&own)?])?;
        assert!((inside.grad_norm().unwrap() - norm).abs() <= 1e-12 * norm); // another order of the parameters
        for (left, right) in vars.iter().zip(&own) {
            assert_close("clipped", left, right, 1e-6);
        }
    }
    Ok(())
}

#[test]
fn frequencies_and_padding_are_obeyed() -> Result<()> {
    let options = EmbeddingOptions::default().with_padding_idx(-2).with_scale_grad_by_freq(true);
    let (by_rows, whole) = (var(&[7, 4], 1, DType::F32), var(&[7, 4], 1, DType::F32));
    let wpe = Tensor::zeros((9, 4), DType::F32, &CPU)?;
    let layer = |wte: &Var| -> Result<GptInputLayer> {
        GptInputLayer::new(TokenTable::try_from(wte.as_tensor().clone())?.with_options(options)?, wpe.clone())
    };
    let (row_layer, whole_layer) = (layer(&by_rows)?, layer(&whole)?);
    let (mut rows, mut adamw) = (AdamW::new_lr(row_layer.vars(), 1e-2)?, AdamW::new_lr(whole_layer.vars(), 1e-2)?);
    for t in 0..5 {
        // Multiples of 12: the quotients are exact.
        let (ids, grad) = (ids(8, t, 7), (numbers(&[8, 4], t, DType::F32).round()? * 12.0)?);
        row_layer.backward_step(&ids, 0, &grad, &mut rows)?;
        adamw.backward_step(&(whole_layer.forward(&ids)? * grad)?.sum_all()?)?;
    }
    assert_close("frequencies", &by_rows, &whole, 1e-6);
    Ok(())
}

#[test]
fn rows_as_a_whole_table_are_the_graphs_gradient() -> Result<()> {
    let plain = EmbeddingOptions::default();
    let padded = plain.with_padding_idx(3);
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
        for (options, (v, p, c), dims) in
            [(plain, (11, 7, 5), (3, 4)), (padded, (40, 300, 130), (2, 290)), (plain, (4, 1, 1), (0, 1))]
        {
            let (wte, wpe) = (var(&[v, c], 1, dtype), var(&[p, c], 2, dtype));
            let table = TokenTable::try_from(wte.as_tensor().clone())?.with_options(options)?;
            let layer = GptInputLayer::new(table, wpe.as_tensor().clone())?;
            let ids = ids(dims.0 * dims.1, 5, v).reshape(dims)?;
            let grad = numbers(&[dims.0, dims.1, c], 9, dtype);
            let mut grads = (layer.forward(&ids)? * &grad)?.sum_all()?.backward()?;
            let rows = layer.row_grads(&ids, 0, &grad)?;
            assert_eq!(rows.len(), 2);
            for row_grad in &rows {
                // Adding zero turns -0 into 0.
                let whole = grads.remove(row_grad.var()).unwrap();
                assert_bits_eq(&(row_grad.to_dense()? + 0.)?, &(whole + 0.)?);
                let twice = row_grad.clone().with_scale(2.0).to_dense()?;
                assert_bits_eq(&twice, &(row_grad.to_dense()? * 2.0)?);
            }
        }
    }
    Ok(())
}

/// A step by rows allocates nothing in proportion to the vocabulary, and little beside the hidden states.
#[test]
fn a_step_by_rows_allocates_little() -> Result<()> {
    for (v, (b, t, c)) in [(3000, (4, 64, 96)), (90_000, (4, 64, 96)), (3000, (2, 512, 64))] {
        let (wte, wpe) = (numbers(&[v, c], 1, DType::F32), numbers(&[t, c], 2, DType::F32));
        let layer = GptInputLayer::new(wte, wpe)?.trainable(&VarMap::new(), "")?;
        let mut adam = RowAdamW::new(layer.vars(), 1e-3)?;
        let (ids, grad) = (ids(b * t, 3, v).reshape((b, t))?, numbers(&[b, t, c], 3, DType::F32));
        let step = |adam: &mut RowAdamW| -> Result<()> {
            drop(layer.forward_leaf(&ids)?);
            layer.backward_step(&ids, 0, &grad, adam)
        };
        step(&mut adam)?; // makes the state
        let n_bytes = crate::allocated(|| step(&mut adam))?;
        assert!(n_bytes < 3 * b * t * c * size_of::<f32>(), "{n_bytes} bytes for {v} rows and {b} x {t} x {c}");
    }
    Ok(())
}

#[test]
fn gradients_that_do_not_fit_are_refused_and_change_nothing() -> Result<()> {
    let (table, bias) = (var(&[4, 3], 1, DType::F32), var(&[5], 2, DType::F32));
    let before = table.copy()?;
    let mut adamw =
        AdamW::with_groups([ParamGroup::new([("table", table.clone()), ("bias", bias.clone())])], Default::default())?;
    let store = |bias_grad: Tensor| {
        let mut grads = GradStore::default();
        grads.insert(&table, numbers(&[4, 3], 1, DType::F32));
        grads.insert(&bias, bias_grad);
        grads
    };
    let mut failures = Failures::default();
    for (bias_grad, expected) in [
        (numbers(&[4], 1, DType::F32), "optimizer: the gradient of `bias` has shape [4], expected [5]"),
        (numbers(&[5], 1, DType::F64), "optimizer: the gradient of `bias` has dtype F64, expected F32"),
        (bias.as_tensor().clone(), "optimizer: the gradient of `bias` shares its memory with `bias`: pass a copy"),
    ] {
        failures.error(adamw.step_with_rows(&store(bias_grad), &[]), expected);
    }
    adamw.set_learning_rate(f64::NAN);
    let not_finite = "optimizer: `learning_rate` is NaN, which is not a finite number of at least 0";
    failures.error(adamw.step_with_rows(&store(numbers(&[5], 1, DType::F32)), &[]), not_finite);
    adamw.set_learning_rate(1e-3);
    let (three, rows) = (ids(3, 1, 4), numbers(&[3, 3], 1, DType::F32));
    let row_grad = RowGrad::new(&table, &three, &rows)?;
    let twice = adamw.step_rows(&[row_grad.clone(), row_grad]);
    failures.error(twice, "optimizer: two row gradients for `table` in one step");
    let stranger = var(&[4, 3], 1, DType::F32);
    let of_none = adamw.step_rows(&[RowGrad::new(&stranger, &three, &rows)?]);
    failures.error(of_none, "optimizer: a variable of shape [4, 3] is not one of its 2 parameters");
    assert_bits_eq(&table, &before);
    assert!(adamw.state(&table).is_none());
    Ok(())
}

#[test]
fn gradients_of_rows_must_fit_their_ids_and_table() -> Result<()> {
    let (table, bias) = (var(&[4, 3], 1, DType::F32), var(&[5], 2, DType::F32));
    let (three, rows) = (ids(3, 1, 4), numbers(&[3, 3], 1, DType::F32));
    let outside = Tensor::new(&[0u32, 4, 1], &CPU)?;
    let mut failures = Failures::default();
    for (var, ids, rows, expected) in [
        (&table, &outside, &rows, "token id 4 at [1] is outside the vocabulary of 4"),
        (
            &table,
            &three,
            &numbers(&[4, 3], 1, DType::F32),
            "the gradient has shape [4, 3], expected the shape of the ids, [3], followed by 3",
        ),
        (&table, &three, &numbers(&[3, 3], 1, DType::BF16), "the gradient has dtype BF16, but wte has F32"),
        (&bias, &three, &rows, "two dimensions"),
    ] {
        failures.error(RowGrad::new(var, ids, rows), expected);
    }
    Ok(())
}

#[test]
fn settings_that_make_no_sense_are_refused() -> Result<()> {
    let (table, bias) = (var(&[4, 3], 1, DType::F32), var(&[5], 2, DType::F32));
    let group = ParamGroup::new([("table", table.clone()), ("bias", bias.clone())]);
    let mut adamw = AdamW::with_groups([group], Default::default())?;
    let mut failures = Failures::default();
    let outside = adamw.freeze_rows(&table, 2..5);
    failures.error(outside, "optimizer: row 4 is outside `table`, which has 4 rows");
    let no_matrix = adamw.freeze_rows(&bias, 0..1);
    failures.error(no_matrix, "optimizer: `bias` has shape [5]; only a matrix has rows to freeze");
    failures.error(adamw.set_max_grad_norm(Some(-1.0)), "`max_grad_norm` is -1");
    let one_variable = AdamW::new_lr(vec![table.clone(), bias.clone(), table.clone()], 1e-3);
    failures.error(one_variable, "optimizer: `0` and `2` are one variable: give it once");
    let one_name = AdamW::with_groups([ParamGroup::new([("a", table), ("a", bias)])], Default::default());
    failures.error(one_name, "optimizer: two parameters are called `a`");
    let integers = AdamW::new_lr(vec![Var::zeros(3, DType::U32, &CPU)?], 1e-3);
    failures.error(integers, "optimizer: `0` holds U32, expected f32, f64, f16 or bf16");
    let beta1 = AdamW::with_groups([], ParamsAdamW { beta1: 1.0, ..Default::default() });
    failures.error(beta1, "optimizer: `beta1` is 1, which is not at least 0 and below 1");
    Ok(())
}

#[test]
fn a_layer_steps_variables_and_valid_ids_alone() -> Result<()> {
    let table = var(&[4, 3], 1, DType::F32);
    let before = table.copy()?;
    let mut adamw = AdamW::new_lr(vec![table.clone()], 1e-3)?;
    let (three, rows) = (ids(3, 1, 4), numbers(&[3, 3], 1, DType::F32));
    let wpe = numbers(&[6, 3], 1, DType::F32);
    let mut failures = Failures::default();
    let fixed = GptInputLayer::new(numbers(&[4, 3], 1, DType::F32), wpe.clone())?;
    let no_variable = fixed.backward_step(&three, 0, &rows, &mut adamw);
    failures.error(no_variable, "neither table of the layer is a variable");
    let layer = GptInputLayer::new(table.as_tensor().clone(), wpe)?;
    let too_long = layer.backward_step(&three, 4, &rows, &mut adamw);
    failures.error(too_long, "the sequence ends at position 7");
    let outside = layer.backward_step(&Tensor::new(&[9i64, 0, 0], &CPU)?, 0, &rows, &mut adamw);
    failures.error(outside, "token id 9");
    assert_bits_eq(&table, &before);
    Ok(())
}

proptest! {
    #![proptest_config(properties(60))]

    /// For odd widths, one column, no ids, repeated ids, any stride and every dtype, a step by rows equals a step of a
    /// copy of those rows alone.
    #[test]
    fn rows_step_as_they_would_alone(
        (n_rows, width, n) in (1usize..40, 1usize..70, 0usize..50),
        seed in 0usize..1000,
        kind in 0usize..4,
        strided in any::<bool>(),
    ) {
        let dtype = [DType::F32, DType::F64, DType::BF16, DType::F16][kind];
        let (mut ids, mut rows) = random_rows(n_rows, width, n, seed, dtype);
        if strided {
            ids = Tensor::stack(&[&ids, &ids], 1).unwrap().narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
            rows = rows.t().unwrap().contiguous().unwrap().t().unwrap();
        }
        let table = var(&[n_rows, width], seed, dtype);
        let before = table.copy().unwrap();
        let mut optimizer = RowAdamW::new(vec![table.clone()], 1e-2).unwrap();
        optimizer.step_rows(&[RowGrad::new(&table, &ids, &rows).unwrap()]).unwrap();
        let listed = ids.to_vec1::<u32>().unwrap();
        for row in 0..n_rows {
            let places: Vec<u32> = (0..n as u32).filter(|&i| listed[i as usize] as usize == row).collect();
            let now = table.narrow(0, row, 1).unwrap();
            if places.is_empty() {
                assert_bits_eq(&now, &before.narrow(0, row, 1).unwrap());
                continue;
            }
            let one = Var::from_tensor(&before.narrow(0, row, 1).unwrap()).unwrap();
            let places = Tensor::new(places, &CPU).unwrap();
            let (zeros, rows) = (places.zeros_like().unwrap(), rows.contiguous().unwrap().index_select(&places, 0).unwrap());
            let mut alone = RowAdamW::new(vec![one.clone()], 1e-2).unwrap();
            alone.step_rows(&[RowGrad::new(&one, &zeros, &rows).unwrap()]).unwrap();
            assert_bits_eq(&now, &one);
        }
    }
}
