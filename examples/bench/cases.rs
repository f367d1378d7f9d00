//! The timed cases: their inputs, and how each contender runs them.

// Long because each case is given with the program of every contender.

use std::cell::RefCell;
use std::fmt;
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor, Var};
use candle_gpt_input::GptInputLayer;
use candle_gpt_input::embedding::IdCheck;
use candle_gpt_input::init::Init;
use candle_gpt_input::optim::{AdamW, RowAdamW, RowGrad};
use candle_gpt_input::rng::Generator;
use candle_nn::{Embedding, Module, Optimizer, ParamsAdamW, VarMap};
use rayon::prelude::*;

use super::rows::Ids;

/// A row of the table, apart from its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Case {
    Forward,
    ForwardInto,
    Backward,
    StepDense,
    StepRows,
    StepTied,
    Rotate,
    Alibi,
    T5,
    Mapped,
    Quantized,
    Head,
    Decode,
}

impl Case {
    pub const ALL: [Self; 13] = [
        Self::Forward,
        Self::ForwardInto,
        Self::Backward,
        Self::StepDense,
        Self::StepRows,
        Self::StepTied,
        Self::Rotate,
        Self::Alibi,
        Self::T5,
        Self::Mapped,
        Self::Quantized,
        Self::Head,
        Self::Decode,
    ];

    /// Returns whether it times positions inside attention, for which PyTorch has no operation.
    pub fn is_positional(self) -> bool {
        matches!(self, Self::Rotate | Self::Alibi | Self::T5)
    }

    /// Returns whether its tables are mapped or quantized, which PyTorch does not have.
    pub fn is_of_tables(self) -> bool {
        matches!(self, Self::Mapped | Self::Quantized)
    }

    /// Returns whether it times products with weights, whose shapes are of their own.
    pub fn is_of_products(self) -> bool {
        matches!(self, Self::Head | Self::Decode)
    }

    /// Returns the shapes that it takes unless others are given.
    pub fn shapes(self, quick: bool) -> Vec<String> {
        match (self, quick) {
            (Self::Head, true) => ["1x1x24", "3x1x24:bf16", "2x1x24:f16", "2x1x64:q8_0"].map(String::from).to_vec(),
            (Self::Head, false) => {
                let rows = (0..8).map(|power| 1 << power);
                let of_numbers = ["", ":bf16", ":f16"];
                let of_numbers =
                    of_numbers.iter().flat_map(|dtype| rows.clone().map(move |n| format!("{n}x1x768{dtype}")));
                of_numbers.chain([1, 4, 16, 64].map(|n| format!("{n}x1x768:q8_0"))).collect()
            }
            (Self::Decode, true) => ["2x1x24", "1x1x64:q8_0"].map(String::from).to_vec(),
            (Self::Decode, false) => {
                ["1x1x768", "1x1x768:bf16", "1x1x768:f16", "1x1x768:q8_0"].map(String::from).to_vec()
            }
            (_, true) => ["1x1x16", "2x8x24", "2x8x24:bf16"].map(String::from).to_vec(),
            (_, false) => {
                let all =
                    ["1x1x768", "8x4x256", "8x256x256", "1x1024x768", "8x1024x768", "4x1024x1600", "16x2048x4096:bf16"];
                all.map(String::from).to_vec()
            }
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::ForwardInto => "forward_into",
            Self::Backward => "backward",
            Self::StepDense => "step_dense",
            Self::StepRows => "step_rows",
            Self::StepTied => "step_tied",
            Self::Rotate => "rotate",
            Self::Alibi => "alibi",
            Self::T5 => "t5",
            Self::Mapped => "mapped",
            Self::Quantized => "quantized",
            Self::Head => "head",
            Self::Decode => "decode",
        }
    }

