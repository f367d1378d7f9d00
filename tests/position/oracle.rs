//! Checks schemes against loops in f64 at random sizes, and the fused kernels' dtypes and strides.

use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::position::{
    Alibi, Deberta, DebertaProjections, Rotary, RotaryConfig, Shaw, T5Bias, TransformerXl,
};
use candle_nn::Linear;
use proptest::prelude::*;

use crate::support::naive::{self, Projected};
use crate::support::properties;
use crate::{NEAR, assert_near, normal};

/// Draws B, H, T_q, T_k, D and the position of the first query.
fn sizes() -> impl Strategy<Value = (usize, usize, usize, usize, usize, usize)> {
    (1usize..4, 1usize..6, 0usize..12, 1usize..14, 1usize..9, 0usize..20)
}

proptest! {
    #![proptest_config(properties(60))]

    #[test]
    fn scores_are_those_of_the_loops((b, h, t_q, t_k, d, start) in sizes(), seed in 0u64..1000) {
        let (q, k) = (normal((b, h, t_q, d), seed), normal((b, h, t_k, d), seed + 1));
        let (w, u, v) = (normal((h * d, 6), seed + 2), normal((h, d), seed + 3), normal((h, d), seed + 4));
        let xl = TransformerXl::new(w.clone(), u.clone(), v.clone()).unwrap();
        let expected = naive::transformer_xl(&q, &k, start, [&w, &u, &v]);
        assert_near(&xl.attention_scores(&q, &k, start).unwrap(), &expected, NEAR, "transformer-xl");

        let (left, right) = ((seed % 5) as usize, (seed % 7) as usize);
        let table = normal((left + right + 1, d), seed + 5);
        let shaw = Shaw::new(table.clone(), None, left).unwrap();
        let expected = naive::shaw(&q, &k, start, &table, left as i64, right as i64);
        assert_near(&shaw.attention_scores(&q, &k, start).unwrap(), &expected, NEAR, "shaw");

        let buckets = [None, Some(8)][seed as usize % 2];
        let table = normal((2 * buckets.unwrap_or(9), 6), seed + 6);
        let pair = |seed| (normal((h * d, 6), seed), normal(h * d, seed + 20));
        let (c2p, p2c) = (pair(seed + 7), pair(seed + 8));
        let linear = |(weight, bias): &(Tensor, Tensor)| Some(Linear::new(weight.clone(), Some(bias.clone())));
        let projections = DebertaProjections { pos_key_proj: linear(&c2p), pos_query_proj: linear(&p2c) };
        let deberta = Deberta::new(table.clone(), projections, buckets, 9).unwrap();
        let delta = |distance| if buckets.is_some() { naive::log_bucket(distance, 8, 9) } else { distance };
        let projected = [Some(Projected::of(&c2p)), Some(Projected::of(&p2c))];
        let expected = naive::deberta(&q, &k, start, &table, projected, delta);
        assert_near(&deberta.attention_scores(&q, &k, start).unwrap(), &expected, NEAR, "deberta");
    }

    #[test]
    fn biases_are_those_of_the_loops((_, h, t_q, t_k, _, start) in sizes(), n in 4usize..40, bidirectional: bool) {
        // As far apart as the last bucket reaches, and further, in both directions.
        let (n_head, t_k, start) = (7 * h - 6, 20 * t_k, 20 * start);
        let (q, k) = (normal((1, n_head, t_q, 1), 1), normal((1, n_head, t_k, 1), 2));
        let alibi = Alibi::new(n_head, &Device::Cpu).unwrap().attention_bias(t_q, t_k, start).unwrap();
        assert_eq!(alibi.dims(), [1, n_head, t_q, t_k]);
        let expected = naive::scores(&q, &k, start, |h, _, _, i, j| naive::alibi(h, n_head, i, j));
        assert_near(&alibi, &expected, 1e-6, "alibi");

        let table = normal((n, n_head), n as u64);
        // With a `max_distance` of 97, f64 and f32 agree on every border between buckets.
        let t5 = T5Bias::new(table.clone(), 97, bidirectional).unwrap().attention_bias(t_q, t_k, start).unwrap();
        let values = naive::numbers(&table);
        let bucket = |distance| naive::t5_bucket(distance, n, 97, bidirectional);
        let expected = naive::scores(&q, &k, start, |h, _, _, i, j| values[bucket(j - i) * n_head + h]);
        assert_near(&t5, &expected, 0., "t5");
        // A trainable table takes an operation that is recorded.
        let var = Var::from_tensor(&table).unwrap();
        let recorded = T5Bias::new(var.as_tensor().clone(), 97, bidirectional).unwrap();
        assert_near(&recorded.attention_bias(t_q, t_k, start).unwrap(), &expected, 0., "t5, recorded");
        for distance in -300..300 {
            assert_eq!(recorded.bucket(distance), bucket(distance));
        }
    }

    #[test]
    fn rotations_are_those_of_the_loops(
        (b, h, t, _, half, start) in sizes(), seed in 0u64..1000, interleaved: bool, partial in 1usize..4,
    ) {
        let d = 6 * half;
        let config = RotaryConfig::default().with_interleaved(interleaved).with_partial_rotary_factor(partial as f64 / 3.).with_rope_theta(100.);
        let rope = Rotary::new(&config, d, 16, &Device::Cpu).unwrap();
        let n_pairs = (d as f64 * config.partial_rotary_factor) as usize;
        let n_pairs = n_pairs.div_ceil(2);
        let rotary_dim = (d as f64 * config.partial_rotary_factor).floor();
        let frequencies: Vec<f64> = (0..n_pairs).map(|i| 100f64.powf(-2. * i as f64 / rotary_dim)).collect();
        // Laid out as in an attention: heads second to last, then transposed.
        let q = normal((b, t, h, d), seed).transpose(1, 2).unwrap();
        let k = normal((b, 1, t, d), seed + 1);
        let (out_q, out_k) = rope.rotate(&q, &k, start).unwrap();
        for (x, out) in [(&q, &out_q), (&k, &out_k)] {
            let expected = naive::rope(x, |_, t| (start + t) as f64, &frequencies, interleaved);
            assert_near(out, &expected, NEAR, "start position");
        }
        let ids: Vec<u32> = (0..b * t).map(|n| ((n as u64 * 7919 + seed) % 40) as u32).collect();
        let positions = Tensor::from_slice(&ids, (b, t), &Device::Cpu).unwrap();
        let (by_ids, _) = rope.rotate(&q, &k, &positions).unwrap();
        let expected = naive::rope(&q, |b, n| f64::from(ids[b * t + n]), &frequencies, interleaved);
        assert_near(&by_ids, &expected, NEAR, "position ids");
        // f16 and bf16 give the f32 result, rounded once.
        for dtype in [DType::BF16, DType::F16] {
            let half = q.to_dtype(dtype).unwrap();
            let (out, _) = rope.rotate(&half, &half, start).unwrap();
            let (wide, _) = rope.rotate(&half.to_dtype(DType::F32).unwrap(), &k, start).unwrap();
            crate::support::assert_bits_eq(&out, &wide.to_dtype(dtype).unwrap());
        }
    }
}
