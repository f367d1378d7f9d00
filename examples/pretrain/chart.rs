//! The loss over the steps and what was seen of corpora, drawn.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use crate::feed::Seen;
use crate::history::Record;
use crate::{coverage, mean};

#[path = "../chart/mod.rs"]
pub mod shared;

const BATCH: RGBColor = RGBColor(174, 199, 232);
const MEAN: RGBColor = RGBColor(31, 119, 180);
const VALIDATION: RGBColor = RGBColor(214, 39, 40);

/// Draws the loss of each batch, its running mean, and the validation loss, where they are finite; below them what was
/// seen of corpora.
pub fn draw(path: &Path, records: &[Record], seen: &[Seen]) -> Result<()> {
    let finite = |points: Vec<(f64, f64)>| points.into_iter().filter(|point| point.1.is_finite()).collect::<Vec<_>>();
    let batch = finite(records.iter().map(|record| (record.step as f64, f64::from(record.loss))).collect());
    let at_step = |record: &Record| Some((record.step as f64, f64::from(record.validation_loss?)));
    let validation = finite(records.iter().filter_map(at_step).collect());
    let points = || batch.iter().chain(&validation).copied();
    let end = points().fold(1.0, |end: f64, (step, _)| end.max(step));
    let (low, high) = points().fold((f64::MAX, f64::MIN), |(low, high), (_, loss)| (low.min(loss), high.max(loss)));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    // A range that is less than the rounding of its ends has no ticks.
    let margin = 0.05 * (high - low).max(0.1).max(1e-6 * high.abs().max(low.abs()));

    let mean = mean::running(&batch, (batch.len() / 50).max(1));
    let lines =
        [("batch", batch, BATCH, 2), ("running mean", mean, MEAN, 4), ("validation", validation, VALIDATION, 4)];

    // Twice the size of the file.
    shared::save(path, (900, 520 + coverage::height(seen) as u32 / 2), |area| {
        let (curves, bars) = area.split_vertically(1040);
        if !seen.is_empty() {
            coverage::draw(&bars, seen)?;
        }
        let mut chart = ChartBuilder::on(&curves)
            .margin(32)
            .x_label_area_size(92)
            .y_label_area_size(120)
            .build_cartesian_2d(0.0..end, low - margin..high + margin)?;
        chart
            .configure_mesh()
            .x_desc("step")
            .y_desc("loss (nats per token)")
            .x_label_formatter(&|step| format!("{step:.0}"))
            .y_label_formatter(&|loss| if loss.abs() < 1e5 { format!("{loss:.1}") } else { format!("{loss:.0e}") })
            .label_style(("sans-serif", 30))
            .axis_style(BLACK.stroke_width(2))
            .bold_line_style(BLACK.mix(0.15).stroke_width(2))
            .light_line_style(WHITE)
            .draw()?;
        for (name, points, color, width) in lines {
            let style = color.stroke_width(width);
            chart
                .draw_series(LineSeries::new(points, style))?
                .label(name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 3), (x + 40, y + 3)], color.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .legend_area_size(60)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.2))
            .label_font(("sans-serif", 30))
            .draw()?;
        Ok(())
    })
}
