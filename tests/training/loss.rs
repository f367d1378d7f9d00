//! The tied head's chunked loss: PyTorch's values, plain Candle's, masks, laws, errors, gradients.

// Long because every form of the loss is compared with the same oracle.

use std::collections::HashMap;

use crate::support::{
    addressed, assert_bits_eq, assert_close, complete_devices, error_text, golden_tensors, properties,
};
use candle_core::{DType, Device, IndexOp, Tensor, Var};
use candle_gpt_input::lm_head::{LossOptions, Reduction};
use candle_gpt_input::{Error, GptInputLayer, LmHead, Result};
use proptest::prelude::*;

/// Sums of equally many terms in another order: f32 values agree to a few units in the last place, gradients to a few
/// of their largest element's. PyTorch's own are as far from the exact ones.
const VALUE: f64 = 1e-6;
const GRADIENT: f64 = 1e-5;

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn assert_near(left: &Tensor, right: &Tensor, bound: f64) {
    // Golden values are wider than halves.
    let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
    assert_close("loss or gradient", &wide(left), &wide(right), bound);
}

fn head(wte: &Tensor) -> LmHead {
    LmHead::new(wte.clone()).unwrap()
}

/// Computes loss and gradients through Candle's graph.
fn through_the_graph(hidden: &Tensor, wte: &Tensor, targets: &Tensor, options: &LossOptions) -> Result<[Tensor; 3]> {
    let (hidden, wte) = (Var::from_tensor(hidden)?, Var::from_tensor(wte)?);
    let loss = head(&wte).loss(&hidden, targets, options)?;
    let grads = loss.backward()?;
    Ok([loss, grads.get(&hidden).unwrap().clone(), grads.get(&wte).unwrap().clone()])
}

/// Computes the same by `loss_and_grads`.
fn directly(hidden: &Tensor, wte: &Tensor, targets: &Tensor, options: &LossOptions) -> Result<[Tensor; 3]> {
    let wte = Var::from_tensor(wte)?;
    let found = head(&wte).loss_and_grads(hidden, targets, options)?;
    Ok([found.loss, found.hidden_grad, found.wte_grad.unwrap()])
}

/// Checks both ways against a golden file's case, with several chunk sizes.
fn assert_golden(
    golden: &HashMap<String, Tensor>,
    case: &str,
    [hidden, wte, targets]: [&Tensor; 3],
    options: &LossOptions,
    bounds: (f64, f64),
) -> Result<()> {
    for device in complete_devices() {
        let [hidden, wte, targets] = [hidden.to_device(&device)?, wte.to_device(&device)?, targets.to_device(&device)?];
        for chunk_rows in [None, Some(1), Some(4), Some(1000)] {
            let options = chunk_rows.map_or(options.clone(), |rows| options.clone().with_chunk_rows(rows));
            for found in
                [through_the_graph(&hidden, &wte, &targets, &options)?, directly(&hidden, &wte, &targets, &options)?]
            {
                assert_near(&found[0], &golden[&format!("{case}.loss")], bounds.0);
                assert_near(&found[1], &golden[&format!("{case}.hidden_grad")], bounds.1);
                assert_near(&found[2], &golden[&format!("{case}.wte_grad")], bounds.1);
            }
        }
    }
    Ok(())
}

// ---- PyTorch's values ----

#[test]
fn torch_values_and_gradients() -> Result<()> {
    let golden = golden_tensors("loss.safetensors");
    for case in ["gpt", "one_row", "one_column", "two_tokens", "blocks", "huge_logits"] {
        let [hidden, wte, targets] = ["hidden", "wte", "targets"].map(|name| &golden[&format!("{case}.{name}")]);
        let options = LossOptions::default();
        assert_golden(&golden, &format!("{case}.mean"), [hidden, wte, targets], &options, (VALUE, GRADIENT))?;
    }
    Ok(())
}

