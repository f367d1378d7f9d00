//! What a pass asks of the driver: launches, copies, waits, and the longest chain of steps of a thread that wait for
//! one another. And what several threads see of one another's work.

use candle_core::backprop::GradStore;
use candle_core::{CustomOp3, DType, Device, Tensor, Var};
use candle_nn::{Optimizer, ParamsAdamW, VarMap};

use super::counts::{Counts, refusing_above};
use super::tests::{TYPES, on, same};
use crate::GptInputLayer;
use crate::error::Result;
use crate::kernel::core::samples::shifted;
use crate::kernel::gather::GatherAdd;
use crate::kernel::ids::{CheckedIds, IdCheck, Places, RowGroups, Table};
use crate::kernel::step as update;
use crate::optim::{AdamW, RowAdamW, RowGrad, RowOptimizer};

/// Returns ids as they are on text: the one of rank r comes up 1 / r times as often as the first.
fn zipf(n_rows: usize, n: usize) -> Vec<u32> {
    let mut state = 7u64;
    let id = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let uniform = (state >> 11) as f64 / (1u64 << 53) as f64;
        ((n_rows as f64).powf(uniform) as usize - 1).min(n_rows - 1) as u32
    };
    std::iter::repeat_with(id).take(n).collect()
}

const N_ROWS: usize = 300;
const WIDTH: usize = 96;
const IDS: (usize, usize) = (8, 64);

fn layer(cuda: &Device) -> Result<GptInputLayer> {
    let table = |n_rows, seed| on(cuda, &shifted(n_rows, WIDTH, 0, DType::F32, seed)?);
    let layer = GptInputLayer::new(table(N_ROWS, 1)?, table(IDS.1, 2)?)?.trainable(&VarMap::new(), "")?;
    layer.forward_leaf(&Tensor::zeros((1, 1), DType::U32, &Device::Cpu)?)?; // loads the kernels
    Ok(layer)
}

/// Ids on the host: one copy of the ids, one launch, no wait, and no zeros before the result.
#[test]
fn forward_copies_the_ids_and_launches_once() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    let layer = layer(&cuda)?;
    let ids = Tensor::from_vec(zipf(N_ROWS, IDS.0 * IDS.1), IDS, &Device::Cpu)?;
    let expected = Counts { launches: 1, copies_in: 1, bytes_in: 4 * 8 * 64, ..Counts::default() };
    for _ in 0..2 {
        let Some((counts, _)) = Counts::of(|| layer.forward(&ids))? else { return Ok(()) };
        assert_eq!(counts, expected);
        let Some((counts, _)) = Counts::of(|| layer.forward_leaf(&ids))? else { return Ok(()) };
        assert_eq!(counts, expected);
    }
    // Ids on the device: nothing but the launch if they are checked later, else they are fetched once.
    let ids = on(&cuda, &ids)?;
    let deferred = layer.clone().with_id_check(IdCheck::Deferred)?;
    let Some((counts, _)) = Counts::of(|| deferred.forward(&ids))? else { return Ok(()) };
    assert_eq!(counts, Counts { launches: 1, ..Counts::default() });
    let Some((counts, _)) = Counts::of(|| layer.forward(&ids))? else { return Ok(()) };
    assert_eq!((counts.copies_out, counts.bytes_out, counts.waits), (1, 4 * 8 * 64, 1));
    Ok(())
}

/// Ids of a large batch, which a driver would not copy at once from any memory: one copy of each operand, and no wait.
#[test]
fn large_batches_wait_for_nothing() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    let (b, t) = (64, 1024);
    let tables = |device: &Device| -> Result<GptInputLayer> {
        let table = |n_rows, seed| on(device, &shifted(n_rows, 4, 0, DType::F32, seed)?);
        GptInputLayer::new(table(N_ROWS, 1)?, table(t, 2)?)
    };
    let (here, there) = (tables(&Device::Cpu)?, tables(&cuda)?);
    let ids = Tensor::from_vec(zipf(N_ROWS, b * t), (b, t), &Device::Cpu)?;
    there.forward(&ids)?; // loads the kernels
    cuda.synchronize()?;
    let copies = |copies_in, bytes_in| Counts { launches: 1, copies_in, bytes_in, ..Counts::default() };
    let of_ids = 4 * (b * t) as u64;
    let Some((counts, _)) = Counts::of(|| there.forward(&ids))? else { return Ok(()) };
    assert_eq!(counts, copies(1, of_ids));
    // Positions that repeat over the sequences are copied once, not once for each.
    let reversed = Tensor::from_vec((0..t as u32).rev().collect::<Vec<_>>(), t, &Device::Cpu)?;
    let of_each = reversed.broadcast_as((b, t))?.contiguous()?;
    for (positions, bytes) in [(&reversed, 4 * t as u64), (&reversed.unsqueeze(0)?, 4 * t as u64), (&of_each, of_ids)] {
        let Some((counts, sum)) = Counts::of(|| there.forward_at(&ids, positions))? else { return Ok(()) };
        assert_eq!(counts, copies(2, of_ids + bytes), "{:?}", positions.dims());
        same(&sum, &here.forward_at(&ids, positions)?, "positions")?;
    }
    Ok(())
}

