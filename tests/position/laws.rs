//! Laws of all values: cached decode equals one pass, shifts change nothing, norms stay, padding does not count.

use candle_core::{D, DType, Device, IndexOp, Tensor};
use candle_gpt_input::init::Init;
use candle_gpt_input::position::{
    Alibi, PositionKind, PositionScheme, Rotary, RotaryConfig, SinusoidalLayout, T5Bias, sinusoidal,
};
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{Error, GptInputConfig, GptInputLayer, Positions, Result};
use proptest::prelude::*;

use crate::support::{apart, assert_bits_eq, error_text, properties};
use crate::{NEAR, assert_close, normal};

const H: usize = 3;
const D: usize = 4;

pub fn layer(name: &str) -> GptInputLayer {
    layer_of(name, H, D)
}

fn layer_of(name: &str, n_head: usize, head_dim: usize) -> GptInputLayer {
    let sizes = GptInputConfig::new(11, 40, n_head * head_dim).with_n_head(n_head).with_n_layer(2);
    let config = sizes.with_position(scheme(name));
    GptInputLayer::init(&config, Init::TorchEmbedding, &Generator::manual_seed(5), DType::F32, &Device::Cpu).unwrap()
}

/// Returns the scheme with settings whose limits a few tokens reach.
fn scheme(name: &str) -> PositionScheme {
    match name.parse().unwrap() {
        PositionScheme::T5(t5) => PositionScheme::T5(t5.with_num_buckets(8).with_max_distance(10)),
        PositionScheme::Shaw(shaw) => PositionScheme::Shaw(shaw.with_left(3).with_right(2)),
        PositionScheme::Deberta(deberta) => {
            PositionScheme::Deberta(deberta.with_position_buckets(Some(4)).with_max_relative_positions(9))
        }
        other => other,
    }
}

/// Runs one causal attention with the layer's positions: queries `[B, H, T, D]` from `start` on, all keys and values.
/// `k` holds the keys as a cache does, rotated.
fn attend(layer: &GptInputLayer, q: &Tensor, k: &Tensor, v: &Tensor, start: usize, padding: Option<&Tensor>) -> Tensor {
    attention(layer, q, k, v, start, padding).unwrap()
}

fn attention(
    layer: &GptInputLayer,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    start: usize,
    padding: Option<&Tensor>,
) -> Result<Tensor> {
    let positions = layer.positions();
    let (_, _, t_q, d) = q.dims4()?;
    let (b, _, t_k, _) = k.dims4()?;
    let scale = 1. / (d as f64).sqrt();
    let plain = |q: &Tensor, k: &Tensor| q.contiguous()?.matmul(&k.t()?.contiguous()?)? * scale;
    let mut scores = match positions.kind() {
        PositionKind::Input | PositionKind::Rotation => plain(q, k)?, // rotated by the caller
        PositionKind::Bias => plain(q, k)?.broadcast_add(&positions.attention_bias(t_q, t_k, start)?)?,
        _ => positions.attention_scores(q, k, 1, start)?,
    };
    let later = |i: usize| (0..t_k).map(move |j| if j > start + i { -1e30f32 } else { 0. });
    let mask = Tensor::from_vec((0..t_q).flat_map(later).collect::<Vec<_>>(), (1, 1, t_q, t_k), &Device::Cpu)?;
    scores = scores.broadcast_add(&mask)?;
    if let Some(padding) = padding {
        let mask = padding.to_dtype(DType::F32)?.affine(1e30, -1e30)?.reshape((b, 1, 1, t_k))?;
        scores = scores.broadcast_add(&mask)?;
    }
    let (weights, v) = (candle_nn::ops::softmax(&scores, D::Minus1)?, v.contiguous()?);
    match positions.kind() {
        PositionKind::Scores => positions.attention_output(&weights, &v, 1, start),
        _ => Ok(weights.matmul(&v)?),
    }
}

/// Returns queries and keys as they enter the attention.
fn placed(layer: &GptInputLayer, q: &Tensor, k: &Tensor, positions: impl Into<Positions>) -> (Tensor, Tensor) {
    match layer.positions().kind() {
        PositionKind::Rotation => layer.positions().rotate(q, k, positions).unwrap(),
        _ => (q.clone(), k.clone()),
    }
}