    /// Returns whether Candle and PyTorch take less than a minute and a common machine has enough memory.
    pub fn is_short(self, shape: &Shape) -> bool {
        let n_logits = shape.n_tokens() * shape.vocab_size;
        match self {
            Self::Forward | Self::ForwardInto | Self::Rotate | Self::Mapped | Self::Head | Self::Decode => true,
            Self::Quantized => shape.n_embd.is_multiple_of(32), // blocks of Q8_0
            // The bias is the same for the whole batch.
            Self::Alibi | Self::T5 => shape.batch == 1 && shape.dtype == DType::F32,
            Self::Backward | Self::StepDense | Self::StepRows => shape.dtype == DType::F32,
            Self::StepTied => shape.dtype == DType::F32 && n_logits * shape.n_embd < 100 << 30,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Shape {
    pub batch: usize,
    pub length: usize,
    pub n_embd: usize,
    pub vocab_size: usize,
    /// Of hidden states, and of tables that are not in blocks.
    pub dtype: DType,
    /// The type of the weights' blocks, if they are quantized.
    pub blocks: Option<GgmlDType>,
    pub ids: Ids,
}

/// The block types that a shape may end in.
const BLOCK_TYPES: [(&str, GgmlDType); 2] = [("q8_0", GgmlDType::Q8_0), ("q4_k", GgmlDType::Q4K)];

impl Shape {
    /// Returns the type of the weights.
    pub fn stored(&self) -> &'static str {
        let of_blocks = BLOCK_TYPES.iter().find(|(_, known)| Some(*known) == self.blocks);
        of_blocks.map_or(self.dtype.as_str(), |(name, _)| name)
    }

    /// Returns the bytes of `n_weights` elements.
    pub fn n_bytes(&self, n_weights: usize) -> usize {
        match self.blocks {
            Some(blocks) => n_weights / blocks.block_size() * blocks.type_size(),
            None => n_weights * self.dtype.size_in_bytes(),
        }
    }

    pub fn n_tokens(&self) -> usize {
        self.batch * self.length
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.batch, self.length, self.n_embd)?;
        if self.stored() == "f32" { Ok(()) } else { write!(f, ":{}", self.stored()) }
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (sizes, dtype) = text.split_once(':').unwrap_or((text, "f32"));
        let sizes: Vec<usize> =
            sizes.split('x').filter_map(|size| size.parse().ok()).filter(|&size| size > 0).collect();
        let [batch, length, n_embd] = sizes[..] else { return Err("use BxTxC or BxTxC:bf16".to_string()) };
        let blocks = BLOCK_TYPES.iter().find(|(name, _)| *name == dtype).map(|(_, blocks)| *blocks);
        let dtype = match blocks {
            Some(_) => DType::F32,
            None => {
                super::cli::parse_dtype(dtype).map_err(|advice| format!("{advice}; head, decode: q8_0 or q4_k too"))?
            }
        };
        if let Some(blocks) = blocks.filter(|blocks| n_embd % blocks.block_size() != 0) {
            return Err(format!(
                "a width of {n_embd} is not a multiple of {}, the elements of a block",
                blocks.block_size()
            ));
        }
        Ok(Self { batch, length, n_embd, vocab_size: 0, dtype, blocks, ids: Ids::default() })
    }
}

/// Learning rate and decay of all steps, and PyTorch's defaults.
pub const ADAMW: ParamsAdamW = ParamsAdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };

/// The tensors that every contender, PyTorch too, draws from seed 123 in this order.
pub struct Inputs {
    pub shape: Shape,
    pub wte: Tensor,
    pub wpe: Tensor,
    pub ids: Tensor,
    pub targets: Tensor,
    pub grad: Tensor,
    pub hidden: Tensor,
}

impl Inputs {
    pub fn new(shape: &Shape, device: &Device) -> Result<Self> {
        let &Shape { batch, length, n_embd, vocab_size, dtype, ids: kind, .. } = shape;
        let generator = Generator::manual_seed(123);
        let table = |n_rows, std| Init::Gpt2 { std }.wte(n_rows, n_embd, &generator, dtype, device);
        let states = |std| Ok::<_, anyhow::Error>(table(batch * length, std)?.reshape((batch, length, n_embd))?);
        let ids = || {
            let ids = generator.randint(0, vocab_size as i64, batch * length)?;
            let ids = Tensor::from_vec(kind.distribute(ids, vocab_size), (batch, length), &Device::Cpu)?
                .to_dtype(DType::U32)?;
            Ok::<_, anyhow::Error>(ids.to_device(device)?)
        };
        let (wte, wpe) = (table(vocab_size, 0.02)?, table(length, 0.02)?);
        let (ids, targets) = (ids()?, ids()?);
        Ok(Self { shape: shape.clone(), wte, wpe, ids, targets, grad: states(1.0)?, hidden: states(1.0)? })
    }
}

