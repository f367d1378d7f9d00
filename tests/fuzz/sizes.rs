//! Every call that takes a size, a count, a range, a shape or a position, with numbers that no machine can serve: an
//! error in one line, never a panic, an abort or a result of another size.
//!
//! The calls run in a process of their own, in which a refused allocation can abort nothing else.

// Long because it has every call that takes a number.

use std::process::Command;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::data::{Loader, LoaderConfig, Seeding, Tail, Tokens, Windows};
use candle_gpt_input::dropout::dropout;
use candle_gpt_input::embedding::{EmbeddingOptions, NewRows, TokenTable};
use candle_gpt_input::init::Init;
use candle_gpt_input::lm_head::LossOptions;
use candle_gpt_input::optim::{AdamW, RowAdamW, RowGrad};
use candle_gpt_input::position::{
    Alibi, Deberta, Resize, Rotary, RotaryConfig, RotaryScaling, Shaw, SinusoidalLayout, T5Bias, TransformerXl,
    sinusoidal,
};
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{Error, GptInputConfig, GptInputLayer, LmHead, Positions, Result};
use candle_nn::{VarBuilder, VarMap};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::support::properties;

const CPU: Device = Device::Cpu;
const F32: DType = DType::F32;
/// Set in the process that makes the calls.
const IS_CHILD: &str = "SIZES_IN_THIS_PROCESS";

const NUMBERS: [usize; 19] = [
    0,
    1,
    2,
    3,
    5,
    (1 << 31) - 1,
    1 << 31,
    (1 << 31) + 1,
    (1 << 32) - 1,
    1 << 32,
    (1 << 32) + 1,
    1 << 53,
    1 << 62,
    (1 << 62) + 1,
    (1 << 63) - 1,
    1 << 63,
    (1 << 63) + 1,
    usize::MAX - 1,
    usize::MAX,
];

/// A tensor that a call returned, and the shape that was asked for.
type Made = Option<(Tensor, Vec<usize>)>;
type Call = fn([usize; 4]) -> Result<Made>;

fn shaped(tensor: Tensor, dims: &[usize]) -> Result<Made> {
    Ok(Some((tensor, dims.to_vec())))
}

/// Discards a result whose size is its own.
fn done<T>(_: T) -> Result<Made> {
    Ok(None)
}

/// Checks that as many values were drawn as were asked for.
fn counted<T>(values: Vec<T>, n: usize) -> Result<Made> {
    assert_eq!(values.len(), n);
    Ok(None)
}

fn rng() -> Generator {
    Generator::manual_seed(1)
}

fn ones(dims: &[usize]) -> Result<Tensor> {
    Ok(Tensor::ones(dims, F32, &CPU)?)
}

/// Repeats one element, which takes no memory.
fn broadcast(dims: &[usize], dtype: DType) -> Result<Tensor> {
    Ok(Tensor::zeros(1, dtype, &CPU)?.broadcast_as(dims)?)
}

fn layer() -> Result<GptInputLayer> {
    GptInputLayer::new(ones(&[8, 4])?, ones(&[4, 4])?)
}

fn of_scheme(scheme: &str, [v, p, c, h]: [usize; 4]) -> Result<Made> {
    let config = GptInputConfig::new(v, p, c).with_n_head(h).with_n_layer(h).with_position(scheme.parse()?);
    let layer = GptInputLayer::init(&config, Init::TorchEmbedding, &rng(), F32, &CPU)?;
    shaped(layer.wte().as_embedding().unwrap().embeddings().clone(), &[v, c])
}

fn loaded([v, p, c, h]: [usize; 4]) -> Result<Made> {
    let vb = VarBuilder::from_varmap(&VarMap::new(), F32, &CPU);
    for scheme in ["learned", "t5", "transformer-xl", "shaw", "deberta"] {
        let config = GptInputConfig::new(v, p, c).with_n_head(h).with_n_layer(h).with_position(scheme.parse()?);
        drop(GptInputLayer::load(vb.pp(scheme), &config)?);
    }
    done(())
}

fn rotary(scaling: RotaryScaling, [n, t, start, _]: [usize; 4]) -> Result<Made> {
    let rope = Rotary::new(&RotaryConfig::default().with_scaling(scaling), 4, n.max(1), &CPU)?;
    rope.inv_freq(start);
    rope.rotate(&ones(&[1, 1, 2, 4])?, &ones(&[1, 1, 2, 4])?, start)?;
    let (cos, _) = rope.cos_sin(start, (1, t))?;
    shaped(cos, &[1, t, 2])
}

