//! Memory that two operands share, in one call or between threads: an error, never a wait without end or a wrong
//! gradient.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::{Failures, error_text};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::embedding::{EmbeddingOptions, TokenTable};
use candle_gpt_input::error::EmbeddingError;
use candle_gpt_input::optim::{AdamW, RowAdamW, RowGrad, RowOptimizer, clip_grad_norm};
use candle_gpt_input::{Error, GptInputConfig, GptInputLayer, LmHead, Result};
use candle_nn::{Optimizer, ParamsAdamW, VarMap};

const CPU: Device = Device::Cpu;

/// Returns what `f` returns; fails if that takes longer than any machine needs.
fn in_time<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(f()));
    receiver.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("{what}: waits for itself"))
}

fn no_gradients() -> Result<GradStore> {
    Ok(Tensor::zeros((), DType::F32, &CPU)?.backward()?)
}

/// Steps once, and then with `gradient` of the parameters and the state.
type Shared = fn(&[Var], [Tensor; 2]) -> Result<Tensor>;

#[test]
fn a_gradient_in_memory_that_the_step_writes_is_an_error() {
    let gradients: [(&str, Shared); 6] = [
        ("`0`", |vars, _| Ok(vars[0].as_tensor().clone())),
        ("`1`", |vars, _| Ok(vars[1].as_tensor().clone())),
        ("`0`", |vars, _| Ok(vars[0].detach().reshape((4, 2))?.reshape((2, 4))?)),
        ("exp_avg of `0`", |_, [exp_avg, _]| Ok(exp_avg)),
        ("exp_avg_sq of `0`", |_, [_, exp_avg_sq]| Ok(exp_avg_sq)),
        ("exp_avg of `0`", |_, [exp_avg, _]| Ok(exp_avg.flatten_all()?.reshape((2, 4))?)),
    ];
    let mut failures = Failures::default();
    for (number, (with, gradient)) in gradients.into_iter().enumerate() {
        for optimizer in ["AdamW", "AdamW, rows", "RowAdamW", "clip_grad_norm"] {
            let what = format!("{optimizer}, gradient {number}");
            if optimizer == "clip_grad_norm" && with.starts_with("exp") {
                continue; // it knows no state, and only reads
            }
            let result = in_time(&what, move || -> Result<()> {
                let vars = [Var::ones((2, 4), DType::F32, &CPU)?, Var::ones((2, 4), DType::F32, &CPU)?];
                let ids = Tensor::new(&[0u32, 1], &CPU)?;
                let ones = Tensor::ones((2, 4), DType::F32, &CPU)?;
                let (mut grads, first) = (no_gradients()?, RowGrad::new(&vars[0], &ids, &ones)?);
                if optimizer == "RowAdamW" {
                    let mut adam = RowAdamW::new(vars.to_vec(), 0.1)?;
                    adam.step_rows(&[first])?;
                    let state = adam.state(&vars[0]).unwrap();
                    let gradient = gradient(&vars, [state.exp_avg.clone(), state.exp_avg_sq.clone()])?;
                    return adam.step_rows(&[RowGrad::new(&vars[0], &ids, &gradient)?]);
                }
                let mut adamw = AdamW::new(vars.to_vec(), ParamsAdamW::default())?;
                adamw.step_rows(&[first])?;
                let state = adamw.state(&vars[0]).unwrap();
                let gradient = gradient(&vars, [state.exp_avg.clone(), state.exp_avg_sq.clone()])?;
                match optimizer {
                    "AdamW, rows" => adamw.step_rows(&[RowGrad::new(&vars[0], &ids, &gradient)?]),
                    _ => {
                        grads.insert(&vars[0], gradient);
                        match optimizer {
                            "AdamW" => Ok(adamw.step(&grads)?),
                            _ => clip_grad_norm(&vars, &mut grads, &mut [], 1.0).map(drop),
                        }
                    }
                }
            });
            failures.error(result, &format!("the gradient of `0` shares its memory with {with}: pass a copy"));
        }
    }
}

