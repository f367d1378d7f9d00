//! [`Attention`]: scaled dot products, masks, softmax, and the sums of the values.

use candle_core::{DType, Device, Tensor};

use crate::data::PackedDocuments;
use crate::dropout::dropout;
use crate::error::{Error, Result};
use crate::kernel::{self, Scores, to_host, unravel};
use crate::rng::Generator;
use crate::shape::{is_float, same_device, same_dtype, wrong_shape};

/// Attention, `softmax(q · kᵀ · scale + bias) · v`: `torch.nn.functional.scaled_dot_product_attention` (Vaswani et al.
/// 2017, arXiv:1706.03762).
///
/// Make one for each forward pass, and let all blocks use it. With a key/value cache there are more keys than queries;
/// the last query stands at the last key. (PyTorch's `is_causal` begins at the first key instead; the two agree without
/// a cache.) A query that sees no key, as in a row of padding, gets zeros and zero gradients, as PyTorch documents it.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::nn::Attention;
///
/// let tensor = |x: [f32; 2]| Tensor::from_vec(x.to_vec(), (1, 1, 2, 1), &Device::Cpu); // B = H = 1, T = 2, D = 1
/// let (zeros, v) = (tensor([0., 0.])?, tensor([2., 4.])?); // all scores are 0, so all keys count alike
/// let values = |y: Tensor| y.flatten_all()?.to_vec1::<f32>();
/// assert_eq!(values(Attention::causal().forward(&zeros, &zeros, &v)?)?, [2., 3.]);
/// assert_eq!(values(Attention::full().forward(&zeros, &zeros, &v)?)?, [3., 3.]);
/// let attention_mask = Tensor::new(&[[0u32, 1]], &Device::Cpu)?; // the first token is padding
/// let padded = Attention::causal().with_padding(&attention_mask)?;
/// assert_eq!(values(padded.forward(&zeros, &zeros, &v)?)?, [0., 4.]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias("scaled_dot_product_attention", "sdpa", "MultiheadAttention"))]
#[derive(Clone, Debug)]
pub struct Attention {
    is_causal: bool,
    scale: Option<f64>,
    bias: Option<Tensor>,
    /// `[B, 1, 1, M]`: 0 where a key counts, -∞ where it is padding.
    padding: Option<Tensor>,
    documents: Option<PackedDocuments>,
    dropout: Option<(f64, Generator)>,
}

impl Attention {
    /// Lets each query see its own key and the earlier ones.
    #[doc(alias = "is_causal")]
    pub fn causal() -> Self {
        Self { is_causal: true, scale: None, bias: None, padding: None, documents: None, dropout: None }
    }

    /// Lets each query see all keys.
    pub fn full() -> Self {
        Self { is_causal: false, ..Self::causal() }
    }

    /// Sets the factor of the scores, by default `1/√D`.
    #[must_use]
    pub fn with_scale(mut self, scale: f64) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Adds a bias to the scores, such as that of
    /// [`PositionEncoding::attention_bias`](crate::position::PositionEncoding::attention_bias), or a mask of 0 and -∞.
    ///
    /// It is `[B, H, T_q, T_k]`, where each dimension may be 1 and leading ones may be absent. It gets a gradient if it
    /// is tracked.
    #[doc(alias = "attn_mask")]
    #[must_use]
    pub fn with_bias(mut self, bias: &Tensor) -> Self {
        self.bias = Some(bias.clone());
        self
    }

