//! The cases of positions inside attention: queries and keys rotated, biases laid out.

use anyhow::Result;
use candle_core::{DType, Tensor};
use candle_gpt_input::position::{Alibi, Rotary, RotaryConfig, T5Bias};
use candle_nn::rotary_emb::rope;

use super::cases::{Case, Contender, Inputs, contender, copy_words};

pub fn contenders(case: Case, inputs: &Inputs) -> Result<Vec<Contender>> {
    let (batch, length, n_embd) = inputs.hidden.dims3()?;
    let head_dim = if n_embd % 64 == 0 { 64 } else { n_embd };
    let n_head = n_embd / head_dim;
    let device = inputs.hidden.device();
    let mut all = match case {
        Case::Rotate => {
            let heads = |x: &Tensor| x.reshape((batch, length, n_head, head_dim))?.transpose(1, 2)?.contiguous();
            let (q, k) = (heads(&inputs.hidden)?, heads(&inputs.grad)?);
            let rotary = Rotary::new(&RotaryConfig::default(), head_dim, length, device)?;
            let (cos, sin) = rotary.cos_sin(0, (1, length))?;
            let table = |x: Tensor| x.squeeze(0)?.to_dtype(q.dtype())?.contiguous();
            let (cos, sin) = (table(cos)?, table(sin)?);
            let (candle_q, candle_k) = (q.clone(), k.clone());
            vec![
                contender("ours", move || {
                    let (q, k) = rotary.rotate(&q, &k, 0)?;
                    Ok((None, vec![q, k]))
                })?,
                contender("candle", move || {
                    Ok((None, vec![rope(&candle_q, &cos, &sin)?, rope(&candle_k, &cos, &sin)?]))
                })?,
            ]
        }
        Case::Alibi => {
            let alibi = Alibi::new(n_head, device)?;
            let slopes = Tensor::from_slice(alibi.slopes(), (1, n_head, 1, 1), device)?;
            vec![
                contender("ours", move || Ok((None, vec![alibi.attention_bias(length, length, 0)?])))?,
                contender("candle", move || {
                    let at = Tensor::arange(0f32, length as f32, slopes.device())?;
                    let distances = at.unsqueeze(0)?.broadcast_sub(&at.unsqueeze(1)?)?;
                    Ok((None, vec![distances.reshape((1, 1, length, length))?.broadcast_mul(&slopes)?]))
                })?,
            ]
        }
        _ => {
            let table = inputs.wpe.flatten_all()?.narrow(0, 0, 2 * n_head.min(length * n_embd / 2))?;
            let table = Tensor::cat(&vec![table; 16], 0)?.reshape((32, n_head))?.to_dtype(DType::F32)?;
            let t5 = T5Bias::new(table.clone(), 128, false)?;
            let buckets = (0..length).flat_map(|i| (0..length).map(move |j| j as i64 - i as i64));
            let buckets: Vec<u32> = buckets.map(|distance| t5.bucket(distance) as u32).collect();
            let buckets = Tensor::from_vec(buckets, length * length, device)?;
            vec![
                contender("ours", move || Ok((None, vec![t5.attention_bias(length, length, 0)?])))?,
                // The buckets given, as nobody looks them up at every step.
                contender("candle", move || {
                    let rows = table.index_select(&buckets, 0)?.reshape((1, length, length, n_head))?;
                    Ok((None, vec![rows.permute((0, 3, 1, 2))?.contiguous()?]))
                })?,
            ]
        }
    };
    if device.is_cpu() {
        // As many bytes as are written, into fresh memory.
        let n_bytes = match case {
            Case::Rotate => 2 * batch * length * n_embd * inputs.hidden.dtype().size_in_bytes(),
            _ => n_head * length * length * size_of::<f32>(),
        };
        let from = vec![1u32; n_bytes / size_of::<u32>()];
        all.push(contender("copy", move || {
            let mut to = Vec::with_capacity(from.len());
            copy_words(&mut to, &from);
            std::hint::black_box(&to);
            Ok((None, Vec::new()))
        })?);
    }
    Ok(all)
}
