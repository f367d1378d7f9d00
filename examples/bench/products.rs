//! The case of products with few rows, whose limits are reading the weights once and the multiplications.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{CpuStorage, DType, Device, Module, Storage, Tensor};
use candle_gpt_input::embedding::TokenTable;
use candle_gpt_input::init::Init;
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{GptInputConfig, GptInputLayer, LmHead};
use candle_nn::VarBuilder;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::cases::{Case, Contender, Inputs, Shape, agree, contender};
use super::model::{Gpt2, KvCache};

pub fn contenders(case: Case, inputs: &Inputs) -> Result<Vec<Contender>> {
    if case == Case::Decode { decode(inputs) } else { head(inputs) }
}

/// Returns how many elements the weights have.
pub fn n_weights(case: Case, shape: &Shape) -> usize {
    let c = shape.n_embd;
    let of_blocks = if case == Case::Decode { 12 * c * c * gpt2_of_width(c, shape.vocab_size).n_layer } else { 0 };
    shape.vocab_size * c + of_blocks
}

/// Logits of `batch` rows: ours, Candle's product, and a sum over the table's bytes in the place of a copy.
fn head(inputs: &Inputs) -> Result<Vec<Contender>> {
    if let Some(blocks) = inputs.shape.blocks {
        return head_in_blocks(inputs, blocks);
    }
    let (wte, hidden) = (inputs.wte.clone(), inputs.hidden.clone());
    let head = LmHead::new(wte.clone())?;
    let mut all = vec![contender("ours", {
        let hidden = hidden.clone();
        move || Ok((None, vec![head.forward(&hidden)?]))
    })?];
    all.push(contender("candle", {
        let wte = wte.clone();
        move || {
            let (n, length, _) = hidden.dims3()?;
            Ok((None, vec![hidden.flatten_to(1)?.matmul(&wte.t()?)?.reshape((n, length, ()))?]))
        }
    })?);
    if wte.device().is_cpu() {
        all.push(reading(vec![wte])?);
    }
    Ok(all)
}

/// Logits of `batch` rows by a table in blocks: ours, Candle's product, which rounds the rows to 8 bits, and a sum over
/// as many bytes.
fn head_in_blocks(inputs: &Inputs, blocks: GgmlDType) -> Result<Vec<Contender>> {
    let (table, hidden) = (QTensor::quantize(&inputs.wte.to_device(&Device::Cpu)?, blocks)?, inputs.hidden.clone());
    let (dtype, device) = (inputs.shape.dtype, inputs.wte.device());
    let head = LmHead::new(TokenTable::from_qtensor(&table, dtype, device)?)?;
    let elements = table.dequantize(device)?;
    let dense = hidden.flatten_to(1)?.matmul(&elements.t()?)?;
    agree(&head.forward(&hidden)?.flatten_to(1)?, &dense, dtype).context("ours and the dequantized table")?;
    let mut all = vec![contender("ours", {
        let hidden = hidden.clone();
        move || Ok((None, vec![head.forward(&hidden)?]))
    })?];
    if device.is_cpu() {
        let product = QMatMul::from_qtensor(table)?;
        all.push(contender("candle", move || {
            black_box(product.forward(&hidden)?);
            Ok((None, Vec::new()))
        })?);
        all.push(reading_bytes(inputs.shape.n_bytes(elements.elem_count()))?);
    }
    Ok(all)
}

/// How many tokens come before the one that is decoded.
const N_CACHED: usize = 64;