    /// Hides the keys of padding: those where `attention_mask` `[B, M]` is 0. Column 0 is the first key in the cache.
    ///
    /// Keys beyond the mask are tokens, so the mask of a padded prompt serves for the whole generation; columns beyond
    /// the keys are not used.
    ///
    /// # Errors
    /// [`Error::IdDType`] unless the mask is `u8`, `u32` or `i64`, [`Error::MaskValue`] for a value other than 0 and 1,
    /// [`Error::ShapeMismatch`] unless it is a matrix.
    #[doc(alias = "key_padding_mask")]
    pub fn with_padding(mut self, attention_mask: &Tensor) -> Result<Self> {
        let what = "attention_mask";
        let &[b, m] = attention_mask.dims() else {
            return Err(wrong_shape(what, attention_mask.shape(), "[B, M]"));
        };
        let value = |(at, value): (usize, i64)| match value {
            0 => Ok(f32::NEG_INFINITY),
            1 => Ok(0.0),
            _ => Err(Error::MaskValue { what, value, at: unravel(at, &[b, m]) }),
        };
        let values = to_host(attention_mask, what)?.into_iter().enumerate().map(value).collect::<Result<Vec<f32>>>()?;
        self.padding = Some(Tensor::from_vec(values, (b, 1, 1, m), &Device::Cpu)?.to_device(attention_mask.device())?);
        Ok(self)
    }

    /// Hides the keys of other documents than the query's: those of a packed [`Batch`](crate::data::Batch).
    ///
    /// In f32, f16 and bf16 on the CPU a document then gets the output and gradients that it gets alone, to the bit.
    /// Elsewhere sums run over whole rows, with zeros for other documents, so they may differ in their last bits.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::data::PackedDocuments;
    /// use candle_gpt_input::nn::Attention;
    ///
    /// let tensor = |x: [f32; 3]| Tensor::from_vec(x.to_vec(), (1, 1, 3, 1), &Device::Cpu); // B = H = 1, T = 3, D = 1
    /// let (zeros, v) = (tensor([0., 0., 0.])?, tensor([2., 4., 8.])?);
    /// let documents = PackedDocuments::from_lengths([[2, 1]])?; // the third token begins another document
    /// let y = Attention::causal().with_documents(&documents).forward(&zeros, &zeros, &v)?;
    /// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [2., 3., 8.]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[doc(alias("cu_seqlens", "flash_attn_varlen", "block_causal"))]
    #[must_use]
    pub fn with_documents(mut self, documents: &PackedDocuments) -> Self {
        self.documents = Some(documents.clone());
        self
    }

    /// Drops weights with probability `p`, by masks drawn from `generator`: for training only.
    ///
    /// The masks are those of transformers with `attn_implementation="eager"`.
    #[doc(alias = "dropout_p", alias = "attn_pdrop")]
    #[must_use]
    pub fn with_dropout(mut self, p: f64, generator: &Generator) -> Self {
        self.dropout = (p != 0.0).then(|| (p, generator.clone()));
        self
    }