/// An implementation that can be timed.
pub struct Contender {
    pub name: &'static str,
    /// Runs the case once and returns the seconds of the part that counts; `None` if the whole run counts.
    pub run: Box<dyn FnMut() -> Result<Option<f64>>>,
    /// The results of the first run: hidden states, gradients or tables.
    pub results: Box<dyn Fn() -> Result<Vec<Tensor>>>,
}

pub fn contenders(case: Case, inputs: &Inputs) -> Result<Vec<Contender>> {
    ensure!(inputs.shape.blocks.is_none() || case.is_of_products(), "only head and decode take weights in blocks");
    if case.is_positional() {
        return super::positions::contenders(case, inputs);
    }
    if case.is_of_tables() {
        return super::tables::contenders(case, inputs);
    }
    if case.is_of_products() {
        return super::products::contenders(case, inputs);
    }
    let mut all = vec![ours(case, inputs)?];
    match candle(case, inputs) {
        Ok(candle) => all.push(candle),
        // On a device, Candle may lack a kernel or run out of memory.
        Err(error) if !inputs.ids.device().is_cpu() => {
            super::cli::note(format_args!("candle cannot: {}", super::cli::first_line(&error)))
        }
        Err(error) => return Err(error),
    }
    all.extend(ours_without_waits(case, inputs)?);
    if case == Case::Forward && inputs.ids.device().is_cpu() {
        all.extend(super::rows::contenders(inputs)?);
    }
    if let (true, Some(n_bytes)) = (inputs.ids.device().is_cpu(), bytes_moved(case, inputs)?) {
        all.push(copy(case, n_bytes)?);
    }
    Ok(all)
}

/// Makes a contender that runs `step` and keeps the results of the first run.
pub fn contender(
    name: &'static str,
    mut step: impl FnMut() -> Result<(Option<f64>, Vec<Tensor>)> + 'static,
) -> Result<Contender> {
    let (_, first) = step()?;
    let first = first.iter().map(Tensor::copy).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Contender { name, run: Box::new(move || Ok(step()?.0)), results: Box::new(move || Ok(first.clone())) })
}

pub fn ours(case: Case, inputs: &Inputs) -> Result<Contender> {
    ours_with("ours", case, inputs, inputs.ids.clone(), IdCheck::EveryCall)
}

/// On a device: with ids on the host, and with ids on the device that are checked later. `ours` waits for the device in
/// every call, these do not.
fn ours_without_waits(case: Case, inputs: &Inputs) -> Result<Vec<Contender>> {
    if inputs.ids.device().is_cpu() {
        return Ok(Vec::new());
    }
    let on_host = inputs.ids.to_device(&Device::Cpu)?;
    Ok(vec![
        ours_with("ours_host_ids", case, inputs, on_host, IdCheck::EveryCall)?,
        ours_with("ours_deferred", case, inputs, inputs.ids.clone(), IdCheck::Deferred)?,
    ])
}

