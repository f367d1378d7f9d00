//! Times the layer beside Candle's own operations, a plain copy of the same bytes and, with `--torch`, PyTorch.
//!
//! Every contender computes from the same seeded tensors, and the results are compared before anything is timed. Then
//! the contenders take turns; a time is the median of the rounds.

mod cases;
mod checks;
mod large;
mod loader;
mod memory;
mod peer;
mod positions;
mod products;
mod report;
mod rows;
mod scaling;
mod tables;

#[path = "../chart/mod.rs"]
mod chart;
#[path = "../cli/mod.rs"]
mod cli;
#[allow(dead_code)] // it can be trained, too
#[path = "../gpt2/model.rs"]
mod model;

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_gpt_input::DeviceSpec;
use clap::Parser;
use serde_json::{Value, json};

use cases::{Case, Contender, Inputs, Shape};
use peer::Peer;

/// Times forward, backward and training steps of the input layer beside Candle, PyTorch and a plain copy
///
/// forward        ids to hidden states, fresh memory
/// forward_into   the same into a buffer
/// backward       from the gradient of the hidden states to dense gradients of both tables
/// step_dense     forward, backward, AdamW over both tables
/// step_rows      forward, backward, Adam over the rows of the batch (PyTorch: the dense step, and SparseAdam)
/// step_tied      forward, the tied head's loss on given hidden states, all gradients, AdamW
/// rotate         rotary positions of queries and keys, heads of 64 (from here on PyTorch has only head and decode)
/// alibi, t5      the bias [1, H, T, T] of scores; at length 1 that of a query behind 1023 keys, [1, H, 1, 1024]
/// mapped         forward with tables left in their file (warm); `resident` is forward with them in memory
/// head           logits of BATCH rows of given hidden states; `copy` reads the table once
/// decode         one token for each of BATCH sequences through GPT-2; `copy` reads all of its weights once
///                (with weights in blocks for shapes that end in :q8_0 or :q4_k, beside Candle's `QMatMul` for head)
/// quantized      forward with a token table of Q8_0; Candle's time is that of `QTensor::embedding` alone
///
/// On a GPU `ours` has its ids there and checks them in every call, which waits; `host ids` has them on the host;
/// `deferred` checks them later. The device keeps freed memory for all contenders.
///
/// All times are in milliseconds. `copy` copies as many bytes as the case must move, on all cores. `rows` copies the rows
/// of the token table that `forward` looks up into a new tensor, on as many threads: the faster of two variants.
#[derive(Parser)]
#[command(verbatim_doc_comment)]
struct Args {
    /// Only these cases
    #[arg(long, value_delimiter = ',', value_name = "CASE,..")]
    cases: Vec<Case>,
    /// Only these shapes: BATCHxLENGTHxN_EMBD, followed by :f16 or :bf16 for half precision; for
    /// head and decode also by :q8_0 or :q4_k, GGUF's blocks
    #[arg(long, value_delimiter = ',', value_name = "BxTxC,..")]
    shapes: Vec<Shape>,
    /// Rows of the token table
    #[arg(long, default_value_t = 50257, value_name = "V", value_parser = cli::count::<usize>)]
    vocab_size: usize,
    /// How often each token id occurs in the batch, targets included
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    ids: rows::Ids,
    /// auto, cpu, cuda[:N] or metal[:N]
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// Time PyTorch as well, run by this Python (CPU only)
    #[arg(long, value_name = "PYTHON")]
    torch: Option<PathBuf>,
    /// Time llama.cpp as well, in `decode`, run by this Python with llama-cpp-python, gguf and torch (CPU only)
    #[arg(long, value_name = "PYTHON")]
    llama_cpp: Option<PathBuf>,
    /// Use small shapes and few rounds: checks only that everything runs and agrees
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Compare everything with the CPU as well; write device, checks and times into this Markdown file, for sending
    /// back
    #[arg(long, value_name = "F.md", conflicts_with = "json")]
    report: Option<PathBuf>,
    /// Draw time against tokens, vocabulary and threads into this PNG instead
    #[arg(long, value_name = "F.png", conflicts_with_all = ["cases", "shapes", "torch", "llama_cpp", "json", "report"])]
    scaling: Option<PathBuf>,
    /// Instead, open a checkpoint of GPT-2 XL's size with the first of the shapes (1x1024x1600 unless given) and embed
    /// one batch: time and memory, each contender in a process of its own. The file (6.4 GB, most of it a hole) is made
    /// in FOLDER and stays
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["cases", "json", "scaling"])]
    large: Option<PathBuf>,
    /// Run one contender of `--large`, which then names the file; for the bench's own processes
    #[arg(long, hide = true, value_name = "ours|candle")]
    large_of: Option<String>,
    /// Instead, time shuffled batches of the first of the shapes (8x1024x768 unless given) out of 10^9 tokens: in memory
    /// (which takes 6 GB meanwhile), and in files. The files (2 GB) are made in FOLDER and stay
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["cases", "json", "scaling", "large"])]
    loader: Option<PathBuf>,
    /// Print the peak memory of one contender instead; for the bench's own processes
    #[arg(long, hide = true, value_name = "ours|candle")]
    peak_of: Option<String>,
}