const CALLS: &[(&str, Call)] = &[
    ("randperm", |[n, ..]| counted(rng().randperm(n)?, n)),
    ("randint", |[n, ..]| counted(rng().randint(0, 5, n)?, n)),
    ("bernoulli_mask", |[n, ..]| counted(rng().bernoulli_mask(n, 0.5)?, n)),
    ("multinomial", |[n, ..]| counted(rng().multinomial(&[0.5, 0.5], n, true)?, n)),
    ("multinomial without replacement", |[n, ..]| counted(rng().multinomial(&[0.5, 0.5], n, false)?, n)),
    ("dropout", |[a, b, ..]| dropout(&broadcast(&[a, b], F32)?, 0.5, &rng()).and_then(done)),
    ("dropout of all", |[a, b, ..]| dropout(&broadcast(&[a, b], F32)?, 1.0, &rng()).and_then(done)),
    ("Init::wte", |[v, c, ..]| shaped(Init::TorchEmbedding.wte(v, c, &rng(), F32, &CPU)?, &[v, c])),
    ("Init::wpe in bf16", |[v, c, ..]| shaped(Init::OpenAi.wpe(v, c, &rng(), DType::BF16, &CPU)?, &[v, c])),
    ("Init::Zeros", |[v, c, ..]| shaped(Init::Zeros.wte(v, c, &rng(), DType::F64, &CPU)?, &[v, c])),
    ("TokenTable::init", |[v, c, ..]| {
        TokenTable::init((v, c), EmbeddingOptions::default(), Init::Zeros, &rng(), F32, &CPU).and_then(done)
    }),
    ("a table whose elements wrap", |[v, c, ..]| {
        // Candle multiplies dimensions without a check.
        if v.wrapping_mul(c) > 1 << 10 {
            return done(());
        }
        let table = Tensor::zeros((v, c), F32, &CPU)?;
        let made = TokenTable::try_from(table.clone());
        assert!(made.is_err() || v.checked_mul(c).is_some_and(|n| n > 0), "[{v}, {c}] is a table");
        AdamW::new_lr(vec![Var::from_tensor(&table)?], 0.1)?;
        made?.quantize(GgmlDType::Q8_0).and_then(done)
    }),
    ("init, learned", |n| of_scheme("learned", n)),
    ("init, sinusoidal", |n| of_scheme("sinusoidal", n)),
    ("init, rope", |n| of_scheme("rope", n)),
    ("init, alibi", |n| of_scheme("alibi", n)),
    ("init, t5", |n| of_scheme("t5", n)),
    ("init, transformer-xl", |n| of_scheme("transformer-xl", n)),
    ("init, shaw", |n| of_scheme("shaw", n)),
    ("init, deberta", |n| of_scheme("deberta", n)),
    ("load", loaded),
    ("resize_vocab, mean", |[n, ..]| layer()?.resize_vocab(n, NewRows::Mean).and_then(done)),
    ("resize_vocab, copy", |[n, ..]| layer()?.resize_vocab(n, NewRows::CopyOf(1)).and_then(done)),
    ("resize_vocab, normal", |[n, ..]| layer()?.resize_vocab(n, NewRows::Normal { std: 1.0 }).and_then(done)),
    ("resize_vocab, covariance", |[n, ..]| layer()?.resize_vocab(n, NewRows::MeanAndCovariance).and_then(done)),
    ("resize_vocab, average", |[n, ..]| layer()?.resize_vocab(n, NewRows::AverageOf(vec![vec![1]])).and_then(done)),
    ("pad_vocab", |[n, ..]| layer()?.pad_vocab(n, NewRows::Mean).and_then(done)),
    ("resize_positions, crop", |[n, ..]| layer()?.resize_positions(n, Resize::Crop).and_then(done)),
    ("resize_positions, extend", |[n, ..]| {
        layer()?.resize_positions(n, Resize::Extend(Init::TorchEmbedding)).and_then(done)
    }),
    ("resize_positions, interpolate", |[n, ..]| layer()?.resize_positions(n, Resize::Interpolate).and_then(done)),
    ("padding_idx", |[n, ..]| {
        let options = EmbeddingOptions::default().with_padding_idx(n as i64);
        TokenTable::try_from(ones(&[8, 4])?)?.with_options(options).and_then(done)
    }),
    ("forward of broadcast ids", |[a, b, ..]| layer()?.embed_tokens(&broadcast(&[a, b], DType::U8)?).and_then(done)),
    ("forward_leaf of broadcast ids", |[a, b, ..]| {
        layer()?.forward_leaf(&broadcast(&[a, b], DType::U32)?).and_then(done)
    }),
    ("forward_into of broadcast ids", |[a, b, ..]| {
        layer()?.forward_into(&broadcast(&[a, b], DType::I64)?, 0, &ones(&[1, 2, 4])?).and_then(done)
    }),
    ("forward_at", |[start, ..]| layer()?.forward_at(&broadcast(&[1, 2], DType::U32)?, start).and_then(done)),
    ("forward_at of ids after", |[n, ..]| {
        let ids = broadcast(&[1, 2], DType::U32)?;
        layer()?.forward_at(&ids, Positions::from(&ids).after(n)).and_then(done)
    }),
    ("forward_at of a mask after", |[n, ..]| {
        let mask = Positions::from_mask(&Tensor::ones((1, 2), DType::U8, &CPU)?)?;
        layer()?.forward_at(&broadcast(&[1, 2], DType::U32)?, mask.after(n)).and_then(done)
    }),
    ("rows of positions", |[start, a, b, _]| layer()?.wpe().unwrap().rows(&start.into(), &[a, b]).and_then(done)),
    ("add_positions to broadcast rows", |[a, ..]| {
        layer()?.add_positions(&broadcast(&[a, 2, 4], F32)?, 0).and_then(done)
    }),
    ("row_grads of broadcast ids", |[a, ..]| {
        let layer = layer()?.trainable(&VarMap::new(), "")?;
        layer.row_grads(&broadcast(&[a, 2], DType::U32)?, 0, &broadcast(&[a, 2, 4], F32)?).and_then(done)
    }),
    ("logits of broadcast rows", |[a, b, ..]| {
        LmHead::new(ones(&[8, 4])?)?.forward(&broadcast(&[a, b, 4], F32)?).and_then(done)
    }),
    ("loss of broadcast rows", |[a, b, rows, _]| {
        let options = LossOptions::default().with_chunk_rows(rows);
        let targets = broadcast(&[a, b], DType::U32)?;
        LmHead::new(ones(&[8, 4])?)?.loss_and_grads(&broadcast(&[a, b, 4], F32)?, &targets, &options).and_then(done)
    }),
    ("loss in chunks", |[rows, ..]| {
        let options = LossOptions::default().with_chunk_rows(rows);
        let targets = Tensor::zeros(3, DType::U32, &CPU)?;
        LmHead::new(ones(&[8, 4])?)?.loss_and_grads(&ones(&[3, 4])?, &targets, &options).and_then(done)
    }),
    ("freeze_rows", |[from, to, ..]| {
        let var = Var::from_tensor(&ones(&[8, 4])?)?;
        AdamW::new_lr(vec![var.clone()], 0.1)?.freeze_rows(&var, from..to).and_then(done)
    }),
    ("reset_rows", |[from, to, ..]| {
        let var = Var::from_tensor(&ones(&[8, 4])?)?;
        RowAdamW::new(vec![var.clone()], 0.1)?.reset_rows(&var, from..=to).and_then(done)
    }),
    ("RowGrad of broadcast ids", |[a, ..]| {
        let var = Var::from_tensor(&ones(&[8, 4])?)?;
        RowGrad::new(&var, &broadcast(&[a], DType::U8)?, &broadcast(&[a, 4], F32)?).and_then(done)
    }),
    ("windows", |[length, stride, ..]| {
        let windows = Windows::new(&Tokens::new((0..9).collect()), length, stride, Tail::Keep)?;
        assert!((0..windows.n_windows()).all(|n| windows.get(n).is_some()) && windows.get(usize::MAX).is_none());
        done(())
    }),
    ("loader", |[length, stride, batch_size, world_size]| {
        let config = LoaderConfig::default().with_max_length(length).with_stride(stride).with_batch_size(batch_size);
        let config = config.with_tail(Tail::Keep).with_shuffle(true);
        let loader = Loader::new(&Tokens::new((0..9).collect()), config, Seeding::Explicit(rng()), &CPU)?;
        let loader = loader.shard(world_size / 2, world_size)?;
        assert!(loader.n_batches() <= 9);
        loader.epoch().take(3).collect::<Result<Vec<_>>>().and_then(done)
    }),
    ("Alibi::new", |[n, ..]| Alibi::new(n, &CPU).and_then(|alibi| counted(alibi.slopes().to_vec(), n))),
    ("alibi", |[q, k, start, _]| shaped(Alibi::new(2, &CPU)?.attention_bias(q, k, start)?, &[1, 2, q, k])),
    ("alibi of broadcast positions", |[b, q, k, _]| {
        let (q, k) = (broadcast(&[b, q], DType::I64)?, broadcast(&[b, k], DType::I64)?);
        Alibi::new(2, &CPU)?.attention_bias_at(&q, &k).and_then(done)
    }),
    ("t5", |[q, k, start, far]| {
        let bias = T5Bias::new(ones(&[8, 2])?, far, true)?;
        bias.bucket(far as i64);
        shaped(bias.attention_bias(q, k, start)?, &[1, 2, q, k])
    }),
    ("t5 of a variable", |[q, k, start, far]| {
        let bias = T5Bias::new(Var::from_tensor(&ones(&[8, 2])?)?.into_inner(), far, false)?;
        shaped(bias.attention_bias(q, k, start)?, &[1, 2, q, k])
    }),
    ("t5 of broadcast positions", |[b, q, k, _]| {
        let (q, k) = (broadcast(&[b, q], DType::I64)?, broadcast(&[b, k], DType::I64)?);
        T5Bias::new(ones(&[8, 2])?, 32, true)?.attention_bias_at(&q, &k).and_then(done)
    }),
    ("shaw", |[q, k, start, left]| {
        let shaw = Shaw::new(ones(&[8, 2])?, Some(ones(&[8, 2])?), left)?;
        shaw.attention_output(&ones(&[1, 1, 2, 2])?, &ones(&[1, 1, 2, 2])?, start)?;
        shaw.attention_scores(&broadcast(&[1, 1, q, 2], F32)?, &broadcast(&[1, 1, k, 2], F32)?, start).and_then(done)
    }),
    ("transformer-xl", |[q, k, start, _]| {
        let xl = TransformerXl::new(ones(&[2, 4])?, ones(&[1, 2])?, ones(&[1, 2])?)?;
        xl.attention_scores(&broadcast(&[1, 1, q, 2], F32)?, &broadcast(&[1, 1, k, 2], F32)?, start).and_then(done)
    }),
    ("deberta", |[q, k, start, far]| {
        let deberta = Deberta::new(ones(&[8, 4])?, Default::default(), Some(4), far)?;
        deberta.bucket(far as i64);
        deberta.attention_scores(&broadcast(&[1, 1, q, 4], F32)?, &broadcast(&[1, 1, k, 4], F32)?, start).and_then(done)
    }),
    ("Deberta::new", |[span, far, ..]| {
        Deberta::new(ones(&[2, 4])?, Default::default(), Some(span), far).map(|d| d.bucket(i64::MIN)).and_then(done)
    }),
    ("sinusoidal", |[p, c, ..]| shaped(sinusoidal(p, c, SinusoidalLayout::Interleaved, F32, &CPU)?, &[p, c])),
    ("sinusoidal, tensor2tensor", |[p, c, ..]| {
        shaped(sinusoidal(p, c, SinusoidalLayout::Tensor2Tensor, DType::F64, &CPU)?, &[p, c])
    }),
    ("Rotary::new", |[d, n, ..]| Rotary::new(&RotaryConfig::default(), d, n, &CPU).and_then(done)),
    ("rotary", |n| rotary(RotaryScaling::None, n)),
    ("rotary, dynamic", |n| rotary(RotaryScaling::Dynamic { factor: 2.0 }, n)),
    ("rotary, many sequences", |[b, t, start, _]| {
        Rotary::new(&RotaryConfig::default(), 4, 8, &CPU)?.cos_sin(start, (b, t)).and_then(done)
    }),
    ("rotary of ids after", |[n, ..]| {
        let ids = broadcast(&[1, 2], DType::U32)?;
        let (cos, _) =
            Rotary::new(&RotaryConfig::default(), 4, 8, &CPU)?.cos_sin(Positions::from(&ids).after(n), (1, 2))?;
        done(cos)
    }),
    ("Generator::uniform and normal of nothing", |[n, ..]| {
        rng().reseed(n as u64);
        rng().normal_f32(&mut [], 0.0, n as f64).and_then(done)
    }),
];

