//! Draws what several examples draw: axes, lines with a legend, matrices with a colour bar.
//!
//! Lengths are those of a canvas with twice the width and height of the file ([`save`]).

#![allow(dead_code, unused_imports)] // each example uses its own part

mod file;
#[path = "../font/mod.rs"]
mod font;
mod matrix;

use std::ops::Range;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub use file::save;
pub use matrix::{color_bar, matrix};

pub type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;
pub type Chart<'a, 'b> = ChartContext<'a, BitMapBackend<'b>, Cartesian2d<Axis, Axis>>;

pub const TITLE: i32 = 32;
pub const TEXT: i32 = 27;
/// The room of the names and the ticks of an axis.
const Y_ROOM: i32 = 120;
const X_ROOM: i32 = 92;

/// What an axis measures, from where to where, and where its ticks stand.
#[derive(Clone)]
pub struct Axis {
    name: String,
    /// As drawn: of a logarithmic axis the exponents of ten.
    ends: (f64, f64),
    ticks: Vec<f64>,
    is_log: bool,
}

impl Axis {
    /// Returns an axis on which these values have room, with ticks no closer than `least_step`: 1 for counts.
    pub fn linear(name: &str, values: impl IntoIterator<Item = f64>, least_step: f64) -> Self {
        let (low, high) = ends(values);
        let margin = if high > low { 0.04 * (high - low) } else { 0.5 };
        let ends = (low - margin, high + margin);
        Self { name: name.to_string(), ends, ticks: evenly(ends, least_step), is_log: false }
    }

    /// Returns an axis of powers of ten, with 2 and 5 between them where there are few.
    pub fn log(name: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = ends(values);
        let ends = (low.log10() - 0.1, high.log10() + 0.1);
        let between: &[f64] = if ends.1 - ends.0 < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let powers = (ends.0.floor() as i32..=ends.1.ceil() as i32).map(|exponent| 10f64.powi(exponent));
        let ticks = powers.flat_map(|power| between.iter().map(move |of| of * power));
        let ticks = ticks.filter(|tick| (ends.0..=ends.1).contains(&tick.log10())).collect();
        Self { name: name.to_string(), ends, ticks, is_log: true }
    }

    /// Puts the ticks at these values.
    pub fn with_ticks(self, ticks: impl IntoIterator<Item = f64>) -> Self {
        Self { ticks: ticks.into_iter().collect(), ..self }
    }

    fn at(&self, value: f64) -> f64 {
        if self.is_log { value.log10() } else { value }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (self.at(*value) - self.ends.0) / (self.ends.1 - self.ends.0);
        from + (share * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        let value = |place: f64| if self.is_log { 10f64.powf(place) } else { place };
        value(self.ends.0)..value(self.ends.1)
    }
}

/// Returns the text of a tick.
fn label(value: &f64) -> String {
    let rounded = |value: f64| (value * 1e6).round() / 1e6;
    match rounded(*value) {
        value @ 1e6.. => format!("{}M", rounded(value / 1e6)),
        value @ 1e3.. => format!("{}k", rounded(value / 1e3)),
        value => format!("{value}"),
    }
}

/// The least and the greatest.
fn ends(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    values.into_iter().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
}

/// About eight multiples of 1, 2 or 5 times a power of ten.
fn evenly((low, high): (f64, f64), least_step: f64) -> Vec<f64> {
    let rough = ((high - low) / 8.0).max(least_step);
    let power = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|of| of * power);
    let step = steps.into_iter().find(|&step| step >= 0.999 * rough).unwrap_or(10.0 * power);
    ((low / step).ceil() as i64..=(high / step).floor() as i64).map(|i| i as f64 * step).collect()
}

/// Draws two axes with their names on the left and at the bottom of `area`.
pub fn axes<'a, 'b>(area: &'a Area<'b>, x: &Axis, y: &Axis, has_mesh: bool) -> Result<Chart<'a, 'b>> {
    let mut chart = ChartBuilder::on(area)
        .x_label_area_size(if x.ticks.is_empty() { X_ROOM / 2 } else { X_ROOM })
        .y_label_area_size(if y.ticks.is_empty() { X_ROOM / 2 } else { Y_ROOM })
        .build_cartesian_2d(x.clone(), y.clone())?;
    let mut mesh = chart.configure_mesh();
    if !has_mesh {
        mesh.disable_mesh();
    }
    mesh.x_desc(&x.name)
        .y_desc(&y.name)
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .y_label_offset(TEXT / 5) // plotters draws letters above the middle of their line
        .label_style(("sans-serif", TEXT))
        .axis_desc_style(("sans-serif", TEXT))
        .axis_style(BLACK.stroke_width(2))
        .bold_line_style(BLACK.mix(0.15).stroke_width(2))
        .set_all_tick_mark_size(8)
        .draw()?;
    Ok(chart)
}

/// One line of a chart.
pub struct Line {
    pub name: String,
    pub color: RGBColor,
    pub points: Vec<(f64, f64)>,
}

/// Draws lines under a title; [`legend`] names them, once for several charts.
pub fn lines(area: &Area, title: &str, x: &Axis, y: &Axis, all: &[Line]) -> Result<()> {
    let area = area.margin(16, 16, 24, 40).titled(title, ("sans-serif", TITLE))?.margin(16, 0, 0, 0);
    let mut chart = axes(&area, x, y, true)?;
    for Line { color, points, .. } in all {
        chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(4)))?;
        if points.len() < 40 {
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 7, color.filled())))?;
        }
    }
    Ok(())
}

/// Draws the colours and the names of lines in a row, in the middle of `area`.
pub fn legend(area: &Area, lines: &[Line]) -> Result<()> {
    const SAMPLE: i32 = 44;
    let (width, height) = area.dim_in_pixel();
    let widths =
        lines.iter().map(|line| Ok(SAMPLE + 60 + text_width(area, &line.name)?)).collect::<Result<Vec<_>>>()?;
    let (mut x, y) = ((width as i32 - widths.iter().sum::<i32>()) / 2, height as i32 / 2);
    for (line, width) in lines.iter().zip(widths) {
        area.draw(&Rectangle::new([(x, y - 3), (x + SAMPLE, y + 3)], line.color.filled()))?;
        write(area, &line.name, (x + SAMPLE + 12, y), HPos::Left, &BLACK)?;
        x += width;
    }
    Ok(())
}

/// Draws text whose capital letters have their middle at the height of `y`.
pub fn write(area: &Area, text: &str, (x, y): (i32, i32), h_pos: HPos, color: &RGBColor) -> Result<()> {
    let style = ("sans-serif", TEXT).into_text_style(area).color(color).pos(Pos::new(h_pos, VPos::Top));
    Ok(area.draw_text(text, &style, (x, y - TEXT / 5))?)
}

pub fn text_width(area: &Area, text: &str) -> Result<i32> {
    Ok(area.estimate_text_size(text, &("sans-serif", TEXT).into_text_style(area))?.0 as i32)
}