/// Draws a number of heads and their width.
fn heads() -> impl Strategy<Value = (usize, usize)> {
    (1usize..5, (1usize..5).prop_map(|half| 2 * half))
}

/// Runs `t` tokens in two calls, the second told to begin at `start`, and in one call.
fn decoded(
    layer: &GptInputLayer,
    (h, d): (usize, usize),
    (t, cut, start): (usize, usize, usize),
    seed: u64,
) -> (Tensor, Tensor) {
    let [q, k, v] = [0, 1, 2].map(|n| normal((2, h, t, d), seed + n));
    let (all_q, all_k) = placed(layer, &q, &k, 0);
    let whole = attend(layer, &all_q, &all_k, &v, 0, None);
    let part = |x: &Tensor, from: usize, n: usize| x.narrow(2, from, n).unwrap();
    let (first_q, first_k) = placed(layer, &part(&q, 0, cut), &part(&k, 0, cut), 0);
    let first = attend(layer, &first_q, &first_k, &part(&v, 0, cut), 0, None);
    let (last_q, last_k) = placed(layer, &part(&q, cut, t - cut), &part(&k, cut, t - cut), start);
    let keys = Tensor::cat(&[first_k, last_k], 2).unwrap();
    let last = attend(layer, &last_q, &keys, &v, start, None);
    (Tensor::cat(&[first, last], 2).unwrap(), whole)
}

/// Runs `t` tokens behind `shift` masked ones, told to begin at `start`, and alone.
fn shifted(
    layer: &GptInputLayer,
    (h, d): (usize, usize),
    (t, shift, start): (usize, usize, usize),
    seed: u64,
) -> (Tensor, Tensor) {
    let [q, k, v] = [0, 1, 2].map(|n| normal((2, h, t, d), seed + n));
    let (here_q, here_k) = placed(layer, &q, &k, 0);
    let here = attend(layer, &here_q, &here_k, &v, 0, None);
    let (there_q, there_k) = placed(layer, &q, &k, shift);
    let before = normal((2, h, shift, d), seed + 3);
    let keys = Tensor::cat(&[&before, &there_k], 2).unwrap();
    let values = Tensor::cat(&[&before, &v], 2).unwrap();
    let mask: Vec<u8> = (0..2 * (shift + t)).map(|n| u8::from(n % (shift + t) >= shift)).collect();
    let mask = Tensor::from_vec(mask, (2, shift + t), &Device::Cpu).unwrap();
    (attend(layer, &there_q, &keys, &values, start, Some(&mask)), here)
}

/// Half the buckets of a direction have a distance of their own; the largest distance must lie beyond them.
#[test]
fn a_t5_bias_has_room_for_its_distances() -> Result<()> {
    let table = Tensor::zeros((32, H), DType::F32, &Device::Cpu)?;
    for (bidirectional, least) in [(false, 17), (true, 9)] {
        assert!(T5Bias::new(table.clone(), least, bidirectional).is_ok());
        for max_distance in [0, least - 1] {
            assert_eq!(
                error_text(T5Bias::new(table.clone(), max_distance, bidirectional)),
                format!(
                    "relative_attention_bias has shape [32, 3], expected [num_buckets, H], with buckets that fit max_distance {max_distance}"
                )
            );
        }
    }
    Ok(())
}

/// The angles of far positions are not kept: each sequence of a batch is rotated by its own.
#[test]
fn far_positions_belong_to_their_sequence() -> Result<()> {
    const FAR: i64 = 1 << 17;
    let rope = Rotary::new(&RotaryConfig::default(), D, 40, &Device::Cpu)?;
    let [q, k] = [1, 2].map(|seed| normal((2, H, 3, D), seed));
    let positions = Tensor::new(&[[FAR, FAR + 1, FAR + 2], [3, 2 * FAR, FAR + 7]], &Device::Cpu)?;
    let together = rope.rotate(&q, &k, &positions)?;
    let (cos, sin) = rope.cos_sin(&positions, (2, 3))?;
    for row in 0..2 {
        let of_row = |x: &Tensor| x.narrow(0, row, 1).unwrap();
        let alone = rope.rotate(&of_row(&q), &of_row(&k), of_row(&positions))?;
        assert_bits_eq(&of_row(&together.0), &alone.0);
        assert_bits_eq(&of_row(&together.1), &alone.1);
        // The first pair rotates by 1 radian per position: the angle is the position.
        for (t, position) in of_row(&positions).flatten_all()?.to_vec1::<i64>()?.into_iter().enumerate() {
            let expected = [(position as f64).cos() as f32, (position as f64).sin() as f32];
            assert_eq!([&cos, &sin].map(|x| x.i((row, t, 0)).unwrap().to_scalar::<f32>().unwrap()), expected);
        }
    }
    Ok(())
}

