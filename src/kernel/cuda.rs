//! The kernels on CUDA: launched on Candle's stream, with nothing waited for.

#[cfg(test)]
mod tests;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg, SyncOnDrop,
    ValidAsZeroBits,
};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, Shape};
use half::{bf16, f16};

use super::RowGroups;
use super::element::by_dtype;
use super::ops::PlacesOf;

/// A file of kernels: its name, and its PTX.
type Module = (&'static str, &'static str);
const GATHER_ADD: Module = ("gpt-input-gather-add", include_str!(concat!(env!("OUT_DIR"), "/gather_add.ptx")));
const SCATTER_ADD: Module = ("gpt-input-scatter-add", include_str!(concat!(env!("OUT_DIR"), "/scatter_add.ptx")));

/// Threads along a row: a warp.
const THREADS_X: u32 = 32;
/// Rows (or groups) of a block.
const THREADS_Y: u32 = 8;
/// What one thread moves at a time.
const CHUNK_BYTES: usize = 16;
/// How many of them it loads before it stores any: `PIECES` in gather_add.cu.
const PIECES: usize = 4;
/// Blocks along the rows; where there are more rows, each block takes several.
const MAX_BLOCKS_X: usize = 1 << 16;
/// What a grid may have along its second dimension.
const MAX_BLOCKS_Y: usize = 65_535;

/// A storage and the part of it that a tensor is.
pub(super) type Operand<'a> = (&'a CudaStorage, &'a Layout);
/// The position table and the places in it.
pub(super) type Positions<'a> = (Operand<'a>, &'a PlacesOf);

/// A type of number that the kernels are compiled for.
trait Number: CudaDType + DeviceRepr + ValidAsZeroBits {
    const NAME: &'static str;
}
macro_rules! number {
    ($type:ty, $name:literal) => {
        impl Number for $type {
            const NAME: &'static str = $name;
        }
    };
}
number!(f32, "f32");
number!(f64, "f64");
number!(f16, "f16");
number!(bf16, "bf16");

/// `Gather` of gather_add.cu, field by field.
#[repr(C)]
struct GatherJob {
    out: u64,
    ids: u64,
    places: u64,
    wte: u64,
    wpe: u64,
    outside: u64,
    n_ids: u64,
    id_bytes: u64,
    start: u64,
    t: u64,
    wte_rows: u64,
    wpe_rows: u64,
    width: u64,
}

/// `Scatter` of scatter_add.cu, field by field.
#[repr(C)]
struct ScatterJob {
    out: u64,
    grad: u64,
    rows: u64,
    starts: u64,
    places: u64,
    n_groups: u64,
    width: u64,
}

// SAFETY: addresses and counts of 64 bits each, in the order and layout of the struct in the kernel's source.
unsafe impl DeviceRepr for GatherJob {}
// SAFETY: as above.
unsafe impl DeviceRepr for ScatterJob {}

/// `table[ids]`, or `table[ids] + wpe[places]`, as a new storage.
pub(super) fn gather(table: Operand, ids: Operand, positions: Option<Positions>) -> Result<CudaStorage> {
    let (_, width) = table.1.shape().dims2()?;
    let (device, n) = (table.0.device(), ids.1.shape().elem_count() * width);
    by_dtype!(table.0, E => {
        // SAFETY: the kernel writes every row of the output.
        let mut out = unsafe { device.alloc::<E>(n)? };
        launch_gather::<E>(&mut out.as_view_mut(), table, ids, positions, None)?;
        Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
    })
}

/// The same into `buffer`, which has the type of the table.
pub(super) fn gather_into(
    buffer: (&mut CudaStorage, &Layout),
    table: Operand,
    ids: Operand,
    positions: Option<Positions>,
) -> Result<()> {
    let (start, end) = contiguous(buffer.1)?;
    by_dtype!(table.0, E => {
        let mut out = buffer.0.as_cuda_slice_mut::<E>()?.try_slice_mut(start..end).ok_or_else(too_short)?;
        launch_gather::<E>(&mut out, table, ids, positions, None)
    })
}