#[test]
fn torch_options() -> Result<()> {
    let golden = golden_tensors("loss.safetensors");
    let [hidden, wte, targets] = ["hidden", "wte", "targets"].map(|name| &golden[&format!("gpt.{name}")]);
    let ignored = &golden["gpt.ignored_targets"];
    let bounds = (VALUE, GRADIENT);
    let sum = LossOptions::default().with_reduction(Reduction::Sum);
    assert_golden(&golden, "gpt.sum", [hidden, wte, targets], &sum, bounds)?;
    assert_golden(&golden, "gpt.ignored", [hidden, wte, ignored], &LossOptions::default(), bounds)?;
    assert_golden(&golden, "gpt.ignored_sum", [hidden, wte, ignored], &sum, bounds)?;
    let id = targets.i((1, 1))?.to_scalar::<i64>()?;
    let options = LossOptions::default().with_ignore_index(id);
    assert_golden(&golden, "gpt.ignore_index", [hidden, wte, targets], &options, bounds)?;
    assert_golden(&golden, "gpt.ignore_index", [hidden, wte, &targets.to_dtype(DType::U8)?], &options, bounds)?;
    // A mask equals ignored targets, whatever the targets under it are.
    let mask = ignored.ne(-100i64)?;
    let options = LossOptions::default().with_mask(&mask);
    assert_golden(&golden, "gpt.ignored", [hidden, wte, targets], &options, bounds)?;
    assert_golden(&golden, "gpt.ignored", [hidden, wte, ignored], &options, bounds)
}

#[test]
fn torch_types() -> Result<()> {
    let golden = golden_tensors("loss.safetensors");
    let [hidden, wte, targets] = ["hidden", "wte", "targets"].map(|name| &golden[&format!("gpt.{name}")]);
    // The golden values are those of the same half values in f32; ours are these, rounded once (by 2^-8 and 2^-11).
    for (dtype, name, bounds) in [
        (DType::F64, "float64", (1e-13, 1e-13)),
        (DType::BF16, "bfloat16", (VALUE, 1.0 / 256.0 + GRADIENT)),
        (DType::F16, "float16", (VALUE, 1.0 / 2048.0 + GRADIENT)),
    ] {
        let (hidden, wte) = (hidden.to_dtype(dtype)?, wte.to_dtype(dtype)?);
        assert_golden(&golden, &format!("gpt.{name}"), [&hidden, &wte, targets], &LossOptions::default(), bounds)?;
        let [loss, hidden_grad, wte_grad] = through_the_graph(&hidden, &wte, targets, &LossOptions::default())?;
        let expected = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        assert_eq!([loss.dtype(), hidden_grad.dtype(), wte_grad.dtype()], [expected, dtype, dtype]);
        let found = directly(&hidden, &wte, targets, &LossOptions::default())?;
        assert_bits_eq(&found[1], &hidden_grad);
        assert_bits_eq(&found[2], &wte_grad);
    }
    Ok(())
}

/// Where every target is nearly certain, `p - 1` and `ln Σ exp` have no digits left in f32, and PyTorch returns 0. Ours
/// loses only the rounding of the logits: sums of 48 products up to about 70, each rounded to 2^-18 at worst.
#[test]
fn certain_targets_keep_their_digits() -> Result<()> {
    let golden = golden_tensors("loss.safetensors");
    let [hidden, wte, targets] = ["hidden", "wte", "targets"].map(|name| &golden[&format!("sure.{name}")]);
    assert!(golden["sure.mean.loss"].to_scalar::<f64>()? < 1e-6);
    let options = LossOptions::default();
    for found in [through_the_graph(hidden, wte, targets, &options)?, directly(hidden, wte, targets, &options)?] {
        for (found, name) in found.iter().zip(["loss", "hidden_grad", "wte_grad"]) {
            assert_near(found, &golden[&format!("sure.mean.{name}")], 48.0 / 262_144.0);
        }
    }
    Ok(())
}

