//! A table whose rows stay as they are stored, in a file, in memory or elsewhere: gathered out of the bytes, converted or
//! dequantized on the way, aligned or not.

use std::borrow::Cow;
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor, WithDType};

use super::cpu::{Out, Outside, Rows, in_parallel};
use super::element::{Element, Id, by_dtype};
use super::quantized::Scratch;
use super::storage::{inside, on_host, slice, written};
use super::{CheckedIds, Places, Table, simd};
use crate::error::{Error, Result};
use crate::ranges::{RowBytes, RowType};

type CandleResult<T> = candle_core::Result<T>;

/// Rows are asked from memory so many bytes before they are needed: further ahead than those of a table on huge pages, for
/// the addresses must be looked up as well.
const BYTES_AHEAD: usize = 24 << 10;

/// A matrix of little-endian numbers or quantized blocks, row after row, somewhere in bytes.
#[derive(Clone)]
pub(crate) struct StoredTable {
    pub(crate) bytes: RowBytes,
    /// Where it begins.
    pub(crate) start: usize,
    pub(crate) n_rows: usize,
    pub(crate) width: usize,
    pub(crate) stored: RowType,
    /// What rows are converted to, and where they go.
    pub(crate) dtype: DType,
    pub(crate) device: Device,
    pub(crate) table: Table,
}

impl fmt::Debug for StoredTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n_rows, width, stored, dtype, .. } = self;
        write!(f, "StoredTable([{n_rows}, {width}] {stored:?} -> {dtype:?})")
    }
}

impl StoredTable {
    /// Holds `ids` to the contract; they stay on the host.
    pub(crate) fn check(&self, ids: &Tensor) -> Result<CheckedIds> {
        CheckedIds::new(&ids.to_device(&Device::Cpu)?, self.table, self.n_rows, &Device::Cpu)
    }

    /// The rows of `ids` `[..]`: `[.., C]`.
    pub(crate) fn gather(&self, ids: &CheckedIds) -> Result<Tensor> {
        self.run(ids, None)
    }

    /// Rows of this table plus rows of `wpe` for their places, in one pass.
    pub(crate) fn gather_add(&self, ids: &CheckedIds, wpe: Wpe<'_>, places: &Places) -> Result<Tensor> {
        self.run(ids, Some((wpe, places)))
    }

    /// Whether [`gather_add`](Self::gather_add) can read the rows of `wpe`: on the host, and of no graph.
    pub(crate) fn can_add(&self, wpe: &Tensor) -> bool {
        self.device.is_cpu() && wpe.device().is_cpu() && !wpe.track_op()
    }

    /// Rows `start..start + t`.
    pub(crate) fn narrow(&self, start: usize, t: usize) -> Result<Tensor> {
        let ids: Vec<i64> = (start..start + t).map(|row| row as i64).collect();
        self.gather(&self.check(&Tensor::new(ids, &Device::Cpu)?)?)
    }

    /// All of its bytes, if they are on this machine.
    pub(crate) fn bytes_here(&self) -> Result<&[u8]> {
        let end = self.range(self.n_rows).start;
        self.bytes.here().get(self.start..end).ok_or(Error::NotInMemory { table: self.table.name() })
    }

    /// Asks the system, or who fetches the bytes, for the rows of `ids` before they are needed.
    pub(crate) fn prefetch(&self, ids: &CheckedIds) -> Result<()> {
        let RowBytes::Mapped(map) = &self.bytes else {
            return self.with_rows(ids.on_host()?.to_dtype(DType::I64)?).map(drop);
        };
        for id in ids.on_host()?.to_dtype(DType::I64)?.flatten_all()?.to_vec1::<i64>()? {
            let range = self.range(id.row());
            // Advice may be ignored, and so may its failure.
            #[cfg(unix)]
            let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
            #[cfg(not(unix))]
            let _ = (range, map);
        }
        Ok(())
    }

