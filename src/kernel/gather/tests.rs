//! Fused = reference, bit for bit: forward, backward, into a buffer; any shape, dtype, stride, number of threads.

use std::mem::MaybeUninit;

use candle_core::{DType, Device, Tensor, Var};
use half::bf16;
use proptest::prelude::*;

use super::look_up::gather;
use super::{gather_add, gather_add_into, reference};
use crate::error::Result;
use crate::kernel::core::element::{Element, bytes_of, bytes_of_mut};
use crate::kernel::core::samples::{bits, table};
use crate::kernel::core::simd;
use crate::kernel::ids::{CheckedIds, Places, Table};

fn threads(n: usize, run: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
    pool.map_err(|error| candle_core::Error::Msg(error.to_string()))?.install(run)
}

/// Computes the gradients of both tables by Candle's own operations, in half types summed in f32 and rounded once.
fn reference_gradients(
    (wte, wpe): (&Tensor, &Tensor),
    ids: &CheckedIds,
    places: &Places,
    grad: &Tensor,
) -> Result<[Tensor; 2]> {
    let wide = if grad.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let width = wte.dim(1)?;
    let n = ids.tensor().elem_count();
    let grad = grad.to_dtype(wide)?.contiguous()?.reshape((n, width))?;
    let places = match places {
        &Places::Counted { start, t } => Tensor::arange(start as u32, (start + t) as u32, &Device::Cpu)?,
        Places::Given(places) => places.tensor().to_dtype(DType::U32)?,
    };
    let places = places.broadcast_as(ids.dims())?.contiguous()?.flatten_all()?;
    let sum = |table: &Tensor, ids: &Tensor| -> Result<Tensor> {
        let zeros = Tensor::zeros(table.dims(), wide, &Device::Cpu)?;
        Ok(zeros.index_add(ids, &grad, 0)?.to_dtype(table.dtype())?)
    };
    Ok([sum(wte, &ids.flat()?)?, sum(wpe, &places)?])
}

#[derive(Clone, Debug)]
struct Case {
    v: usize,
    p: usize,
    c: usize,
    b: usize,
    t: usize,
    start: usize,
    given: bool,
    dtype: DType,
    id_dtype: DType,
    n_threads: usize,
    seed: u32,
}

fn case() -> impl Strategy<Value = Case> {
    let dtype = prop::sample::select(vec![DType::F32, DType::F64, DType::F16, DType::BF16]);
    let id_dtype = prop::sample::select(vec![DType::U8, DType::U32, DType::I64]);
    let width = prop_oneof![Just(1usize), 1usize..9, 30usize..70, 250usize..300];
    let small = (1usize..200, 1usize..9, 0usize..6, width, any::<bool>(), dtype, id_dtype, 1usize..5, any::<u32>());
    small.prop_flat_map(|(v, p, b, c, given, dtype, id_dtype, n_threads, seed)| {
        (0..=p, Just((v, p, b, c, given, dtype, id_dtype, n_threads, seed))).prop_flat_map(|(t, rest)| {
            let (v, p, b, c, given, dtype, id_dtype, n_threads, seed) = rest;
            (0..=p - t).prop_map(move |start| Case { v, p, c, b, t, start, given, dtype, id_dtype, n_threads, seed })
        })
    })
}

fn check(case: &Case) -> Result<()> {
    let Case { v, p, c, b, t, start, given, dtype, id_dtype, n_threads, seed } = case.clone();
    let draw = |i: usize, below: usize| (i as u32).wrapping_mul(2654435761).wrapping_add(seed) as usize % below;
    let ids: Vec<u32> = (0..t * b).map(|i| (draw(i, v) / (1 + draw(i, 3))) as u32).collect();
    // A transposed view, so that strides are not those of memory.
    let ids = Tensor::from_vec(ids, (t, b), &Device::Cpu)?.t()?.to_dtype(id_dtype)?;
    let ids = CheckedIds::new(&ids, Table::Tokens, v, &Device::Cpu)?;
    let places = if given {
        let position_ids: Vec<i64> = (0..t).map(|i| draw(i + 7, p) as i64).collect();
        let position_ids = Tensor::from_vec(position_ids, (1, t), &Device::Cpu)?;
        Places::Given(CheckedIds::new(&position_ids, Table::Positions, p, &Device::Cpu)?)
    } else {
        Places::Counted { start, t }
    };
    let (wte, wpe) = (table(v, c, dtype, seed)?, table(p, c, dtype, !seed)?);
    let grad = table(b * t, c, dtype, seed ^ 77)?.reshape((b, t, c))?;

    threads(n_threads, || {
        let expected = reference::gather_add(&wte, &ids, &wpe, &places)?;
        let fused = gather_add(&wte, &ids, &wpe, &places)?;
        assert_eq!((fused.dims(), bits(&fused)?), (expected.dims(), bits(&expected)?));
        assert_eq!(bits(&gather(&wte, &ids)?)?, bits(&reference::gather(&wte, &ids)?)?);

        // Into the middle of a larger buffer, which must be left alone around it.
        let around = Tensor::full(7f32, (b + 2, t, c), &Device::Cpu)?.to_dtype(dtype)?;
        gather_add_into(&around.narrow(0, 1, b)?, &wte, &ids, &wpe, &places)?;
        assert_eq!(bits(&around.narrow(0, 1, b)?)?, bits(&expected)?);
        for end in [around.narrow(0, 0, 1)?, around.narrow(0, b + 1, 1)?] {
            assert_eq!(end.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?, vec![7.0; t * c]);
        }

        let (wte, wpe) = (Var::from_tensor(&wte)?, Var::from_tensor(&wpe)?);
        let fused = gather_add(&wte, &ids, &wpe, &places)?;
        let grads = (&fused * &grad)?.sum_all()?.backward()?;
        let [wte_grad, wpe_grad] = reference_gradients((&wte, &wpe), &ids, &places, &grad)?;
        for (var, expected) in [(&wte, wte_grad), (&wpe, wpe_grad)] {
            // Adding zero turns -0 into 0, so that the two compare equal.
            let found = grads.get(var).map(|grad| bits(&(grad + 0.)?)).transpose()?;
            assert_eq!(found, Some(bits(&(expected + 0.)?)?));
        }
        Ok(())
    })
}