/// Where frozen rows begin and end goes up once in a step, whether or not a norm reads it, too.
#[test]
fn frozen_rows_are_copied_once() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    let var = Var::from_tensor(&on(&cuda, &shifted(N_ROWS, WIDTH, 0, DType::F32, 1)?)?)?;
    let mut grads = GradStore::default();
    grads.insert(&var, on(&cuda, &shifted(N_ROWS, WIDTH, 0, DType::F32, 2)?)?);
    for (max_norm, of_norm) in [
        (None, Counts::default()),
        (Some(1.0), Counts { launches: 2, copies_out: 1, bytes_out: 8, waits: 1, ..Counts::default() }),
    ] {
        let mut adamw = AdamW::new(vec![var.clone()], ParamsAdamW::default())?;
        adamw.set_max_grad_norm(max_norm)?;
        adamw.freeze_rows(&var, [0, 1, 5])?;
        adamw.step(&grads)?; // makes the moments
        cuda.synchronize()?;
        let Some((counts, ())) = Counts::of(|| Ok(adamw.step(&grads)?))? else { return Ok(()) };
        let expected = Counts { launches: 1 + of_norm.launches, copies_in: 1, bytes_in: 2 * 2 * 8, ..of_norm };
        assert_eq!(Counts { bytes_out: counts.bytes_out.min(8), ..counts }, expected, "{max_norm:?}");
    }
    Ok(())
}

/// A step that cannot have the memory it needs for one table leaves all of them alone, and is not counted.
#[test]
fn a_step_without_memory_changes_nothing() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    let table = |n_rows| -> Result<Var> { Ok(Var::from_tensor(&on(&cuda, &shifted(n_rows, 64, 0, DType::F32, 1)?)?)?) };
    let vars = [table(10)?, table(5000)?];
    let rows = |var: &Var| -> Result<RowGrad> {
        let (n, width) = var.dims2()?;
        let ids = Tensor::arange(0u32, n as u32, &Device::Cpu)?;
        RowGrad::new(var, &ids, &on(&cuda, &shifted(n, width, 0, DType::F32, 2)?)?)
    };
    let rows = [rows(&vars[0])?, rows(&vars[1])?];
    let mut adamw = AdamW::new(vars.to_vec(), ParamsAdamW::default())?;
    let mut by_rows = RowAdamW::new(vars.to_vec(), 1e-2)?;
    let mut step = |by_row: bool| if by_row { by_rows.step_rows(&rows) } else { adamw.step_rows(&rows) };
    for by_row in [false, true] {
        step(by_row)?; // makes the moments
        let before = on(&Device::Cpu, &vars[0])?;
        let Some(result) = refusing_above(1 << 20, || step(by_row)) else { return Ok(()) };
        assert!(result.is_err_and(|error| error.to_string().contains("OUT_OF_MEMORY")), "{by_row}");
        same(&vars[0], &before, "the first table")?;
        step(by_row)?;
    }
    for var in &vars {
        let counted = [adamw.state(var), by_rows.state(var)].map(|state| state.map(|state| state.step));
        assert_eq!(counted, [Some(2); 2]);
    }
    Ok(())
}

/// Words of the table of groups on the device: rows, starts, places, and of each long group its number and its parts.
fn words(groups: &RowGroups) -> u64 {
    let parts = (0..groups.len()).map(|i| groups.places(i).len().div_ceil(256)).filter(|&n| n > 1);
    let (n_long, n_parts) = parts.fold((0, 0), |(n_long, n_parts), n| (n_long + 1, n_parts + n));
    let n_places: usize = (0..groups.len()).map(|i| groups.places(i).len()).sum();
    (groups.len() + groups.len() + 1 + n_places + 2 * n_parts + n_long + n_long + 1) as u64
}