fn main() -> ExitCode {
    cli::exit(run(cli::args(), &mut std::io::stdout().lock()))
}

fn run(mut args: Args, out: &mut impl Write) -> Result<()> {
    // Contenders then wait for no memory on a GPU: what is timed is the work.
    let (device, keeps_nothing) = match args.device.resolve_keeping(u64::MAX) {
        Ok((device, report)) => (device, report.keeps_nothing),
        Err(error) => (args.device.resolve()?, Some(error.to_string())),
    };
    if let Some(why) = keeps_nothing {
        cli::note(format_args!("bench: {why}: the times include waits for memory"));
    }
    if let Some(path) = &args.scaling {
        return scaling::run(path, args.quick, &device, &machine(&device, &Peers::default()), out);
    }
    let first_shape = |default: &str| -> Result<Shape> {
        let shape = args.shapes.first().cloned().map_or_else(|| default.parse().map_err(anyhow::Error::msg), Ok)?;
        Ok(Shape { vocab_size: args.vocab_size, ids: args.ids, ..shape })
    };
    if let Some(path) = &args.loader {
        return loader::run(path, &first_shape("8x1024x768")?, args.quick, out);
    }
    if let Some(path) = &args.large {
        let shape = first_shape("1x1024x1600")?;
        ensure!(shape.blocks.is_none(), "--large {shape}: its tables are not in blocks");
        return match &args.large_of {
            Some(contender) => Ok(writeln!(out, "{}", large::one(contender, path, &shape)?)?),
            None => large::run(path, &shape, args.torch.as_deref(), out),
        };
    }
    if args.quick {
        args.vocab_size = args.vocab_size.min(1000);
    }
    let chosen = chosen(&args);
    if let Some(contender) = &args.peak_of {
        return Ok(writeln!(out, "{}", memory::peak_of(contender, &chosen[0].1, chosen[0].0, &device)?)?);
    }
    let mut peers = Peers {
        torch: args.torch.as_deref().map(Peer::start_torch).transpose()?,
        llama: args.llama_cpp.as_deref().map(Peer::start_llama).transpose()?,
    };
    let machine = machine(&device, &peers);
    let columns = columns(&device);
    if !args.json {
        writeln!(out, "{machine}\n\n{}", header(&columns))?;
    }
    let (mut rows, mut timed) = (Vec::new(), Vec::new());
    for (case, shape) in &chosen {
        let row =
            time(*case, shape, &device, &mut peers, args.quick).with_context(|| format!("{} {shape}", case.name()));
        if args.report.is_some() {
            // A report states what fails, and goes on: its sender cannot fix it.
            if let Ok(row) = &row {
                writeln!(out, "{}", line(row, &columns))?;
            }
            timed.push(report::Timed { case: case.name(), shape: shape.to_string(), row });
            continue;
        }
        let row = row?;
        if !args.json {
            writeln!(out, "{}", line(&row, &columns))?;
            out.flush()?;
        }
        rows.push(row);
    }
    if let Some(path) = &args.report {
        writeln!(out, "{}", report::write(path, &machine, &device, &timed, args.quick)?)?;
    }
    let limits = || products::limits(args.quick);
    if args.json {
        let all = json!({ "machine": machine, "limits": limits(), "cases": rows });
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
    } else if chosen.iter().any(|(case, _)| case.is_of_products()) {
        writeln!(out, "\n{}", products::summary(&limits(), &rows))?;
    }
    Ok(())
}

/// Returns the product of cases and shapes; slow combinations only if they were asked for.
fn chosen(args: &Args) -> Vec<(Case, Shape)> {
    let given = !args.shapes.is_empty();
    let cases = if args.cases.is_empty() { Case::ALL.to_vec() } else { args.cases.clone() };
    let shapes = |case: Case| match given {
        true => args.shapes.clone(),
        false => case.shapes(args.quick).iter().filter_map(|shape| shape.parse().ok()).collect(),
    };
    let all = cases.iter().flat_map(|&case| shapes(case).into_iter().map(move |shape| (case, shape)));
    let with_vocab = all.map(|(case, shape)| (case, Shape { vocab_size: args.vocab_size, ids: args.ids, ..shape }));
    with_vocab.filter(|(case, shape)| given || case.is_short(shape)).collect()
}