/// Makes layers by whose kinds `forward_into` takes different ways; V = 4, P = 4, C = 1.
fn layers() -> Result<Vec<(&'static str, GptInputLayer)>> {
    let table = || Ok::<_, Error>(Tensor::from_vec(vec![3f32, 2., 1., 0.], (4, 1), &CPU)?);
    let max_norm = TokenTable::try_from(table()?)?.with_options(EmbeddingOptions::default().with_max_norm(1.0))?;
    let alibi = GptInputConfig::new(4, 4, 1).with_n_head(1).with_position("alibi".parse()?);
    let scaled = GptInputConfig::from_json(
        r#"{"model_type": "gpt2", "vocab_size": 4, "n_positions": 4, "n_embd": 1, "n_head": 1, "scale_embedding": true,
            "position_embedding_type": "sinusoidal"}"#,
    )?;
    Ok(vec![
        ("learned", GptInputLayer::new(table()?, table()?)?),
        ("max_norm", GptInputLayer::new(max_norm, table()?)?),
        ("no table of positions", GptInputLayer::with_scheme(table()?, &alibi)?),
        ("scaled", GptInputLayer::with_scheme(table()?, &scaled)?),
    ])
}

#[test]
fn a_buffer_in_the_memory_of_an_operand_is_an_error() -> Result<()> {
    let mut failures = Failures::default();
    for (kind, layer) in layers()? {
        for dtype in [DType::U8, DType::U32, DType::I64] {
            for of in ["ids", "position ids"] {
                let layer = layer.clone();
                let result = in_time(&format!("{kind}, {of} of {dtype:?}"), move || -> Result<()> {
                    let buffer = Tensor::zeros((2, 1), dtype, &CPU)?;
                    let (shared, ids) = (buffer.reshape(2)?, Tensor::zeros(2, dtype, &CPU)?);
                    match of {
                        "ids" => layer.forward_into(&shared, 0, &buffer),
                        _ => layer.forward_into(&ids, &shared, &buffer),
                    }
                });
                let text = result.err().map_or("no error".to_string(), |error| error.to_string());
                let expected = format!("buffer has dtype {dtype:?}, but wte has F32");
                failures.holds(text == expected, format!("{kind}, {of} of {dtype:?}: {text}"));
            }
        }
        let tables = [Some(("wte", layer.wte().as_embedding())), layer.wpe().map(|wpe| ("wpe", wpe.as_embedding()))];
        for (name, table) in tables.into_iter().flatten() {
            let buffer = table.unwrap().embeddings().narrow(0, 1, 2)?;
            let (before, layer) = (buffer.to_vec2::<f32>()?, layer.clone());
            let (result, buffer) = in_time(&format!("{kind}, {name}"), move || {
                let ids = Tensor::new(&[2u32, 3], &CPU).unwrap(); // whose rows no max_norm scales
                (layer.forward_into(&ids, 0, &buffer), buffer)
            });
            failures.error(result, &format!("buffer shares its memory with {name}: pass a copy"));
            failures.holds(buffer.to_vec2::<f32>()? == before, format!("{kind}, {name} was changed"));
        }
    }
    Ok(())
}

#[test]
fn ids_and_gradients_may_share_memory_that_is_only_read() -> Result<()> {
    in_time("reading", || -> Result<()> {
        let varmap = VarMap::new();
        let table = Tensor::from_vec(vec![1f32, 2., 3., 4.], (4, 1), &CPU)?;
        let layer = GptInputLayer::new(table.clone(), table)?.trainable(&varmap, "")?;
        let ids = Tensor::new(&[1u32, 0], &CPU)?;
        assert_eq!(layer.forward_at(&ids, &ids)?.to_vec2::<f32>()?, [[4.], [2.]]);
        let wte = layer.vars()[0].clone();
        let hidden = wte.narrow(0, 0, 2)?;
        layer.lm_head()?.loss(&hidden, &ids, &Default::default())?.backward()?;
        layer.lm_head()?.forward(&hidden)?.sum_all()?.backward()?;
        assert_eq!(layer.row_grads(&ids, 0, &hidden)?[0].to_dense()?.to_vec2::<f32>()?, [[2.], [1.], [0.], [0.]]);
        Ok(())
    })
}

/// Steps while eight threads read: all of them look up rows, or every second one computes logits, a loss or a gradient.
#[test]
fn an_optimizer_steps_beside_eight_readers() -> Result<()> {
    steps_beside(&|_, _, _| Ok(()))?;
    steps_beside(&|thread, layer, x| {
        let ids = Tensor::arange(0u32, 64, &CPU)?;
        match thread {
            1 => drop(x.sum_all()?.backward()?),
            3 => drop(layer.lm_head()?.loss(x, &ids, &Default::default())?),
            5 => drop(layer.lm_head()?.forward(&x.narrow(0, 0, 1)?)?),
            7 => drop(layer.lm_head()?.forward(&x.narrow(0, 0, 1)?)?.sum_all()?.backward()?),
            _ => {}
        }
        Ok(())
    })
}

/// What a thread does with the hidden states that it has looked up.
type Then<'a> = &'a (dyn Fn(usize, &GptInputLayer, &Tensor) -> Result<()> + Sync);

