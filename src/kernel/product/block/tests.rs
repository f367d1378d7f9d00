//! The fused passes against the plain operations in f64, and these against finite differences.

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

use super::*;
use crate::kernel::core::samples::bits;

type CandleResult<T> = candle_core::Result<T>;

/// f32 sums in another order than those in f64: some hundred roundings, far less than a wrong factor causes.
const SUMS: f64 = 1e-5;

/// One of the pieces: its inputs to its output.
type Piece<'a> = &'a (dyn Fn(&[Tensor]) -> CandleResult<Tensor> + Sync);

/// Returns values between -2 and 2 that repeat nowhere.
fn sample(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as f64 / (1u64 << 29) as f64 - 2.0
    };
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Returns the output of `piece` and the gradient of every input, in `dtype`, of a loss that weighs all outputs
/// differently.
fn run(piece: Piece<'_>, inputs: &[Tensor], dtype: DType) -> CandleResult<Vec<Tensor>> {
    let vars = inputs.iter().map(|x| Var::from_tensor(&x.to_dtype(dtype)?)).collect::<CandleResult<Vec<_>>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = piece(&tensors)?;
    assert_eq!(y.dtype(), dtype);
    let grads = (&y * sample(y.dims(), 7).to_dtype(dtype)?)?.sum_all()?.backward()?;
    let grads = vars.iter().map(|var| grads.get(var).expect("every input has a gradient").clone());
    Ok(std::iter::once(y.clone()).chain(grads).collect())
}

#[track_caller]
fn assert_near(left: &Tensor, right: &Tensor, bound: f64) {
    assert_eq!(left.dims(), right.dims());
    let read = |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (left, right) = (read(left), read(right));
    let largest = right.iter().fold(0.0f64, |max, x| max.max(x.abs()));
    for (i, (x, y)) in left.iter().zip(&right).enumerate() {
        assert!((x - y).abs() <= bound * largest.max(1e-3), "element {i}: {x} is not {y}; {largest} at most");
    }
}

/// Compares f32, which is fused, with f64, which is not.
#[track_caller]
fn assert_fused_is_plain(piece: Piece<'_>, inputs: &[Tensor]) {
    let (fused, plain) = (run(piece, inputs, DType::F32).unwrap(), run(piece, inputs, DType::F64).unwrap());
    fused.iter().zip(&plain).for_each(|(fused, plain)| assert_near(fused, plain, SUMS));
}

/// Compares the gradients in f64 with differences of the output.
#[track_caller]
fn assert_slopes(piece: Piece<'_>, inputs: &[Tensor]) {
    const STEP: f64 = 1e-5;
    let found = run(piece, inputs, DType::F64).unwrap();
    let loss = |inputs: &[Tensor]| {
        let y = piece(inputs)?;
        (&y * sample(y.dims(), 7))?.sum_all()?.to_scalar::<f64>()
    };
    for (which, input) in inputs.iter().enumerate() {
        let values = input.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let slopes: Vec<f64> = (0..values.len())
            .map(|i| {
                let shifted = |step: f64| {
                    let mut values = values.clone();
                    values[i] += step;
                    let mut inputs = inputs.to_vec();
                    inputs[which] = Tensor::from_vec(values, input.shape(), &Device::Cpu).unwrap();
                    loss(&inputs).unwrap()
                };
                (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP)
            })
            .collect();
        let slopes = Tensor::from_vec(slopes, input.shape(), &Device::Cpu).unwrap();
        assert_near(&found[which + 1], &slopes, 1e-7);
    }
}

fn scores(is_causal: bool, bias: Option<Tensor>) -> Scores {
    Scores { scale: 0.4, is_causal, bias, documents: None }
}

/// A bias that hides some keys from some queries, and query 1 of head 0 from all.
fn hiding(h: usize, t_q: usize, t_k: usize) -> Tensor {
    let value = |i: usize| match (i / (t_q * t_k), i / t_k % t_q, i % t_k) {
        (0, 1, _) => f32::NEG_INFINITY,
        (head, query, key) if (head + 2 * query + key) % 5 == 0 => f32::NEG_INFINITY,
        (head, query, key) => (head * 3 + query + key * 7) as f32 / 10.0 % 1.0,
    };
    Tensor::from_vec((0..h * t_q * t_k).map(value).collect(), (1, h, t_q, t_k), &Device::Cpu).unwrap()
}

