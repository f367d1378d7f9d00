//! [`Batch`]: several windows as tensors.

use candle_core::{DType, Device, Tensor};

use super::{LoaderConfig, Tail, Window};
use crate::error::{DataError, Result};

/// Stands in padding, for inputs and targets alike: an id of every vocabulary, so that a lookup or a loss that is masked
/// afterwards can be computed there too.
const PAD_ID: u32 = 0;
/// Ids are copied so many at a time: from 4 KiB on glibc's `memcpy` uses `rep movsb`, which takes up to half as long again on
/// AMD's Zen 3 if source and target are aligned differently, as inputs and targets are.
const PIECE: usize = 256;
/// Ids in a cache line.
const LINE: usize = 16;

/// What a training step takes: windows and their targets.
///
/// Ids are `u32`: what tokenizers give, what Candle's lookups and `loss::cross_entropy` take (on `target_ids.flatten_all()`),
/// and half the bytes of PyTorch's `i64` on the way to the device. All tensors are contiguous views of one allocation, made
/// by one copy from the host (`loss_mask` is cast from it on the device).
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[B, T]`, `u32`.
    pub input_ids: Tensor,
    /// `[B, T]`, `u32`: the token after each of `input_ids`.
    pub target_ids: Tensor,
    /// `[B, T]`, `u32`, with [`LoaderConfig::reset_positions_after`]; without it positions are 0 to T - 1 in every row.
    pub position_ids: Option<Tensor>,
    /// `[B, T]`, `u8`, with [`Tail::Keep`]: 1 where there is a target, 0 at padding, which is on the right. Without it
    /// every place has a target.
    pub loss_mask: Option<Tensor>,
}

impl Batch {
    /// One batch of at least one window, each padded to `config.max_length`.
    pub(super) fn new(windows: &[Window<'_>], config: &LoaderConfig, device: &Device) -> Result<Self> {
        let (n_rows, max_length) = (windows.len(), config.max_length);
        let masked = config.tail == Tail::Keep;
        let n_planes = 2 + usize::from(config.reset_positions_after.is_some()) + usize::from(masked);
        let mut planes: Vec<u32> = Vec::new();
        let n_ids = n_rows.checked_mul(max_length).and_then(|n_ids| n_ids.checked_mul(n_planes));
        n_ids
            .and_then(|n_ids| planes.try_reserve_exact(n_ids).ok())
            .ok_or(DataError::BatchTooLarge { n_rows, max_length })?;
        read_ahead(windows, max_length);
        windows.iter().for_each(|window| push_row(&mut planes, window.input_ids, max_length));
        windows.iter().for_each(|window| push_row(&mut planes, window.target_ids, max_length));
        if let Some(separator) = config.reset_positions_after {
            for window in windows {
                push_positions(&mut planes, window.input_ids, separator);
                planes.resize(planes.len() + max_length - window.input_ids.len(), 0);
            }
        }
        if masked {
            for window in windows {
                planes.resize(planes.len() + window.target_ids.len(), 1);
                planes.resize(planes.len() + max_length - window.target_ids.len(), 0);
            }
        }
        let planes = Tensor::from_vec(planes, (n_planes * n_rows, max_length), device)?;
        let plane = |number: usize| planes.narrow(0, number * n_rows, n_rows);
        let position_ids = config.reset_positions_after.map(|_| plane(2)).transpose()?;
        let loss_mask = masked.then(|| plane(n_planes - 1)?.to_dtype(DType::U8)).transpose()?;
        Ok(Self { input_ids: plane(0)?, target_ids: plane(1)?, position_ids, loss_mask })
    }
}

/// Reads one id of each cache line, a line of every window before the next line of any. A shuffled batch lies in as many places
/// of a text that is larger than the cache; so the processor waits for all of them at a time instead of one after another.
fn read_ahead(windows: &[Window<'_>], max_length: usize) {
    let lines = (0..max_length).step_by(LINE);
    let ids = lines.flat_map(|t| windows.iter().filter_map(move |window| window.input_ids.get(t)));
    std::hint::black_box(ids.fold(0, |all, id| all | id));
}

/// Appends `ids`, padded to `max_length`.
fn push_row(planes: &mut Vec<u32>, ids: &[u32], max_length: usize) {
    ids.chunks(PIECE).for_each(|piece| planes.extend_from_slice(piece));
    planes.resize(planes.len() + max_length - ids.len(), PAD_ID);
}

fn push_positions(planes: &mut Vec<u32>, input_ids: &[u32], separator: u32) {
    let mut position = 0;
    for &id in input_ids {
        planes.push(position);
        position = if id == separator { 0 } else { position + 1 };
    }
}
