//! The font of the pictures: bundled, so that no font library of the system is needed.

use anyhow::{Result, anyhow};
use plotters::style::{FontStyle, register_font};

/// Registers it with plotters as `sans-serif`.
pub fn register() -> Result<()> {
    let font = include_bytes!("DejaVuSans-subset.ttf");
    register_font("sans-serif", FontStyle::Normal, font).map_err(|_| anyhow!("the bundled font cannot be read"))
}