#[test]
fn nothing_that_counts() -> Result<()> {
    let golden = golden_tensors("loss.safetensors");
    let [hidden, wte, targets] = ["hidden", "wte", "targets"].map(|name| &golden[&format!("gpt.{name}")]);
    assert!(golden["gpt.all_ignored.loss"].to_scalar::<f32>()?.is_nan(), "PyTorch's mean over nothing");
    let mask = targets.zeros_like()?;
    let empty = (hidden.narrow(1, 0, 0)?, targets.narrow(1, 0, 0)?);
    for (hidden, targets, mask) in [(hidden, targets, Some(&mask)), (&empty.0, &empty.1, None)] {
        let options = mask.map_or_else(LossOptions::default, |mask| LossOptions::default().with_mask(mask));
        for compute in [through_the_graph, directly] {
            let [loss, hidden_grad, wte_grad] = compute(hidden, wte, targets, &options)?;
            assert!(loss.to_scalar::<f32>()?.is_nan());
            assert_bits_eq(&hidden_grad, &hidden.zeros_like()?);
            assert_bits_eq(&wte_grad, &golden["gpt.all_ignored.wte_grad"].abs()?);
            let sum = options.clone().with_reduction(Reduction::Sum);
            assert_eq!(compute(hidden, wte, targets, &sum)?[0].to_scalar::<f32>()?, 0.0);
        }
        assert_eq!(head(wte).loss_and_grads(hidden, targets, &options)?.n_counted, 0);
    }
    Ok(())
}

// ---- in Candle's graph ----

/// With the table at both ends, a factor on the loss and a layer between, every gradient arrives.
#[test]
fn tied_to_the_input() -> Result<()> {
    let golden = golden_tensors("loss.safetensors");
    for device in complete_devices() {
        let on = |name: &str| golden[&format!("gpt.{name}")].to_device(&device);
        let wte = Var::from_tensor(&on("wte")?)?;
        let wpe = Tensor::zeros((7, 12), DType::F32, &device)?;
        let layer = GptInputLayer::new(wte.as_tensor().clone(), wpe)?;
        let x = layer.forward(&on("input_ids")?)?;
        let x = x.broadcast_matmul(&on("tied.weight")?)?.tanh()?;
        let loss = layer.lm_head()?.loss(&x, &on("targets")?, &Default::default())?;
        assert_near(&loss, &golden["gpt.tied.loss"], VALUE);
        let grads = (loss * 3.0)?.backward()?;
        assert_near(grads.get(&wte).unwrap(), &golden["gpt.tied.wte_grad"], GRADIENT);
    }
    Ok(())
}

#[test]
fn a_factor_on_the_loss_scales_both_gradients() -> Result<()> {
    for device in complete_devices() {
        let hidden = Var::from_tensor(&(addressed(0., 3, 2, &device) / 100.)?)?;
        let wte = Var::from_tensor(&(addressed(-200., 5, 2, &device) / 100.)?)?;
        let targets = Tensor::new(&[4u32, 0, 2], &device)?;
        let loss = head(&wte).loss(&hidden, &targets, &Default::default())?;
        let (once, twice) = (loss.backward()?, (&loss * 3.0)?.backward()?);
        for var in [&hidden, &wte] {
            assert_bits_eq(twice.get(var).unwrap(), &(once.get(var).unwrap() * 3.0)?);
        }
        // The same graph gives the same gradients again: nothing was used up.
        assert_bits_eq(loss.backward()?.get(&wte).unwrap(), once.get(&wte).unwrap());
    }
    Ok(())
}

#[test]
fn what_is_not_tracked_gets_no_gradient() -> Result<()> {
    let (hidden, wte) = (addressed(0., 3, 2, &Device::Cpu), addressed(1., 5, 2, &Device::Cpu));
    let (hidden, wte) = ((hidden / 100.)?, (wte / 100.)?);
    let targets = Tensor::new(&[4u32, 0, 2], &Device::Cpu)?;
    let [loss, hidden_grad, wte_grad] = through_the_graph(&hidden, &wte, &targets, &LossOptions::default())?;
    let plain = head(&wte).loss(&hidden, &targets, &Default::default())?;
    assert!(!plain.track_op());
    assert_bits_eq(&plain, &loss);
    let hidden_var = Var::from_tensor(&hidden)?;
    let grads = head(&wte).loss(&hidden_var, &targets, &Default::default())?.backward()?;
    assert_bits_eq(grads.get(&hidden_var).unwrap(), &hidden_grad);
    assert!(grads.get(&wte).is_none());
    let wte_var = Var::from_tensor(&wte)?;
    let grads = head(&wte_var).loss(&hidden, &targets, &Default::default())?.backward()?;
    assert_bits_eq(grads.get(&wte_var).unwrap(), &wte_grad);
    assert!(head(&wte).loss_and_grads(&hidden, &targets, &Default::default())?.wte_grad.is_none());
    Ok(())
}

