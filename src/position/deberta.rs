//! DeBERTa's positions: content and distance attend to each other.

use candle_core::{D, Module, Tensor};
use candle_nn::Linear;

use super::scores::{Dims, Distances, check_reach, dot, dot_rows};
use crate::error::Result;
use crate::kernel::{Columns, by_distance};
use crate::shape::wrong_shape;

/// Disentangled attention (He et al. 2020, arXiv:2006.03654, equation 4) in one block:
///
/// ```text
/// score(i, j) = (Qc_i · Kc_j + Qc_i · Kr_δ(i,j) + Kc_j · Qr_δ(j,i)) / √(3 D)
/// ```
///
/// `Kr` (c2p) and `Qr` (p2c) are projections of one table of distances, `rel_embeddings`, that all blocks share; the
/// divisor counts the terms there are. In the last term the paper has row `δ(j, i)`. Its authors' code and transformers
/// take the mirrored row, that of `i - j`, and so does this type. Distances are clipped, or first put into logarithmic
/// buckets (DeBERTa-v2 and v3, arXiv:2111.09543). With as many queries as keys the values equal those of `DebertaV2` in
/// transformers. With a key/value cache, transformers counts distances from the first query, and this type from
/// `start_pos`.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_gpt_input::position::{Deberta, DebertaProjections};
/// use candle_nn::Linear;
///
/// let rel_embeddings = Tensor::new(&[[1f32], [2.], [3.], [4.]], &Device::Cpu)?; // distances -2, -1, 0 and 1; C = 1
/// let to_keys = Linear::new(Tensor::new(&[[1f32], [0.]], &Device::Cpu)?, None); // H = 1, D = 2
/// let projections = DebertaProjections { pos_key_proj: Some(to_keys), ..Default::default() }; // the term c2p alone
/// let deberta = Deberta::new(rel_embeddings, projections, None, 2)?;
/// let q = Tensor::new(&[[[[1f32, 0.]]]], &Device::Cpu)?;
/// let k = Tensor::zeros((1, 1, 2, 2), DType::F32, &Device::Cpu)?;
/// let scores = deberta.attention_scores(&q, &k, 1)?; // of the query at position 1, over √(2 D) for two terms
/// assert_eq!(scores.flatten_all()?.to_vec1::<f32>()?, [2.0, 1.5]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias("DisentangledSelfAttention", "pos_att_type"))]
#[derive(Clone, Debug)]
pub struct Deberta {
    rel_embeddings: Tensor,
    projections: DebertaProjections,
    buckets: Buckets,
}

/// The projections of distances in one block of [`Deberta`], with weights `[H D, C]`. The term of a missing one is left
/// out.
///
/// Checkpoints with `share_att_key` have none: pass the block's `key_proj` and `query_proj`.
#[derive(Clone, Debug, Default)]
pub struct DebertaProjections {
    /// `pos_key_proj`: makes the `Kr` of the term c2p, in which queries attend to distances.
    pub pos_key_proj: Option<Linear>,
    /// `pos_query_proj`: makes the `Qr` of the term p2c, in which distances attend to keys.
    pub pos_query_proj: Option<Linear>,
}

#[derive(Clone, Copy, Debug)]
struct Buckets {
    /// The logarithmic buckets on each side.
    position_buckets: Option<usize>,
    max_relative_positions: usize,
    /// Half the rows of the table.
    span: usize,
}

impl Deberta {
    /// Makes the positions of one block from the table of distances and the block's projections of it.
    ///
    /// # Shapes
    /// - `rel_embeddings`: `[2 S, C]`, S being the buckets on each side, or `max_relative_positions` without buckets
    /// - `projections`: weights `[H D, C]` and biases `[H D]`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for other shapes.
    pub fn new(
        rel_embeddings: Tensor,
        projections: DebertaProjections,
        position_buckets: Option<usize>,
        max_relative_positions: usize,
    ) -> Result<Self> {
        let span = position_buckets.unwrap_or(max_relative_positions);
        let width = match *rel_embeddings.dims() {
            [n, width] if Some(n) == span.checked_mul(2) && n > 0 => width,
            _ => {
                let expected = format!("[2 · {span}, C]");
                return Err(wrong_shape("rel_embeddings", rel_embeddings.shape(), expected));
            }
        };
        let DebertaProjections { pos_key_proj, pos_query_proj } = &projections;
        for (what, projection) in [("pos_key_proj", pos_key_proj), ("pos_query_proj", pos_query_proj)] {
            let Some(projection) = projection else { continue };
            match *projection.weight().dims() {
                [n, weight_width]
                    if weight_width == width && projection.bias().is_none_or(|bias| bias.dims() == [n]) => {}
                _ => {
                    let expected = format!("[H D, {width}], and as many biases");
                    return Err(wrong_shape(what, projection.weight().shape(), expected));
                }
            }
        }
        let buckets = Buckets { position_buckets, max_relative_positions, span };
        Ok(Self { rel_embeddings, projections, buckets })
    }

    /// Returns the bucket of a distance (query minus key), before it is clipped to the table:
    /// `make_log_bucket_position` of transformers in the same f32 operations, or the distance itself without buckets.
    #[doc(alias = "make_log_bucket_position")]
    pub fn bucket(&self, distance: i64) -> i64 {
        self.buckets.of(distance)
    }

