//! Shows what a model's tables know: nearest tokens, analogies, pictures of both tables before and after training,
//! defects.
//!
//! cargo run --release --example explore
//! cargo run --release --example explore -- --near water --analogy father:mother::son --weights path/to/gpt2
//!
//! For each word of `--near`, prints the tokens with the nearest vectors, before training and after. Prints the tokens
//! that complete each analogy, and a report of defective rows. Writes `positions.png`, the cosine of any two positions'
//! vectors, and `tokens.png`, a flat map of chosen tokens.

#[path = "../chart/mod.rs"]
mod chart;
#[path = "../cli/mod.rs"]
mod cli;
#[path = "../corpora/mod.rs"]
mod corpora;
mod health;
mod html;
#[path = "../input/mod.rs"]
#[allow(dead_code)] // this example makes no batches
mod input;
mod labels;
mod map;
#[path = "../input/own_files.rs"]
mod own_files;
mod pictures;
mod rows;
mod words;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use candle_gpt_input::checkpoint::{Checkpoint, write_file};
use candle_gpt_input::error::Shown;
use candle_gpt_input::init::Init;
use candle_gpt_input::input_layer::OpenOptions;
use candle_gpt_input::position::PositionTable;
use candle_gpt_input::rng::Generator;
use candle_gpt_input::{Error, GptInputLayer};
use clap::Parser;
use rows::Rows;
use words::Words;

/// Shows what a GPT-2's token and position tables have learned.
#[derive(Parser)]
struct Args {
    /// The trained model: any GPT-2 checkpoint
    #[arg(long, value_name = "PATH", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../weights/tiny-gpt2"))]
    weights: PathBuf,
    /// A byte-level BPE tokenizer.json, or a folder of tokenizer files [default: the model's own, else GPT-2's]
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// The model before training [default: fresh tables of the same shape, N(0, 0.02²) from --seed, like those of
    /// `pretrain`]
    #[arg(long, value_name = "PATH")]
    before: Option<PathBuf>,
    /// The seed of the fresh tables
    #[arg(long, value_name = "S", default_value_t = 123, conflicts_with = "before", value_parser = cli::seed)]
    seed: u64,
    /// Words whose nearest tokens are shown
    #[arg(long, value_name = "WORD", num_args = 1.., default_values = ["king", "father", "seven", "Egypt", "said"])]
    near: Vec<String>,
    /// Analogies to complete: A is to B as C is to ... (`A:B::C`)
    #[arg(long, value_name = "A:B::C", num_args = 1.., default_values = ["father:mother::son", "king:kings::city"])]
    analogy: Vec<String>,
    /// How many tokens each list shows
    #[arg(short, value_name = "N", default_value_t = 6, value_parser = cli::count::<usize>)]
    n: usize,
    /// Words on the map: groups of words separated by commas, one colour for each group
    #[arg(long, value_name = "A,B,..", num_args = 1.., default_values = map::WORDS)]
    map: Vec<String>,
    /// The text whose tokens count as seen by the model, for the report
    #[arg(long, value_name = "F", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/genesis.txt"))]
    text_file: PathBuf,
    /// Write a page to send: `examples/web` as one file, with the rows of the text's tokens and of those above inside
    #[arg(long, value_name = "F.html")]
    html: Option<PathBuf>,
    /// The folder of the pictures
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/explore"))]
    out: PathBuf,
}

fn main() -> ExitCode {
    cli::exit(explore(cli::args(), &mut cli::Output::default()))
}

/// Both tables of a model.
struct Tables {
    wte: Rows,
    wpe: Rows,
}

impl Tables {
    fn of(layer: &GptInputLayer) -> Result<Self> {
        let rows = |table: Option<&candle_nn::Embedding>| Rows::new(table.context("no table in memory")?.embeddings());
        Ok(Self {
            wte: rows(layer.wte().as_embedding())?,
            wpe: rows(layer.wpe().and_then(PositionTable::as_embedding))?,
        })
    }
}

