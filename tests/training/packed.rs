//! Packed documents: in attention, each document gets what it gets alone.

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_gpt_input::data::PackedDocuments;
use candle_gpt_input::nn::Attention;
use candle_gpt_input::rng::Generator;
use proptest::prelude::*;

use crate::support::{assert_bits_eq, difference, error_text, properties};

/// Sums in f64 over a whole row, of which all but a document's keys are zeros, in the order of some matrix product.
const SUMS_F64: f64 = 1e-13;

fn sample(shape: &[usize], dtype: DType, generator: &Generator) -> Tensor {
    let mut values = vec![0.0; shape.iter().product()];
    generator.normal_f32(&mut values, 0.0, 1.0).unwrap();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// Returns the output and the gradients of inputs under a loss that weighs all outputs by `weigh`.
fn run(inputs: &[Tensor], weigh: &Tensor, f: &dyn Fn(&[Tensor]) -> Tensor) -> Vec<Tensor> {
    let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(&x.contiguous().unwrap()).unwrap()).collect();
    let out = f(&vars.iter().map(|var| var.as_tensor().clone()).collect::<Vec<_>>());
    let grads = (&out * weigh).unwrap().sum_all().unwrap().backward().unwrap();
    std::iter::once(out).chain(vars.iter().map(|var| grads.get(var).unwrap().clone())).collect()
}

/// Checks what rows of documents get against what each document gets alone.
fn assert_each_is_alone(rows: &[Vec<usize>], dtype: DType, is_causal: bool, (h, h_kv, d): (usize, usize, usize)) {
    let (b, t) = (rows.len(), rows[0].iter().sum::<usize>());
    let documents = PackedDocuments::from_lengths(rows).unwrap();
    let generator = Generator::manual_seed((t * 8 + h) as u64);
    let attention = || if is_causal { Attention::causal() } else { Attention::full() };
    let new = |shape: &[usize]| sample(shape, dtype, &generator);
    let separate = [new(&[b, h, t, d]), new(&[b, h_kv, t, d]), new(&[b, h_kv, t, d + 1])];
    let packed = [new(&[b, t, (h + 2 * h_kv) * d])];
    type Compute<'a> = &'a dyn Fn(&Attention, &[Tensor]) -> Tensor;
    let cases: [(&[Tensor], usize, Tensor, Compute<'_>); 2] = [
        (&separate, 2, new(&[b, h, t, d + 1]), &|attention, x| attention.forward(&x[0], &x[1], &x[2]).unwrap()),
        (&packed, 1, new(&[b, t, h * d]), &|attention, x| attention.forward_packed(&x[0], h, h_kv).unwrap()),
    ];
    for (inputs, dim, weigh, compute) in cases {
        let together = run(inputs, &weigh, &|x| compute(&attention().with_documents(&documents), x));
        for (row, lengths) in rows.iter().enumerate() {
            let mut start = 0;
            for &length in lengths {
                let cut = |x: &Tensor| x.narrow(0, row, 1).unwrap().narrow(dim, start, length).unwrap();
                let own: Vec<Tensor> = inputs.iter().map(cut).collect();
                let alone = run(&own, &cut(&weigh), &|x| compute(&attention(), x));
                for (together, alone) in together.iter().zip(&alone) {
                    match dtype {
                        DType::F64 => assert!(difference(&cut(together), alone) <= SUMS_F64),
                        _ => assert_bits_eq(&cut(together), alone),
                    }
                }
                start += length;
            }
        }
    }
}

proptest! {
    #![proptest_config(properties(24))]

    #[test]
    fn a_document_among_others_is_a_document_alone(
        cuts in prop::collection::vec(prop::collection::btree_set(1..90usize, 0..6), 1..3),
        dtype in prop::sample::select(vec![DType::F32, DType::F16, DType::BF16, DType::F64]),
        is_causal: bool,
        heads in prop::sample::select(vec![(1, 1, 3), (2, 2, 8), (4, 2, 5)]),
    ) {
        let lengths = |cuts: &std::collections::BTreeSet<usize>| {
            let starts = std::iter::once(0).chain(cuts.iter().copied());
            starts.zip(cuts.iter().copied().chain([90])).map(|(start, end)| end - start).collect()
        };
        let rows: Vec<Vec<usize>> = cuts.iter().map(lengths).collect();
        assert_each_is_alone(&rows, dtype, is_causal, heads);
    }
}

#[test]
fn the_paths_with_dropout_and_of_scores_obey_documents() -> Result<()> {
    let generator = Generator::manual_seed(5);
    let documents = PackedDocuments::from_lengths([[3, 4], [6, 1]])?;
    let [q, k, v] = [2, 2, 2].map(|h| sample(&[2, h, 7, 4], DType::F32, &generator));
    let expected = Attention::causal().with_documents(&documents).forward(&q, &k, &v)?;
    // No weight is dropped, but the weights are made on their own.
    let dropout = Attention::causal().with_documents(&documents).with_dropout(1e-12, &generator);
    assert!(difference(&dropout.forward(&q, &k, &v)?, &expected) <= 1e-6);
    let scores = (q.matmul(&k.t()?)? * 0.5)?;
    let weights = Attention::causal().with_documents(&documents).weights(&scores)?;
    assert!(difference(&weights.matmul(&v)?, &expected) <= 1e-6);
    let hidden = documents.attention_mask(&Device::Cpu)?.broadcast_as((2, 2, 7, 7))?.eq(0u8)?;
    let hidden = hidden.where_cond(&weights, &weights.zeros_like()?)?;
    assert_eq!(hidden.abs()?.max_all()?.to_scalar::<f32>()?, 0.0);
    // The keys of a cache come before the queries.
    let last = Attention::causal().with_documents(&documents).forward(&q.narrow(2, 5, 2)?, &k, &v)?;
    assert_bits_eq(&last.narrow(2, 1, 1)?, &expected.narrow(2, 6, 1)?);
    for wrong in [PackedDocuments::from_lengths([[7]])?, PackedDocuments::from_lengths([[3], [3]])?] {
        let text = error_text(Attention::causal().with_documents(&wrong).forward(&q, &k, &v));
        assert!(text.contains("documents") && text.contains("[2, 7]"), "{text}");
    }
    Ok(())
}
