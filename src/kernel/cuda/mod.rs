//! Launches the kernels on Candle's CUDA stream, and waits for nothing.

mod batch;
#[cfg(test)]
mod costs;
#[cfg(test)]
mod counts;
#[cfg(test)]
mod events;
mod modules;
mod notes;
mod pool;
mod staging;
mod step;
#[cfg(test)]
mod tests;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg, SyncOnDrop,
    ValidAsZeroBits,
};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, Storage, WithDType};
use half::{bf16, f16};

use crate::kernel::core::element::{Element, by_dtype};
use crate::kernel::ids::{PlacesOf, Table};
use modules::{GATHER_ADD, Module, function, module};
use notes::ShapeArg;

pub(in crate::kernel) use batch::{dense_gradient, scatter_add};
pub(in crate::kernel) use modules::load_kernels;
pub(crate) use notes::Notes;
pub(in crate::kernel) use pool::keep_freed_memory;
pub(in crate::kernel) use staging::upload_ids;
pub(in crate::kernel) use step::{adamw, prepare, row_adam, sums_of_squares};

/// Threads along a row: a warp.
const THREADS_X: u32 = 32;
/// Rows (or groups) of a block.
const THREADS_Y: u32 = 8;
/// What one thread moves at a time: one chunk.
const CHUNK_BYTES: usize = 16;
/// How many chunks it loads before it stores any: `PIECES` in gather_add.cu.
const PIECES: usize = 4;
/// Most blocks along the rows. If there are more rows, each block takes several.
const MAX_BLOCKS_X: usize = 1 << 16;
/// Most blocks along the second dimension of a grid.
const MAX_BLOCKS_Y: usize = 65_535;

/// A storage, and the part that a tensor covers.
pub(crate) type Operand<'a> = (&'a CudaStorage, &'a Layout);
/// The position table and the places in it.
pub(crate) type Positions<'a> = (Operand<'a>, &'a PlacesOf);
/// Ids, and where the kernel notes those outside their table if the ids are unchecked.
pub(crate) type IdsOf<'a> = (Operand<'a>, Option<(&'a Notes, Table)>);

/// An element type that the kernels are compiled for.
trait Number: Element + CudaDType + DeviceRepr + ValidAsZeroBits {
    /// The optimizer steps of this type.
    const ADAM: Module;
}

impl Number for f32 {
    const ADAM: Module = module!("adam_f32");
}

impl Number for f64 {
    const ADAM: Module = module!("adam_f64");
}

impl Number for f16 {
    const ADAM: Module = module!("adam_f16");
}

impl Number for bf16 {
    const ADAM: Module = module!("adam_bf16");
}

/// `Ids` of gather_add.cu, field by field.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IdsArg {
    values: u64,
    bytes: u64,
    note: u64,
    shape: ShapeArg,
}

/// `Gather` of gather_add.cu, field by field.
#[repr(C)]
struct GatherJob {
    out: u64,
    ids: IdsArg,
    places: IdsArg,
    n_places: u64,
    wte: u64,
    wpe: u64,
    call: u64,
    n_ids: u64,
    start: u64,
    t: u64,
    wte_rows: u64,
    wpe_rows: u64,
    width: u64,
}

// SAFETY: addresses and counts of 64 bits each, in the order and layout of the struct in the kernel's source.
unsafe impl DeviceRepr for GatherJob {}

/// Computes `table[ids]`, or `table[ids] + wpe[places]`, as a new storage.
pub(crate) fn gather(table: Operand, ids: IdsOf, positions: Option<Positions>) -> Result<CudaStorage> {
    let (_, width) = table.1.shape().dims2()?;
    let (device, n) = (table.0.device(), ids.0.1.shape().elem_count() * width);
    by_dtype!(table.0, E => {
        // SAFETY: the kernel writes every row of the output.
        let mut out = unsafe { pool::unwritten::<E>(device, n)? };
        launch_gather::<E>(&mut out.slice_mut(..n), table, ids, positions)?;
        Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
    })
}

/// Computes the same into `buffer`, which has the dtype of the table.
pub(crate) fn gather_into(
    buffer: (&mut CudaStorage, &Layout),
    table: Operand,
    ids: IdsOf,
    positions: Option<Positions>,
) -> Result<()> {
    let (start, end) = contiguous(buffer.1)?;
    by_dtype!(table.0, E => {
        let mut out = buffer.0.as_cuda_slice_mut::<E>()?.try_slice_mut(start..end).ok_or_else(too_short)?;
        launch_gather::<E>(&mut out, table, ids, positions)
    })
}