    fn run(&self, ids: &CheckedIds, wpe: Option<(Wpe<'_>, &Places)>) -> Result<Tensor> {
        let wide = |ids: &CheckedIds| Ok::<_, Error>(ids.on_host()?.to_dtype(DType::I64)?);
        let (wte, input_ids) = self.with_rows(wide(ids)?)?;
        let given = |places: &Tensor| Ok::<_, Error>(places.broadcast_as(ids.dims())?.contiguous()?);
        let wpe = match wpe {
            Some((Wpe::Stored(wpe), &Places::Counted { start, t })) => {
                let (wpe, start) = wpe.with_counted(start, t)?;
                Some((Added::Stored(wpe), Of::Counted { start, t }))
            }
            Some((Wpe::Stored(wpe), Places::Given(places))) => {
                let (wpe, places) = wpe.with_rows(wide(places)?)?;
                Some((Added::Stored(wpe), Of::Given(given(&places)?)))
            }
            Some((Wpe::Dense(wpe), &Places::Counted { start, t })) => {
                Some((Added::Dense(wpe.contiguous()?), Of::Counted { start, t }))
            }
            Some((Wpe::Dense(wpe), Places::Given(places))) => {
                Some((Added::Dense(wpe.contiguous()?), Of::Given(given(&wide(places)?)?)))
            }
            None => None,
        };
        let rows = input_ids.apply_op1_no_bwd(&GatherBytes { wte, wpe })?;
        Ok(rows.to_device(&self.device)?)
    }

    /// Rows `first..first + n` in the type that their sums are taken in, behind each other in `to`.
    pub(super) fn widen_rows<E: Element>(&self, first: usize, n: usize, to: &mut Vec<E::Wide>) {
        let mut scratch = Scratch::<E>::new(self.width);
        to.clear();
        for row in first..first + n {
            match self.row(row, &mut scratch) {
                Ok(row) => to.extend(row.iter().map(|x| x.widen())),
                // No row of the table is outside: what would be is no number.
                Err(Outside) => to.extend(std::iter::repeat_n(E::Wide::from_f64(f64::NAN), self.width)),
            }
        }
    }

    pub(super) fn range(&self, row: usize) -> Range<usize> {
        let n_bytes = self.stored.row_bytes(self.width);
        let start = self.start.saturating_add(row.saturating_mul(n_bytes));
        start..start.saturating_add(n_bytes)
    }

    fn row_bytes(&self, row: usize) -> Result<&[u8], Outside> {
        self.bytes.here().get(self.range(row)).filter(|_| row < self.n_rows).ok_or(Outside)
    }

    /// How many rows ahead the memory is asked.
    fn n_ahead(&self) -> usize {
        (2 * BYTES_AHEAD / self.stored.row_bytes(self.width).max(1)).clamp(2, 64)
    }

    /// A row that is read later, or nothing.
    #[inline(always)]
    fn next(&self, id: Option<&i64>) -> &[u8] {
        id.and_then(|id| self.row_bytes(id.row()).ok()).unwrap_or_default()
    }

    /// Row `row` as numbers of `E`: those in the file, if they can be used as they are, or else made in `scratch`.
    #[inline(always)]
    fn row<'a, E: Element>(&'a self, row: usize, scratch: &'a mut Scratch<E>) -> Result<&'a [E], Outside> {
        let bytes = self.row_bytes(row)?;
        let stored = match self.stored {
            RowType::Numbers(stored) => stored,
            RowType::Blocks(blocks) => return scratch.dequantize(blocks, bytes),
        };
        if E::DTYPE == stored && cfg!(target_endian = "little") {
            // SAFETY: every pattern of bits is a number in each of the four types of element.
            if let (&[], numbers, &[]) = unsafe { bytes.align_to::<E>() } {
                return Ok(numbers);
            }
        }
        let to = scratch.numbers();
        match stored {
            DType::F32 => simd::vectorised(|| convert::<f32, E, 4>(bytes, to, f32::from_le_bytes)),
            DType::F64 => simd::vectorised(|| convert::<f64, E, 8>(bytes, to, f64::from_le_bytes)),
            DType::F16 => simd::vectorised(|| convert::<half::f16, E, 2>(bytes, to, half::f16::from_le_bytes)),
            _ => simd::vectorised(|| convert::<half::bf16, E, 2>(bytes, to, half::bf16::from_le_bytes)),
        }
        Ok(to)
    }
}

/// Through f32 into any type but f64's own, one rounding each step: as PyTorch converts, and as loading does.
#[inline(always)]
fn convert<S: Element, E: Element, const N: usize>(bytes: &[u8], to: &mut [E], from_le: impl Fn([u8; N]) -> S) {
    for (to, bytes) in to.iter_mut().zip(bytes.as_chunks::<N>().0) {
        let wide: f64 = from_le(*bytes).widen().into();
        *to = E::narrow(E::Wide::from_f64(wide));
    }
}

/// The table whose rows are added.
#[derive(Clone, Copy)]
pub(crate) enum Wpe<'a> {
    Stored(&'a StoredTable),
    /// Of the type of what comes out, on the host.
    Dense(&'a Tensor),
}

/// The same, once its rows are on this machine.
enum Added<'a> {
    Stored(Cow<'a, StoredTable>),
    Dense(Tensor),
}

/// Where the ids stand.
enum Of {
    Counted { start: usize, t: usize },
    Given(Tensor),
}

/// `wte[ids] + wpe[places]`, or `wte[ids]`: argument ids `[..]`, `i64`, contiguous, on the host.
struct GatherBytes<'a> {
    wte: Cow<'a, StoredTable>,
    wpe: Option<(Added<'a>, Of)>,
}

impl CustomOp1 for GatherBytes<'_> {
    fn name(&self) -> &'static str {
        "gather-mapped"
    }

