//! Schemes that act on scores, for queries and keys at positions of their own.

use candle_core::{D, DType, Device, Tensor, Var};
use candle_gpt_input::position::PositionEncoding;
use candle_gpt_input::{GptInputLayer, Positions, Result};
use candle_nn::VarMap;
use candle_nn::ops::softmax;

use crate::laws::layer;
use crate::support::{assert_bits_eq, error_text, naive};
use crate::{NEAR, assert_near, normal};

const SCHEMES: [&str; 3] = ["transformer-xl", "shaw", "deberta"];

/// Returns `n` positions from `from` on, the same for two sequences.
fn at(from: u32, n: u32) -> Result<Tensor> {
    Ok(Tensor::arange(from, from + n, &Device::Cpu)?.repeat((2, 1))?)
}

/// Computes one block's output, given its scores and a function from weights and values to the output.
fn attend(
    scores: &Tensor,
    v: &Tensor,
    output: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
) -> Result<(Tensor, Tensor)> {
    let output = output(&softmax(scores, D::Minus1)?, v)?;
    Ok((scores.clone(), output))
}

/// Computes scores and output with the first query at `start` of the keys.
fn by_columns(
    positions: &PositionEncoding,
    [q, k, v]: [&Tensor; 3],
    block: usize,
    start: usize,
) -> Result<(Tensor, Tensor)> {
    let scores = positions.attention_scores(q, k, block, start)?;
    attend(&scores, v, |weights, v| positions.attention_output(weights, v, block, start))
}

/// Computes the same at positions of their own.
fn by_positions(
    positions: &PositionEncoding,
    [q, k, v]: [&Tensor; 3],
    block: usize,
    [q_at, k_at]: [&Tensor; 2],
) -> Result<(Tensor, Tensor)> {
    let scores = positions.attention_scores_at(q, k, block, q_at, k_at)?;
    attend(&scores, v, |weights, v| positions.attention_output_at(weights, v, block, q_at, k_at))
}

#[track_caller]
fn assert_close(ours: &Tensor, theirs: &Tensor, what: &str) {
    assert_eq!(ours.dims(), theirs.dims(), "{what}");
    assert_near(ours, &naive::numbers(theirs), NEAR, what);
}

/// Consecutive positions equal columns in scores, outputs and gradients.
#[test]
fn consecutive_positions_are_columns() -> Result<()> {
    for name in SCHEMES {
        let layer = layer(name).trainable(&VarMap::new(), "")?;
        let positions = layer.positions();
        let tensors = [normal((2, 3, 3, 4), 1), normal((2, 3, 9, 4), 2), normal((2, 3, 9, 4), 3)];
        let [q, k, v] = tensors.each_ref().map(|tensor| Var::from_tensor(tensor).unwrap());
        let inputs = [q.as_tensor(), k.as_tensor(), v.as_tensor()];
        let (scores, output) = by_columns(positions, inputs, 1, 4)?;
        let (own_scores, own_output) = by_positions(positions, inputs, 1, [&at(4, 3)?, &at(0, 9)?])?;
        assert_close(&own_scores, &scores, name);
        assert_close(&own_output, &output, name);
        // Only distances count.
        let (moved, _) = by_positions(positions, inputs, 1, [&at(1004, 3)?, &at(1000, 9)?])?;
        assert_bits_eq(&moved, &own_scores);
        let (apart, _) = by_positions(positions, inputs, 1, [&at(5, 3)?, &at(0, 9)?])?;
        assert!((apart - &own_scores)?.abs()?.max_all()?.to_scalar::<f32>()? > 1e-3, "{name}");

        let gradients = |output: &Tensor, scores: &Tensor| -> Result<_> {
            Ok((output.sqr()?.sum_all()? + scores.sqr()?.sum_all()?)?.backward()?)
        };
        let (expected, found) = (gradients(&output, &scores)?, gradients(&own_output, &own_scores)?);
        let tables = positions.tables().iter().map(|(name, table)| (name.as_str(), table));
        let mut n_reached = 0;
        for (what, tensor) in [("q", inputs[0]), ("k", inputs[1]), ("v", inputs[2])].into_iter().chain(tables) {
            let (Some(expected), Some(found)) = (expected.get(tensor), found.get(tensor)) else {
                // The tables of the other block get no gradient.
                assert!(expected.get(tensor).is_none() && found.get(tensor).is_none(), "{name}: {what}");
                continue;
            };
            assert_close(found, expected, &format!("{name}: {what}"));
            n_reached += 1;
        }
        assert!(n_reached >= 5, "{name}: {n_reached}");
    }
    Ok(())
}