// ---- laws ----

#[test]
fn the_number_of_threads_changes_no_bit() -> Result<()> {
    let value = |i: usize| ((i * 7919 % 1009) as f32 - 504.0) / 300.0;
    let tensor = |rows: usize, c: usize| Tensor::from_iter((0..rows * c).map(value), &Device::Cpu)?.reshape((rows, c));
    // More than one chunk, block and group, and widths at which `gemm` blocks the inner dimension.
    for (n, c, v, chunk_rows) in [(37, 33, 17000, 16), (300, 700, 1100, 128)] {
        let (hidden, wte) = (tensor(n, c)?, tensor(v, c)?);
        let targets = Tensor::from_iter((0..n).map(|i| (i * 31 % v) as u32), &Device::Cpu)?;
        let options = LossOptions::default().with_chunk_rows(chunk_rows);
        let with = |n_threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| directly(&hidden, &wte, &targets, &options))
        };
        let one = with(1)?;
        for n_threads in [2, 3, 5, 16] {
            for (left, right) in with(n_threads)?.iter().zip(&one) {
                assert_bits_eq(left, right);
            }
        }
    }
    Ok(())
}

#[test]
fn logits_that_are_not_finite_are_seen() -> Result<()> {
    let targets = Tensor::new(&[1u32], &Device::Cpu)?;
    let loss = |hidden: [f32; 1], wte: [[f32; 1]; 3]| -> Result<f32> {
        let wte = Tensor::new(&wte, &Device::Cpu)?;
        Ok(head(&wte).loss(&Tensor::new(&[hidden], &Device::Cpu)?, &targets, &Default::default())?.to_scalar()?)
    };
    assert!(loss([f32::NAN], [[1.], [2.], [3.]])?.is_nan());
    assert!(loss([1.], [[f32::NAN], [2.], [3.]])?.is_nan());
    assert!(loss([1.], [[1.], [f32::NAN], [3.]])?.is_nan());
    assert!(loss([1e30], [[1e30], [2.], [3.]])?.is_infinite() || loss([1e30], [[1e30], [2.], [3.]])?.is_nan());
    assert_eq!(loss([1e30], [[-1e30], [2.], [-1e30]])?, 0.0);
    assert_eq!(loss([1e30], [[2.], [-1e30], [1.]])?, f32::INFINITY);
    Ok(())
}

/// Computes logits, log-softmax, gather and mean, as Candle's users do.
fn plain(hidden: &Tensor, wte: &Tensor, targets: &Tensor) -> Result<[Tensor; 3]> {
    let (hidden, wte) = (Var::from_tensor(hidden)?, Var::from_tensor(wte)?);
    let loss = candle_nn::loss::cross_entropy(&hidden.matmul(&wte.t()?)?, targets)?;
    let grads = loss.backward()?;
    Ok([loss, grads.get(&hidden).unwrap().clone(), grads.get(&wte).unwrap().clone()])
}