/// `outside`: two numbers that the kernel sets where an id, a place is outside its table.
fn launch_gather<E: Number>(
    out: &mut CudaViewMut<E>,
    table: Operand,
    ids: Operand,
    positions: Option<Positions>,
    outside: Option<&mut CudaViewMut<u32>>,
) -> Result<()> {
    let (wte_rows, width) = table.1.shape().dims2()?;
    let n_ids = ids.1.shape().elem_count();
    if out.len() != n_ids * width {
        candle_core::bail!("{} numbers do not hold {n_ids} rows of {width}", out.len());
    }
    // An empty grid is an error of the driver.
    if out.is_empty() {
        return Ok(());
    }
    let device = table.0.device().clone();
    let stream = device.cuda_stream();
    let wte = view::<E>(table)?;
    let wpe = positions.map(|(wpe, _)| view::<E>(wpe)).transpose()?;
    let wpe_rows = match positions {
        Some(((_, layout), _)) => match layout.shape().dims2()? {
            (rows, wpe_width) if wpe_width == width => rows,
            (_, wpe_width) => candle_core::bail!("rows of {width} and of {wpe_width} cannot be added"),
        },
        None => 0,
    };
    let (start, places) = match positions {
        Some((_, &PlacesOf::Start(start))) => (start, None),
        Some((_, PlacesOf::Ids { on_device, .. })) => (0, Some(on_device.storage_and_layout())),
        None => (0, None),
    };
    let places = match &places {
        Some((storage, layout)) => match &**storage {
            candle_core::Storage::Cuda(storage) if layout.shape().elem_count() == n_ids => {
                Some(view::<u32>((storage, layout))?)
            }
            _ => candle_core::bail!("position ids do not lie beside the ids"),
        },
        None => None,
    };
    let ids_view = Ids::new(ids)?;

    // Each of these makes the stream wait for who writes the memory, and tells it, when dropped, that the launch used it.
    let (ids_address, _ids) = ids_view.address(&stream);
    let (wte_address, _wte) = wte.device_ptr(&stream);
    let (wpe_address, _wpe) = wpe.as_ref().map(|wpe| wpe.device_ptr(&stream)).unzip();
    let (places_address, _places) = places.as_ref().map(|places| places.device_ptr(&stream)).unzip();
    let (outside_address, _outside) = outside.map(|outside| outside.device_ptr_mut(&stream)).unzip();
    let (out_address, _out) = out.device_ptr_mut(&stream);
    let job = GatherJob {
        out: out_address,
        ids: ids_address,
        places: places_address.unwrap_or(0),
        wte: wte_address,
        wpe: wpe_address.unwrap_or(0),
        outside: outside_address.unwrap_or(0),
        n_ids: n_ids as u64,
        id_bytes: ids.0.dtype().size_in_bytes() as u64,
        start: start as u64,
        t: ids.1.dims().last().copied().unwrap_or(1) as u64,
        wte_rows: wte_rows as u64,
        wpe_rows: wpe_rows as u64,
        width: width as u64,
    };
    let name = if positions.is_some() { "gather_add" } else { "gather" };
    let config = grid(n_ids, width * size_of::<E>(), PIECES);
    // SAFETY: the job is that of the kernel's source; the views hold all that it may touch: `n_ids` rows of the output and
    // as many ids and places, whole tables, by the checks above. It writes the output and the two flags alone.
    unsafe { launch::<E, _>(&device, GATHER_ADD, name, &job, config) }
}

/// `out[row] = Σ grad[place]` over the places of each group, in their order; zeros in rows of no group. `[n_rows, C]`.
pub(super) fn scatter_add(grad: Operand, groups: &RowGroups, n_rows: usize) -> Result<(CudaStorage, Shape)> {
    let (n_ids, width) = grad.1.shape().dims2()?;
    let is_outside = |group: usize| groups.row(group) >= n_rows;
    if groups.n_ids() != n_ids || groups.len().checked_sub(1).is_some_and(is_outside) {
        candle_core::bail!("gradients of {n_ids} rows do not belong to these ids");
    }
    let device = grad.0.device();
    by_dtype!(grad.0, E => {
        let mut out = device.alloc_zeros::<E>(n_rows * width)?;
        launch_scatter::<E>(&mut out.as_view_mut(), grad, groups, width)?;
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), (n_rows, width).into()))
    })
}