/// The backward pass and a step: one table up for each of `wte` and `wpe`, in 32 bits, and no wait.
#[test]
fn backward_and_step_copy_a_table_each() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    let layer = layer(&cuda)?;
    let (b, t) = IDS;
    let numbers = zipf(N_ROWS, b * t);
    let ids = Tensor::from_vec(numbers.clone(), IDS, &Device::Cpu)?;
    let of_ids: Vec<i64> = numbers.into_iter().map(i64::from).collect();
    let bytes_in = 4 * (words(&RowGroups::from_ids(&of_ids, None)) + words(&RowGroups::counted(0, t, b)));
    let grad = on(&cuda, &shifted(b * t, WIDTH, 0, DType::F32, 3)?.reshape((b, t, WIDTH))?)?;

    let checked = CheckedIds::new(&ids, Table::Tokens, N_ROWS, &cuda)?;
    let op = GatherAdd { places: Places::Counted { start: 0, t }.for_ids(&checked)?, ids: checked.clone() };
    let [wte, wpe] = [0, 1].map(|i| layer.vars()[i].clone());
    let backward = || Ok(op.bwd(&wte, &wpe, checked.tensor(), &grad, &grad)?);
    backward()?; // makes the buffer in page-locked memory
    cuda.synchronize()?;
    let Some((counts, _)) = Counts::of(backward)? else { return Ok(()) };
    let bytes_set = (4 * WIDTH * (N_ROWS + t)) as u64;
    assert_eq!(counts, Counts { launches: 2, copies_in: 2, bytes_in, bytes_set, ..Counts::default() });

    let params = ParamsAdamW::default();
    let (mut adamw, mut by_rows) = (AdamW::new(layer.vars(), params.clone())?, RowAdamW::new(layer.vars(), 1e-3)?);
    let mut clipping = AdamW::new(layer.vars(), params)?;
    clipping.set_max_grad_norm(Some(1.0))?;
    let mut step = |optimizer: usize| -> Result<()> {
        match optimizer {
            0 => layer.backward_step(&ids, 0, &grad, &mut adamw),
            1 => layer.backward_step(&ids, 0, &grad, &mut by_rows),
            _ => layer.backward_step(&ids, 0, &grad, &mut clipping),
        }
    };
    // With clipping the norm's kernels and its copy to the host, but no other table.
    let of_norm = Counts { launches: 8, copies_out: 1, bytes_out: 16, waits: 1, ..Counts::default() };
    for (optimizer, expected) in [
        (0, Counts { launches: 4, ..Counts::default() }),
        (1, Counts { launches: 4, ..Counts::default() }),
        (2, of_norm),
    ] {
        step(optimizer)?; // makes the moments
        cuda.synchronize()?;
        let Some((counts, ())) = Counts::of(|| step(optimizer))? else { return Ok(()) };
        assert_eq!(
            Counts { bytes_out: counts.bytes_out.min(16), ..counts },
            Counts { copies_in: 2, bytes_in, ..expected },
            "{optimizer}"
        );
    }
    Ok(())
}

/// On text and at worst no thread takes more than a few hundred steps one after the other, where a token comes 4000
/// or 65 536 times.
#[test]
fn frequent_tokens_are_no_chain() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    let (n, width) = (64 * 1024, 64);
    for (name, all_ids) in [("zipf", zipf(50_257, n)), ("one id", vec![7; n]), ("none", Vec::new())] {
        for dtype in TYPES {
            let what = format!("{name} {dtype:?}");
            let (n_rows, n) = if dtype == DType::F32 { (50_257, n) } else { (997, n / 8) };
            let ids: Vec<u32> = all_ids.iter().take(n).map(|id| id % n_rows as u32).collect();
            let n = ids.len();
            let ids = Tensor::from_vec(ids, n, &Device::Cpu)?;
            let rows = match n {
                0 => Tensor::zeros((0, width), dtype, &Device::Cpu)?,
                _ => shifted(n, width, 0, dtype, 3)?,
            };
            let values = shifted(n_rows, width, 0, dtype, 4)?;
            let run = |device: &Device| -> Result<Vec<Tensor>> {
                let var = Var::from_tensor(&on(device, &values)?)?;
                let rows = RowGrad::new(&var, &ids, &on(device, &rows)?)?;
                let mut results = vec![rows.to_dense()?];
                let mut adamw = AdamW::new(vec![var.clone()], ParamsAdamW::default())?;
                adamw.set_max_grad_norm(Some(0.5))?;
                adamw.step_rows(std::slice::from_ref(&rows))?;
                results.push(Tensor::new(&[adamw.grad_norm().unwrap_or(f64::NAN)], device)?);
                RowAdamW::new(vec![var.clone()], 1e-2)?.step_rows(&[rows])?;
                results.push(var.as_tensor().clone());
                // The look-up's own backward pass.
                let checked = CheckedIds::new(&ids, Table::Tokens, n_rows, device)?;
                let gather = crate::kernel::gather::Gather { ids: checked.clone() };
                let grad = on(device, &shifted(n.max(1), width, 0, dtype, 3)?)?.narrow(0, 0, n)?;
                results.extend(candle_core::CustomOp2::bwd(&gather, &var, checked.tensor(), &grad, &grad)?.0);
                Ok(results)
            };
            Counts::take();
            let there = run(&cuda)?;
            if let Some(counts) = Counts::take() {
                assert!(counts.longest_chain <= 300, "{what}: {counts:?}");
                assert!(n == 0 || counts.longest_chain >= 100, "nothing was counted: {what} {counts:?}");
            }
            for (there, here) in there.iter().zip(&run(&Device::Cpu)?) {
                same(there, here, &what)?;
            }
        }
    }
    Ok(())
}

