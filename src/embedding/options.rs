//! The options of `torch.nn.Embedding`.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Device, Layout, MetalStorage, Shape, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{EmbeddingError, Result};
use crate::kernel::{CheckedIds, note_change};

/// The options of `torch.nn.Embedding`, with its defaults.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::embedding::{EmbeddingOptions, TokenTable};
///
/// let weight = Tensor::new(&[[3f32, 4.], [0.3, 0.4]], &Device::Cpu)?;
/// let options = EmbeddingOptions::default().with_max_norm(1.0);
/// let wte = TokenTable::try_from(weight)?.with_options(options)?;
/// let rows = wte.forward(&Tensor::new(&[0u32, 1], &Device::Cpu)?)?; // row 0 is scaled to length 1, in the table too
/// assert_eq!(format!("{:.4?}", rows.to_vec2::<f32>()?), "[[0.6000, 0.8000], [0.3000, 0.4000]]");
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddingOptions {
    /// The row that gets no gradient; a negative one counts from the end. A look-up reads whatever the row holds.
    pub padding_idx: Option<i64>,
    /// The largest norm of a row. A look-up scales longer rows down to it, in the table itself and without gradient.
    ///
    /// A head of this crate that used the table before notices: its `backward` returns
    /// [`EmbeddingError::ChangedByMaxNorm`], where torch raises "modified by an inplace operation". Candle's own
    /// operations on the table, such as `matmul`, keep no version of their operands. Their gradient is wrong if a
    /// look-up scales a row between them and `backward`. So look up first, and then use the table, in every step.
    pub max_norm: Option<f64>,
    /// The p of the norm that `max_norm` limits.
    pub norm_type: f64,
    /// Whether the gradient of a row is divided by how often it was looked up in the call.
    pub scale_grad_by_freq: bool,
}

impl Default for EmbeddingOptions {
    fn default() -> Self {
        Self { padding_idx: None, max_norm: None, norm_type: 2.0, scale_grad_by_freq: false }
    }
}

impl EmbeddingOptions {
    /// Sets the row that gets no gradient; a negative one counts from the end.
    #[must_use]
    pub fn with_padding_idx(mut self, padding_idx: impl Into<Option<i64>>) -> Self {
        self.padding_idx = padding_idx.into();
        self
    }

    /// Sets the norm down to which look-ups scale longer rows.
    #[must_use]
    pub fn with_max_norm(mut self, max_norm: impl Into<Option<f64>>) -> Self {
        self.max_norm = max_norm.into();
        self
    }

    /// Sets the p of the norm that `max_norm` limits, by default 2.
    #[must_use]
    pub fn with_norm_type(mut self, norm_type: f64) -> Self {
        self.norm_type = norm_type;
        self
    }

    /// Sets whether the gradient of a row is divided by how often it was looked up in the call.
    ///
    /// ```
    /// use candle_core::{Device, Tensor, Var};
    /// use candle_gpt_input::embedding::{EmbeddingOptions, TokenTable};
    ///
    /// let wte = Var::new(&[[10f32], [20.]], &Device::Cpu)?;
    /// let options = EmbeddingOptions::default().with_padding_idx(0).with_scale_grad_by_freq(true);
    /// let table = TokenTable::try_from(wte.as_tensor().clone())?.with_options(options)?;
    /// let rows = table.forward(&Tensor::new(&[0u32, 1, 1], &Device::Cpu)?)?;
    /// let grads = rows.sum_all()?.backward()?;
    /// assert_eq!(grads.get(&wte).unwrap().to_vec2::<f32>()?, [[0.], [1.]]); // padding: none; row 1: 2 over 2 look-ups
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    #[must_use]
    pub fn with_scale_grad_by_freq(mut self, scale_grad_by_freq: bool) -> Self {
        self.scale_grad_by_freq = scale_grad_by_freq;
        self
    }

    /// Returns the row of `padding_idx`, counted from the start.
    pub(super) fn padding_row(&self, vocab_size: usize) -> Result<Option<usize>, EmbeddingError> {
        let Some(padding_idx) = self.padding_idx else { return Ok(None) };
        let row = if padding_idx < 0 { padding_idx.saturating_add_unsigned(vocab_size as u64) } else { padding_idx };
        match usize::try_from(row) {
            Ok(row) if row < vocab_size => Ok(Some(row)),
            _ => Err(EmbeddingError::PaddingIdx { padding_idx, vocab_size }),
        }
    }

