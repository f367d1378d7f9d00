//! The gather from stored bytes as a Candle operation. It converts or dequantizes rows on the way.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};

use crate::kernel::core::dequantize::Scratch;
use crate::kernel::core::element::{AsIf, Element, by_dtype, bytes_of, bytes_of_mut};
use crate::kernel::core::parallel::{Out, Outside, in_parallel};
use crate::kernel::core::rows::{Ids, Rows};
use crate::kernel::core::simd;
use crate::kernel::core::storage::{on_host, slice, written};
use crate::rows::StoredRows;

type CandleResult<T> = candle_core::Result<T>;

/// A position table whose rows are on this machine.
pub(super) enum Added<'a> {
    Stored(Cow<'a, StoredRows>),
    Dense(Tensor),
}

/// The positions of the ids.
pub(super) enum Of {
    Counted { start: usize, t: usize },
    Given(Tensor),
}

/// `wte[ids] + wpe[places]`, or `wte[ids]`: argument ids `[..]`, `i64`, contiguous, on the host.
pub(super) struct GatherBytes<'a> {
    pub(super) wte: Cow<'a, StoredRows>,
    /// The dtype of the output.
    pub(super) dtype: DType,
    pub(super) wpe: Option<(Added<'a>, Of)>,
}

impl CustomOp1 for GatherBytes<'_> {
    fn name(&self) -> &'static str {
        "gather-mapped"
    }

    fn cpu_fwd(&self, ids: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let ids = Ids::new(ids, layout)?;
        let width = self.wte.width;
        let shape: Shape = layout.dims().iter().copied().chain([width]).collect::<Vec<_>>().into();
        let storage = by_dtype!(AsIf(self.dtype), E => match &self.wpe {
            None => written(ids.len() * width, &mut |out| gather::<E>(out, ids, &self.wte)),
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

/// Rows to add: in stored form, or elements in memory.
#[derive(Clone, Copy)]
enum PositionRows<'a, E> {
    Stored(&'a StoredRows),
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

/// Computes `out[n] = wte[ids[n]]`.
fn gather<E: Element>(out: &mut [MaybeUninit<E>], ids: Ids, wte: &StoredRows) -> Result<(), Outside> {
    let n_bytes = size_of_val(out);
    let out = Out::new(out, wte.width);
    let n_ahead = wte.n_ahead();
    in_parallel(ids.len(), n_bytes, &|range| {
        let mut scratch = Scratch::<E>::new(wte.width);
        for n in range {
            let next = wte.next(ids.row(n + n_ahead));
            let row = wte.row(ids.row(n)?, &mut scratch)?;
            // SAFETY: the ranges of the tasks do not overlap, so row `n` is this task's alone.
            simd::copy(bytes_of_mut(unsafe { out.row(n) }), bytes_of(row), next, out.stream);
        }
        simd::fence(out.stream);
        Ok(())
    })
}

fn add_of<E: Element>(ids: Ids, wte: &StoredRows, wpe: PositionRows<E>, of: &Of) -> CandleResult<CpuStorage> {
    let n = ids.len() * wte.width;
    match of {
        &Of::Counted { start, t } => written(n, &mut |out| add(out, ids, wte, wpe, t, &|column| Ok(start + column))),
        Of::Given(places) => {
            let (storage, layout) = places.storage_and_layout();
            let places = Ids::new(on_host(&storage)?, layout)?;
            written(n, &mut |out| add(out, ids, wte, wpe, ids.len(), &|n| places.row(n)))
        }
    }
}

/// Computes `out[n] = wte[ids[n]] + wpe[place_of(n % t)]`.
fn add<E: Element>(
    out: &mut [MaybeUninit<E>],
    ids: Ids,
    wte: &StoredRows,
    wpe: PositionRows<E>,
    t: usize,
    place_of: &(dyn Fn(usize) -> Result<usize, Outside> + Sync),
) -> Result<(), Outside> {
    let n_bytes = size_of_val(out);
    if wpe.width() != wte.width {
        return Err(Outside);
    }
    let out = Out::new(out, wte.width);
    let n_ahead = wte.n_ahead();
    // Positions outermost: a row of `wpe` is converted once for the whole batch.
    let outputs_of = |column| (column..ids.len()).step_by(t);
    in_parallel(t, n_bytes, &|range| {
        let (mut token, mut position) = (Scratch::new(wte.width), Scratch::new(wte.width));
        let mut ahead = range.clone().flat_map(outputs_of).skip(n_ahead);
        for column in range.clone() {
            let position = wpe.row(place_of(column)?, &mut position)?;
            for n in outputs_of(column) {
                let next = wte.next(ahead.next().ok_or(Outside).and_then(|next| ids.row(next)));
                let row = wte.row(ids.row(n)?, &mut token)?;
                // SAFETY: each output row belongs to one column, and the tasks' ranges of columns do not overlap.
                simd::add(unsafe { out.row(n) }, row, position, next, out.stream);
            }
        }
        simd::fence(out.stream);
        Ok(())
    })
}
