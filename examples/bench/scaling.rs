//! stub
use std::io::Write;
use std::path::Path;
pub fn run(_: &Path, _: bool, _: &candle_core::Device, _: &mut impl Write) -> anyhow::Result<()> {
    Ok(())
}
