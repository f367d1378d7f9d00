//! What was seen of each corpus, drawn as bars.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use crate::chart::shared::{Area, Line, legend, text_width, write};
use crate::feed::Seen;

/// The most corpora that are drawn; `coverage.json` has all.
const N_DRAWN: usize = 20;
/// The height of a bar with its space, and of the title and the legend.
const ROW: i32 = 60;
const HEAD: i32 = 72;
const NAMES_WIDTH: i32 = 440;
const EPOCHS_WIDTH: i32 = 260;

const SEEN: RGBColor = RGBColor(31, 119, 180);
const NOT_YET: RGBColor = RGBColor(174, 199, 232);
const NEVER: RGBColor = RGBColor(199, 199, 199);

/// Returns the height that the bars take on the canvas.
pub fn height(seen: &[Seen]) -> i32 {
    if seen.is_empty() { 0 } else { 2 * HEAD + ROW * seen.len().min(N_DRAWN) as i32 }
}

/// Draws a bar for each corpus: its tokens that were a target, that may still become one, and that never will.
pub fn draw(area: &Area, seen: &[Seen]) -> Result<()> {
    let (width, _) = area.dim_in_pixel();
    let title = match seen.len() > N_DRAWN {
        true => format!("tokens of the first {N_DRAWN} of {} corpora", seen.len()),
        false => "tokens of the corpora".to_string(),
    };
    write(area, &title, (32, HEAD / 2), HPos::Left, &BLACK)?;
    let kinds = [("trained on", SEEN), ("not yet", NOT_YET), ("never a target", NEVER)];
    let lines = kinds.map(|(name, color)| Line { name: name.to_string(), color, points: Vec::new() });
    let (left, right) = (NAMES_WIDTH, width as i32 - EPOCHS_WIDTH);
    for (row, Seen { corpus, coverage, .. }) in seen.iter().take(N_DRAWN).enumerate() {
        let middle = HEAD + ROW * row as i32 + ROW / 2;
        let name = Path::new(corpus).file_name().map_or(corpus.clone(), |name| name.to_string_lossy().into_owned());
        write(area, &shortened(area, &name)?, (32, middle), HPos::Left, &BLACK)?;
        let n_seen = coverage.n_tokens - coverage.n_never_targets;
        let ends = [n_seen, coverage.n_tokens - coverage.n_without_target, coverage.n_tokens];
        let mut from = left;
        for (end, (_, color)) in ends.into_iter().zip(kinds) {
            let to = left + (f64::from(right - left) * end as f64 / coverage.n_tokens as f64).round() as i32;
            if to > from {
                area.draw(&Rectangle::new([(from, middle - ROW / 3), (to, middle + ROW / 3)], color.filled()))?;
            }
            from = to;
        }
        let epochs = format!("{:.2} epochs", coverage.n_taken as f64 / coverage.n_windows as f64);
        write(area, &epochs, (right + 16, middle), HPos::Left, &BLACK)?;
    }
    legend(&area.clone().shrink((0, HEAD + ROW * seen.len().min(N_DRAWN) as i32), (width, HEAD as u32)), &lines)
}

/// Cuts a name that does not fit beside the bars.
fn shortened(area: &Area, name: &str) -> Result<String> {
    let mut kept = name.to_string();
    while text_width(area, &kept)? > NAMES_WIDTH - 64 && kept.pop().is_some() {}
    Ok(if kept == name { kept } else { kept + ".." })
}
