//! Compares the kernels with the plain operations, on whole numbers, whose sums are exact in any order.

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

use super::{Columns, Gathered, by_distance, n_distances, reference, sum_by_distance};
use crate::error::Result;
use crate::kernel::core::samples::bits;

#[derive(Clone, Debug)]
struct Case {
    outer: (usize, usize),
    t_q: usize,
    t_k: usize,
    start: i64,
    /// How many columns the distances share; `None` gives each its own.
    n_shared: Option<usize>,
    /// One row for all queries.
    one_row: bool,
    dtype: DType,
}

fn case() -> impl Strategy<Value = Case> {
    let dtype = prop::sample::select(vec![DType::F32, DType::F64, DType::BF16, DType::F16]);
    let sizes = (1usize..3, 1usize..4, 1usize..9, 1usize..12, -3i64..15);
    (sizes, prop::option::of(1usize..9), any::<bool>(), dtype).prop_map(
        |((b, h, t_q, t_k, start), n_shared, one_row, dtype)| Case {
            outer: (b, h),
            t_q,
            t_k,
            start,
            n_shared,
            one_row,
            dtype,
        },
    )
}

/// Returns values from 0 to 6, whose sums are exact here even in bf16.
fn whole(dims: (usize, usize, usize, usize), dtype: DType) -> Result<Tensor> {
    let n = dims.0 * dims.1 * dims.2 * dims.3;
    let values: Vec<f32> = (0..n).map(|i| (i * 7919 % 7) as f32).collect();
    Ok(Tensor::from_vec(values, dims, &Device::Cpu)?.to_dtype(dtype)?)
}

fn check(case: &Case) -> Result<()> {
    let &Case { outer: (b, h), t_q, t_k, start, n_shared, one_row, dtype } = case;
    let columns = match n_shared {
        Some(n) => Columns::new(t_q, t_k, start, |distance| distance.rem_euclid(n as i64) as u32)?,
        None => Columns::each(t_q, t_k)?,
    };
    let (n_rows, n_columns) = (if one_row { 1 } else { t_q }, n_shared.unwrap_or(n_distances(t_q, t_k)));
    let x = whole((b, h, n_rows, n_columns), dtype)?;
    let (found, expected) = (by_distance(&x, columns.clone())?, reference(&x, &columns)?);
    assert_eq!((found.dims(), bits(&found)?), (expected.dims(), bits(&expected)?));

    let gradient = |fused: bool| -> Result<Tensor> {
        let x = Var::from_tensor(&x)?;
        let out = if fused { by_distance(&x, columns.clone())? } else { reference(&x, &columns)? };
        let grads = (out * whole((b, h, t_q, t_k), dtype)?)?.sum_all()?.backward()?;
        grads.get(&x).cloned().ok_or_else(|| candle_core::Error::Msg("no gradient".to_string()).into())
    };
    assert_eq!(bits(&gradient(true)?)?, bits(&gradient(false)?)?, "gradient");

    let weights = whole((b, h, t_q, t_k), dtype)?;
    let op = Gathered { columns: columns.clone(), n_rows: t_q, n_columns };
    let expected = op.reference(&weights.reshape((b * h, t_q, t_k))?)?.reshape((b, h, t_q, n_columns))?;
    assert_eq!(bits(&sum_by_distance(&weights, columns, n_columns)?)?, bits(&expected)?, "sums");
    Ok(())
}

proptest! {
    #![proptest_config(crate::tests::properties(200))]
    #[test]
    fn kernels_are_the_plain_operations(case in case()) {
        check(&case).unwrap_or_else(|error| panic!("{error}"));
    }
}
