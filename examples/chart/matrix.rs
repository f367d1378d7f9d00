//! Matrices as colours.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{Area, Axis, TITLE, X_ROOM, Y_ROOM, axes, evenly, write};

const LOW: RGBColor = RGBColor(40, 90, 190);
/// Not white: a zero is not a cell without a value.
const ZERO: RGBColor = RGBColor(224, 224, 224);
const HIGH: RGBColor = RGBColor(190, 25, 35);
/// Of each sign: steps that an eye tells apart, and few enough for a small file.
const N_SHADES: f32 = 10.0;

/// Draws a square matrix of `n` rows with values within -1..=1, row 0 on top. A cell without a value stays blank.
pub fn matrix(
    area: &Area,
    title: &str,
    (x_name, y_name): (&str, &str),
    n: usize,
    value: impl Fn(usize, usize) -> Option<f32>,
) -> Result<()> {
    let area = area.margin(24, 12, 12, 24).titled(title, ("sans-serif", TITLE))?.margin(12, 0, 0, 0);
    let (width, height) = area.dim_in_pixel();
    let room = (width as i32 - Y_ROOM).min(height as i32 - X_ROOM).max(2) as usize;
    // A cell is a whole number of the file's pixels, or else stands for several rows.
    let step = n.div_ceil(room / 2);
    let n_cells = n.div_ceil(step);
    let size = (room / n_cells / 2 * 2) as i32;
    let side = size * n_cells as i32;
    let left = (width as i32 - Y_ROOM - side) / 2;
    let area = area.shrink((left, 0), (Y_ROOM + side, X_ROOM + side));

    let (first, last) = (-0.5, (n_cells * step) as f64 - 0.5);
    let axis = |name: &str, ends| Axis {
        name: name.to_string(),
        ends,
        ticks: evenly((0.0, n as f64 - 1.0), 1.0),
        is_log: false,
    };
    let chart = axes(&area, &axis(x_name, (first, last)), &axis(y_name, (last, first)), false)?;
    let cells = chart.plotting_area().strip_coord_spec();
    for i in 0..n_cells {
        for j in 0..n_cells {
            let Some(value) = value(i * step, j * step) else { continue };
            let (x, y) = (j as i32 * size, i as i32 * size);
            cells.draw(&Rectangle::new([(x, y), (x + size, y + size)], shade(value).filled()))?;
        }
    }
    Ok(())
}

/// Draws what the colours of [`matrix`] mean at the top of `area`, with the names of -1 and 1.
pub fn color_bar(area: &Area, low: &str, high: &str) -> Result<()> {
    const HALF: i32 = 200;
    let middle = area.dim_in_pixel().0 as i32 / 2;
    for x in -HALF..HALF {
        let color = shade(x as f32 / HALF as f32);
        area.draw(&Rectangle::new([(middle + x, 10), (middle + x + 1, 38)], color.filled()))?;
    }
    write(area, low, (middle - HALF - 16, 24), HPos::Right, &BLACK)?;
    write(area, high, (middle + HALF + 16, 24), HPos::Left, &BLACK)
}

/// Returns blue for -1, grey for 0, red for 1.
fn shade(value: f32) -> RGBColor {
    let end = if value < 0.0 { LOW } else { HIGH };
    let share = (value.abs().min(1.0) * N_SHADES).round() / N_SHADES;
    let mix = |zero: u8, end: u8| (f32::from(zero) + (f32::from(end) - f32::from(zero)) * share) as u8;
    RGBColor(mix(ZERO.0, end.0), mix(ZERO.1, end.1), mix(ZERO.2, end.2))
}