proptest! {
    #![proptest_config(crate::tests::properties(200))]
    #[test]
    fn fused_is_reference(case in case()) {
        check(&case).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Large enough for threads, for streamed stores, for rows that are looked up often, and for a parallel sort.
#[test]
fn large_is_as_small() -> Result<()> {
    for (dtype, c) in [(DType::F32, 771), (DType::BF16, 1001), (DType::F16, 1537)] {
        for given in [false, true] {
            let (v, p, b, t) = (50, 700, 5, 650);
            check(&Case { v, p, c, b, t, start: 50, given, dtype, id_dtype: DType::I64, n_threads: 3, seed: 5 })?;
        }
    }
    check(&Case {
        v: 9000,
        p: 3000,
        c: 3,
        b: 6,
        t: 3000,
        start: 0,
        given: false,
        dtype: DType::F64,
        id_dtype: DType::U32,
        n_threads: 2,
        seed: 1,
    })
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() -> Result<()> {
    for n_threads in 1..6 {
        let (v, p, c, b, t) = (30, 90, 513, 7, 90);
        let (dtype, id_dtype) = (DType::F32, DType::U32);
        check(&Case { v, p, c, b, t, start: 0, given: n_threads % 2 == 0, dtype, id_dtype, n_threads, seed: 3 })?;
    }
    Ok(())
}

#[test]
fn sums_of_bf16_are_rounded_as_half_rounds_them() {
    let others =
        [0, 0x8000, 1, 0x8001, 0x007F, 0x3F80, 0xBF80, 0x3F81, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFFF];
    for left in 0..=u16::MAX {
        for right in others.into_iter().chain([left, left ^ 0x8000, left.rotate_left(3)]) {
            let sum = bf16::from_bits(left).widen() + bf16::from_bits(right).widen();
            let (found, expected) = (bf16::narrow_sum::<bf16>(sum), bf16::from_f32(sum));
            assert!(found == expected || (found.is_nan() && expected.is_nan()), "{left:x} {right:x}");
        }
    }
}

#[test]
fn a_buffer_may_have_another_type() -> Result<()> {
    let (wte, wpe) = (table(9, 37, DType::BF16, 1)?, table(5, 37, DType::BF16, 2)?);
    let ids = Tensor::new(&[[0u32, 8, 3], [1, 1, 2]], &Device::Cpu)?;
    let ids = CheckedIds::new(&ids, Table::Tokens, 9, &Device::Cpu)?;
    let places = Places::Counted { start: 1, t: 3 };
    let wide = reference::gather_add(&wte.to_dtype(DType::F32)?, &ids, &wpe.to_dtype(DType::F32)?, &places)?;
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let buffer = Tensor::zeros((2, 3, 37), dtype, &Device::Cpu)?;
        gather_add_into(&buffer, &wte, &ids, &wpe, &places)?;
        assert_eq!(bits(&buffer)?, bits(&wide.to_dtype(dtype)?)?);
    }
    let buffer = Tensor::zeros((2, 3, 37), DType::F64, &Device::Cpu)?;
    assert!(gather_add_into(&buffer, &wte, &ids, &wpe, &places).is_err());
    for (dims, strided) in [((2, 3, 36), false), ((3, 2, 37), false), ((3, 2, 37), true)] {
        let buffer = Tensor::zeros(dims, DType::F32, &Device::Cpu)?;
        let buffer = if strided { buffer.transpose(0, 1)? } else { buffer };
        let error = gather_add_into(&buffer, &wte, &ids, &wpe, &places).err().map(|e| e.to_string());
        assert!(error.is_some_and(|text| text.starts_with("buffer has shape")));
    }
    Ok(())
}

/// Vectors at both ends of a row overlap those between them; no byte outside the row may change.
#[test]
fn rows_of_any_length_and_alignment_are_copied_and_added() {
    let left: Vec<f32> = (0..200).map(|n| n as f32).collect();
    let right: Vec<f32> = (0..200).map(|n| 1000.0 * n as f32).collect();
    for (n, start) in (0..100).flat_map(|n| (0..17).map(move |start| (n, start))) {
        for stream in [false, true] {
            let from = start / 3;
            let (left, right) = (&left[from..][..n], &right[start..][..n]);
            let (mut sums, mut copies) = ([MaybeUninit::new(-1.0f32); 140], [MaybeUninit::new(-1.0f32); 140]);
            simd::add(&mut sums[start..][..n], left, right, &[], stream);
            simd::copy(bytes_of_mut(&mut copies[start..][..n]), bytes_of(left), &[], stream);
            simd::fence(stream);
            for at in 0..140usize {
                let inside = at.checked_sub(start).filter(|column| *column < n);
                let (sum, copy) = inside.map_or((-1.0, -1.0), |column| (left[column] + right[column], left[column]));
                // SAFETY: all elements were written above.
                let (found, copied) = unsafe { (sums[at].assume_init(), copies[at].assume_init()) };
                assert_eq!((found, copied), (sum, copy), "{n} elements from {start} on, at {at}");
            }
        }
    }
}
