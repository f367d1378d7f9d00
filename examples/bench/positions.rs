//! The cases of positions inside attention: rotation of queries and keys, and biases.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_gpt_input::position::{Alibi, Rotary, RotaryConfig, T5Bias};
use candle_nn::rotary_emb::rope;
use rayon::prelude::*;

use super::cases::{Case, Contender, Inputs, contender, copy_part};

pub fn contenders(case: Case, inputs: &Inputs) -> Result<Vec<Contender>> {
    let (batch, length, n_embd) = inputs.hidden.dims3()?;
    let head_dim = if n_embd % 64 == 0 { 64 } else { n_embd };
    let n_head = n_embd / head_dim;
    let device = inputs.hidden.device();
    // A single query is the next token after 1023 others.
    let (n_keys, start) = if length == 1 { (1024, 1023) } else { (length, 0) };
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
                contender("ours", move || Ok((None, vec![alibi.attention_bias(length, n_keys, start)?])))?,
                contender("candle", move || {
                    let keys = Tensor::arange(0f32, n_keys as f32, slopes.device())?;
                    let queries = keys.narrow(0, start, length)?.unsqueeze(1)?;
                    let distances = keys.unsqueeze(0)?.broadcast_sub(&queries)?;
                    Ok((None, vec![distances.reshape((1, 1, length, n_keys))?.broadcast_mul(&slopes)?]))
                })?,
            ]
        }
        _ => {
            let table = inputs.wpe.flatten_all()?.narrow(0, 0, 2 * n_head.min(length * n_embd / 2))?;
            let table = Tensor::cat(&vec![table; 16], 0)?.reshape((32, n_head))?.to_dtype(DType::F32)?;
            let t5 = T5Bias::new(table.clone(), 128, false)?;
            let buckets = (start..start + length).flat_map(|i| (0..n_keys).map(move |j| j as i64 - i as i64));
            let buckets: Vec<u32> = buckets.map(|distance| t5.bucket(distance) as u32).collect();
            let buckets = Tensor::from_vec(buckets, length * n_keys, device)?;
            vec![
                contender("ours", move || Ok((None, vec![t5.attention_bias(length, n_keys, start)?])))?,
                // Candle gets the buckets: nobody computes them at every step.
                contender("candle", move || {
                    let rows = table.index_select(&buckets, 0)?.reshape((1, length, n_keys, n_head))?;
                    Ok((None, vec![rows.permute((0, 3, 1, 2))?.contiguous()?]))
                })?,
            ]
        }
    };
    if device.is_cpu() {
        let shapes = match case {
            Case::Rotate => vec![([batch, n_head, length, head_dim], inputs.hidden.dtype().size_in_bytes()); 2],
            _ => vec![([1, n_head, length, n_keys], size_of::<f32>())],
        };
        all.push(copy(&shapes)?);
    }
    Ok(all)
}

/// Copies into new tensors of these shapes and element sizes, on huge pages as the library does, and on all cores if
/// that pays.
fn copy(shapes: &[([usize; 4], usize)]) -> Result<Contender> {
    let word = size_of::<u32>();
    // In words: f16 and bf16 take half as many.
    let shapes = shapes.iter().map(|&([b, h, t, d], size)| [b, h, t, d * size / word]);
    let from: Vec<([usize; 4], Vec<u32>)> = shapes.map(|shape| (shape, vec![1; shape.iter().product()])).collect();
    let n_words: usize = from.iter().map(|(_, from)| from.len()).sum();
    let each = n_words.div_ceil(4 * rayon::current_num_threads());
    contender("copy", move || {
        let mut to: Vec<Vec<u32>> = from.iter().map(|(_, from)| room(from.len())).collect();
        if n_words < PARALLEL_WORDS {
            for (to, (_, from)) in to.iter_mut().zip(&from) {
                to.extend_from_slice(from);
            }
        } else {
            let pieces = to.iter_mut().zip(&from).flat_map(|(to, (_, from))| {
                to.spare_capacity_mut()[..from.len()].chunks_mut(each).zip(from.chunks(each))
            });
            pieces.collect::<Vec<_>>().into_par_iter().for_each(|(to, from)| copy_part(to, from));
            for (to, (_, from)) in to.iter_mut().zip(&from) {
                // SAFETY: the pieces cover all of it and were just written.
                unsafe { to.set_len(from.len()) };
            }
        }
        let tensors = to.into_iter().zip(&from).map(|(to, (shape, _))| Tensor::from_vec(to, shape, &Device::Cpu));
        std::hint::black_box(tensors.collect::<candle_core::Result<Vec<_>>>()?);
        Ok((None, Vec::new()))
    })
}

/// From this size on threads pay, as in the library.
const PARALLEL_WORDS: usize = 1 << 16;

/// Allocates room for `n_words`, on huge pages from 2 MB on, as the library does.
fn room(n_words: usize) -> Vec<u32> {
    let room = Vec::<u32>::with_capacity(n_words);
    #[cfg(target_os = "linux")]
    if n_words >= 512 << 10 {
        let head = room.as_ptr().addr() % 4096;
        // SAFETY: the pages hold this allocation, and the advice changes nothing that a program can read.
        unsafe {
            libc::madvise(
                room.as_ptr().wrapping_byte_sub(head).cast_mut().cast(),
                4 * n_words + head,
                libc::MADV_HUGEPAGE,
            )
        };
    }
    room
}