fn steps_beside(then: Then) -> Result<()> {
    let varmap = VarMap::new();
    let zeros = |n_rows| Tensor::zeros((n_rows, 64), DType::F32, &CPU);
    let layer = GptInputLayer::new(zeros(5000)?, zeros(64)?)?.trainable(&varmap, "")?;
    let vars = layer.vars();
    let mut adamw = AdamW::new(vars.clone(), ParamsAdamW::default())?;
    let (stop, n_calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    // A step that had to wait for a moment without readers took longer than a minute.
    let (n_steps, most) = (20, Duration::from_secs(20));
    let took = std::thread::scope(|scope| -> Result<Duration> {
        for thread in 0..8 {
            let (layer, stop, n_calls) = (&layer, &stop, &n_calls);
            scope.spawn(move || {
                let ids = Tensor::arange(0u32, 64, &CPU).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    layer.forward(&ids).and_then(|x| then(thread, layer, &x)).unwrap();
                    n_calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Ends a test in which the readers keep the step waiting.
        scope.spawn(|| {
            let start = Instant::now();
            while !stop.load(Ordering::Relaxed) && start.elapsed() < most {
                std::thread::sleep(Duration::from_millis(20));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let mut steps = || -> Result<Duration> {
            while n_calls.load(Ordering::Relaxed) < 16 {
                std::thread::yield_now();
            }
            let start = Instant::now();
            for _ in 0..n_steps {
                let mut grads = no_gradients()?;
                for var in &vars {
                    grads.insert(var, var.ones_like()?);
                }
                adamw.step(&grads)?;
            }
            Ok(start.elapsed())
        };
        let took = steps();
        stop.store(true, Ordering::Relaxed);
        took
    })?;
    assert!(took < most, "{n_steps} steps took {took:?} beside {} reads", n_calls.load(Ordering::Relaxed));
    // The steps have the values that they have without readers.
    let alone = Var::zeros((1, 64), DType::F32, &CPU)?;
    let mut other = AdamW::new(vec![alone.clone()], ParamsAdamW::default())?;
    for _ in 0..n_steps {
        let mut grads = no_gradients()?;
        grads.insert(&alone, alone.ones_like()?);
        other.step(&grads)?;
    }
    assert_eq!(vars[0].narrow(0, 4999, 1)?.to_vec2::<f32>()?, alone.to_vec2::<f32>()?);
    Ok(())
}

#[test]
fn a_copy_of_an_optimizer_keeps_its_state() -> Result<()> {
    let x = Var::new(&[[3f32, 4.]], &CPU)?;
    let rows = || RowGrad::new(&x, &Tensor::new(&[0u32], &CPU)?, &Tensor::ones((1, 2), DType::F32, &CPU)?);
    let folder = tempfile::tempdir().unwrap();
    let (copied, reloaded) = (folder.path().join("copied"), folder.path().join("reloaded"));
    macro_rules! check {
        ($optimizer:expr, $fresh:expr) => {{
            let mut optimizer = $optimizer;
            (0..5).try_for_each(|_| optimizer.step_rows(&[rows()?]))?;
            optimizer.save(&reloaded)?;
            let before = optimizer.state(&x).unwrap().exp_avg.to_vec2::<f32>()?;
            let copy = optimizer.try_clone()?;
            (0..5).try_for_each(|_| optimizer.step_rows(&[rows()?]))?;
            copy.save(&copied)?;
            let mut loaded = $fresh;
            loaded.load(&copied)?;
            let state = loaded.state(&x).unwrap();
            assert_eq!((state.step, state.exp_avg.to_vec2::<f32>()?), (5, before.clone()));
            assert_eq!(format!("{:.3}", before[0][0]), "0.410"); // 1 - 0.9^5
            assert_eq!(format!("{:.3}", optimizer.state(&x).unwrap().exp_avg.to_vec2::<f32>()?[0][0]), "0.651");
            assert!(std::fs::read(&copied).unwrap() == std::fs::read(&reloaded).unwrap());
        }};
    }
    check!(AdamW::new_lr(vec![x.clone()], 0.1)?, AdamW::new_lr(vec![x.clone()], 0.2)?);
    check!(RowAdamW::new(vec![x.clone()], 0.1)?, RowAdamW::new(vec![x.clone()], 0.2)?);
    Ok(())
}

/// The case of pytorch#26596: a table that is multiplied with, then looked up with `max_norm`. Torch with
/// `weight.clone()` in the product gives 10.2 and 13.6; without it, it raises.
#[test]
fn max_norm_after_the_head_is_an_error_or_right() -> Result<()> {
    let options = EmbeddingOptions::default().with_max_norm(1.0);
    let new_var = || Var::new(&[[3f32, 4.], [6., 8.], [0.3, 0.4]], &CPU);
    let v = Var::new(&[[1f32, 2.], [3., 4.]], &CPU)?;
    let hidden = || v.as_tensor() * 1.0;
    let ids = Tensor::new(&[1u32, 2], &CPU)?;
    let of_v = |loss: Tensor| -> Result<Vec<Vec<f32>>> { Ok(loss.backward()?.get(&v).unwrap().to_vec2()?) };
    let near = |got: Vec<Vec<f32>>, expected: Vec<Vec<f32>>| {
        let (got, expected) = (got.concat(), expected.concat());
        let near = got.len() == expected.len() && got.iter().zip(&expected).all(|(x, y)| (x - y).abs() < 1e-5);
        assert!(near, "{got:?}, expected {expected:?}");
    };
    // The head on the same table, and on the variable itself, which has no options.
    for with_options in [true, false] {
        let make = || -> Result<(TokenTable, LmHead)> {
            let weight = new_var()?.into_inner();
            let table = TokenTable::try_from(weight.clone())?.with_options(options)?;
            Ok((table.clone(), if with_options { LmHead::new(table)? } else { LmHead::new(weight)? }))
        };
        let (table, head) = make()?;
        let a = head.forward(&hidden()?)?.sum_all()?;
        let b = table.forward(&ids)?.matmul(&v.t()?)?.sum_all()?;
        let error = (a + b)?.backward().unwrap_err();
        assert!(matches!(Error::from(error), Error::Embedding(EmbeddingError::ChangedByMaxNorm)));
        // Backward before the next look-up: the sum of both is torch's.
        let (table, head) = make()?;
        let a = of_v(head.forward(&hidden()?)?.sum_all()?)?;
        let b = of_v(table.forward(&ids)?.matmul(&v.t()?)?.sum_all()?)?;
        near(
            a.iter().zip(&b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect(),
            vec![vec![10.2, 13.6]; 2],
        );
        // Look up first: the head multiplies by the scaled rows, and nothing changes any more.
        let (table, head) = make()?;
        let b = table.forward(&ids)?.matmul(&v.t()?)?.sum_all()?;
        let a = head.forward(&hidden()?)?.sum_all()?;
        table.forward(&ids)?; // scaled already
        near(of_v((a + b)?)?, vec![vec![4.8, 6.4]; 2]);
        // A loss has its gradients when it returns, and a look-up needs no values: any order is right.
        let (table, head) = make()?;
        let rows = table.forward(&Tensor::new(&[2u32], &CPU)?)?;
        let targets = Tensor::new(&[0u32, 1], &CPU)?;
        let loss = head.loss(&hidden()?, &targets, &Default::default())?;
        let expected = of_v(head.loss(&hidden()?, &targets, &Default::default())?)?;
        table.forward(&ids)?;
        near(of_v(loss)?, expected);
        rows.sum_all()?.backward()?;
    }
    Ok(())
}

/// Two batches in front of one backward pass (gradient accumulation) with a tied head. Torch with clones gives 14.25.
#[test]
fn max_norm_between_two_batches_is_an_error_or_right() -> Result<()> {
    let scale = Var::new(2f32, &CPU)?;
    let head = || {
        let weight = Var::new(&[[3f32, 4.], [6., 8.], [0.3, 0.4]], &CPU)?.into_inner();
        LmHead::new(TokenTable::try_from(weight)?.with_options(EmbeddingOptions::default().with_max_norm(1.0))?)
    };
    let batch = |head: &LmHead, id: u32| -> Result<Tensor> {
        let rows = head.table().forward(&Tensor::new(&[id], &CPU)?)?;
        Ok(head.forward(&rows.broadcast_mul(&scale)?)?.sum_all()?)
    };
    let of_scale = |loss: Tensor| -> Result<f32> { Ok(loss.backward()?.get(&scale).unwrap().to_scalar()?) };
    let together = head()?;
    let text = error_text((batch(&together, 2)? + batch(&together, 1)?)?.backward());
    assert!(text.starts_with("max_norm scaled rows of the token table after a head had used it"), "{text}");
    let one_by_one = head()?;
    let sum = of_scale(batch(&one_by_one, 2)?)? + of_scale(batch(&one_by_one, 1)?)?;
    assert!((sum - 14.25).abs() < 1e-5, "{sum}");
    Ok(())
}
