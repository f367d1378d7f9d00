//! Checks a device against the CPU on one thread: our kernels bit for bit, results of Candle's kernels to a bound.

use anyhow::{Context, Result, bail, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::embedding::IdCheck;
use candle_gpt_input::init::Init;
use candle_gpt_input::optim::{AdamState, AdamW, ParamGroup, RowAdamW, RowGrad, RowOptimizer};
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{GptInputConfig, GptInputLayer, Positions};
use candle_nn::{ParamsAdamW, VarMap};

pub const DTYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];

/// A line of the report: what was checked, and the outcome for each of [`DTYPES`].
pub struct Check {
    pub name: &'static str,
    pub outcomes: Vec<Result<()>>,
}

impl Check {
    pub fn is_passed(&self) -> bool {
        self.outcomes.iter().all(Result::is_ok)
    }
}

/// The results of a check on one device.
#[derive(Default)]
struct Found {
    tensors: Vec<Tensor>,
    texts: Vec<String>,
    /// Results of Candle's own operations, which sum in another order on each device.
    near: Vec<Tensor>,
}

type Run = fn(&Setup) -> Result<Found>;

/// In the order of the report.
const CHECKS: &[(&str, Run)] = &[
    ("forward: ids u8, u32, i64, on the host and on the device", forward),
    ("forward at a start and at position ids; into a buffer; without positions", positions),
    ("gradients of rows, repeated ids, as whole tables", row_gradients),
    ("backward through Candle's graph (its kernels too)", backward),
    ("AdamW: rows and dense gradients, clipped, frozen rows, 3 steps", adamw),
    ("RowAdamW: frozen rows, decay, 3 steps", row_adamw),
    ("a bad id or position is the same error", bad_ids),
    ("ids checked later: rows of NaN, the same error", checked_later),
    ("the tied head's loss and gradients, to 1e-5 of the largest (Candle's kernels)", loss),
];

/// Runs all checks in all dtypes for each of `shapes`: V, P, C, B and T.
pub fn all(device: &Device, shapes: &[[usize; 5]]) -> Result<Vec<Check>> {
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let outcome = |run: Run, dtype| {
        for &shape in shapes {
            let here = one_thread.install(|| run(&Setup::new(shape, dtype, &Device::Cpu)?)).context("on the CPU")?;
            let there = run(&Setup::new(shape, dtype, device)?)?;
            compare(&here, &there, dtype).with_context(|| format!("{shape:?}"))?;
        }
        Ok(())
    };
    let check = |&(name, run): &(&'static str, Run)| Check {
        name,
        outcomes: DTYPES.into_iter().map(|dtype| outcome(run, dtype)).collect(),
    };
    Ok(CHECKS.iter().map(check).collect())
}

fn compare(here: &Found, there: &Found, dtype: DType) -> Result<()> {
    ensure!(here.tensors.len() == there.tensors.len() && here.near.len() == there.near.len(), "not as many results");
    ensure!(here.texts == there.texts, "{:?} and not {:?}", there.texts, here.texts);
    for (index, (here, there)) in here.tensors.iter().zip(&there.tensors).enumerate() {
        ensure!(here.dims() == there.dims(), "result {index}: {:?} and not {:?}", there.dims(), here.dims());
        let (here, there) = (bits(here)?, bits(there)?);
        if let Some(at) = (0..here.len()).find(|&at| here[at] != there[at]) {
            bail!("result {index}: element {at} has the bits {:#x}, not {:#x}", there[at], here[at]);
        }
    }
    for (here, there) in here.near.iter().zip(&there.near) {
        super::cases::agree(there, here, dtype)?;
    }
    Ok(())
}

/// Returns the bits of each element, with all NaNs alike.
fn bits(tensor: &Tensor) -> Result<Vec<u64>> {
    let flat = tensor.flatten_all()?.to_device(&Device::Cpu)?;
    let is_nan: Vec<bool> = flat.to_dtype(DType::F64)?.to_vec1::<f64>()?.iter().map(|x| x.is_nan()).collect();
    let bits: Vec<u64> = match flat.dtype() {
        DType::F64 => flat.to_vec1::<f64>()?.iter().map(|x| x.to_bits()).collect(),
        DType::F32 => flat.to_vec1::<f32>()?.iter().map(|x| u64::from(x.to_bits())).collect(),
        DType::F16 => flat.to_vec1::<half::f16>()?.iter().map(|x| u64::from(x.to_bits())).collect(),
        DType::BF16 => flat.to_vec1::<half::bf16>()?.iter().map(|x| u64::from(x.to_bits())).collect(),
        dtype => bail!("{dtype:?} is not the dtype of a table"),
    };
    Ok(bits.into_iter().zip(is_nan).map(|(bits, is_nan)| if is_nan { u64::MAX } else { bits }).collect())
}