fn launch_gather<E: Number>(
    out: &mut CudaViewMut<E>,
    table: Operand,
    (ids, ids_note): IdsOf,
    positions: Option<Positions>,
) -> Result<()> {
    let (wte_rows, width) = table.1.shape().dims2()?;
    let n_ids = ids.1.shape().elem_count();
    if out.len() != n_ids * width {
        candle_core::bail!("{} elements do not hold {n_ids} rows of {width}", out.len());
    }
    // Nothing to write: no launch.
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
        Some((_, PlacesOf::Ids(places))) => (0, Some((places.tensor().storage_and_layout(), places.noted_in()))),
        None => (0, None),
    };
    let (places, places_note) = match &places {
        Some(((storage, layout), note)) => (Some((on_cuda(storage)?, *layout)), *note),
        None => (None, None),
    };
    let n_places = places.map_or(0, |(_, layout)| layout.shape().elem_count());
    if places.is_some() && !n_ids.is_multiple_of(n_places.max(1)) {
        candle_core::bail!("{n_places} position ids do not repeat over {n_ids} ids");
    }
    let ids_view = Ids::new(ids)?;
    let places_view = places.map(Ids::new).transpose()?;
    // If both take notes, these belong to one layer.
    let notes = ids_note.or(places_note).map(|(notes, _)| notes);
    let mut memory = notes.map(Notes::lock);

    // Each guard makes the stream wait for pending writes to the memory. When dropped, it tells the stream that the
    // launch used the memory.
    let (note_of, _memory) = memory.as_mut().map(|memory| notes::address(memory, &stream)).unzip();
    let note_at =
        |note: Option<(&Notes, Table)>| note.zip(note_of.as_ref()).map(|((_, table), note_of)| note_of(table));
    let (ids_argument, _ids) = ids_view.argument(&stream, ids.1, note_at(ids_note));
    let (places_argument, _places) = places_view
        .as_ref()
        .zip(places)
        .map(|(view, (_, layout))| view.argument(&stream, layout, note_at(places_note)))
        .unzip();
    let (wte_address, _wte) = wte.device_ptr(&stream);
    let (wpe_address, _wpe) = wpe.as_ref().map(|wpe| wpe.device_ptr(&stream)).unzip();
    let (out_address, _out) = out.device_ptr_mut(&stream);
    let job = GatherJob {
        out: out_address,
        ids: ids_argument,
        places: places_argument.unwrap_or_default(),
        n_places: n_places as u64,
        wte: wte_address,
        wpe: wpe_address.unwrap_or(0),
        call: notes.map_or(0, Notes::next_call),
        n_ids: n_ids as u64,
        start: start as u64,
        t: ids.1.dims().last().copied().unwrap_or(1) as u64,
        wte_rows: wte_rows as u64,
        wpe_rows: wpe_rows as u64,
        width: width as u64,
    };
    let name = if positions.is_some() { "gather_add" } else { "gather" };
    let config = grid(n_ids, width * size_of::<E>(), PIECES);
    // SAFETY: the job is that of the kernel's source. By the checks above the views hold all that it may touch: `n_ids`
    // rows of the output, as many ids, `n_places` places, whole tables and notes. It writes the output and the notes
    // alone.
    unsafe { launch::<E, _>(&device, GATHER_ADD, name, &job, config) }
}

/// Ids of any dtype that ids have.
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

    /// Returns the kernel's argument. Only a note needs the shape, and `CheckedIds` makes sure that it fits there.
    fn argument<'b>(&'b self, stream: &'b CudaStream, layout: &Layout, note: Option<u64>) -> (IdsArg, SyncOnDrop<'b>) {
        let (bytes, (values, used)) = match self {
            Self::U8(ids) => (1, ids.device_ptr(stream)),
            Self::U32(ids) => (4, ids.device_ptr(stream)),
            Self::I64(ids) => (8, ids.device_ptr(stream)),
        };
        let shape = note.map_or_else(ShapeArg::default, |_| ShapeArg::new(layout.dims()));
        (IdsArg { values, bytes, note: note.unwrap_or(0), shape }, used)
    }
}

/// Returns the elements of a contiguous operand.
fn view<'a, T: CudaDType>(operand: Operand<'a>) -> Result<CudaView<'a, T>> {
    let (start, end) = contiguous(operand.1)?;
    operand.0.as_cuda_slice::<T>()?.try_slice(start..end).ok_or_else(too_short)
}

fn contiguous(layout: &Layout) -> Result<(usize, usize)> {
    layout.contiguous_offsets().ok_or_else(|| candle_core::Error::RequiresContiguous { op: "kernel" }.bt())
}

pub(crate) fn on_cuda(storage: &Storage) -> Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => Err(candle_core::Error::Msg("a kernel of CUDA was given memory of another device".to_string()).bt()),
    }
}

fn too_short() -> candle_core::Error {
    candle_core::Error::Msg("a layout reaches beyond its storage".to_string()).bt()
}

/// Returns a grid for rows of `row_bytes` each, of which a thread takes `pieces` chunks at a time.
fn grid(n_rows: usize, row_bytes: usize, pieces: usize) -> LaunchConfig {
    let x = n_rows.div_ceil(THREADS_Y as usize).clamp(1, MAX_BLOCKS_X);
    let y = row_bytes.div_ceil(CHUNK_BYTES * pieces * THREADS_X as usize).clamp(1, MAX_BLOCKS_Y);
    LaunchConfig { grid_dim: (x as u32, y as u32, 1), block_dim: (THREADS_X, THREADS_Y, 1), shared_mem_bytes: 0 }
}

/// Launches the kernel `name` for elements of type `E`, on Candle's stream.
///
/// # Safety
/// The kernel takes one argument, a `J`, and touches only memory that lives until the stream is done with it.
unsafe fn launch<E: WithDType, J: DeviceRepr>(
    device: &CudaDevice,
    module: Module,
    name: &str,
    job: &J,
    config: LaunchConfig,
) -> Result<()> {
    let function = function::<E>(device, module, name)?;
    let stream = device.cuda_stream();
    let mut launch = stream.launch_builder(&function);
    launch.arg(job);
    // SAFETY: the caller's promise; the grid is inside every device's limits.
    unsafe { launch.launch(config) }.w()?;
    Ok(())
}
