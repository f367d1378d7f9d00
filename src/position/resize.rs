//! Changes the length of a table of learned positions: crops, extends or interpolates it.

use candle_core::{DType, Tensor};

use crate::error::{PositionError, Result};
use crate::init::Init;
use crate::memory::fits_on;
use crate::rng::Generator;

/// How [`GptInputLayer::resize_positions`](crate::GptInputLayer::resize_positions) changes the length of a table of
/// learned positions.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_gpt_input::GptInputLayer;
/// use candle_gpt_input::position::Resize;
///
/// let wpe = Tensor::new(&[[0f32], [4.], [8.]], &Device::Cpu)?;
/// let layer = GptInputLayer::new(wpe.clone(), wpe)?;
/// let rows = |n_positions, how| -> candle_gpt_input::Result<Vec<Vec<f32>>> {
///     let layer = layer.resize_positions(n_positions, how)?;
///     Ok(layer.wpe().and_then(|wpe| wpe.as_embedding()).unwrap().embeddings().to_vec2()?)
/// };
/// assert_eq!(rows(2, Resize::Crop)?, [[0.], [4.]]);
/// assert_eq!(rows(5, Resize::Interpolate)?, [[0.], [2.], [4.], [6.], [8.]]);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias = "crop_block_size")]
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Resize {
    /// Keeps the first rows (nanoGPT's `crop_block_size`).
    Crop,
    /// Keeps all rows and draws new ones behind them, which mean nothing before they are trained.
    Extend(Init),
    /// Places rows at even distances between the first and the last, each weighted from its two neighbours:
    /// `torch.nn.functional.interpolate(wpe.T[None], size=n, mode="linear", align_corners=True)[0].T`.
    Interpolate,
}

/// Returns `table` `[P, C]` with `n_positions` rows.
pub(crate) fn resized(table: &Tensor, n_positions: usize, how: Resize, generator: &Generator) -> Result<Tensor> {
    let (from, n_embd) = table.dims2()?;
    let (table, device) = (table.detach(), table.device());
    fits_on(device, "wpe", &[n_positions, n_embd], size_of::<f64>())?;
    let error = |how, instead| Err(PositionError::Resize { from, to: n_positions, how, instead }.into());
    match how {
        _ if n_positions == 0 => error("resized", "keep at least one"),
        Resize::Crop if n_positions > from => error("cropped", "extend or interpolate it"),
        Resize::Crop => Ok(table.narrow(0, 0, n_positions)?.copy()?),
        Resize::Extend(_) if n_positions < from => error("extended", "crop or interpolate it"),
        Resize::Extend(_) if n_positions == from => Ok(table.copy()?),
        Resize::Extend(init) => {
            let new = init.wpe(n_positions - from, n_embd, generator, table.dtype(), device)?;
            Ok(Tensor::cat(&[&table, &new], 0)?)
        }
        Resize::Interpolate => {
            let wide = if table.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
            // In f64, so that the last row stays the last row exactly.
            let step = if n_positions > 1 { (from - 1) as f64 / (n_positions - 1) as f64 } else { 0.0 };
            let at = |i: usize| (i as f64 * step).min((from - 1) as f64);
            let below: Vec<i64> = (0..n_positions).map(|i| at(i) as i64).collect();
            let above: Vec<i64> = below.iter().map(|&row| (row + 1).min(from as i64 - 1)).collect();
            let parts: Vec<f64> = (0..n_positions).map(|i| at(i).fract()).collect();
            let rows = |ids: Vec<i64>| -> Result<Tensor> {
                Ok(table.contiguous()?.index_select(&Tensor::from_vec(ids, n_positions, device)?, 0)?.to_dtype(wide)?)
            };
            let part = Tensor::from_vec(parts, (n_positions, 1), device)?.to_dtype(wide)?;
            let below = rows(below)?;
            let step = (rows(above)? - &below)?.broadcast_mul(&part)?;
            Ok((below + step)?.to_dtype(table.dtype())?)
        }
    }
}