/// A layer with variables as tables, ids, positions and a gradient, the same on every device.
struct Setup {
    layer: GptInputLayer,
    /// On the host.
    ids: Tensor,
    /// On the host.
    position_ids: Tensor,
    grad: Tensor,
    device: Device,
}

impl Setup {
    fn new([v, p, c, b, t]: [usize; 5], dtype: DType, device: &Device) -> Result<Self> {
        let generator = Generator::manual_seed(321);
        let config = GptInputConfig::new(v, p, c).with_embd_pdrop(0.0);
        let layer = GptInputLayer::init(&config, Init::Gpt2 { std: 0.5 }, &generator, dtype, device)?;
        let draw = |below: usize| -> Result<Tensor> {
            let mut ids = generator.randint(0, below as i64, b * t)?;
            // Some ids repeat, and the last row is used.
            (ids[0], ids[1], ids[b * t - 1]) = (ids[2], ids[2], below as i64 - 1);
            Ok(Tensor::from_vec(ids, (b, t), &Device::Cpu)?)
        };
        let (ids, position_ids) = (draw(v)?, draw(p)?);
        let grad = Init::Gpt2 { std: 1.0 }.wte(b * t, c, &generator, dtype, device)?.reshape((b, t, c))?;
        let layer = layer.trainable(&VarMap::new(), "")?;
        Ok(Self { layer, ids, position_ids, grad, device: device.clone() })
    }

    fn there(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.to_device(&self.device)?)
    }

    fn row_grads(&self, start: usize) -> Result<Vec<RowGrad>> {
        Ok(self.layer.row_grads(&self.ids, start, &self.grad)?)
    }
}

fn forward(on: &Setup) -> Result<Found> {
    let mut found = Found::default();
    let small = on.ids.to_dtype(DType::F64)?.clamp(0f64, 40f64)?;
    for ids in [small.to_dtype(DType::U8)?, on.ids.to_dtype(DType::U32)?, on.ids.clone()] {
        found.tensors.push(on.layer.forward(&ids)?);
        found.tensors.push(on.layer.forward(&on.there(&ids)?)?);
    }
    Ok(found)
}

fn positions(on: &Setup) -> Result<Found> {
    let (b, t) = on.ids.dims2()?;
    let row = on.position_ids.narrow(0, 0, 1)?;
    let buffer = on.grad.zeros_like()?;
    on.layer.forward_into(&on.there(&on.ids)?, 1, &buffer)?;
    let mask: Vec<u8> = (0..b * t).map(|i| u8::from(i % t >= i / t % t)).collect();
    let masked = Positions::from_mask(&Tensor::from_vec(mask, (b, t), &Device::Cpu)?)?;
    let tensors = vec![
        on.layer.forward_at(&on.ids, 1)?,
        on.layer.forward_at(&on.ids, &on.position_ids)?,
        on.layer.forward_at(&on.there(&on.ids)?, &on.there(&row)?)?,
        on.layer.forward_at(&on.ids, masked)?,
        on.layer.embed_tokens(&on.ids)?,
        buffer,
    ];
    Ok(Found { tensors, ..Found::default() })
}

fn row_gradients(on: &Setup) -> Result<Found> {
    let counted = on.row_grads(1)?;
    let given = on.layer.row_grads(&on.there(&on.ids)?, &on.there(&on.position_ids)?, &on.grad)?;
    let tensors = counted.into_iter().chain(given).map(|rows| Ok(rows.to_dense()?)).collect::<Result<_>>()?;
    Ok(Found { tensors, ..Found::default() })
}

fn backward(on: &Setup) -> Result<Found> {
    let hidden_states = on.layer.forward_at(&on.there(&on.ids)?, &on.position_ids)?;
    let mut grads = (hidden_states * &on.grad)?.sum_all()?.backward()?;
    let tensors = on.layer.vars().iter().map(|var| grads.remove(var).context("no gradient")).collect::<Result<_>>()?;
    Ok(Found { tensors, ..Found::default() })
}

fn params() -> ParamsAdamW {
    ParamsAdamW { lr: 1e-2, weight_decay: 0.1, ..Default::default() }
}

fn states<'a>(vars: &[Var], state: impl Fn(&Var) -> Option<&'a AdamState>) -> Result<Vec<Tensor>> {
    let mut all = Vec::new();
    for var in vars {
        let state = state(var).context("a variable made no step")?;
        all.extend([var.as_tensor().clone(), state.exp_avg.clone(), state.exp_avg_sq.clone()]);
    }
    Ok(all)
}