fn ours_with(name: &'static str, case: Case, inputs: &Inputs, ids: Tensor, id_check: IdCheck) -> Result<Contender> {
    let layer = GptInputLayer::new(inputs.wte.clone(), inputs.wpe.clone())?.with_id_check(id_check)?;
    let grad = inputs.grad.clone();
    if case == Case::Forward {
        return contender(name, move || Ok((None, vec![layer.forward(&ids)?])));
    }
    if case == Case::ForwardInto {
        let buffer = layer.forward(&ids)?;
        return contender(name, move || {
            layer.forward_into(&ids, 0, &buffer)?;
            Ok((None, vec![buffer.clone()]))
        });
    }
    let layer = layer.trainable(&VarMap::new(), "")?;
    let vars = layer.vars();
    let tables: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    match case {
        Case::Forward
        | Case::ForwardInto
        | Case::Rotate
        | Case::Alibi
        | Case::T5
        | Case::Mapped
        | Case::Quantized
        | Case::Head
        | Case::Decode => {
            anyhow::bail!("this case is timed by another module")
        }
        Case::Backward => contender(name, move || {
            std::hint::black_box(layer.forward_leaf(&ids)?);
            grad.device().synchronize()?;
            let start = Instant::now();
            let grads = layer.row_grads(&ids, 0, &grad)?.iter().map(RowGrad::to_dense).collect::<Result<_, _>>()?;
            grad.device().synchronize()?;
            Ok((Some(start.elapsed().as_secs_f64()), grads))
        }),
        Case::StepDense => {
            let mut adamw = AdamW::new(vars, ADAMW)?;
            contender(name, move || {
                std::hint::black_box(layer.forward_leaf(&ids)?);
                layer.backward_step(&ids, 0, &grad, &mut adamw)?;
                Ok((None, tables.clone()))
            })
        }
        Case::StepRows => {
            let mut adam = RowAdamW::new(vars, ADAMW.lr)?;
            contender(name, move || {
                std::hint::black_box(layer.forward_leaf(&ids)?);
                layer.backward_step(&ids, 0, &grad, &mut adam)?;
                Ok((None, tables.clone()))
            })
        }
        Case::StepTied => {
            let mut adamw = AdamW::new(vars, ADAMW)?;
            let head = layer.lm_head()?;
            let (hidden, targets) = (inputs.hidden.clone(), inputs.targets.clone());
            contender(name, move || {
                std::hint::black_box(layer.forward_leaf(&ids)?);
                let found = head.loss_and_grads(&hidden, &targets, &Default::default())?;
                let mut grads = found.loss.backward()?; // none yet: the loss has no history
                found.wte_grad.map(|grad| grads.insert(&tables[0], grad));
                adamw.step_with_rows(&grads, &layer.row_grads(&ids, 0, &grad)?)?;
                Ok((None, comparable(found.loss, found.hidden_grad)?))
            })
        }
    }
}

/// Returns the results that agree between contenders. Candle and PyTorch round every logit in half precision, so there
/// only the loss does.
fn comparable(loss: Tensor, hidden_grad: Tensor) -> Result<Vec<Tensor>> {
    let loss = loss.reshape((1, 1))?;
    Ok(if hidden_grad.dtype() == DType::F32 { vec![loss, hidden_grad] } else { vec![loss] })
}

/// Writes the case as Candle's users do.
pub fn candle(case: Case, inputs: &Inputs) -> Result<Contender> {
    let Shape { length, n_embd, .. } = inputs.shape;
    let (ids, grad) = (inputs.ids.clone(), inputs.grad.clone());
    let embed = move |wte: &Tensor, wpe: &Tensor| -> Result<Tensor> {
        let positions = Tensor::arange(0, length as u32, wte.device())?;
        let tokens = Embedding::new(wte.clone(), n_embd).forward(&ids)?;
        Ok(tokens.broadcast_add(&Embedding::new(wpe.clone(), n_embd).forward(&positions)?)?)
    };
    if matches!(case, Case::Forward | Case::ForwardInto) {
        let (wte, wpe) = (inputs.wte.clone(), inputs.wpe.clone());
        return contender("candle", move || Ok((None, vec![embed(&wte, &wpe)?])));
    }
    let (wte, wpe) = (Var::from_tensor(&inputs.wte.copy()?)?, Var::from_tensor(&inputs.wpe.copy()?)?);
    let tables = vec![wte.as_tensor().clone(), wpe.as_tensor().clone()];
    let mut adamw = candle_nn::AdamW::new(vec![wte, wpe], ADAMW)?;
    match case {
        Case::Forward
        | Case::ForwardInto
        | Case::Rotate
        | Case::Alibi
        | Case::T5
        | Case::Mapped
        | Case::Quantized
        | Case::Head
        | Case::Decode => {
            anyhow::bail!("this case is timed by another module")
        }
        Case::Backward => contender("candle", move || {
            let x = embed(&tables[0], &tables[1])?;
            grad.device().synchronize()?;
            let start = Instant::now();
            let mut grads = (x * &grad)?.sum_all()?.backward()?;
            grad.device().synchronize()?;
            let seconds = start.elapsed().as_secs_f64();
            Ok((Some(seconds), tables.iter().filter_map(|table| grads.remove(table)).collect()))
        }),
        // Candle has no row gradients, so its step is the dense one and gives other results. In f16 its eps rounds to
        // zero.
        Case::StepDense | Case::StepRows => {
            let is_dense = case == Case::StepDense && inputs.shape.dtype == DType::F32;
            contender("candle", move || {
                let loss = (embed(&tables[0], &tables[1])? * &grad)?.sum_all()?;
                adamw.backward_step(&loss)?;
                Ok((None, if is_dense { tables.clone() } else { Vec::new() }))
            })
        }
        Case::StepTied => {
            let hidden = Var::from_tensor(&inputs.hidden)?;
            let targets = inputs.targets.flatten_all()?;
            contender("candle", move || {
                let x = embed(&tables[0], &tables[1])?;
                let logits = hidden.flatten_to(1)?.matmul(&tables[0].t()?)?;
                let loss = candle_nn::loss::cross_entropy(&logits, &targets)?;
                let mut grads = (&loss + (x * &grad)?.sum_all()?)?.backward()?;
                adamw.step(&grads)?;
                let hidden_grad = grads.remove(&hidden).context("no gradient of the hidden states")?;
                Ok((None, comparable(loss, hidden_grad)?))
            })
        }
    }
}

