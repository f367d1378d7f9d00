//! The pictures: before training on the left, after it on the right.

use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::rows::{Rows, dot};
use crate::{font, map};

const COLORS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(23, 140, 160),
];
const WIDTH: u32 = 1300;

type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

fn two_panels(path: &Path, height: u32, draw: impl Fn(&Area, bool) -> Result<()>) -> Result<()> {
    font::register()?;
    let area = BitMapBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    for (panel, is_after) in area.split_evenly((1, 2)).iter().zip([false, true]) {
        draw(panel, is_after)?;
    }
    Ok(area.present()?)
}

/// The cosine of any two positions' vectors.
pub fn positions(path: &Path, before: &Rows, after: &Rows) -> Result<()> {
    two_panels(path, 640, |area, is_after| {
        let (rows, when) = if is_after { (after, "after training") } else { (before, "before training") };
        let n = rows.len();
        let mut chart = ChartBuilder::on(area)
            .caption(format!("wpe {when}: cosine of positions i and j (blue -1, white 0, red 1)"), ("sans-serif", 18))
            .margin(14)
            .x_label_area_size(40)
            .y_label_area_size(50)
            .build_cartesian_2d(0..n, n..0)?;
        chart.configure_mesh().disable_mesh().x_desc("j").y_desc("i").label_style(("sans-serif", 13)).draw()?;
        // One rectangle a pixel at most.
        let step = n.div_ceil(512);
        let places: Vec<usize> = (0..n).step_by(step).collect();
        let units = places.iter().map(|&i| rows.unit(i)).collect::<Result<Vec<_>>>()?;
        let cells = places.iter().zip(&units).flat_map(|(&i, left)| {
            places.iter().zip(&units).map(move |(&j, right)| {
                Rectangle::new([(j, i), ((j + step).min(n), (i + step).min(n))], shade(dot(left, right)).filled())
            })
        });
        chart.draw_series(cells)?;
        Ok(())
    })
}

/// Blue for -1, white for 0, red for 1.
fn shade(cosine: f32) -> RGBColor {
    let fade = |full: u8, share: f32| (255.0 - (255.0 - f32::from(full)) * share.clamp(0.0, 1.0)) as u8;
    let RGBColor(r, g, b) = if cosine < 0.0 { COLORS[0] } else { COLORS[1] };
    let share = cosine.abs();
    RGBColor(fade(r, share), fade(g, share), fade(b, share))
}

/// Chosen tokens on a flat map.
pub fn tokens(path: &Path, before: &Rows, after: &Rows, groups: &[Vec<(String, usize)>]) -> Result<()> {
    two_panels(path, 640, |area, is_after| {
        let (rows, when) = if is_after { (after, "after training") } else { (before, "before training") };
        let chosen: Vec<(&str, usize, RGBColor)> = groups
            .iter()
            .zip(COLORS.iter().cycle())
            .flat_map(|(group, &color)| group.iter().map(move |(word, id)| (word.as_str(), *id, color)))
            .collect();
        let units = chosen.iter().map(|&(_, id, _)| rows.unit(id)).collect::<Result<Vec<_>>>()?;
        let points = map::flat(&units);
        let mut chart = ChartBuilder::on(area)
            .caption(format!("wte {when}: two principal components"), ("sans-serif", 18))
            .margin(14)
            .build_cartesian_2d(ends(points.iter().map(|p| p.0)), ends(points.iter().map(|p| p.1)))?;
        chart.configure_mesh().disable_mesh().disable_axes().draw()?;
        for (&(word, _, color), &point) in chosen.iter().zip(&points) {
            let name = Text::new(word.to_string(), (6, -8), ("sans-serif", 15).into_font().color(&color));
            chart.draw_series([EmptyElement::at(point) + Circle::new((0, 0), 3, color.filled()) + name])?;
        }
        Ok(())
    })
}

fn ends(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let (low, high) = (values.clone().fold(f64::MAX, f64::min), values.fold(f64::MIN, f64::max));
    let margin = 0.08 * (high - low).max(1e-6);
    low - margin..high + 1.5 * margin // words stand to the right of their points
}