/// One token for each of `batch` sequences through a GPT-2 of the shape's width, and the largest logit: ours, and a sum over
/// all of its weights in the place of a copy.
fn decode(inputs: &Inputs) -> Result<Vec<Contender>> {
    let Shape { batch, length, n_embd, vocab_size, dtype, blocks, .. } = inputs.shape;
    ensure!(length == 1, "`decode` takes one token at a time: use {batch}x1x{n_embd}");
    let (config, device) = (gpt2_of_width(n_embd, vocab_size), inputs.wte.device());
    let gpt2 = |vb: VarBuilder| Gpt2::new(GptInputLayer::load(vb.clone(), &config)?, vb);
    // Nothing is trained, so nothing is recorded.
    let weights = weights(&config, dtype, device)?;
    let read: Vec<Tensor> = weights.values().cloned().collect();
    let gpt2 = match blocks {
        None => gpt2(VarBuilder::from_tensors(weights, dtype, device))?,
        Some(blocks) => {
            let vb = VarBuilder::from_tensors(weights.clone(), dtype, device);
            let (input, _) = GptInputLayer::load(vb.clone(), &config)?.quantize(blocks)?;
            Gpt2::with_stored(input, vb, &|module, _| {
                let weight = weights[&format!("{module}.weight")].to_device(&Device::Cpu)?;
                Ok(Some(QTensor::quantize(&weight.t()?.contiguous()?, blocks)?))
            })?
        }
    };
    let n_tokens = batch * (N_CACHED + 1);
    let ids: Vec<u32> = (0..n_tokens).map(|i| (i * 7919 % vocab_size) as u32).collect();
    let ids = Tensor::from_vec(ids, (batch, N_CACHED + 1), device)?;
    let (before, last) = (ids.narrow(1, 0, N_CACHED)?, ids.narrow(1, N_CACHED, 1)?);
    let mut cache = KvCache::default();
    gpt2.hidden_states(&before, None, Some(&mut cache))?;
    let logits = {
        cache.truncate(N_CACHED);
        gpt2.lm_head().forward(&gpt2.hidden_states(&last, None, Some(&mut cache))?)?
    };
    let mut ours = contender("ours", move || {
        cache.truncate(N_CACHED);
        let hidden_states = gpt2.hidden_states(&last, None, Some(&mut cache))?;
        Ok((None, vec![gpt2.lm_head().argmax(&hidden_states)?]))
    })?;
    ours.results = Box::new(move || Ok(vec![logits.clone()]));
    let mut all = vec![ours];
    if device.is_cpu() {
        all.push(match blocks {
            Some(_) => reading_bytes(inputs.shape.n_bytes(n_weights(Case::Decode, &inputs.shape)))?,
            None => reading(read)?,
        });
    }
    Ok(all)
}