    fn cpu_fwd(&self, ids: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let ids = inside(i64::cpu_storage_as_slice(ids)?, layout)?;
        let width = self.wte.width;
        let shape: Shape = layout.dims().iter().copied().chain([width]).collect::<Vec<_>>().into();
        let storage = by_dtype!(AsIf(self.wte.dtype), E => match &self.wpe {
            None => written(ids.len() * width, |out| gather::<E>(out, ids, &self.wte)),
            Some((Added::Stored(wpe), of)) => add_of::<E>(ids, &self.wte, PositionRows::Stored(wpe), of),
            Some((Added::Dense(wpe), of)) => {
                let (storage, layout) = wpe.storage_and_layout();
                let rows = Rows { values: slice::<E>(on_host(&storage)?, layout)?, width: wpe.dim(1)? };
                add_of::<E>(ids, &self.wte, PositionRows::Dense(rows), of)
            }
        })?;
        Ok((storage, shape))
    }
}

struct AsIf(DType);

impl AsIf {
    fn dtype(&self) -> DType {
        self.0
    }
}

/// Rows that are added: stored as they may be, or numbers in memory.
#[derive(Clone, Copy)]
enum PositionRows<'a, E> {
    Stored(&'a StoredTable),
    Dense(Rows<'a, E>),
}

impl<'a, E: Element> PositionRows<'a, E> {
    fn width(&self) -> usize {
        match self {
            Self::Stored(table) => table.width,
            Self::Dense(rows) => rows.width,
        }
    }

    #[inline(always)]
    fn row<'s>(&'s self, place: usize, scratch: &'s mut Scratch<E>) -> Result<&'s [E], Outside> {
        match self {
            Self::Stored(table) => table.row(place, scratch),
            Self::Dense(rows) => rows.get(place),
        }
    }
}

/// `out[n] = wte[ids[n]]`.
fn gather<E: Element>(out: &mut [MaybeUninit<E>], ids: &[i64], wte: &StoredTable) -> Result<(), Outside> {
    let n_bytes = size_of_val(out);
    let out = Out::new(out, wte.width);
    let n_ahead = wte.n_ahead();
    in_parallel(ids.len(), n_bytes, |range| {
        let mut scratch = Scratch::new(wte.width);
        for n in range {
            let next = wte.next(ids.get(n + n_ahead));
            let row = wte.row(ids[n].row(), &mut scratch)?;
            // SAFETY: the ranges of the tasks do not overlap, so row `n` is this task's alone.
            simd::copy(unsafe { out.row(n) }, row, next, out.stream);
        }
        simd::fence(out.stream);
        Ok(())
    })
}

fn add_of<E: Element>(ids: &[i64], wte: &StoredTable, wpe: PositionRows<E>, of: &Of) -> CandleResult<CpuStorage> {
    let n = ids.len() * wte.width;
    match of {
        Of::Counted { start, t } => {
            let batch = ids.len().checked_div(*t).unwrap_or(0);
            // Positions outermost: a row of `wpe` is converted once for the whole batch.
            let outputs_of = |column| (start + column, (0..batch).map(move |row| row * t + column));
            written(n, |out| add(out, ids, wte, wpe, *t, outputs_of))
        }
        Of::Given(places) => {
            let (storage, layout) = places.storage_and_layout();
            let places = inside(i64::cpu_storage_as_slice(on_host(&storage)?)?, layout)?;
            written(n, |out| add(out, ids, wte, wpe, places.len(), |n| (places[n].row(), n..n + 1)))
        }
    }
}

/// `out[n] = wte[ids[n]] + wpe[place]` for each of `n_places` places and the outputs `n` that stand there.
fn add<E: Element, N: Iterator<Item = usize>>(
    out: &mut [MaybeUninit<E>],
    ids: &[i64],
    wte: &StoredTable,
    wpe: PositionRows<E>,
    n_places: usize,
    outputs_of: impl Fn(usize) -> (usize, N) + Sync,
) -> Result<(), Outside> {
    let n_bytes = size_of_val(out);
    if wpe.width() != wte.width {
        return Err(Outside);
    }
    let out = Out::new(out, wte.width);
    let n_ahead = wte.n_ahead();
    in_parallel(n_places, n_bytes, |range| {
        let (mut token, mut position) = (Scratch::new(wte.width), Scratch::new(wte.width));
        let mut ahead = range.clone().flat_map(|i| outputs_of(i).1).skip(n_ahead);
        for i in range.clone() {
            let (place, outputs) = outputs_of(i);
            let position = wpe.row(place, &mut position)?;
            for n in outputs {
                let next = wte.next(ahead.next().map(|next| &ids[next]));
                let row = wte.row(ids[n].row(), &mut token)?;
                // SAFETY: each output stands at one place, and the tasks' ranges of places do not overlap.
                simd::add(unsafe { out.row(n) }, row, position, next, out.stream);
            }
        }
        simd::fence(out.stream);
        Ok(())
    })
}