/// How often contenders take turns, and for how long.
struct Rounds {
    n_rounds: usize,
    /// A turn repeats the case for this long.
    seconds: f64,
}

/// The other programs that take turns.
#[derive(Default)]
struct Peers {
    torch: Option<Peer>,
    llama: Option<Peer>,
}

fn time(case: Case, shape: &Shape, device: &Device, peers: &mut Peers, quick: bool) -> Result<Value> {
    let inputs = Inputs::new(shape, device)?;
    let n_bytes = cases::bytes_moved(case, &inputs)?;
    let is_of_torch = !case.is_positional() && !case.is_of_tables() && shape.blocks.is_none();
    let mut torch = peers.torch.as_mut().filter(|_| is_of_torch);
    let is_of_llama = case == Case::Decode && shape.batch == 1 && shape.blocks != Some(GgmlDType::Q4K);
    let mut llama = peers.llama.as_mut().filter(|_| is_of_llama);
    let mut contenders = cases::contenders(case, &inputs)?;
    compare(&contenders, shape)?;
    if let Some(torch) = &mut torch {
        let theirs = torch.start_case(case, shape)?;
        cases::compare_with_torch(case, &contenders[0], &inputs, &theirs)?;
    }
    if let Some(llama) = &mut llama {
        let theirs = llama.start_case(case, shape)?;
        cases::compare_with_llama(&contenders[0], &inputs, &theirs)?;
    }
    let mut names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
    if torch.is_some() {
        names.extend(peer::variants(case));
    }
    if llama.is_some() {
        names.push("llama");
    }
    // Turns are short, so that other load on the machine disturbs all contenders alike.
    let rounds = match case.is_of_products() {
        _ if quick => Rounds { n_rounds: 1, seconds: 0.001 },
        // Their least times count, too: many turns, few runs in each.
        true => Rounds { n_rounds: 101, seconds: 0.01 },
        false => Rounds { n_rounds: 21, seconds: 0.08 },
    };
    let mut times = vec![Vec::new(); names.len()];
    let mut spent = vec![0.0; names.len()];
    let mut n_turns = vec![1; names.len()];
    // Round 0 warms up, and determines how often a contender runs in a turn.
    for round in 0..=rounds.n_rounds {
        for (index, name) in names.iter().enumerate() {
            let n = n_turns[index];
            if round > 3 && spent[index] > 2.0 {
                continue; // three rounds, or two seconds, are enough for slow cases
            }
            let peer = if *name == "llama" { &mut llama } else { &mut torch };
            let seconds = match (contenders.get_mut(index), peer) {
                (Some(contender), _) => turn(contender, n, device)?,
                (None, Some(peer)) => peer.time(name, n)?,
                (None, None) => continue,
            };
            spent[index] += seconds;
            match round {
                0 => n_turns[index] = ((rounds.seconds / seconds).ceil() as usize).clamp(1, 1_000_000),
                _ => times[index].push(1e3 * seconds / n as f64),
            }
        }
    }
    let sorted = |name: &str| {
        let mut times = times[names.iter().position(|n| *n == name)?].clone();
        times.sort_by(f64::total_cmp);
        Some(times)
    };
    let median = |name: &str| sorted(name).and_then(|times| times.get(times.len() / 2).copied());
    let least = |name: &str| sorted(name).and_then(|times| times.first().copied());
    drop(contenders);
    let threads = [median("torch_1"), median("torch_n")];
    let rows = ["rows_1", "rows_4"].into_iter().filter_map(median).reduce(f64::min);
    let mut row = json!({
        "case": case.name(), "batch": shape.batch, "length": shape.length, "n_embd": shape.n_embd,
        "vocab_size": shape.vocab_size, "dtype": shape.stored(), "ids": shape.ids.to_string(),
        "n_bytes": n_bytes, "ours_ms": median("ours"), "ours_host_ids_ms": median("ours_host_ids"),
        "ours_deferred_ms": median("ours_deferred"), "candle_ms": median("candle"), "copy_ms": median("copy"),
        "resident_ms": median("resident"),
        "rows_ms": rows,
        "torch_ms": threads.into_iter().flatten().reduce(f64::min), "torch_sparse_ms": median("torch_sparse"),
    });
    if case.is_of_products() {
        let torch = ["torch_1", "torch_n"].into_iter().filter_map(least).reduce(f64::min);
        row["n_weights"] = json!(products::n_weights(case, shape));
        row["ours_min_ms"] = json!(least("ours"));
        row["copy_min_ms"] = json!(least("copy"));
        row["torch_min_ms"] = json!(torch);
        row["llama_ms"] = json!(median("llama"));
        row["llama_min_ms"] = json!(least("llama"));
    }
    if case == Case::StepTied && device.is_cpu() && !quick {
        let peak = |contender| memory::ask(contender, case, shape);
        row["ours_peak_mb"] = json!(peak("ours")?);
        row["candle_peak_mb"] = json!(peak("candle")?);
        row["torch_peak_mb"] = json!(torch.map(|torch| torch.peak(case, shape)).transpose()?);
    }
    Ok(row)
}