/// Returns the bytes that the case must read and write at least, each once; `None` if arithmetic is the limit or nobody
/// has counted.
pub fn bytes_moved(case: Case, inputs: &Inputs) -> Result<Option<usize>> {
    let Shape { length, n_embd, vocab_size, dtype, .. } = inputs.shape;
    let n_tokens = inputs.shape.n_tokens();
    let n_rows = match case {
        Case::StepTied | Case::Rotate | Case::Alibi | Case::T5 | Case::Mapped | Case::Quantized => return Ok(None),
        Case::Forward | Case::ForwardInto => 2 * n_tokens,
        Case::Head | Case::Decode => {
            return Ok(Some(inputs.shape.n_bytes(super::products::n_weights(case, &inputs.shape))));
        }
        // The gradient is read, and both tables' gradients are written.
        Case::Backward => n_tokens + vocab_size + length,
        // Rows are read and written, their gradient is read, and the parameter and both moments are read and written.
        Case::StepDense => 3 * n_tokens + 6 * (vocab_size + length),
        Case::StepRows => {
            let mut touched = inputs.ids.flatten_all()?.to_vec1::<u32>()?;
            touched.sort_unstable();
            touched.dedup();
            3 * n_tokens + 6 * (touched.len() + length)
        }
    };
    Ok(Some(n_rows * n_embd * dtype.size_in_bytes()))
}

/// Copies half as many bytes as the case must move, since a copy reads and writes each; on all cores.
fn copy(case: Case, n_bytes: usize) -> Result<Contender> {
    let words = n_bytes / 2 / size_of::<u32>();
    let from = vec![1u32; words];
    let fresh = case == Case::Forward;
    let to = Rc::new(RefCell::new(Vec::<u32>::with_capacity(words)));
    contender("copy", move || {
        if fresh {
            let mut to = Vec::with_capacity(words);
            copy_words(&mut to, &from);
            std::hint::black_box(&to);
        } else {
            copy_words(&mut to.borrow_mut(), &from);
            std::hint::black_box(&to);
        }
        Ok((None, Vec::new()))
    })
}

/// Copies into the spare capacity of `to`; on one core if a second would cost more than it saves.
pub fn copy_words(to: &mut Vec<u32>, from: &[u32]) {
    let to = &mut to.spare_capacity_mut()[..from.len()];
    let each = if from.len() < 1 << 14 { from.len() } else { from.len().div_ceil(rayon::current_num_threads()) };
    match each < from.len() {
        true => to.par_chunks_mut(each).zip(from.par_chunks(each)).for_each(|(to, from)| copy_part(to, from)),
        false => copy_part(to, from),
    }
}

