//! Pictures as small files.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use super::{Area, font};
use candle_gpt_input::checkpoint::write_file;

/// Draws a picture and writes it as a PNG of this size.
///
/// The canvas has twice the width and height: the mean of four of its pixels gives smooth edges and even spacing.
pub fn save(path: &Path, (width, height): (u32, u32), draw: impl FnOnce(&Area) -> Result<()>) -> Result<()> {
    font::register()?;
    let mut canvas = vec![255; 4 * 3 * (width * height) as usize];
    let area = BitMapBackend::with_buffer(&mut canvas, (2 * width, 2 * height)).into_drawing_area();
    draw(&area)?;
    area.present()?;
    drop(area);
    let pixels = halved(&canvas, width as usize);
    // A palette makes the file small; it has room for 256 colours.
    let found = [256, 128, 64, 32, 16, 8, 6].into_iter().find_map(|n_levels| indexed(&pixels, n_levels));
    let (palette, indices) = found.context("6 * 6 * 6 colours are more than 256")?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_palette(palette);
    encoder.set_compression(png::Compression::Best);
    encoder.set_filter(png::FilterType::NoFilter);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&indices)?;
    writer.finish()?;
    Ok(write_file(path, |out| out.write_all(&bytes))?)
}

/// Returns the means of two times two pixels each.
fn halved(canvas: &[u8], width: usize) -> Vec<[u8; 3]> {
    let row = 3 * 2 * width;
    let mean = |at: usize| {
        let sum: u32 = [at, at + 3, at + row, at + row + 3].iter().map(|&at| u32::from(canvas[at])).sum();
        ((sum + 2) / 4) as u8
    };
    let corners = (0..canvas.len()).step_by(2 * row).flat_map(|start| (start..start + row).step_by(6));
    corners.map(|at| [mean(at), mean(at + 1), mean(at + 2)]).collect()
}

/// Returns a palette and the index of each pixel; `None` if so many levels a channel give more than 256 colours.
fn indexed(pixels: &[[u8; 3]], n_levels: u32) -> Option<(Vec<u8>, Vec<u8>)> {
    let top = n_levels - 1;
    let level = |value: u8| (((u32::from(value) * top + 127) / 255) * 255 / top) as u8;
    let (mut known, mut palette) = (HashMap::new(), Vec::new());
    let index = |&pixel: &[u8; 3]| {
        let color = pixel.map(level);
        let next = known.len();
        let index = *known.entry(color).or_insert(next);
        if index == next {
            palette.extend(color);
        }
        u8::try_from(index).ok()
    };
    let indices = pixels.iter().map(index).collect::<Option<Vec<u8>>>()?;
    Some((palette, indices))
}