    /// Computes attention.
    ///
    /// Fewer heads of keys and values than of queries each serve neighbouring queries (grouped-query attention, Ainslie
    /// et al. 2023, arXiv:2305.13245; PyTorch's `enable_gqa`).
    ///
    /// # Shapes
    /// - `q`: `[B, H, T_q, D]`
    /// - `k`: `[B, H_k, T_k, D]`, `v`: `[B, H_k, T_k, D_v]`, with H a multiple of H_k
    /// - returns: `[B, H, T_q, D_v]`; `.transpose(1, 2)` and a reshape to `[B, T_q, H · D_v]` cost nothing after it
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for other shapes, of bias, mask and documents as well, [`Error::TableMismatch`] if dtypes
    /// or devices differ, [`Error::FloatDType`] for integers.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        is_float("q", q.dtype())?;
        for (what, other) in [("k", k), ("v", v)] {
            same_dtype((what, other.dtype()), ("q", q.dtype()))?;
            same_device((what, other.device()), ("q", q.device()))?;
        }
        let &[b, h, t_q, d] = q.dims() else { return Err(wrong_shape("q", q.shape(), "[B, H, T_q, D]")) };
        let (h_k, t_k) = match *k.dims() {
            [b_k, h_k, t_k, d_k] if b_k == b && d_k == d && h_k > 0 && h % h_k == 0 => (h_k, t_k),
            _ => {
                let expected = format!("[{b}, H_k, T_k, {d}], with H_k a divisor of {h}");
                return Err(wrong_shape("k", k.shape(), expected));
            }
        };
        if !matches!(*v.dims(), [b_v, h_v, t_v, _] if (b_v, h_v, t_v) == (b, h_k, t_k)) {
            return Err(wrong_shape("v", v.shape(), format!("[{b}, {h_k}, {t_k}, D_v]")));
        }
        let scores = self.scores((b, h, t_q, t_k), d, q.device())?;
        let Some(dropout) = &self.dropout else { return Ok(kernel::attention(q, k, v, &scores)?) };
        let weights = weights(&kernel::attention_scores(q, k, &scores)?, Some(dropout))?;
        Ok(kernel::weighted(&weights, v)?)
    }

    /// Computes attention of queries, keys and values that lie side by side, as GPT-2's `c_attn` makes them. Its gradient
    /// costs less than that of three tensors.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_gpt_input::nn::Attention;
    ///
    /// let qkv = Tensor::new(&[[[0f32, 0., 2.], [0., 0., 4.]]], &Device::Cpu)?; // of each token: q, k, v
    /// let y = Attention::causal().forward_packed(&qkv, 1, 1)?;
    /// assert_eq!(y.to_vec3::<f32>()?, [[[2.], [3.]]]);
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Shapes
    /// - `qkv`: `[B, T, (n_head + 2 · n_kv_head) · D]`: all heads of queries, then of keys, then of values
    /// - returns: `[B, T, n_head · D]`
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_packed(&self, qkv: &Tensor, n_head: usize, n_kv_head: usize) -> Result<Tensor> {
        let (b, t, d) = packed_dims(qkv, n_head, n_kv_head)?;
        if self.dropout.is_some() {
            let (q, k, v) = split_heads(qkv, n_head, n_kv_head)?;
            return Ok(self.forward(&q, &k, &v)?.transpose(1, 2)?.reshape((b, t, n_head * d))?);
        }
        let scores = self.scores((b, n_head, t, t), d, qkv.device())?;
        Ok(kernel::packed_attention(qkv, (n_head, n_kv_head), &scores)?)
    }

    /// Turns scores that another computed into weights: adds bias and masks, takes the softmax, applies dropout. The
    /// scale is not applied.
    ///
    /// It serves schemes that act inside the scores, such as
    /// [`PositionEncoding::attention_scores`](crate::position::PositionEncoding::attention_scores).
    ///
    /// # Shapes
    /// - `scores`: `[B, H, T_q, T_k]`
    /// - returns: the same, in f32 for halves
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn weights(&self, scores: &Tensor) -> Result<Tensor> {
        is_float("scores", scores.dtype())?;
        let &[b, h, t_q, t_k] = scores.dims() else {
            return Err(wrong_shape("scores", scores.shape(), "[B, H, T_q, T_k]"));
        };
        let of = self.scores((b, h, t_q, t_k), 1, scores.device())?;
        weights(&kernel::masked_scores(scores, &of)?, self.dropout.as_ref())
    }

    /// Returns how scores of `(B, H, T_q, T_k)` are made.
    fn scores(&self, dims: (usize, usize, usize, usize), d: usize, device: &Device) -> Result<Scores> {
        let (b, h, t_q, t_k) = dims;
        let mut bias = match &self.bias {
            Some(bias) => Some(broadcastable(bias, [b, h, t_q, t_k], device)?),
            None => None,
        };
        if let Some(padding) = &self.padding {
            same_device(("attention_mask", padding.device()), ("q", device))?;
            let (n, _, _, m) = padding.dims4()?;
            if n != b {
                return Err(wrong_shape("attention_mask", (n, m), format!("[{b}, M]")));
            }
            let mut padding = padding.narrow(3, 0, m.min(t_k))?;
            if m < t_k {
                let tokens = Tensor::zeros((b, 1, 1, t_k - m), DType::F32, device)?;
                padding = Tensor::cat(&[&padding, &tokens], 3)?;
            }
            bias = Some(match bias {
                Some(bias) => bias.broadcast_add(&padding.to_dtype(bias.dtype())?)?,
                None => padding,
            });
        }
        if let Some(documents) = &self.documents {
            let given = (documents.n_rows(), documents.row_length());
            if given != (b, t_k) {
                return Err(wrong_shape("documents", given, format!("[{b}, {t_k}]: B rows of T_k tokens")));
            }
        }
        let scale = self.scale.unwrap_or(1.0 / (d as f64).sqrt());
        let documents = self.documents.as_ref().map(|documents| documents.ends.clone());
        Ok(Scores { scale, is_causal: self.is_causal, bias, documents })
    }
}