/// A separate function tells the compiler that the slices do not overlap, so that it calls the C library's `memcpy`.
#[inline(never)]
pub fn copy_part(to: &mut [MaybeUninit<u32>], from: &[u32]) {
    for (to, from) in to.iter_mut().zip(from) {
        to.write(*from);
    }
}

/// Checks that two results agree to rounding: to 1e-5 of the largest element in f32, to 1/128 in half precision.
pub fn agree(ours: &Tensor, theirs: &Tensor, dtype: DType) -> Result<()> {
    ensure!(ours.dims() == theirs.dims(), "shapes {:?} and {:?}", ours.dims(), theirs.dims());
    let numbers =
        |tensor: &Tensor| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    near(&numbers(ours)?, &numbers(theirs)?, bound(dtype))
}

/// Half precision rounds several times; in f32 only the order of summation differs.
fn bound(dtype: DType) -> f32 {
    if dtype == DType::F32 { 1e-5 } else { 1.0 / 128.0 }
}

fn near(ours: &[f32], theirs: &[f32], bound: f32) -> Result<()> {
    let largest = theirs.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let apart = ours.iter().zip(theirs).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
    let finite = ours.iter().chain(theirs).all(|x| x.is_finite());
    ensure!(finite && apart <= bound * largest, "{apart} apart, of {largest} at most");
    Ok(())
}

/// How many elements of each result PyTorch returns.
const N_SAMPLES: usize = 256;

/// Checks elements of each result against PyTorch's; of a table, those of rows in the batch.
pub fn compare_with_torch(case: Case, ours: &Contender, inputs: &Inputs, theirs: &[Vec<f32>]) -> Result<()> {
    let bound = match (case, inputs.shape.dtype) {
        (Case::Decode, DType::F16 | DType::BF16) => ROUNDED_IN_EACH_BLOCK,
        (_, dtype) => bound(dtype),
    };
    compare_samples(ours, inputs, theirs, bound).context("ours and torch")
}

/// Checks elements of the logits against llama.cpp's, which rounds hidden states to the type of the weights and takes its
/// GELU from a table in f16.
pub fn compare_with_llama(ours: &Contender, inputs: &Inputs, theirs: &[Vec<f32>]) -> Result<()> {
    compare_samples(ours, inputs, theirs, ROUNDED_IN_EACH_BLOCK).context("ours and llama.cpp")
}

/// How far logits are apart, as a share of the largest, where each of twelve blocks rounds several times.
const ROUNDED_IN_EACH_BLOCK: f32 = 1.0 / 32.0;

fn compare_samples(ours: &Contender, inputs: &Inputs, theirs: &[Vec<f32>], bound: f32) -> Result<()> {
    let results = (ours.results)()?;
    ensure!(results.len() == theirs.len(), "{} results and {}", results.len(), theirs.len());
    let n_tokens = inputs.shape.n_tokens();
    let ids = inputs.ids.flatten_all()?.to_vec1::<u32>()?;
    for (index, (tensor, theirs)) in results.iter().zip(theirs).enumerate() {
        let rows: Vec<u32> = (0..N_SAMPLES)
            .map(|k| {
                let at = k * 7919 % n_tokens;
                match (tensor.dim(0), tensor.rank()) {
                    (Ok(n), 2) if n == inputs.shape.vocab_size && index == 0 => ids[at],
                    (Ok(n), 2) => (at % n) as u32,
                    _ => at as u32,
                }
            })
            .collect();
        let n_rows = rows.len();
        let rows = Tensor::from_vec(rows, n_rows, tensor.device())?;
        let flat = tensor.flatten_to(tensor.rank() - 2)?.index_select(&rows, 0)?.to_dtype(DType::F32)?;
        let values = flat.to_vec2::<f32>()?;
        let ours: Vec<f32> = values.iter().enumerate().map(|(k, row)| row[k * 31 % row.len()]).collect();
        ensure!(ours.len() == theirs.len(), "{} elements and {}", ours.len(), theirs.len());
        near(&ours, theirs, bound).with_context(|| format!("result {index}"))?;
    }
    Ok(())
}
