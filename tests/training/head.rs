//! The head without a loss: logits and their gradients against Candle's own product, the largest logits against all.

use candle_core::quantized::GgmlDType;
use candle_core::{D, DType, Device, Tensor, Var};
use candle_gpt_input::error::LmHeadError;
use candle_gpt_input::{Error, GptInputLayer, LmHead, Result};
use proptest::prelude::*;

use crate::support::{assert_bits_eq, assert_close, properties};

/// Returns values of `n_values` kinds, so that some logits are equal.
fn few_values(dims: (usize, usize), n_values: u64, seed: u64) -> Result<Tensor> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % n_values) as f32 - (n_values / 2) as f32
    };
    Ok(Tensor::from_vec((0..dims.0 * dims.1).map(|_| next()).collect::<Vec<_>>(), dims, &Device::Cpu)?)
}

type Rows<T> = Vec<Vec<T>>;

/// Sorts whole rows of logits, the largest first, of equal ones the lowest id first.
fn sorted(logits: &Tensor, k: usize) -> Result<(Rows<f64>, Rows<u32>)> {
    let rows = logits.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let best = |row: &Vec<f64>| {
        let mut ids: Vec<u32> = (0..row.len() as u32).collect();
        ids.sort_by(|&a, &b| row[b as usize].partial_cmp(&row[a as usize]).unwrap()); // stable
        ids.truncate(k);
        ids
    };
    let ids: Rows<u32> = rows.iter().map(best).collect();
    let values = rows.iter().zip(&ids).map(|(row, ids)| ids.iter().map(|&id| row[id as usize]).collect()).collect();
    Ok((values, ids))
}

fn assert_best_are_those_of_all(head: &LmHead, hidden: &Tensor, k: usize) -> Result<()> {
    let (values, ids) = sorted(&head.forward(hidden)?, k)?;
    let found = head.top_k(hidden, k)?;
    assert_eq!(found.values.dtype(), hidden.dtype());
    assert_eq!(found.values.to_dtype(DType::F64)?.to_vec2::<f64>()?, values);
    assert_eq!(found.ids.to_vec2::<u32>()?, ids);
    if k > 0 {
        let first: Vec<u32> = ids.iter().map(|ids| ids[0]).collect();
        assert_eq!(head.argmax(hidden)?.to_vec1::<u32>()?, first);
    }
    Ok(())
}

proptest! {
    #![proptest_config(properties(64))]

    #[test]
    fn the_best_logits_are_those_of_all(
        n in 1usize..20,
        c in 1usize..40,
        vocab_size in 1usize..300,
        n_padding in 0usize..3,
        k in 0usize..400,
        n_values in prop_oneof![Just(3u64), Just(1000)],
        with_bias in any::<bool>(),
        is_strided in any::<bool>(),
        dtype in prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::BF16), Just(DType::F64)],
        seed in any::<u64>(),
    ) {
        let check = || -> Result<()> {
            let mut hidden = few_values((n, c), n_values, seed)?.affine(0.125, 0.0)?.to_dtype(dtype)?;
            if is_strided {
                hidden = hidden.t()?.contiguous()?.t()?;
            }
            let table = few_values((vocab_size + n_padding, c), n_values, !seed)?.affine(0.25, 0.0)?.to_dtype(dtype)?;
            let mut head = LmHead::new(table)?.with_vocab_size(vocab_size)?;
            if with_bias {
                let bias = few_values((1, vocab_size + n_padding), n_values, seed ^ 1)?.squeeze(0)?;
                head = head.with_bias(bias.affine(0.3, 0.0)?.to_dtype(dtype)?)?;
            }
            assert_best_are_those_of_all(&head, &hidden, k % (vocab_size + 1))
        };
        check().unwrap();
    }
}

#[test]
fn the_best_logits_of_a_table_in_blocks_are_those_of_all() -> Result<()> {
    for dtype in [DType::F32, DType::BF16] {
        let table = few_values((70, 64), 5, 3)?.to_dtype(dtype)?;
        let (layer, _) = GptInputLayer::new(table.clone(), table.narrow(0, 0, 2)?)?.quantize(GgmlDType::Q8_0)?;
        assert_best_are_those_of_all(&layer.lm_head()?, &few_values((3, 64), 7, 4)?.to_dtype(dtype)?, 9)?;
    }
    Ok(())
}