/// Takes the softmax of scores and applies dropout.
fn weights(scores: &Tensor, drop: Option<&(f64, Generator)>) -> Result<Tensor> {
    let weights = kernel::softmax(scores, true)?;
    match drop {
        Some((p, generator)) => dropout(&weights, *p, generator),
        None => Ok(weights),
    }
}

/// Returns a bias of four dimensions, each 1 or that of the scores; the last is T_k.
fn broadcastable(bias: &Tensor, dims: [usize; 4], device: &Device) -> Result<Tensor> {
    is_float("bias", bias.dtype())?;
    same_device(("bias", bias.device()), ("q", device))?;
    let fits = bias.rank() <= 4 && bias.dims().iter().rev().zip(dims.iter().rev()).all(|(n, dim)| *n == 1 || n == dim);
    if !fits {
        return Err(wrong_shape("bias", bias.shape(), format!("{dims:?}, or dimensions of 1 in their place")));
    }
    let mut of_four = vec![1; 4 - bias.rank()];
    of_four.extend(bias.dims());
    let bias = bias.reshape(of_four)?;
    let (b, h, t_q, _) = bias.dims4()?;
    Ok(bias.broadcast_as((b, h, t_q, dims[3]))?)
}

/// Cuts the heads out of `[B, T, (n_head + 2 · n_kv_head) · D]`: all of the queries, then of the keys, then of the
/// values.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::nn::split_heads;
///
/// let qkv = Tensor::new(&[[[1f32, 2., 3., 4., 5., 6.]]], &Device::Cpu)?; // two heads of one element
/// let (q, k, v) = split_heads(&qkv, 2, 2)?;
/// assert_eq!(q.dims(), [1, 2, 1, 1]);
/// let values = |x: Tensor| x.flatten_all()?.to_vec1::<f32>();
/// assert_eq!((values(q)?, values(k)?, values(v)?), (vec![1., 2.], vec![3., 4.], vec![5., 6.]));
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
///
/// # Shapes
/// - returns: `[B, n_head, T, D]`, and twice `[B, n_kv_head, T, D]`; views, not copies
///
/// # Errors
/// [`Error::ShapeMismatch`] for other shapes.
pub fn split_heads(qkv: &Tensor, n_head: usize, n_kv_head: usize) -> Result<(Tensor, Tensor, Tensor)> {
    packed_dims(qkv, n_head, n_kv_head)?;
    Ok(kernel::split_heads(qkv, (n_head, n_kv_head))?)
}

/// Returns B, T and D.
fn packed_dims(qkv: &Tensor, n_head: usize, n_kv_head: usize) -> Result<(usize, usize, usize)> {
    is_float("qkv", qkv.dtype())?;
    match *qkv.dims() {
        [b, t, width] if n_kv_head > 0 && n_head.is_multiple_of(n_kv_head) => {
            let n = n_head.saturating_add(n_kv_head.saturating_mul(2));
            if width.is_multiple_of(n) {
                return Ok((b, t, width / n));
            }
        }
        _ => {}
    }
    let expected =
        format!("[B, T, ({n_head} + 2 · {n_kv_head}) · D], with heads of queries a multiple of those of keys");
    Err(wrong_shape("qkv", qkv.shape(), expected))
}