fn launch_scatter<E: Number>(out: &mut CudaViewMut<E>, grad: Operand, groups: &RowGroups, width: usize) -> Result<()> {
    if groups.len() == 0 || width == 0 {
        return Ok(());
    }
    let device = grad.0.device().clone();
    let stream = device.cuda_stream();
    // Rows, starts and places behind one another: one copy to the device.
    let n_groups = groups.len();
    let mut table: Vec<u64> = (0..n_groups).map(|group| groups.row(group) as u64).collect();
    let mut start = 0;
    for group in 0..n_groups {
        table.push(start);
        start += groups.occurrences(group).len() as u64;
    }
    table.push(start);
    for group in 0..n_groups {
        table.extend(groups.occurrences(group).iter().map(|&(_, place)| place as u64));
    }
    let table = device.clone_htod(&table)?;
    let grad = view::<E>(grad)?;

    let (out_address, _out) = out.device_ptr_mut(&stream);
    let (grad_address, _grad) = grad.device_ptr(&stream);
    let (rows_address, _table) = table.device_ptr(&stream);
    let starts_address = rows_address + (n_groups * size_of::<u64>()) as u64;
    let job = ScatterJob {
        out: out_address,
        grad: grad_address,
        rows: rows_address,
        starts: starts_address,
        places: starts_address + ((n_groups + 1) * size_of::<u64>()) as u64,
        n_groups: n_groups as u64,
        width: width as u64,
    };
    let config = grid(n_groups, width * size_of::<E>(), 1);
    // SAFETY: the job is that of the kernel's source; places are below the number of gradients and rows below that of the
    // output, by the checks of `scatter_add`, whose groups ascend; no two groups are of one row. It writes the output alone.
    unsafe { launch::<E, _>(&device, SCATTER_ADD, "scatter_add", &job, config) }
}

/// Ids of any type.
enum Ids<'a> {
    U8(CudaView<'a, u8>),
    U32(CudaView<'a, u32>),
    I64(CudaView<'a, i64>),
}

impl<'a> Ids<'a> {
    fn new(ids: Operand<'a>) -> Result<Self> {
        match ids.0.dtype() {
            DType::U8 => Ok(Self::U8(view(ids)?)),
            DType::U32 => Ok(Self::U32(view(ids)?)),
            DType::I64 => Ok(Self::I64(view(ids)?)),
            dtype => Err(candle_core::Error::UnsupportedDTypeForOp(dtype, "ids").bt()),
        }
    }

    fn address<'b>(&'b self, stream: &'b CudaStream) -> (u64, SyncOnDrop<'b>) {
        match self {
            Self::U8(ids) => ids.device_ptr(stream),
            Self::U32(ids) => ids.device_ptr(stream),
            Self::I64(ids) => ids.device_ptr(stream),
        }
    }
}

/// The elements of a contiguous operand.
fn view<'a, T: CudaDType>(operand: Operand<'a>) -> Result<CudaView<'a, T>> {
    let (start, end) = contiguous(operand.1)?;
    operand.0.as_cuda_slice::<T>()?.try_slice(start..end).ok_or_else(too_short)
}

fn contiguous(layout: &Layout) -> Result<(usize, usize)> {
    layout.contiguous_offsets().ok_or_else(|| candle_core::Error::RequiresContiguous { op: "kernel" }.bt())
}

fn too_short() -> candle_core::Error {
    candle_core::Error::Msg("a layout reaches beyond its storage".to_string()).bt()
}

/// Blocks for rows of `row_bytes` each, of which a thread takes `pieces` chunks at a time.
fn grid(n_rows: usize, row_bytes: usize, pieces: usize) -> LaunchConfig {
    let x = n_rows.div_ceil(THREADS_Y as usize).clamp(1, MAX_BLOCKS_X);
    let y = row_bytes.div_ceil(CHUNK_BYTES * pieces * THREADS_X as usize).clamp(1, MAX_BLOCKS_Y);
    LaunchConfig { grid_dim: (x as u32, y as u32, 1), block_dim: (THREADS_X, THREADS_Y, 1), shared_mem_bytes: 0 }
}

/// Launches the kernel `name` for numbers of type `E`.
///
/// # Safety
/// The kernel takes one argument, a `J`, and touches only memory that lives until the stream is done with it.
unsafe fn launch<E: Number, J: DeviceRepr>(
    device: &CudaDevice,
    (module, ptx): Module,
    name: &str,
    job: &J,
    config: LaunchConfig,
) -> Result<()> {
    let function = device.get_or_load_custom_func(&format!("{name}_{}", E::NAME), module, ptx)?;
    let mut launch = function.builder();
    launch.arg(job);
    // SAFETY: the caller's promise; the grid is inside every device's limits.
    unsafe { launch.launch(config) }.w()?;
    Ok(())
}