/// Calls `check` with every piece and inputs of the given sizes.
fn each_piece((n, c, o): (usize, usize, usize), check: &dyn Fn(Piece<'_>, &[Tensor])) {
    let (x, weight, bias) = (sample(&[n, c], 1), sample(&[c], 2), sample(&[c], 3));
    for is_centred in [true, false] {
        let of = Norm { eps: 0.1, is_centred };
        check(&|x| norm(&x[0], Some(&x[1]), Some(&x[2]), of), &[x.clone(), weight.clone(), bias.clone()]);
        check(&|x| norm(&x[0], Some(&x[1]), None, of), &[x.clone(), weight.clone()]);
        check(&|x| norm(&x[0], None, Some(&x[1]), of), &[x.clone(), bias.clone()]);
        check(&|x| norm(&x[0], None, None, of), std::slice::from_ref(&x));
    }
    for (lies, weight) in [(Weight::OutIn, sample(&[o, c], 4)), (Weight::InOut, sample(&[c, o], 5))] {
        check(&|x| linear(&x[0], &x[1], Some(&x[2]), lies), &[x.clone(), weight.clone(), sample(&[o], 6)]);
        check(&|x| linear(&x[0], &x[1], None, lies), &[x.clone(), weight]);
    }
    check(&|x| gelu(&x[0], Approximate::None), &[(&x * 3.0).unwrap()]);
    check(&|x| gelu(&x[0], Approximate::Tanh), &[(&x * 3.0).unwrap()]);
    check(&|x| softmax(&x[0], false), std::slice::from_ref(&x));
    check(&|x| softmax(&x[0], true), &[x]);
}

/// Calls `check` with attention of the given sizes in all its forms.
fn each_attention((t_q, t_k): (usize, usize), check: &dyn Fn(Piece<'_>, &[Tensor])) {
    let (b, h, h_k, d, d_v) = (2, 4, 2, 3, 5);
    let (q, k, v) = (sample(&[b, h, t_q, d], 1), sample(&[b, h_k, t_k, d], 2), sample(&[b, h_k, t_k, d_v], 3));
    for is_causal in [true, false] {
        for bias in [None, Some(hiding(h, t_q, t_k))] {
            let of = scores(is_causal, bias);
            check(&|x| attention(&x[0], &x[1], &x[2], &of), &[q.clone(), k.clone(), v.clone()]);
        }
        // Heads cut out of projections, and a bias that is trained.
        let strided = |x: &Tensor| x.transpose(1, 2);
        let of = scores(is_causal, None);
        check(
            &|x| attention(&strided(&x[0])?, &strided(&x[1])?, &strided(&x[2])?, &of),
            &[&q, &k, &v].map(|x| x.transpose(1, 2).unwrap().contiguous().unwrap()),
        );
        let trained = |x: &[Tensor]| attention(&x[0], &x[1], &x[2], &scores(is_causal, Some(x[3].clone())));
        check(&trained, &[q.clone(), k.clone(), v.clone(), sample(&[1, h, t_q, t_k], 4)]);
    }
    for (n_head, n_kv_head) in [(3, 3), (4, 2), (3, 1)] {
        let packed = sample(&[b, t_k, (n_head + 2 * n_kv_head) * d], 5);
        check(&|x| packed_attention(&x[0], (n_head, n_kv_head), &scores(true, None)), &[packed]);
    }
}

proptest! {
    #![proptest_config(crate::tests::properties(16))]

    #[test]
    fn fused_is_plain(n in 1usize..70, c in 1usize..70, o in 1usize..40, t_q in 2usize..70, past in 0usize..40) {
        each_piece((n, c, o), &|piece, inputs| assert_fused_is_plain(piece, inputs));
        each_attention((t_q, t_q + past), &|piece, inputs| assert_fused_is_plain(piece, inputs));
    }
}

#[test]
fn gradients_are_slopes() {
    each_piece((3, 5, 4), &|piece, inputs| assert_slopes(piece, inputs));
    each_attention((3, 4), &|piece, inputs| assert_slopes(piece, inputs));
    each_attention((4, 2), &|piece, inputs| assert_slopes(piece, inputs)); // the first queries see nothing
}

#[test]
fn more_queries_than_keys_see_nothing_at_first() {
    for sizes in [(40, 3), (400, 300)] {
        each_attention(sizes, &|piece, inputs| assert_fused_is_plain(piece, inputs));
    }
    let (q, k) = (sample(&[1, 1, 3, 2], 1), sample(&[1, 1, 1, 2], 2));
    for dtype in [DType::F32, DType::F64] {
        let (q, k) = (q.to_dtype(dtype).unwrap(), k.to_dtype(dtype).unwrap());
        let y = attention(&q, &k, &k, &scores(true, None)).unwrap();
        let zeros = Tensor::zeros((1, 1, 2, 2), dtype, &Device::Cpu).unwrap();
        assert_near(&y, &Tensor::cat(&[&zeros, &k], 2).unwrap(), SUMS);
        assert_near(&y.narrow(2, 0, 2).unwrap(), &zeros, 0.0);
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let check = |piece: Piece<'_>, inputs: &[Tensor]| {
        let at = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            let results = pool.install(|| run(piece, inputs, DType::F32).unwrap());
            results.iter().map(|x| bits(x).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(at(1), at(4));
    };
    each_piece((200, 33, 7), &check);
    each_attention((200, 205), &check); // enough for several threads
}

#[test]
fn halves_are_rounded_once() {
    for dtype in [DType::BF16, DType::F16] {
        let check = |piece: Piece<'_>, inputs: &[Tensor]| {
            let inputs: Vec<Tensor> =
                inputs.iter().map(|x| x.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap()).collect();
            let wide = piece(&inputs).unwrap().to_dtype(dtype).unwrap();
            let halves = run(piece, &inputs, dtype).unwrap();
            assert_eq!(bits(&halves[0]).unwrap(), bits(&wide).unwrap());
        };
        each_piece((5, 40, 7), &check);
        each_attention((3, 5), &check);
    }
}

#[test]
fn empty_tensors_pass_through() {
    for dtype in [DType::F32, DType::F64, DType::BF16] {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
        let check = |piece: Piece<'_>, inputs: &[Tensor], dims: &[usize]| {
            let results = run(piece, inputs, dtype).unwrap();
            assert_eq!(results[0].dims(), dims);
            for grad in &results[1..] {
                let sum = grad.to_dtype(DType::F64).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
                assert_eq!(sum, 0.0);
            }
        };
        let of = Norm { eps: 0.1, is_centred: true };
        check(&|x| norm(&x[0], Some(&x[1]), Some(&x[2]), of), &[zeros(&[0, 3]), zeros(&[3]), zeros(&[3])], &[0, 3]);
        for lies in [Weight::OutIn, Weight::InOut] {
            let weight = if lies == Weight::OutIn { [4, 3] } else { [3, 4] };
            let piece = |x: &[Tensor]| linear(&x[0], &x[1], Some(&x[2]), lies);
            check(&piece, &[zeros(&[0, 3]), zeros(&weight), zeros(&[4])], &[0, 4]);
        }
        let no_inputs =
            linear(&zeros(&[2, 0]), &zeros(&[3, 0]), Some(&zeros(&[3]).affine(0.0, 5.0).unwrap()), Weight::OutIn);
        let fives = Tensor::full(5f32, (2, 3), &Device::Cpu).unwrap();
        assert_near(&no_inputs.unwrap(), &fives, 0.0);
        check(&|x| gelu(&x[0], Approximate::None), &[zeros(&[2, 0])], &[2, 0]);
        check(&|x| softmax(&x[0], false), &[zeros(&[2, 0])], &[2, 0]);
        for (b, t_q, t_k) in [(0, 2, 3), (1, 0, 3), (1, 2, 0)] {
            let inputs = [zeros(&[b, 2, t_q, 3]), zeros(&[b, 1, t_k, 3]), zeros(&[b, 1, t_k, 5])];
            check(&|x| attention(&x[0], &x[1], &x[2], &scores(true, None)), &inputs, &[b, 2, t_q, 5]);
        }
    }
}

#[test]
fn infinities_and_nans_come_out_as_in_pytorch() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    for dtype in [DType::F32, DType::F64] {
        let of = |piece: Piece<'_>, x: &[f64]| {
            let x = Tensor::from_slice(x, (1, x.len()), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let y = piece(&[x]).unwrap().to_dtype(DType::F64).unwrap();
            format!("{:?}", y.flatten_all().unwrap().to_vec1::<f64>().unwrap())
        };
        for form in [Approximate::None, Approximate::Tanh] {
            assert_eq!(of(&|x| gelu(&x[0], form), &[inf, nan, -inf, 0.0]), "[inf, NaN, NaN, 0.0]");
        }
        assert_eq!(of(&|x| softmax(&x[0], false), &[-inf, -inf]), "[NaN, NaN]");
        assert_eq!(of(&|x| softmax(&x[0], true), &[-inf, -inf]), "[0.0, 0.0]");
        for masks_rows in [false, true] {
            assert_eq!(of(&|x| softmax(&x[0], masks_rows), &[-inf, 1.0]), "[0.0, 1.0]");
            assert_eq!(of(&|x| softmax(&x[0], masks_rows), &[inf, 1.0]), "[NaN, NaN]");
            assert_eq!(of(&|x| softmax(&x[0], masks_rows), &[nan, 1.0]), "[NaN, NaN]");
        }
    }
}