/// Returns the seconds of `n` runs. Freed memory is given back first, so that no contender inherits warm pages, as
/// PyTorch in its own process cannot. Short cases run once more before, untimed.
fn turn(contender: &mut Contender, n: usize, device: &Device) -> Result<f64> {
    memory::give_back();
    if n > 1 {
        (contender.run)()?;
        device.synchronize()?;
    }
    let mut seconds = 0.0;
    let start = Instant::now();
    for _ in 0..n {
        if let Some(own) = (contender.run)()? {
            seconds += own;
        }
    }
    device.synchronize()?;
    Ok(if seconds > 0.0 { seconds } else { start.elapsed().as_secs_f64() })
}

/// Checks the first contender's results against those of the others that have any.
fn compare(contenders: &[Contender], shape: &Shape) -> Result<()> {
    let ours = (contenders[0].results)()?;
    for other in &contenders[1..] {
        for (index, (ours, theirs)) in ours.iter().zip((other.results)()?).enumerate() {
            cases::agree(ours, &theirs, shape.dtype)
                .with_context(|| format!("result {index}: ours and {}", other.name))?;
        }
    }
    Ok(())
}

type Column = (&'static str, &'static str);

const COLUMNS: [Column; 8] = [
    ("ours", "ours_ms"),
    ("candle", "candle_ms"),
    ("copy", "copy_ms"),
    ("rows", "rows_ms"),
    ("resident", "resident_ms"),
    ("torch", "torch_ms"),
    ("torch sparse", "torch_sparse_ms"),
    ("llama.cpp", "llama_ms"),
];
/// Those that only a device has.
const ON_A_DEVICE: [Column; 2] = [("host ids", "ours_host_ids_ms"), ("deferred", "ours_deferred_ms")];

fn columns(device: &Device) -> Vec<Column> {
    let on_a_device: &[Column] = if device.is_cpu() { &[] } else { &ON_A_DEVICE };
    [&COLUMNS, on_a_device].concat()
}

fn header(columns: &[Column]) -> String {
    let mut text = format!("{:<13}{:>20}", "case", "shape");
    for (name, _) in columns {
        let _ = write!(text, "{name:>13}");
    }
    text + "    ours is"
}

fn line(row: &Value, columns: &[Column]) -> String {
    let shape = format!("{}x{}x{} {}", row["batch"], row["length"], row["n_embd"], row["dtype"].as_str().unwrap_or(""));
    let mut text = format!("{:<13}{shape:>20}", row["case"].as_str().unwrap_or(""));
    let ours = row["ours_ms"].as_f64();
    let mut ratios = Vec::new();
    for &(name, key) in columns {
        let Some(ms) = row[key].as_f64() else {
            let _ = write!(text, "{:>13}", "-");
            continue;
        };
        let digits = if ms < 1.0 { 5 } else { 2 };
        let _ = write!(text, "{ms:>13.digits$}");
        if let Some(ours) = ours.filter(|_| name != "ours") {
            let digits = if ms / ours < 10.0 { 2 } else { 0 };
            ratios.push(format!("{:.digits$} x {name}", ms / ours));
        }
    }
    let _ = write!(text, "    {}", ratios.join(", "));
    if let (Some(ours), Some(candle)) = (row["ours_peak_mb"].as_f64(), row["candle_peak_mb"].as_f64()) {
        let _ = write!(text, "; peak {ours:.0} MB, candle {candle:.0} MB");
        if let Some(torch) = row["torch_peak_mb"].as_f64() {
            let _ = write!(text, ", torch {torch:.0} MB");
        }
    }
    text
}

/// Describes processor, threads and versions.
fn machine(device: &Device, peers: &Peers) -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(": ")?.1.to_string())
    };
    let model = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_string());
    let flags = field("flags").unwrap_or_default();
    let simd = ["avx512f", "avx2", "fma"].into_iter().filter(|name| flags.split(' ').any(|flag| flag == *name));
    let mut text = format!(
        "{model}, {} threads, {}; candle 0.11.1",
        std::thread::available_parallelism().map_or(1, usize::from),
        simd.collect::<Vec<_>>().join(" ")
    );
    if !device.is_cpu() {
        let _ = write!(text, "; {:?}", device.location());
    }
    for (name, peer) in [("torch", &peers.torch), ("llama-cpp-python", &peers.llama)] {
        let Some(peer) = peer else { continue };
        let _ = write!(text, "; {name} {}", peer.version);
    }
    text
}
