//! Optimizer steps and the norm of gradients.

#[cfg(test)]
mod tests;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, SyncOnDrop,
};
use candle_core::{CudaDevice, CudaStorage, Layout, Result, Tensor};

use crate::kernel::core::element::Element;
use crate::kernel::cuda::batch::{Sums, SumsArg};
use crate::kernel::cuda::modules::function;
use crate::kernel::cuda::staging::upload;
use crate::kernel::cuda::{
    MAX_BLOCKS_X, Module, Number, by_dtype, contiguous, grid, launch, module, on_cuda, too_short, view,
};
use crate::kernel::step::{AdamStep, AdamWRule, BatchRows, Gradient, LANES, Moments, NormTasks, RowRule, Rule};

const SUM_OF_SQUARES: Module = module!("sum_of_squares");

/// The width of a tensor whose rows do not matter: any cut will do.
const FLAT_WIDTH: usize = 1024;
/// Threads of a block in which each takes one element.
const THREADS: usize = 256;

/// `Gradient` of gradient.cuh, field by field.
#[repr(C)]
#[derive(Clone, Copy)]
struct GradientArg {
    dense: u64,
    batch: SumsArg,
    frozen: u64,
    n_frozen: u64,
}

/// `Step` of adam.cuh, field by field.
#[repr(C)]
struct StepJob<R> {
    param: u64,
    exp_avg: u64,
    exp_avg_sq: u64,
    gradient: GradientArg,
    n: u64,
    width: u64,
    rule: R,
}

/// `Squares` of sum_of_squares.cu, field by field.
#[repr(C)]
struct SquaresJob {
    sums: u64,
    gradient: GradientArg,
    n: u64,
    width: u64,
}

/// `Runs` of sum_of_squares.cu, field by field.
#[repr(C)]
struct RunsJob {
    out: u64,
    sums: u64,
    n_rows: u64,
    rows_per_run: u64,
}

// SAFETY: addresses, counts and a rule of plain values, in the order and layout of the struct in the kernel's source.
unsafe impl<R> DeviceRepr for StepJob<R> {}
// SAFETY: as above.
unsafe impl DeviceRepr for SquaresJob {}
// SAFETY: as above.
unsafe impl DeviceRepr for RunsJob {}

/// Guards that tell the stream, when dropped, what a launch has used.
type Used<'a> = (Option<SyncOnDrop<'a>>, Option<[SyncOnDrop<'a>; 2]>, Option<SyncOnDrop<'a>>);

/// All of a gradient on the device.
struct OnDevice<'a, E> {
    dense: Option<CudaView<'a, E>>,
    batch: Option<&'a Sums>,
    /// Where runs of frozen rows begin and end.
    frozen: Option<&'a CudaSlice<u64>>,
    n_frozen: usize,
}

impl<'a, E: Number> OnDevice<'a, E> {
    fn new(
        device: &CudaDevice,
        dense: Option<(&'a CudaStorage, &'a Tensor)>,
        batch: Option<&'a Sums>,
        gradient: Gradient<'a>,
    ) -> Result<Self> {
        let dense = dense.map(|(storage, tensor)| view::<E>((storage, tensor.layout()))).transpose()?;
        Ok(Self { dense, batch, frozen: bounds(device, gradient)?, n_frozen: 2 * gradient.frozen.len() })
    }

    fn argument<'b>(&'b self, stream: &'b CudaStream) -> Result<(GradientArg, Used<'b>)> {
        let (dense, dense_used) = self.dense.as_ref().map(|dense| dense.device_ptr(stream)).unzip();
        let (batch, batch_used) = self.batch.map(|batch| batch.argument::<E>(stream)).transpose()?.unzip();
        let (frozen, frozen_used) = self.frozen.map(|frozen| frozen.device_ptr(stream)).unzip();
        let argument = GradientArg {
            dense: dense.unwrap_or(0),
            batch: batch.unwrap_or_default(),
            frozen: frozen.unwrap_or(0),
            n_frozen: self.n_frozen as u64,
        };
        Ok((argument, (dense_used, batch_used, frozen_used)))
    }
}

/// Runs AdamW on every row that is not frozen.
pub(in crate::kernel) fn adamw(tensors: Moments, gradient: Gradient, step: &AdamStep) -> Result<()> {
    by_dtype!(tensors.param, E => {
        let rule = AdamWRule::<<E as Element>::Wide>::new(step);
        run::<E, _>(tensors, gradient, Steps::All, rule)
    })
}