/// Counted positions of more sequences than one part has places.
#[test]
fn positions_of_many_sequences() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    let (b, t, width) = (700, 3, 5);
    for dtype in TYPES {
        let grad = shifted(b * t, width, 0, dtype, 3)?.reshape((b, t, width))?;
        let run = |device: &Device| -> Result<Option<Tensor>> {
            let (wte, wpe) = (shifted(6, width, 0, dtype, 1)?, shifted(t, width, 0, dtype, 2)?);
            let (wte, wpe) = (Var::from_tensor(&on(device, &wte)?)?, Var::from_tensor(&on(device, &wpe)?)?);
            let ids = Tensor::zeros((b, t), DType::U32, &Device::Cpu)?;
            let ids = CheckedIds::new(&ids, Table::Tokens, 6, device)?;
            let op = GatherAdd { places: Places::Counted { start: 0, t }.for_ids(&ids)?, ids: ids.clone() };
            let grad = on(device, &grad)?;
            Ok(op.bwd(&wte, &wpe, ids.tensor(), &grad, &grad)?.1)
        };
        match (run(&cuda)?, run(&Device::Cpu)?) {
            (Some(there), Some(here)) => same(&there, &here, "positions")?,
            other => panic!("{other:?}"),
        }
        let groups = RowGroups::counted(0, t, b);
        let rows = shifted(b * t, width, 0, dtype, 3)?;
        let kept = crate::kernel::core::kept::Kept::default();
        let batch = update::BatchRows { groups: &groups, rows: &rows, scale: 1.0, kept: &kept };
        let dense = update::dense_gradient(&shifted(t, width, 0, dtype, 2)?, batch)?;
        same(&run(&cuda)?.unwrap_or(dense.clone()), &dense, "rows and look-up add in one order")?;
    }
    Ok(())
}

/// The note of one thread is read by another, and none is lost that is made after a report.
#[test]
fn a_thread_sees_the_notes_of_others() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    let table = |n_rows, seed| on(&cuda, &shifted(n_rows, 16, 0, DType::F32, seed)?);
    let layer = GptInputLayer::new(table(6, 1)?, table(5, 2)?)?;
    let bad = Tensor::new(&[[5u32, 7, 2]], &cuda)?;
    cuda.synchronize()?; // the tensors are made in this thread and used in others
    let layer = layer.with_id_check(IdCheck::Deferred)?; // waits itself
    let look_up = || {
        let run = || -> Result<()> {
            layer.forward(&bad)?;
            Ok(cuda.synchronize()?) // of this thread's stream alone
        };
        std::thread::scope(|scope| scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    };
    let expected = "token id 7 at [0, 1] is outside the vocabulary of 6 (valid ids: 0 to 5)";
    let asked = || layer.check_ids().err().map(|error| error.to_string());
    for round in 0..3 {
        look_up()?;
        assert_eq!(asked().as_deref(), Some(expected), "{round}");
    }
    assert_eq!(asked(), None);
    // Without a wait in the thread that looked up.
    let forward = || layer.forward(&bad).map(drop);
    std::thread::scope(|scope| scope.spawn(forward).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))?;
    assert_eq!(asked().as_deref(), Some(expected));
    Ok(())
}
