//! Opens a checkpoint much larger than its tables and embeds 1024 tokens, each contender in a process of its own.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use candle_gpt_input::GptInputLayer;
use candle_gpt_input::checkpoint::Checkpoint;
use candle_gpt_input::error::Shown;
use candle_gpt_input::input_layer::{OpenOptions, TableStorage};
use candle_nn::{Embedding, Module, VarBuilder};
use serde_json::json;

use super::cases::Shape;
use super::memory;

/// The size of GPT-2 XL's `model.safetensors`.
const FILE_BYTES: u64 = 6_430_000_000;
const N_ROUNDS: usize = 5;
/// Reads and keeps the two tables as transformers does, and looks rows up.
const TORCH: &str = "
import sys, time, torch, safetensors
def own():
    return int(next(line for line in open('/proc/self/status') if line.startswith('RssAnon')).split()[1])
before, start = own(), time.perf_counter()
with safetensors.safe_open(sys.argv[1], 'pt') as file:
    wte, wpe = (file.get_tensor(name) for name in ('wte.weight', 'wpe.weight'))
wte, wpe = torch.nn.Embedding.from_pretrained(wte.clone()), torch.nn.Embedding.from_pretrained(wpe.clone())
ids = torch.arange(int(sys.argv[2])) * 7919 % wte.num_embeddings
with torch.no_grad():
    hidden = wte(ids) + wpe(torch.arange(len(ids)))
print(1e3 * (time.perf_counter() - start), own() - before)
";

/// Writes the file into `folder` unless it exists, and prints a line for each contender.
pub fn run(folder: &Path, shape: &Shape, python: Option<&Path>, out: &mut impl Write) -> Result<()> {
    let path = folder.join(format!("large_{}_{}_{}.safetensors", shape.vocab_size, shape.n_embd, shape.dtype.as_str()));
    if !path.exists() {
        generate(&path, shape)?;
    }
    writeln!(out, "{}: {:.2} GB", Shown::path(&path), std::fs::metadata(&path)?.len() as f64 / 1e9)?;
    writeln!(out, "{:<12}{:>14}{:>18}", "", "open + embed", "memory of its own")?;
    for name in ["ours", "candle", "torch"] {
        let ask = || match (name, python) {
            ("torch", Some(python)) => {
                answer(Command::new(python).args(["-c", TORCH]).arg(&path).arg(shape.n_tokens().to_string()))
            }
            _ => answer(
                Command::new(std::env::current_exe()?)
                    .args(["--large-of", name, "--vocab-size", &shape.vocab_size.to_string()])
                    .args(["--shapes", &shape.to_string(), "--large"])
                    .arg(&path),
            ),
        };
        if name == "torch" && python.is_none() {
            continue;
        }
        // The first run warms the page cache.
        let mut rounds = (0..=N_ROUNDS).map(|_| ask()).collect::<Result<Vec<_>>>()?.split_off(1);
        rounds.sort_by(|left, right| left.0.total_cmp(&right.0));
        let (ms, kb) = rounds[N_ROUNDS / 2];
        writeln!(out, "{name:<12}{ms:>11.1} ms{:>15.1} MB", kb / 1e3)?;
    }
    Ok(())
}

/// Writes both tables; the rest of such a file is a hole.
fn generate(path: &Path, shape: &Shape) -> Result<()> {
    let (dtype, size) = match shape.dtype {
        DType::F32 => ("F32", 4),
        DType::BF16 => ("BF16", 2),
        other => bail!("cannot write a file of {other:?}: use f32 or bf16"),
    };
    let (v, t, c) = (shape.vocab_size, shape.length, shape.n_embd);
    let wte = (v * c * size) as u64;
    let tables = wte + (t * c * size) as u64;
    let end = tables.max(FILE_BYTES);
    let entry = |dtype: &str, shape: &[u64], start: u64, end: u64| json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
    let header = json!({
        "wte.weight": entry(dtype, &[v as u64, c as u64], 0, wte),
        "wpe.weight": entry(dtype, &[t as u64, c as u64], wte, tables),
        "rest": entry("U8", &[end - tables], tables, end),
    });
    let mut header = header.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for i in 0..((v + t) * c) as u32 {
        // Values between -0.02 and 0.02 that use every bit.
        let number = (i.wrapping_mul(0x9E37_79B9) >> 8) as f32 / (1 << 24) as f32 * 0.04 - 0.02;
        let bytes = number.to_le_bytes();
        file.write_all(if size == 4 { &bytes } else { &bytes[2..] })?;
    }
    let file = file.into_inner()?;
    file.set_len(8 + header.len() as u64 + end)?;
    Ok(file.sync_all()?)
}

/// Runs one contender in this process. Returns the milliseconds from the closed file to the hidden states, and the kB
/// of anonymous memory that this added.
pub fn one(contender: &str, path: &Path, shape: &Shape) -> Result<String> {
    let ids: Vec<u32> = (0..shape.n_tokens()).map(|i| (i * 7919 % shape.vocab_size) as u32).collect();
    let ids = Tensor::from_vec(ids, (shape.batch, shape.length), &Device::Cpu)?;
    let (before, start) = (own_kb()?, Instant::now());
    let (_tables, hidden) = match contender {
        "ours" => {
            let (layer, _) = GptInputLayer::open(
                &Checkpoint::open(path)?,
                &OpenOptions::new(shape.dtype, &Device::Cpu).with_storage(TableStorage::Mapped),
            )?;
            (vec![], layer.forward(&ids)?)
        }
        "candle" => {
            // SAFETY: nobody changes the file meanwhile.
            let vb = unsafe { VarBuilder::from_mmaped_safetensors(&[path], shape.dtype, &Device::Cpu)? };
            let wte = vb.get((shape.vocab_size, shape.n_embd), "wte.weight")?;
            let wpe = vb.get((shape.length, shape.n_embd), "wpe.weight")?;
            let positions = Tensor::arange(0, shape.length as u32, &Device::Cpu)?;
            let tokens = Embedding::new(wte.clone(), shape.n_embd).forward(&ids)?;
            let positions = Embedding::new(wpe.clone(), shape.n_embd).forward(&positions)?;
            (vec![wte, wpe], tokens.broadcast_add(&positions)?)
        }
        other => bail!("no contender `{other}`"),
    };
    let (ms, after) = (1e3 * start.elapsed().as_secs_f64(), own_kb()?);
    std::hint::black_box(&hidden);
    Ok(format!("{ms} {}", after - before))
}

fn own_kb() -> Result<f64> {
    Ok(1e3 * memory::status("RssAnon")?)
}

fn answer(command: &mut Command) -> Result<(f64, f64)> {
    let done = command.output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout)?;
    let mut numbers = text.split_whitespace().map(str::parse);
    let mut next = || numbers.next().context("no answer");
    Ok((next()??, next()??))
}