/// A start that is off by one breaks the laws, so they can fail.
#[test]
fn a_wrong_start_is_seen() {
    let differ = |(left, right): (Tensor, Tensor)| {
        (left - right).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 1e-3
    };
    for name in ["transformer-xl", "rope", "alibi", "t5", "shaw", "deberta"] {
        let layer = layer(name);
        assert!(differ(decoded(&layer, (H, D), (8, 4, 5), 1)), "{name}: decode");
        // The mask hides later keys, so a larger start shows one key more; rotations differ already.
        assert!(name == "rope" || differ(shifted(&layer, (H, D), (8, 3, 4), 1)), "{name}: shift");
    }
}

proptest! {
    #![proptest_config(properties(40))]

    #[test]
    fn cached_decode_is_one_pass((h, d) in heads(), t in 2usize..12, cut in 1usize..11, seed in 0u64..1000) {
        let cut = cut.min(t - 1);
        for name in PositionScheme::NAMES {
            let (cached, whole) = decoded(&layer_of(name, h, d), (h, d), (t, cut, cut), seed);
            assert_close(&cached, &whole, NEAR, name);
        }
    }

    /// Masked memory, or a common shift of all positions, changes nothing for relative schemes.
    #[test]
    fn relative_schemes_do_not_see_a_shift((h, d) in heads(), t in 1usize..10, shift in 1usize..15, seed in 0u64..1000) {
        for name in PositionScheme::NAMES {
            let (there, here) = shifted(&layer_of(name, h, d), (h, d), (t, shift, shift), seed);
            assert_close(&there, &here, NEAR, name);
        }
    }

    /// Compares rows padded on the left with each row alone.
    #[test]
    fn left_padding_changes_nothing((h, d) in heads(), t in 2usize..10, pad in 1usize..9, seed in 0u64..1000) {
        let pad = pad.min(t - 1);
        let mask: Vec<u8> = (0..2 * t).map(|n| u8::from(n < t || n % t >= pad)).collect();
        let mask = Tensor::from_vec(mask, (2, t), &Device::Cpu).unwrap();
        let ids = Tensor::from_vec((0..2 * t as u32).map(|n| n % 11).collect(), (2, t), &Device::Cpu).unwrap();
        let [q, k, v] = [0, 1, 2].map(|n| normal((2, h, t, d), seed + n));
        for name in PositionScheme::NAMES {
            let layer = layer_of(name, h, d);
            layer.positions().check_mask(&mask).unwrap();
            let positions = Positions::from_mask(&mask).unwrap();
            let (all_q, all_k) = placed(&layer, &q, &k, positions.clone());
            let padded = attend(&layer, &all_q, &all_k, &v, 0, Some(&mask));
            let n = t - pad;
            let alone = |x: &Tensor| x.narrow(0, 1, 1).unwrap().narrow(2, pad, n).unwrap();
            let (one_q, one_k) = placed(&layer, &alone(&q), &alone(&k), 0);
            let unpadded = attend(&layer, &one_q, &one_k, &alone(&v), 0, None);
            assert_close(&alone(&padded), &unpadded, NEAR, name);
            let embedded = layer.forward_at(&ids, positions).unwrap().narrow(0, 1, 1).unwrap().narrow(1, pad, n).unwrap();
            let one = layer.forward(&ids.narrow(0, 1, 1).unwrap().narrow(1, pad, n).unwrap()).unwrap();
            assert_close(&embedded, &one, 0., name);
        }
    }

    #[test]
    fn rotations_keep_norms_and_products_of_a_distance(
        m in 0usize..400, n in 0usize..400, shift in 0usize..3000, seed in 0u64..1000, interleaved: bool,
    ) {
        let config = RotaryConfig::default().with_interleaved(interleaved);
        let rope = Rotary::new(&config, 16, 64, &Device::Cpu).unwrap();
        let (q, k) = (normal((1, 2, 1, 16), seed), normal((1, 2, 1, 16), seed + 1));
        let at = |x: &Tensor, position: usize| rope.rotate(x, x, position).unwrap().0;
        let product = |x: &Tensor, y: &Tensor| (x * y).unwrap().sum(D::Minus1).unwrap();
        assert_close(&product(&at(&q, m), &at(&q, m)), &product(&q, &q), 1e-6, "norm");
        let (here, there) = (product(&at(&q, m), &at(&k, n)), product(&at(&q, m + shift), &at(&k, n + shift)));
        // Relative to the norms, as the product may vanish; an angle of 3400 in f32 is off by at most 1e-4.
        let apart = apart(&here, &there);
        let norms = (product(&q, &q).unwrap_max() * product(&k, &k).unwrap_max()).sqrt();
        prop_assert!(apart <= 3e-4 * f64::from(norms), "{apart} of {norms}");
    }
}

