//! Time against tokens, vocabulary and threads, drawn.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use candle_gpt_input::GptInputLayer;
use candle_gpt_input::error::Shown;
use candle_gpt_input::optim::RowAdamW;
use candle_nn::VarMap;
use plotters::style::text_anchor::HPos;
use plotters::style::{BLACK, RGBColor};

use super::cases::{ADAMW, Inputs, Shape, copy_words};
use super::chart::{self, Axis, Line};
use super::rows::Ids;

/// What is drawn, one line each.
const LINES: [(&str, RGBColor); 4] = [
    ("forward", RGBColor(31, 119, 180)),
    ("gradient of the rows", RGBColor(44, 160, 44)),
    ("row step", RGBColor(214, 39, 40)),
    ("copy of the output", RGBColor(150, 150, 150)),
];

/// One picture: what varies, and the milliseconds of each line at each value.
struct Panel {
    title: &'static str,
    x: &'static str,
    points: Vec<(f64, [f64; LINES.len()])>,
}

pub fn run(path: &Path, quick: bool, device: &Device, machine: &str, out: &mut impl Write) -> Result<()> {
    // Before minutes of measuring.
    std::fs::File::create(path).with_context(|| Shown::path(path).to_string())?;
    let n_threads = rayon::current_num_threads();
    let (width, n_rows) = if quick { (8, 1000) } else { (256, 50257) };
    let shape = |batch, vocab_size| Shape {
        batch,
        length: 1024,
        n_embd: width,
        vocab_size,
        blocks: None,
        dtype: DType::F32,
        ids: Ids::Uniform,
    };
    let exponents = if quick { 10..=12 } else { 10..=20 };
    let sizes: &[usize] = if quick { &[1000, 2000] } else { &[50_000, 100_000, 200_000, 500_000, 1_000_000] };

    let mut tokens = Panel { title: "1024 positions, vocabulary 50257, 256 wide", x: "tokens", points: Vec::new() };
    for exponent in exponents {
        let n_tokens = 1usize << exponent;
        tokens.measure(n_tokens, &shape(n_tokens / 1024, n_rows), device, out)?;
    }
    let mut vocabulary = Panel { title: "8 x 1024 tokens, 256 wide", x: "rows of the table", points: Vec::new() };
    for &size in sizes {
        vocabulary.measure(size, &shape(8, size), device, out)?;
    }
    let mut threads = Panel { title: "8 x 1024 tokens, vocabulary 50257, 768 wide", x: "threads", points: Vec::new() };
    for n in 1..=n_threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build()?;
        let shape = Shape { n_embd: 3 * width, ..shape(8, n_rows) };
        pool.install(|| threads.measure(n, &shape, device, &mut std::io::sink()))?;
        writeln!(out, "{}", threads.line())?;
    }
    draw(path, machine, &[tokens, vocabulary, threads])?;
    Ok(writeln!(out, "wrote {}", Shown::path(path))?)
}

impl Panel {
    fn measure(&mut self, x: usize, shape: &Shape, device: &Device, out: &mut impl Write) -> Result<()> {
        let inputs = Inputs::new(shape, device)?;
        let layer = GptInputLayer::new(inputs.wte.clone(), inputs.wpe.clone())?.trainable(&VarMap::new(), "")?;
        let mut adam = RowAdamW::new(layer.vars(), ADAMW.lr)?;
        let (ids, grad) = (&inputs.ids, &inputs.grad);
        let buffer = grad.zeros_like()?;
        let frozen = GptInputLayer::new(inputs.wte.clone(), inputs.wpe.clone())?;
        let from = vec![1u32; grad.elem_count()];
        let mut to = Vec::with_capacity(from.len());
        let times = [
            median(|| Ok(frozen.forward_into(ids, 0, &buffer)?))?,
            median(|| {
                std::hint::black_box(layer.row_grads(ids, 0, grad)?);
                Ok(())
            })?,
            median(|| Ok(layer.backward_step(ids, 0, grad, &mut adam)?))?,
            median(|| {
                copy_words(&mut to, &from);
                std::hint::black_box(&to);
                Ok(())
            })?,
        ];
        self.points.push((x as f64, times));
        Ok(writeln!(out, "{}", self.line())?)
    }

    fn lines(&self) -> Vec<Line> {
        let line = |(line, (name, color)): (usize, &(&str, RGBColor))| {
            let points = self.points.iter().map(|(x, times)| (*x, times[line])).collect();
            Line { name: name.to_string(), color: *color, points }
        };
        LINES.iter().enumerate().map(line).collect()
    }

    /// The last point in words.
    fn line(&self) -> String {
        let Some((x, times)) = self.points.last() else { return String::new() };
        let times: Vec<String> = LINES.iter().zip(times).map(|((name, _), ms)| format!("{name} {ms:.4} ms")).collect();
        format!("{x:>9} {}: {}", self.x, times.join(", "))
    }
}

/// Milliseconds; the median of at least three times and a fifth of a second.
fn median(mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    f()?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || (start.elapsed().as_secs_f64() < 0.2 && times.len() < 1000) {
        let start = Instant::now();
        f()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn draw(path: &Path, machine: &str, panels: &[Panel]) -> Result<()> {
    chart::save(path, (1500, 530), |area| {
        let (top, rest) = area.split_vertically(70);
        let (middle, bottom) = rest.split_vertically(920);
        for (area, panel) in middle.split_evenly((1, panels.len())).iter().zip(panels) {
            let x = || panel.points.iter().map(|point| point.0);
            let x = match panel.x {
                "threads" => Axis::linear(panel.x, x(), 1.0),
                name => Axis::log(name, x()),
            };
            let y = Axis::log("time (ms)", panel.points.iter().flat_map(|point| point.1));
            chart::lines(area, panel.title, &x, &y, &panel.lines())?;
        }
        chart::legend(&top, &panels[0].lines())?;
        chart::write(&bottom, machine, (bottom.dim_in_pixel().0 as i32 / 2, 30), HPos::Center, &BLACK)
    })
}