proptest! {
    #![proptest_config(properties(48))]

    #[test]
    fn chunks_masks_and_strides_change_nothing(
        n in 1usize..30, c in 1usize..17, v in 2usize..200, chunk_rows in 1usize..40, seed in 0usize..10_000,
    ) {
        let value = |i: usize| (((i + seed) * 7919 % 1009) as f64 - 504.0) / 300.0;
        let tensor = |rows: usize, cols: usize, from: usize| {
            let values = Tensor::from_iter((from..from + rows * cols).map(value), &Device::Cpu);
            values.unwrap().reshape((rows, cols)).unwrap()
        };
        let (hidden, wte) = (tensor(n, c, 3), tensor(v, c, 77_777));
        let targets = Tensor::from_iter((0..n).map(|i| ((i * 31 + seed) % v) as i64), &Device::Cpu).unwrap();
        let options = LossOptions::default().with_chunk_rows(chunk_rows);
        let expected = plain(&hidden, &wte, &targets).unwrap();
        let found = through_the_graph(&hidden, &wte, &targets, &options).unwrap();
        for (left, right) in found.iter().zip(&expected) {
            assert_near(left, right, 1e-12);
        }
        // A row's probabilities, the target's included, add up to 1, so the rows of the table's gradient add up to 0.
        let sums = numbers(&found[2].sum(0).unwrap());
        prop_assert!(sums.iter().all(|sum| sum.abs() <= 1e-12), "{sums:?}");
        // A mask equals leaving rows out.
        let keep: Vec<u32> = (0..n as u32).filter(|i| !(*i as usize + seed).is_multiple_of(3) || n == 1).collect();
        let mask = Tensor::from_iter((0..n as u32).map(|i| u8::from(keep.contains(&i))), &Device::Cpu).unwrap();
        let keep = Tensor::new(&keep[..], &Device::Cpu).unwrap();
        let selected = |x: &Tensor| x.index_select(&keep, 0).unwrap();
        let masked = directly(&hidden, &wte, &targets, &options.clone().with_mask(&mask)).unwrap();
        let left_out = directly(&selected(&hidden), &wte, &selected(&targets), &options).unwrap();
        assert_bits_eq(&masked[0], &left_out[0]);
        assert_bits_eq(&selected(&masked[1]), &left_out[1]);
        assert_bits_eq(&masked[2], &left_out[2]);
        // Transposed memory behind the same values.
        let strided = |x: &Tensor| x.t().unwrap().contiguous().unwrap().t().unwrap();
        let column = targets.unsqueeze(1).unwrap().broadcast_as((n, 2)).unwrap().i((.., 1)).unwrap();
        let wte_var = Var::from_tensor(&wte).unwrap();
        let by_strides = head(&strided(&wte_var)).loss_and_grads(&strided(&hidden), &column, &options).unwrap();
        assert_bits_eq(&by_strides.loss, &found[0]);
        assert_bits_eq(&by_strides.hidden_grad, &found[1]);
        assert_bits_eq(&by_strides.wte_grad.unwrap(), &found[2]);
    }
}

#[test]
fn any_leading_shape_and_type_of_target() -> Result<()> {
    for device in complete_devices() {
        let hidden = (addressed(0., 6, 3, &device) / 500.)?;
        let wte = Var::from_tensor(&(addressed(2., 7, 3, &device) / 500.)?)?;
        let targets = Tensor::new(&[0i64, 6, 3, 3, 1, 5], &device)?;
        let expected = head(&wte).loss_and_grads(&hidden, &targets, &Default::default())?;
        for dims in [&[6][..], &[2, 3], &[1, 3, 2], &[6, 1]] {
            for dtype in [DType::U8, DType::U32, DType::I64] {
                let (hidden, targets) =
                    (hidden.reshape([dims, &[3]].concat())?, targets.reshape(dims)?.to_dtype(dtype)?);
                let found = head(&wte).loss_and_grads(&hidden, &targets, &Default::default())?;
                assert_eq!((found.hidden_grad.dims(), found.n_counted), (hidden.dims(), 6));
                assert_bits_eq(&found.loss, &expected.loss);
                assert_bits_eq(&found.hidden_grad.flatten_to(dims.len() - 1)?, &expected.hidden_grad);
                assert_bits_eq(&found.wte_grad.unwrap(), expected.wte_grad.as_ref().unwrap());
            }
        }
        // One hidden state without a batch, and a scalar target.
        let scalar = head(&wte).loss(&hidden.i(1)?, &Tensor::new(6u32, &device)?, &Default::default())?;
        let row = head(&wte).loss(&hidden.i(1..2)?, &Tensor::new(&[6u32], &device)?, &Default::default())?;
        assert_bits_eq(&scalar, &row);
    }
    Ok(())
}