/// Tokens with padding between them give what they give alone.
#[test]
fn padding_between_tokens_changes_nothing() -> Result<()> {
    for name in SCHEMES {
        let layer = layer(name);
        let positions = layer.positions();
        let [q, k, v] = [1, 2, 3].map(|seed| normal((2, 3, 6, 4), seed));
        // Row 0 has tokens at columns 0, 2 and 5, row 1 at 1, 3 and 4.
        let ids = Tensor::new(&[[0i64, 7, 1, 7, 7, 2], [7, 0, 7, 1, 2, 7]], &Device::Cpu)?;
        let scores = positions.attention_scores_at(&q, &k, 0, &ids, &ids)?;
        for (row, columns) in [(0, [0u32, 2, 5]), (1, [1, 3, 4])] {
            let columns = Tensor::new(&columns, &Device::Cpu)?;
            let alone = |x: &Tensor| -> Result<Tensor> { Ok(x.narrow(0, row, 1)?.index_select(&columns, 2)?) };
            let (expected, output) = by_columns(positions, [&alone(&q)?, &alone(&k)?, &alone(&v)?], 0, 0)?;
            assert_close(&alone(&scores)?.index_select(&columns, 3)?, &expected, name);
            // Padding between them gets weight 0.
            let weights = softmax(&expected, D::Minus1)?;
            let zeros = Tensor::zeros((1, 3, 3, 6), weights.dtype(), &Device::Cpu)?;
            let spread = zeros.index_add(&columns, &weights, 3)?;
            let places = |x: &Tensor| -> Result<Tensor> { Ok(x.narrow(0, row, 1)?) };
            let (q_at, k_at) = (places(&ids)?.index_select(&columns, 1)?, places(&ids)?);
            let found = positions.attention_output_at(&spread, &places(&v)?, 0, &q_at, &k_at)?;
            assert_close(&found, &output, name);
        }
    }
    Ok(())
}

#[test]
fn other_shapes_and_schemes_are_errors() -> Result<()> {
    let (q, k) = (normal((2, 3, 3, 4), 1), normal((2, 3, 9, 4), 2));
    for name in SCHEMES {
        let layer = layer(name);
        let positions = layer.positions();
        let short = positions.attention_scores_at(&q, &k, 0, &at(0, 3)?, &at(0, 8)?);
        assert_eq!(error_text(short), "k_positions has shape [2, 8], expected [2, 9]");
        let floats = positions.attention_scores_at(&q, &k, 0, &normal((2, 3), 1), &at(0, 9)?);
        assert!(error_text(floats).starts_with("q_positions "), "{name}");
        let block = positions.attention_scores_at(&q, &k, 2, &at(0, 3)?, &at(0, 9)?);
        assert!(error_text(block).contains("block 2"), "{name}");
        let none = positions.attention_scores_at(&q.narrow(2, 0, 0)?, &k, 0, &at(0, 0)?, &at(0, 9)?)?;
        assert_eq!(none.dims(), [2, 3, 0, 9]);
    }
    let text = error_text(layer("t5").positions().attention_scores_at(&q, &k, 0, &at(0, 3)?, &at(0, 9)?));
    assert!(text.starts_with("t5 positions compute no scores: call `attention_bias"), "{text}");
    Ok(())
}

/// A mask without columns may have any number of rows, which take neither time nor memory.
#[test]
fn rows_without_columns_cost_nothing() -> Result<()> {
    let rows = 1usize << 40;
    let wte = Tensor::zeros((3, 2), DType::F32, &Device::Cpu)?;
    let layer = GptInputLayer::new(wte.clone(), wte)?;
    let mask = Tensor::zeros((rows, 0), DType::U8, &Device::Cpu)?;
    let ids = Tensor::zeros((rows, 0), DType::U32, &Device::Cpu)?;
    let start = std::time::Instant::now();
    assert_eq!(layer.forward_at(&ids, Positions::from_mask(&mask)?)?.dims(), [rows, 0, 2]);
    assert_eq!(layer.forward_at(&ids, Positions::from_mask(&mask)?.after(7))?.dims(), [rows, 0, 2]);
    assert_eq!(layer.forward(&ids)?.dims(), [rows, 0, 2]);
    layer.positions().check_mask(&mask)?;
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    Ok(())
}