    /// Returns the scores of queries at `start_pos..start_pos + t_q` and keys at `0..t_k`, divided by √(n D) for n
    /// terms. Add the mask.
    ///
    /// Gradients reach `q`, `k` and the tables. Padding on the left changes nothing.
    ///
    /// # Shapes
    /// - `q`: `[B, H, T_q, D]`, `k`: `[B, H, T_k, D]`
    /// - returns: `[B, H, T_q, T_k]`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for other shapes.
    pub fn attention_scores(&self, q: &Tensor, k: &Tensor, start_pos: usize) -> Result<Tensor> {
        let (t_q, t_k, start, buckets) = (q.dim(2)?, k.dim(2)?, start_pos as i64, self.buckets);
        check_reach(t_q, t_k, start_pos)?;
        self.scores(
            (q, k),
            |by_row| by_distance(by_row, Columns::new(t_q, t_k, start, |distance| buckets.row(-distance))?),
            // Keys and queries change places: the first key stands `start` before the first query.
            |by_row| by_distance(by_row, Columns::new(t_k, t_q, -start, |distance| buckets.row(distance))?),
        )
    }

    /// Returns the scores for queries and keys at given positions, as needed if padding lies inside a row.
    ///
    /// # Shapes
    /// - `q`: `[B, H, T_q, D]`, `k`: `[B, H, T_k, D]`
    /// - `q_positions`: `[B, T_q]`, `k_positions`: `[B, T_k]`, `u8`, `u32` or `i64`
    /// - returns: `[B, H, T_q, T_k]`
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) and [`Error::IdDType`](crate::Error::IdDType) for other
    /// shapes and positions.
    pub fn attention_scores_at(
        &self,
        q: &Tensor,
        k: &Tensor,
        q_positions: &Tensor,
        k_positions: &Tensor,
    ) -> Result<Tensor> {
        let (buckets, h) = (self.buckets, q.dim(1)?);
        let distances = Distances::between(q, k, q_positions, k_positions)?;
        // Both terms take the row of query minus key.
        let c2p = distances.columns(h, |distance| buckets.row(-distance), q.device())?;
        let p2c = c2p.transpose(D::Minus1, D::Minus2)?.contiguous()?;
        let gather = |by_row: &Tensor, columns| Ok(by_row.gather(columns, D::Minus1)?);
        self.scores((q, k), |by_row| gather(by_row, &c2p), |by_row| gather(by_row, &p2c))
    }

    /// Sums the terms. The closures pick from scores `[B, H, T_q, 2 S]` of queries those of the keys' distances, and
    /// from scores of keys those of the queries' distances.
    fn scores(
        &self,
        (q, k): (&Tensor, &Tensor),
        pick_for_queries: impl Fn(&Tensor) -> Result<Tensor>,
        pick_for_keys: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (_, h, _, d) = q.dims4()?;
        Dims::of(q, k, Some(h), d)?;
        let mut scores = dot(q, k)?;
        let mut n_terms = 1.0;
        if let Some(projection) = &self.projections.pos_key_proj {
            scores = (scores + pick_for_queries(&dot_rows(q, &self.project(projection, h, d)?)?)?)?;
            n_terms += 1.0;
        }
        if let Some(projection) = &self.projections.pos_query_proj {
            let by_key = pick_for_keys(&dot_rows(k, &self.project(projection, h, d)?)?)?;
            scores = (scores + by_key.transpose(D::Minus1, D::Minus2)?)?;
            n_terms += 1.0;
        }
        Ok((scores * (1.0 / (n_terms * d as f64).sqrt()))?)
    }

    /// Projects the table into heads: `[H, 2 S, D]`.
    fn project(&self, projection: &Linear, h: usize, d: usize) -> Result<Tensor> {
        let (n, _) = self.rel_embeddings.dims2()?;
        if projection.weight().dim(0)? != h * d {
            let expected = format!("{h} heads of {d}, as queries and keys have");
            return Err(wrong_shape("the projection of distances", projection.weight().shape(), expected));
        }
        let rows = projection.forward(&self.rel_embeddings)?;
        Ok(rows.reshape((n, h, d))?.transpose(0, 1)?)
    }
}

impl Buckets {
    fn of(self, distance: i64) -> i64 {
        let Some(buckets) = self.position_buckets else { return distance };
        let mid = (buckets / 2) as i64;
        if distance.unsigned_abs() <= mid as u64 {
            return distance;
        }
        let log = |x: f32| f64::from(x).ln() as f32;
        let whole = log(((self.max_relative_positions as f64 - 1.0) / mid as f64) as f32);
        let further = log(distance.unsigned_abs() as f32 / mid as f32) / whole * (mid - 1) as f32;
        (further.ceil() as i64).saturating_add(mid).saturating_mul(distance.signum())
    }

    /// Returns the row of the table for a distance (query minus key).
    fn row(self, distance: i64) -> u32 {
        let span = self.span as i64;
        (self.of(distance).clamp(-span, span - 1) + span) as u32
    }
}
