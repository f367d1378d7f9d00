//! A table whose rows stay where they are stored: gathered out of the bytes, converted on the way, aligned or not.

use std::borrow::Cow;
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor, WithDType};

use super::cpu::{Out, Outside, in_parallel};
use super::element::{Element, Id, by_dtype};
use super::storage::{inside, on_host, written};
use super::{CheckedIds, Places, Table, simd};
use crate::error::Result;
use crate::ranges::RowBytes;

type CandleResult<T> = candle_core::Result<T>;

/// A matrix of little-endian numbers, row after row, anywhere in bytes that are not ours.
#[derive(Clone)]
pub(crate) struct MappedTable {
    pub(crate) bytes: RowBytes,
    /// Where it begins.
    pub(crate) start: usize,
    pub(crate) n_rows: usize,
    pub(crate) width: usize,
    /// f32, f16, bf16 or f64.
    pub(crate) stored: DType,
    /// What rows are converted to, and where they go.
    pub(crate) dtype: DType,
    pub(crate) device: Device,
    pub(crate) table: Table,
}

impl fmt::Debug for MappedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n_rows, width, stored, dtype, .. } = self;
        write!(f, "MappedTable([{n_rows}, {width}] {stored:?} -> {dtype:?})")
    }
}

impl MappedTable {
    /// Holds `ids` to the contract; they stay on the host.
    pub(crate) fn check(&self, ids: &Tensor) -> Result<CheckedIds> {
        CheckedIds::new(&ids.to_device(&Device::Cpu)?, self.table, self.n_rows, &Device::Cpu)
    }

    /// The rows of `ids` `[..]`: `[.., C]`.
    pub(crate) fn gather(&self, ids: &CheckedIds) -> Result<Tensor> {
        self.run(ids, None)
    }

    /// Rows of this table plus rows of `wpe` for their places, in one pass.
    pub(crate) fn gather_add(&self, ids: &CheckedIds, wpe: &Self, places: &Places) -> Result<Tensor> {
        self.run(ids, Some((wpe, places)))
    }