// ---- errors ----

#[test]
fn what_does_not_go_together_is_named() -> Result<()> {
    for device in complete_devices() {
        let head = head(&addressed(0., 5, 3, &device));
        let hidden = Tensor::zeros((2, 2, 3), DType::F32, &device)?;
        let text = |targets: Tensor, options: LossOptions| error_text(head.loss(&hidden, &targets, &options));
        let outside = |id: i64| format!("token id {id} at [1, 0] is outside the vocabulary of 5 (valid ids: 0 to 4)");
        for id in [5, -1, -99, i64::MAX, i64::MIN] {
            assert_eq!(text(Tensor::new(&[[0i64, 4], [id, -100]], &device)?, LossOptions::default()), outside(id));
        }
        assert_eq!(text(Tensor::new(&[[0u8, 4], [255, 7]], &device)?, LossOptions::default()), outside(255));
        assert_eq!(
            text(Tensor::new(&[[0u32, 4], [u32::MAX, 7]], &device)?, LossOptions::default()),
            outside(4294967295)
        );
        // If another id is ignored, -100 is an ordinary id.
        let options = LossOptions::default().with_ignore_index(0);
        assert_eq!(text(Tensor::new(&[[0i64, 4], [-100, 0]], &device)?, options), outside(-100));
        let error = head.loss(&hidden, &Tensor::new(&[[0u32, 1], [2, 9]], &device)?, &Default::default()).unwrap_err();
        assert!(matches!(error, Error::TokenOutOfRange { id: 9, vocab_size: 5, ref at } if at == &[1, 1]));

        let targets = Tensor::new(&[[0u32, 1], [2, 3]], &device)?;
        assert_eq!(
            text(targets.to_dtype(DType::F32)?, LossOptions::default()),
            "target_ids must be u8, u32 or i64, not F32: convert with `.to_dtype(DType::U32)`"
        );
        assert_eq!(
            text(targets.flatten_all()?, LossOptions::default()),
            "target_ids has shape [4], expected [2, 2], one for each of the hidden_states"
        );
        let mask = Tensor::new(&[[1u8, 1], [0, 2]], &device)?;
        assert_eq!(
            text(targets.clone(), LossOptions::default().with_mask(&mask)),
            "loss_mask holds 2 at [1, 1]: it must be 1 (token) or 0 (padding)"
        );
        assert_eq!(
            text(targets.clone(), LossOptions::default().with_mask(&mask.i(0)?)),
            "loss_mask has shape [2], expected [2, 2], one for each of the hidden_states"
        );
        assert_eq!(
            text(targets.clone(), LossOptions::default().with_mask(&hidden.i((.., .., 0))?)),
            "loss_mask must be u8, u32 or i64, not F32: convert with `.to_dtype(DType::U32)`"
        );
        // A masked target is not read.
        let masked = Tensor::new(&[[0i64, 1], [2, 99]], &device)?;
        let options = LossOptions::default().with_mask(&Tensor::new(&[[1u8, 1], [1, 0]], &device)?);
        assert!(head.loss(&hidden, &masked, &options).is_ok());
        assert_eq!(
            error_text(head.loss(&hidden.i((.., .., ..2))?, &targets, &Default::default())),
            "hidden_states has shape [2, 2, 2], expected [.., 3]"
        );
        assert_eq!(
            error_text(head.loss(&hidden.to_dtype(DType::F64)?, &targets, &Default::default())),
            "hidden_states has dtype F64, but wte has F32"
        );
    }
    Ok(())
}

// ---- A bias, and losses one by one ----