fn explore(args: Args, out: &mut impl Write) -> Result<()> {
    let (checkpoint, layer) = load(&args.weights)?;
    let fresh = match &args.before {
        Some(path) => load(path)?.1,
        None => {
            let init = Init::Gpt2 { std: 0.02 };
            GptInputLayer::init(layer.config(), init, &Generator::manual_seed(args.seed), DType::F32, &Device::Cpu)?
        }
    };
    let (before, after) = (Tables::of(&fresh)?, Tables::of(&layer)?);
    let own = || input::own(&args.weights, &checkpoint);
    let words = Words { tokenizer: input::tokenizer(args.tokenizer.as_deref(), own, &checkpoint)? };
    let mut shown = BTreeSet::new();

    for word in &args.near {
        let id = words.id(word)?;
        writeln!(out, "nearest to {}", words.show(id))?;
        for (when, tables) in [("before", &before), ("after", &after)] {
            let nearest = tables.wte.nearest(&tables.wte.unit(id)?, &[id], args.n)?;
            writeln!(out, "  {when:<7}{}", words.list(&nearest))?;
            shown.extend(nearest.into_iter().map(|(_, id)| id).chain([id]));
        }
    }
    for analogy in &args.analogy {
        let [a, b, c] = words.analogy(analogy)?;
        writeln!(out, "{} is to {} as {} is to", words.show(a), words.show(b), words.show(c))?;
        for (when, tables) in [("before", &before), ("after", &after)] {
            let (from, to, start) = (tables.wte.unit(a)?, tables.wte.unit(b)?, tables.wte.unit(c)?);
            let wanted: Vec<f32> = from.iter().zip(&to).zip(&start).map(|((a, b), c)| b - a + c).collect();
            let nearest = tables.wte.nearest(&wanted, &[a, b, c], args.n)?;
            writeln!(out, "  {when:<7}{}", words.list(&nearest))?;
            shown.extend(nearest.into_iter().map(|(_, id)| id).chain([a, b, c]));
        }
    }

    let text = cli::read_text(&args.text_file)?;
    let seen = words.tokenizer.encode(&text)?;
    health::report(out, &after.wte, &after.wpe, &seen, &words)?;

    std::fs::create_dir_all(&args.out).with_context(|| Shown::path(&args.out).to_string())?;
    let path = args.out.join("positions.png");
    pictures::positions(&path, &before.wpe, &after.wpe)?;
    writeln!(out, "wrote {}", Shown::path(&path))?;
    let groups = args.map.iter().map(|group| words.group(group)).collect::<Result<Vec<_>>>()?;
    let path = args.out.join("tokens.png");
    pictures::tokens(&path, &before.wte, &after.wte, &groups)?;
    writeln!(out, "wrote {}", Shown::path(&path))?;
    if let Some(path) = &args.html {
        shown.extend(groups.into_iter().flatten().map(|(_, id)| id));
        let ids = shown.into_iter().filter_map(|id| u32::try_from(id).ok()).chain(seen).collect();
        let name = args.weights.file_name().unwrap_or(args.weights.as_os_str()).to_string_lossy();
        let tokenizer = match &args.tokenizer {
            Some(path) => corpora::files_of(path)?,
            None => own_files::own(&checkpoint, &args.weights)?.map(|(_, files)| files).unwrap_or_default(),
        };
        let page = html::page(&name, [&fresh, &layer], &ids, tokenizer)?;
        write_file(path, |out| out.write_all(page.as_bytes()))?;
        writeln!(out, "wrote {}", Shown::path(path))?;
    }
    Ok(())
}

fn load(path: &Path) -> Result<(Checkpoint, GptInputLayer)> {
    let load = || {
        let checkpoint = Checkpoint::open(path)?;
        let (layer, _) = GptInputLayer::open(&checkpoint, &OpenOptions::new(DType::F32, &Device::Cpu))?;
        Ok::<_, Error>((checkpoint, layer))
    };
    load().with_context(|| Shown::path(path).to_string())
}