/// Makes every call with these numbers. Says which call it makes, for the parent to read if it is the last one.
fn call_all(numbers: [usize; 4]) {
    for (name, call) in CALLS {
        eprintln!("{name} with {numbers:?}");
        match call(numbers) {
            Ok(None) => {}
            Ok(Some((tensor, dims))) => {
                let n = dims.iter().map(|&dim| dim as f64).product::<f64>();
                let found = (tensor.dims(), tensor.elem_count() as f64);
                assert_eq!(found, (&dims[..], n), "{name} with {numbers:?}");
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.lines().count() == 1 && !text.contains("panicked"), "{name} with {numbers:?}: {text}");
            }
        }
    }
}

#[test]
fn absurd_numbers_are_errors() {
    if std::env::var_os(IS_CHILD).is_none() {
        let name = std::thread::current().name().unwrap().to_string();
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", &name, "--nocapture"]).env(IS_CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = text.lines().rev().take(12).collect();
        assert!(
            output.status.success(),
            "{}:\n{}",
            output.status,
            last.into_iter().rev().collect::<Vec<_>>().join("\n")
        );
        assert!(text.lines().filter(|line| line.contains(" with [")).count() > 100 * CALLS.len());
        return;
    }
    for number in NUMBERS {
        call_all([number; 4]);
    }
    let any = || prop::sample::select(&NUMBERS[..]);
    let mut runner = TestRunner::new(properties(400));
    let run = runner.run(&[any(), any(), any(), any()], |numbers| {
        call_all(numbers);
        Ok(())
    });
    run.unwrap();
}

