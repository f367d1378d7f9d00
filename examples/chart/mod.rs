//! What the examples that draw share: the font, lines with a legend, matrices as colours.

#![allow(dead_code)] // each example uses its own part

use std::ops::Range;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

#[path = "../font/mod.rs"]
mod font;

pub use font::register;

pub type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// One line of a chart.
pub struct Line {
    pub name: String,
    pub color: RGBColor,
    pub points: Vec<(f64, f64)>,
}

/// Lines with points over a title, axes and a legend; the axes may be logarithmic.
pub fn lines<X, Y>(
    area: &Area,
    title: &str,
    (x, x_desc): (X, &str),
    (y, y_desc): (Y, &str),
    (all, names_at): (&[Line], SeriesLabelPosition),
) -> Result<()>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 17))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(62)
        .build_cartesian_2d(x, y)?;
    let label = |&value: &f64| match value {
        1e6.. => format!("{}M", value / 1e6),
        1e3.. => format!("{}k", value / 1e3),
        _ => format!("{value}"),
    };
    chart
        .configure_mesh()
        .x_labels(4)
        .x_desc(x_desc)
        .y_desc(y_desc)
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .label_style(("sans-serif", 13))
        .light_line_style(WHITE)
        .draw()?;
    for Line { name, color, points } in all {
        let color = *color;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        if points.len() < 40 {
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, color.filled())))?;
        }
    }
    chart
        .configure_series_labels()
        .position(names_at)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

/// From a little below the least to a little above the greatest.
pub fn ends(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    values.clone().fold(f64::MAX, f64::min) * 0.8..values.fold(0.0, f64::max) * 1.25
}

/// A square matrix as colours, row 0 on top: blue below zero, white at zero, red above.
pub fn matrix(area: &Area, title: &str, values: &[f32]) -> Result<()> {
    let n = values.len().isqrt() as i32;
    let largest = values.iter().fold(0f32, |largest, x| largest.max(x.abs())).max(f32::MIN_POSITIVE);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 15))
        .margin(10)
        .x_label_area_size(20)
        .y_label_area_size(28)
        .build_cartesian_2d(0..n, n..0)?;
    chart.configure_mesh().disable_mesh().x_labels(4).y_labels(4).label_style(("sans-serif", 11)).draw()?;
    let shade = |part: f32| (255.0 * (1.0 - part.abs())) as u8;
    chart.draw_series(values.iter().enumerate().map(|(at, &value)| {
        let (i, j, part) = (at as i32 / n, at as i32 % n, value / largest);
        let color =
            if part > 0.0 { RGBColor(255, shade(part), shade(part)) } else { RGBColor(shade(part), shade(part), 255) };
        Rectangle::new([(j, i), (j + 1, i + 1)], color.filled())
    }))?;
    Ok(())
}