/// Draws the weights of a GPT-2 as the programs of the other contenders do. Biases are 0.
fn weights(config: &GptInputConfig, dtype: DType, device: &Device) -> Result<HashMap<String, Tensor>> {
    let (c, generator) = (config.n_embd, Generator::manual_seed(123));
    let draw = |rows, columns| Init::Gpt2 { std: 0.02 }.wte(rows, columns, &generator, dtype, device);
    let mut weights = HashMap::new();
    let mut add = |name: String, weight| weights.insert(name, weight);
    add("wte.weight".to_string(), draw(config.vocab_size, c)?);
    add("wpe.weight".to_string(), draw(config.n_positions, c)?);
    let (ones, zeros) = (Tensor::ones(c, dtype, device)?, Tensor::zeros(4 * c, dtype, device)?);
    for block in (0..config.n_layer).map(|i| format!("h.{i}")) {
        for (name, n_in, n_out) in
            [("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)]
        {
            add(format!("{block}.{name}.weight"), draw(n_in * c, n_out * c)?);
            add(format!("{block}.{name}.bias"), zeros.narrow(0, 0, n_out * c)?);
        }
    }
    let blocks = (0..config.n_layer).flat_map(|i| ["ln_1", "ln_2"].map(|norm| format!("h.{i}.{norm}")));
    for norm in blocks.chain(["ln_f".to_string()]) {
        add(format!("{norm}.weight"), ones.clone());
        add(format!("{norm}.bias"), zeros.narrow(0, 0, c)?);
    }
    Ok(weights)
}

/// Returns the published size of this width; other widths have one block for each head.
pub fn gpt2_of_width(n_embd: usize, vocab_size: usize) -> GptInputConfig {
    let n_head = if n_embd.is_multiple_of(64) { n_embd / 64 } else { 1 };
    let n_layer = match n_embd {
        1024 => 24,
        1280 => 36,
        1600 => 48,
        _ => n_head,
    };
    let mut config = GptInputConfig::new(vocab_size, 1024, n_embd).with_n_layer(n_layer);
    config.n_head = n_head;
    config
}

/// Reads every byte of the weights once, on all cores.
fn reading(weights: Vec<Tensor>) -> Result<Contender> {
    contender("copy", move || {
        for weight in &weights {
            let (storage, _) = weight.storage_and_layout();
            match &*storage {
                Storage::Cpu(CpuStorage::F32(values)) => {
                    sum(values, |part| part.iter().fold(0, |sum: u32, x| sum.wrapping_add(x.to_bits())))
                }
                Storage::Cpu(CpuStorage::F16(values)) => sum(values.reinterpret_cast(), sum_of_words),
                Storage::Cpu(CpuStorage::BF16(values)) => sum(values.reinterpret_cast(), sum_of_words),
                _ => anyhow::bail!("no such memory is read"),
            }
        }
        Ok((None, Vec::new()))
    })
}

/// Reads as many bytes once, on all cores, for weights in blocks.
fn reading_bytes(n_bytes: usize) -> Result<Contender> {
    let words = vec![1u32; n_bytes / size_of::<u32>()];
    contender("copy", move || {
        sum(&words, sum_of_u32);
        Ok((None, Vec::new()))
    })
}

fn sum_of_u32(part: &[u32]) -> u32 {
    part.iter().fold(0, |sum: u32, &x| sum.wrapping_add(x))
}

fn sum_of_words(part: &[u16]) -> u32 {
    u32::from(part.iter().fold(0, |sum: u16, &x| sum.wrapping_add(x)))
}

/// Sums parts of 256 kB and more.
fn sum<T: Sync>(values: &[T], of_part: fn(&[T]) -> u32) {
    let sums = values.par_chunks(1 << 17).map(of_part);
    black_box(sums.reduce(|| 0, u32::wrapping_add));
}

/// Measures the machine's two limits: multiplications and additions in f32, and reading memory, on all cores.
pub fn limits(quick: bool) -> Value {
    let (n_steps, n_words) = (if quick { 2_000_000 } else { 20_000_000 }, 1 << 25);
    let words = vec![1u32; n_words];
    let least = |run: &mut dyn FnMut() -> f64| (0..7).map(|_| run()).fold(f64::INFINITY, f64::min);
    let n_threads = rayon::current_num_threads();
    let fma = least(&mut || {
        let start = Instant::now();
        let sums = (0..n_threads).into_par_iter().with_max_len(1).map(|_| fused::all(n_steps / 7));
        black_box(sums.sum::<f32>());
        start.elapsed().as_secs_f64()
    });
    let read = least(&mut || {
        let start = Instant::now();
        sum(&words, sum_of_u32);
        start.elapsed().as_secs_f64()
    });
    let flops = (n_threads * (n_steps / 7) * fused::FLOPS) as f64;
    json!({ "fma_gflops": flops / fma / 1e9, "reading_gb_per_s": (4 * n_words) as f64 / read / 1e9 })
}

/// Says how near each product came to the two limits, by the least times.
pub fn summary(limits: &Value, rows: &[Value]) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let (gflops, gb) = (number(&limits["fma_gflops"]), number(&limits["reading_gb_per_s"]));
    let mut text = format!("{gflops:.0} GFLOP/s of f32, {gb:.1} GB/s read; by the least times:");
    for row in rows.iter().filter(|row| row["ours_min_ms"].is_number()) {
        let (ours, read) = (number(&row["ours_min_ms"]), number(&row["copy_min_ms"]));
        let n = number(&row["batch"]);
        let arithmetic = 2e-6 * n * number(&row["n_weights"]) / gflops;
        let (case, dtype) = (row["case"].as_str().unwrap_or(""), row["dtype"].as_str().unwrap_or(""));
        let _ = write!(
            text,
            "\n{case} {n} {dtype}: {ours:.2} ms; {:.2} of reading in {read:.2}, {:.2} of arithmetic in {arithmetic:.2}",
            read / ours,
            arithmetic / ours
        );
    }
    text
}

/// Fused multiplications and additions as fast as the CPU does them.
mod fused {
    use std::hint::black_box;

    /// Sums that do not wait for each other.
    const CHAINS: usize = 12;
    /// Operations in a step.
    pub const FLOPS: usize = 2 * 16 * CHAINS;

    /// Does `n` steps.
    pub fn all(n: usize) -> f32 {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F, as just checked.
            return unsafe { sixteen(n) };
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has AVX2 and FMA, as just checked.
            return unsafe { eight(n) };
        }
        plain(n, |x, y, sum| x * y + sum)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn sixteen(n: usize) -> f32 {
        use std::arch::x86_64::*;
        let (factor, mut sums) = (_mm512_set1_ps(black_box(0.5)), [_mm512_set1_ps(black_box(1.0)); CHAINS]);
        for _ in 0..n {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, factor);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn eight(n: usize) -> f32 {
        plain(n, f32::mul_add)
    }

    /// In a form that the compiler vectorises.
    #[inline(always)]
    fn plain(n: usize, fused: impl Fn(f32, f32, f32) -> f32) -> f32 {
        let (factor, mut sums) = (black_box(0.5), [black_box(1f32); 16 * CHAINS]);
        for _ in 0..n {
            for sum in &mut sums {
                *sum = fused(*sum, factor, factor);
            }
        }
        sums.iter().sum()
    }
}
