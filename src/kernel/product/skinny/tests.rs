//! The order of a sum, in plain words, against every loop.

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use proptest::prelude::*;

use super::columns::by_columns;
use super::kind::Kind;
use super::panel::Hidden;
use super::rows::Rows;
use super::sweep::{Vectors, product_by};
use crate::error::Result;
use crate::kernel::core::element::{Element, bytes_of};
use crate::kernel::core::samples::{bits, table};
use crate::kernel::product::exp::FUSED_HERE;
use crate::kernel::product::{Weight, linear, logits};

/// Returns all paths that this CPU has.
pub(super) fn paths() -> Vec<Vectors> {
    #[cfg(target_arch = "x86_64")]
    {
        use super::x86::features::{HasAvx512, HasFma};
        let wide = [HasFma::seen().map(Vectors::Avx2), HasAvx512::seen().map(Vectors::Avx512)];
        [Vectors::Plain, Vectors::Fused].into_iter().chain(wide.into_iter().flatten()).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    vec![Vectors::Plain, Vectors::Fused]
}

/// Computes one sum as the module's documentation has it.
fn sum(is_fused: bool, hidden: impl Iterator<Item = f32>, row: impl Iterator<Item = f32>) -> f32 {
    let mut lanes = [0f32; 16];
    for (i, (x, y)) in hidden.zip(row).enumerate() {
        let lane = &mut lanes[i % 16];
        *lane = if is_fused { x.mul_add(y, *lane) } else { x * y + *lane };
    }
    for apart in [8, 4, 2, 1] {
        for lane in 0..apart {
            lanes[lane] += lanes[lane + apart];
        }
    }
    lanes[0]
}

fn values<E: Element>(n: usize, seed: u32) -> Result<Vec<E>> {
    let tensor = table(n, 1, E::DTYPE, seed)?;
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// Compares every path with the sums in plain words: hidden states with strides, rows of the table with gaps.
fn assert_order<E: Element<Wide = f32> + Kind>(n: usize, n_rows: usize, c: usize) -> Result<()> {
    let (gap, apart) = (3, 2);
    let (hidden, rows) = (values::<E>(n * c * apart, 1)?, values::<E>(n_rows * (c + gap), 7)?);
    let strides = (apart, n * apart); // transposed, with gaps
    let given = Hidden { values: &hidden, n_rows: n, n_columns: c, strides };
    let size = size_of::<E>();
    let table = Rows::new(bytes_of(&rows), n_rows, c * size, (c + gap) * size).unwrap();
    for path in paths() {
        let found = std::sync::Mutex::new(vec![f32::NAN; n * n_rows]);
        product_by::<E, E>(path, &given, &table, &|row, first, sums| {
            found.lock().unwrap()[row * n_rows + first..][..sums.len()].copy_from_slice(sums);
        });
        let found = found.into_inner().unwrap();
        for (at, found) in found.iter().enumerate() {
            let (row, v) = (at / n_rows, at % n_rows);
            let hidden = (0..c).map(|i| hidden[row * strides.0 + i * strides.1].widen());
            let is_fused = path != Vectors::Plain || FUSED_HERE;
            let expected = sum(is_fused, hidden, rows[v * (c + gap)..][..c].iter().map(|x| x.widen()));
            assert_eq!(found.to_bits(), expected.to_bits(), "{path:?} {n} {n_rows} {c} at {row}, {v}");
        }
    }
    Ok(())
}

/// The same for sums down the columns of a weight, in the order of its rows.
fn assert_order_of_columns<E: Element<Wide = f32> + Kind>(n: usize, n_in: usize, n_out: usize) -> Result<()> {
    let (gap, apart) = (3, 2);
    let (hidden, rows) = (values::<E>(n * n_in * apart, 1)?, values::<E>(n_in * (n_out + gap), 7)?);
    let strides = (apart, n * apart);
    let given = Hidden { values: &hidden, n_rows: n, n_columns: n_in, strides };
    let size = size_of::<E>();
    let weight = Rows::new(bytes_of(&rows), n_in, n_out * size, (n_out + gap) * size).unwrap();
    for path in paths() {
        let found = std::sync::Mutex::new(vec![f32::NAN; n * n_out]);
        by_columns::<E, E>(path, &given, &weight, &|row, first, sums| {
            found.lock().unwrap()[row * n_out + first..][..sums.len()].copy_from_slice(sums);
        });
        let found = found.into_inner().unwrap();
        for (at, found) in found.iter().enumerate() {
            let (row, column) = (at / n_out, at % n_out);
            let is_fused = path != Vectors::Plain || FUSED_HERE;
            let segment = |i: &[usize]| {
                i.iter().fold(0f32, |sum, i| {
                    let x = hidden[row * strides.0 + i * strides.1].widen();
                    let y = rows[i * (n_out + gap) + column].widen();
                    if is_fused { x.mul_add(y, sum) } else { x * y + sum }
                })
            };
            let segments: Vec<f32> = (0..n_in).collect::<Vec<_>>().chunks(128).map(segment).collect();
            let expected = segments.into_iter().reduce(|sum, x| sum + x).unwrap();
            assert_eq!(found.to_bits(), expected.to_bits(), "{path:?} {n} {n_in} {n_out} at {row}, {column}");
        }
    }
    Ok(())
}

/// Every group of hidden rows, tiles that are not whole.
#[test]
fn wide_and_portable_loops_agree_by_columns() -> Result<()> {
    for n in 1..=9 {
        for (n_in, n_out) in [(1, 1), (3, 2), (16, 31), (33, 70), (5, 300)] {
            assert_order_of_columns::<f32>(n, n_in, n_out)?;
            assert_order_of_columns::<f16>(n, n_in, n_out)?;
            assert_order_of_columns::<bf16>(n, n_in, n_out)?;
        }
    }
    // Several blocks, tasks and passes.
    assert_order_of_columns::<bf16>(3, 700, 400)?;
    assert_order_of_columns::<f32>(130, 50, 140)
}

/// Every group of hidden rows, blocks of rows that are not whole, units that are not.
#[test]
fn wide_and_portable_loops_agree() -> Result<()> {
    for n in 1..=9 {
        for (n_rows, c) in [(1, 1), (2, 3), (7, 16), (9, 33), (5, 100)] {
            assert_order::<f32>(n, n_rows, c)?;
            assert_order::<f16>(n, n_rows, c)?;
            assert_order::<bf16>(n, n_rows, c)?;
        }
    }
    // Several chunks, tasks and passes.
    assert_order::<bf16>(3, 1000, 130)?;
    assert_order::<f32>(130, 30, 48)
}

/// Small, since Miri runs it too.
#[test]
fn plain_loops_take_rows_of_any_length() -> Result<()> {
    for (n, n_rows, c) in [(1, 1, 1), (2, 3, 3), (5, 2, 17), (3, 4, 35)] {
        assert_order::<f32>(n, n_rows, c)?;
        assert_order::<f16>(n, n_rows, c)?;
        assert_order::<bf16>(n, n_rows, c)?;
        assert_order_of_columns::<f32>(n, n_rows, c)?;
        assert_order_of_columns::<bf16>(n, n_rows, c)?;
    }
    Ok(())
}

/// Returns the largest distance from the sums in f64, and the largest sum.
fn distance(found: &Tensor, hidden: &Tensor, table: &Tensor) -> Result<(f64, f64)> {
    let wide = |x: &Tensor| x.to_dtype(DType::F64);
    let exact = wide(hidden)?.matmul(&wide(table)?.t()?)?;
    let largest = |x: Tensor| x.abs()?.max_all()?.to_scalar::<f64>();
    Ok((largest((wide(found)? - &exact)?)?, largest(exact)?))
}

fn uniform(dims: (usize, usize), seed: u64) -> Result<Tensor> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    Ok(Tensor::from_vec((0..dims.0 * dims.1).map(|_| next()).collect::<Vec<f32>>(), dims, &Device::Cpu)?)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// A row of hidden states has the same logits alone, in any batch, on any number of threads, at any strides.
    #[test]
    fn logits_of_a_row_do_not_depend_on_the_others(
        n in 1usize..140,
        row in 0usize..140,
        n_together in 1usize..20,
        c in prop_oneof![Just(1), Just(3), 2usize..200],
        vocab_size in 1usize..400,
        n_threads in 1usize..4,
        dtype in prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::BF16)],
        seed in any::<u64>(),
    ) {
        let row = row % n;
        let check = || -> Result<()> {
            let hidden = uniform((n, c), seed)?.to_dtype(dtype)?;
            let table = uniform((vocab_size + 2, c), !seed)?.to_dtype(dtype)?.narrow(0, 1, vocab_size)?;
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            let all = pool.install(|| logits(&hidden, &table))?;
            let (found, largest) = distance(&all, &hidden, &table)?;
            let rounding = match dtype {
                DType::F32 => 1e-5,
                DType::F16 => 1e-5 + 1.0 / 2048.0,
                _ => 1e-5 + 1.0 / 256.0,
            };
            assert!(found <= rounding * largest + f64::from(f32::MIN_POSITIVE), "{found} of {largest}");
            let of_row = bits(&all.narrow(0, row, 1)?)?;
            assert_eq!(bits(&logits(&hidden.narrow(0, row, 1)?, &table)?)?, of_row, "alone");
            let first = row.saturating_sub(n_together / 2);
            let some = hidden.narrow(0, first, n_together.min(n - first))?;
            let some = logits(&some, &table)?.narrow(0, (row - first).min(n_together - 1), 1)?;
            if row - first < n_together {
                assert_eq!(bits(&some)?, of_row, "together with others");
            }
            let strided = hidden.t()?.contiguous()?.t()?;
            assert_eq!(bits(&logits(&strided, &table)?)?, bits(&all)?, "strided");
            let bias = uniform((1, vocab_size), seed ^ 1)?.to_dtype(dtype)?.squeeze(0)?;
            for (weight, lies) in [(table.clone(), Weight::OutIn), (table.t()?.contiguous()?, Weight::InOut)] {
                let all = pool.install(|| linear(&hidden, &weight, Some(&bias), lies))?;
                let alone = linear(&hidden.narrow(0, row, 1)?, &weight, Some(&bias), lies)?;
                assert_eq!(bits(&alone)?, bits(&all.narrow(0, row, 1)?)?, "{lies:?}");
                let exact = linear(&hidden.to_dtype(DType::F64)?, &weight.to_dtype(DType::F64)?, None, lies)?;
                let exact = exact.broadcast_add(&bias.to_dtype(DType::F64)?)?;
                let largest = |x: Tensor| x.abs()?.max_all()?.to_scalar::<f64>();
                let found = largest((all.to_dtype(DType::F64)? - &exact)?)?;
                assert!(found <= rounding * largest(exact)? + f64::from(f32::MIN_POSITIVE), "{lies:?}: {found}");
            }
            let wide_rows = Tensor::cat(&[&table, &table], 1)?.narrow(1, 0, c)?;
            assert_eq!(bits(&logits(&hidden, &wide_rows)?)?, bits(&all)?, "rows of a wider table");
            Ok(())
        };
        check().unwrap();
    }
}