/// Runs Adam on the rows of the batch that are not frozen.
pub(in crate::kernel) fn row_adam(tensors: Moments, gradient: Gradient, step: &AdamStep) -> Result<()> {
    let gradient = Gradient { dense: None, ..gradient };
    by_dtype!(tensors.param, E => {
        let rule = RowRule::<<E as Element>::Wide>::new(step);
        run::<E, _>(tensors, gradient, Steps::Rows, rule)
    })
}

/// Allocates and loads what a step needs beside its tensors.
pub(in crate::kernel) fn prepare(param: &Tensor, gradient: Gradient, device: &CudaDevice) -> Result<()> {
    if param.elem_count() == 0 {
        return Ok(());
    }
    let (n_rows, _) = cut(param, gradient);
    by_dtype!(param, E => {
        if let Some(batch) = gradient.rows {
            let (storage, layout) = batch.rows.storage_and_layout();
            sums::<E>(device, (on_cuda(&storage)?, layout), batch, n_rows)?;
        }
        bounds(device, gradient)?;
        // The module has the other step, too.
        function::<E>(device, E::ADAM, "adamw").map(drop)
    })
}

/// Which rows a step is of, except the frozen ones.
#[derive(Clone, Copy)]
enum Steps {
    All,
    /// Those of the batch.
    Rows,
}

/// Launches a step.
fn run<E: Number, R: Copy>(tensors: Moments, gradient: Gradient, steps: Steps, rule: R) -> Result<()> {
    let Moments { param, exp_avg, exp_avg_sq } = tensors;
    let (n_rows, width) = cut(param, gradient);
    if param.elem_count() == 0 {
        return Ok(());
    }
    let sources: Vec<&Tensor> = gradient.dense.into_iter().chain(gradient.rows.map(|batch| batch.rows)).collect();
    tensors.write(&sources, &mut |[p, m, v]: [&mut CudaStorage; 3], storages| {
        let device = p.device().clone();
        let stream = device.cuda_stream();
        let mut storages = storages.iter().copied();
        let dense = gradient.dense.and_then(|dense| Some((storages.next()?, dense)));
        let batch = match gradient.rows.zip(storages.next()) {
            Some((batch, storage)) => Some(sums::<E>(&device, (storage, batch.rows.layout()), batch, n_rows)?),
            None => None,
        };
        let (name, n_steps) = match (batch, steps) {
            (Some(batch), Steps::Rows) => ("row_adam", batch.len()),
            _ => ("adamw", n_rows),
        };
        if n_steps == 0 {
            return Ok(());
        }
        let gradient = OnDevice::<E>::new(&device, dense, batch, gradient)?;
        let (gradient, _gradient) = gradient.argument(&stream)?;
        let (mut p, mut m, mut v) =
            (view_mut::<E>(p, param)?, view_mut::<E>(m, exp_avg)?, view_mut::<E>(v, exp_avg_sq)?);
        let (param_at, _p) = p.device_ptr_mut(&stream);
        let (exp_avg, _m) = m.device_ptr_mut(&stream);
        let (exp_avg_sq, _v) = v.device_ptr_mut(&stream);
        let (n, width) = (param.elem_count() as u64, width as u64);
        let job = StepJob { param: param_at, exp_avg, exp_avg_sq, gradient, n, width, rule };
        // One row of threads takes a row, however long, so that it searches for the row's group only once.
        let config = grid(n_steps, size_of::<E>(), 1);
        // SAFETY: the job is that of the kernel's source. The three tensors and the dense gradient have `n` elements,
        // which `Params` has checked; rows of groups are below `n_rows`, by `Sums::new`. It writes the three alone.
        unsafe { launch::<E, _>(&device, E::ADAM, name, &job, config) }
    })
}

/// Returns the sums of the rows of a batch, which the norm and the step share.
fn sums<'a, E: Number>(
    device: &CudaDevice,
    rows: (&CudaStorage, &Layout),
    batch: BatchRows<'a>,
    n_rows: usize,
) -> Result<&'a Sums> {
    batch.kept.get(|| Sums::new::<E>(device, rows, batch, n_rows))
}

/// Returns where runs of frozen rows begin and end, which the norm and the step share, or `None` if no row is frozen.
fn bounds<'a>(device: &CudaDevice, gradient: Gradient<'a>) -> Result<Option<&'a CudaSlice<u64>>> {
    let Gradient { frozen, kept, .. } = gradient;
    if frozen.is_empty() {
        return Ok(None);
    }
    let both = frozen.iter().flat_map(|rows| [rows.start as u64, rows.end as u64]);
    kept.get(|| upload(device, 2 * frozen.len(), both)).map(Some)
}