    /// Rows `start..start + t`.
    pub(crate) fn narrow(&self, start: usize, t: usize) -> Result<Tensor> {
        let ids: Vec<i64> = (start..start + t).map(|row| row as i64).collect();
        self.gather(&self.check(&Tensor::new(ids, &Device::Cpu)?)?)
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

    fn run(&self, ids: &CheckedIds, wpe: Option<(&Self, &Places)>) -> Result<Tensor> {
        let wide = |ids: &CheckedIds| Ok::<_, crate::error::Error>(ids.on_host()?.to_dtype(DType::I64)?);
        let (wte, input_ids) = self.with_rows(wide(ids)?)?;
        let wpe = match wpe {
            Some((wpe, &Places::Counted { start, t })) => {
                let (wpe, start) = wpe.with_counted(start, t)?;
                Some((wpe, Of::Counted { start, t }))
            }
            Some((wpe, Places::Given(places))) => {
                let (wpe, places) = wpe.with_rows(wide(places)?)?;
                Some((wpe, Of::Given(places.broadcast_as(ids.dims())?.contiguous()?)))
            }
            None => None,
        };
        let rows = input_ids.apply_op1_no_bwd(&GatherBytes { wte, wpe })?;
        Ok(rows.to_device(&self.device)?)
    }

    pub(super) fn range(&self, row: usize) -> Range<usize> {
        let n_bytes = self.width * self.stored.size_in_bytes();
        let start = self.start.saturating_add(row.saturating_mul(n_bytes));
        start..start.saturating_add(n_bytes)
    }

    fn row_bytes(&self, row: usize) -> Result<&[u8], Outside> {
        self.bytes.here().get(self.range(row)).filter(|_| row < self.n_rows).ok_or(Outside)
    }

    /// Row `row` as numbers of `E`: those in the file, if they can be used as they are, or else a copy in `scratch`.
    #[inline(always)]
    fn row<'a, E: Element>(&'a self, row: usize, scratch: &'a mut [E]) -> Result<&'a [E], Outside> {
        let bytes = self.row_bytes(row)?;
        if E::DTYPE == self.stored && cfg!(target_endian = "little") {
            // SAFETY: every pattern of bits is a number in each of the four types of element.
            if let (&[], numbers, &[]) = unsafe { bytes.align_to::<E>() } {
                return Ok(numbers);
            }
        }
        match self.stored {
            DType::F32 => convert::<f32, E, 4>(bytes, scratch, f32::from_le_bytes),
            DType::F64 => convert::<f64, E, 8>(bytes, scratch, f64::from_le_bytes),
            DType::F16 => convert::<half::f16, E, 2>(bytes, scratch, half::f16::from_le_bytes),
            DType::BF16 => convert::<half::bf16, E, 2>(bytes, scratch, half::bf16::from_le_bytes),
            _ => return Err(Outside),
        }
        Ok(scratch)
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

/// Where the ids stand.
enum Of {
    Counted { start: usize, t: usize },
    Given(Tensor),
}

/// `wte[ids] + wpe[places]`, or `wte[ids]`: argument ids `[..]`, `i64`, contiguous, on the host.
struct GatherBytes<'a> {
    wte: Cow<'a, MappedTable>,
    wpe: Option<(Cow<'a, MappedTable>, Of)>,
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
            Some((wpe, Of::Counted { start, t })) => {
                let batch = ids.len().checked_div(*t).unwrap_or(0);
                // Positions outermost: a row of `wpe` is converted once for the whole batch.
                written(ids.len() * width, |out| add::<E, _>(out, ids, &self.wte, wpe, *t, |column| {
                    (start + column, (0..batch).map(move |row| row * t + column))
                }))
            }
            Some((wpe, Of::Given(places))) => {
                let (storage, layout) = places.storage_and_layout();
                let places = inside(i64::cpu_storage_as_slice(on_host(&storage)?)?, layout)?;
                written(ids.len() * width, |out| add::<E, _>(out, ids, &self.wte, wpe, places.len(), |n| {
                    (places[n].row(), n..n + 1)
                }))
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

/// `out[n] = wte[ids[n]]`.
fn gather<E: Element>(out: &mut [MaybeUninit<E>], ids: &[i64], wte: &MappedTable) -> Result<(), Outside> {
    let n_bytes = size_of_val(out);
    let out = Out::new(out, wte.width);
    in_parallel(ids.len(), n_bytes, |range| {
        let mut scratch = vec![E::zero(); wte.width];
        for n in range {
            let row = wte.row(ids[n].row(), &mut scratch)?;
            // SAFETY: the ranges of the tasks do not overlap, so row `n` is this task's alone.
            simd::copy(unsafe { out.row(n) }, row, &[], out.stream);
        }
        simd::fence(out.stream);
        Ok(())
    })
}

/// `out[n] = wte[ids[n]] + wpe[place]` for each of `n_places` places and the outputs `n` that stand there.
fn add<E: Element, N: Iterator<Item = usize>>(
    out: &mut [MaybeUninit<E>],
    ids: &[i64],
    wte: &MappedTable,
    wpe: &MappedTable,
    n_places: usize,
    outputs_of: impl Fn(usize) -> (usize, N) + Sync,
) -> Result<(), Outside> {
    let n_bytes = size_of_val(out);
    if wpe.width != wte.width {
        return Err(Outside);
    }
    let out = Out::new(out, wte.width);
    in_parallel(n_places, n_bytes, |range| {
        let (mut token, mut position) = (vec![E::zero(); wte.width], vec![E::zero(); wte.width]);
        for i in range.clone() {
            // The next place's first row is on its way while this one is added.
            if i + 1 < range.end
                && let Some(next) = outputs_of(i + 1).1.next()
            {
                simd::prefetch(wte.row_bytes(ids[next].row())?);
            }
            let (place, outputs) = outputs_of(i);
            let position = wpe.row(place, &mut position)?;
            for n in outputs {
                let row = wte.row(ids[n].row(), &mut token)?;
                // SAFETY: each output stands at one place, and the tasks' ranges of places do not overlap.
                simd::add(unsafe { out.row(n) }, row, position, &[], out.stream);
            }
        }
        simd::fence(out.stream);
        Ok(())
    })
}