/// Both zeros are equal, infinities are the largest and the smallest; any leading shape.
#[test]
fn ties_zeros_and_infinities() -> Result<()> {
    let head = LmHead::new(Tensor::new(&[[0f32], [-0.0], [f32::NEG_INFINITY], [f32::INFINITY], [0.0]], &Device::Cpu)?)?;
    let hidden = Tensor::new(&[[[[1f32]], [[-1.]]]], &Device::Cpu)?; // [1, 2, 1, 1]
    let found = head.top_k(&hidden, 5)?;
    assert_eq!(found.ids.dims(), [1, 2, 1, 5]);
    assert_eq!(found.ids.flatten_all()?.to_vec1::<u32>()?, [3, 0, 1, 4, 2, 2, 0, 1, 4, 3]);
    assert_eq!(head.argmax(&hidden)?.flatten_all()?.to_vec1::<u32>()?, [3, 2]);
    assert_eq!(head.top_k(&hidden, 0)?.values.dims(), [1, 2, 1, 0]);
    let nothing = head.argmax(&Tensor::zeros((2, 0, 1), DType::F32, &Device::Cpu)?)?;
    assert_eq!((nothing.dims(), nothing.dtype()), (&[2, 0][..], DType::U32));
    Ok(())
}

#[test]
fn what_has_no_best_logit_is_named() -> Result<()> {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        let mut table = vec![1f32; 300];
        (table[299], table[120], table[121]) = (f32::NAN, f32::NAN, f32::INFINITY);
        let head = LmHead::new(Tensor::from_vec(table, (300, 1), &Device::Cpu)?.to_dtype(dtype)?)?;
        let hidden = Tensor::new(&[[[1f32], [0.]]], &Device::Cpu)?.to_dtype(dtype)?;
        let error = head.argmax(&hidden).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the logit of token 120 for the hidden state at [0, 0] is NaN: look for NaN or infinite elements in the \
             hidden states and the table"
        );
        let Err(Error::LmHead(LmHeadError::Nan { id, at })) = head.top_k(&hidden.narrow(1, 1, 1)?, 2) else {
            panic!("no error of NaN")
        };
        assert_eq!((id, at), (120, vec![0, 0])); // 0 · ∞ is at 121
        let error = head.top_k(&hidden, 301).unwrap_err().to_string();
        assert_eq!(error, "the 301 largest of 300 logits: pass at most 300");
        // NaN in padding is no logit.
        assert_eq!(head.with_vocab_size(120)?.argmax(&hidden)?.to_vec2::<u32>()?, [[0, 0]]);
    }
    Ok(())
}

/// One product, whichever operand is trained, has the values and gradients of Candle's.
#[test]
fn logits_and_their_gradients_are_those_of_candles_product() -> Result<()> {
    for (dtype, bound) in [(DType::F32, 1e-5), (DType::F64, 1e-12), (DType::F16, 2e-3), (DType::BF16, 1e-2)] {
        for (trains_hidden, trains_table) in [(true, true), (true, false), (false, true), (false, false)] {
            let (hidden, table) = (few_values((6, 21), 9, 1)?, few_values((37, 21), 9, 2)?);
            let scale = |x: Tensor| x.affine(0.1, 0.0)?.to_dtype(dtype);
            let (hidden, table) = (Var::from_tensor(&scale(hidden)?)?, Var::from_tensor(&scale(table)?)?);
            let given = |var: &Var, is_trained| if is_trained { var.as_tensor().clone() } else { var.detach() };
            let (h, t) = (given(&hidden, trains_hidden), given(&table, trains_table));
            let weights = scale(few_values((6, 37), 9, 3)?)?;
            let gradients = |logits: &Tensor| (logits * &weights)?.sum_all()?.backward();
            let (ours, candle) = (LmHead::new(t.clone())?.forward(&h)?, h.matmul(&t.t()?)?);
            let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
            assert_close("logits", &wide(&ours), &wide(&candle), bound);
            if !trains_hidden && !trains_table {
                assert!(!ours.track_op());
                continue;
            }
            let (ours, candle) = (gradients(&ours)?, gradients(&candle)?);
            for (var, is_trained) in [(&hidden, trains_hidden), (&table, trains_table)] {
                assert_eq!(ours.get(var).is_some(), is_trained);
                if let (Some(ours), Some(candle)) = (ours.get(var), candle.get(var)) {
                    assert_bits_eq(ours, candle);
                }
            }
        }
    }
    Ok(())
}

/// The sequence decoded token by token has the logits of one pass.
#[test]
fn a_token_has_the_same_logits_alone_and_in_its_sequence() -> Result<()> {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let table = few_values((511, 100), 1 << 20, 8)?.affine(1e-6, 0.0)?.to_dtype(dtype)?;
        let head = LmHead::new(table)?;
        let hidden =
            few_values((2 * 150, 100), 1 << 20, 9)?.affine(1e-6, 0.0)?.to_dtype(dtype)?.reshape((2, 150, 100))?;
        let all = head.forward(&hidden)?;
        for t in [0, 1, 77, 127, 128, 149] {
            assert_bits_eq(&head.forward(&hidden.narrow(1, t, 1)?)?, &all.narrow(1, t, 1)?.contiguous()?);
        }
        let best = all.argmax(D::Minus1)?;
        assert_eq!(head.argmax(&hidden)?.to_vec2::<u32>()?, best.to_vec2::<u32>()?);
    }
    Ok(())
}
