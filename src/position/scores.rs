//! Shared by the schemes that act on scores: shapes of queries and keys, and distances between their positions.

use candle_core::{D, Device, Tensor};

use crate::error::{Error, Result};
use crate::kernel::{to_host, unravel};
use crate::memory::{copy_fits, fits, fits_on};
use crate::shape::wrong_shape;

/// The dimensions of queries `[B, H, T_q, D]` and keys `[B, H, T_k, D]`.
pub(super) struct Dims {
    pub(super) t_q: usize,
    pub(super) t_k: usize,
    pub(super) d: usize,
}

impl Dims {
    /// Returns the dimensions that queries and keys share.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if they do not fit each other, or a table with `n_head` heads (if it has heads) of `d`
    /// elements.
    pub(super) fn of(q: &Tensor, k: &Tensor, n_head: Option<usize>, d: usize) -> Result<Self> {
        let (b, h, t_q) = match *q.dims() {
            [b, h, t_q, width] if width == d && n_head.is_none_or(|n_head| n_head == h) => (b, h, t_q),
            _ => {
                let heads = n_head.map_or("H".to_string(), |n_head| n_head.to_string());
                return Err(wrong_shape("q", q.shape(), format!("[B, {heads}, T_q, {d}]")));
            }
        };
        match *k.dims() {
            [b_k, h_k, t_k, width] if (b_k, h_k, width) == (b, h, d) => {
                fits_on(q.device(), "attention scores", &[b, h, t_q, t_k], q.dtype().size_in_bytes())?;
                Ok(Self { t_q, t_k, d })
            }
            _ => Err(wrong_shape("k", k.shape(), format!("[{b}, {h}, T_k, {d}]"))),
        }
    }
}

/// The largest position whose distances can be counted.
pub(super) const MAX_POSITION: usize = isize::MAX as usize;

/// Checks that distances of queries at `start_pos..start_pos + t_q` and keys at `0..t_k` can be counted.
///
/// # Errors
/// [`Error::SequenceTooLong`]
pub(super) fn check_reach(t_q: usize, t_k: usize, start_pos: usize) -> Result<()> {
    let end = start_pos.saturating_add(t_q).max(t_k);
    match end > MAX_POSITION || t_q.saturating_add(t_k) > MAX_POSITION {
        true => Err(Error::SequenceTooLong { end, n_positions: MAX_POSITION }),
        false => Ok(()),
    }
}

/// The distances, key minus query, of every query and key of every sequence: `[B, T_q, T_k]`.
pub(super) struct Distances {
    pub(super) b: usize,
    pub(super) t_q: usize,
    pub(super) t_k: usize,
    pub(super) values: Vec<i64>,
}

impl Distances {
    /// Computes the distances of positions `[B, T_q]` and `[B, T_k]`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`], [`Error::IdDType`], and [`Error::PositionOutOfRange`] for one below 0.
    pub(super) fn of(q_positions: &Tensor, k_positions: &Tensor) -> Result<Self> {
        let &[b, t_q] = q_positions.dims() else {
            return Err(wrong_shape("q_positions", q_positions.shape(), "[B, T_q]"));
        };
        let t_k = match *k_positions.dims() {
            [b_k, t_k] if b_k == b => t_k,
            _ => return Err(wrong_shape("k_positions", k_positions.shape(), format!("[{b}, T_k]"))),
        };
        fits("distances", &[b, t_q, t_k], size_of::<i64>())?;
        let (q, k) = (counted(q_positions, "q_positions")?, counted(k_positions, "k_positions")?);
        // Rows of no ids are none, whatever their number.
        let rows = q.chunks_exact(t_q.max(1)).zip(k.chunks_exact(t_k.max(1)));
        let values = rows.flat_map(|(q, k)| q.iter().flat_map(move |q| k.iter().map(move |k| k.saturating_sub(*q))));
        Ok(Self { b, t_q, t_k, values: values.collect() })
    }
}

/// Copies position ids to the host, and refuses one below 0.
fn counted(positions: &Tensor, what: &'static str) -> Result<Vec<i64>> {
    let values = to_host(positions, what)?;
    match values.iter().position(|&position| position < 0) {
        Some(index) => Err(Error::PositionOutOfRange {
            position: values[index],
            at: unravel(index, positions.dims()),
            n_positions: MAX_POSITION,
        }),
        None => Ok(values),
    }
}

impl Distances {
    /// Computes the distances of queries `[B, H, T_q, D]` and keys `[B, H, T_k, D]`.
    ///
    /// # Errors
    /// As [`of`](Self::of), and [`Error::ShapeMismatch`] if there is not one position for each query and key.
    pub(super) fn between(q: &Tensor, k: &Tensor, q_positions: &Tensor, k_positions: &Tensor) -> Result<Self> {
        for (what, positions, of) in [("q_positions", q_positions, q), ("k_positions", k_positions, k)] {
            let (b, _, t, _) = of.dims4()?;
            if positions.dims() != [b, t] {
                return Err(wrong_shape(what, positions.shape(), format!("[{b}, {t}]")));
            }
        }
        Self::of(q_positions, k_positions)
    }

    /// Maps each distance to a column, the same for all heads: `[B, H, T_q, T_k]`.
    pub(super) fn columns(&self, n_head: usize, column: impl Fn(i64) -> u32, device: &Device) -> Result<Tensor> {
        fits_on(device, "columns of distances", &[self.b, n_head, self.t_q, self.t_k], size_of::<u32>())?;
        let columns: Vec<u32> = self.values.iter().map(|&distance| column(distance)).collect();
        let columns = Tensor::from_vec(columns, (self.b, 1, self.t_q, self.t_k), device)?;
        Ok(columns.broadcast_as((self.b, n_head, self.t_q, self.t_k))?.contiguous()?)
    }
}

/// Multiplies `x` `[B, H, T, D]` by the transpose of `rows` `[H or 1, N, D]`: `[B, H, T, N]`.
pub(super) fn dot_rows(x: &Tensor, rows: &Tensor) -> Result<Tensor> {
    let (b, h, t, d) = x.dims4()?;
    let (n_head, n, _) = rows.dims3()?;
    copy_fits("queries or keys", x)?;
    fits_on(x.device(), "scores of distances", &[b, h, t, n], x.dtype().size_in_bytes())?;
    if n_head == 1 {
        // All heads share one matrix: one product.
        let product = x.contiguous()?.reshape((b * h * t, d))?.matmul(&rows.squeeze(0)?.t()?)?;
        return Ok(product.reshape((b, h, t, n))?);
    }
    // With the heads outermost there is one product for each, over the whole batch.
    let by_head = x.transpose(0, 1)?.contiguous()?.reshape((h, b * t, d))?;
    let product = by_head.matmul(&rows.transpose(D::Minus1, D::Minus2)?.contiguous()?)?;
    Ok(product.reshape((h, b, t, n))?.transpose(0, 1)?.contiguous()?)
}

/// Sums values `[B, H, T_k, D]` with weights `[B, H, T_q, T_k]`.
pub(super) fn weighted(weights: &Tensor, v: &Tensor) -> Result<Tensor> {
    copy_fits("attention weights", weights)?;
    copy_fits("values", v)?;
    Ok(weights.contiguous()?.matmul(&v.contiguous()?)?)
}

/// Computes `q kᵀ`: `[B, H, T_q, T_k]`.
pub(super) fn dot(q: &Tensor, k: &Tensor) -> Result<Tensor> {
    copy_fits("queries", q)?;
    copy_fits("keys", k)?;
    Ok(q.contiguous()?.matmul(&k.transpose(D::Minus1, D::Minus2)?.contiguous()?)?)
}