#[test]
fn torch_values_of_a_head_with_a_bias_and_of_single_losses() -> Result<()> {
    let golden = golden_tensors("loss.safetensors");
    let of = |name: &str| golden[&format!("each.{name}")].clone();
    for device in complete_devices() {
        let [hidden, wte, bias, targets, factors] =
            ["hidden", "wte", "bias", "targets", "factors"].map(|name| of(name).to_device(&device).unwrap());
        for (name, reduction) in [("mean", Reduction::Mean), ("sum", Reduction::Sum), ("none", Reduction::None)] {
            for chunk_rows in [1, 4, 1000] {
                let options = LossOptions::default().with_reduction(reduction).with_chunk_rows(chunk_rows);
                let vars = [&hidden, &wte, &bias].map(|tensor| Var::from_tensor(tensor).unwrap());
                let head = head(&vars[1]).with_bias(vars[2].as_tensor().clone())?;
                let loss = head.loss(&vars[0], &targets, &options)?;
                assert_near(&loss, &of(&format!("{name}.loss")), VALUE);
                let value = if name == "none" { (&loss * &factors)?.sum_all()? } else { loss.clone() };
                let grads = value.backward()?;
                for (var, part) in vars.iter().zip(["hidden", "wte", "bias"]) {
                    assert_near(grads.get(var).unwrap(), &of(&format!("{name}.{part}_grad")), GRADIENT);
                }
                // Not recorded; without a reduction the gradients are those of the sum.
                let found = head.loss_and_grads(&hidden, &targets, &options)?;
                assert_bits_eq(&found.loss, &loss);
                let name = if name == "none" { "sum" } else { name };
                assert_near(&found.hidden_grad, &of(&format!("{name}.hidden_grad")), GRADIENT);
                assert_near(&found.wte_grad.unwrap(), &of(&format!("{name}.wte_grad")), GRADIENT);
                assert_near(&found.bias_grad.unwrap(), &of(&format!("{name}.bias_grad")), GRADIENT);
                assert_eq!(found.n_counted, 13);
            }
        }
        // Only what is tracked gets a gradient.
        let fixed = head(&wte).with_bias(bias.clone())?;
        let loss = fixed.loss(&hidden, &targets, &LossOptions::default().with_reduction(Reduction::None))?;
        assert!(!loss.track_op() && loss.dims() == targets.dims());
        let logits = fixed.forward(&hidden)?;
        assert_near(&logits, &hidden.broadcast_matmul(&wte.t()?)?.broadcast_add(&bias)?, VALUE);
    }
    Ok(())
}

/// Losses of each dtype are those of one target at a time, and no targets are none.
#[test]
fn single_losses_are_those_of_single_targets() -> Result<()> {
    let golden = golden_tensors("loss.safetensors");
    let [hidden, wte, bias, targets] =
        ["hidden", "wte", "bias", "targets"].map(|name| &golden[&format!("each.{name}")]);
    let none = LossOptions::default().with_reduction(Reduction::None);
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
        let head = head(&wte.to_dtype(dtype)?).with_bias(bias.to_dtype(dtype)?)?;
        let hidden = hidden.to_dtype(dtype)?;
        let losses = head.loss(&hidden, targets, &none)?;
        for (b, t) in [(0, 0), (2, 4), (1, 2)] {
            let one = head.loss(&hidden.i((b, t..t + 1))?, &targets.i((b, t..t + 1))?, &LossOptions::default())?;
            let (each, one) = (numbers(&losses.i((b, t))?)[0], numbers(&one)[0]);
            if (b, t) == (1, 2) {
                assert!(each == 0.0 && one.is_nan()); // ignored: 0 as in PyTorch, but a mean over nothing
            } else {
                assert!((each - one).abs() <= 1e-6 * one.abs());
            }
        }
    }
    let ignored = Tensor::full(-100i64, targets.shape(), &Device::Cpu)?;
    let hidden = Var::from_tensor(hidden)?;
    let losses = head(wte).loss(&hidden, &ignored, &none)?;
    assert_eq!(numbers(&losses), [0.0; 15]);
    assert_eq!(numbers(losses.sum_all()?.backward()?.get(&hidden).unwrap()), [0.0; 15 * 8]);
    Ok(())
}