/// The texts say which numbers were too large, and nothing was drawn.
#[test]
fn the_error_names_the_numbers() {
    let huge = (1usize << 62) + 1;
    let too_large = |result: Result<()>, what: &str, dims: &[usize]| match result {
        Err(error @ Error::TooLarge { .. }) => {
            let text = error.to_string();
            assert!(text.starts_with(&format!("{what} of shape {dims:?} in elements of ")), "{text}");
            assert!(text.ends_with(" bytes is more than this machine can hold: ask for less"), "{text}");
        }
        other => panic!("{what}: {other:?}"),
    };
    // Four elements, if the product wraps.
    let config = GptInputConfig::new(huge, 4, 4);
    let init = GptInputLayer::init(&config, Init::TorchEmbedding, &rng(), F32, &CPU);
    too_large(init.map(drop), "wte", &[huge, 4]);
    let generator = rng();
    too_large(generator.randperm(huge).map(drop), "a permutation", &[huge]);
    too_large(generator.randint(0, 2, huge).map(drop), "integers", &[huge]);
    too_large(generator.bernoulli_mask(huge, 0.5).map(drop), "coin flips", &[huge]);
    too_large(generator.multinomial(&[1.0], huge, true).map(drop), "samples", &[huge]);
    assert_eq!(generator.state(), rng().state());
    let vocab = layer().and_then(|layer| layer.resize_vocab(100_000_000_000, NewRows::Mean));
    too_large(vocab.map(drop), "wte", &[100_000_000_000, 4]);
    let longer = layer().and_then(|layer| layer.resize_positions(huge, Resize::Interpolate));
    too_large(longer.map(drop), "wpe", &[huge, 4]);
    let table = sinusoidal(2, huge, SinusoidalLayout::Halves, F32, &CPU);
    too_large(table.map(drop), "sinusoids", &[2, huge]);
    let bias = Alibi::new(2, &CPU).and_then(|alibi| alibi.attention_bias(1 << 40, 1 << 40, 0));
    too_large(bias.map(drop), "attention bias", &[2, 1 << 40, 1 << 40]);
    let wrapped = Alibi::new(2, &CPU).and_then(|alibi| alibi.attention_bias(2, 3, usize::MAX - 2));
    assert!(matches!(wrapped, Err(Error::SequenceTooLong { end: usize::MAX, .. })), "{wrapped:?}");
    let ids = Tensor::new(&[[5u32]], &CPU).unwrap();
    let rope = Rotary::new(&RotaryConfig::default(), 4, 8, &CPU).unwrap();
    let clamped = rope.cos_sin(Positions::from(&ids).after(usize::MAX), (1, 1));
    assert!(matches!(clamped, Err(Error::SequenceTooLong { end: usize::MAX, .. })), "{clamped:?}");
    let var = Var::from_tensor(&ones(&[8, 4]).unwrap()).unwrap();
    let frozen = AdamW::new_lr(vec![var.clone()], 0.1).unwrap().freeze_rows(&var, 0..usize::MAX).unwrap_err();
    assert_eq!(frozen.to_string(), "optimizer: row 8 is outside `0`, which has 8 rows");
}