    /// Checks the options against a table of `vocab_size` rows.
    pub(super) fn validate(&self, vocab_size: usize) -> Result<(), EmbeddingError> {
        self.padding_row(vocab_size)?;
        if let Some(max_norm) = self.max_norm
            && !(max_norm >= 0.0 && max_norm.is_finite())
        {
            return Err(EmbeddingError::MaxNorm { max_norm });
        }
        // p = 0 (a count) and negative p do not define a norm.
        if self.norm_type.is_nan() || self.norm_type <= 0.0 {
            return Err(EmbeddingError::NormType { norm_type: self.norm_type });
        }
        Ok(())
    }

    /// Returns whether the options change the gradient of looked-up rows.
    pub(super) fn shapes_gradients(&self) -> bool {
        self.padding_idx.is_some() || self.scale_grad_by_freq
    }
}

/// Scales the rows of `ids` whose norm exceeds `max_norm` down to it, in place, by torch's `embedding_renorm_` factor
/// `max_norm / (norm + 1e-7)`. Each row is scaled once, however often it is looked up.
pub(super) fn renormalize(weight: &Tensor, ids: &CheckedIds, max_norm: f64, norm_type: f64) -> Result<()> {
    let mut unique = ids.values()?;
    unique.sort_unstable();
    unique.dedup();
    if unique.is_empty() {
        return Ok(());
    }
    let n = unique.len();
    let unique = Tensor::from_vec(unique, n, weight.device())?;
    let rows = weight.detach().index_select(&unique, 0)?;
    let wide = rows.to_dtype(if rows.dtype() == DType::F64 { DType::F64 } else { DType::F32 })?;
    let norms = if norm_type == 2.0 {
        wide.sqr()?.sum_keepdim(1)?.sqrt()?
    } else if norm_type == 1.0 {
        wide.abs()?.sum_keepdim(1)?
    } else if norm_type.is_infinite() {
        wide.abs()?.max_keepdim(1)?
    } else {
        wide.abs()?.powf(norm_type)?.sum_keepdim(1)?.powf(1.0 / norm_type)?
    };
    let scale = ((&norms + 1e-7)?.recip()? * max_norm)?;
    let scaled = wide.broadcast_mul(&scale)?.to_dtype(rows.dtype())?;
    let too_long = norms.gt(max_norm)?;
    if too_long.max_all()?.to_device(&Device::Cpu)?.to_scalar::<u8>()? == 0 {
        return Ok(());
    }
    let too_long = too_long.broadcast_as(rows.shape())?;
    let renormed = too_long.where_cond(&scaled, &rows)?;
    let at = unique.unsqueeze(1)?.broadcast_as(rows.shape())?.contiguous()?;
    weight.scatter_set(&at, &renormed, 0)?;
    note_change(weight);
    Ok(())
}

/// Returns `rows`, those of `ids`, with a gradient that skips `padding_row` and, if asked to, is divided by each id's
/// count.
pub(super) fn shape_gradient(
    rows: &Tensor,
    ids: &CheckedIds,
    padding_row: Option<usize>,
    scale_grad_by_freq: bool,
) -> Result<Tensor> {
    let ids = ids.values()?;
    let mut counts = std::collections::HashMap::new();
    if scale_grad_by_freq {
        ids.iter().for_each(|id| *counts.entry(*id).or_insert(0u32) += 1);
    }
    let factor = |id: &i64| match padding_row {
        Some(row) if *id == row as i64 => 0.0,
        _ => counts.get(id).map_or(1.0, |&n| 1.0 / f64::from(n)),
    };
    let factors: Vec<f64> = ids.iter().map(factor).collect();
    let mut dims = rows.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = 1;
    }
    let factors = Tensor::from_vec(factors, dims, rows.device())?.to_dtype(rows.dtype())?;
    Ok(rows.contiguous()?.apply_op1(ShapeGradient { factors })?)
}

/// The identity. Its gradient is multiplied by `factors`, and is 0 where the factor is 0, even if it was NaN.
struct ShapeGradient {
    factors: Tensor,
}

impl CustomOp1 for ShapeGradient {
    fn name(&self) -> &'static str {
        "shape-gradient"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn metal_fwd(&self, storage: &MetalStorage, layout: &Layout) -> candle_core::Result<(MetalStorage, Shape)> {
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(&self, _arg: &Tensor, _res: &Tensor, grad_res: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let factors = self.factors.broadcast_as(grad_res.shape())?;
        let scaled = (grad_res * &factors)?;
        Ok(Some(factors.ne(0f64)?.where_cond(&scaled, &scaled.zeros_like()?)?))
    }
}