fn adamw(on: &Setup) -> Result<Found> {
    let mut vars = on.layer.vars();
    // A dense gradient on top of the rows of `wte`, and the gradient of a vector.
    let wte_grad = on.there(&on.layer.wte().as_embedding().context("no dense table")?.embeddings().copy()?)?;
    let vector_grad = on.grad.get(0)?.get(0)?;
    vars.push(Var::from_tensor(&vector_grad.copy()?)?);
    let named = vars.iter().enumerate().map(|(index, var)| (index.to_string(), var.clone()));
    let mut adamw = AdamW::with_groups([ParamGroup::new(named)], params())?;
    adamw.set_max_grad_norm(Some(0.5))?;
    adamw.freeze_rows(&vars[0], [0, 2, 3])?;
    let mut texts = Vec::new();
    for step in 0..3 {
        let mut grads = GradStore::default();
        grads.insert(&vars[0], wte_grad.clone());
        grads.insert(&vars[2], vector_grad.clone());
        adamw.step_with_rows(&grads, &on.row_grads(step)?)?;
        texts.push(format!("norm {:?}", adamw.grad_norm()));
    }
    Ok(Found { tensors: states(&vars, |var| adamw.state(var))?, texts, ..Found::default() })
}

fn row_adamw(on: &Setup) -> Result<Found> {
    let vars = on.layer.vars();
    let named = vars.iter().enumerate().map(|(index, var)| (index.to_string(), var.clone()));
    let mut adam = RowAdamW::with_groups([ParamGroup::new(named)], params())?;
    adam.freeze_rows(&vars[0], [0, 2, 3])?;
    for step in 0..3 {
        adam.step_rows(&on.row_grads(step)?)?;
    }
    Ok(Found { tensors: states(&vars, |var| adam.state(var))?, ..Found::default() })
}

/// Returns the ids with one outside the vocabulary, and its place.
fn with_bad_id(on: &Setup) -> Result<(Tensor, usize)> {
    let mut ids = on.ids.flatten_all()?.to_vec1::<i64>()?;
    let at = ids.len() / 2;
    ids[at] = -7;
    Ok((Tensor::from_vec(ids, on.ids.dims(), &Device::Cpu)?, at))
}

fn error_text<T>(result: candle_gpt_input::Result<T>) -> Result<String> {
    match result {
        Ok(_) => bail!("no error"),
        Err(error) => Ok(error.to_string()),
    }
}

fn bad_ids(on: &Setup) -> Result<Found> {
    let (bad, _) = with_bad_id(on)?;
    let n_positions = on.layer.config().n_positions;
    let bad_positions = (&on.position_ids + n_positions as f64)?;
    let texts = vec![
        error_text(on.layer.forward(&bad))?,
        error_text(on.layer.forward(&on.there(&bad)?))?,
        error_text(on.layer.forward_at(&on.ids, &on.there(&bad_positions)?))?,
        error_text(on.layer.forward_at(&on.ids, n_positions))?,
    ];
    Ok(Found { texts, ..Found::default() })
}

/// Checks deferred errors. A device that checks ids at once gives the same: a row of NaN is put in by hand, and the
/// error is that of the call.
fn checked_later(on: &Setup) -> Result<Found> {
    let (bad, at) = with_bad_id(on)?;
    let layer = on.layer.clone().with_id_check(IdCheck::Deferred)?;
    let (hidden_states, text) = if on.device.is_cuda() {
        (layer.forward(&on.there(&bad)?)?, error_text(layer.check_ids())?)
    } else {
        let good = layer.forward(&on.ids)?.flatten_to(1)?;
        let nan = on.there(&Tensor::full(f64::NAN, (1, good.dim(1)?), &Device::Cpu)?.to_dtype(good.dtype())?)?;
        let (before, after) = (good.narrow(0, 0, at)?, good.narrow(0, at + 1, good.dim(0)? - at - 1)?);
        (Tensor::cat(&[before, nan, after], 0)?.reshape(on.grad.dims())?, error_text(layer.forward(&bad))?)
    };
    Ok(Found { tensors: vec![hidden_states], texts: vec![text], ..Found::default() })
}

fn loss(on: &Setup) -> Result<Found> {
    let targets = on.there(&on.ids.to_dtype(DType::U32)?)?;
    let found = on.layer.lm_head()?.loss_and_grads(&on.grad, &targets, &Default::default())?;
    let near = [Some(found.loss.reshape((1, 1))?), Some(found.hidden_grad), found.wte_grad];
    Ok(Found { near: near.into_iter().flatten().collect(), ..Found::default() })
}
