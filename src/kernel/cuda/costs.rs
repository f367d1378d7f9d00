//! What a pass asks of the driver, counted by the stand-in of `tests/cuda_host`: launches, copies, waits, and the longest
//! chain of steps of a thread that wait for one another. And what several threads see of one another's work.

use std::ffi::{CStr, c_void};

use candle_core::{CustomOp3, DType, Device, Tensor, Var};
use candle_nn::{Optimizer, ParamsAdamW, VarMap};

use super::tests::{TYPES, on, same, shifted};
use crate::GptInputLayer;
use crate::error::Result;
use crate::kernel::gather::GatherAdd;
use crate::kernel::ids::{CheckedIds, IdCheck, Places, RowGroups, Table};
use crate::kernel::step as update;
use crate::optim::{AdamW, RowAdamW, RowGrad, RowOptimizer};

/// What the calling thread has asked for: `Count` of streams.h, in order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    launches: u64,
    copies_in: u64,
    bytes_in: u64,
    copies_out: u64,
    bytes_out: u64,
    bytes_set: u64,
    waits: u64,
    longest_chain: u64,
}

impl Counts {
    /// Returns the counts of this thread since the last call, or `None` on a real device.
    fn take() -> Option<Self> {
        const NAME: &CStr = c"cuda_host_take_counts";
        // SAFETY: looks a name up, whatever its type.
        let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, NAME.as_ptr()) };
        if function.is_null() {
            crate::tests::skipped("on CUDA, as only the stand-in counts");
            return None;
        }
        let mut counts = Self::default();
        // SAFETY: the function of driver.cpp has this type, and writes `N_COUNTS` numbers of 64 bits.
        unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*mut Self)>(function)(&mut counts) };
        Some(counts)
    }

    /// Returns the counts of `work`, and its result.
    fn of<T>(work: impl FnOnce() -> Result<T>) -> Result<Option<(Self, T)>> {
        Self::take();
        let result = work()?;
        Ok(Self::take().map(|counts| (Self { longest_chain: 0, ..counts }, result)))
    }
}

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

/// Tables beyond the 64 KiB that a driver copies at once from any memory: still no wait, from buffers that are reused
/// only when their copy is done.
#[test]
fn large_tables_wait_for_nothing() -> Result<()> {
    let Some(cuda) = crate::tests::cuda() else { return Ok(()) };
    let (n_rows, n) = (50_000, 40_000);
    let table = Var::from_tensor(&on(&cuda, &Tensor::zeros((n_rows, 1), DType::F32, &Device::Cpu)?)?)?;
    let rows = shifted(n, 1, 0, DType::F32, 5)?;
    let rows_there = on(&cuda, &rows)?;
    let here = Var::from_tensor(&Tensor::zeros((n_rows, 1), DType::F32, &Device::Cpu)?)?;
    let mut found = Vec::new();
    let steps = || -> Result<()> {
        for seed in 0..3u32 {
            let ids: Vec<u32> = (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) ^ seed) % n_rows as u32).collect();
            let ids = Tensor::from_vec(ids, n, &Device::Cpu)?;
            let dense = |var: &Var, rows: &Tensor| RowGrad::new(var, &ids, rows)?.to_dense();
            found.push((dense(&table, &rows_there)?, dense(&here, &rows)?));
        }
        Ok(())
    };
    // Nothing runs before the counts are taken, so three buffers are under way.
    if let Some((counts, ())) = Counts::of(steps)? {
        assert_eq!((counts.copies_in, counts.waits), (3, 0));
        assert!(counts.bytes_in > 3 << 16, "{counts:?}");
    }
    for (there, here) in found {
        same(&there, &here, "large tables")?;
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
    let layer = GptInputLayer::new(table(6, 1)?, table(5, 2)?)?.with_id_check(IdCheck::Deferred)?;
    let bad = Tensor::new(&[[5u32, 7, 2]], &cuda)?;
    cuda.synchronize()?; // the tensors are made in this thread and used in others
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