trait UnwrapMax {
    fn unwrap_max(&self) -> f32;
}

impl UnwrapMax for Tensor {
    fn unwrap_max(&self) -> f32 {
        self.max_all().unwrap().to_scalar().unwrap()
    }
}

#[test]
fn far_positions_rotate_too() -> Result<()> {
    let rope = Rotary::new(&RotaryConfig::default(), 2, 16, &Device::Cpu)?;
    let x = Tensor::new(&[[[[1f32, 0.]], [[0., 1.]]]], &Device::Cpu)?;
    let (x, _) = rope.rotate(&x, &x, 1 << 20)?; // one turn is 1 radian
    let (sin, cos) = f64::from(1 << 20).sin_cos();
    assert_close(&x.flatten_all()?, &Tensor::new(&[cos, sin, -sin, cos], &Device::Cpu)?, 1e-6, "2^20");
    Ok(())
}

/// Distances that no integer holds are errors, of every scheme that has distances.
#[test]
fn positions_never_wrap() -> Result<()> {
    let q = normal((1, 2, 2, 4), 1);
    for start in [usize::MAX, usize::MAX - 2, 1 << 63, (1 << 63) - 2] {
        for name in PositionScheme::NAMES {
            let layer = GptInputLayer::init(
                &GptInputConfig::new(11, 40, 8).with_n_head(2).with_n_layer(1).with_position(name.parse()?),
                Init::OpenAi,
                &Generator::manual_seed(1),
                DType::F32,
                &Device::Cpu,
            )?;
            let positions = layer.positions();
            let result = match positions.kind() {
                PositionKind::Input => continue,
                PositionKind::Rotation => positions.rotate(&q, &q, start).map(drop),
                PositionKind::Bias => positions.attention_bias(2, 3, start).map(drop),
                _ => positions.attention_scores(&q, &q, 0, start).map(drop),
            };
            assert!(matches!(result, Err(Error::SequenceTooLong { .. })), "{name} at {start}: {result:?}");
        }
    }
    // Far away, but countable.
    let alibi = Alibi::new(1, &Device::Cpu)?;
    let bias = alibi.attention_bias(1, 2, 1 << 40)?.flatten_all()?.to_vec1::<f32>()?;
    assert_eq!(bias, [-(2f32.powi(40) / 256.), -(2f32.powi(40) / 256.)]);
    let below = Tensor::new(&[[-1i64]], &Device::Cpu)?;
    let above = Tensor::new(&[[1i64]], &Device::Cpu)?;
    assert!(matches!(alibi.attention_bias_at(&above, &below), Err(Error::PositionOutOfRange { position: -1, .. })));
    assert!(matches!(alibi.attention_bias_at(&below, &above), Err(Error::PositionOutOfRange { .. })));
    assert!(Alibi::new(usize::MAX, &Device::Cpu).is_err());
    assert!(sinusoidal(usize::MAX, 2, SinusoidalLayout::Halves, DType::F32, &Device::Cpu).is_err());
    Ok(())
}
