//! The pictures: before training on the left, after it on the right.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use crate::chart::{self, Area, Axis, TEXT, TITLE};
use crate::labels::{self, Frame};
use crate::map;
use crate::rows::{Rows, dot};

const COLORS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(225, 105, 0),
    RGBColor(23, 140, 160),
];
/// The dot of a token.
const RADIUS: i32 = 7;

/// Draws a panel each for the tables before and after training, and `foot` under both.
fn two_panels(
    path: &Path,
    [before, after]: [&Rows; 2],
    panel: impl Fn(&Area, &Rows, &str) -> Result<()>,
    foot: impl FnOnce(&Area) -> Result<()>,
) -> Result<()> {
    chart::save(path, (1300, 650), |area| {
        let (panels, below) = area.split_vertically(1230);
        for (area, (rows, when)) in panels.split_evenly((1, 2)).iter().zip([(before, "before"), (after, "after")]) {
            panel(area, rows, when)?;
        }
        foot(&below)
    })
}

/// Draws the cosine of any two positions' vectors.
pub fn positions(path: &Path, before: &Rows, after: &Rows) -> Result<()> {
    let panel = |area: &Area, rows: &Rows, when: &str| {
        let n = rows.len();
        let units = (0..n).map(|i| rows.unit(i)).collect::<Result<Vec<_>>>()?;
        let cosine = |i: usize, j: usize| Some(dot(&units[i], &units[j]));
        let title = format!("wpe {when} training: how alike the vectors of two positions are");
        chart::matrix(area, &title, ("position j", "position i"), n, cosine)
    };
    two_panels(path, [before, after], panel, |area| chart::color_bar(area, "cosine -1, opposite", "cosine 1, alike"))
}

/// Draws chosen tokens on a flat map, a colour for each group.
pub fn tokens(path: &Path, before: &Rows, after: &Rows, groups: &[Vec<(String, usize)>]) -> Result<()> {
    let chosen: Vec<(&str, usize, RGBColor)> = groups
        .iter()
        .zip(COLORS.iter().cycle())
        .flat_map(|(group, &color)| group.iter().map(move |(word, id)| (word.as_str(), *id, color)))
        .collect();
    let panel = |area: &Area, rows: &Rows, when: &str| {
        let units = chosen.iter().map(|&(_, id, _)| rows.unit(id)).collect::<Result<Vec<_>>>()?;
        let map::Flat { points, shares } = map::flat(&units);
        let axis = |n: usize, values: Vec<f64>| {
            let name = format!("principal component {n}, {:.0} % of the variance", 100.0 * shares[n - 1]);
            Axis::linear(&name, values, 0.0).with_ticks([])
        };
        let (x, y) = (axis(1, points.iter().map(|p| p.0).collect()), axis(2, points.iter().map(|p| p.1).collect()));
        let area = area.margin(24, 24, 24, 24);
        let below = area.titled(&format!("wte {when} training: chosen tokens"), ("sans-serif", TITLE))?;
        let area = below.margin(44, 0, 0, 0);
        let chart = chart::axes(&area, &x, &y, false)?;

        let plot = chart.plotting_area().strip_coord_spec();
        let (width, height) = plot.dim_in_pixel();
        let corner = plot.get_base_pixel();
        let pixel = |point: &(f64, f64)| {
            let (x, y) = chart.backend_coord(point);
            (x - corner.0, y - corner.1)
        };
        let dots: Vec<(i32, i32)> = points.iter().map(pixel).collect();
        let size = |&(word, ..): &(&str, usize, RGBColor)| Ok((chart::text_width(&plot, word)? + 2, TEXT * 9 / 10));
        let sizes = chosen.iter().map(size).collect::<Result<Vec<_>>>()?;
        let within = Frame { left: 0, top: 0, right: width as i32, bottom: height as i32 };
        let frames = labels::place(&dots, RADIUS, &sizes, &within);
        for ((&(word, _, color), &dot), frame) in chosen.iter().zip(&dots).zip(&frames) {
            plot.draw(&Circle::new(dot, RADIUS, color.filled()))?;
            if let Some(frame) = frame {
                chart::write(&plot, word, (frame.left, frame.top + TEXT * 2 / 5), HPos::Left, &color)?;
            }
        }
        let n_left_out = frames.iter().filter(|frame| frame.is_none()).count();
        let note = format!("{n_left_out} of {} tokens are not labelled, for want of room", chosen.len());
        chart::write(&below, &note, (below.dim_in_pixel().0 as i32 / 2, 24), HPos::Center, &RGBColor(110, 110, 110))
    };
    two_panels(path, [before, after], panel, |area| {
        let note = "Tokens of one colour are one group of --map. Each panel has axes of its own.";
        chart::write(area, note, (area.dim_in_pixel().0 as i32 / 2, 24), HPos::Center, &BLACK)
    })
}
