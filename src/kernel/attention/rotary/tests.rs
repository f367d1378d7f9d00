//! Compares the kernel with plain Candle operations, bit for bit, for every width of vector that the CPU has.

use candle_core::{DType, Tensor, Var};
use proptest::prelude::*;

use super::angles::{AngleRows, Angles};
use super::rotate::{Rotate, reference, rotate};
use super::turn::Vectors;
use crate::error::Result;
use crate::kernel::core::samples::{bits, table};

fn widths() -> Vec<Vectors> {
    #[cfg(target_arch = "x86_64")]
    {
        use super::x86::features::{HasAvx2, HasAvx512, HasBf16};
        let eight = HasAvx2::seen().map(Vectors::Eight);
        let sixteen = HasAvx512::seen().map(Vectors::Sixteen);
        let converting = HasBf16::seen().map(Vectors::Converting);
        [Some(Vectors::One), eight, sixteen, converting].into_iter().flatten().collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    vec![Vectors::One]
}

#[derive(Clone, Debug)]
struct Case {
    b: usize,
    h: usize,
    h_k: usize,
    t: usize,
    /// Pairs, and elements after them.
    n_pairs: usize,
    rest: usize,
    start: usize,
    each: bool,
    strided: bool,
    interleaved: bool,
    dtype: DType,
    seed: u32,
}

fn case() -> impl Strategy<Value = Case> {
    let dtype = prop::sample::select(vec![DType::F32, DType::F64, DType::F16, DType::BF16]);
    let n_pairs = prop_oneof![1usize..40, Just(16usize), Just(32), Just(48), Just(8)];
    let rest = prop_oneof![Just(0usize), 0usize..20];
    let sizes = (1usize..4, 1usize..5, 1usize..4, prop_oneof![Just(1usize), 0usize..12], n_pairs, rest);
    (sizes, 0usize..9, any::<[bool; 3]>(), dtype, any::<u32>()).prop_map(
        |((b, h, h_k, t, n_pairs, rest), start, [each, strided, interleaved], dtype, seed)| Case {
            b,
            h,
            h_k,
            t,
            n_pairs,
            rest,
            start,
            each,
            strided,
            interleaved,
            dtype,
            seed,
        },
    )
}

fn heads(case: &Case, h: usize, seed: u32) -> Result<Tensor> {
    let &Case { b, t, n_pairs, rest, strided, dtype, .. } = case;
    let d = 2 * n_pairs + rest;
    Ok(match strided {
        // As they are cut out of a projection [B, T, 3 H D].
        true => {
            table(b * t, 3 * h * d, dtype, seed)?.narrow(1, h * d, h * d)?.reshape((b, t, h, d))?.transpose(1, 2)?
        }
        false => table(b * h * t, d, dtype, seed)?.reshape((b, h, t, d))?,
    })
}

fn random_angles(n: usize, n_pairs: usize, seed: u32) -> Result<Angles> {
    Ok(Angles(table(2 * n, n_pairs, DType::F32, seed ^ 1)?.reshape((n, 2, n_pairs))?.contiguous()?))
}

fn check(case: &Case) -> Result<()> {
    let &Case { b, h, h_k, t, n_pairs, start, each, interleaved, seed, .. } = case;
    let n = start + t + 3;
    let angles = random_angles(n, n_pairs, seed)?;
    let rows = match each {
        true => AngleRows::Each((0..b * t).map(|i| ((i * 7919 + seed as usize) % n) as u32).collect()),
        false => AngleRows::From(start),
    };
    let (q, k) = (heads(case, h, seed)?, heads(case, h_k, !seed)?);
    let expected = [reference(&q, &angles, &rows, interleaved)?, reference(&k, &angles, &rows, interleaved)?];
    for vectors in widths() {
        let op = Rotate { angles: angles.clone(), rows: rows.clone(), interleaved, back: false, vectors };
        let (new_q, new_k) = op.both(&q, &k)?;
        for (found, expected) in [&new_q, &new_k].into_iter().zip(&expected) {
            assert_eq!((found.dims(), bits(found)?), (expected.dims(), bits(expected)?), "{vectors:?}");
        }
        // One alone, by the operation that is recorded; then back, by the opposite angle.
        let alone = q.apply_op1_no_bwd(&op)?;
        assert_eq!(bits(&alone)?, bits(&expected[0])?);
        let back = q.apply_op1_no_bwd(&Rotate { back: true, ..op })?;
        let opposite = Angles(angles.0.broadcast_mul(&Tensor::new(&[[1f32], [-1.]], q.device())?)?);
        assert_eq!(bits(&back)?, bits(&reference(&q, &opposite, &rows, interleaved)?)?, "{vectors:?} back");
    }
    // Gradients: those of the plain operations.
    let gradients = |fused: bool| -> Result<Vec<Tensor>> {
        let (q, k) = (Var::from_tensor(&q)?, Var::from_tensor(&k)?);
        let (new_q, new_k) = match fused {
            true => rotate(&q, &k, &angles, rows.clone(), interleaved)?,
            false => (reference(&q, &angles, &rows, interleaved)?, reference(&k, &angles, &rows, interleaved)?),
        };
        let grads = (new_q.sqr()?.sum_all()? + new_k.sqr()?.sum_all()?)?.backward()?;
        Ok([q, k].iter().filter_map(|var| grads.get(var).cloned()).collect())
    };
    if case.dtype == DType::F64 && t > 0 {
        for (found, expected) in gradients(true)?.iter().zip(gradients(false)?) {
            let apart = (found - &expected)?.abs()?.max_all()?.to_scalar::<f64>()?;
            assert!(apart <= 1e-12 * expected.abs()?.max_all()?.to_scalar::<f64>()?, "{apart}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(crate::tests::properties(200))]
    #[test]
    fn the_kernel_is_the_plain_rotation(case in case()) {
        check(&case).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Several blocks, several tasks, heads that are not a multiple of those turned together, positions whose angles do not
/// stay in a cache, many sequences of one token.
#[test]
fn long_sequences_are_as_short_ones() -> Result<()> {
    for (dtype, strided, each, (b, h, h_k, t)) in [
        (DType::F32, false, false, (2, 3, 1, 700)),
        (DType::BF16, true, true, (2, 3, 1, 700)),
        (DType::F16, true, false, (2, 3, 1, 700)),
        (DType::F32, true, true, (2, 3, 1, 700)),
        (DType::BF16, false, true, (3, 2, 2, 301)),
        (DType::F32, false, false, (1, 2, 1, 2100)),
        (DType::F16, false, true, (1, 2, 1, 2100)),
        (DType::F32, false, false, (2, 7, 4, 301)),
        (DType::BF16, false, false, (1, 25, 5, 130)),
        (DType::F16, false, true, (2, 7, 4, 301)),
        (DType::F32, true, false, (900, 3, 2, 1)),
        (DType::BF16, false, false, (900, 3, 2, 1)),
        (DType::F32, false, true, (900, 3, 2, 1)),
    ] {
        let (n_pairs, rest, start, interleaved, seed) = (32, 0, 5, each, 9);
        check(&Case { b, h, h_k, t, n_pairs, rest, start, each, strided, interleaved, dtype, seed })?;
    }
    Ok(())
}

/// Subnormals are not lost, although an instruction that rounds to bf16 would lose them.
#[test]
fn the_least_numbers_are_rounded_as_others() -> Result<()> {
    let angles = random_angles(8, 32, 3)?;
    let tiny = (table(2 * 8, 64, DType::F32, 5)? * f64::from(f32::MIN_POSITIVE))?.to_dtype(DType::BF16)?;
    let q = tiny.reshape((1, 2, 8, 64))?;
    for interleaved in [false, true] {
        let rows = AngleRows::From(0);
        let expected = reference(&q, &angles, &rows, interleaved)?;
        let is_least = |value: &f32| *value != 0.0 && value.abs() < f32::MIN_POSITIVE;
        let numbers = expected.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        assert!(numbers.iter().any(is_least) && !numbers.iter().all(is_least));
        for vectors in widths() {
            let op = Rotate { angles: angles.clone(), rows: rows.clone(), interleaved, back: false, vectors };
            assert_eq!(bits(&q.apply_op1_no_bwd(&op)?)?, bits(&expected)?, "{vectors:?}");
        }
    }
    Ok(())
}

/// A position outside the table of angles is an error, not a wild read.
#[test]
fn angles_outside_are_an_error() -> Result<()> {
    let case = Case {
        b: 1,
        h: 2,
        h_k: 1,
        t: 3,
        n_pairs: 16,
        rest: 0,
        start: 0,
        each: false,
        strided: false,
        interleaved: false,
        dtype: DType::F32,
        seed: 4,
    };
    let q = heads(&case, 2, 4)?;
    let angles = random_angles(4, 16, 1)?;
    for vectors in widths() {
        for rows in [AngleRows::From(2), AngleRows::Each([0, 4, 1].into()), AngleRows::Each([0, 1].into())] {
            let op = Rotate { angles: angles.clone(), rows, interleaved: false, back: false, vectors };
            assert!(op.both(&q, &q).is_err(), "{vectors:?}");
        }
    }
    Ok(())
}