/// Returns rows and their width: those of the table if its rows matter.
fn cut(param: &Tensor, gradient: Gradient) -> (usize, usize) {
    match *param.dims() {
        [n_rows, width] if gradient.rows.is_some() || !gradient.frozen.is_empty() => (n_rows, width),
        _ => (param.elem_count().div_ceil(FLAT_WIDTH), FLAT_WIDTH),
    }
}

fn view_mut<'a, E: Number>(storage: &'a mut CudaStorage, tensor: &Tensor) -> Result<CudaViewMut<'a, E>> {
    let (start, end) = contiguous(tensor.layout())?;
    storage.as_cuda_slice_mut::<E>()?.try_slice_mut(start..end).ok_or_else(too_short)
}

/// Returns the sum of the squares of each gradient. All lie on one device, which is waited for once.
pub(in crate::kernel) fn sums_of_squares(gradients: &[(&Tensor, Gradient)], device: &CudaDevice) -> Result<Vec<f64>> {
    let cuts: Vec<NormTasks> = gradients.iter().map(|(param, _)| NormTasks::new(param)).collect();
    let n_runs: usize = cuts.iter().map(NormTasks::len).sum();
    if n_runs == 0 {
        return Ok(vec![0.0; gradients.len()]);
    }
    // SAFETY: a run of rows has one element, and each is written.
    let mut runs = unsafe { device.alloc::<f64>(n_runs)? };
    let mut first = 0;
    for ((param, gradient), cut) in gradients.iter().zip(&cuts) {
        let of_param = first..first + cut.len();
        first = of_param.end;
        if !of_param.is_empty() {
            let mut out = runs.try_slice_mut(of_param).ok_or_else(too_short)?;
            by_dtype!(param, E => launch_squares::<E>(device, (param, *gradient), cut, &mut out))?;
        }
    }
    let runs = device.clone_dtoh(&runs)?;
    let mut rest = runs.as_slice();
    let mut take = |cut: &NormTasks| {
        let (of_param, others) = rest.split_at(cut.len());
        rest = others;
        of_param.iter().sum()
    };
    Ok(cuts.iter().map(&mut take).collect())
}

/// Launches the sums of one gradient: one value per run of rows.
fn launch_squares<E: Number>(
    device: &CudaDevice,
    (param, gradient): (&Tensor, Gradient),
    cut: &NormTasks,
    out: &mut CudaViewMut<f64>,
) -> Result<()> {
    let stream = device.cuda_stream();
    let storages = (gradient.dense.map(Tensor::storage_and_layout), gradient.rows.map(|b| b.rows.storage_and_layout()));
    let dense = match (&storages.0, gradient.dense) {
        (Some((storage, _)), Some(tensor)) => Some((on_cuda(storage)?, tensor)),
        _ => None,
    };
    let batch = match (&storages.1, gradient.rows) {
        (Some((storage, layout)), Some(batch)) => {
            Some(sums::<E>(device, (on_cuda(storage)?, layout), batch, cut.n_rows)?)
        }
        _ => None,
    };
    let gradient = OnDevice::<E>::new(device, dense, batch, gradient)?;
    // SAFETY: the first kernel writes every element.
    let mut sums = unsafe { device.alloc::<f64>(cut.n_rows * LANES)? };
    let (sums_at, _sums) = sums.device_ptr_mut(&stream);
    let (gradient, _gradient) = gradient.argument(&stream)?;
    let (n, width) = (param.elem_count() as u64, cut.width as u64);
    let rows_per_block = THREADS / LANES;
    let squares = SquaresJob { sums: sums_at, gradient, n, width };
    let blocks = cut.n_rows.div_ceil(rows_per_block).min(MAX_BLOCKS_X) as u32;
    let block_dim = (LANES as u32, rows_per_block as u32, 1);
    let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim, shared_mem_bytes: 0 };
    // SAFETY: the job is that of the kernel's source. The dense gradient has `n` elements, which `Params` has checked;
    // rows of groups are below `n_rows`, by `Sums::new`. It writes `sums` alone, which has `LANES` elements for each
    // of `n_rows` rows.
    unsafe { launch::<E, _>(device, SUM_OF_SQUARES, "sum_of_squares", &squares, config)? };

    let (out, _out) = out.device_ptr_mut(&stream);
    let job = RunsJob { out, sums: sums_at, n_rows: cut.n_rows as u64, rows_per_run: cut.rows_per_task as u64 };
    let blocks = cut.len().div_ceil(THREADS).min(MAX_BLOCKS_X) as u32;
    let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS as u32, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the job is that of the kernel's source; `out` has one element per run. It writes `out` alone.
    unsafe { launch::<f64, _>(device, SUM_OF_SQUARES, "add_rows", &job, config) }
}
